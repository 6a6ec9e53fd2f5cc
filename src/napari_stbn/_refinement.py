"""Flow from denoised frames: the model's own blind prediction takes the noisy frames' place."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from ._generators import relay
from .devices import free_memory
from .flow import FlowMethod, whole_flow
from .inference import PATCH_ORIGINS, DenoisedWindow, denoise_frames, plan_inference
from .network import STBN
from .precision import Precision
from .preparation import PreparedStack

__all__ = ["DENSE_METHODS", "refine_flow"]

DENSE_METHODS: tuple[FlowMethod, ...] = ("dis", "ilk", "tvl1")
"""Methods that follow the noise of single pixels where there is much of it."""
_MEMORY_SHARE = 0.5  # of what is free, for one movie


def refine_flow(
    model: STBN, prepared: PreparedStack, method: FlowMethod, precision: Precision = "float32"
) -> Generator[float, None, None]:
    """Estimate the flow of every movie on its blind prediction, in place.

    Parameters
    ----------
    model : STBN
        That already denoises, on the device to use.
    prepared : PreparedStack
        Whatever its flow is now, the prediction goes along zero flow.
    method : {"dis", "ilk", "tvl1"}
    precision : {"float32", "bfloat16"}, default "float32"

    Yields
    ------
    float
        Part of the work that is done, 0 to 1.

    Notes
    -----
    Flow between noisy frames follows the noise: it leads a pixel to where the neighbouring frame
    resembles it, its noise included, and so tells the network of it. A prediction along zero flow
    holds nothing of the pixel's own noise. The paper refines its flow for the same reason.
    """
    device = next(model.parameters()).device
    for number, (key, movie) in enumerate(prepared.movies.items()):
        none = torch.zeros(1).expand(movie.flow_to_previous.shape)  # takes no memory
        still = replace(movie, flow_to_previous=none, flow_to_next=none)
        plan = plan_inference(
            model, movie.shape, int(_MEMORY_SHARE * free_memory(device)), precision
        )
        frames = []
        for piece in denoise_frames(
            model, still, plan, precision=precision, origins=PATCH_ORIGINS[:1]
        ):
            if isinstance(piece, DenoisedWindow):
                frames.append(piece.prior.sum(1).numpy())  # (T', Y, X)
            else:
                yield (number + 0.9 * piece) / len(prepared.movies)
        flow = yield from relay(
            whole_flow(np.concatenate(frames), method),
            partial(_share, number, len(prepared.movies)),
        )
        prepared.movies[key] = replace(
            movie,
            flow_to_previous=torch.from_numpy(flow.to_previous),
            flow_to_next=torch.from_numpy(flow.to_next),
        )


def _share(number: int, count: int, done: float) -> float:
    """Part of the whole work when this part of a movie's flow is done, after its prediction."""
    return (number + 0.9 + 0.1 * done) / count
