"""Checks that a person can run on a model or on their own movie: what the network sees.

And what leaks past its blind spot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .denoiser import Denoiser
from .flow import estimate_flow
from .inference import DenoisedWindow, denoise_frames, plan_inference
from .network import STBN, STBNConfig
from .preparation import PreparedMovie
from .stack import Stack

__all__ = ["BlindSpotLeak", "blind_spot_leak", "receptive_field"]

_SPACING = 32  # px between perturbed pixels; even, so that none is in another's receptive field
_AROUND = 2  # frames before and after the perturbed one


def receptive_field(
    model: STBN | STBNConfig, *, frames: int = 3, size: int = 33
) -> NDArray[np.bool_]:
    """Find the input pixels that the output at one pixel depends on, without motion.

    Parameters
    ----------
    model : STBN or STBNConfig
        A configuration is given random weights.
    frames : int, default 3
        Odd number of frames; the output is taken in the middle one.
    size : int, default 33
        Odd side of the frames [px]; the output is taken at the centre.

    Returns
    -------
    ndarray of bool, shape (frames, size, size)
        True where a gradient reaches the centre of the middle frame. For STBN that is, in the
        middle frame, every offset within reach but those with both coordinates even: the blind spot
        among them.

    Raises
    ------
    ValueError
        If frames or size is even or too small.
    """
    if frames < 3 or frames % 2 == 0 or size < 9 or size % 2 == 0:
        raise ValueError(
            f"frames must be odd and at least 3, size odd and at least 9, got {frames} and {size}"
        )
    config = model if isinstance(model, STBNConfig) else model.config
    seen = torch.zeros(frames, size, size)
    # Weights and inputs of several seeds: one alone may have a ReLU closed on the only path.
    for seed in range(3):
        network = STBN.seeded(config, seed).double()
        chance = torch.Generator().manual_seed(seed)
        movie = torch.randn(
            1, frames, config.inputs, size, size, dtype=torch.float64, generator=chance
        ).requires_grad_()
        if isinstance(model, STBN):
            network.load_state_dict(model.state_dict())
        still = torch.zeros(1, frames - 1, 2, size, size)
        output = (
            network(movie, still, still)[0, frames // 2, :, size // 2, size // 2].square().sum()
        )
        (gradient,) = torch.autograd.grad(output, movie)
        seen += gradient[0].abs().amax(1).float()
    reached: NDArray[np.bool_] = (seen > 0).numpy()
    return reached


@dataclass(frozen=True)
class BlindSpotLeak:
    """What a pixel's own value does to its own blind prediction.

    Attributes
    ----------
    perturbation
        What was added to the pixels [user's units].
    rms, worst
        Change of the prior mean at the same pixels when the flow is estimated anew [user's units].
    worst_given_flow
        The same with the flow held: 0 for an intact blind spot.
    pixels
        How many pixels were changed.
    """

    perturbation: float
    rms: float
    worst: float
    worst_given_flow: float
    pixels: int

    @property
    def share(self) -> float:
        """Root mean square change over the perturbation: 0 is blind, 1 copies the pixel."""
        return self.rms / self.perturbation


def blind_spot_leak(
    denoiser: Denoiser,
    movie: NDArray[Any],
    *,
    channel: int = 0,
    frame: int | None = None,
    perturbation: float | None = None,
) -> BlindSpotLeak:
    """Measure how much of a pixel comes back to its own prediction through the estimated flow.

    The network is blind given the flow, but flow estimated from noisy frames carries a little of
    every pixel, which autograd cannot see because nearest-neighbour sampling passes no gradient. So
    the pixels themselves are changed, the flow estimated anew, and the prediction compared.

    Parameters
    ----------
    denoiser : Denoiser
        Fitted, one channel at a time.
    movie : ndarray, shape (T, Y, X) [user's units]
        The movie of the fit or one like it.
    channel : int, default 0
        Whose noise model and scaling hold.
    frame : int, optional
        Frame to change; the middle one when None.
    perturbation : float, optional [user's units]
        What to add; one standard deviation of the noise at the movie's median when None.

    Returns
    -------
    BlindSpotLeak

    Raises
    ------
    RuntimeError
        If the denoiser was not fitted.
    ValueError
        If it denoises channels together, has no noise model and no `perturbation` is given, or the
        movie is not (T, Y, X).
    """
    model = denoiser.model
    if model is None:
        raise RuntimeError("there is no model yet: call fit() or load() first")
    if model.config.channels != 1:
        raise ValueError(
            f"the leak is measured on one channel, this model takes {model.config.channels}"
        )
    if denoiser.colours:
        raise ValueError("the leak is measured on one channel, this model takes colours")
    stack = Stack(movie, "TYX")
    stack.check()
    noise = denoiser.channel_noise.get(channel)
    if perturbation is None:
        if noise is None:
            raise ValueError("without a noise model the perturbation must be given")
        perturbation = float(np.sqrt(noise.variance(np.median(movie).astype(np.float64))))
    middle = stack.n_frames // 2 if frame is None else frame
    first = max(0, middle - _AROUND)
    clip = stack.movie(frames=slice(first, middle + _AROUND + 1)).astype(np.float32)
    here = middle - first
    correlation = denoiser.channel_correlation.get(channel)
    lattice = np.zeros(stack.frame_shape, bool)
    row, column = (size % _SPACING // 2 for size in stack.frame_shape)
    lattice[row::_SPACING, column::_SPACING] = True
    changed = clip.copy()
    changed[here][lattice] += perturbation
    if correlation is not None:
        clip, changed = correlation.whiten(clip), correlation.whiten(changed)
    flow, new_flow = estimate_flow(clip, denoiser.flow), estimate_flow(changed, denoiser.flow)
    unit = denoiser.units(channel)

    def predict(
        intensities: NDArray[np.float32], along: tuple[NDArray[np.float32], NDArray[np.float32]]
    ) -> Tensor:
        values = torch.from_numpy(intensities)[:, None]
        prepared = PreparedMovie(
            intensities=values,
            inputs=unit.to_network(values),
            valid=torch.ones(values.shape, dtype=torch.bool),
            flow_to_previous=torch.from_numpy(along[0]),
            flow_to_next=torch.from_numpy(along[1]),
            units=(unit,),
        )
        plan = plan_inference(model, prepared.shape, 1 << 40)
        windows = [
            w.prior for w in denoise_frames(model, prepared, plan) if isinstance(w, DenoisedWindow)
        ]
        return torch.cat(windows)[here, 0][torch.from_numpy(lattice)]

    before = predict(clip, flow)
    held = (predict(changed, flow) - before).abs()
    leaked = (predict(changed, new_flow) - before).abs()
    return BlindSpotLeak(
        perturbation=float(perturbation),
        rms=math.sqrt(float(leaked.square().mean())),
        worst=float(leaked.max()),
        worst_given_flow=float(held.max()),
        pixels=int(lattice.sum()),
    )
