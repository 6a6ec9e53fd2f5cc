"""Cut a movie in time where even the states between its windows would not fit into memory."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from ._lazy_movie import LazyMovie
from ._turned_inference import denoise_turned
from .inference import DenoisedWindow, InferencePlan, Shift, plan_inference
from .network import STBN
from .network.stbn import head_radius
from .precision import Precision

__all__ = ["OVERLAP", "Segments", "denoise_segments", "plan_segments"]

OVERLAP = 48
"""Frames that are computed on either side of a cut and thrown away. What a frame knows of those
behind a cut fades with every frame, slowest where nothing moves; see docs/scale.md."""


@dataclass(frozen=True)
class Segments:
    """How a movie is cut.

    Attributes
    ----------
    count
        Segments; 1 is the movie as it is.
    plan
        Of each.
    """

    count: int
    plan: InferencePlan

    def spans(self, frames: int) -> Iterator[tuple[int, int]]:
        """First frame of each segment, and the one after its last."""
        length = math.ceil(frames / self.count)
        for start in range(0, frames, length):
            yield start, min(start + length, frames)


def plan_segments(
    model: STBN, shape: tuple[int, int, int], budget: int, precision: Precision = "float32"
) -> Segments:
    """Choose the cuts and the plan that cost the least time within a budget.

    Parameters
    ----------
    model, shape, budget, precision
        As in `napari_stbn.inference.plan_inference`, whose tiles get smaller, and slower, where a
        movie is longer.

    Raises
    ------
    MemoryError
        If even a short segment in the smallest tiles does not fit.
    """
    frames, height, width = shape
    halo = 2 * (head_radius(model.config) + 4)
    found: list[tuple[float, int, Segments]] = []
    count = 1
    while True:
        length = math.ceil(frames / count)
        if count > 1 and length < OVERLAP and found:
            break
        reach = frames if count == 1 else min(frames, length + 2 * OVERLAP)
        try:
            plan = plan_inference(model, (reach, height, width), budget, precision)
        except MemoryError:
            if length < OVERLAP:
                raise
        else:
            sides = (min(plan.tile, side) for side in (height, width))
            tiled = math.prod((s + halo * (s < max(height, width))) / s for s in sides)
            cost = tiled * (1 + 2 * OVERLAP * (count - 1) / frames)
            found.append((cost, count, Segments(count, plan)))
        if length < OVERLAP:
            break
        count *= 2
    return min(found)[2]


def denoise_segments(
    model: STBN,
    movie: LazyMovie,
    segments: Segments,
    *,
    precision: Precision,
    origins: Sequence[Shift],
    turns: int = 1,
) -> Generator[DenoisedWindow | float, None, None]:
    """`napari_stbn._turned_inference.denoise_turned`, segment by segment."""
    frames = movie.shape[0]
    for start, stop in segments.spans(frames):
        first, last = max(0, start - OVERLAP), min(frames, stop + OVERLAP)
        part = movie if segments.count == 1 else movie.part(first, last)
        for piece in denoise_turned(
            model, part, segments.plan, turns, precision=precision, origins=origins
        ):
            if not isinstance(piece, DenoisedWindow):
                yield (start + piece * (stop - start)) / frames
            elif segments.count == 1:
                yield piece
            elif (window := _inside(piece, first, start, stop)) is not None:
                yield window


def _inside(window: DenoisedWindow, first: int, start: int, stop: int) -> DenoisedWindow | None:
    """The frames of a part's window that belong to the segment from `start` to `stop`."""
    begin = first + window.start
    low, high = max(start, begin), min(stop, begin + len(window.mean))
    if high <= low:
        return None
    kept = slice(low - begin, high - begin)
    std = None if window.std is None else window.std[kept]
    wrong = None if window.wrong is None else window.wrong[kept]
    return DenoisedWindow(low, window.mean[kept], std, window.prior[kept], window.fraction, wrong)
