"""Clips: space-time crops of movies for the fit, and the blocks held out from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .preparation import PreparedMovie
from .prior import Units

__all__ = ["Clip", "ClipSampler", "turn"]

Extent = tuple[int, int, int]  # along frames, rows, columns
_HELD_OUT_SHARE = 0.04  # of all pixels, at most
_HELD_OUT_SIZE = 64  # px: larger than the clips of the fit, as whole frames will be
HELD_OUT_BLOCK = (2, 8, 8)  # frames, rows, columns
_TRIES = 16  # places for a crop, of which the one that others see least is taken


@dataclass(frozen=True)
class Clip:
    """A batch of crops of one movie, as `STBN.forward` and `blind_loss` take them.

    Attributes
    ----------
    inputs : Tensor, shape (N, T, C, H, W) [network units]
    intensities : Tensor, shape (N, T, C, H, W) [user's units]
    weight : Tensor, shape (N, T, 1, H, W)
        One where a pixel counts, else zero.
    flow_to_previous, flow_to_next : Tensor, shape (N, T - 1, 2, H, W) [px]
    units : tuple of Units, length C
    """

    inputs: Tensor
    intensities: Tensor
    weight: Tensor
    flow_to_previous: Tensor
    flow_to_next: Tensor
    units: tuple[Units, ...]

    @classmethod
    def of(cls, tensors: Sequence[Tensor], units: tuple[Units, ...]) -> Clip:
        """Put the five tensors, in the order of the attributes, together."""
        inputs, intensities, weight, flow_to_previous, flow_to_next = tensors
        return cls(inputs, intensities, weight, flow_to_previous, flow_to_next, units)

    def to(self, device: torch.device) -> Clip:
        """Copy to a device."""
        if self.inputs.device == device:
            return self
        tensors = (
            self.inputs,
            self.intensities,
            self.weight,
            self.flow_to_previous,
            self.flow_to_next,
        )
        return Clip.of([t.to(device, non_blocking=True) for t in tensors], self.units)

    def split(self, parts: int) -> Iterator[Clip]:
        """Share the crops out to so many clips, or to as many as there are crops."""
        if parts == 1:
            yield self
            return
        pieces = [
            x.chunk(parts)
            for x in (
                self.inputs,
                self.intensities,
                self.weight,
                self.flow_to_previous,
                self.flow_to_next,
            )
        ]
        for tensors in zip(*pieces, strict=True):
            yield Clip.of(tensors, self.units)


def turn(x: Tensor, quarter: int, mirror: bool, *, vectors: bool = False) -> Tensor:
    """Rotate by quarter turns and mirror an image or a flow.

    Parameters
    ----------
    x : Tensor, shape (..., H, W), or (..., 2, H, W) for a flow ordered (dx, dy)
    quarter : int
        Quarter turns, 0 to 3, counted as `torch.rot90` does.
    mirror : bool
        Reverse the columns first.
    vectors : bool, default False
        Turn the displacements as well as the grid.

    Returns
    -------
    Tensor
        Same shape, or H and W exchanged when `quarter` is odd.
    """
    if mirror:
        x = x.flip(-1)
        if vectors:
            x = x * x.new_tensor([-1.0, 1.0]).view(2, 1, 1)
    for _ in range(quarter % 4):
        x = x.rot90(
            1, (-2, -1)
        )  # column c of width W becomes row W - 1 - c; row r becomes column r
        if vectors:
            dx, dy = x.unbind(-3)
            x = torch.stack([dy, -dx], -3)
    return x


class ClipSampler:
    """Draw clips that cover the movies evenly, and keep blocks out of the fit.

    Parameters
    ----------
    movies : sequence of PreparedMovie
        All with the same number of channels.
    frames, size : int
        Frames and side of a clip [px]; smaller movies are taken whole.
    batch : int
        Crops a clip holds, all of one movie.
    generator : torch.Generator
        The only source of chance.
    held_out_clips : int
        Clips whose blocks are held out.
    """

    def __init__(
        self,
        movies: Sequence[PreparedMovie],
        frames: int,
        size: int,
        batch: int,
        generator: torch.Generator,
        held_out_clips: int = 3,
    ) -> None:
        self.movies = list(movies)
        self.frames, self.size, self.batch = frames, size, batch
        self.generator = generator
        pixels = torch.tensor([float(m.inputs.numel()) for m in self.movies])
        self._chance = pixels / pixels.sum()
        self._fit_weight = [m.valid.clone() for m in self.movies]
        self._held_out = self._hold_out(held_out_clips, int(pixels.sum()))

    def draw(self) -> Clip:
        """Return a random clip, turned and mirrored at random; held-out pixels weigh nothing."""
        which = int(torch.multinomial(self._chance, 1, generator=self.generator))
        movie = self.movies[which]
        crops = []
        for _ in range(self.batch):
            extent = self._extent(movie, self.size)
            corner = self._corner(movie, extent)
            quarter, mirror = self._integer(4), bool(self._integer(2))
            if extent[1] != extent[2]:
                quarter -= quarter % 2  # a clip that is not square keeps its shape
            crop = self._crop(movie, self._fit_weight[which], corner, extent)
            crops.append(
                [turn(x, quarter, mirror) for x in crop[:3]]
                + [turn(x, quarter, mirror, vectors=True) for x in crop[3:]]
            )
        return Clip.of([torch.stack(parts) for parts in zip(*crops, strict=True)], movie.units)

    def held_out(self) -> list[Clip]:
        """Return the clips whose blocks are held out, the same each time.

        Only those blocks weigh.
        """
        clips = []
        for which, corner, extent, block in self._held_out:
            movie = self.movies[which]
            crop = self._crop(movie, block, corner, extent)
            clips.append(Clip.of([part[None] for part in crop], movie.units))
        return clips

    def learnt_from(self, more: int) -> list[tuple[Clip, Tensor]]:
        """Return what steps may learn from, in crops as large as those with held-out blocks.

        Parameters
        ----------
        more : int
            Crops beside those with held-out blocks, where those leave much out. Each channel has
            at least one.

        Returns
        -------
        list of (Clip, Tensor)
            Those of `held_out`, then the others, in which no pixel is held out; and the weight of
            each pixel, shape (1, T, 1, H, W): one that is in several crops weighs no more in all.
        """
        places = [(which, corner, extent) for which, corner, extent, _ in self._held_out]
        counts = [torch.zeros(movie.valid.shape, dtype=torch.uint8) for movie in self.movies]
        for which, corner, extent in places:
            self._crop_of(counts[which], corner, extent).add_(1)
        seen = {self.movies[which].units for which, *_ in places}
        for which, movie in enumerate(self.movies):
            if movie.units not in seen:  # another channel, which may look like nothing else
                seen.add(movie.units)
                places.append(self._place(which))
                self._crop_of(counts[which], *places[-1][1:]).add_(1)
        for _ in range(more):
            if all(bool(count.all()) for count in counts):
                break
            place = min((self._place() for _ in range(_TRIES)), key=partial(self._seen, counts))
            places.append(place)
            self._crop_of(counts[place[0]], *place[1:]).add_(1)
        held_out, learnt = self.held_out(), []
        for number, (which, corner, extent) in enumerate(places):
            movie = self.movies[which]
            crop = self._crop(movie, self._fit_weight[which], corner, extent)
            clip = Clip.of([part[None] for part in crop], movie.units)
            weight = clip.weight / self._crop_of(counts[which], corner, extent)
            if number < len(held_out):
                clip = held_out[number]
            else:
                clip = replace(clip, weight=torch.zeros_like(weight))
            learnt.append((clip, weight))
        return learnt

    def _seen(self, counts: Sequence[Tensor], place: tuple[int, Extent, Extent]) -> float:
        """Part of a crop that others have, by how many have each pixel."""
        which, corner, extent = place
        return float((self._crop_of(counts[which], corner, extent) > 0).float().mean())

    def _place(self, which: int | None = None) -> tuple[int, Extent, Extent]:
        """Movie, corner and extent of a random crop as large as those with held-out blocks."""
        if which is None:
            which = int(torch.multinomial(self._chance, 1, generator=self.generator))
        movie = self.movies[which]
        extent = self._extent(movie, max(self.size, _HELD_OUT_SIZE))
        return which, self._corner(movie, extent), extent

    def _hold_out(self, count: int, pixels: int) -> list[tuple[int, Extent, Extent, Tensor]]:
        """Choose clips and blocks in them; take the blocks out of the fit."""
        side = max(self.size, _HELD_OUT_SIZE)
        t, h, w = self._extent(self.movies[0], side)
        share = min(0.25, _HELD_OUT_SHARE * pixels / (count * t * h * w))
        chosen = []
        for _ in range(count):
            which, corner, extent = self._place()
            movie = self.movies[which]
            # Smaller blocks in a tiny clip, or nothing would remain to fit to.
            size = [min(b, max(1, n // 4)) for n, b in zip(extent, HELD_OUT_BLOCK, strict=True)]
            blocks = torch.rand(
                [-(-n // b) for n, b in zip(extent, size, strict=True)], generator=self.generator
            )
            held = blocks < share
            if not held.any():
                held.view(-1)[int(blocks.argmin())] = True
            for axis, b in enumerate(size):
                held = held.repeat_interleave(b, axis)
            mask = torch.zeros_like(movie.valid)
            place = tuple(slice(c, c + n) for c, n in zip(corner, extent, strict=True))
            mask[place[0], 0, place[1], place[2]] = held[: extent[0], : extent[1], : extent[2]]
            mask &= movie.valid
            self._fit_weight[which] &= ~mask
            chosen.append((which, corner, extent, mask))
        return chosen

    def _extent(self, movie: PreparedMovie, side: int) -> Extent:
        """Frames, height and width of a clip of this movie."""
        t, h, w = movie.shape
        return min(self.frames, t), min(side, h), min(side, w)

    def _corner(self, movie: PreparedMovie, extents: Extent) -> Extent:
        """First frame, row and column. Starts beyond the ends are moved in.

        Or the edges would be seen less often than the middle.
        """
        corner = []
        for length, extent in zip(movie.shape, extents, strict=True):
            beyond = extent // 4 if length > extent else 0
            start = self._integer(length - extent + 2 * beyond + 1) - beyond
            corner.append(min(max(start, 0), length - extent))
        return corner[0], corner[1], corner[2]

    def _crop(
        self, movie: PreparedMovie, weight: Tensor, corner: Extent, extent: Extent
    ) -> list[Tensor]:
        """Inputs, intensities, weight, flow to previous, flow to next of a crop."""
        pairs = (extent[0] - 1, *extent[1:])
        crop = self._crop_of
        return [
            crop(movie.inputs, corner, extent),
            crop(movie.intensities, corner, extent),
            crop(weight, corner, extent).float(),
            crop(movie.flow_to_previous, corner, pairs),
            crop(movie.flow_to_next, corner, pairs),
        ]

    @staticmethod
    def _crop_of(x: Tensor, corner: Extent, extent: Extent) -> Tensor:
        """A crop of (T, C, Y, X); nothing is copied."""
        frames, rows, columns = (slice(c, c + n) for c, n in zip(corner, extent, strict=True))
        return x[frames, :, rows, columns]

    def _integer(self, below: int) -> int:
        """Random integer from 0 to `below` - 1."""
        return int(torch.randint(below, (), generator=self.generator))
