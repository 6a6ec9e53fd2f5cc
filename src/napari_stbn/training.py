"""The fit: a generator of steps. Progress is what it yields, cancel is not asking for more.

An error keeps its own type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ._fit import Fit
from ._fit_movies import frames_seen
from ._fit_parts import Average, FitFile, Knot
from ._training_config import UNLIMITED_STEPS, TrainingConfig
from .network import STBN
from .precision import Precision
from .preparation import PreparedMovie

__all__ = [
    "UNLIMITED_STEPS",
    "GivenUpError",
    "TrainingConfig",
    "TrainingStep",
    "frames_seen",
    "training_steps",
]


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


class GivenUpError(Exception):
    """Thrown into the generator of a fit by who wants nothing of it: it ends at once."""


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
        the averaged weights, which takes some seconds; after a `GivenUpError` those of the last
        step.
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
    fit = Fit(
        model,
        movies,
        config,
        generator=generator,
        precision=precision,
        average=average,
        warm=warm,
    )
    file = FitFile(checkpoint, fit.identity)
    fit.restore(file)
    kept = True
    try:
        while True:
            loss, held_out = fit.advance()
            spent = yield _told(fit, loss, held_out)
            if fit.fraction >= 1:
                file.remove()
                return
            if spent:
                fit.spend(spent)
            if file.due(fit.elapsed):
                fit.save(file, beside() if beside else None)
    except GivenUpError:
        kept = False
        raise
    finally:
        if kept:
            fit.close()


def _told(fit: Fit, loss: float, held_out: float | None) -> TrainingStep:
    """Where a fit stands after a step."""
    part, elapsed = fit.fraction, fit.elapsed
    shown = max(part, min(1.0, elapsed / (fit.config.time_budget or math.inf)))
    return TrainingStep(
        step=fit.step,
        loss=loss,
        held_out=held_out,
        elapsed=elapsed,
        remaining=elapsed * (1 - shown) / max(shown, 1e-6),
        fraction=shown,
        learning_rate=fit.learning_rate,
        skipped=fit.skipped,
        part=part,
        pace=tuple(fit.schedule.knots),
        start_held_out=fit.start_loss,
    )
