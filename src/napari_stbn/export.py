"""Export a fitted model as a package of the bioimage.io format, for other programs.

The format holds feed-forward models of tensors. This network follows motion, which is estimated by
another algorithm, so the exported model goes along zero flow: exact for flow ``none``, and for
other models what they would give of a movie that stands still.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ._appearing import check_folder, check_free
from ._bioimageio import write_package
from .denoiser import Denoiser
from .network import STBN, STBNConfig
from .noise import noise_from_dict
from .prior import Units, network_input, posterior, prior_mean
from .samples import simulate
from .stack import IntensityScaling

__all__ = ["StillModel", "export_bioimageio"]

_logger = logging.getLogger(__name__)
_FRAMES, _SIDE = 8, 64  # of the movie in the package that shows what comes out


class StillModel(nn.Module):
    """A fitted network with its units, as a function of a noisy movie alone: no motion.

    Parameters
    ----------
    network : mapping
        Fields of `STBNConfig`.
    noise : sequence of mapping or None
        `to_dict` of each channel's noise model.
    scaling : sequence of mapping
        Fields of each channel's `IntensityScaling`.

    Notes
    -----
    Plain values, so that a package can name them. Unlike `Denoiser.denoise` it does not average
    over the origins of the patches, and takes every pixel as measured.
    """

    def __init__(
        self,
        network: Mapping[str, Any],
        noise: Sequence[Mapping[str, Any] | None],
        scaling: Sequence[Mapping[str, Any]],
    ) -> None:
        super().__init__()
        self.network = STBN(STBNConfig(**network))
        self.units = [
            Units(None if n is None else noise_from_dict(n), IntensityScaling(**s))
            for n, s in zip(noise, scaling, strict=True)
        ]

    def forward(self, noisy: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Denoise.

        Parameters
        ----------
        noisy : Tensor, shape (N, T, C, Y, X), float32 [user's units]
            T at least 2, Y and X at least 8.

        Returns
        -------
        denoised : Tensor, shape (N, T, C, Y, X) [user's units]
            Posterior mean; the prior mean, alone, without a noise model.
        uncertainty : Tensor, shape (N, T, C, Y, X) [user's units]
            Posterior standard deviation.
        """
        inputs = torch.stack(
            [unit.to_network(noisy[:, :, c]) for c, unit in enumerate(self.units)], 2
        )
        inputs = network_input(inputs, self.units, self.network.config)
        n, t, _, h, w = inputs.shape
        still = inputs.new_zeros(n, t - 1, 2, h, w)
        prior = self.network(inputs, still, still)
        if not self.network.config.covariance or any(unit.noise is None for unit in self.units):
            return prior_mean(prior, self.units)
        mean, std = posterior(prior, noisy, self.units)
        return mean, std


def export_bioimageio(
    model: str | PathLike[str] | Denoiser,
    path: str | PathLike[str],
    *,
    name: str = "STBN time-lapse denoiser",
    authors: Sequence[str] = (),
    channel: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write a fitted model as a bioimage.io package (format 0.5, PyTorch state dict).

    Parameters
    ----------
    model : path or Denoiser
        What `Denoiser.save` wrote, or a fitted denoiser.
    path : path
        By custom ``*.zip``.
    name : str
        Letters, digits, spaces, ``_``, ``+``, ``-``, parentheses; the format takes no others.
    authors : sequence of str
        Who fitted it; "anonymous" when empty.
    channel : int
        Whose noise and scaling go with it, where channels are denoised one by one.
    overwrite : bool, default False
        Replace an existing file.

    Returns
    -------
    Path
        `path`. The package was read again and is valid; where bioimageio.core is installed, it was
        run as well and gave the results that it holds.

    Raises
    ------
    ValueError
        If bioimageio.spec is not installed, or the model cannot be expressed.
    FileExistsError
        If `path` exists and `overwrite` is False.

    Notes
    -----
    Whoever runs it needs napari-stbn: the package names `StillModel` as its architecture and holds
    its weights, which execute nothing.
    """
    path = Path(path)
    try:
        import_module("bioimageio.spec")
    except ImportError as error:
        raise ValueError(
            "the bioimage.io format needs bioimageio.spec: pip install 'napari-stbn[bioimageio]'"
        ) from error
    still_free = partial(check_free, path, overwrite=overwrite)
    still_free()
    check_folder(path.parent)
    denoiser = model if isinstance(model, Denoiser) else Denoiser.load(model, device="cpu")
    if denoiser.model is None:
        raise ValueError("there is no model to export: call fit() first")
    if denoiser.colours:
        raise ValueError(
            "this model denoises colours as brightness and differences, which the format cannot "
            'express; fit one with channels="separate" or "joint"'
        )
    config = denoiser.model.config
    channels = range(config.channels) if config.channels > 1 else (channel,)
    if not set(channels) <= set(denoiser.channel_noise):
        raise ValueError(
            f"the model knows the channels {sorted(denoiser.channel_noise)}, not {channel}"
        )
    if config.map_channels:
        raise ValueError("a network with extra input maps cannot be expressed")
    noise = [denoiser.channel_noise[c] for c in channels]
    arguments: dict[str, Any] = {
        "network": asdict(config),
        "noise": [None if model is None else model.to_dict() for model in noise],
        "scaling": [asdict(denoiser.channel_scaling[c]) for c in channels],
    }
    still = StillModel(**arguments)
    still.network.load_state_dict(denoiser.model.state_dict())
    still.eval()
    if denoiser.flow != "none":
        _logger.warning("the format has no motion: the exported model goes along zero flow")
    with tempfile.TemporaryDirectory() as folder:
        sample = _sample(denoiser, channels)
        with torch.no_grad():
            out = still(torch.from_numpy(sample))
        results = [r.numpy() for r in (out if isinstance(out, tuple) else (out,))]
        write_package(
            path,
            Path(folder),
            state={key: value.cpu() for key, value in still.state_dict().items()},
            arguments=arguments,
            sample=sample,
            results=results,
            name=name,
            authors=list(authors) or ["anonymous"],
            flow=denoiser.flow,
            still_free=still_free,
        )
    return path


def _sample(denoiser: Denoiser, channels: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A movie (1, T, C, Y, X) of simulated cells at the intensities that the model knows."""
    clean = simulate((_FRAMES, _SIDE, _SIDE), seed=0).noisy.astype(np.float32)
    unit = (clean - clean.mean()) / max(float(clean.std()), 1e-6)
    movies = [
        denoiser.units(c).to_intensity(torch.from_numpy(unit)).numpy().astype(np.float32)
        for c in channels
    ]
    return np.ascontiguousarray(np.stack(movies, 1)[None])
