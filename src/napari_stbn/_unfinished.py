"""What is left of a run that did not end: the state of its fit, or the model that it had made."""

from __future__ import annotations

import hashlib
import logging
from os import PathLike
from pathlib import Path

import numpy as np

from ._model_file import ModelFile, read_model_file, write_model_file
from .denoiser import Denoiser
from .settings import RunSettings
from .stack import Stack

__all__ = ["Unfinished", "run_key"]

_logger = logging.getLogger(__name__)
_FRAMES, _SIDE = 5, 256  # of a movie that tell it from others: frames, and their middle [px]
_MODEL_OF = "model_of_run"


def run_key(stack: Stack, settings: RunSettings) -> str:
    """A word that tells a run from others: by its settings, and by some frames of its stack."""
    key = hashlib.sha256(settings.to_json().encode())
    key.update(f"{stack.axes} {stack.shape} {stack.dtype}".encode())
    rows, columns = (
        slice(max(0, (side - _SIDE) // 2), (side + _SIDE) // 2) for side in stack.frame_shape
    )
    channels, planes = stack.n_channels - 1, stack.n_planes - 1
    for t in np.unique(np.linspace(0, stack.n_frames - 1, _FRAMES).astype(int)):
        for channel, plane in ((0, 0), (channels, planes)):
            part = stack.movie(
                channel, plane, frames=slice(int(t), int(t) + 1), rows=rows, columns=columns
            )
            key.update(part.tobytes())
    return key.hexdigest()[:32]


class Unfinished:
    """The file from which a run can go on.

    While the fit runs it holds the state of the fit (`Denoiser.fit`, ``checkpoint``); from then on
    the fitted model, until the result is there.

    Parameters
    ----------
    path : path
    key : str
        From `run_key`.
    """

    def __init__(self, path: str | PathLike[str], key: str) -> None:
        self.path, self.key = Path(path), key

    def exists(self) -> bool:
        """Whether there is something to go on from."""
        return self.path.exists()

    def model(self, device: str) -> Denoiser | None:
        """The fitted model, if the run had come that far.

        Raises
        ------
        ValueError
            If the file is damaged, or of another run.
        """
        if not self.path.exists():
            return None
        header = read_model_file(self.path).header
        if "fit" in header:
            return None  # whose fit it is, the fit will see
        if header.get(_MODEL_OF) != self.key:
            raise ValueError(
                f"{self.path.name} is what is left of another run (other movie or settings); give "
                "the same ones, or delete it to start anew"
            )
        return Denoiser.load(self.path, device=device)

    def keep(self, denoiser: Denoiser) -> None:
        """Keep the fitted model while the movie is denoised; a full drive is no reason to stop."""
        try:
            denoiser.save(self.path, overwrite=True)
            file = read_model_file(self.path)
            marked = ModelFile({**file.header, _MODEL_OF: self.key}, file.weights)
            write_model_file(self.path, marked, overwrite=True)
        except OSError as error:
            _logger.warning("the fitted model was not kept in %s: %s", self.path, error)

    def discard(self) -> None:
        """Delete what an earlier run left, to begin anew.

        Raises
        ------
        ValueError
            If the file is something else, which is kept.
        """
        try:
            read_model_file(self.path)
        except ValueError as error:
            raise ValueError(
                f"{self.path} is not what a run has left, so it is not replaced; move it away, or "
                "choose another name for the state of the fit (--checkpoint)."
            ) from error
        self.remove()

    def remove(self) -> None:
        """Delete the file of a run that is done."""
        self.path.unlink(missing_ok=True)
