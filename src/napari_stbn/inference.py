"""Denoise a movie of any length and size with a bounded amount of memory, exactly.

The network is recurrent in both directions, so cutting a movie in pieces would normally change the
result at every cut. Two things avoid this here:

* *Time.* A first pass runs the backward direction over the whole movie and keeps its state only at
  the start of each window. The
  second pass goes forward window by window: it repeats the backward direction inside the window
  from the kept state, continues the forward direction from the last window, and predicts. No
  overlap, and the result does not depend on the window.
* *Clips.* Exactness is worth little where a network is used beyond what it was fitted to: after a
  fit to clips of 16 frames, states that went through more were never seen, and can grow without
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

import logging
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ._generators import relay
from .devices import is_out_of_memory, release_cached
from .flow.field import align_index, gather
from .network import STBN
from .network.frozen import FrozenSTBN
from .network.stbn import Direction, head_radius, state_radius
from .precision import DTYPES, Precision
from .preparation import PreparedMovie
from .prior import network_input, posterior, prior_mean, prior_std

__all__ = ["DenoisedWindow", "InferencePlan", "denoise_frame", "denoise_frames", "plan_inference"]

_logger = logging.getLogger(__name__)
_SMALLEST_TILE = 32  # px
_SCRATCH = 3 * 10**7  # bytes that convolutions take for themselves
# Side of a tile times width of the network. A person who cancels waits for one tile at most.
_CPU_TILE_WIDTH = 512 * 16
Shift = tuple[int, int]
# The patches of the spatial expansion give its output a faint pattern of period 4, locked to their
# origin. Only whether a pixel lies in the first or second pair of a patch matters, so that the mean
# over these four origins cancels the pattern exactly.
PATCH_ORIGINS: tuple[Shift, ...] = ((0, 0), (0, 2), (2, 0), (2, 2))


@dataclass(frozen=True)
class InferencePlan:
    """Pieces in which a movie is denoised; they change memory and time, not the result.

    Attributes
    ----------
    window
        Frames whose states are kept at once.
    tile
        Side of the tiles that the convolutions run in [px], a multiple of 4.
    bytes
        Memory expected at the peak, beside the movie itself.
    clip_frames
        Frames that a result depends on, None for all. This does change the result.
    """

    window: int
    tile: int
    bytes: int
    clip_frames: int | None = None


@dataclass(frozen=True)
class DenoisedWindow:
    """Some consecutive frames of the result.

    Attributes
    ----------
    start
        First frame.
    mean : Tensor, shape (T', C, Y, X), float32 [user's units]
        Posterior mean; the prior mean without a noise model and where a pixel was not measured.
    std : Tensor, shape (T', C, Y, X), float32 [user's units], or None
        Posterior standard deviation, the prior's where a pixel was not measured; None without a
        noise model.
    prior : Tensor, shape (T', C, Y, X), float32 [user's units]
        Prior mean: the prediction that never saw the pixel.
    fraction
        Part of the work that is done, 0 to 1.
    """

    start: int
    mean: Tensor
    std: Tensor | None
    prior: Tensor
    fraction: float


def plan_inference(
    model: STBN, shape: tuple[int, int, int], budget: int, precision: Precision = "float32"
) -> InferencePlan:
    """Choose window and tile so that the peak stays within a budget.

    Parameters
    ----------
    model : STBN
        Where it is known how many frames its clips had, results depend on as many.
    shape : (frames, height, width)
    budget : int [bytes]
        Memory that may be taken, beside the movie.
    precision : {"float32", "bfloat16"}

    Returns
    -------
    InferencePlan

    Raises
    ------
    MemoryError
        If even single frames in the smallest tiles do not fit.
    """
    frames, height, width = shape
    config = model.config
    # The factors were set to the peak resident memory of networks of width 16, 32 and 64 on the
    # CPU, whole frames of 256 to 1024 px and tiles of 128 px: it stayed within a seventh above.
    state = config.width * height * width * (4 if precision == "float32" else 2)
    results = 12 * config.channels * height * width  # mean, deviation, prior mean

    def peak(window: int, tile: int) -> int:
        halo = 2 * (head_radius(config) + 4)
        share = 1.0
        if tile < max(height, width):
            sides = (min(tile, side) + halo for side in (height, width))
            share = min(1.0, math.prod(sides) / (height * width))
        # Backward states at the starts of windows wait for their turn.
        whole = model.clip_frames is None
        kept = math.ceil(frames / window) * state if whole and window < frames else 0
        return int(kept + window * (state + results) + (12 + 30 * share) * state + _SCRATCH)

    largest = 4 * math.ceil(max(height, width) / 4)
    if next(model.parameters()).device.type == "cpu":  # keep the time between two yields short
        largest = min(largest, max(_SMALLEST_TILE, 4 * (_CPU_TILE_WIDTH // config.width // 4)))
    tiles = [largest]
    while tiles[-1] > _SMALLEST_TILE:
        tiles.append(max(_SMALLEST_TILE, 4 * math.ceil(tiles[-1] / 8)))
    windows = sorted(
        {min(frames, w) for w in (64, 48, 32, 24, 16, 12, 8, 6, 4, 2, 1)}, reverse=True
    )
    clip = model.clip_frames
    if clip is not None and clip < frames:
        windows = [_block(clip)]
    for tile in tiles:  # large tiles first: halos cost time, windows cost nearly nothing
        for window in windows:
            if peak(window, tile) <= budget:
                return InferencePlan(window, tile, peak(window, tile), clip)
    least = min(peak(window, tiles[-1]) for window in windows)
    raise MemoryError(
        f"denoising frames of {height} x {width} needs {least / 1e9:.1f} GB, "
        f"{budget / 1e9:.1f} GB are free; "
        "close other programs, crop the movie, or choose a smaller preset"
    )


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
    runner = _Runner(model, movie, plan, precision, origins)
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
            prior = yield from _telling(runner.predict(past, future.pop(t)), done / total)
            runner.finish(t, prior, window)
            done += (total - first_pass) / runner.frames
            yield min(1.0, done / total)
        yield replace(window, fraction=min(1.0, done / total))


def _block(clip_frames: int) -> int:
    """Frames in the middle of a clip that are kept of it."""
    return max(1, clip_frames // 2)


def _clip_by_clip(
    runner: _Runner, clip_frames: int
) -> Generator[DenoisedWindow | float, None, None]:
    """Denoise every block of frames from the clip around it; clips at the ends are moved in."""
    frames, block = runner.frames, _block(clip_frames)
    for start in range(0, frames, block):
        stop = min(start + block, frames)
        first = min(max(0, start - (clip_frames - block) // 2), frames - clip_frames)
        steps = (first + clip_frames - start) + (stop - first) + (stop - start)
        done = iter((start + (stop - start) * k / steps) / frames for k in range(steps))
        future: dict[int, Tensor] = {}
        state = past = None
        for t in range(first + clip_frames - 1, start - 1, -1):
            state = yield from _telling(runner.step("from_future", t, state), next(done))
            if t < stop:
                future[t] = state
        window = runner.window(start, stop)
        for t in range(first, stop):
            past = yield from _telling(runner.step("from_past", t, past), next(done))
            if t >= start:
                prior = yield from _telling(runner.predict(past, future.pop(t)), next(done))
                runner.finish(t, prior, window)
        yield replace(window, fraction=stop / frames)


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
    runner = _Runner(model, movie, InferencePlan(1, tile, 0), precision, PATCH_ORIGINS[:1])
    past = future = None
    for s in range(max(0, t - reach), t + 1):
        past = yield from runner.step("from_past", s, past)
    for s in range(min(runner.frames - 1, t + reach), t - 1, -1):
        future = yield from runner.step("from_future", s, future)
    if past is None or future is None:
        raise IndexError(f"frame must be from 0 to {runner.frames - 1}, got {t}")
    prior = yield from runner.predict(past, future)
    window = runner.window(t, t + 1)
    runner.finish(t, prior, window)
    return replace(window, fraction=1.0)


def _telling(
    tiles: Generator[None, None, Tensor], fraction: float
) -> Generator[float, None, Tensor]:
    """Say how far the whole is after every tile."""
    return relay(tiles, lambda _: min(1.0, fraction))


class _Runner:
    """The steps of inference on one movie, in tiles.

    Each is a generator that yields after every tile and returns the whole.
    """

    def __init__(
        self,
        model: STBN,
        movie: PreparedMovie,
        plan: InferencePlan,
        precision: Precision,
        origins: Sequence[Shift],
    ) -> None:
        self.model, self.movie = model, movie
        self.network = FrozenSTBN(model, DTYPES[precision])
        self.origins = tuple(origins)
        self.tile = plan.tile
        self.device = next(model.parameters()).device
        self.frames, self.height, self.width = movie.shape

    def step(
        self, direction: Direction, t: int, neighbour: Tensor | None
    ) -> Generator[None, None, Tensor]:
        """State (1, width, Y, X) at frame t from the neighbouring frame's state.

        Or from nothing at the end of the movie.
        """
        frame = self._frame(t)
        if neighbour is None:
            return self._tiled(
                lambda f: self.network.begin(direction, f), [frame], state_radius(self.model.config)
            )
        flow = (
            self.movie.flow_to_previous[t - 1]
            if direction == "from_past"
            else self.movie.flow_to_next[t]
        )
        index = align_index(flow[None].to(self.device), self.model.config.alignment)
        aligned = gather(neighbour, index)
        return self._tiled(
            lambda f, a: self.network.advance(direction, f, a),
            [frame, aligned],
            state_radius(self.model.config),
        )

    def predict(self, past: Tensor, future: Tensor) -> Generator[None, None, Tensor]:
        """Prior (1, K, Y, X) from both states of a frame, averaged over the patches' origins."""
        priors = []
        for origin in self.origins:
            prior = yield from self._tiled(
                partial(self.network.predict, origin=origin),
                [past, future],
                head_radius(self.model.config),
            )
            priors.append(prior)
        return torch.stack(priors).mean(0)

    def window(self, start: int, stop: int) -> DenoisedWindow:
        """Room for the result of some frames."""
        mean, blind = (
            torch.empty(stop - start, len(self.movie.units), self.height, self.width)
            for _ in range(2)
        )
        fuses = self.network.config.covariance and all(
            u.noise is not None for u in self.movie.units
        )
        if not fuses:
            return DenoisedWindow(start, blind, None, blind, 0.0)
        return DenoisedWindow(start, mean, torch.empty_like(mean), blind, 0.0)

    @torch.no_grad()
    def finish(self, t: int, prior: Tensor, window: DenoisedWindow) -> None:
        """Turn the prior (1, K, Y, X) of a frame into intensities, and put them into its window."""
        movie, units, place = self.movie, self.movie.units, t - window.start
        prior = prior[:, None]
        blind = prior_mean(prior, units)[0, 0].cpu()
        window.prior[place] = blind
        if window.std is None:
            return
        noisy = movie.intensities[t : t + 1].to(self.device)[None]
        mean, std = (x[0, 0].cpu() for x in posterior(prior, noisy, units))
        valid = movie.valid[t : t + 1][0].cpu()
        blind_std = prior_std(prior, units)[0, 0].cpu()
        window.mean[place] = torch.where(valid, mean, blind)
        window.std[place] = torch.where(valid, std, blind_std)

    def _frame(self, t: int) -> Tensor:
        """Network input (1, C', Y, X) at frame t."""
        frame = self.movie.inputs[t][None].to(self.device)
        frame = network_input(frame, self.movie.units, self.model.config)
        return frame.contiguous(memory_format=torch.channels_last)

    def _tiled(
        self, function: Callable[..., Tensor], inputs: list[Tensor], radius: int
    ) -> Generator[None, None, Tensor]:
        """Apply a convolutional function of finite reach in tiles.

        Smaller tiles when memory runs out.
        """
        while True:
            try:
                return (yield from self._apply(function, inputs, 4 * math.ceil(radius / 4)))
            except RuntimeError as error:
                if not is_out_of_memory(error) or self.tile // 2 < _SMALLEST_TILE:
                    raise
                self.tile = 4 * math.ceil(self.tile / 8)
                release_cached(self.device)
                _logger.warning(
                    "out of memory on %s; going on with tiles of %d pixels", self.device, self.tile
                )

    def _apply(
        self, function: Callable[..., Tensor], inputs: list[Tensor], halo: int
    ) -> Generator[None, None, Tensor]:
        """One pass over the tiles.

        Their origins are multiples of 4, as patches of the spatial expansion are.
        """
        out = inputs[0].new_empty(0)
        for rows in _spans(self.height, self.tile, halo):
            for columns in _spans(self.width, self.tile, halo):
                piece = function(*(x[:, :, rows.outer, columns.outer] for x in inputs))
                if piece.shape[-2:] == (self.height, self.width):
                    out = piece
                else:
                    if out.numel() == 0:
                        out = piece.new_empty(*piece.shape[:2], self.height, self.width)
                        out = out.contiguous(memory_format=torch.channels_last)
                    out[:, :, rows.inner, columns.inner] = piece[:, :, rows.local, columns.local]
                yield
        return out


@dataclass(frozen=True)
class _Span:
    """One tile along one axis: what it reads, what it writes.

    And where that lies in what it read.
    """

    outer: slice
    inner: slice
    local: slice


def _spans(length: int, tile: int, halo: int) -> Iterator[_Span]:
    """Cut an axis into tiles with halos."""
    for start in range(0, length, tile):
        stop = min(start + tile, length)
        first, last = max(0, start - halo), min(length, stop + halo)
        yield _Span(slice(first, last), slice(start, stop), slice(start - first, stop - first))
