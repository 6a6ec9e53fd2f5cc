"""A `Denoiser` in use: stacks denoised into memory or files."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ._colour_noise import channel_correlation, channel_noise
from ._denoiser_preview import DenoiserPreview
from ._file_output import FileOutput
from ._flow_updates import follow_student
from ._generators import last, relay
from ._preparing import as_stack, measure_steps, prepare_steps
from ._refinement import reestimate_flow, refine_flow
from ._sampling import Sample, SampledStack
from ._stack_inference import ArrayOutput, Output, denoise_prepared
from ._streaming import Stream, check_result, denoise_stream, exceeds, memory_budget
from ._views import output_for_user
from .network import STBN
from .preparation import PreparedStack
from .result import DenoiseResult, Progress, StreamedResult, gather_flow
from .stack import Stack

__all__ = ["FittedDenoiser"]


class FittedDenoiser(DenoiserPreview):
    """What a denoiser does with its model, whether that was fitted or loaded."""

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
            If nothing was fitted or loaded yet, or the model predicts values that are no numbers.
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
        stack = as_stack(data, axes)
        model = self._fitted(stack)
        memory = memory_budget(self.memory_limit)
        output = ArrayOutput(stack)
        if exceeds(stack, memory):
            check_result(stack, memory, self.has_uncertainty)
            with tempfile.TemporaryDirectory(prefix="stbn-") as scratch:
                described = yield from self.denoise_into_steps(stack, output, scratch=scratch)
            none = np.empty((0, 2, *stack.frame_shape), np.float32)
            to_previous, to_next = none, none
        else:
            seen = yield from self._seen_steps(stack, started, model)
            described = yield from self._denoise_whole(seen, output, started, model)
            to_previous, to_next = gather_flow(described)
        denoised = stack.assemble(output.means, np.float32)
        return DenoiseResult(
            denoised=denoised,
            uncertainty=stack.assemble(output.stds, np.float32) if output.stds else None,
            flow_to_previous=to_previous,
            flow_to_next=to_next,
            noise=channel_noise(described),
            correlation=channel_correlation(described),
            stack=stack.like(denoised, name=f"{stack.name} denoised".strip()),
            report=self._report(described, time.perf_counter() - started),
        )

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
            If nothing was fitted or loaded yet, or the model predicts values that are no numbers.
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
        stack = as_stack(data, axes)
        if uncertainty is not None and not self.has_uncertainty:
            raise ValueError("there is no uncertainty without a noise model; leave it out")
        stack.check()
        path = Path(path)
        spread = None if uncertainty is None else Path(uncertainty)
        title = f"{stack.name} denoised".strip()
        with FileOutput(stack, path, spread, dtype, overwrite=overwrite, name=title) as output:
            folder = path.absolute().parent
            described = yield from self.denoise_into_steps(stack, output, scratch=folder)
            yield Progress("denoise", 1.0, time.perf_counter() - started)
        report = {**self._report(described, time.perf_counter() - started), "streamed": True}
        return StreamedResult(path, spread, channel_noise(described), report)

    def denoise_into_steps(
        self, stack: Stack, output: Output, *, scratch: str | PathLike[str]
    ) -> Generator[Progress, None, PreparedStack]:
        """Denoise a stack of any length piece by piece, as a generator that yields `Progress`.

        Parameters
        ----------
        stack : Stack
        output : callable
            Takes frames as they are made, see `napari_stbn._stack_inference.Output`.
        scratch : path
            Folder for the motion, which is kept in a file meanwhile.

        Returns
        -------
        PreparedStack
            What is known of the stack.

        Raises
        ------
        RuntimeError, ValueError, MemoryError, OSError
            As `denoise_to` does.
        """
        started = time.perf_counter()
        model = self._fitted(stack)
        stack = yield from self._seen_steps(stack, started, model)
        memory = memory_budget(self.memory_limit)
        if self._is_at_hand(stack) and not exceeds(stack, memory):
            # After a fit in memory: what it made ready is taken, and motion not found once more.
            return (yield from self._denoise_whole(stack, output, started, model))
        notes = self._said_of(stack)
        self._prepared = None  # its memory is needed
        known = yield from relay(
            measure_steps(self._preparing(), stack, notes, memory),
            lambda done: Progress(done[0], done[1], time.perf_counter() - started),
        )
        stream = Stream(
            model=model,
            known=known,
            joint=model.config.channels > 1,
            flow=self.flow,
            refined=self._refines,
            student=self._student,
            flow_model=self._flow_model and self._flow_model.place(self.device),
            precision=self._layer_precision(model.config),
            memory=memory,
            scratch=Path(scratch),
            turns=self.turns or self._turns,
            routes=self._routes,
        )
        with tempfile.TemporaryDirectory(
            prefix=".stbn-waiting-", dir=scratch, ignore_cleanup_errors=True
        ) as folder:
            output = output_for_user(output, stack, Path(folder))
            said = yield from relay(
                denoise_stream(stream, output),
                lambda done: Progress("denoise", done, time.perf_counter() - started),
            )
        known.notes.extend(said)
        return known

    def _seen_steps(
        self, stack: Stack, started: float, model: STBN
    ) -> Generator[Progress, None, Stack]:
        """The stack as it is denoised: noise of each frame its own, even light, colours."""

        def measured(done: float) -> Progress:
            return Progress("noise", done, time.perf_counter() - started)

        joint = model.config.channels > 1
        apart = yield from relay(self._apart(stack, self.spacing, joint=joint), measured)
        even = yield from relay(self._evened(apart), measured)
        return self._seen(even)

    def _denoise_whole(
        self, stack: Stack, output: Output, started: float, model: STBN
    ) -> Generator[Progress, None, PreparedStack]:
        """Prepare a stack in memory and denoise it into an output."""
        prepared = yield from self._prepare(stack, model.config.channels > 1, started, model)
        precision, turns = self._layer_precision(model.config), self.turns or self._turns
        output = output_for_user(output, stack)
        yield from relay(
            denoise_prepared(model, prepared, output, precision, turns),
            lambda fraction: Progress("denoise", fraction, time.perf_counter() - started),
        )
        return prepared

    def _said_of(self, stack: Stack) -> list[str]:
        """Sentences from a fit to the same array, such as that it learnt from parts of it."""
        prepared = self._prepared
        if prepared is None or prepared.stack.recorded.array is not stack.recorded.array:
            return []
        return list(prepared.notes)

    def _is_at_hand(self, stack: Stack) -> bool:
        """Whether the whole stack is prepared already; parts of it are of no use to denoise it."""
        prepared = self._prepared
        parts = isinstance(prepared, SampledStack)
        return prepared is not None and prepared.stack is stack and not parts

    def _prepare(
        self,
        stack: Stack,
        joint: bool,
        started: float,
        model: STBN,
        sample: Sample | None = None,
    ) -> Generator[Progress, None, PreparedStack]:
        """Prepare a stack, or parts of it, once."""
        prepared = self._prepared
        if prepared is not None and self._is_at_hand(stack):
            if not self._flow_is_outdated:
                return prepared
        else:
            said = self._said_of(stack)
            prepared = self._prepared = None  # free the last one first
            prepared = yield from relay(
                prepare_steps(self._preparing(), stack, joint, sample),
                lambda done: Progress(done[0], done[1], time.perf_counter() - started),
            )
            prepared.notes[:0] = said
        if self._refines:
            yield from relay(
                refine_flow(
                    (self._flow_model or model).place(self.device),
                    prepared,
                    self.flow,
                    self._layer_precision(model.config),
                    self._routes,
                ),
                lambda done: Progress("flow", done, time.perf_counter() - started),
            )
            for _ in range(self._flow_rounds):
                for movie in prepared.moving():
                    yield from relay(
                        reestimate_flow(
                            model.place(self.device),
                            movie,
                            self.flow,
                            self._layer_precision(model.config),
                        ),
                        lambda done: Progress("flow", done, time.perf_counter() - started),
                    )
        elif self._student is not None:
            yield from relay(
                follow_student(self._student, prepared, self.flow),
                lambda done: Progress("flow", done, time.perf_counter() - started),
            )
        self._prepared, self._flow_is_outdated = prepared, False
        return prepared
