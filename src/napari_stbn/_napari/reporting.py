"""The HTML report of a job, from the layers that it added."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .job import DenoisingJob

__all__ = ["write_job_report"]


def write_job_report(path: str | Path, job: DenoisingJob, *, overwrite: bool) -> Path:
    """Write the report of a job that is done.

    Parameters
    ----------
    path : path
    job : DenoisingJob
    overwrite : bool

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If the job has no result.
    FileExistsError
        If the file exists and `overwrite` is False.
    """
    from napari_stbn.report import write_report

    if job.result is None or job.denoiser is None:
        raise ValueError("there is no result to report on")
    return write_report(
        Path(path), job.result, job.request.stack, job.denoiser.history, overwrite=overwrite
    )
