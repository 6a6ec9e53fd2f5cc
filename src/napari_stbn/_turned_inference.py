"""Denoise a movie in several positions and average: the network has no favourite direction left."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from torch import Tensor

from ._inference_steps import Runner
from .clips import turn
from .inference import (
    PATCH_ORIGINS,
    DenoisedWindow,
    InferencePlan,
    Shift,
    clip_blocks,
    denoise_frames,
    predict_block,
)
from .network import STBN
from .precision import Precision
from .preparation import PreparedMovie

if TYPE_CHECKING:
    from ._lazy_movie import LazyMovie, MoviePart

__all__ = ["denoise_turned"]


def denoise_turned(
    model: STBN,
    movie: PreparedMovie | LazyMovie | MoviePart,
    plan: InferencePlan,
    turns: int,
    *,
    precision: Precision = "float32",
    origins: Sequence[Shift] = PATCH_ORIGINS,
) -> Generator[DenoisedWindow | float, None, None]:
    """`napari_stbn.inference.denoise_frames`, averaged over quarter turns of the movie.

    Parameters
    ----------
    model, movie, plan, precision
        As in `denoise_frames`.
    turns : int
        Quarter turns, 1 to 4. One is `denoise_frames` itself, and so is a network that looks along
        all of a movie that is longer than the plan's windows.

    origins : sequence of (row, column)
        Of the patches, where there is one turn.

    Yields
    ------
    float
        Part of the work that is done, 0 to 1.
    DenoisedWindow
        As soon as a window is ready in all turns.

    Notes
    -----
    Patches of the spatial expansion have one origin in each turn. Over four turns the pattern that
    they leave cancels as over four origins (`napari_stbn.inference.PATCH_ORIGINS`), and where the
    sides are not multiples of 4 nearly so. Priors are averaged, mean and width, before they are
    fused with the pixels: whether a pixel is wrong (`napari_stbn._doubt`) is judged once.
    """
    frames = movie.shape[0]
    unbounded = plan.clip_frames is None and plan.window < frames  # states of all would be kept
    if turns == 1 or unbounded:
        like = cast("PreparedMovie", movie)  # is read like one
        yield from denoise_frames(model, like, plan, precision=precision, origins=origins)
        return
    length = min(plan.clip_frames or frames, frames)
    for first, start, stop in clip_blocks(frames, length) if length < frames else ((0, 0, frames),):
        part = _part(movie, first, first + length)
        total: dict[int, Tensor] = {}  # prior of each frame, summed over turns
        for quarter in range(turns):
            runner = Runner(model, _turned(part, quarter), plan, precision, PATCH_ORIGINS[:1])
            take = partial(_add, total, quarter)
            block = predict_block(runner, 0, start - first, stop - first, length, take)
            for done in block:
                yield (start + (stop - start) * (quarter + done) / turns) / frames
        runner = Runner(model, part, plan, precision, PATCH_ORIGINS[:1])
        window = runner.window(start - first, stop - first)
        for t, prior in total.items():
            runner.finish(t, prior / turns, window)
        yield replace(window, start=start, fraction=stop / frames)


def _add(total: dict[int, Tensor], quarter: int, t: int, prior: Tensor) -> None:
    """Add the prior of a frame of a turned movie to those of the other turns."""
    back = turn(prior, -quarter, False)
    total[t] = total[t] + back if t in total else back.contiguous()


def _part(movie: PreparedMovie | LazyMovie | MoviePart, first: int, last: int) -> PreparedMovie:
    """Some frames of a movie, in memory."""
    frames, pairs = slice(first, last), slice(first, last - 1)
    return PreparedMovie(
        intensities=movie.intensities[frames],
        inputs=movie.inputs[frames],
        valid=movie.valid[frames],
        flow_to_previous=movie.flow_to_previous[pairs],
        flow_to_next=movie.flow_to_next[pairs],
        units=movie.units,
    )


def _turned(movie: PreparedMovie, quarter: int) -> PreparedMovie:
    """A movie turned by quarters."""
    return replace(
        movie,
        intensities=turn(movie.intensities, quarter, False),
        inputs=turn(movie.inputs, quarter, False),
        valid=turn(movie.valid, quarter, False),
        flow_to_previous=turn(movie.flow_to_previous, quarter, False, vectors=True),
        flow_to_next=turn(movie.flow_to_next, quarter, False, vectors=True),
    )
