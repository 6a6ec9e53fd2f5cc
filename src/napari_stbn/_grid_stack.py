"""A stack seen as movies of every n-th pixel, where those between share their noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._grid_step import GridStep
from ._stack_inference import Output
from ._views import Flows, Frames, PartsOutput, Place, Rooms, StackView
from .stack import MovieDefects, Stack

__all__ = ["GridStack"]


class GridStack(StackView):
    """A stack whose planes are coarser grids of pixels, one for each first row and column.

    Grids that end a row or a column earlier than others get a last one of NaN.

    Parameters
    ----------
    stack : Stack
    step : GridStep

    Attributes
    ----------
    step : GridStep
    """

    step: GridStep

    def __init__(self, stack: Stack, step: GridStep) -> None:
        self._see(stack, step=step)
        if "Z" not in stack.axes:
            object.__setattr__(self, "axes", "Z" + stack.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis, in the order of `axes`."""
        lengths = {a: self.source.size(a) for a in self.axes}
        lengths["Z"] *= self.step.pixels
        lengths["Y"] = -(-lengths["Y"] // self.step.rows)
        lengths["X"] = -(-lengths["X"] // self.step.columns)
        return tuple(lengths[a] for a in self.axes)

    def remarks(self) -> list[str]:
        """What is worth saying of this view and those below."""
        return [*super().remarks(), self.step.note]

    def read(self, index: tuple[int | slice, ...], axes: str) -> NDArray[Any]:
        """Read a part of one grid, float32; see `Stack.read`."""
        parts = dict(zip(self.axes, index, strict=True))
        plane = parts["Z"]
        if isinstance(plane, slice):
            raise IndexError("one grid is read at a time")
        parts["Z"], grid = divmod(plane, self.step.pixels)
        missing = dict.fromkeys(axes, 0)
        for axis, (first, step) in zip("YX", self._firsts(grid), strict=True):
            wanted = parts[axis]
            if isinstance(wanted, int):
                raise IndexError("a part of whole frames is read")
            places = range(first, first + step * self.size(axis), step)[wanted]
            over = bool(places) and places[-1] >= self.source.size(axis)
            there = places[:-1] if over else places
            missing[axis] = len(places) - len(there)
            parts[axis] = slice(there.start, there.stop, there.step) if there else slice(0, 0)
        below = tuple(parts[a] for a in self.source.axes)
        seen = self.source.read(below, axes).astype(np.float32)
        if not any(missing.values()):
            return seen
        return np.pad(seen, [(0, missing[a]) for a in axes], constant_values=np.nan)

    def _firsts(self, grid: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """First row and column of a grid, with the steps from one to the next."""
        row, column = divmod(grid, self.step.columns)
        return (row, self.step.rows), (column, self.step.columns)

    def pixels(self, grid: int) -> tuple[slice, slice]:
        """Rows and columns of the source that are those of a grid."""
        (row, rows), (column, columns) = self._firsts(grid)
        return slice(row, None, rows), slice(column, None, columns)

    def place(self, place: Place) -> Place:
        """Where a frame of the source lies here: in the first of its grids."""
        channel, plane, frame = place
        return channel, plane * self.step.pixels, frame

    def window(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """Rows and columns here that show a part of a frame of the source."""
        parts = []
        for axis, part, step in (("Y", rows, self.step.rows), ("X", columns, self.step.columns)):
            places = range(self.source.size(axis))[part]
            parts.append(slice(places.start // step, -(-places.stop // step)))
        return parts[0], parts[1]

    def shown(self, place: Place, image: Frames, rows: slice, columns: slice) -> Frames:  # noqa: ARG002
        """A part of a frame (Y', X') of the source, between the pixels of its first grid."""
        for axis, (letter, part, step) in enumerate(
            (("Y", rows, self.step.rows), ("X", columns, self.step.columns))
        ):
            places = np.array(range(self.source.size(letter))[part])
            at = places / step - places[0] // step
            low = np.floor(at).astype(int).clip(0, image.shape[axis] - 1)
            high = (low + 1).clip(0, image.shape[axis] - 1)
            weight = np.expand_dims(at - low, 1 - axis)
            image = (1 - weight) * image.take(low, axis) + weight * image.take(high, axis)
        return image.astype(np.float32)

    def defects_for_user(
        self, index: tuple[int, int], defects: MovieDefects
    ) -> tuple[tuple[int, int], MovieDefects]:
        """Plane as the source counts them, without the pixels that make grids equal."""
        channel, (plane, grid) = index[0], divmod(index[1], self.step.pixels)
        own = [len(range(n)[part]) for n, part in zip(self._below, self.pixels(grid), strict=True)]
        ends = self.frame_shape[0] * self.frame_shape[1] - own[0] * own[1]
        told = replace(defects, missing=max(0, defects.missing - self.n_frames * ends))
        return self.source.defects_for_user((channel, plane), told)

    @property
    def _below(self) -> tuple[int, int]:
        """Height and width of the source."""
        return self.source.frame_shape

    def output(self, output: Output, folder: Path | None) -> Output:
        """What takes denoised frames of grids, for an output that takes those of the source."""
        rooms = Rooms((self.n_frames, *self._below), folder, "grids")
        shape = (self.n_frames, self.step.pixels, self.n_frames)
        return PartsOutput(output, rooms, shape, self._fill)

    def flows_for_user(self, flows: Flows, *, forward: bool) -> Flows:  # noqa: ARG002
        """Motion of every pixel of the source [px of the source]."""
        count = self.step.pixels
        scale = np.array([self.step.columns, self.step.rows], np.float32)[:, None, None]
        joined: dict[tuple[int, int], Frames] = {}
        for (channel, plane), flow in flows.items():
            key, grid = (channel, plane // count), plane % count
            if key not in joined:
                joined[key] = np.empty((*flow.shape[:2], *self._below), np.float32)
            self._fill(joined[key], grid, 0, flow * scale)
        return joined

    def _fill(self, whole: Frames, grid: int, start: int, frames: Frames) -> None:
        """Put frames (T', …, Y', X') of a grid, from `start` on, among its neighbours' pixels."""
        rows, columns = self.pixels(grid)
        there = whole[start : start + len(frames), ..., rows, columns]
        there[...] = frames[..., : there.shape[-2], : there.shape[-1]]
