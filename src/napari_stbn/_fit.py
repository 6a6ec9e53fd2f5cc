"""A fit between two of its steps: the weights, what moves them, and what was measured."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ._fit_movies import check, frames_seen, gently, identity_of, passes_a_step, pixels_of
from ._fit_parts import Adam, Average, FitFile, Schedule
from ._fit_path import FitPath
from ._held_out import HeldOutScore, Start, held_out_score, score_priors
from ._least_squares import Seen, solve_last
from ._settling import Settled, settle
from ._training_config import TrainingConfig
from ._width import keep_width, looked_at
from .clips import ClipSampler
from .network import STBN
from .precision import Precision
from .preparation import PreparedMovie

__all__ = ["Checks", "Fit"]

_STEPS_A_CHECK = 6  # at least, where the number of steps is known
_TRIED = 3  # steps in a row whose gradient is not finite, before the safe path is taken
_GIVEN_UP = 10  # the same, before the fit ends with an error
_WORST = 1e30  # stands for a loss that was not measured yet, where infinity cannot be written
# Up to so many passes a fit from learnt weights may be led faster. In 10, three times the learning
# rate gained .1 dB on average of ten movies, and .4 on what the weights knew least; in 50 it learnt
# more by heart at 5 photons, and lost .06.
_FEW, _FASTEST = 40.0, 3.0
# Clips that the last layer is solved on beside those with held-out blocks, one for so many steps.
_MORE_CLIPS, _STEPS_A_CLIP = 6, 8
_GAIN = 2e-4  # nats a pixel: about 0.03 dB where the error is a quarter of the noise


@dataclass
class Checks:
    """When the held-out blocks are scored, and since how many times without a gain.

    Attributes
    ----------
    between, next : float
        Parts of the fit: from one score to the next, and where that is due.
    best : float [nats]
        Lowest blind loss so far.
    since_best : int
        Scores since then.
    """

    between: float
    next: float
    best: float = math.inf
    since_best: int = 0

    @classmethod
    def of(cls, config: TrainingConfig) -> Checks:
        """Those of a plan."""
        between = 1 / config.checks
        if config.time_budget is None and config.pace is None:
            between = max(between, _STEPS_A_CHECK / config.max_steps)
        return cls(between, between)

    def due(self, fraction: float) -> bool:
        """Whether the blocks are to be scored, with this part of the fit done."""
        return fraction >= min(self.next, 1)

    def take(self, loss: float, fraction: float) -> None:
        """Note a score."""
        self.next = fraction + self.between
        if loss < self.best - _GAIN:
            self.best, self.since_best = loss, 0
        else:
            self.since_best += 1


class Fit:
    """A fit that takes one step at a time.

    Parameters
    ----------
    model, movies, config, generator, precision, warm
        As `napari_stbn.training.training_steps` has them.
    average : Average
        Filled with the averaged weights.

    Attributes
    ----------
    step, skipped : int
        Steps done, and those of them whose gradient was not finite.
    elapsed : float [s]
        Of work.
    learning_rate : float
        Of the last step.
    identity : dict
        Plain values that tell this fit from others.

    Raises
    ------
    ValueError
        If there is no movie, or one does not fit the model.
    """

    def __init__(
        self,
        model: STBN,
        movies: Sequence[PreparedMovie],
        config: TrainingConfig,
        *,
        generator: torch.Generator,
        precision: Precision,
        average: Average | None,
        warm: bool,
    ) -> None:
        check(model, movies)
        self._filter = model.near.weight.clone(), model.near.noise.clone()
        model.near.clear()  # it is of another movie
        if warm:
            config = gently(config, movies)
        self.model, self.config, self.generator = model, config, generator
        self._pixels, self._passes_a_step = pixels_of(movies), passes_a_step(movies, config)
        self.step, self.skipped, self.elapsed, self.learning_rate = 0, 0, 0.0, 0.0
        self.identity = identity_of(model, movies, config, precision)
        extent = config.clip_frames, config.clip_size
        self._sampler = ClipSampler(movies, *extent, config.batch, generator)
        self._held_out = self._sampler.held_out()  # views: flow refined meanwhile is theirs too
        self._optimizer = Adam(
            model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), fused=True
        )
        self.average = average or Average(model, config.averaging)
        model.clip_frames = frames_seen(model, config, warm=warm)
        self._path = FitPath(model, precision)
        self._start = Start(self.average.parameters) if warm else None
        self.schedule, self._checks = Schedule(config), Checks.of(config)
        self._skipped_in_a_row = 0
        self._scored_at = 0  # step

    # ------------------------------------------------------------ where it stands

    @property
    def fraction(self) -> float:
        """Part of the fit that is done, by the number of steps alone."""
        return self.schedule.fraction(self.step)

    @property
    def start_loss(self) -> float | None:
        """Blind loss of learnt weights before the fit; None before it was measured."""
        return None if self._start is None else self._start.loss

    def restore(self, file: FitFile) -> None:
        """Go on from the state in a file, where there is one.

        Raises
        ------
        ValueError
            If it is damaged, or of another fit.
        """
        counters = file.restore(self.average, self._optimizer, self.generator)
        if counters is None:
            return
        checks, schedule = self._checks, self.schedule
        checks.best, checks.since_best = counters["best"], counters["since_best"]
        checks.next = counters["next"]
        self.step, self.skipped = counters["step"], counters["skipped"]
        self.elapsed = counters["elapsed"]
        schedule.end, schedule.decay_from = counters["end"], counters["decay_from"]
        schedule.knots = [(s, f, e) for s, f, e in counters["knots"]]
        schedule.resume(self.step, self.elapsed)
        if counters.get("safe"):
            self._path.play_safe()

    def save(self, file: FitFile, beside: Mapping[str, Tensor] | None) -> None:
        """Write all that the next step depends on to a file."""
        counters = {
            "step": self.step,
            "skipped": self.skipped,
            "elapsed": self.elapsed,
            "best": min(self._checks.best, _WORST),
            "since_best": self._checks.since_best,
            "next": self._checks.next,
            "end": self.schedule.end,
            "decay_from": self.schedule.decay_from,
            "knots": self.schedule.knots,
            "safe": self._path.safe,
        }
        file.save(counters, self.average, self._optimizer, self.generator, beside)

    def spend(self, seconds: float) -> None:
        """Count other work for this fit in its time budget."""
        self.elapsed += seconds
        self.schedule.skip(seconds)

    # ------------------------------------------------------------ a step

    def advance(self) -> tuple[float, float | None]:
        """Take a step; its blind loss, and that on the held-out blocks where they were scored.

        Raises
        ------
        FloatingPointError
            If this was the tenth step in a row whose gradient is not finite.
        """
        with self._clock():
            if self._start is not None and self.step:  # the first step takes long enough by itself
                self._start.measure(self._score)
            loss = self._one_step()
        self.schedule.follow(self.step, self.elapsed)
        fraction, held_out = self.fraction, None
        if self._checks.due(fraction):
            with self._clock():
                held_out = self._check_average(fraction)
        return float(loss), held_out

    def _one_step(self) -> Tensor:
        """Draw clips, follow the gradient of their blind loss."""
        fraction = self.fraction
        self.learning_rate = self._pull() * self.schedule.learning_rate(self.step, fraction)
        self._optimizer.zero_grad(set_to_none=True)
        clip = self._sampler.draw().to(next(self.model.parameters()).device)
        loss = self._path.backward(clip, self.config.beta * self.schedule.decay(fraction))
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_norm)
        self.step += 1
        if bool(torch.isfinite(norm)):
            for group in self._optimizer.param_groups:
                group["lr"] = self.learning_rate
            self._optimizer.step()
            self.average.update(self.step - self.skipped)
            self._skipped_in_a_row = 0
        else:
            self._skip()
        return loss.detach()

    def _pull(self) -> float:
        """Factor on the learning rate: a fit that sees each pixel seldom has no time to lose."""
        if self._start is None:
            return 1.0
        passes = self.schedule.planned(self.step) * self._passes_a_step
        return min(max(math.sqrt(_FEW / passes), 1.0), _FASTEST)

    def _skip(self) -> None:
        """Leave the weights as they are; take the safe path where that happens again and again."""
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row == _TRIED:
            self._path.play_safe()
        if self._skipped_in_a_row == _GIVEN_UP:
            raise FloatingPointError(
                "ten steps in a row had gradients that are not finite, in float32 too; does the "
                "movie hold values far beyond its range, or is the learning rate too high?"
            )

    def _check_average(self, fraction: float) -> float:
        """Blind loss of the averaged weights on the held-out blocks; it may end the fit."""
        self.average.swap()
        score = self._score()
        self.average.swap()
        self._scored_at = self.step
        if self._start is not None:
            self._start.last = score
        self._checks.take(score.loss, fraction)
        if self.config.patience and self._checks.since_best >= self.config.patience:
            self.schedule.wind_down(fraction)
        return score.loss

    def _score(self) -> HeldOutScore:
        """The weights as they are, on the held-out blocks."""
        return held_out_score(self._path, self._held_out)

    @contextmanager
    def _clock(self) -> Iterator[None]:
        """Count the seconds spent inside as work."""
        started = time.perf_counter()
        yield
        self.elapsed += time.perf_counter() - started

    # ------------------------------------------------------------ the end

    def close(self) -> None:
        """Leave the averaged weights in the model; from learnt ones, as far as they gain.

        Fresh weights have no last step: it makes the mean better, and the width, which is then far
        too large, cannot be told from that of a start.
        """
        self.average.swap()
        if self._start is None:
            return
        if self._start.loss is not None and self._scored_at != self.step:  # stopped between checks
            self._start.last = self._score()
        passes = self.step * self._passes_a_step
        settled = settle(self._path, self._start, self._held_out, passes, self._pixels)
        if settled.part:
            self._solve_last(self._start, settled)
        else:
            self.model.near.set(*self._filter)  # all is as it was

    @torch.no_grad()
    def _solve_last(self, start: Start, settled: Settled) -> None:
        """Take the last step, which is linear; set the width by what all steps changed."""
        device = next(self.model.parameters()).device
        # By the steps alone, also where they were broken off: so a run can be repeated.
        more = min(_MORE_CLIPS, self.step // _STEPS_A_CLIP)
        seen = []
        for number, (clip, weight) in enumerate(self._sampler.learnt_from(more)):
            clip = clip.to(device)
            known = settled.after[number : number + 1]
            looked = known[0] if known else looked_at(self._path, clip)
            seen.append(Seen(clip, weight.to(device), *looked))
        held_out = seen[: len(self._held_out)]
        priors, clips = [s.prior for s in held_out], [s.clip for s in held_out]
        score = score_priors(priors, clips)
        priors, score = solve_last(self.model, seen, score) or (priors, score)
        start.last = score
        after = [(p, s.features) for p, s in zip(priors, held_out, strict=False)]
        keep_width(self.model, start, clips, settled.before, after)
