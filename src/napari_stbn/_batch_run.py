"""A batch on its way: what is to be done, what was done before, what came of it."""

from __future__ import annotations

import json
import logging
import shutil
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ._batch_blocks import BlockStore, Pace, plan_blocks
from ._batch_inputs import BatchMovie, Size
from ._batch_jobs import (
    BlockJob,
    Done,
    MovieJob,
    SampleJob,
    fit_movie,
    fit_sample,
    join_blocks,
    run_block,
    run_movie,
)
from ._batch_manifest import Manifest, digest, fingerprint, identity
from ._batch_options import BatchOptions, MovieOutcome
from ._batch_pool import Pool
from ._lines import in_words
from ._saved_model import SavedModel
from .camera import CameraMaps
from .io import check_writable
from .result import versions
from .stack import Stack

__all__ = ["SHARED_MODEL", "BatchRun", "Pending"]

SHARED_MODEL = "shared.stbn"
_LARGE = 2**27  # pixels; the margins of a smaller movie would cost more than its blocks gain
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pending:
    """A movie to be done: what it is known by, and whether its output may be replaced."""

    movie: BatchMovie
    key: str
    facts: Mapping[str, Any]
    replace: bool


@dataclass
class _Work:
    """A movie on its way through one job, or through those of its blocks."""

    pending: Pending
    job: MovieJob
    folder: Path  # of what is kept on the way
    stack: Stack | None = None  # and the parts that are wanted of it, of one that is cut
    count: int = 1
    left: int = 0  # blocks that are not done yet
    blocks: int = 0
    failed: bool = False
    seconds: float = 0.0
    steps: int = 0
    notes: list[str] = field(default_factory=list)
    worker: str = ""

    @property
    def store(self) -> Path:
        """Where its finished blocks are."""
        return self.folder / "blocks.zarr"


@dataclass(frozen=True, eq=False)
class _Step:
    """A job that waits for a worker, and whose it is."""

    work: _Work
    kind: Literal["movie", "fit", "block", "join"]
    function: Callable[..., Done]
    arguments: tuple[Any, ...]


class BatchRun:
    """One run of a batch in one folder.

    Parameters
    ----------
    options : BatchOptions
    folder : Path
        Of the results.
    manifest : Manifest
        In that folder.
    """

    def __init__(self, options: BatchOptions, folder: Path, manifest: Manifest) -> None:
        self.options, self.folder, self.manifest = options, folder, manifest
        self.model = None if options.model is None else Path(options.model).absolute()
        if options.shared_model:
            self.model = folder / SHARED_MODEL
        self.camera = tuple(str(Path(path).absolute()) for path in options.camera)
        settings = json.loads(options.settings.to_json())
        for name in ("device", "memory_limit"):  # the same work, wherever it is done
            settings.pop(name, None)
        if self.camera:
            CameraMaps.read(self.camera)  # refused here, not by every worker
            settings["camera"] = [digest(Path(path)) for path in self.camera]
        self.settings: dict[str, Any] = settings

    def has_shared_model(self) -> bool:
        """Whether an earlier run with the same settings left its model in the folder."""
        entry = self.manifest.last().get(SHARED_MODEL, {})
        path = self.folder / SHARED_MODEL
        same = entry.get("status") == "done" and entry.get("parameters") == self.settings
        if path.exists() and not same and not self.options.overwrite:
            raise FileExistsError(
                f"{path} exists and was fitted with other settings; choose another folder, pass "
                "--model to use it as it is, or --force."
            )
        return path.exists() and same and not self.options.overwrite

    def fit_shared(self, pool: Pool, movies: Sequence[BatchMovie]) -> None:
        """Fit one model to a sample of all movies; errors are those of the fit."""
        path = self.folder / SHARED_MODEL
        job = SampleJob(
            tuple(str(movie.source) for movie in movies),
            str(path),
            self.options.settings.to_json(),
            self.options.axes,
            str(self.folder / ".stbn-shared.fit"),
            self.camera,
            self.options.scene,
        )
        self._note(SHARED_MODEL, "started", parameters=self.settings)
        pool.submit(None, fit_sample, job)
        _, done, error = pool.next()
        if error is not None:
            self._note(SHARED_MODEL, "failed", error=_sentence(error))
            raise error
        self._note(
            SHARED_MODEL,
            "done",
            parameters=self.settings,
            inputs=list(job.sources),
            seconds=round(done.seconds, 2),
            steps=done.steps,
            worker=done.worker,
        )

    def settle(self, movies: Sequence[BatchMovie]) -> tuple[list[MovieOutcome], list[Pending]]:
        """Tell movies that are done or refused from those to be done."""
        parameters = self._parameters()
        last = self.manifest.last()
        by_key = {entry.get("key"): entry for entry in last.values() if _is_done(entry)}
        outcomes, pending = [], []
        for movie in movies:
            found = fingerprint(movie.source, movie.files)
            key = identity(found, parameters)
            done = by_key.get(key)
            if done is not None and not self.options.overwrite and self._is_there(done):
                target = self.folder / done["output"]
                notes = tuple(done.get("notes", ()))
                outcomes.append(MovieOutcome(movie.source, target, "skipped", notes=notes))
                continue
            # An output that the manifest began may be replaced; a movie that failed left none. But
            # what bears the name of its uncertainty may be the result of another movie.
            begun = last.get(movie.target.name, {}).get("status") == "started"
            other = _is_done(last.get(movie.uncertainty.name, {}))
            replace = self.options.overwrite or (begun and not other)
            try:
                check_writable(movie.target, overwrite=replace)
                if self.options.uncertainty:
                    check_writable(movie.uncertainty, overwrite=replace)
            except (OSError, ValueError) as error:
                outcomes.append(
                    MovieOutcome(movie.source, movie.target, "failed", _sentence(error))
                )
                continue
            pending.append(Pending(movie, key, {**found, "parameters": parameters}, replace))
        return outcomes, pending

    def movies(
        self, pool: Pool, pending: Sequence[Pending], sizes: Mapping[Path, Size]
    ) -> Generator[MovieOutcome, None, None]:
        """Denoise all pending movies; yield each outcome as it comes."""
        waiting = deque(self._begin(each) for each in pending)
        running = 0
        while waiting or running:
            while waiting and running < pool.size:
                step = waiting.popleft()
                if step.kind == "movie":
                    self._note_movie(step.work, "started")
                    size = sizes.get(step.work.pending.movie.source)
                    try:
                        steps = self._split_large(step, size, pool.size - running - len(waiting))
                    except (OSError, ValueError) as refusal:
                        step.work.failed = True
                        yield self._end(step.work, refusal)
                        continue
                    step = steps[0]
                    waiting.extendleft(reversed(steps[1:]))
                if not step.work.failed:  # a block whose movie failed meanwhile
                    pool.submit(step, step.function, *step.arguments)
                    running += 1
            if not running:
                break
            step, done, error = pool.next()
            running -= 1
            outcome = self._advance(step, done, error, waiting)
            if outcome is not None:
                yield outcome

    def _begin(self, pending: Pending) -> _Step:
        """The first job of a movie."""
        movie = pending.movie
        job = MovieJob(
            source=str(movie.source),
            target=str(movie.target),
            uncertainty=str(movie.uncertainty) if self.options.uncertainty else None,
            settings=self.options.settings.to_json(),
            model=None if self.model is None else str(self.model),
            axes=self.options.axes,
            keep_dtype=self.options.keep_dtype,
            overwrite=pending.replace,
            checkpoint=str(self.folder / f".stbn-{pending.key}.fit"),
            camera=self.camera,
            scene=self.options.scene,
        )
        work = _Work(pending, job, self.folder / f".stbn-{pending.key}")
        return _Step(work, "movie", run_movie, (job,))

    def _split_large(self, step: _Step, size: Size | None, idle: int) -> list[_Step]:
        """Turn the job of a large movie into those of its blocks where workers are idle."""
        if size is None:
            return [step]
        stack, work = size.stack, step.work
        shape = (stack.n_frames, *stack.frame_shape)
        large = shape[0] * shape[1] * shape[2] * stack.n_channels * stack.n_planes >= _LARGE
        count = self.options.blocks or (idle if large else 1)
        if count < 2:
            return [step]
        if len(plan_blocks(shape, count)) < 2:
            return [step]
        work.folder.mkdir(exist_ok=True)
        work.stack, work.count = stack, count
        if work.job.model is not None:
            return _block_steps(work, work.job.model)
        model = work.folder / "model.stbn"
        fit = _Step(work, "fit", fit_movie, (work.job, str(model)))
        work.job = replace(work.job, model=str(model))
        return [fit]

    def _advance(
        self, step: _Step, done: Done | None, error: Exception | None, waiting: deque[_Step]
    ) -> MovieOutcome | None:
        """Take in an answer; put the movie's next jobs in front; its outcome when it has one."""
        work = step.work
        if work.failed:  # another block was the first to say so
            return None
        if done is not None:
            work.seconds += done.seconds
            work.steps = max(work.steps, done.steps)
            work.notes += [note for note in done.notes if note not in work.notes]
            work.worker = done.worker
        if error is not None:
            work.failed = True
        elif step.kind == "fit" and work.job.model is not None:
            try:
                waiting.extendleft(reversed(_block_steps(work, work.job.model)))
            except (OSError, ValueError) as refusal:
                work.failed, error = True, refusal
            else:
                return None
        elif step.kind == "block":
            work.left -= 1
            if not work.left:
                waiting.appendleft(_Step(work, "join", join_blocks, (work.job, str(work.store))))
            return None
        return self._end(work, error)

    def _end(self, work: _Work, error: Exception | None) -> MovieOutcome:
        """Write down how a movie ended, and clear away what was kept on the way."""
        shutil.rmtree(work.folder, ignore_errors=True)
        movie = work.pending.movie
        if error is not None:
            self._note_movie(work, "failed", error=_sentence(error))
            return MovieOutcome(
                movie.source, movie.target, "failed", _sentence(error), work.seconds
            )
        self._note_movie(
            work,
            "done",
            seconds=round(work.seconds, 2),
            steps=work.steps,
            worker=work.worker,
            blocks=work.blocks,
            notes=work.notes,
        )
        return MovieOutcome(
            movie.source, movie.target, "done", "", work.seconds, work.steps, tuple(work.notes)
        )

    def _parameters(self) -> dict[str, Any]:
        """What the results depend on beside the movie, in plain values."""
        options = self.options
        return {
            "settings": self.settings if self.model is None else None,
            "camera": self.settings.get("camera"),
            "model": None if self.model is None else digest(self.model),
            "axes": options.axes,
            "scene": options.scene,
            "ending": options.ending,
            "uncertainty": options.uncertainty,
            "keep_dtype": options.keep_dtype,
            "version": versions()["napari_stbn"],
        }

    def _is_there(self, entry: Mapping[str, Any]) -> bool:
        """Whether the results that a line tells of are still there."""
        names = [entry["output"], *entry.get("also", ())]
        return all((self.folder / name).exists() for name in names)

    def _note_movie(self, work: _Work, status: str, **more: Any) -> None:
        """Write a line about a movie."""
        movie = work.pending.movie
        also = [movie.uncertainty.name] if self.options.uncertainty else []
        facts = {"key": work.pending.key, **work.pending.facts, "also": also}
        self._note(movie.target.name, status, **facts, **more)

    def _note(self, output: str, status: str, **more: Any) -> None:
        """Write a line."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.manifest.append({"time": now, "output": output, "status": status, **more})
        _logger.info("%s: %s", output, status)


def _block_steps(work: _Work, model: str) -> list[_Step]:
    """The jobs of all blocks of a movie, cut as suits its model, and room for what they give."""
    stack = work.stack
    if stack is None:
        raise ValueError("only a movie whose size is known can be cut in blocks")
    pace = Pace.of(SavedModel.read(Path(model)).model.clip_frames)
    blocks = plan_blocks((stack.n_frames, *stack.frame_shape), work.count, pace)
    names = ["denoised", *(["uncertainty"] if work.job.uncertainty else [])]
    BlockStore(work.store).create(stack, blocks, names, pace)
    work.blocks = work.left = len(blocks)
    return [
        _Step(work, "block", run_block, (BlockJob(work.job, block, str(work.store)),))
        for block in blocks
    ]


def _is_done(entry: Mapping[str, Any]) -> bool:
    """Whether a line tells of a finished result."""
    return entry.get("status") == "done"


def _sentence(error: BaseException) -> str:
    """What went wrong, on one line."""
    if isinstance(error, (ValueError, OSError, MemoryError, FloatingPointError, RuntimeError)):
        return in_words(error)
    return f"{type(error).__name__}: {in_words(error)}"
