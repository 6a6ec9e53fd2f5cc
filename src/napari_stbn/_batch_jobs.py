"""What a worker of a batch does: a whole movie, a shared model, a block of a large movie.

Plain functions of plain values, so that they run in this process as well as in another one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._batch_blocks import Block, BlockStore, cut
from ._batch_sample import sample
from ._generators import last
from .camera import read_corrected
from .denoiser import Denoiser
from .devices import keep_freed_memory, limit_memory
from .io import check_writable, write
from .settings import RunSettings
from .stack import Stack, cast_like

__all__ = [
    "BlockJob",
    "Done",
    "MovieJob",
    "SampleJob",
    "fit_movie",
    "fit_sample",
    "join_blocks",
    "run_block",
    "run_movie",
]

_ONE_AT_A_TIME = threading.Lock()  # a worker with several threads gives them all to one job
_NO_UNCERTAINTY = "there is no uncertainty without a noise model; leave out the one or the other"


@dataclass(frozen=True)
class MovieJob:
    """One movie: where it is, where it goes, how.

    Attributes
    ----------
    source, target : str
        Paths that every worker sees.
    uncertainty : str or None
        Also write the uncertainty there.
    settings : str
        `RunSettings.to_json`.
    model : str or None
        Denoise with this saved model instead of fitting.
    axes : str or None
    keep_dtype, overwrite : bool
    checkpoint : str
        Where the state of the fit is kept, so that another worker can go on with it.
    camera : tuple of str
        Maps that correct the movie.
    scene : int or None
        Which image of a file that holds several.
    """

    source: str
    target: str
    uncertainty: str | None
    settings: str
    model: str | None
    axes: str | None
    keep_dtype: bool
    overwrite: bool
    checkpoint: str
    camera: tuple[str, ...] = ()
    scene: int | None = None

    def read(self) -> tuple[Stack, np.dtype[Any]]:
        """The movie, and the number type that it was recorded in."""
        return read_corrected(self.source, self.axes, self.camera, self.scene)

    def begin(self) -> tuple[Stack, np.dtype[Any]]:
        """The movie, and the number type of its result; no file is refused after the fit."""
        stack, recorded = self.read()
        stack.check()
        dtype = recorded if self.keep_dtype else np.dtype(np.float32)
        check_writable(self.target, overwrite=self.overwrite, dtype=dtype, axes=stack.axes)
        if self.uncertainty is not None:
            check_writable(self.uncertainty, overwrite=self.overwrite, axes=stack.axes)
        return stack, dtype


@dataclass(frozen=True)
class SampleJob:
    """A model for many movies: what it is fitted to, and where it goes."""

    sources: tuple[str, ...]
    target: str
    settings: str
    axes: str | None
    checkpoint: str
    camera: tuple[str, ...] = ()
    scene: int | None = None


@dataclass(frozen=True)
class BlockJob:
    """One block of a large movie, denoised with a saved model into a `BlockStore`."""

    movie: MovieJob
    block: Block
    store: str


@dataclass(frozen=True)
class Done:
    """What a job tells about itself in plain values."""

    seconds: float
    steps: int = 0
    notes: tuple[str, ...] = ()
    worker: str = "this process"


def run_movie(job: MovieJob) -> Done:
    """Fit to a movie, or load a model, and denoise it into its files, whole or not at all."""
    with _whole_worker() as worker:
        started = time.perf_counter()
        stack, dtype = job.begin()
        if job.model is None:
            denoiser = _fit(RunSettings.from_json(job.settings), stack, job.checkpoint)
        else:
            denoiser = _load(job)
        if job.uncertainty is not None and not denoiser.has_uncertainty:
            raise ValueError(_NO_UNCERTAINTY)
        result = denoiser.denoise_to(
            stack,
            job.target,
            uncertainty=job.uncertainty,
            dtype=dtype,
            overwrite=job.overwrite,
        )
        return _done(started, worker, denoiser, [*_guessed(stack), *result.report["notes"]])


def fit_movie(job: MovieJob, target: str) -> Done:
    """Fit to a movie and save the model, for blocks that are denoised with it."""
    with _whole_worker() as worker:
        started = time.perf_counter()
        stack, _ = job.begin()
        denoiser = _fit(RunSettings.from_json(job.settings), stack, job.checkpoint)
        denoiser.save(target, overwrite=True)
        return _done(started, worker, denoiser)


def fit_sample(job: SampleJob) -> Done:
    """Fit one model to a sample of all movies and save it."""
    with _whole_worker() as worker:
        started = time.perf_counter()
        stack = sample([Path(source) for source in job.sources], job.axes, job.camera, job.scene)
        denoiser = _fit(RunSettings.from_json(job.settings), stack, job.checkpoint)
        denoiser.save(job.target, overwrite=True)
        return _done(started, worker, denoiser)


def run_block(job: BlockJob) -> Done:
    """Denoise one block with its margin, a few frames at a time, and keep the block."""
    with _whole_worker() as worker:
        started = time.perf_counter()
        stack, _ = job.movie.read()
        denoiser = _load(job.movie)
        if job.movie.uncertainty is not None and not denoiser.has_uncertainty:
            raise ValueError(_NO_UNCERTAINTY)
        store = BlockStore(Path(job.store))
        notes = last(
            denoiser.denoise_into_steps(
                cut(stack, job.block), store.put(job.block, stack), scratch=store.folder.parent
            )
        ).notes
        return _done(started, worker, denoiser, [*_guessed(stack), *notes])


def join_blocks(job: MovieJob, store: str) -> Done:
    """Write the finished blocks of a movie as one file, whole or not at all."""
    with _whole_worker() as worker:
        started = time.perf_counter()
        kept = BlockStore(Path(store))
        uncertainty = None if job.uncertainty is None else kept.joined("uncertainty")
        _write(job, kept.joined("denoised"), uncertainty)
        return Done(time.perf_counter() - started, worker=worker)


def _guessed(stack: Stack) -> list[str]:
    """What had to be guessed of a movie, as a note."""
    return [f"axes: {stack.guess}"] if stack.guess else []


def _fit(settings: RunSettings, stack: Stack, checkpoint: str) -> Denoiser:
    """Fit to a stack; go on with the fit of a worker that died."""
    denoiser = settings.denoiser()
    try:
        for _ in settings.fit_steps(denoiser, stack, checkpoint=checkpoint):
            pass
    except Exception:
        Path(checkpoint).unlink(missing_ok=True)  # what failed once shall not begin there again
        raise
    return denoiser


def _load(job: MovieJob) -> Denoiser:
    """The saved model of a job, with the memory that its settings allow."""
    if job.model is None:
        raise ValueError("a block is denoised with a saved model, got none")
    settings = RunSettings.from_json(job.settings)
    denoiser = Denoiser.load(job.model, device=settings.device)
    denoiser.memory_limit, denoiser.turns = settings.memory_limit, settings.turns
    return denoiser


def _write(job: MovieJob, denoised: Any, uncertainty: Any) -> None:
    """Write the results that the job asks for; the denoised movie last, as the sign of success."""
    stack, recorded = job.read()
    if job.uncertainty is not None:
        write(job.uncertainty, stack.like(uncertainty), overwrite=job.overwrite)
    if job.keep_dtype:
        denoised = _AsType(denoised, recorded)
    write(job.target, stack.like(denoised), overwrite=job.overwrite)


class _AsType:
    """A lazy array in another number type, rounded and clipped where it is read."""

    def __init__(self, array: Any, dtype: np.dtype[Any]) -> None:
        self.array, self.dtype = array, dtype
        self.shape: tuple[int, ...] = tuple(array.shape)

    def __getitem__(self, index: Any, /) -> NDArray[Any]:
        """Read a part."""
        return cast_like(np.asarray(self.array[index]), self.dtype)


def _done(
    started: float,
    worker: str,
    denoiser: Denoiser,
    notes: Sequence[str] = (),
) -> Done:
    """What to tell of a job."""
    steps = denoiser.history[-1].step if denoiser.history else 0
    return Done(time.perf_counter() - started, steps, tuple(notes), worker)


@contextmanager
def _whole_worker() -> Generator[str, None, None]:
    """Give one job all threads and memory of its worker; its name."""
    with _ONE_AT_A_TIME:
        worker = _this_worker()
        if worker is None:
            yield "this process"
            return
        import cv2
        import torch

        keep_freed_memory()  # also where nothing is fitted
        threads = int(worker.state.nthreads)
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
        limit = worker.memory_manager.memory_limit
        limit_memory(int(0.9 * limit) if limit else None)  # dask ends a worker at 95 %
        yield str(worker.address)


def _this_worker() -> Any:
    """The dask worker that this runs in, None elsewhere."""
    try:
        from distributed import get_worker

        return get_worker()
    except (ImportError, ValueError):
        return None
