"""Settings of a fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from ._fit_parts import Knot

__all__ = ["UNLIMITED_STEPS", "TrainingConfig"]

UNLIMITED_STEPS = 1_000_000  # where only the time budget ends a fit


@dataclass(frozen=True)
class TrainingConfig:
    """How a fit runs. One field, one row in the widget, one option of the command line.

    Attributes
    ----------
    max_steps
        Steps at most. With `time_budget` None this makes a run repeatable to the last bit on the
        CPU.
    time_budget
        Seconds at most, counted while the fit works (not while it is paused). A fit from learnt
        weights ends before, when it has seen each pixel a hundred times.
    clip_frames, clip_size, batch
        Frames and side [px] of a clip, and clips in a step.
    learning_rate
        Peak learning rate of Adam, in a fit from random weights.
    warm_learning_rate
        The same in a fit from weights that were learnt before.
    decay_from
        Part of the fit, 0 to 1, after which the learning rate falls along a cosine.
    gradient_norm
        Longer gradients are shortened to this.
    averaging
        Part of the fit over which weights are averaged.
    beta
        Weight of pixels that the network is unsure of (see `napari_stbn.prior.blind_loss`); falls
        to 0 with the learning rate.
    patience
        Evaluations of the held-out blocks without gain after which the fit winds down; 0 never.
    refine
        Estimate motion on the first model's blind prediction, in a fit from weights that were
        learnt before: "auto" does where that takes a small part of the time budget. "reestimate"
        does so again on the fit's own predictions, twice in a fit, from any start; "distill" lets a
        student learn from those how to see motion in noisy frames.
    checks
        Evaluations of the held-out blocks in a full fit, fewer in one of few steps: each takes
        about as long as a step.
    pace
        Of an earlier fit with a time budget (`TrainingStep.pace`): goes through the same learning
        rates in the same steps, and so gives the same numbers. `max_steps` is where it stopped.
    sampled_pixels
        Of a stack whose first prediction would take more than a small part of the time budget, the
        fit learns from parts with so many pixels in all; 0 for the whole stack, by default what the
        budget allows (`napari_stbn.presets.predictable_pixels`).
    """

    max_steps: Annotated[int, {"min": 1, "max": 1_000_000, "tooltip": "steps at most"}] = 4000
    time_budget: Annotated[float | None, {"min": 1, "tooltip": "seconds of fit at most"}] = None
    clip_frames: Annotated[int, {"min": 2, "max": 64, "tooltip": "frames of a clip"}] = 24
    clip_size: Annotated[int, {"min": 8, "max": 512, "tooltip": "side of a clip in pixels"}] = 32
    batch: Annotated[int, {"min": 1, "max": 64, "tooltip": "clips in a step"}] = 2
    learning_rate: Annotated[float, {"min": 1e-6, "max": 0.1, "tooltip": "peak learning rate"}] = (
        2e-3
    )
    warm_learning_rate: Annotated[
        float, {"min": 1e-6, "max": 0.1, "tooltip": "peak learning rate from learnt weights"}
    ] = 5e-4
    decay_from: Annotated[
        float, {"min": 0.0, "max": 1.0, "tooltip": "where the learning rate starts to fall"}
    ] = 0.3
    gradient_norm: Annotated[float, {"min": 1e-3, "tooltip": "longest gradient"}] = 1.0
    averaging: Annotated[
        float, {"min": 0.0, "max": 0.5, "tooltip": "part of the fit that is averaged"}
    ] = 0.05
    beta: Annotated[
        float, {"min": 0.0, "max": 1.0, "tooltip": "weight of uncertain pixels at first"}
    ] = 1.0
    patience: Annotated[int, {"min": 0, "max": 100, "tooltip": "evaluations without gain"}] = 8
    refine: Annotated[
        Literal["auto", "always", "never", "reestimate", "distill"],
        {"tooltip": "estimate motion on predicted frames: the first, later ones, or learn it"},
    ] = "auto"
    checks: Annotated[
        int, {"min": 2, "max": 100, "tooltip": "evaluations of the held-out blocks"}
    ] = 24
    pace: tuple[Knot, ...] | None = None
    sampled_pixels: Annotated[
        int | None,
        {"min": 0, "tooltip": "pixels of the parts that a fit learns from, 0 for the whole stack"},
    ] = None

    def __post_init__(self) -> None:
        if self.max_steps < 1 or self.batch < 1:
            raise ValueError(
                f"max_steps and batch must be at least 1, got {self.max_steps} and {self.batch}"
            )
        if self.clip_frames < 2 or self.clip_size < 8:
            raise ValueError(
                "a clip needs at least 2 frames of 8 x 8 pixels, "
                f"got {self.clip_frames} frames of {self.clip_size}"
            )
        if self.time_budget is not None and not 0 < self.time_budget < math.inf:
            raise ValueError(
                f"time_budget must be more than 0 seconds and finite, got {self.time_budget}; give "
                "max_steps for a fit without a clock"
            )
        for name in ("learning_rate", "warm_learning_rate", "gradient_norm"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} must be a number above 0, got {value}")
        for name in ("decay_from", "averaging", "beta"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
        if self.checks < 2 or self.patience < 0:
            raise ValueError(
                "checks must be at least 2 and patience at least 0, "
                f"got {self.checks} and {self.patience}"
            )
        if self.sampled_pixels is not None and self.sampled_pixels < 0:
            raise ValueError(f"sampled_pixels must not be negative, got {self.sampled_pixels}")
        if self.pace is not None:
            if self.time_budget is not None:
                raise ValueError(
                    "pace repeats the steps of an earlier fit; leave out time_budget, or pace"
                )
            object.__setattr__(self, "pace", tuple((int(s), f, e) for s, f, e in self.pace))
