"""What a fit asks of its movies: whether they go together, how large they are, which they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any
from zlib import crc32

from ._training_config import TrainingConfig
from .network import STBN
from .precision import Precision
from .preparation import PreparedMovie

__all__ = ["check", "frames_seen", "gently", "identity_of", "passes_a_step", "pixels_of"]

_PASSES = 100  # over all pixels, in a fit from learnt weights under a time budget


def frames_seen(model: STBN, config: TrainingConfig, *, warm: bool) -> int:
    """Frames of the longest clip that a model has met after a fit: how far it can look.

    A fit from learnt weights leaves them near enough to what they were to look as far as before.
    Still scenes gain most by that.

    Parameters
    ----------
    model : STBN
        Before the fit.
    config : TrainingConfig
    warm : bool
        Its weights were learnt before.

    Returns
    -------
    int [frames]
    """
    before = model.clip_frames if warm else None
    return max(config.clip_frames, before or 0)


def check(model: STBN, movies: Sequence[PreparedMovie]) -> None:
    """Raise where the model cannot learn from the movies."""
    if not movies:
        raise ValueError("there is no movie to fit to")
    for movie in movies:
        if movie.inputs.shape[1] != model.config.channels:
            raise ValueError(
                f"the model takes {model.config.channels} channels, "
                f"got a movie with {movie.inputs.shape[1]}"
            )


def gently(config: TrainingConfig, movies: Sequence[PreparedMovie]) -> TrainingConfig:
    """The plan of a fit from learnt weights.

    Such a network is no longer unsure everywhere, which is what `beta` is for. A time budget says
    how long at most: with more than 100 passes a fit learns the noise of a small movie by heart. On
    one of half a million pixels 80 passes gained .6 dB over the start, and 350 ended below it.
    """
    config = replace(config, learning_rate=config.warm_learning_rate, beta=0.0)
    if config.time_budget is None:
        return config
    enough = math.ceil(_PASSES / passes_a_step(movies, config))
    return replace(config, max_steps=min(config.max_steps, enough))


def pixels_of(movies: Sequence[PreparedMovie]) -> int:
    """Of all frames."""
    return sum(math.prod(movie.shape) for movie in movies)


def passes_a_step(movies: Sequence[PreparedMovie], config: TrainingConfig) -> float:
    """Part of all pixels that a step sees."""
    extent = (config.clip_frames, config.clip_size, config.clip_size)
    seen = sum(config.batch * math.prod(map(min, extent, m.shape)) for m in movies) / len(movies)
    return seen / pixels_of(movies)


def identity_of(
    model: STBN, movies: Sequence[PreparedMovie], config: TrainingConfig, precision: Precision
) -> dict[str, Any]:
    """Plain values that tell this fit from others.

    Without the time budget: what noise and flow leave of it differs from run to run.
    """
    return {
        "network": asdict(model.config),
        "training": asdict(replace(config, time_budget=None, pace=None)),
        "pace": [list(knot) for knot in config.pace or ()],
        "start": crc32(b"".join(p.detach().cpu().numpy().tobytes() for p in model.parameters())),
        "precision": precision,
        "movies": [[*m.inputs.shape, crc32(m.intensities.cpu().numpy().tobytes())] for m in movies],
    }
