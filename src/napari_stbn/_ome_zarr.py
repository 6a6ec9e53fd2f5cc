"""Read OME-Zarr 0.4 and 0.5 (and plain Zarr arrays): the first and largest level of an image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import zarr

from napari_stbn._described import Description, described_stack, interval_in_seconds
from napari_stbn._scenes import SceneError, add_to_guess, scene_number, scenes_note
from napari_stbn._units import micrometres
from napari_stbn._zarr_chunks import absent_frames
from napari_stbn.stack import Stack

if TYPE_CHECKING:
    from pathlib import Path

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
            stack = Stack(ZarrArray(node, path), axes, name=name, hint=hint)
            return add_to_guess(stack, absent_frames(node, path, stack.axes))
        images = list(_images(node))
        if not images:
            raise ValueError("it holds no image (no multiscales metadata)")
        number = scene_number(path, scene, len(images))
        group, image = images[number]
        level = image["datasets"][0]
        array = group[level["path"]]
        letters, description = _describe(group, image, level)
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
    note = scenes_note(scene, len(images), number, "first")
    pixels = ZarrArray(array, path)
    stack = described_stack(pixels, axes, description, name=name, hint=letters, notes=[note])
    return add_to_guess(stack, absent_frames(array, path, stack.axes))


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


def _describe(
    group: zarr.Group, image: Mapping[str, Any], level: Mapping[str, Any]
) -> tuple[str | None, Description]:
    """Axes letters of one resolution level, and what is said of it."""
    axes, channels = image.get("axes"), _channel_names(group)
    if not axes:
        return None, Description(channels=channels)  # before version 0.3
    names = [axis if isinstance(axis, str) else axis["name"] for axis in axes]
    letters = "".join(str(name)[0].upper() for name in names)
    scale = np.ones(len(names))
    for owner in (level, image):
        for transformation in owner.get("coordinateTransformations", ()):
            if transformation.get("type") == "scale" and "scale" in transformation:
                scale *= np.asarray(transformation["scale"], np.float64)
    sizes: dict[str, float] = {}
    interval, note, space_unit = None, "", "µm"
    for letter, axis, size in zip(letters, axes, scale, strict=True):
        unit = "" if isinstance(axis, str) else axis.get("unit") or ""
        if (not unit and size == 1) or not 0 < size < math.inf:
            continue  # written so where the size is not known
        if letter == "T":
            interval, note = interval_in_seconds(float(size), unit or "second")
        elif letter in "ZYX":
            factor = micrometres(unit or "µm")
            space_unit = "µm" if factor else unit
            sizes[letter] = float(size) * (factor or 1.0)
    return letters, Description(sizes, space_unit, interval, channels, note)


def _channel_names(group: zarr.Group) -> list[str]:
    """Labels of the channels, where the image has them: they are a help for viewers."""
    rendering = _attributes(group).get("omero")
    channels = rendering.get("channels") if isinstance(rendering, Mapping) else None
    if not isinstance(channels, Sequence) or isinstance(channels, str):
        return []
    labels = [one.get("label") if isinstance(one, Mapping) else None for one in channels]
    return [label if isinstance(label, str) else "" for label in labels]


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
