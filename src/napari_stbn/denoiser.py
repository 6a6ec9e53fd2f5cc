"""The one stateful face: fit a model to a noisy stack, denoise with it, save it, load it."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Generator
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ._file_output import FileOutput
from ._fit_parts import Average, begun_fit
from ._generators import last, relay
from ._refinement import DENSE_METHODS, refine_flow
from ._sampling import Sample, SampledStack, prepare_sample, scaling_pixels
from ._saved_model import SavedModel
from ._stack_inference import ArrayOutput, Output, denoise_prepared
from ._start import FirstModel, first_model
from ._streaming import (
    Stream,
    check_plan,
    check_result,
    denoise_stream,
    exceeds,
    memory_budget,
)
from .correlation import CORRELATIONS, CorrelationChoice, NoiseCorrelation
from .devices import resolve_device
from .estimates import check_training_memory, inference_seconds
from .flow import FLOW_METHODS, FlowMethod
from .inference import denoise_frame
from .network import STBN, STBNConfig
from .precision import Precision, choose_precision
from .preparation import KnownNoise, NoiseChoice, PreparedStack, measure_channels, prepare_stack
from .presets import PRESETS, PresetName, choose_preset
from .prior import Units
from .result import (
    DenoiseResult,
    Progress,
    StreamedResult,
    describe_stack,
    gather_flow,
    versions,
)
from .stack import IntensityScaling, Stack
from .training import UNLIMITED_STEPS, TrainingConfig, TrainingStep, training_steps

__all__ = ["DenoiseResult", "Denoiser", "Progress", "StreamedResult", "denoise"]

_logger = logging.getLogger(__name__)
_CHECK_EVERY = 5.0  # s at least between two evaluations of the held-out blocks
_REFINEMENT_SHARE = 0.2  # of a time budget that may go into a first prediction
_LEAST_FIT = 0.2  # of a time budget that stays for the steps, however long noise and flow take


class Denoiser:
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
        it was made independent (`napari_stbn.correlation`). Movies with independent noise are
        left as they are.
    flow : {"dis", "ilk", "tvl1", "translation", "none"}, default "dis"
        How motion is estimated.
    channels : {"auto", "separate", "joint"}, default "auto"
        Denoise channels one by one with one network, or together with a full covariance; "auto"
        takes colour samples (S) together.
    network : STBNConfig, optional
        Overrides the preset's.
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Of the network's inner layers; "auto" tries.
    start : {"fresh", "pretrained"} or path, default "pretrained"
        Begin a fit with random weights, with those that come with the package where there are some
        for this size of the network (see ``docs/warm_start.md``), or with those of a saved model,
        whose network is then used. Unless fresh, motion is estimated on the first model's blind
        prediction along zero flow instead of the noisy frames.

    Raises
    ------
    ValueError
        If a name is unknown.

    Examples
    --------
    >>> import napari_stbn as stbn
    >>> movie = stbn.simulate((6, 32, 32), seed=0)
    >>> denoiser = stbn.Denoiser(preset="preview", device="cpu")
    >>> result = denoiser.fit(movie.noisy, axes="TYX", max_steps=2).denoise(movie.noisy, axes="TYX")
    >>> result.denoised.shape
    (6, 32, 32)
    """

    def __init__(
        self,
        preset: PresetName | Literal["auto"] = "auto",
        *,
        device: str = "auto",
        seed: int = 0,
        noise: NoiseChoice = "estimate",
        flow: FlowMethod = "dis",
        channels: Literal["auto", "separate", "joint"] = "auto",
        network: STBNConfig | None = None,
        precision: Precision | Literal["auto"] = "auto",
        start: str | PathLike[str] = "pretrained",
        correlation: CorrelationChoice = "auto",
        memory_limit: float | None = None,
    ) -> None:
        if memory_limit is not None and not memory_limit > 0:
            raise ValueError(f"memory_limit must be more than 0 GB, got {memory_limit}")
        if preset != "auto" and preset not in PRESETS:
            raise ValueError(f"preset must be one of auto, {', '.join(PRESETS)}, got {preset!r}")
        if flow not in FLOW_METHODS:
            raise ValueError(f"flow must be one of {', '.join(FLOW_METHODS)}, got {flow!r}")
        if channels not in ("auto", "separate", "joint"):
            raise ValueError(f"channels must be auto, separate or joint, got {channels!r}")
        if correlation not in CORRELATIONS:
            raise ValueError(
                f"correlation must be {' or '.join(CORRELATIONS)}, got {correlation!r}"
            )
        if precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision must be auto, float32 or bfloat16, got {precision!r}")
        if isinstance(noise, str) and noise not in ("estimate", "gaussian"):
            raise ValueError(
                f'noise must be "estimate", "gaussian", a noise model or None, got {noise!r}'
            )
        self.device = resolve_device(device)
        self.preset: PresetName = choose_preset(self.device) if preset == "auto" else preset
        self.seed, self.noise, self.flow, self.channels = int(seed), noise, flow, channels
        self.precision, self.start, self.memory_limit = precision, start, memory_limit
        self.correlation = correlation
        self._network = network
        self.model: STBN | None = None
        self.channel_noise: dict[int, KnownNoise] = {}
        self.channel_scaling: dict[int, IntensityScaling] = {}
        self.channel_correlation: dict[int, NoiseCorrelation | None] = {}
        self.history: list[TrainingStep] = []
        self._prepared: PreparedStack | None = None
        self._fitted_in: Precision | None = None
        self._average: Average | None = None
        self._checks = 0
        self._started_from = ""
        self._refines = False
        self._flow_is_of_start = False

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
        stack = _as_stack(data, axes)
        joint = self._joint(stack)
        first = self._first_model(stack.n_channels if joint else 1)
        config = first.model.config
        plan = training or PRESETS[self.preset].training
        if time_budget is not None or max_steps is not None:
            limit = max_steps if max_steps is not None else UNLIMITED_STEPS
            plan = replace(plan, max_steps=limit, time_budget=time_budget)
        memory, begun = memory_budget(self.memory_limit), begun_fit(checkpoint)
        sample = None
        if exceeds(stack, memory):
            stack.check()
            sample = Sample.of(stack, joint, memory, plan, self.seed)
            check_plan(first.model.place(self.device), stack, memory)
        outline = stack if sample is None else sample.outline(stack)
        check_training_memory(config, plan, outline, self.device, self._layer_precision(config))
        self.model, self._prepared = None, None  # a fit that ends early must not mix two movies
        self.channel_noise, self.channel_scaling, self.history = {}, {}, []
        self.channel_correlation = {}
        if begun is None:
            self._refines = first.warm and self._will_refine(plan, first.model, outline)
        else:  # what was decided by the clock then
            self._refines = first.warm and begun.refines and self.flow in DENSE_METHODS
        prepared = yield from self._prepare(stack, joint, started, first.model, sample)
        if plan.time_budget is not None:
            # In a short fit they would take more time than the steps.
            checks = min(plan.checks, max(4, int(plan.time_budget / _CHECK_EVERY)))
            left = max(
                plan.time_budget - (time.perf_counter() - started), _LEAST_FIT * plan.time_budget
            )
            plan = replace(plan, time_budget=left, checks=begun.checks if begun else checks)
        plan = replace(plan, refine="always" if self._refines else "never")  # for who goes on
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
        steps = training_steps(
            self.model,
            list(prepared.movies.values()),
            plan,
            generator=generator,
            precision=precision,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            average=self._average,
            warm=first.warm,
        )
        try:
            for step in steps:
                self.history.append(step)
                yield Progress("fit", step.fraction, time.perf_counter() - started, step)
        finally:
            steps.close()  # puts the averaged weights in place now, not at collection
            self.model.eval()
            self._average = None
            if self.history:
                _logger.info(
                    "%d steps of fit in %.1f s", self.history[-1].step, self.history[-1].elapsed
                )
            # The result shall be that of the model when it is loaded again.
            self._flow_is_of_start = self._refines

    def denoise(self, data: Stack | ArrayLike, *, axes: str | None = None) -> DenoiseResult:
        """Denoise a stack with the fitted model.

        Parameters
        ----------
        data : Stack or array
            The stack of the fit, or another one recorded with the same camera settings.
        axes : str, optional
            Axes of a bare array; guessed when None.

        Returns
        -------
        DenoiseResult

        Raises
        ------
        RuntimeError
            If nothing was fitted or loaded yet.
        ValueError
            If the data cannot be denoised or does not fit the model.
        MemoryError
            If it would not fit into the free memory.
        """
        return last(self.denoise_steps(data, axes=axes))

    def denoise_steps(
        self, data: Stack | ArrayLike, *, axes: str | None = None
    ) -> Generator[Progress, None, DenoiseResult]:
        """Denoise as a generator: yields `Progress`, returns `DenoiseResult`.

        Parameters and errors are those of `denoise`.
        """
        started = time.perf_counter()
        stack = _as_stack(data, axes)
        model = self._fitted(stack)
        joint = model.config.channels > 1
        memory = memory_budget(self.memory_limit)
        output = ArrayOutput(stack)
        if exceeds(stack, memory):
            check_result(stack, memory, self.has_uncertainty)
            with tempfile.TemporaryDirectory(prefix="stbn-") as scratch:
                described = yield from self._stream(stack, started, Path(scratch), output)
            none = np.empty((0, 2, *stack.frame_shape), np.float32)
            to_previous, to_next = none, none
        else:
            described = yield from self._prepare(stack, joint, started, model)
            yield from relay(
                denoise_prepared(model, described, output, self._layer_precision(model.config)),
                lambda fraction: Progress("denoise", fraction, time.perf_counter() - started),
            )
            to_previous, to_next = gather_flow(described)
        denoised = stack.assemble(output.means, np.float32)
        return DenoiseResult(
            denoised=denoised,
            uncertainty=stack.assemble(output.stds, np.float32) if output.stds else None,
            flow_to_previous=to_previous,
            flow_to_next=to_next,
            noise=described.pixel_noise(),
            correlation=dict(described.correlation),
            stack=stack.like(denoised, name=f"{stack.name} denoised".strip()),
            report=self._report(described, time.perf_counter() - started),
        )

    def streams(self, data: Stack | ArrayLike, *, axes: str | None = None) -> bool:
        """Whether a run on this stack would take more than the memory limit.

        Then the fit looks at parts of it, and its result is best written by `denoise_to`.
        """
        return exceeds(_as_stack(data, axes), memory_budget(self.memory_limit))

    def denoise_to(
        self,
        data: Stack | ArrayLike,
        path: str | PathLike[str],
        *,
        axes: str | None = None,
        uncertainty: str | PathLike[str] | None = None,
        dtype: DTypeLike = np.float32,
        overwrite: bool = False,
    ) -> StreamedResult:
        """Denoise a stack of any length into a file, which appears when it is complete.

        Parameters
        ----------
        data : Stack or array
            dask, zarr and mapped arrays are read a few frames at a time.
        path : path
            ``.zarr`` is OME-Zarr with a pyramid of resolutions, ``.tif`` TIFF (BigTIFF beyond
            4 GB), ``.npy`` the bare array.
        axes : str, optional
            Axes of a bare array; guessed when None.
        uncertainty : path, optional
            Write the posterior standard deviation to this file.
        dtype : dtype-like, default float32
            Of the denoised file; integers are rounded and clipped.
        overwrite : bool, default False
            Replace what is there, once the new file is complete.

        Returns
        -------
        StreamedResult

        Raises
        ------
        RuntimeError
            If nothing was fitted or loaded yet.
        FileExistsError, FileNotFoundError, PermissionError
            See `napari_stbn.write`.
        ValueError
            If the data cannot be denoised or does not fit the model, there is no uncertainty, or
            the format cannot hold the result.
        OSError
            If the drive is full; nothing that was there before is touched.
        MemoryError
            If even a few frames would not fit.
        """
        return last(
            self.denoise_to_steps(
                data, path, axes=axes, uncertainty=uncertainty, dtype=dtype, overwrite=overwrite
            )
        )

    def denoise_to_steps(
        self,
        data: Stack | ArrayLike,
        path: str | PathLike[str],
        *,
        axes: str | None = None,
        uncertainty: str | PathLike[str] | None = None,
        dtype: DTypeLike = np.float32,
        overwrite: bool = False,
    ) -> Generator[Progress, None, StreamedResult]:
        """`denoise_to` as a generator: yields `Progress`, returns `StreamedResult`.

        Closing it early removes what was written so far.
        """
        started = time.perf_counter()
        stack = _as_stack(data, axes)
        if uncertainty is not None and not self.has_uncertainty:
            raise ValueError("there is no uncertainty without a noise model; leave it out")
        stack.check()
        path = Path(path)
        spread = None if uncertainty is None else Path(uncertainty)
        title = f"{stack.name} denoised".strip()
        with FileOutput(stack, path, spread, dtype, overwrite=overwrite, name=title) as output:
            described = yield from self._stream(stack, started, path.absolute().parent, output)
            yield Progress("denoise", 1.0, time.perf_counter() - started)
        report = {**self._report(described, time.perf_counter() - started), "streamed": True}
        return StreamedResult(path, spread, described.pixel_noise(), report)

    def _stream(
        self, stack: Stack, started: float, scratch: Path, output: Output
    ) -> Generator[Progress, None, PreparedStack]:
        """Denoise into an output piece by piece; what is known of the stack."""
        model = self._fitted(stack)
        memory = memory_budget(self.memory_limit)
        known = PreparedStack(
            stack,
            {},
            dict(self.channel_noise),
            dict(self.channel_scaling),
            correlation=dict(self.channel_correlation),
        )
        if self._prepared is not None and self._prepared.stack is stack:
            known.notes.extend(self._prepared.notes)
        self._prepared = None  # its memory is needed
        yield from relay(
            measure_channels(known, self.noise, self.correlation, scaling_pixels(memory)),
            lambda done: Progress("noise", done[1], time.perf_counter() - started),
        )
        self.channel_noise, self.channel_scaling = known.noise, known.scaling
        self.channel_correlation = known.correlation
        stream = Stream(
            model=model,
            known=known,
            joint=model.config.channels > 1,
            flow=self.flow,
            refined=self._refines,
            precision=self._layer_precision(model.config),
            memory=memory,
            scratch=scratch,
        )
        said = yield from relay(
            denoise_stream(stream, output),
            lambda done: Progress("denoise", done, time.perf_counter() - started),
        )
        known.notes.extend(said)
        return known

    def _fitted(self, stack: Stack) -> STBN:
        """The model, if it can denoise this stack."""
        if self.model is None:
            raise RuntimeError("there is no model yet: call fit() or load() first")
        channels = self.model.config.channels
        if channels > 1 and stack.n_channels != channels:
            raise ValueError(
                f"the model denoises {channels} channels together, "
                f"this stack has {stack.n_channels}"
            )
        return self.model

    def preview_steps(
        self,
        frame: int,
        *,
        channel: int = 0,
        plane: int = 0,
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> Generator[None, None, NDArray[np.float32] | None]:
        """Denoise one frame as well as the fit can by now: a quick look between two of its steps.

        Parameters
        ----------
        frame, channel, plane : int
        rows, columns : slice
            Part of the frame [px].

        Yields
        ------
        None
            Several times a frame.

        Returns
        -------
        ndarray, shape (Y', X'), float32 [user's units], or None
            Posterior mean from the two frames before and after alone; None before the first step.
        """
        prepared, average, model = self._prepared, self._average, self.model
        if prepared is None or model is None or not self.history:
            return None
        joint = model.config.channels > 1
        key = (0 if joint else channel, plane)
        movie, at = prepared.around(key, frame, rows, columns)
        look = denoise_frame(model, movie, at, precision=self._fitted_in or "float32")
        if average is not None:
            average.swap()
        try:
            window = yield from look
        finally:
            look.close()
            if average is not None:
                average.swap()
        shown: NDArray[np.float32] = window.mean[0, channel if joint else 0].numpy()
        correlation = prepared.correlation.get(channel)
        return shown if correlation is None else correlation.restore(shown[None])[0]

    @property
    def has_uncertainty(self) -> bool:
        """Whether results come with an uncertainty: a noise model is used, or was by the fit."""
        if self.model is not None:
            return self.model.config.covariance
        return self.noise is not None

    def release(self) -> None:
        """Free the movie that is kept ready for another call; the fitted model stays."""
        self._prepared = None

    def units(self, channel: int = 0) -> Units:
        """Conversion between a channel's intensities and network units.

        Raises
        ------
        RuntimeError
            If that channel was never measured: nothing was fitted or loaded.
        """
        if channel not in self.channel_scaling:
            raise RuntimeError(
                f"channel {channel} was not measured yet: call fit() or load() first"
            )
        return Units(self.channel_noise[channel], self.channel_scaling[channel])

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the fitted model to a file: weights, noise, scaling; nothing that executes.

        Parameters
        ----------
        path : path
            By custom ``*.stbn``.
        overwrite : bool, default False
            Replace an existing file.

        Returns
        -------
        Path

        Raises
        ------
        RuntimeError
            If nothing was fitted yet.
        FileExistsError
            If the file exists and `overwrite` is False.
        """
        if self.model is None:
            raise RuntimeError("there is no model to save: call fit() first")
        saved = SavedModel(
            model=self.model,
            preset=self.preset,
            flow=self.flow,
            refined_flow=self._refines,
            seed=self.seed,
            steps=len(self.history),
            noise=self.channel_noise,
            scaling=self.channel_scaling,
            precision=self.precision,
            correlation=self.channel_correlation,
        )
        return saved.write(Path(path), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "auto") -> Denoiser:
        """Read a model that `save` wrote; no code in the file is executed.

        Parameters
        ----------
        path : path
        device : str, default "auto"
            Where to run it.

        Returns
        -------
        Denoiser
            Ready for `denoise`.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is not a model of ours, damaged, or from a newer version.
        """
        resolve_device(device)  # a wrong name is not the file's fault
        saved = SavedModel.read(Path(path))
        try:
            denoiser = cls(
                cast("PresetName", saved.preset),
                device=device,
                seed=saved.seed,
                flow=cast("FlowMethod", saved.flow),
                network=saved.model.config,
                precision=cast("Precision", saved.precision),
            )
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{Path(path).name} is damaged or was changed by hand: {error}"
            ) from error
        denoiser.model = saved.model.place(denoiser.device).eval()
        denoiser.channel_noise, denoiser.channel_scaling = saved.noise, saved.scaling
        denoiser.channel_correlation = saved.correlation
        denoiser._refines = saved.refined_flow and denoiser.flow in DENSE_METHODS
        return denoiser

    def _joint(self, stack: Stack) -> bool:
        """Whether the stack's channels are denoised together."""
        if self.channels == "auto":
            return "S" in stack.axes
        return self.channels == "joint" and stack.n_channels > 1

    def _layer_precision(self, config: STBNConfig) -> Precision:
        """Precision of the network's inner layers."""
        if self.precision != "auto":
            return self.precision
        return choose_precision(config, self.device)

    def _will_refine(self, plan: TrainingConfig, model: STBN, stack: Stack) -> bool:
        """Whether motion is estimated on the first model's prediction."""
        if self.flow not in DENSE_METHODS or plan.refine == "never":
            return False
        if plan.refine == "always" or plan.time_budget is None:
            return True
        seconds = inference_seconds(
            model.place(self.device),
            stack,
            origins=1,
            precision=self._layer_precision(model.config),
        )
        return seconds < _REFINEMENT_SHARE * plan.time_budget

    def _first_model(self, channels: int) -> FirstModel:
        """The network that a fit begins with."""
        config = self._network or PRESETS[self.preset].network
        config = replace(config, channels=channels, covariance=self.noise is not None)
        return first_model(self.start, config, self.seed)

    def _report(self, prepared: PreparedStack, seconds: float) -> dict[str, Any]:
        """What was done, in plain values."""
        last = self.history[-1] if self.history else None
        return {
            **versions(),
            **describe_stack(prepared),
            "device": str(self.device),
            "preset": self.preset,
            "network": None if self.model is None else asdict(self.model.config),
            "seed": self.seed,
            "flow": self.flow,
            "refined_flow": self._refines,
            "steps": last.step if last else 0,
            "precision": self._fitted_in,
            "skipped_steps": last.skipped if last else 0,
            "fit_seconds": round(last.elapsed, 2) if last else 0.0,
            "start": self._started_from,
            "start_held_out_loss": last.start_held_out if last else None,
            "checks": self._checks,
            "pace": [list(knot) for knot in last.pace] if last else [],
            "denoise_seconds": round(seconds, 2),
            "held_out_loss": [s.held_out for s in self.history if s.held_out is not None],
        }

    def _prepare(
        self,
        stack: Stack,
        joint: bool,
        started: float,
        model: STBN,
        sample: Sample | None = None,
    ) -> Generator[Progress, None, PreparedStack]:
        """Prepare a stack, or parts of it, once; remember its noise and scaling."""
        prepared = self._prepared
        parts = isinstance(prepared, SampledStack)  # of no use to denoise the whole
        if prepared is not None and prepared.stack is stack and not parts:
            if not self._flow_is_of_start:
                return prepared
        else:
            prepared = self._prepared = None  # free the last one first
            choices: dict[str, Any] = {
                "joint": joint,
                "noise": self.noise,
                "flow": "none" if self._refines else self.flow,
                "known_noise": self.channel_noise,
                "known_scaling": self.channel_scaling,
                "correlation": self.correlation,
                "known_correlation": self.channel_correlation,
            }
            steps = (
                prepare_stack(stack, **choices)
                if sample is None
                else prepare_sample(stack, sample, **choices)
            )
            prepared = yield from relay(
                steps, lambda done: Progress(done[0], done[1], time.perf_counter() - started)
            )
        if self._refines:
            yield from relay(
                refine_flow(
                    model.place(self.device),
                    prepared,
                    self.flow,
                    self._layer_precision(model.config),
                ),
                lambda done: Progress("flow", done, time.perf_counter() - started),
            )
        self.channel_noise, self.channel_scaling = prepared.noise, prepared.scaling
        self.channel_correlation = prepared.correlation
        self._prepared, self._flow_is_of_start = prepared, False
        return prepared


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
    stack = _as_stack(data, axes)
    return (
        Denoiser(preset, device=device, seed=seed)
        .fit(stack, time_budget=time_budget)
        .denoise(stack)
        .denoised
    )


def _as_stack(data: Stack | ArrayLike, axes: str | None) -> Stack:
    """A stack as it is; a bare array with its axes."""
    if isinstance(data, Stack):
        if axes is not None and axes != data.axes:
            raise ValueError(
                f"this stack has axes {data.axes}, got axes={axes!r}; "
                "give axes to Stack() or read() instead"
            )
        return data
    return Stack(np.asarray(data) if not hasattr(data, "shape") else cast("Any", data), axes)
