"""OME-Zarr 0.4 and 0.5 (and plain Zarr arrays): the first and largest level of an image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import zarr

from napari_stbn._blocks import blocks
from napari_stbn._scenes import SceneError, add_to_guess, scene_number, scenes_note
from napari_stbn._units import Scale, micrometres, seconds
from napari_stbn.stack import Stack, cast_like

if TYPE_CHECKING:
    from pathlib import Path

_VERSION: Final = "0.5"
_CHUNK_SIDE: Final = 512  # px
_SMALLEST_LEVEL: Final = 512  # px; frames larger than this get levels of lower resolution
_CHUNK_BYTES: Final = 2**20
_KINDS: Final = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}
_MARKERS: Final = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


def is_zarr(path: Path) -> bool:
    """Whether the folder holds a Zarr group or array."""
    return any((path / marker).is_file() for marker in _MARKERS)


def read_ome_zarr(path: Path, axes: str | None, name: str, scene: int | None = None) -> Stack:
    """Open an OME-Zarr folder as a lazy stack; see `napari_stbn.io.read`."""
    if not is_zarr(path):
        raise ValueError(
            f"{path} holds no Zarr metadata (zarr.json or .zgroup); is it complete? Copy it again."
        )
    try:
        node = zarr.open(path, mode="r")
        if isinstance(node, zarr.Array):
            scene_number(path, scene, 1)
            hint = _plain_axes(node)
            return Stack(ZarrArray(node, path), axes, name=name, hint=hint)
        images = list(_images(node))
        if not images:
            raise ValueError("it holds no image (no multiscales metadata)")
        number = scene_number(path, scene, len(images))
        group, image = images[number]
        level = image["datasets"][0]
        array = group[level["path"]]
        letters, scale = _scale(image, level)
    except (OSError, SceneError):
        raise
    except Exception as error:  # JSON, key and codec errors of zarr
        said = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"{path} cannot be read as OME-Zarr: {said or type(error).__name__}. Is it complete? "
            "Copy or export it again."
        ) from error
    if not isinstance(array, zarr.Array):
        raise ValueError(f"{path} names no array as its first level; export it again.")
    stack = Stack(
        ZarrArray(array, path),
        axes,
        pixel_size=scale.pixel_size,
        unit=scale.unit,
        frame_interval=scale.frame_interval,
        name=name,
        hint=letters,
    )
    return add_to_guess(stack, scenes_note(scene, len(images), number, "first"))


def _images(node: zarr.Group) -> Iterator[tuple[zarr.Group, Mapping[str, Any]]]:
    """Groups that hold an image, with their multiscale metadata.

    The group itself; those of a collection (bioformats2raw), which have numbers for names; the
    fields of a plate, well by well.
    """
    attributes = _attributes(node)
    if attributes.get("multiscales"):
        yield node, attributes["multiscales"][0]
        return
    if "plate" in attributes:
        places = [well["path"] for well in attributes["plate"]["wells"]]
    elif "well" in attributes:
        places = [field["path"] for field in attributes["well"]["images"]]
    else:
        places = sorted((name for name in node.group_keys() if name.isdigit()), key=int)
    for place in places:
        group = node[place]
        if isinstance(group, zarr.Group):
            yield from _images(group)


def _attributes(group: zarr.Group) -> Mapping[str, Any]:
    """What OME-Zarr says of a group, wherever its version keeps that."""
    attributes: Any = group.attrs.asdict()
    return attributes.get("ome", attributes) or {}


def _plain_axes(array: zarr.Array[Any]) -> str | None:
    """First letters of the names that a plain Zarr array gives its dimensions."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if not isinstance(names, Sequence):
        return None
    return "".join(str(name or "?")[0].upper() for name in names)


def _scale(image: Mapping[str, Any], level: Mapping[str, Any]) -> tuple[str | None, Scale]:
    """Axes letters and physical scale of one resolution level."""
    axes = image.get("axes")
    if not axes:
        return None, Scale()  # before version 0.3
    names = [axis if isinstance(axis, str) else axis["name"] for axis in axes]
    letters = "".join(str(name)[0].upper() for name in names)
    scale = np.ones(len(names))
    for owner in (level, image):
        for transformation in owner.get("coordinateTransformations", ()):
            if transformation.get("type") == "scale" and "scale" in transformation:
                scale *= np.asarray(transformation["scale"], np.float64)
    sizes: dict[str, float] = {}
    interval, space_unit = None, "µm"
    for letter, axis, size in zip(letters, axes, scale, strict=True):
        unit = "" if isinstance(axis, str) else axis.get("unit") or ""
        if (not unit and size == 1) or not 0 < size < math.inf:
            continue  # written so where the size is not known
        if letter == "T":
            interval = float(size) * (seconds(unit) or 1.0)
        elif letter in "ZYX":
            factor = micrometres(unit or "µm")
            space_unit = "µm" if factor else unit
            sizes[letter] = float(size) * (factor or 1.0)
    return letters, Scale(sizes, space_unit, interval)


class ZarrArray:
    """An array of a Zarr folder, read where it is indexed.

    Zarr takes a missing chunk for one of zeros. So that a folder which is gone is not denoised to
    nothing, each access looks whether it is still there.
    """

    def __init__(self, array: zarr.Array[Any], root: Path) -> None:
        self.path = root
        self._array = array
        self._markers = [path for marker in _MARKERS if (path := root / marker).is_file()]
        self.shape, self.chunks = tuple(array.shape), tuple(array.chunks)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, index: Any, /) -> npt.NDArray[Any]:
        """Read a part, as numpy would index it with numbers and slices.

        Raises
        ------
        FileNotFoundError
            The folder is gone.
        ValueError
            A chunk cannot be decoded.
        """
        try:
            part = np.asarray(self._array[index])
        except (OSError, IndexError, MemoryError):
            raise
        except Exception as error:  # codecs raise a type each
            said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise ValueError(
                f"{self.path} cannot be decoded ({said}); it may be damaged or cut off: copy it "
                "again from its source."
            ) from error
        if not any(marker.is_file() for marker in self._markers):
            raise FileNotFoundError(
                f"{self.path} is no longer there; was it moved, or its drive taken away? Bring it "
                "back and start again."
            )
        return part

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Read everything."""
        return self[...].astype(dtype or self.dtype, copy=False)


def write_ome_zarr(path: Path, stack: Stack, *, name: str) -> None:
    """Write a stack as OME-Zarr 0.5, with a pyramid of resolutions where frames are large."""
    image = create_ome_zarr(path, stack, name=name)
    for where, block in blocks(stack, image.own, whole=2, multiples={"T": image.frames}):
        image.write(where, block)


@dataclass(frozen=True)
class ZarrImage:
    """An OME-Zarr image that is being written.

    Attributes
    ----------
    levels : list of zarr.Array
        From full resolution down; each half as high and wide as the one before.
    own : str
        Axes, with the stack's own letters.
    frames : int
        Of a chunk.
    outline : Stack
        In that order of axes.
    """

    levels: list[zarr.Array[Any]]
    own: str
    frames: int
    outline: Stack

    def write(self, where: tuple[int | slice, ...], block: npt.NDArray[Any]) -> None:
        """Write whole frames (..., Y, X) to all levels."""
        for level in self.levels:
            height, width = block.shape[-2:]
            level[(*where[:-2], slice(0, height), slice(0, width))] = block
            if level is not self.levels[-1]:
                block = _halved(block)

    def put(self, channel: int, plane: int, start: int, frames: npt.NDArray[Any]) -> None:
        """Write frames (T', Y, X) of one movie."""
        where = self.outline.index(channel, plane, T=slice(start, start + len(frames)))
        self.write(where, frames)


def create_ome_zarr(path: Path, stack: Stack, *, name: str) -> ZarrImage:
    """Make an OME-Zarr image with the shape and scale of a stack, to be filled."""
    if {"C", "S"} <= set(stack.axes):
        raise ValueError(
            f"OME-Zarr has one channel axis and the stack has C and S (axes {stack.axes}); join "
            "them first."
        )
    own = "".join(a for a in "TCSZYX" if a in stack.axes)
    axes = own.replace("S", "C")  # colour samples are channels there
    shape = tuple(stack.size(axis) for axis in own)
    sides = {axis: min(stack.size(axis), _CHUNK_SIDE) for axis in "YX"}
    frames = _CHUNK_BYTES // (sides["Y"] * sides["X"] * stack.dtype.itemsize)
    sides["T"] = min(stack.n_frames, max(1, frames))
    group = zarr.create_group(path, zarr_format=3)
    shapes = [shape]
    while stack.dtype.kind in "iuf" and max(shapes[-1][-2:]) > _SMALLEST_LEVEL:
        height, width = (side // 2 for side in shapes[-1][-2:])
        if min(height, width) == 0:
            break
        shapes.append((*shape[:-2], height, width))
    levels = [
        group.create_array(
            str(number),
            shape=each,
            dtype=stack.dtype,
            chunks=tuple(min(n, sides.get(axis, 1)) for axis, n in zip(axes, each, strict=True)),
            dimension_names=[axis.lower() for axis in axes],
        )
        for number, each in enumerate(shapes)
    ]
    factors = {"T": stack.frame_interval, **stack.pixel_size}
    scale = [factors.get(axis) or 1.0 for axis in axes]
    group.attrs["ome"] = {
        "version": _VERSION,
        "multiscales": [
            {
                "name": stack.name or name,
                "axes": [_axis(axis, stack) for axis in axes],
                "datasets": [
                    {"path": str(number), "coordinateTransformations": _placed(scale, 2**number)}
                    for number in range(len(levels))
                ],
            }
        ],
    }
    outline = Stack(np.broadcast_to(np.zeros((), stack.dtype), shape), own)
    return ZarrImage(levels, own, sides["T"], outline)


def _placed(scale: list[float], times: int) -> list[dict[str, Any]]:
    """Scale of a level whose pixels are so many times as large, and where its first one lies."""
    larger = [*scale[:-2], *(times * size for size in scale[-2:])]
    placed: list[dict[str, Any]] = [{"type": "scale", "scale": larger}]
    if times > 1:  # pixels are placed by their middle
        shift = [0.0] * (len(scale) - 2) + [(times - 1) / 2 * size for size in scale[-2:]]
        placed.append({"type": "translation", "translation": shift})
    return placed


def _halved(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = (side // 2 for side in block.shape[-2:])
    even = block[..., : 2 * height, : 2 * width]
    squares = even.reshape(*block.shape[:-2], height, 2, width, 2)
    return cast_like(squares.mean((-3, -1)), block.dtype)


def _axis(axis: str, stack: Stack) -> dict[str, str]:
    """Describe one axis; without a unit where the scale is not known."""
    described = {"name": axis.lower(), "type": _KINDS[axis]}
    if axis == "T" and stack.frame_interval:
        described["unit"] = "second"
    elif axis in stack.pixel_size:
        described["unit"] = "micrometer" if stack.unit == "µm" else stack.unit
    return described
