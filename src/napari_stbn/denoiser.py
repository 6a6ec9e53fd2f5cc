"""The one stateful face: fit a model to a noisy stack, denoise with it, save it, load it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator
from contextlib import suppress
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
from ._fit_plan import Asked, Course, choose_sample, first_prediction
from ._flow_updates import FORMS, FlowUpdates
from ._generators import following, relay
from ._preparing import as_stack
from ._refinement import DENSE_METHODS
from ._spaced_stack import spacing_of
from ._streaming import check_plan, exceeds, memory_budget
from ._unfit import why_unfit
from .estimates import check_training_memory
from .preparation import PreparedStack
from .presets import PresetName, choose_turns
from .result import DenoiseResult, Progress, StreamedResult
from .stack import Stack
from .training import GivenUpError, TrainingConfig, frames_seen, training_steps

__all__ = ["DenoiseResult", "Denoiser", "Progress", "StreamedResult", "denoise"]

_logger = logging.getLogger(__name__)


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

        Closing it early stops the fit and keeps what was learnt, which takes some seconds. Throwing
        `napari_stbn.training.GivenUpError` into it ends it at once; an earlier model stays.

        Parameters and errors are those of `fit`.

        Yields
        ------
        Progress
            After each movie's noise, each pair's flow, each step.
        """
        started = time.perf_counter()
        file = None if checkpoint is None else Path(checkpoint)
        asked = Asked(time_budget, max_steps, training, file)
        course = yield from self._course(as_stack(data, axes), asked, started)
        before = {name: value for name, value in vars(self).items() if name != "_prepared"}
        self._begin(course)
        try:
            prepared = yield from self._prepare(
                course.stack, course.joint, started, course.first.model, course.sample
            )
        except Exception:  # of a movie that cannot be denoised: what was fitted to another stays
            vars(self).update(before)
            raise
        self._remember(prepared)
        plan = self._settled(course, asked, prepared, started)
        # The trial took a moment: who wants to cancel is asked before the next one.
        yield Progress("flow", 1.0, time.perf_counter() - started)
        try:
            yield from self._take_steps(course, plan, prepared, file, started)
        except GivenUpError:
            vars(self).update(before)
            raise

    def _course(
        self, given: Stack, asked: Asked, started: float
    ) -> Generator[Progress, None, Course]:
        """Look at a stack and decide how a fit to it goes; nothing of this denoiser changes."""

        def measured(done: float) -> Progress:
            return Progress("noise", done, time.perf_counter() - started)

        plan, begun = asked.plan(self.preset), begun_fit(asked.checkpoint)
        joint = self._joint(given)
        self._tracks = None  # measured anew
        given = yield from relay(self._apart(given, None, joint=joint), measured)
        colours = yield from relay(self._measured_colours(given, joint=joint), measured)
        stack = self._seen(given, colours)
        first = self._first_model(stack.n_channels if joint else 1)
        config, dense = first.model.config, self.flow in DENSE_METHODS
        memory = memory_budget(self.memory_limit)
        refines, budget = first_prediction(first, plan, stack, self.device, dense=dense)
        sample, plan = choose_sample(stack, config, plan, memory, self.device, self.seed, budget)
        if exceeds(stack, memory):
            check_plan(first.model.place(self.device), stack, memory)
        outline = stack if sample is None else sample.outline(stack)
        check_training_memory(config, plan, outline, self.device, self._layer_precision(config))
        if not exceeds(stack, memory):  # of a large one a fit reads no more than it learns from
            stack = self._seen((yield from relay(self._evened(given), measured)), colours)
        if begun is not None:  # what was decided then
            refines = first.warm and begun.refines
        form = plan.refine if plan.refine in FORMS and dense else None
        return Course(given, stack, colours, joint, first, plan, sample, refines, form, begun)

    def _begin(self, course: Course) -> None:
        """Forget an earlier fit: one that ends early must not mix two movies."""
        first = course.first
        self.model, self._prepared = None, None
        self.channel_noise, self.channel_scaling, self.history = {}, {}, []
        self.channel_correlation, self.colours = {}, course.colours
        self.spacing = spacing_of(course.given)
        self._student, self._flow_rounds, self._routes = None, 0, {}
        self._flow_model = (first.flow_model or deepcopy(first.model)) if first.warm else None
        self._refines = course.refines
        self._turns = self.turns or choose_turns(
            self.preset, math.prod(course.stack.shape), course.plan.time_budget
        )

    def _settled(
        self, course: Course, asked: Asked, prepared: PreparedStack, started: float
    ) -> TrainingConfig:
        """The plan, now that noise and motion are known; the model is put in its place."""
        first, begun = course.first, course.begun
        plan = course.timed(time.perf_counter() - started)
        if first.warm and not asked.names_steps(self.preset) and self.correlation != "off":
            unfit = why_unfit(course.given, prepared.correlation)
            if unfit:
                plan = replace(plan, max_steps=1, time_budget=None)  # the start, as it is
                prepared.notes.append(unfit)
        if first.note:
            prepared.notes.append(first.note)
        self._refine, self._sampled = plan.refine, plan.sampled_pixels  # for who goes on
        self._checks = plan.checks
        self.model, self._started_from = first.model.place(self.device), first.name
        config = first.model.config
        self._fitted_in = begun.precision if begun else self._layer_precision(config)
        stack = course.stack
        _logger.info(
            "fit to %s (%s, %s) on %s: %s, start %s, %s",
            stack.name or "a movie",
            stack.axes,
            "x".join(map(str, stack.shape)),
            self.device,
            self.preset,
            self._started_from,
            self._fitted_in,
        )
        return plan

    def _take_steps(
        self,
        course: Course,
        plan: TrainingConfig,
        prepared: PreparedStack,
        checkpoint: Path | None,
        started: float,
    ) -> Generator[Progress, None, None]:
        """Fit the model that is in place, and find motion again meanwhile where the plan does."""
        model, precision = self.model, self._fitted_in
        if model is None or precision is None:
            raise RuntimeError("a fit has no model to begin with")

        def flowing(done: float) -> Progress:
            return Progress("flow", done, time.perf_counter() - started)

        generator = torch.Generator().manual_seed(self.seed)
        self._average = Average(model, plan.averaging)
        form, begun, warm = course.form, course.begun, course.first.warm
        updates = None if form is None else FlowUpdates(form, self.flow, precision, self.seed)
        movies = yield from relay(dithered(prepared, self.seed), lambda _done: flowing(1.0))
        moving = prepared.moving()
        if updates is not None and begun is not None:
            model.clip_frames = frames_seen(model, plan, warm=warm)  # so it predicted then
            yield from relay(updates.restore(begun.beside, model, moving), flowing)
        steps = training_steps(
            model,
            movies,
            plan,
            generator=generator,
            precision=precision,
            checkpoint=checkpoint,
            average=self._average,
            warm=warm,
            beside=None if updates is None else updates.state,
        )
        try:
            spent = None  # seconds between two steps that belong to the fit
            while (step := following(steps, spent)) is not None:
                self.history.append(step)
                yield Progress("fit", step.fraction, time.perf_counter() - started, step)
                spent = None
                if updates is not None:
                    after = updates.after(step.part, model, self._average, moving)
                    spent = yield from relay(after, flowing)
        except GivenUpError as given_up:
            with suppress(GivenUpError):
                steps.throw(given_up)
            raise
        finally:
            steps.close()  # puts the averaged weights in place now, not at collection
            model.eval()
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
