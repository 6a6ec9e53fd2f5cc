"""Self-supervised denoising of time-lapse microscopy.

The public names are loaded when first asked for (PEP 562): ``import napari_stbn`` loads neither
torch nor napari, so napari starts as fast with the plugin as without it.

Examples
--------
>>> import napari_stbn as stbn
>>> movie = stbn.simulate((8, 32, 32), seed=0)
>>> stack = stbn.Stack(movie.noisy, axes="TYX")
>>> stack.n_frames
8
"""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._napari.scripting import denoise_layer, start_denoising
    from .camera import CameraMaps
    from .denoiser import Denoiser, DenoiseResult, denoise
    from .flow import estimate_flow
    from .io import read, write
    from .network import STBN, STBNConfig
    from .noise import GaussianNoise, MeasuredNoise, PoissonGaussianNoise
    from .samples import simulate
    from .settings import RunSettings
    from .stack import Stack
    from .training import TrainingConfig

    __version__: str

__all__ = [
    "STBN",
    "CameraMaps",
    "DenoiseResult",
    "Denoiser",
    "GaussianNoise",
    "MeasuredNoise",
    "PoissonGaussianNoise",
    "RunSettings",
    "STBNConfig",
    "Stack",
    "TrainingConfig",
    "__version__",
    "denoise",
    "denoise_layer",
    "estimate_flow",
    "read",
    "simulate",
    "start_denoising",
    "write",
]

# Silent unless the program that uses it asks: ``logging.basicConfig(level=logging.INFO)``.
logging.getLogger(__name__).addHandler(logging.NullHandler())

# Threads of torch that wait for each other keep a core busy for a millisecond first. Where other
# programs want the cores too, that holds up the very thread that is waited for: a small fit took
# 33 s on two cores that were taken, and so 7 s. On idle ones it takes as long as before. OpenMP
# reads this when torch is loaded, which comes later.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")

_MODULE_OF = {
    "STBN": "network",
    "STBNConfig": "network",
    "CameraMaps": "camera",
    "DenoiseResult": "denoiser",
    "Denoiser": "denoiser",
    "RunSettings": "settings",
    "denoise": "denoiser",
    "denoise_layer": "_napari.scripting",
    "GaussianNoise": "noise",
    "MeasuredNoise": "noise",
    "PoissonGaussianNoise": "noise",
    "Stack": "stack",
    "TrainingConfig": "training",
    "estimate_flow": "flow",
    "read": "io",
    "simulate": "samples",
    "start_denoising": "_napari.scripting",
    "write": "io",
}


if not TYPE_CHECKING:  # a type checker that saw it would believe any name

    def __getattr__(name: str) -> object:
        """Load a public name from its module and keep it."""
        if name == "__version__":
            value: object = _installed_version()
        elif name in _MODULE_OF:
            value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _installed_version() -> str:
    """Version of the installed distribution; "0+unknown" when run from a bare source tree."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("napari-stbn")
    except PackageNotFoundError:
        return "0+unknown"
