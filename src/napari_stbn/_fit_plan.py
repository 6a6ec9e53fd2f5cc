"""What a fit is going to do: decided before it begins, by what was asked and what there is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ._colour_basis import ColourBasis
from ._fit_parts import BegunFit
from ._flow_routes import choice_pixels
from ._flow_updates import Form
from ._sampling import Sample
from ._start import FirstModel
from ._streaming import exceeds
from .network import STBNConfig
from .presets import PRESETS, PresetName, predictable_pixels
from .stack import Stack
from .training import UNLIMITED_STEPS, TrainingConfig

__all__ = ["Asked", "Course", "choose_sample", "first_prediction"]

_CHECK_EVERY = 5.0  # s at least between two evaluations of the held-out blocks
_LEAST_SAMPLE = 2**20  # pixels of the parts that a fit learns from
_SHORT_OF_TIME = "To find motion in all of the stack would take a large part of the time"
_LEAST_FIT = 0.2  # of a time budget that stays for the steps, however long noise and flow take


@dataclass(frozen=True)
class Asked:
    """What the caller of a fit has asked for; see `napari_stbn.Denoiser.fit`."""

    time_budget: float | None = None
    max_steps: int | None = None
    training: TrainingConfig | None = None
    checkpoint: Path | None = None

    def plan(self, preset: PresetName) -> TrainingConfig:
        """The training that this comes to."""
        plan = self.training or PRESETS[preset].training
        if self.time_budget is None and self.max_steps is None:
            return plan
        limit = self.max_steps if self.max_steps is not None else UNLIMITED_STEPS
        return replace(plan, max_steps=limit, time_budget=self.time_budget)

    def names_steps(self, preset: PresetName) -> bool:
        """Whether steps were asked for: then they are taken, whatever they are worth."""
        if self.max_steps is not None:
            return True
        given = self.training
        return given is not None and (
            given.pace is not None or given.max_steps != PRESETS[preset].training.max_steps
        )


@dataclass(frozen=True)
class Course:
    """A fit that is about to begin.

    Attributes
    ----------
    given, stack : Stack
        The user's with its frames apart; the same as the network sees it.
    colours : tuple of ColourBasis
        Of `stack`, where colours are taken apart into components.
    joint : bool
        Channels are denoised together.
    first : FirstModel
        What it begins with.
    plan : TrainingConfig
    sample : Sample or None
        Parts of `stack` that it learns from, if not from all.
    refines : bool
        Motion is looked for on the first model's prediction.
    form : {"reestimate", "distill"} or None
        How motion is found again during the fit, if it is.
    begun : BegunFit or None
        What an earlier run of it had decided.
    """

    given: Stack
    stack: Stack
    colours: tuple[ColourBasis, ...]
    joint: bool
    first: FirstModel
    plan: TrainingConfig
    sample: Sample | None
    refines: bool
    form: Form | None
    begun: BegunFit | None

    def timed(self, spent: float) -> TrainingConfig:
        """The plan for what is left of its time budget after so many seconds of noise and flow."""
        plan = replace(self.plan, refine=self.form or ("always" if self.refines else "never"))
        budget = plan.time_budget
        if budget is None:
            return plan
        # In a short fit they would take more time than the steps.
        checks = min(plan.checks, max(4, int(budget / _CHECK_EVERY)))
        left = max(budget - spent, _LEAST_FIT * budget)
        return replace(plan, time_budget=left, checks=self.begun.checks if self.begun else checks)


def first_prediction(
    first: FirstModel, plan: TrainingConfig, stack: Stack, device: torch.device, *, dense: bool
) -> tuple[bool, float | None]:
    """Whether motion is looked for on the first model's prediction, and in which time [s].

    No time where it is not limited, or does not matter. Without a `dense` flow to find a prediction
    tells of wrong pixels only, and has to fit into the time as a whole.
    """
    if not first.warm or plan.refine == "never":
        return False, None
    budget = plan.time_budget if plan.refine == "auto" else None
    if budget is None or dense:
        return True, budget
    pixels = predictable_pixels(budget, device, first.model.config)
    return math.prod(stack.shape) <= pixels, None


def choose_sample(
    stack: Stack,
    network: STBNConfig,
    plan: TrainingConfig,
    memory: int,
    device: torch.device,
    seed: int,
    budget: float | None,
) -> tuple[Sample | None, TrainingConfig]:
    """The parts that a fit learns from, if not from all of a stack; and the plan with that.

    `budget` is the time of a fit [s] that has to find motion first.
    """
    large, limit, joint = exceeds(stack, memory), None, network.channels > 1
    if plan.sampled_pixels is None and budget is not None:
        stack.check()
        pixels, channels = math.prod(stack.shape), 1 if joint else stack.n_channels
        judged = choice_pixels(pixels // (channels * stack.n_planes))
        affordable = predictable_pixels(budget, device, network)
        if pixels + channels * stack.n_planes * judged > affordable:
            limit = max(_LEAST_SAMPLE, affordable - channels * judged)
            limit = limit if limit < pixels else None
    if not (large or limit or plan.sampled_pixels):
        return None, replace(plan, sampled_pixels=0)
    stack.check()
    sample = Sample.of(stack, joint, memory, plan, seed, limit)
    if not large:
        sample = replace(sample, reason=_SHORT_OF_TIME)
    return sample, replace(plan, sampled_pixels=sample.pixels)
