"""Colours seen as brightness and colour differences: each of them is denoised as one movie.

The samples of a pixel show nearly the same scene, each with noise of its own. An orthonormal change
of basis gathers what they share in one component, with the light of all of them against the noise
of one, and leaves little but noise in the others. White noise stays white, so that each component
is a movie as any other, and weights that were learnt on single channels serve for colours too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._colour_basis import ColourBasis, stabilized
from ._stack_inference import Output
from ._unbiased import UnbiasedInverse
from ._views import Rooms, StackView
from .stack import MovieDefects, Stack

__all__ = ["ColourOutput", "ColourStack"]

Frames = NDArray[np.float32]


class ColourStack(StackView):
    """A stack with colour samples, whose channels are their components.

    Parameters
    ----------
    stack : Stack
        With an axis S.
    bases : sequence of ColourBasis
        One for each channel C.

    Attributes
    ----------
    source : Stack
    bases : tuple of ColourBasis
    components : list of (channel, component)
        What each channel of this stack is.
    """

    bases: tuple[ColourBasis, ...]
    components: list[tuple[int, int]]
    _back: list[list[UnbiasedInverse | None]]

    def __init__(self, stack: Stack, bases: Sequence[ColourBasis]) -> None:
        if len(bases) != stack.size("C") or any(len(b.rows) != stack.size("S") for b in bases):
            raise ValueError(
                f"there are bases for {len(bases)} channels of {len(bases[0].rows)} colours, "
                f"this stack has {stack.size('C')} of {stack.size('S')}"
            )
        self._see(
            stack,
            bases=tuple(bases),
            components=[(c, k) for c, basis in enumerate(bases) for k in basis.kept],
            _back=[
                [
                    None if law is None else UnbiasedInverse(law, limits)
                    for law, limits in zip(basis.laws, basis.limits, strict=True)
                ]
                for basis in bases
            ],
        )

    @property
    def n_channels(self) -> int:
        """Components that are denoised, of all channels."""
        return len(self.components)

    def channel_name(self, channel: int) -> str:
        """What a component shows."""
        colour, component = self.components[channel]
        if self.bases[colour].apart:
            word = f"colour {component}"
        else:
            word = "brightness" if component == 0 else f"colour difference {component}"
        return f"channel {colour}, {word}" if len(self.bases) > 1 else word

    def components_of(self, colour: int) -> list[int]:
        """Channels of this stack that are components of one of the source's."""
        return [n for n, (c, _) in enumerate(self.components) if c == colour]

    def noise_gain(self, channel: int) -> float:
        """Variance of the noise of a component over that as recorded."""
        return self.source.noise_gain(self.components[channel][0] * self.size("S"))

    def defects_for_user(
        self, index: tuple[int, int], defects: MovieDefects
    ) -> tuple[tuple[int, int], MovieDefects]:
        """Defects of a component as those of the first sample of its channel."""
        sample = self.components[index[0]][0] * self.size("S")
        (_, plane), told = self.source.defects_for_user((sample, index[1]), defects)
        return (index[0], plane), told

    def output(self, output: Output, folder: Path | None) -> Output:
        """What takes components, for an output that takes samples."""
        return ColourOutput(output, self, folder)

    def leader(self, channel: int) -> int:
        """The brightest component of the same channel: what moves, moves in all of them.

        Unless the colours show different things.
        """
        colour = self.components[channel][0]
        return channel if self.bases[colour].apart else self.components_of(colour)[0]

    def witness(self, channel: int) -> int | None:
        """A colour difference, for the brightness: it has the same camera, and hardly any texture.

        Texture that no motion explains looks like shared noise, in the brightness alone.
        """
        colour = self.components[channel][0]
        own = self.components_of(colour)
        return own[1] if own[1:] and channel == own[0] and not self.bases[colour].apart else None

    def movers(self) -> list[int]:
        """The channel whose motion each sample has, of all channels of the source."""
        found = []
        for colour, basis in enumerate(self.bases):
            own = self.components_of(colour)
            for s in range(len(basis.rows)):
                itself = basis.apart and s in basis.kept
                found.append(own[basis.kept.index(s)] if itself else own[0])
        return found

    def movie(
        self,
        channel: int = 0,
        plane: int = 0,
        *,
        frames: slice | None = None,
        rows: slice | None = None,
        columns: slice | None = None,
    ) -> NDArray[Any]:
        """One component (T, Y, X), float32 [user's units]; see `Stack.movie`."""
        colour, component = self.components[channel]
        samples = self.samples(colour, plane, frames, rows, columns)
        return _mixed(self.bases[colour].matrix[component], samples)

    def samples(
        self,
        colour: int,
        plane: int,
        frames: slice | None = None,
        rows: slice | None = None,
        columns: slice | None = None,
    ) -> Frames:
        """All samples (S, T, Y, X) of a channel, read at once, with even noise."""
        index = self.source.index(colour * self.size("S"), plane, T=frames, Y=rows, X=columns)
        every = [slice(None) if a == "S" else i for a, i in zip(self.axes, index, strict=True)]
        samples = self.source.read(tuple(every), "STYX").astype(np.float32)
        for sample, law in zip(samples, self.bases[colour].laws, strict=True):
            sample[:] = stabilized(sample, law)
        return samples

    def restored(
        self,
        colour: int,
        plane: int,
        start: int,
        means: Sequence[Frames],
        stds: Sequence[Frames],
        rows: slice | None = None,
        columns: slice | None = None,
    ) -> tuple[list[Frames], list[Frames]]:
        """Samples of some frames from their components.

        Parameters
        ----------
        colour, plane, start : int
            Channel, plane and first frame.
        means, stds : sequence of ndarray, shape (T', Y, X) [user's units]
            Of the components that are kept; no `stds` without uncertainty.
        rows, columns : slice, optional
            The part of the frames that this is.

        Returns
        -------
        means, stds : list of S ndarrays, shape (T', Y, X), float32 [user's units]
            Errors of the components are taken as independent.
        """
        basis = self.bases[colour]
        matrix, parts = basis.matrix, dict(zip(basis.kept, means, strict=True))
        if len(parts) < len(matrix):
            frames = slice(start, start + len(means[0]))
            raw = self.samples(colour, plane, frames, rows, columns)
            for k in set(range(len(matrix))) - parts.keys():
                still = _mixed(matrix[k], raw)
                parts[k] = np.where(np.isfinite(still), still, np.float32(basis.levels[k]))
        whole = [parts[k] for k in range(len(matrix))]
        samples = range(len(matrix))
        squares, kept = [std * std for std in stds], list(basis.kept)
        clean, spread = [], []
        for s, back in zip(samples, self._back[colour], strict=True):
            mean = _mixed(matrix[:, s], whole)
            std = np.sqrt(_mixed(matrix[kept, s] ** 2, squares)) if squares else None
            if back is not None:
                mean, std = back(mean, std)
            clean.append(mean)
            if std is not None:
                spread.append(std)
        return clean, spread


class ColourOutput:
    """Takes components as they are denoised, and hands the samples to another output.

    Parameters
    ----------
    output : Output
        Gets the samples, as soon as all components of some frames are there.
    stack : ColourStack
    folder : Path, optional
        Where components wait for the last one of their channel; in memory when None.
    """

    def __init__(self, output: Output, stack: ColourStack, folder: Path | None = None) -> None:
        self._output, self._stack = output, stack
        self._waiting = Rooms((stack.n_frames, *stack.frame_shape), folder, "colours")

    def __call__(
        self, channel: int, plane: int, start: int, mean: Frames, std: Frames | None
    ) -> None:
        """Take frames (T', Y, X) from `start` on of one component."""
        colour = self._stack.components[channel][0]
        own = self._stack.components_of(colour)
        stop, parts = start + len(mean), {"mean": mean} | ({} if std is None else {"std": std})
        for word, frames in parts.items():
            if channel != own[-1]:
                self._waiting[channel, plane, word][start:stop] = frames
        if channel != own[-1]:
            return
        means, stds = (
            [*(self._waiting[n, plane, word][start:stop] for n in own[:-1]), parts[word]]
            if word in parts
            else []
            for word in ("mean", "std")
        )
        means, stds = self._stack.restored(colour, plane, start, means, stds)
        samples = self._stack.size("S")
        for s, frames in enumerate(means):
            spread = stds[s] if stds else None
            self._output(colour * samples + s, plane, start, frames, spread)
        if stop == self._stack.n_frames:  # frames come in order
            for n in own[:-1]:
                for word in parts:
                    self._waiting.free((n, plane, word))


def _mixed(weights: NDArray[np.float64], parts: Sequence[Frames] | Frames) -> Frames:
    """Weighted sum; pixel by pixel the same, wherever they lie.

    What has no weight may hold anything.
    """
    total: Frames = np.zeros_like(parts[0])
    for weight, part in zip(weights, parts, strict=True):
        if weight != 0:
            total += np.float32(weight) * part
    return total
