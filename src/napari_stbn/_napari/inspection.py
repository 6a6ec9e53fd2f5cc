"""A look at a layer before the run: its noise, memory and time, and what speaks against it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_stbn._aligned_stack import placed_stack
from napari_stbn._frame_spacing import FrameSpacing, frames_apart
from napari_stbn._generators import last
from napari_stbn._grid_step import GridStep, pixels_apart
from napari_stbn._lighting import even_movie
from napari_stbn._streaming import check_result, exceeds, memory_budget
from napari_stbn.correlation import estimate_pixel_noise
from napari_stbn.devices import size_in_words
from napari_stbn.estimates import RunEstimate, estimate_run
from napari_stbn.noise import NoiseFit
from napari_stbn.preparation import recorded_frames

from ._unfinished_runs import has_unfinished

if TYPE_CHECKING:
    from napari_stbn.settings import RunSettings
    from napari_stbn.stack import Stack

__all__ = ["Inspection", "inspect_stack"]

_logger = logging.getLogger(__name__)
# What is read of a movie: enough for the noise to a few per cent, and quick.
_FRAMES, _SIDE = 24, 192
_STILL = 1e-12  # of the mean square: frames that differ by less are copies of each other


@dataclass(frozen=True)
class Inspection:
    """What is known of a stack before it is denoised.

    Attributes
    ----------
    noise : NoiseFit or None
        Of the first channel's middle plane, from a part of it; None where it could not be measured.
    estimate : RunEstimate or None
        None where the run would not fit into memory.
    warnings : tuple of str
        What the user should know before the run.
    unfinished : bool
        Whether an earlier run with these settings broke off and can go on.
    """

    noise: NoiseFit | None
    estimate: RunEstimate | None
    warnings: tuple[str, ...] = ()
    unfinished: bool = False


def inspect_stack(stack: Stack, settings: RunSettings) -> Inspection:
    """Look at a stack; reads a part of one movie of it.

    Parameters
    ----------
    stack : Stack
    settings : RunSettings
        Preset, device, flicker and correlation matter.

    Returns
    -------
    Inspection
    """
    warnings: list[str] = []
    estimate = None
    try:
        estimate = estimate_run(stack, settings.preset, settings.device)
        limit = memory_budget(settings.memory_limit)
        if exceeds(stack, limit):
            check_result(stack, limit, settings.noise is not None)
            warnings.append(
                "This is larger than the memory that a run may take: it is read piece by piece, "
                "and the fit looks at parts of it."
            )
        elif estimate.bytes > estimate.free:
            warnings.append(
                f"This needs about {size_in_words(estimate.bytes)}, {size_in_words(estimate.free)} "
                "are free: choose a region, fewer planes or a smaller preset."
            )
    except (ValueError, MemoryError) as error:
        estimate = None  # a run that is refused takes no time
        warnings.append(str(error))
    noise = None
    try:
        undo = settings.correlation != "off"
        part = last(placed_stack(_part(stack), lines=undo))
        movie = part.movie()
        if _is_still(movie):
            warnings.append("The frames are all the same: is this a movie? Check the axes.")
        else:
            filled = recorded_frames(movie)
            apart, grid = FrameSpacing(1), GridStep()
            if undo:
                filled, apart = frames_apart(filled)
                filled, grid = pixels_apart(filled)
            filled, light = even_movie(filled, settings.flicker)
            noise, shared = estimate_pixel_noise(filled, settings.correlation)
            noise = apart.as_recorded(noise)
            warnings += filter(
                None, [*part.remarks(), apart.note, grid.note, light, shared, noise.note]
            )
    except ValueError as error:
        warnings.append(f"The noise could not be measured: {error}")
    left = False
    try:
        left = has_unfinished(stack, settings)
    except (ValueError, OSError) as error:  # no such frames, or no cache folder
        _logger.debug("no look for unfinished runs: %s", error)
    return Inspection(noise, estimate, tuple(dict.fromkeys(warnings)), left)


def _is_still(movie: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bool:
    """Whether all frames are copies of one; pixels that are no numbers do not count."""
    values = movie.astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    change = np.diff(values, axis=0)
    if np.isnan(change).all():
        return False
    return bool(np.nanmean(change**2) <= _STILL * np.nanmean(values**2))


def _part(stack: Stack) -> Stack:
    """The middle of the middle plane of the first channel."""
    first = max(0, (stack.n_frames - _FRAMES) // 2)
    frames = slice(first, first + _FRAMES)
    parts = {"T": frames}
    for axis, length in zip("YX", stack.frame_shape, strict=True):
        start = max(0, (length - _SIDE) // 2)
        parts[axis] = slice(start, start + _SIDE)
    plane = stack.n_planes // 2
    for axis, at in (("C", 0), ("Z", plane), ("S", 0)):
        parts[axis] = slice(at, at + 1)
    cropped = np.asarray(stack.array[tuple(parts[axis] for axis in stack.axes)])
    return stack.like(cropped)
