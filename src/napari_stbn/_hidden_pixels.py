"""Pixels of a movie hidden from the network, and what it predicts without them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ._motion_image import motion_image
from ._wrong_pixels import WrongPixels
from .devices import free_memory
from .flow import HeldOut
from .inference import PATCH_ORIGINS, DenoisedWindow, denoise_frames, plan_inference
from .network import STBN
from .precision import Precision
from .preparation import PreparedMovie

__all__ = ["hide_pixels", "predict_frames"]

_MEMORY_SHARE = 0.5  # of what is free, for one movie


def hide_pixels(movie: PreparedMovie, seed: int = 0) -> tuple[HeldOut, PreparedMovie]:
    """Hide one pixel in sixteen of a movie from the network, for flow to be measured by.

    Parameters
    ----------
    movie : PreparedMovie
    seed : int
        Chooses the pixels.

    Returns
    -------
    held : HeldOut
        Of the image of the channels that motion is looked for in.
    hidden : PreparedMovie
        With the pixels' places filled from their neighbours.
    """
    intensities = movie.intensities.numpy()
    valid = movie.valid[:, 0].numpy()
    inputs = torch.empty_like(movie.inputs)
    for c, unit in enumerate(movie.units):
        filled = HeldOut.of(intensities[:, c], seed=seed).filled
        inputs[:, c] = unit.to_network(torch.from_numpy(filled))
    inputs[:, len(movie.units) :] = movie.inputs[:, len(movie.units) :]  # maps, not measured
    image = motion_image(movie.intensities, movie.units).numpy()
    held = HeldOut.of(image, valid=valid, seed=seed)
    return held, replace(movie, inputs=inputs)


def predict_frames(
    model: STBN, movie: PreparedMovie, precision: Precision, wrong: WrongPixels | None = None
) -> Generator[float, None, NDArray[np.float32]]:
    """Blind prediction, one image of its channels, (T, Y, X); yields the part that is done.

    Wrong pixels are looked for on the way.
    """
    device = next(model.parameters()).device
    plan = plan_inference(model, movie.shape, int(_MEMORY_SHARE * free_memory(device)), precision)
    frames = []
    for piece in denoise_frames(model, movie, plan, precision=precision, origins=PATCH_ORIGINS[:1]):
        if isinstance(piece, DenoisedWindow):
            if wrong is not None:
                wrong.add(piece, movie.intensities[piece.start : piece.start + len(piece.mean)])
            frames.append(motion_image(piece.prior, movie.units).numpy())  # (T', Y, X)
        else:
            yield piece
    return np.concatenate(frames)
