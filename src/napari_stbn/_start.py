"""What a fit begins with: random weights, those that come with the package, or a saved model's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from ._saved_model import SavedModel
from .network import STBN, STBNConfig

__all__ = ["STARTS", "WEIGHTS", "FirstModel", "channels_of", "first_model", "pretrained_model"]

STARTS = ("fresh", "pretrained")
"""Words for a start; all others are names of model files."""
_FOLDER = Path(__file__).parent / "weights"
WEIGHTS = (_FOLDER / "small.stbn", _FOLDER / "standard.stbn")
"""Model files that come with the package, one for each size; see docs/warm_start.md."""


@dataclass(frozen=True)
class FirstModel:
    """A network before the first step of its fit.

    Attributes
    ----------
    model : STBN
        On the CPU.
    name : str
        "fresh", "pretrained" or the name of a model file: what it really is.
    note : str
        Why it is not what was asked for; empty where it is.
    flow_model : STBN or None
        With which a saved model finds motion, if not by itself.
    """

    model: STBN
    name: str
    note: str = ""
    flow_model: STBN | None = None

    @property
    def warm(self) -> bool:
        """Whether its weights were learnt before."""
        return self.name != "fresh"


def pretrained_model(config: STBNConfig) -> STBN | None:
    """Network of a size with the weights that come with the package; None where there are none.

    Such a network is told of the noise, also where `config` is not: to a fit from random weights,
    which sees one noise level only, that would say nothing. It aligns as `config` says, whichever
    way its weights were learnt.
    """
    for path in WEIGHTS:
        if path.exists():
            model = SavedModel.read(path).model
            model.config = replace(model.config, alignment=config.alignment)
            if replace(model.config, noise_input=config.noise_input) == config:
                return model
    return None


def channels_of(start: str | PathLike[str]) -> int:
    """Channels that a saved model denoises together; 1 of other starts and unreadable ones."""
    if start in STARTS:
        return 1
    try:
        return SavedModel.read(Path(start)).model.config.channels
    except (OSError, ValueError):
        return 1  # the fit says why


def first_model(start: str | PathLike[str], config: STBNConfig, seed: int) -> FirstModel:
    """Make the network that a fit begins with.

    Parameters
    ----------
    start : {"fresh", "pretrained"} or path
        As in `napari_stbn.Denoiser`.
    config : STBNConfig
        Size of the network; a saved model brings its own.
    seed : int
        Of random weights.

    Returns
    -------
    FirstModel

    Raises
    ------
    FileNotFoundError
        If there is no such model file.
    ValueError
        If it is no model file, or for another number of channels or without their noise.
    """
    note = ""
    if start == "pretrained":
        model = pretrained_model(config)
        if model is not None:
            return FirstModel(model, "pretrained")
        note = (
            "There are no pretrained weights for this size of the network and number of channels; "
            "the fit began with random weights."
        )
    if start in STARTS:
        return FirstModel(STBN.seeded(config, seed), "fresh", note)
    path = Path(start)
    saved = SavedModel.read(path)
    model = saved.model
    own = model.config
    if (own.channels, own.covariance) != (config.channels, config.covariance):
        raise ValueError(
            f"a fit to {config.channels} channel(s) {_with_noise(config)} cannot start from "
            f"{path.name}, which is for {own.channels} {_with_noise(own)}; start fresh"
        )
    return FirstModel(model, path.name, flow_model=saved.flow_model)


def _with_noise(config: STBNConfig) -> str:
    """The noise model in a sentence."""
    return f"{'with' if config.covariance else 'without'} a noise model"
