"""OME-Zarr 0.4 and 0.5 (and plain Zarr arrays): the first and largest level of an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import zarr

from napari_stbn._blocks import blocks
from napari_stbn._units import Scale, micrometres, seconds
from napari_stbn.stack import Stack

if TYPE_CHECKING:
    from pathlib import Path

_VERSION: Final = "0.5"
_CHUNK_SIDE: Final = 512  # px
_CHUNK_BYTES: Final = 2**20
_KINDS: Final = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}
_MARKERS: Final = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


def is_zarr(path: Path) -> bool:
    """Whether the folder holds a Zarr group or array."""
    return any((path / marker).is_file() for marker in _MARKERS)


def read_ome_zarr(path: Path, axes: str | None, name: str) -> Stack:
    """Open an OME-Zarr folder as a lazy stack; see `napari_stbn.io.read`."""
    if not is_zarr(path):
        raise ValueError(
            f"{path} holds no Zarr metadata (zarr.json or .zgroup); is it complete? Copy it again."
        )
    try:
        node = zarr.open(path, mode="r")
        if isinstance(node, zarr.Array):
            hint = _plain_axes(node)
            return Stack(ZarrArray(node, path), axes, name=name, hint=hint)
        group, image = _first_image(node)
        level = image["datasets"][0]
        array = group[level["path"]]
        letters, scale = _scale(image, level)
    except OSError:
        raise
    except Exception as error:  # JSON, key and codec errors of zarr
        said = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"{path} cannot be read as OME-Zarr: {said or type(error).__name__}. Is it complete? "
            "Copy or export it again."
        ) from error
    if not isinstance(array, zarr.Array):
        raise ValueError(f"{path} names no array as its first level; export it again.")
    return Stack(
        ZarrArray(array, path),
        axes,
        pixel_size=scale.pixel_size,
        unit=scale.unit,
        frame_interval=scale.frame_interval,
        name=name,
        hint=letters,
    )


def _first_image(node: zarr.Group) -> tuple[zarr.Group, Mapping[str, Any]]:
    """Find the group that holds an image, and its multiscale metadata."""
    for group in (node, node.get("0")):  # "0": the first image of a bioformats2raw collection
        if isinstance(group, zarr.Group):
            attributes: Any = group.attrs.asdict()
            attributes = attributes.get("ome", attributes)
            if attributes.get("multiscales"):
                return group, attributes["multiscales"][0]
    raise ValueError("it holds no image (no multiscales metadata); plates are not supported")


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
    """An array of a Zarr folder, read where it is indexed."""

    def __init__(self, array: zarr.Array[Any], root: Path) -> None:
        self.path = root
        self._array = array
        self.shape = tuple(array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)

    def __getitem__(self, index: Any, /) -> npt.NDArray[Any]:
        """Read a part; ValueError where a chunk cannot be decoded."""
        try:
            return np.asarray(self._array[index])
        except (OSError, IndexError, MemoryError):
            raise
        except Exception as error:  # codecs raise a type each
            said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise ValueError(
                f"{self.path} cannot be decoded ({said}); it may be damaged or cut off: copy it "
                "again from its source."
            ) from error

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Read everything."""
        return self[...].astype(dtype or self.dtype, copy=False)


def write_ome_zarr(path: Path, stack: Stack, *, name: str) -> None:
    """Write a stack as OME-Zarr 0.5 with one resolution level."""
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
    array = group.create_array(
        "0",
        shape=shape,
        dtype=stack.dtype,
        chunks=tuple(sides.get(axis, 1) for axis in axes),
        dimension_names=[axis.lower() for axis in axes],
    )
    for where, block in blocks(stack, own, whole=2, multiples={"T": sides["T"]}):
        array[where] = block
    factors = {"T": stack.frame_interval, **stack.pixel_size}
    group.attrs["ome"] = {
        "version": _VERSION,
        "multiscales": [
            {
                "name": stack.name or name,
                "axes": [_axis(axis, stack) for axis in axes],
                "datasets": [
                    {
                        "path": "0",
                        "coordinateTransformations": [
                            {"type": "scale", "scale": [factors.get(a) or 1.0 for a in axes]}
                        ],
                    }
                ],
            }
        ],
    }


def _axis(axis: str, stack: Stack) -> dict[str, str]:
    """Describe one axis; without a unit where the scale is not known."""
    described = {"name": axis.lower(), "type": _KINDS[axis]}
    if axis == "T" and stack.frame_interval:
        described["unit"] = "second"
    elif axis in stack.pixel_size:
        described["unit"] = "micrometer" if stack.unit == "µm" else stack.unit
    return described
