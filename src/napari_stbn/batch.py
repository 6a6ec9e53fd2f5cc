"""Many movies in one go: on the workers of a cluster or of this machine, and nothing done twice."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from os import PathLike
from pathlib import Path

from ._batch_inputs import find_movies, survey
from ._batch_manifest import FILE_NAME, Manifest
from ._batch_options import BatchOptions, MovieOutcome
from ._batch_pool import open_pool
from ._batch_run import BatchRun, Pending
from ._command_paths import check_new_folder

__all__ = ["BatchOptions", "MovieOutcome", "batch_steps", "denoise_many"]


def denoise_many(
    inputs: str | PathLike[str] | Iterable[str | PathLike[str]],
    output: str | PathLike[str],
    options: BatchOptions | None = None,
) -> list[MovieOutcome]:
    """Denoise many movies into a folder.

    Parameters
    ----------
    inputs : path or sequence of path
        Files, folders (all movies directly in them), and patterns such as ``data/**/*.tif``.
    output : path
        Folder; made if it does not exist. Each movie goes there under its name.
    options : BatchOptions, optional

    Returns
    -------
    list of MovieOutcome
        One for each movie, in the order in which they ended. What is wrong with one movie stops no
        other.

    Raises
    ------
    ValueError
        If there are no inputs, an output would replace an input, or dask.distributed is asked for
        and not installed.
    OSError
        If the folder cannot be written to, another batch writes to it, or the scheduler does not
        answer.

    Examples
    --------
    >>> import napari_stbn as stbn
    >>> from tempfile import TemporaryDirectory
    >>> settings = stbn.RunSettings(preset="preview", device="cpu", max_steps=1)
    >>> with TemporaryDirectory() as folder:
    ...     movie = stbn.Stack(stbn.simulate((4, 16, 16), seed=0).noisy, "TYX")
    ...     path = stbn.write(folder + "/cells.tif", movie)
    ...     options = BatchOptions(settings=settings, workers=0)
    ...     [outcome.status for outcome in denoise_many(path, folder + "/out", options)]
    ['done']
    """
    return list(batch_steps(inputs, output, options))


def batch_steps(
    inputs: str | PathLike[str] | Iterable[str | PathLike[str]],
    output: str | PathLike[str],
    options: BatchOptions | None = None,
) -> Generator[MovieOutcome, None, None]:
    """`denoise_many` as a generator: yields each movie's outcome as soon as it is known.

    Closing it early stops the batch; what is finished stays, and the same call goes on from there.
    Parameters and errors are those of `denoise_many`.
    """
    options = options or BatchOptions()
    folder = Path(output).absolute()
    check_new_folder(folder)
    movies = find_movies(
        inputs,
        folder,
        options.ending,
        uncertainty=options.uncertainty,
        scene=options.scene,
        also_read=[Path(path) for path in options.camera],
    )
    folder.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(folder / FILE_NAME)
    with manifest.locked():
        run = BatchRun(options, folder, manifest)
        fit_first = options.shared_model and not run.has_shared_model()
        pending: list[Pending] = []
        if not fit_first:
            settled, pending = run.settle(movies)
            yield from settled
            if not pending:
                return
        left = movies if fit_first else [each.movie for each in pending]
        sizes = survey(left, options.axes, options.scene)
        with open_pool(
            options.scheduler,
            options.workers if sizes else 0,  # to say what is wrong with each takes no worker
            device=options.settings.device,
            jobs=len(left) * (options.blocks or 1),
            need=max((size.need for size in sizes.values()), default=0),
        ) as pool:
            if fit_first:
                run.fit_shared(pool, movies)
                settled, pending = run.settle(movies)
                yield from settled
            yield from run.movies(pool, pending, sizes)
