"""Train the weights that a fit can start from, on simulated movies of all kinds and noise levels.

``python benchmarks/pretrain.py --minutes 75 --cache CACHE --output weights.stbn`` can be stopped at
any time and called again: it goes on from the state in CACHE. See docs/warm_start.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import fields
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from _batches import Batch, ScenePool
from _common import use_threads
from _pool import FIRST_TRAINING_SEED, Scene, validation_scenes
from _pretrain_width import FIRST_WIDTH_SEED, LEAST_WIDTH, learn_width
from _scene_files import Arriving, make_scenes, read_first
from _widen import widened
from napari_stbn._fit_parts import Average, FitFile, Schedule
from napari_stbn._recorded import Recorder, loss_and_gradients
from napari_stbn._saved_model import SavedModel
from napari_stbn.network import STBN, STBNConfig
from napari_stbn.network.paired import paired_forward
from napari_stbn.precision import (
    DTYPES,
    Precision,
    autocast,
    choose_precision,
    paired_is_right,
)
from napari_stbn.prior import Units, blind_loss, posterior, prior_mean
from napari_stbn.training import UNLIMITED_STEPS, TrainingConfig

SIZES = {
    "small": STBNConfig(noise_input=True),
    "standard": STBNConfig(width=32, head_blocks=2, noise_input=True),
}
_WIDTH_WEIGHT = 0.25
# (from this part of the training on, clips in a step, frames, side [px]). Small clips while the
# learning rate is high; long large ones, as inference will see them, while it falls.
STAGES = ((0.0, 4, 16, 32), (0.4, 2, 24, 48), (0.7, 2, 32, 48))


def main() -> None:
    """Make or load the scenes, train for the time given, write the averaged weights."""
    options = _options()
    use_threads(options.threads)
    cache: Path = options.cache
    started = time.perf_counter()
    flow_from = options.flow_from or options.start
    training, width = (
        range(first, first + number)
        for first, number in (
            (FIRST_TRAINING_SEED, 1 if options.width_only else options.scenes),
            (FIRST_WIDTH_SEED, options.width_scenes),
        )
    )
    if not options.train_on:
        for number in make_scenes([*training, *width], cache, flow_from, options.processes):
            if number % 50 == 0:
                _log(f"{number} scenes after {time.perf_counter() - started:.0f} s")
    if options.scenes_only:
        return
    arriving = Arriving(training, cache)
    config = SIZES[options.size]
    device = torch.device(options.device)
    model = STBN.seeded(config, options.seed)
    if (start := read_first(options.start)) is not None:
        try:
            model = widened(start, config, options.seed)
        except ValueError as error:
            raise SystemExit(f"--start has another size than {options.size}: {error}") from error
    model.clip_frames = STAGES[-1][2]
    model.place(device)
    precision = options.precision or choose_precision(config, device)
    begin_with = min(options.train_on or len(training), len(training))
    scenes = ScenePool(arriving.first(begin_with), device, len(training))
    trainer = Trainer(model, scenes, options, precision, read_first(flow_from), arriving=arriving)
    if not options.width_only:
        trainer.run()
    if options.width_only or (options.width_steps and trainer.done):
        others = Arriving(width, cache).first(len(width))
        found = learn_width(
            model,
            others,
            options.width_steps,
            partial(predict, model, precision="float32"),
            options.seed,
        )
        _log(f"width: loss {found[0]:.4f} before, {found[1]:.4f} after")
        trainer.validate()
    write_weights(options.output, model, options.seed, trainer.step)
    _log(f"wrote {options.output}, {options.output.stat().st_size / 1e6:.2f} MB")


def _options() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument(
        "--minutes", type=float, default=60.0, help="of training, all calls together"
    )
    limit.add_argument("--hours", type=float, help="the same in hours")
    parser.add_argument("--steps", type=int, default=UNLIMITED_STEPS, help="steps at most")
    parser.add_argument("--stop-after", type=int, help="stop this call after so many steps")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--times", type=int, default=1, help="as many clips in a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--start", type=Path, help="model file to go on from (or a smaller one: it is widened)"
    )
    parser.add_argument(
        "--flow-from", type=Path, help="model file that scenes take their flow from; or --start"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="default: tried")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scenes", type=int, default=480, help="movies that are simulated")
    parser.add_argument("--processes", type=int, default=1, help="that make the scenes")
    parser.add_argument("--scenes-only", action="store_true", help="make them, train nothing")
    parser.add_argument(
        "--train-on",
        type=int,
        default=0,
        metavar="N",
        help="begin when N scenes are there, while another call makes the rest (--scenes-only)",
    )
    parser.add_argument("--width-scenes", type=int, default=200, help="others, for the width")
    parser.add_argument(
        "--width-steps", type=int, default=5000, help="of the width at the end; or 0"
    )
    parser.add_argument("--width-only", action="store_true", help="of --start, nothing else")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--cache", type=Path, required=True, help="folder of scenes and state")
    parser.add_argument("--output", type=Path, required=True, help="file of the weights")
    parser.add_argument("--validate-every", type=float, default=300.0, help="seconds; 0 never")
    return parser.parse_args()


class Trainer:
    """The training: clips of many movies in each step, state in a file, weights averaged."""

    def __init__(
        self,
        model: STBN,
        scenes: ScenePool,
        options: argparse.Namespace,
        precision: Precision,
        first: STBN | None,
        *,
        name: str | None = None,
        stages: Sequence[tuple[float, int, int, int]] | None = None,
        arriving: Arriving | None = None,
    ) -> None:
        self.first, self.stages = first, STAGES if stages is None else stages
        self.paired = paired_is_right(model.config, next(model.parameters()).device, precision)
        self.model, self.scenes, self.precision = model, scenes, precision
        self.options, self.arriving = options, arriving
        self.device = next(model.parameters()).device
        self.generator = torch.Generator().manual_seed(options.seed)
        seconds = 60 * (60 * options.hours if options.hours else options.minutes)
        self.config = TrainingConfig(
            max_steps=options.steps,
            time_budget=None if options.steps < UNLIMITED_STEPS else seconds,
            learning_rate=options.learning_rate,
        )
        self.schedule = Schedule(self.config)
        self.average = Average(model, self.config.averaging)
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=self.config.learning_rate, betas=(0.9, 0.99), fused=True
        )
        name = name or options.size
        identity = {
            "size": name,
            "seed": options.seed,
            "scenes": options.scenes,
            "times": options.times,
            "learning_rate": options.learning_rate,
            "start": str(options.start),
            "precision": precision,
        }
        options.cache.mkdir(parents=True, exist_ok=True)
        self.file = FitFile(options.cache / f"state_{name}_{options.seed}.stbn", identity)
        self.step, self.elapsed, self.recent = 0, 0.0, torch.zeros((), device=self.device)
        self.recorder, self.stage = Recorder(), self.stages[0]
        if (
            counters := self.file.restore(self.average, self.optimizer, self.generator)
        ) is not None:
            self.step, self.elapsed = counters["step"], counters["elapsed"]
            self.recent = torch.tensor(counters["recent"], device=self.device)
            self.schedule.knots = [(s, f, e) for s, f, e in counters["knots"]]
            self.schedule.resume(self.step, self.elapsed)
        self.validation: list[tuple[str, float, Scene]] = []

    @property
    def done(self) -> bool:
        """Whether the budget is used up."""
        return self.schedule.fraction(self.step) >= 1

    def run(self) -> None:
        """Train to the end of the budget; the model then holds the averaged weights."""
        validate_every = self.options.validate_every
        next_validation, first = self.elapsed, self.step
        try:
            while (fraction := self.schedule.fraction(self.step)) < 1:
                if self.step - first == self.options.stop_after:
                    break
                started = time.perf_counter()
                loss = self._one_step(fraction)
                self.recent = loss.clone() if self.step == 1 else self.recent.lerp(loss, 0.01)
                self.elapsed += time.perf_counter() - started
                self.schedule.follow(self.step, self.elapsed)
                if validate_every and self.elapsed >= next_validation:
                    self._validate()
                    next_validation = self.elapsed + validate_every
                if self.file.due(self.elapsed):
                    self._save()
                    self._write_latest()
                    _log(f"{self.elapsed:.0f} s, step {self.step}, loss {float(self.recent):.4f}")
            if validate_every:
                self._validate()
            self._save()
        finally:
            self.average.swap()

    def _one_step(self, fraction: float) -> Tensor:
        """Draw clips of several movies, take one step of Adam; the loss."""
        for scene in self.arriving.here() if self.arriving is not None else ():
            self.scenes.add(scene)
        stage = [stage for stage in self.stages if stage[0] <= fraction][-1]
        if stage != self.stage:
            self.recorder.forget()  # of other shapes
        _, clips, frames, size = self.stage = stage
        clips *= self.options.times
        batch = self.scenes.draw(clips, frames, size, self.generator)
        beta = self.config.beta * self.schedule.decay(fraction)
        loss = self._loss_and_gradients(batch, beta)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate(self.step, fraction)
        self.step += 1
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
            self.average.update(self.step)
        else:
            _log(f"step {self.step}: gradient not finite, skipped")
        return loss

    def _loss_and_gradients(self, batch: Batch, beta: float) -> Tensor:
        """The loss; gradients are in the weights afterwards."""

        def loss_of(model: STBN, beta: Tensor, *tensors: Tensor) -> Tensor:
            clips = Batch(*tensors)
            prior = predict(model, clips, self.precision, paired=self.paired)
            return training_loss(prior, clips, beta)

        power = torch.full((), beta, device=self.device)
        tensors = [power, *(getattr(batch, field.name) for field in fields(batch))]
        loss, *gradients = self.recorder(
            None, partial(loss_and_gradients, self.model, loss_of), tensors
        )
        for parameter, gradient in zip(self.model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        return loss

    def _save(self) -> None:
        """State to the file."""
        counters = {
            # What a fit to one movie counts besides, and `FitFile` looks for.
            "skipped": 0,
            "since_best": 0,
            "best": 0.0,
            "next": 0.0,
            "end": None,
            "decay_from": self.schedule.decay_from,
            "step": self.step,
            "elapsed": self.elapsed,
            "recent": float(self.recent),
            "knots": self.schedule.knots,
        }
        self.file.save(counters, self.average, self.optimizer, self.generator)

    def _validate(self) -> None:
        """Validate the averaged weights."""
        self.average.swap()
        self.validate()
        self.average.swap()

    def _write_latest(self) -> None:
        """Write the averaged weights."""
        self.average.swap()
        write_weights(
            self.options.output.with_suffix(".latest.stbn"),
            self.model,
            self.options.seed,
            self.step,
        )
        self.average.swap()

    def validate(self) -> None:
        """Log blind loss and PSNR of the model as it is."""
        started = time.perf_counter()
        self.validation = self.validation or list(validation_scenes(self.first))
        by_level: dict[float, list[tuple[float, ...]]] = {}
        for _, photons, scene in self.validation:
            by_level.setdefault(photons, []).append(evaluate(self.model, scene))
        means = {p: torch.tensor(v).mean(0).tolist() for p, v in by_level.items()}
        levels = "; ".join(f"{p:g} ph: {m[1]:.2f} / {m[2]:.2f}" for p, m in means.items())
        loss, prior, after, inside = torch.tensor(list(means.values())).mean(0).tolist()
        _log(
            f"{self.elapsed:.0f} s, step {self.step}, training loss {self.recent:.4f}, validation "
            f"loss {loss:.4f}, PSNR of prior / posterior {prior:.2f} / {after:.2f} dB ({levels}), "
            f"truth within 1 std {inside:.0f} %; validated in {time.perf_counter() - started:.0f} s"
        )


def predict(model: STBN, batch: Batch, precision: Precision, *, paired: bool = False) -> Tensor:
    """Prior (B, T, K, H, W) of clips of different movies, each told of its own noise."""
    given = batch.inputs, batch.flow_to_previous, batch.flow_to_next
    if paired:
        return paired_forward(model, *given, DTYPES[precision])
    with autocast(batch.inputs.device, precision):
        prior: Tensor = model(*given)
    return prior


def expected_loss(prior: Tensor, batch: Batch, beta: float | Tensor = 0.0) -> Tensor:
    """Mean of `napari_stbn.prior.blind_loss` over the noise of the pixels that are predicted.

    The noise of a pixel is independent of its blind prior, so ``E (y - m)^2 = (x - m)^2 + s^2(x)``:
    the same objective with the same gradient on average, without the part of the gradient's noise
    that the pixels' own noise makes. Divided by the mean weight of `beta` in each clip, so that
    bright movies, whose errors are many standard deviations of their noise, do not outweigh the
    others.
    """
    assumed, offset, scale = batch.units
    mean = assumed.unstabilize(prior[:, :, :1] * scale + offset)
    total = 1 + (prior[:, :, 1:2] * scale).square()
    distance = (batch.clean - mean).square() + batch.true_variance
    distance = distance / assumed.variance(mean.detach())
    weight = total.detach() ** beta
    loss = (0.5 * (distance / total + total.log()) * weight).sum((1, 2, 3, 4))
    return (loss / weight.sum((1, 2, 3, 4))).mean()


def width_loss(prior: Tensor, batch: Batch) -> Tensor:
    """Second score of the prior's width, lowest on average at the width that is right.

    ``(x - m)^2 / s + s`` with the error of the mean, which stays out of the gradient, and the
    prior's standard deviation s, both in units of the noise. Where s is far below the noise the
    blind loss hardly depends on it, and a first training with that loss alone gave far too narrow
    priors in bright places. A fit cannot do this, for want of x.
    """
    assumed, offset, scale = batch.units
    mean = assumed.unstabilize(prior[:, :, :1].detach() * scale + offset)
    error = (batch.clean - mean).square() / assumed.variance(mean)
    width = ((prior[:, :, 1:2] * scale).square() + LEAST_WIDTH**2).sqrt()
    score = 0.5 * (error / width + width).mean((1, 2, 3, 4))
    return (score / width.detach().mean((1, 2, 3, 4))).mean()


def training_loss(prior: Tensor, batch: Batch, beta: float | Tensor = 0.0) -> Tensor:
    """What a training lowers."""
    return expected_loss(prior, batch, beta) + _WIDTH_WEIGHT * width_loss(prior, batch)


@torch.no_grad()
def evaluate(model: STBN, scene: Scene) -> tuple[float, float, float, float]:
    """Blind loss, PSNR [dB] of prior and of posterior, truth within one standard deviation [%]."""
    units: tuple[Units, ...] = (scene.units,)
    batch = ScenePool([scene], next(model.parameters()).device).whole()
    prior = predict(model, batch, "float32").cpu()
    noisy = scene.noisy[None]
    loss = float(blind_loss(prior, noisy, units, torch.ones_like(noisy)))
    span = float(scene.clean.max() - scene.clean.min())
    fused, spread = posterior(prior, noisy, units)
    estimates = (prior_mean(prior, units)[0], fused[0])
    inside = 100 * float(((fused[0] - scene.clean).abs() <= spread[0]).float().mean())
    before, after = (
        float(20 * torch.log10(span / (e - scene.clean).square().mean().sqrt())) for e in estimates
    )
    return loss, before, after, inside


def write_weights(path: Path, model: STBN, seed: int, steps: int) -> None:
    """Write the weights in half precision, as a model that was fitted to no movie."""
    saved = SavedModel(
        model=deepcopy(model).half(),
        preset="balanced",
        flow="dis",
        seed=seed,
        steps=steps,
        noise={},
        scaling={},
        refined_flow=True,
        precision="auto",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    saved.write(path, overwrite=True)


def _log(text: str) -> None:
    """Print at once, also into a file."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
