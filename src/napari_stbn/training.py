"""The fit: a generator of steps. Progress is what it yields, cancel is not asking for more.

An error keeps its own type.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from ._fit_parts import Adam, Average, FitFile, Knot, Schedule
from ._fit_path import FitPath
from ._held_out import Start, held_out_score
from ._settling import settle
from ._training_config import UNLIMITED_STEPS, TrainingConfig
from .clips import ClipSampler
from .network import STBN
from .precision import Precision
from .preparation import PreparedMovie

__all__ = [
    "UNLIMITED_STEPS",
    "TrainingConfig",
    "TrainingStep",
    "frames_seen",
    "training_steps",
]

_STEPS_A_CHECK = 6  # at least, where the number of steps is known
_PASSES = 100  # over all pixels, in a fit from learnt weights under a time budget
_TRIED = 3  # steps in a row whose gradient is not finite, before the safe path is taken
_WORST = 1e30  # stands for a loss that was not measured yet, where infinity cannot be written
_GAIN = 2e-4  # nats a pixel: about 0.03 dB where the error is a quarter of the noise


@dataclass(frozen=True)
class TrainingStep:
    """Where a fit stands.

    Attributes
    ----------
    step
        Steps done.
    loss
        Blind loss of this step's clip.
    held_out
        Blind loss of the averaged weights on the held-out blocks, in the steps where it was
        measured, else None.
    start_held_out
        The same of the weights that the fit began with, None where those were random. If it is
        lower than the last of `held_out`, the fit ends with these weights.
    elapsed, remaining
        Seconds of work so far, and expected to come.
    fraction
        Part of the fit that is done, 0 to 1.
    learning_rate
        Of this step.
    skipped
        Steps so far whose gradient was not finite; they changed nothing.
    part
        The same without a look at the clock: in a fit that is repeated by its pace it is the same.
    pace
        (step, part of the fit done, part done by each step from there on), as far as known: with it
        a fit with a time budget is repeated (`TrainingConfig.pace`).
    """

    step: int
    loss: float
    held_out: float | None
    elapsed: float
    remaining: float
    fraction: float
    learning_rate: float
    skipped: int
    part: float = 0.0
    pace: tuple[Knot, ...] = ()
    start_held_out: float | None = None


def _identity(
    model: STBN, movies: Sequence[PreparedMovie], config: TrainingConfig, precision: Precision
) -> dict[str, Any]:
    """Plain values that tell this fit from others.

    Without the time budget: what noise and flow leave of it differs from run to run.
    """
    return {
        "network": asdict(model.config),
        "training": asdict(replace(config, time_budget=None, pace=None)),
        "pace": [list(knot) for knot in config.pace or ()],
        "start": crc32(b"".join(p.detach().cpu().numpy().tobytes() for p in model.parameters())),
        "precision": precision,
        "movies": [[*m.inputs.shape, crc32(m.intensities.cpu().numpy().tobytes())] for m in movies],
    }


def _enough_steps(movies: Sequence[PreparedMovie], config: TrainingConfig) -> int:
    """Steps after which a fit from learnt weights has seen each pixel often enough.

    With more it learns the noise of a small movie by heart. On one of half a million pixels 80
    passes gained .6 dB over the start, and 350 ended below it.
    """
    return math.ceil(_PASSES / _passes_a_step(movies, config))


def frames_seen(model: STBN, config: TrainingConfig, *, warm: bool) -> int:
    """Frames of the longest clip that a model has met after a fit: how far it can look.

    A fit from learnt weights leaves them near enough to what they were to look as far as before.
    Still scenes gain most by that.

    Parameters
    ----------
    model : STBN
        Before the fit.
    config : TrainingConfig
    warm : bool
        Its weights were learnt before.

    Returns
    -------
    int [frames]
    """
    before = model.clip_frames if warm else None
    return max(config.clip_frames, before or 0)


def _passes_a_step(movies: Sequence[PreparedMovie], config: TrainingConfig) -> float:
    """Part of all pixels that a step sees."""
    extent = (config.clip_frames, config.clip_size, config.clip_size)
    seen = sum(config.batch * math.prod(map(min, extent, m.shape)) for m in movies) / len(movies)
    return seen / sum(math.prod(m.shape) for m in movies)


def training_steps(
    model: STBN,
    movies: Sequence[PreparedMovie],
    config: TrainingConfig,
    *,
    generator: torch.Generator,
    precision: Precision = "float32",
    checkpoint: Path | None = None,
    average: Average | None = None,
    warm: bool = False,
    beside: Callable[[], Mapping[str, Tensor]] | None = None,
) -> Generator[TrainingStep, float | None, None]:
    """Fit a network to noisy movies, in place.

    Parameters
    ----------
    model : STBN
        On the device where the fit shall run. When the generator ends, or is closed early, it holds
        the averaged weights.
    movies : sequence of PreparedMovie
        What to learn from; all with as many channels as the model.
    config : TrainingConfig
        Steps, seconds, clips, rates.
    generator : torch.Generator
        The only source of chance, on the CPU.
    precision : {"float32", "bfloat16"}, default "float32"
        Of the network's inner layers; see `napari_stbn.precision.choose_precision`.
    checkpoint : Path, optional
        Keep the state of the fit in this file every 20 seconds of work, and go on from it where it
        exists; removed when the fit is done. On the CPU a fit that goes on gives the same numbers.
    average : Average, optional
        Filled with the averaged weights, for a look at them between two steps.
    warm : bool, default False
        The model's weights were learnt before: go on gently, and follow the fit in the end as far
        as it gains (`napari_stbn._settling`); not at all if the error on the held-out blocks surely
        got higher.
    beside : callable, optional
        What else to keep in the checkpoint, such as the state of what refines the flow.

    Yields
    ------
    TrainingStep
        After each step. Seconds that are sent back were spent on other work for this fit, and count
        in its time budget.

    Raises
    ------
    ValueError
        If there is no movie, one does not fit the model, or the checkpoint is of another fit.
    FloatingPointError
        If ten steps in a row have gradients that are not finite.

    Notes
    -----
    Adam with a linear rise, plateau and cosine decay of the learning rate, gradients clipped
    (paper: Adam, gradient norm 1, step-wise halving). Averaged weights are evaluated on blocks of
    the movie that no step was fitted to; when their blind loss no longer falls, the fit winds down.
    Under a time budget a fit from learnt weights ends when it has seen each pixel 100 times.
    """
    if not movies:
        raise ValueError("there is no movie to fit to")
    for movie in movies:
        if movie.inputs.shape[1] != model.config.channels:
            raise ValueError(
                f"the model takes {model.config.channels} channels, "
                f"got a movie with {movie.inputs.shape[1]}"
            )
    device = next(model.parameters()).device
    sampler = ClipSampler(movies, config.clip_frames, config.clip_size, config.batch, generator)
    held_out = sampler.held_out()  # views: flow that is refined meanwhile is theirs too
    optimizer = Adam(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), fused=True)
    average = average or Average(model, config.averaging)
    model.clip_frames = frames_seen(model, config, warm=warm)
    path = FitPath(model, precision)
    if warm:  # such a network is no longer unsure everywhere, which is what beta is for
        config = replace(config, learning_rate=config.warm_learning_rate, beta=0.0)
        if config.time_budget is not None:  # which says how long at most
            enough = min(config.max_steps, _enough_steps(movies, config))
            config = replace(config, max_steps=enough)
    start = Start(average.parameters) if warm else None
    schedule = Schedule(config)
    between = 1 / config.checks  # evaluations, as a part of the fit
    if config.time_budget is None and config.pace is None:
        between = max(between, _STEPS_A_CHECK / config.max_steps)
    best, since_best, next_check = math.inf, 0, between
    elapsed, step, skipped, skipped_in_a_row = 0.0, 0, 0, 0
    measured = 0  # step of the last evaluation of the held-out blocks
    file = FitFile(checkpoint, _identity(model, movies, config, precision))
    if (counters := file.restore(average, optimizer, generator)) is not None:
        best, since_best, next_check = counters["best"], counters["since_best"], counters["next"]
        elapsed, step, skipped = counters["elapsed"], counters["step"], counters["skipped"]
        schedule.end, schedule.decay_from = counters["end"], counters["decay_from"]
        schedule.knots = [(s, f, e) for s, f, e in counters["knots"]]
        schedule.resume(step, elapsed)
        if counters.get("safe"):
            path.play_safe()
    try:
        while True:
            started = time.perf_counter()
            if start is not None and step:  # the first step takes long enough by itself
                start.measure(lambda: held_out_score(path, held_out))
            fraction = schedule.fraction(step)
            rate = schedule.learning_rate(step, fraction)
            optimizer.zero_grad(set_to_none=True)
            clip = sampler.draw().to(device)
            loss = path.backward(clip, config.beta * schedule.decay(fraction))
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_norm)
            step += 1
            if bool(torch.isfinite(norm)):
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
                average.update(step - skipped)
                skipped_in_a_row = 0
            else:
                skipped, skipped_in_a_row = skipped + 1, skipped_in_a_row + 1
                if skipped_in_a_row == _TRIED:
                    path.play_safe()
                if skipped_in_a_row == 10:
                    raise FloatingPointError(
                        "ten steps in a row had gradients that are not finite, in float32 too; "
                        "does the movie hold values far beyond its range, or is the learning "
                        "rate too high?"
                    )
            elapsed += time.perf_counter() - started
            started = time.perf_counter()
            schedule.follow(step, elapsed)
            fraction = schedule.fraction(step)
            score = None
            if fraction >= next_check or fraction >= 1:
                next_check = fraction + between
                average.swap()
                measured_score = held_out_score(path, held_out)
                average.swap()
                score, measured = measured_score.loss, step
                if start is not None:
                    start.last = measured_score
                if score < best - _GAIN:
                    best, since_best = score, 0
                else:
                    since_best += 1
                if config.patience and since_best >= config.patience:
                    schedule.wind_down(fraction)
            elapsed += time.perf_counter() - started
            fraction = schedule.fraction(step)
            shown = max(fraction, min(1.0, elapsed / (config.time_budget or math.inf)))
            spent = yield TrainingStep(
                step=step,
                loss=float(loss.detach()),
                held_out=score,
                elapsed=elapsed,
                remaining=elapsed * (1 - shown) / max(shown, 1e-6),
                fraction=shown,
                learning_rate=rate,
                skipped=skipped,
                part=fraction,
                pace=tuple(schedule.knots),
                start_held_out=None if start is None else start.loss,
            )
            if fraction >= 1:
                file.remove()
                return
            if spent:
                elapsed += spent
                schedule.skip(spent)
            if file.due(elapsed):
                counters = {
                    "step": step,
                    "skipped": skipped,
                    "elapsed": elapsed,
                    "best": min(best, _WORST),
                    "since_best": since_best,
                    "next": next_check,
                    "end": schedule.end,
                    "decay_from": schedule.decay_from,
                    "knots": schedule.knots,
                    "safe": path.safe,
                }
                file.save(counters, average, optimizer, generator, beside() if beside else None)
    finally:
        average.swap()
        if start is not None:
            if start.loss is not None and measured != step:  # the fit was stopped between checks
                start.last = held_out_score(path, held_out)
            pixels = sum(math.prod(m.shape) for m in movies)
            settle(path, start, held_out, step * _passes_a_step(movies, config), pixels)
