"""A stack as an even light would have made it, where the light of its movies flickers."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._generators import part_of, relay
from ._lazy import MovieView
from ._lighting import AT_ONCE, Frames, Lighting, in_even_light, measure_lighting
from ._stack_inference import Output
from ._views import Place, StackView
from .stack import Stack

__all__ = ["EvenOutput", "EvenStack", "even_stack"]

_PIXELS = 2**30  # of a stack that are read to measure its light, about
_LEAST_ROWS = 256


class EvenStack(StackView):
    """A stack whose frames have even light.

    Parameters
    ----------
    stack : Stack
    lighting : mapping of (channel, plane) to Lighting
        Of the movies whose light flickers; at least one.

    Attributes
    ----------
    source : Stack
    lighting : dict of (channel, plane) to Lighting
    """

    lighting: dict[tuple[int, int], Lighting]
    _gains: NDArray[np.float64]
    _levels: NDArray[np.float64]

    def __init__(self, stack: Stack, lighting: Mapping[tuple[int, int], Lighting]) -> None:
        sizes = [1 if axis in "YX" else stack.size(axis) for axis in stack.axes]
        self._see(stack, lighting=dict(lighting), _gains=np.ones(sizes), _levels=np.zeros(sizes))
        for (channel, plane), light in lighting.items():
            index = self.index(channel, plane)
            self._gains[index] = _along(light.gains, index, self.axes)
            self._levels[index] = light.level

    def read(self, index: tuple[int | slice, ...], axes: str) -> NDArray[Any]:
        """Read a part in even light, float32; see `Stack.read`."""
        whole = [slice(None) if a in "YX" else i for a, i in zip(self.axes, index, strict=True)]
        gains, levels = (
            self.picked(table, tuple(whole), axes) for table in (self._gains, self._levels)
        )
        return in_even_light(self.source.read(index, axes), gains, levels)

    def remarks(self) -> list[str]:
        """What is worth saying of this view and those below."""
        brightest = max(self.lighting.values(), key=lambda light: light.strength)
        return [*super().remarks(), brightest.note]

    def shown(self, place: Place, image: Frames, rows: slice, columns: slice) -> Frames:  # noqa: ARG002
        """A part of a denoised frame (Y', X') in the light that it was recorded in."""
        light = self.lighting.get(place[:2])
        return image if light is None else light.restored(place[2], image[None], None)[0][0]

    def output(self, output: Output, folder: Path | None) -> Output:  # noqa: ARG002
        """What takes frames in even light, for an output that takes them in their own."""
        return EvenOutput(output, self)


class EvenOutput:
    """Takes frames that were denoised in even light, and hands them on in their own.

    Parameters
    ----------
    output : Output
    stack : EvenStack
    """

    def __init__(self, output: Output, stack: EvenStack) -> None:
        self._output, self._lighting = output, stack.lighting

    def __call__(
        self, channel: int, plane: int, start: int, mean: Frames, std: Frames | None
    ) -> None:
        """Take frames (T', Y, X) from `start` on."""
        light = self._lighting.get((channel, plane))
        if light is not None:
            mean, std = light.restored(start, mean, std)
        self._output(channel, plane, start, mean, std)


def even_stack(stack: Stack) -> Generator[float, None, Stack]:
    """Measure the light of all movies of a stack, of large ones in the middle of their frames.

    Parameters
    ----------
    stack : Stack

    Yields
    ------
    float
        Part of the work that is done, 0 to 1.

    Returns
    -------
    Stack
        An `EvenStack` where the light flickers, else the stack itself.
    """
    found = {}
    indices, (height, width) = stack.indices(), stack.frame_shape
    frames = len(indices) * stack.n_frames
    seen = min(height, max(_LEAST_ROWS, min(_PIXELS // frames, AT_ONCE) // width))
    rows = slice((height - seen) // 2, (height + seen) // 2)
    for number, (channel, plane) in enumerate(indices):
        light = yield from relay(
            measure_lighting(MovieView(stack, channel, plane), rows),
            partial(part_of, number, len(indices)),
        )
        if light is not None:
            found[channel, plane] = light
    return EvenStack(stack, found) if found else stack


def _along(
    gains: NDArray[np.float64], index: tuple[int | slice, ...], axes: str
) -> NDArray[np.float64]:
    """Gains of the frames in the shape of the axes that an index keeps."""
    kept = [a for a, i in zip(axes, index, strict=True) if isinstance(i, slice)]
    return gains.reshape([-1 if a == "T" else 1 for a in kept])
