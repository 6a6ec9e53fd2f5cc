"""Denoise a movie of any length and size with a bounded amount of memory, exactly.

The network is recurrent in both directions, so cutting a movie in pieces would normally change the
result at every cut. Two things avoid this here:

* *Time.* A first pass runs the backward direction over the whole movie and keeps its state only at
  the start of each window. The
  second pass goes forward window by window: it repeats the backward direction inside the window
  from the kept state, continues the forward direction from the last window, and predicts. No
  overlap, and the result does not depend on the window.
* *Clips.* Exactness is worth little where a network is used beyond what it was fitted to: after a
  fit to clips of 24 frames, states that went through more were never seen, and can grow without
  bound (a still scene, 800 steps, 240 frames: infinite). So a plan made by `plan_inference` looks
  as far as the clips of the fit were long: every block of frames is denoised from the clip around
  it. Memory is then flat in the number of frames.
* *Space.* States are kept for whole frames, and only the convolutions of one step run in tiles. The
  reach of one step is finite and
  small (`state_radius`, `head_radius`), so a tile with that halo gives exactly what the whole frame
  would.

Results differ from the untiled ones by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from ._generators import relay
from ._inference_plan import InferencePlan, block_frames, plan_inference
from ._inference_steps import DenoisedWindow, Runner, Shift
from .network import STBN
from .precision import Precision
from .preparation import PreparedMovie

__all__ = [
    "DenoisedWindow",
    "InferencePlan",
    "Shift",
    "denoise_frame",
    "denoise_frames",
    "plan_inference",
]

# The patches of the spatial expansion give its output a faint pattern of period 4, locked to their
# origin. Only whether a pixel lies in the first or second pair of a patch matters, so that the mean
# over these four origins cancels the pattern exactly.
PATCH_ORIGINS: tuple[Shift, ...] = ((0, 0), (0, 2), (2, 0), (2, 2))


def denoise_frames(
    model: STBN,
    movie: PreparedMovie,
    plan: InferencePlan,
    *,
    precision: Precision = "float32",
    origins: Sequence[Shift] = PATCH_ORIGINS,
) -> Generator[DenoisedWindow | float, None, None]:
    """Denoise a movie, window by window, from the first frame to the last.

    Parameters
    ----------
    model : STBN
        Fitted, on the device to use.
    movie : PreparedMovie
        On the CPU or the same device.
    plan : InferencePlan
        From `plan_inference`. Out of memory halves the tile and goes on.
    precision : {"float32", "bfloat16"}, default "float32"
        Of the network's inner layers.
    origins : sequence of (row, column), default PATCH_ORIGINS
        Origins of the patches of the spatial expansion that the prediction is averaged over;
        ``[(0, 0)]`` is the network as it is.

    Yields
    ------
    float
        Part of the work that is done, 0 to 1, after every tile, so that cancelling acts at once.
    DenoisedWindow
        As soon as a window is ready; together they hold every frame once.
    """
    runner = Runner(model, movie, plan, precision, origins)
    if plan.clip_frames is not None and plan.clip_frames < runner.frames:
        yield from _clip_by_clip(runner, plan.clip_frames)
        return
    # Units of work: a backward step costs one, a forward step with its prediction 1.5 or more.
    total = runner.frames * 2.5
    done = 0.0
    starts = range(0, runner.frames, plan.window)
    first_pass = max(0, runner.frames - plan.window)  # backward steps that find the kept states
    kept: dict[int, Tensor] = {}
    state: Tensor | None = None
    if len(starts) > 1:
        for t in range(runner.frames - 1, plan.window - 1, -1):
            state = yield from _telling(runner.step("from_future", t, state), done / total)
            if t % plan.window == 0:
                kept[t] = state
            done += 1
            yield done / total
    past: Tensor | None = None
    for start in starts:
        stop = min(start + plan.window, runner.frames)
        future: dict[int, Tensor] = {}
        state = kept.pop(stop, None)
        for t in range(stop - 1, start - 1, -1):
            state = yield from _telling(runner.step("from_future", t, state), done / total)
            future[t] = state
        window = runner.window(start, stop)
        for t in range(start, stop):
            past = yield from _telling(runner.step("from_past", t, past), done / total)
            prior = yield from _telling(runner.predict(t, past, future.pop(t)), done / total)
            runner.finish(t, prior, window)
            done += (total - first_pass) / runner.frames
            yield min(1.0, done / total)
        yield replace(window, fraction=min(1.0, done / total))


def _clip_by_clip(
    runner: Runner, clip_frames: int
) -> Generator[DenoisedWindow | float, None, None]:
    """Denoise every block of frames from the clip around it; clips at the ends are moved in."""
    frames = runner.frames
    for first, start, stop in clip_blocks(frames, clip_frames):
        window = yield from relay(
            denoise_block(runner, first, start, stop, first + clip_frames),
            partial(_share, start / frames, (stop - start) / frames),
        )
        yield replace(window, fraction=stop / frames)


def clip_blocks(frames: int, clip_frames: int) -> Iterator[tuple[int, int, int]]:
    """Blocks of a movie: first frame of the clip around a block, the block's first, past its last.

    Clips at the ends are moved in.
    """
    block = block_frames(clip_frames)
    for start in range(0, frames, block):
        stop = min(start + block, frames)
        first = min(max(0, start - (clip_frames - block) // 2), frames - clip_frames)
        yield first, start, stop


def denoise_block(
    runner: Runner, first: int, start: int, stop: int, last: int
) -> Generator[float, None, DenoisedWindow]:
    """Denoise frames from `start` to `stop` - 1 from the clip from `first` to `last` - 1.

    Yields the part that is done, 0 to 1, after every tile.
    """
    window = runner.window(start, stop)
    yield from predict_block(
        runner, first, start, stop, last, lambda t, prior: runner.finish(t, prior, window)
    )
    return window


def predict_block(
    runner: Runner,
    first: int,
    start: int,
    stop: int,
    last: int,
    take: Callable[[int, Tensor], None],
) -> Generator[float, None, None]:
    """Hand the prior (1, K, Y, X) of each frame of a block to `take`; as `denoise_block`."""
    steps = (last - start) + (stop - first) + (stop - start)
    done = iter(k / steps for k in range(steps))
    future: dict[int, Tensor] = {}
    state = past = None
    for t in range(last - 1, start - 1, -1):
        state = yield from _telling(runner.step("from_future", t, state), next(done))
        if t < stop:
            future[t] = state
    for t in range(first, stop):
        past = yield from _telling(runner.step("from_past", t, past), next(done))
        if t >= start:
            predicted = runner.predict(t, past, future.pop(t), seen=range(first, last))
            prior = yield from _telling(predicted, next(done))
            take(t, prior)


def denoise_frame(
    model: STBN,
    movie: PreparedMovie,
    t: int,
    *,
    reach: int = 2,
    tile: int = 256,
    precision: Precision = "float32",
) -> Generator[None, None, DenoisedWindow]:
    """Denoise one frame from the few around it: a quick look, not the exact result.

    Parameters
    ----------
    model : STBN
    movie : PreparedMovie
    t : int
        The frame.
    reach : int, default 2
        Frames before and after it that are looked at.
    tile : int, default 256 [px]
    precision : {"float32", "bfloat16"}, default "float32"
        Of the network's inner layers.

    Yields
    ------
    None
        After every tile.

    Returns
    -------
    DenoisedWindow
        Of that frame alone. Patches have one origin instead of four.
    """
    runner = Runner(model, movie, InferencePlan(1, tile, 0), precision, PATCH_ORIGINS[:1])
    past = future = None
    for s in range(max(0, t - reach), t + 1):
        past = yield from runner.step("from_past", s, past)
    for s in range(min(runner.frames - 1, t + reach), t - 1, -1):
        future = yield from runner.step("from_future", s, future)
    if past is None or future is None:
        raise IndexError(f"frame must be from 0 to {runner.frames - 1}, got {t}")
    prior = yield from runner.predict(t, past, future)
    window = runner.window(t, t + 1)
    runner.finish(t, prior, window)
    return replace(window, fraction=1.0)


def _share(before: float, part: float, done: float) -> float:
    """Part of the whole work when a part of one piece's is done."""
    return before + part * done


def _telling(
    tiles: Generator[None, None, Tensor], fraction: float
) -> Generator[float, None, Tensor]:
    """Say how far the whole is after every tile."""
    return relay(tiles, lambda _: min(1.0, fraction))
