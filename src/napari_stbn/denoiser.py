"""The one stateful face: fit a model to a noisy stack, denoise with it, save it, load it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator
from copy import deepcopy
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ._denoiser_use import FittedDenoiser
from ._dither import dithered
from ._fit_parts import Average, begun_fit
from ._flow_routes import choice_pixels
from ._flow_updates import FORMS, FlowUpdates
from ._generators import following, relay
from ._preparing import as_stack
from ._refinement import DENSE_METHODS
from ._sampling import Sample
from ._spaced_stack import spacing_of
from ._streaming import check_plan, exceeds, memory_budget
from ._unfit import why_unfit
from .estimates import check_training_memory
from .network import STBNConfig
from .presets import PRESETS, PresetName, choose_turns, predictable_pixels
from .result import DenoiseResult, Progress, StreamedResult
from .stack import Stack
from .training import UNLIMITED_STEPS, TrainingConfig, frames_seen, training_steps

__all__ = ["DenoiseResult", "Denoiser", "Progress", "StreamedResult", "denoise"]

_logger = logging.getLogger(__name__)
_CHECK_EVERY = 5.0  # s at least between two evaluations of the held-out blocks
_LEAST_SAMPLE = 2**20  # pixels of the parts that a fit learns from
_SHORT_OF_TIME = "To find motion in all of the stack would take a large part of the time"
_LEAST_FIT = 0.2  # of a time budget that stays for the steps, however long noise and flow take


class Denoiser(FittedDenoiser):
    """Fit STBN to a noisy stack, without clean data, and denoise with it.

    Parameters
    ----------
    preset : {"auto", "preview", "balanced", "best", "paper"}, default "auto"
        Size of the network and length of the fit.
    device : str, default "auto"
        See `napari_stbn.devices.resolve_device`.
    seed : int, default 0
        On the CPU a seed and a number of steps give the same numbers again.
    noise : {"estimate", "gaussian"} or noise model or None, default "estimate"
        Poisson-Gaussian noise measured in each channel; Gaussian noise measured in each channel;
        known noise; or no model at all (squared error, no uncertainty), as the paper does for raw
        video.
    correlation : {"auto", "off"}, default "auto"
        Measure whether neighbouring pixels share noise and, where they do, fit to frames in which
        it was made independent (`napari_stbn.correlation`); and whether frames do, which are
        seen without what they hold of others then, or every n-th one. Where no filter makes it
        independent, every n-th pixel is seen alike; lines that a scanner has shifted are seen in
        their places. Frames that were compressed in blocks, and noise of which the filter leaves
        too much, are not fitted to: the learnt start denoises them, unless steps are asked for.
        Movies with independent noise are left as they are.
    flicker : {"auto", "off"}, default "auto"
        Measure whether the light of whole frames flickers and, where it does, fit to frames in even
        light; results have the light of their frames.
    flow : {"dis", "dis_fine", "dis_multi", "blend", "ilk", "tvl1", "translation", "none", "auto"}
        How motion is estimated, by default "dis".
    channels : {"auto", "separate", "joint"}, default "auto"
        Denoise channels one by one with one network, or together with a full covariance. "auto"
        takes colour samples (S) apart into brightness and colour differences, one by one, along one
        motion; together where the preset is "paper".
    network : STBNConfig, optional
        Overrides the preset's.
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Of the network's inner layers; "auto" tries.
    start : {"fresh", "pretrained"} or path, default "pretrained"
        Begin a fit with random weights, with those that come with the package where there are some
        for this size of the network (see ``docs/warm_start.md``), or with those of a saved model,
        whose network is then used. Unless fresh, motion is estimated on the first model's blind
        prediction instead of the noisy frames (see ``docs/flow.md``).
    memory_limit : float, optional [GB]
        What a run may take of the main memory; a stack that would take more is read piece by piece.
        Six tenths of what is free when None.
    turns : int, optional
        Quarter turns of the movie, 1 to 4, that a result is averaged over; four take about three
        times as long as one. When None, four where that is a small part of the time of the fit
        (`napari_stbn.presets.choose_turns`), else one.

    Raises
    ------
    ValueError
        If a name is unknown, the limit is not positive or the turns are not 1 to 4.

    Examples
    --------
    >>> import napari_stbn as stbn
    >>> movie = stbn.simulate((6, 32, 32), seed=0)
    >>> denoiser = stbn.Denoiser(preset="preview", device="cpu")
    >>> result = denoiser.fit(movie.noisy, axes="TYX", max_steps=2).denoise(movie.noisy, axes="TYX")
    >>> result.denoised.shape
    (6, 32, 32)
    """

    def fit(
        self,
        data: Stack | ArrayLike,
        *,
        axes: str | None = None,
        time_budget: float | None = None,
        max_steps: int | None = None,
        training: TrainingConfig | None = None,
        checkpoint: str | PathLike[str] | None = None,
    ) -> Denoiser:
        """Fit to a noisy stack.

        Parameters
        ----------
        data : Stack or array
            Noisy movie, at least two frames.
        axes : str, optional
            Axes of a bare array; guessed when None.
        time_budget : float, optional [s]
            Seconds for noise, flow and fit together; the preset's when neither this nor `max_steps`
            is given.
        max_steps : int, optional
            Steps of the fit; without `time_budget` the run can be repeated exactly on the CPU.
        training : TrainingConfig, optional
            Overrides the preset's.
        checkpoint : path, optional
            Keep the state of the fit in this file three times a minute, and go on from it where it
            exists, such as after a crash. It is removed when the fit is done.

        Returns
        -------
        Denoiser
            Itself.

        Raises
        ------
        ValueError
            If the data cannot be denoised: one frame, constant, too small, not real numbers.
        MemoryError
            If the fit would not fit into the free memory.
        """
        for _ in self.fit_steps(
            data,
            axes=axes,
            time_budget=time_budget,
            max_steps=max_steps,
            training=training,
            checkpoint=checkpoint,
        ):
            pass
        return self

    def fit_steps(
        self,
        data: Stack | ArrayLike,
        *,
        axes: str | None = None,
        time_budget: float | None = None,
        max_steps: int | None = None,
        training: TrainingConfig | None = None,
        checkpoint: str | PathLike[str] | None = None,
    ) -> Generator[Progress, None, None]:
        """Fit as a generator: a loop over it is `fit`.

        Closing it early stops the fit and keeps what was learnt.

        Parameters and errors are those of `fit`.

        Yields
        ------
        Progress
            After each movie's noise, each pair's flow, each step.
        """
        started = time.perf_counter()
        given = as_stack(data, axes)

        def measured(done: float) -> Progress:
            return Progress("noise", done, time.perf_counter() - started)

        joint = self._joint(given)
        self._tracks = None  # measured anew
        given = yield from relay(self._apart(given, None, joint=joint), measured)
        colours = yield from relay(self._measured_colours(given, joint=joint), measured)
        stack = self._seen(given, colours)
        first = self._first_model(stack.n_channels if joint else 1)
        config = first.model.config
        plan = training or PRESETS[self.preset].training
        if time_budget is not None or max_steps is not None:
            limit = max_steps if max_steps is not None else UNLIMITED_STEPS
            plan = replace(plan, max_steps=limit, time_budget=time_budget)
        memory, begun = memory_budget(self.memory_limit), begun_fit(checkpoint)
        dense = self.flow in DENSE_METHODS
        refines = first.warm and plan.refine != "never"
        budget = plan.time_budget if refines and plan.refine == "auto" else None
        if budget is not None and not dense:  # there is no motion to find, only wrong pixels
            refines = math.prod(stack.shape) <= predictable_pixels(budget, self.device, config)
        sample, plan = self._sample(stack, config, memory, plan, budget if dense else None)
        if exceeds(stack, memory):
            check_plan(first.model.place(self.device), stack, memory)
        outline = stack if sample is None else sample.outline(stack)
        check_training_memory(config, plan, outline, self.device, self._layer_precision(config))
        if not exceeds(stack, memory):  # of a large one a fit reads no more than it learns from
            stack = self._seen((yield from relay(self._evened(given), measured)), colours)
        before = {name: value for name, value in vars(self).items() if name != "_prepared"}
        self.model, self._prepared = None, None  # a fit that ends early must not mix two movies
        self.channel_noise, self.channel_scaling, self.history = {}, {}, []
        self.channel_correlation, self.colours = {}, colours
        self.spacing = spacing_of(given)
        form = plan.refine if plan.refine in FORMS and dense else None
        self._student, self._flow_rounds, self._routes = None, 0, {}  # those of an earlier fit
        self._flow_model = (first.flow_model or deepcopy(first.model)) if first.warm else None
        self._turns = self.turns or choose_turns(
            self.preset, math.prod(stack.shape), plan.time_budget
        )
        if begun is None:
            self._refines = refines
        else:  # what was decided then
            self._refines = first.warm and begun.refines
        try:
            prepared = yield from self._prepare(stack, joint, started, first.model, sample)
        except Exception:  # of a movie that cannot be denoised: what was fitted to another stays
            vars(self).update(before)
            raise
        self._remember(prepared)
        if plan.time_budget is not None:
            # In a short fit they would take more time than the steps.
            checks = min(plan.checks, max(4, int(plan.time_budget / _CHECK_EVERY)))
            left = max(
                plan.time_budget - (time.perf_counter() - started), _LEAST_FIT * plan.time_budget
            )
            plan = replace(plan, time_budget=left, checks=begun.checks if begun else checks)
        plan = replace(plan, refine=form or ("always" if self._refines else "never"))
        asked = max_steps is not None or plan.pace is not None
        if training is not None:
            asked |= training.max_steps != PRESETS[self.preset].training.max_steps
        if first.warm and not asked and self.correlation != "off":
            unfit = why_unfit(given, prepared.correlation)
            if unfit:
                plan = replace(plan, max_steps=1, time_budget=None)  # the start, as it is
                prepared.notes.append(unfit)
        self._refine, self._sampled = plan.refine, plan.sampled_pixels  # for who goes on
        self._checks = plan.checks
        if first.note:
            prepared.notes.append(first.note)
        self.model, self._started_from = first.model.place(self.device), first.name
        self._fitted_in = precision = begun.precision if begun else self._layer_precision(config)
        _logger.info(
            "fit to %s (%s, %s) on %s: %s, start %s, %s",
            stack.name or "a movie",
            stack.axes,
            "x".join(map(str, stack.shape)),
            self.device,
            self.preset,
            self._started_from,
            precision,
        )
        # The trial took a moment: who wants to cancel is asked before the next one.
        yield Progress("flow", 1.0, time.perf_counter() - started)
        generator = torch.Generator().manual_seed(self.seed)
        self._average = Average(self.model, plan.averaging)
        updates = None if form is None else FlowUpdates(form, self.flow, precision, self.seed)
        movies = yield from relay(
            dithered(prepared, self.seed),
            lambda _done: Progress("flow", 1.0, time.perf_counter() - started),
        )
        moving = prepared.moving()
        if updates is not None and begun is not None:
            # So it predicted then.
            self.model.clip_frames = frames_seen(self.model, plan, warm=first.warm)
            yield from relay(
                updates.restore(begun.beside, self.model, moving),
                lambda done: Progress("flow", done, time.perf_counter() - started),
            )
        steps = training_steps(
            self.model,
            movies,
            plan,
            generator=generator,
            precision=precision,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            average=self._average,
            warm=first.warm,
            beside=None if updates is None else updates.state,
        )
        try:
            spent = None  # seconds between two steps that belong to the fit
            while (step := following(steps, spent)) is not None:
                self.history.append(step)
                yield Progress("fit", step.fraction, time.perf_counter() - started, step)
                spent = None
                if updates is not None:
                    spent = yield from relay(
                        updates.after(step.part, self.model, self._average, moving),
                        lambda done: Progress("flow", done, time.perf_counter() - started),
                    )
        finally:
            steps.close()  # puts the averaged weights in place now, not at collection
            self.model.eval()
            self._average = None
            if self.history:
                _logger.info(
                    "%d steps of fit in %.1f s", self.history[-1].step, self.history[-1].elapsed
                )
            self._keep_flow(updates)
            # The result shall be that of the model when it is loaded again.
            self._flow_is_outdated = self._flow_rounds > 0 or self._student is not None

    def _keep_flow(self, updates: FlowUpdates | None) -> None:
        """After a fit: how its result gets its flow."""
        if updates is None:
            return
        if updates.form == "reestimate":
            self._refines, self._flow_rounds = True, 1
        else:
            self._refines, self._student = False, updates.student

    def _sample(
        self,
        stack: Stack,
        network: STBNConfig,
        memory: int,
        plan: TrainingConfig,
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
            affordable = predictable_pixels(budget, self.device, network)
            if pixels + channels * stack.n_planes * judged > affordable:
                limit = max(_LEAST_SAMPLE, affordable - channels * judged)
                limit = limit if limit < pixels else None
        if not (large or limit or plan.sampled_pixels):
            return None, replace(plan, sampled_pixels=0)
        stack.check()
        sample = Sample.of(stack, joint, memory, plan, self.seed, limit)
        if not large:
            sample = replace(sample, reason=_SHORT_OF_TIME)
        return sample, replace(plan, sampled_pixels=sample.pixels)


def denoise(
    data: Stack | ArrayLike,
    *,
    axes: str | None = None,
    preset: PresetName | Literal["auto"] = "auto",
    time_budget: float | None = None,
    device: str = "auto",
    seed: int = 0,
) -> NDArray[np.float32]:
    """Denoise a noisy movie in one line: fit to it, denoise it.

    Parameters
    ----------
    data : Stack or array
        At least two frames.
    axes : str, optional
        One letter for each dimension out of T C Z Y X S; guessed when None.
    preset, device, seed
        See `Denoiser`.
    time_budget : float, optional [s]
        Seconds of fit; the preset's when None.

    Returns
    -------
    ndarray, shape of the input, float32 [user's units]

    Raises
    ------
    ValueError
        If the data cannot be denoised.
    """
    stack = as_stack(data, axes)
    return (
        Denoiser(preset, device=device, seed=seed)
        .fit(stack, time_budget=time_budget)
        .denoise(stack)
        .denoised
    )
