"""`napari-stbn info`."""

from __future__ import annotations

import argparse

from ._aligned_stack import placed_stack
from ._commands import read_input, shape_of
from ._defects import DefectScan
from ._frame_spacing import FrameSpacing, frames_apart
from ._generators import last
from ._grid_step import GridStep, pixels_apart
from ._lazy import MovieView
from ._lighting import even_movie
from ._lines import shown
from ._streaming import exceeds, memory_budget
from .correlation import estimate_pixel_noise
from .devices import size_in_words
from .estimates import estimate_run
from .noise import estimate_noise
from .preparation import recorded_frames

__all__ = ["info"]


def info(options: argparse.Namespace) -> None:
    """`napari-stbn info`."""
    stack, recorded = read_input(options)
    stack.check()
    print(f"file      {shown(options.input.name)}")
    print(f"size      {shape_of(stack)} {recorded}")
    if stack.pixel_size:
        sizes = ", ".join(f"{axis} {size:g}" for axis, size in stack.pixel_size.items())
        print(f"pixel     {sizes} {stack.unit}")
    if stack.frame_interval:
        print(f"interval  {stack.frame_interval:g} s")
    large = exceeds(stack, memory_budget(None))
    seen = last(placed_stack(stack))
    for channel in range(stack.n_channels):
        view = MovieView(stack, channel, stack.n_planes // 2)
        scan = DefectScan()
        if large:  # reading all of it may take hours
            fit, shared, light = estimate_noise(view), "", ""
            apart, grid = FrameSpacing(1), GridStep()
        else:
            movie = view[:]
            scan.add(movie)
            measured = MovieView(seen, channel, stack.n_planes // 2)[:]
            filled, apart = frames_apart(recorded_frames(measured))
            filled, grid = pixels_apart(filled)
            filled, light = even_movie(filled)
            fit, shared = estimate_pixel_noise(filled)
            fit = apart.as_recorded(fit)
        noise = fit.model
        print(
            f"noise     channel {channel}: gain {noise.gain:.4g} counts/photoelectron, "
            f"offset {noise.offset:.4g} counts, read noise {noise.read_noise:.3g} photoelectrons"
            f"{' (uncertain)' if fit.uncertain else ''}"
            f"{'; in use: variance level by level' if fit.law is not None else ''}"
        )
        for sentence in [
            *filter(None, [fit.sentence, apart.note, grid.note, light, shared, fit.note]),
            *scan.defects().sentences(),
            *seen.remarks(),
        ]:
            print(f"          {sentence}")
    run = estimate_run(stack, options.preset, options.device)
    free = size_in_words(run.free)
    if large:
        print(f"memory    larger than what is free ({free}): read piece by piece")
    else:
        print(f"memory    about {size_in_words(run.bytes)} of {free} free on {run.device}")
    print(f"plan      {run.pieces}")
    print(f"time      fit {_at_most(run.fit_seconds)}, denoising about {run.denoise_seconds:.0f} s")


def _at_most(seconds: float) -> str:
    """A time limit for a person."""
    return "without a time limit" if seconds == float("inf") else f"{seconds:.0f} s at most"
