"""Denoise a movie in several positions and average: the network has no favourite direction left."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ._inference_steps import Runner
from .clips import turn
from .inference import (
    PATCH_ORIGINS,
    DenoisedWindow,
    InferencePlan,
    clip_blocks,
    denoise_block,
    denoise_frames,
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
) -> Generator[DenoisedWindow | float, None, None]:
    """`napari_stbn.inference.denoise_frames`, averaged over quarter turns of the movie.

    Parameters
    ----------
    model, movie, plan, precision
        As in `denoise_frames`.
    turns : int
        Quarter turns, 1 to 4. One is `denoise_frames` itself, and so is a network that looks along
        all of a movie that is longer than the plan's windows.

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
    sides are not multiples of 4 nearly so. Posteriors are averaged, not priors. The uncertainty is
    the mean one: the error of the average is lower by as much as the errors of the turns differ, a
    few hundredths.
    """
    frames = movie.shape[0]
    unbounded = plan.clip_frames is None and plan.window < frames  # states of all would be kept
    if turns == 1 or unbounded:
        yield from denoise_frames(model, movie, plan, precision=precision)  # type: ignore[arg-type]
        return
    length = min(plan.clip_frames or frames, frames)
    for first, start, stop in clip_blocks(frames, length) if length < frames else ((0, 0, frames),):
        part = _part(movie, first, first + length)
        whole: DenoisedWindow | None = None
        for quarter in range(turns):
            runner = Runner(model, _turned(part, quarter), plan, precision, PATCH_ORIGINS[:1])
            block = denoise_block(runner, 0, start - first, stop - first, length)
            while True:
                try:
                    done = (quarter + next(block)) / turns
                except StopIteration as finished:
                    whole = _added(whole, finished.value, quarter, turns)
                    break
                yield (start + (stop - start) * done) / frames
        if whole is not None:
            yield replace(whole, start=start, fraction=stop / frames)


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


def _added(
    whole: DenoisedWindow | None, part: DenoisedWindow, quarter: int, turns: int
) -> DenoisedWindow:
    """The mean over turns so far, with one more."""

    def mean(name: str) -> torch.Tensor:
        back = turn(getattr(part, name), -quarter, False) / turns
        return back.contiguous() if whole is None else getattr(whole, name) + back

    if part.std is None:  # then the mean is the prior
        blind = mean("prior")
        return replace(part, mean=blind, prior=blind)
    wrong = None if part.wrong is None else turn(part.wrong, -quarter, False)
    if wrong is not None and whole is not None and whole.wrong is not None:
        wrong = wrong | whole.wrong
    return replace(part, mean=mean("mean"), std=mean("std"), prior=mean("prior"), wrong=wrong)
