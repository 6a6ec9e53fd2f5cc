"""What fitting and denoising hand out: progress on the way, the result at the end."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ._aligned_stack import line_shift_of
from ._colour_noise import channel_correlation, channel_noise
from ._colour_stack import ColourStack
from ._views import Flows, views_of
from ._wrong_pixels import wrong_pixels_note
from .correlation import NoiseCorrelation
from .preparation import KnownNoise, PreparedStack
from .stack import Stack
from .training import TrainingStep

__all__ = [
    "DenoiseResult",
    "Progress",
    "StreamedResult",
    "describe_stack",
    "gather_flow",
    "versions",
]


@dataclass(frozen=True)
class Progress:
    """What `Denoiser.fit_steps` and `Denoiser.denoise_steps` yield.

    Attributes
    ----------
    phase
        "noise", "flow", "fit" or "denoise".
    fraction
        Part of the phase that is done, 0 to 1.
    elapsed
        Seconds since the call began.
    step
        In the phase "fit".
    """

    phase: Literal["noise", "flow", "fit", "denoise"]
    fraction: float
    elapsed: float
    step: TrainingStep | None = None


@dataclass(frozen=True)
class DenoiseResult:
    """A denoised stack and what is known about it.

    Attributes
    ----------
    denoised : ndarray, float32 [user's units]
        Posterior mean (prior mean without a noise model), in shape and axes of the input.
    uncertainty : ndarray, float32 [user's units], or None
        Posterior standard deviation of every pixel; None without a noise model.
    flow_to_previous, flow_to_next : ndarray, float32 [px], ordered (dx, dy)
        Shape (T - 1, 2, Y, X) for a single movie, else (channels, planes, T - 1, 2, Y, X). Of no
        pair, shape (0, 2, Y, X), where the stack was too large to keep it.
    noise : dict of int to noise model or None
        Of each channel: of a pixel as recorded, without offsets of whole lines.
    stack : Stack
        The denoised array with the axes and scale of the input.
    report : dict
        Versions, parameters, seed, device, seconds, defects found: plain values, ready for JSON.
    correlation : dict of int to NoiseCorrelation or None
        Of each channel: noise that pixels share, and the filter that made it independent.
    """

    denoised: NDArray[np.float32]
    uncertainty: NDArray[np.float32] | None
    flow_to_previous: NDArray[np.float32]
    flow_to_next: NDArray[np.float32]
    noise: Mapping[int, KnownNoise]
    stack: Stack
    report: dict[str, Any] = field(default_factory=dict)
    correlation: Mapping[int, NoiseCorrelation | None] = field(default_factory=dict)


@dataclass(frozen=True)
class StreamedResult:
    """A denoised stack that was written to files as it was made.

    Attributes
    ----------
    path : Path
        Of the denoised stack; `napari_stbn.read` opens it without loading it.
    uncertainty : Path or None
        Of the posterior standard deviation, where it was asked for.
    noise : dict of int to noise model or None
        Of each channel.
    report : dict
        As in `DenoiseResult`.
    """

    path: Path
    uncertainty: Path | None
    noise: Mapping[int, KnownNoise]
    report: dict[str, Any] = field(default_factory=dict)


def gather_flow(
    prepared: PreparedStack,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Flow of all movies, (T - 1, 2, Y, X), or (channels, planes, T - 1, 2, Y, X) for several."""
    out = []
    leaders = _movers(prepared)
    for name in ("flow_to_previous", "flow_to_next"):
        flows: Flows = {
            (key[0], key[1]): getattr(movie, name).numpy()
            for key, movie in prepared.movies.items()
            if key[0] in leaders
        }
        for view in views_of(prepared.stack):
            flows = view.flows_for_user(flows, forward=name == "flow_to_next")
        n_planes = prepared.stack.recorded.n_planes
        if len(leaders) * n_planes == 1:
            out.append(flows[leaders[0], 0])
            continue
        out.append(np.stack([np.stack([flows[c, z] for z in range(n_planes)]) for c in leaders]))
    return out[0], out[1]


def _movers(prepared: PreparedStack) -> list[int]:
    """Whose motion each channel of the user's stack has; one of them where all have the same."""
    if not isinstance(prepared.stack, ColourStack):
        return sorted({key[0] for key in prepared.movies})
    movers = prepared.stack.movers()
    return movers if len(set(movers)) > 1 else movers[:1]


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    from . import __version__

    return {
        "napari_stbn": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def describe_stack(prepared: PreparedStack) -> dict[str, Any]:
    """What is known about the input, in plain values."""
    stack = prepared.stack.recorded
    noise, shared = channel_noise(prepared), channel_correlation(prepared)
    shift = line_shift_of(prepared.stack)
    return {
        "axes": stack.axes,
        "axes_guess": stack.guess,
        "shape": list(stack.shape),
        "noise": {c: None if n is None else n.to_dict() for c, n in noise.items()},
        "correlation": {c: None if n is None else n.to_dict() for c, n in shared.items()},
        "line_shift": None if shift is None else {"axis": shift.axis, "pixels": shift.pixels},
        "flow_choice": {
            ",".join(map(str, key)): choice.to_dict() for key, choice in prepared.choices.items()
        },
        "flow_route": {
            ",".join(map(str, key)): route.to_dict() for key, route in prepared.routes.items()
        },
        "notes": list(dict.fromkeys([*prepared.notes, *_wrong_pixels(prepared)])),
    }


def _wrong_pixels(prepared: PreparedStack) -> list[str]:
    """Sentence about pixels that were taken out, if they are worth one."""
    count = sum(movie.wrong for movie in prepared.movies.values())
    pixels = sum(movie.intensities.numel() for movie in prepared.movies.values())
    note = wrong_pixels_note(count, pixels)
    return [note] if note else []
