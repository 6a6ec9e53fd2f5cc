"""What a batch is told, and what it tells of each movie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Literal

from .io import WRITABLE
from .settings import RunSettings

__all__ = ["BatchOptions", "MovieOutcome"]


@dataclass(frozen=True)
class BatchOptions:
    """What is the same for all movies of a batch.

    Attributes
    ----------
    settings : RunSettings
        Of each fit.
    model : path, optional
        Denoise all with this saved model; nothing is fitted.
    shared_model : bool
        Fit one model to a sample of all movies, keep it in the output folder as ``shared.stbn``,
        and denoise all with it. One that an earlier run with the same settings left there is used.
        Otherwise each movie has a fit of its own.
    scheduler : str, optional
        Address of a running dask scheduler; see `workers` where None.
    workers : int, optional
        Processes on this machine; 0 for none but this one. When None one for each GPU, on the CPU
        a few, as memory allows.
    axes : str, optional
        Overrules the files.
    ending : str
        Of the outputs, which chooses their format, see `napari_stbn.write`.
    uncertainty : bool
        Also write the posterior standard deviation, to ``NAME_uncertainty``.
    keep_dtype : bool
        Write the input's number type instead of float32.
    overwrite : bool
        Replace outputs of other origin, and do finished movies again.
    blocks : int, optional
        Parts that each movie is denoised in at the same time; 1 never splits. When None only large
        movies are split, and only where there are more workers than movies.
    camera : sequence of path
        Maps that correct all movies first, see `napari_stbn.CameraMaps.read`.
    scene : int, optional
        Which image of files that hold several, from 0; see `napari_stbn.read`.

    Raises
    ------
    ValueError
        If two of them exclude each other, or one is out of range.
    """

    settings: RunSettings = field(default_factory=RunSettings)
    model: str | PathLike[str] | None = None
    shared_model: bool = False
    scheduler: str | None = None
    workers: int | None = None
    axes: str | None = None
    ending: str = ".tif"
    uncertainty: bool = False
    keep_dtype: bool = False
    overwrite: bool = False
    blocks: int | None = None
    camera: Sequence[str | PathLike[str]] = ()
    scene: int | None = None

    def __post_init__(self) -> None:
        if self.model is not None and self.shared_model:
            raise ValueError("model and shared_model exclude each other; give one of them")
        if self.scheduler is not None and self.workers is not None:
            raise ValueError(
                "a running scheduler has its own workers; leave out scheduler or workers"
            )
        if Path(f"x{self.ending}").suffix.lower() not in WRITABLE:
            raise ValueError(
                f"ending must be one of {', '.join(WRITABLE)}, or .ome before it, "
                f"got {self.ending!r}"
            )
        if self.blocks is not None and self.blocks < 1:
            raise ValueError(f"blocks must be at least 1, got {self.blocks}")
        if self.scene is not None and self.scene < 0:
            raise ValueError(f"scene counts from 0, got {self.scene}")
        if self.uncertainty and self.settings.noise is None:
            raise ValueError("there is no uncertainty without a noise model; leave out one of them")


@dataclass(frozen=True)
class MovieOutcome:
    """How one movie of a batch ended.

    Attributes
    ----------
    input, output : Path
    status : {"done", "skipped", "failed"}
        Skipped: an earlier run with the same parameters had done it.
    error : str
        Why it failed, in one sentence.
    seconds, steps
        Of the fit and of denoising together; steps of the fit.
    notes : tuple of str
        What was noticed about the movie.
    """

    input: Path
    output: Path
    status: Literal["done", "skipped", "failed"]
    error: str = ""
    seconds: float = 0.0
    steps: int = 0
    notes: tuple[str, ...] = ()
