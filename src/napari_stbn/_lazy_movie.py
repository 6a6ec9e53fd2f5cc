"""A movie that is read, cleaned and brought to network units where it is asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._defects import DefectScan
from ._filling import around, fill_defects, said_of, smoothed
from ._flow_scratch import FlowScratch
from ._lazy import MovieView, chunk_lengths
from ._motion_image import motion_image
from ._wrong_pixels import WrongPixels
from .correlation import NoiseCorrelation
from .prior import Units
from .stack import MovieDefects, validate_movie

__all__ = ["LazyMovie"]

_SHORTEST_BLOCK = 8  # frames read at once, where that many fit into the cache


class Along:
    """Something of every frame, read where it is indexed, as a tensor would be."""

    def __init__(self, length: int, read: Callable[[int], Tensor]) -> None:
        self._length, self._read = length, read

    def __getitem__(self, t: int | slice) -> Tensor:
        if isinstance(t, slice):
            return torch.stack([self._read(i) for i in range(self._length)[t]])
        return self._read(range(self._length)[t])

    def part(self, first: int, last: int) -> Along:
        """From position `first` to `last` - 1."""
        return Along(last - first, lambda t: self._read(first + t))


@dataclass(frozen=True)
class MoviePart:
    """Some frames of a `LazyMovie`, which are read like it."""

    shape: tuple[int, int, int]
    units: tuple[Units, ...]
    inputs: Along
    intensities: Along
    valid: Along
    flow_to_previous: Along
    flow_to_next: Along


@dataclass(frozen=True)
class _Block:
    """Some frames of all channels."""

    intensities: Tensor  # (T', C, Y, X), float32 [user's units]
    valid: Tensor  # (T', 1, Y, X), bool


class LazyMovie:
    """A movie of C channels, indexed along time like a `PreparedMovie`, of any length.

    Parameters
    ----------
    views : sequence of C MovieView
        Channels of one stack.
    units : sequence of C Units
    cache : int [bytes]
        That may be kept of what was read.
    filters : sequence of C NoiseCorrelation or None, optional
        That make the noise of each channel white.

    Attributes
    ----------
    inputs, intensities, valid, flow_to_previous, flow_to_next
        As in `PreparedMovie`, one frame (pair) for a number and a tensor for a slice. Flow is zero
        until `follow` gives it.
    filters : list of C NoiseCorrelation or None
    notes : list of str
        Sentences about defects, after `scan`.
    wrong : int
        Pixels that were taken out.
    """

    def __init__(
        self,
        views: Sequence[MovieView],
        units: Sequence[Units],
        cache: int,
        filters: Sequence[NoiseCorrelation | None] | None = None,
    ) -> None:
        self.filters = list(filters or [None] * len(views))
        self._views, self.units = list(views), tuple(units)
        self.shape = views[0].shape
        self.notes: list[str] = []
        frames, height, width = self.shape
        # Of each channel, measured frames that stand for blank ones, and what each counts
        self._instead: list[dict[int, list[tuple[int, float]]]] = [{} for _ in views]
        self._defects = [MovieDefects(None, None, (), 0.0, None) for _ in views]
        each = height * width * (4 * len(views) + 1)  # bytes of a cached frame
        stored = chunk_lengths(views[0].stack).get("T", 1)
        self._length = max(1, min(frames, max(stored, _SHORTEST_BLOCK), cache // 2 // each))
        self._most = max(2, cache // (each * self._length))
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._flow: FlowScratch | None = None
        self._wrong: WrongPixels | None = None
        self.inputs = Along(frames, self._inputs)
        self.intensities = Along(frames, lambda t: self._frame(t)[0])
        self.valid = Along(frames, lambda t: self._frame(t)[1])
        self.flow_to_previous = Along(frames - 1, lambda t: self._pair(t, 0))
        self.flow_to_next = Along(frames - 1, lambda t: self._pair(t, 1))

    def scan(self) -> Generator[float, None, None]:
        """Find dead pixels and blank frames; reads every frame once.

        Yields the part that is done, 0 to 1.

        Raises
        ------
        ValueError
            If there is nothing to denoise in a channel.
        """
        frames = self.shape[0]
        anywhere: set[int] = set()
        for c, view in enumerate(self._views):
            scan = DefectScan()
            for start in range(0, frames, self._length):
                scan.add(view[start : start + self._length])
                yield (c + min(1.0, (start + self._length) / frames)) / len(self._views)
            if len(scan.blank) == frames:
                validate_movie(view, what=view.title)
            self._defects[c] = found = scan.defects()
            blank = {*found.constant_frames, *found.repeated}
            good = np.array(sorted(set(range(frames)) - blank))
            self._instead[c] = {t: around(t, good) for t in blank}
            anywhere |= blank
            self.notes += said_of(view.stack, (view.channel, view.plane), found)
        if len(anywhere) == frames:
            raise ValueError(f"{self._views[0].title} has no frame in which all channels are there")
        self._blocks.clear()

    def part(self, first: int, last: int) -> MoviePart:
        """Frames from `first` to `last` - 1; they share what was read."""
        along = {
            name: getattr(self, name).part(first, last)
            for name in ("inputs", "intensities", "valid")
        }
        pairs = {
            name: getattr(self, name).part(first, last - 1)
            for name in ("flow_to_previous", "flow_to_next")
        }
        return MoviePart((last - first, *self.shape[1:]), self.units, **along, **pairs)

    def follow(self, flow: FlowScratch) -> None:
        """Take the flow, of every pair."""
        self._flow = flow

    def take_out(self, wrong: WrongPixels) -> None:
        """Take wrong pixels out of every frame that is read from now on.

        What stands for blank frames stays as it was, as in a movie in memory.
        """
        self._wrong = wrong

    @property
    def wrong(self) -> int:
        """Pixels that were taken out."""
        return 0 if self._wrong is None else self._wrong.count

    def total(self, t: int) -> NDArray[np.float32]:
        """One image of the channels of a frame, (Y, X), which motion is seen in."""
        image: NDArray[np.float32] = motion_image(self._frame(t)[0], self.units).numpy()
        return image

    def _frame(self, t: int) -> tuple[Tensor, Tensor]:
        """Intensities (C, Y, X) and valid pixels (1, Y, X) of a frame."""
        intensities, valid = self._measured(t)
        blank = [c for c, instead in enumerate(self._instead) if t in instead]
        if not blank and self._wrong is None:
            return intensities, valid
        intensities, valid = intensities.clone(), valid.clone()  # what was read stays as it is
        for c in blank:
            parts = [(self._measured(s)[0][c].numpy(), part) for s, part in self._instead[c][t]]
            intensities[c] = torch.from_numpy(smoothed(parts))
        if self._wrong is not None:
            self._wrong.take_out(t, intensities, valid)
        return intensities, valid

    def _measured(self, t: int) -> tuple[Tensor, Tensor]:
        """The same as it was read, from memory if it is there."""
        number, at = divmod(t, self._length)
        block = self._block(number)
        return block.intensities[at], block.valid[at]

    def _inputs(self, t: int) -> Tensor:
        """Network input (C, Y, X) of a frame."""
        noisy = self._frame(t)[0]
        return torch.stack([u.to_network(noisy[c]) for c, u in enumerate(self.units)])

    def _pair(self, t: int, direction: int) -> Tensor:
        """Flow (2, Y, X) of a pair."""
        if self._flow is None:
            return torch.zeros(1).expand(2, *self.shape[1:])  # takes no memory
        return self._flow.read(t, direction)

    def _block(self, number: int) -> _Block:
        """Some frames, from memory if they are there."""
        block = self._blocks.get(number)
        if block is None:
            while len(self._blocks) >= self._most:
                self._blocks.popitem(last=False)  # the one that was not used for longest
            block = self._blocks[number] = self._read(number * self._length)
        self._blocks.move_to_end(number)
        return block

    def _read(self, start: int) -> _Block:
        """Frames from `start` on, single defects filled."""
        channels, valid = [], None
        reach = max(0 if white is None else white.reach for white in self.filters)
        first = max(0, start - reach)
        part = slice(first, start + self._length + reach)
        own = slice(start - first, start - first + self._length)
        for view, defects, white, instead in zip(
            self._views, self._defects, self.filters, self._instead, strict=True
        ):
            movie = view[part]
            missing = ~np.isfinite(movie) if movie.dtype.kind == "f" else None
            blank = tuple(t for t in range(len(movie)) if first + t in instead)
            here = MovieDefects(missing, defects.dead, blank, 0.0, None)
            filled, measured = fill_defects(movie, here, white)
            filled, measured = filled[own], measured[own]
            channels.append(filled)
            valid = measured if valid is None else valid & measured
        if valid is None:
            raise ValueError("a movie has at least one channel")
        stacked = np.stack(channels, 1) if len(channels) > 1 else channels[0][:, None]
        return _Block(torch.from_numpy(stacked), torch.from_numpy(valid)[:, None])
