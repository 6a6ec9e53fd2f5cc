"""What a `Denoiser` may be told: names and numbers are looked at before anything runs."""

from __future__ import annotations

from typing import Any, get_args

from ._lighting import FlickerChoice
from .correlation import CORRELATIONS
from .flow import FLOW_METHODS
from .noise import GaussianNoise, MeasuredNoise, PoissonGaussianNoise
from .presets import PRESETS

__all__ = ["check_choices"]

_NOISE_MODELS = (PoissonGaussianNoise, GaussianNoise, MeasuredNoise)


def check_choices(
    *,
    preset: Any,
    noise: Any,
    flow: Any,
    channels: Any,
    precision: Any,
    correlation: Any,
    flicker: Any,
    memory_limit: float | None,
    turns: int | None,
) -> None:
    """Raise `ValueError` unless these are choices of `napari_stbn.Denoiser`."""
    if turns is not None and turns not in range(1, 5):
        raise ValueError(f"turns must be 1 to 4 quarter turns, got {turns!r}")
    if memory_limit is not None and not memory_limit > 0:
        raise ValueError(f"memory_limit must be more than 0 GB, got {memory_limit}")
    if preset != "auto" and preset not in PRESETS:
        raise ValueError(f"preset must be one of auto, {', '.join(PRESETS)}, got {preset!r}")
    if flow not in FLOW_METHODS:
        raise ValueError(f"flow must be one of {', '.join(FLOW_METHODS)}, got {flow!r}")
    if channels not in ("auto", "separate", "joint"):
        raise ValueError(f"channels must be auto, separate or joint, got {channels!r}")
    if correlation not in CORRELATIONS:
        raise ValueError(f"correlation must be {' or '.join(CORRELATIONS)}, got {correlation!r}")
    if flicker not in get_args(FlickerChoice):
        raise ValueError(f"flicker must be auto or off, got {flicker!r}")
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision must be auto, float32 or bfloat16, got {precision!r}")
    known = noise is None or isinstance(noise, _NOISE_MODELS)
    if not known and not (isinstance(noise, str) and noise in ("estimate", "gaussian")):
        raise ValueError(
            'noise must be "estimate", "gaussian", a noise model such as GaussianNoise(5.0) or '
            f"None, got {noise!r}"
        )
