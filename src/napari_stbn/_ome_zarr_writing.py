"""Write OME-Zarr 0.5."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import zarr

from napari_stbn._blocks import blocks
from napari_stbn.stack import Stack, cast_like

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ZarrImage", "check_zarr_axes", "create_ome_zarr", "write_ome_zarr"]

_VERSION: Final = "0.5"
_CHUNK_SIDE: Final = 512  # px
_SMALLEST_LEVEL: Final = 512  # px; frames larger than this get levels of lower resolution
_CHUNK_BYTES: Final = 2**20
_KINDS: Final = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}
_COLOURS: Final = ("00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")  # RGB


def write_ome_zarr(path: Path, stack: Stack, *, name: str) -> None:
    """Write a stack as OME-Zarr 0.5, with a pyramid of resolutions where frames are large."""
    image = create_ome_zarr(path, stack, name=name)
    for where, block in blocks(stack, image.own, whole=2, multiples={"T": image.frames}):
        image.write(where, block)
    image.finish()


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
        In that order of axes, with the names of the channels.
    group : zarr.Group
    ranges : dict of int to (float, float)
        Least and largest value of each channel that were written.
    """

    levels: list[zarr.Array[Any]]
    own: str
    frames: int
    outline: Stack
    group: zarr.Group
    ranges: dict[int, tuple[float, float]] = field(default_factory=dict)

    def write(self, where: tuple[int | slice, ...], block: npt.NDArray[Any]) -> None:
        """Write whole frames (..., Y, X) to all levels."""
        if self.outline.channel_names:
            self._range(where, block)
        for level in self.levels:
            height, width = block.shape[-2:]
            level[(*where[:-2], slice(0, height), slice(0, width))] = block
            if level is not self.levels[-1]:
                block = _halved(block)

    def put(self, channel: int, plane: int, start: int, frames: npt.NDArray[Any]) -> None:
        """Write frames (T', Y, X) of one movie."""
        where = self.outline.index(channel, plane, T=slice(start, start + len(frames)))
        self.write(where, frames)

    def finish(self) -> None:
        """Name the channels, which OME-Zarr does where it says how to show them."""
        names = self.outline.channel_names
        if not names:
            return
        channels: list[Any] = []
        for number, name in enumerate(names):
            low, high = self.ranges.get(number, (0.0, 1.0))
            window = {"min": low, "max": high, "start": low, "end": high}
            colour = "FFFFFF" if len(names) == 1 else _COLOURS[number % len(_COLOURS)]
            channels.append({"label": name, "active": True, "color": colour, "window": window})
        ome: Any = self.group.attrs["ome"]
        self.group.attrs["ome"] = {**ome, "omero": {"channels": channels}}

    def _range(self, where: tuple[int | slice, ...], block: npt.NDArray[Any]) -> None:
        """Take the values of a block into the range of each of its channels."""
        at = self.own.find("C")
        numbers = np.arange(self.outline.n_channels)[where[at] if at >= 0 else 0]
        parts = np.moveaxis(block, at, 0) if numbers.ndim else block[np.newaxis]
        for number, part in zip(np.atleast_1d(numbers), parts, strict=True):
            finite = part[np.isfinite(part)]
            if finite.size:
                low, high = self.ranges.get(int(number), (np.inf, -np.inf))
                low, high = min(low, float(finite.min())), max(high, float(finite.max()))
                self.ranges[int(number)] = low, high


def create_ome_zarr(path: Path, stack: Stack, *, name: str) -> ZarrImage:
    """Make an OME-Zarr image with the shape and scale of a stack, to be filled."""
    check_zarr_axes(stack.axes)
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
            config={"write_empty_chunks": True},  # so that one that is absent is one that was lost
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
    names = stack.channel_names if "S" not in own else ()
    outline = Stack(np.broadcast_to(np.zeros((), stack.dtype), shape), own, channel_names=names)
    return ZarrImage(levels, own, sides["T"], outline, group)


def check_zarr_axes(axes: str) -> None:
    """Raise unless OME-Zarr has a place for each axis."""
    if {"C", "S"} <= set(axes):
        raise ValueError(
            f"OME-Zarr has one channel axis and the stack has C and S (axes {axes}); join them "
            "first, or write .npy or .ome.tif."
        )


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
