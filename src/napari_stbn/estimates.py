"""Memory and time of a run, before anything is allocated."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

import torch

from .devices import free_memory, resolve_device
from .inference import PATCH_ORIGINS, plan_inference
from .network import STBN, STBNConfig
from .presets import PRESETS, PresetName, choose_preset
from .stack import Stack
from .training import TrainingConfig

__all__ = [
    "RunEstimate",
    "check_training_memory",
    "estimate_run",
    "inference_seconds",
    "prepared_bytes",
    "step_bytes",
]

# Of a prepared movie: intensities, inputs, mask, two flows, and the fit's own mask.
_BYTES_A_PIXEL = 30
# Feature maps (width x pixels) alive in a step, beside those of the blocks; set to the peak
# resident memory of steps on the CPU, for three sizes of network.
_MAPS_A_STEP = 60
_MAPS_A_BLOCK = 3
_PROBE = (4, 64, 64)  # frames, rows, columns of the clip that times the network


@dataclass(frozen=True)
class RunEstimate:
    """What a fit and denoising of a stack will take.

    Attributes
    ----------
    device : torch.device
    bytes
        Memory at the peak, beside the input.
    free
        Bytes free on the device now.
    fit_seconds
        At most; a fit that no longer gains stops earlier. Infinite where steps alone limit it.
    denoise_seconds
        From a probe of the network on this machine.
    """

    device: torch.device
    bytes: int
    free: int
    fit_seconds: float
    denoise_seconds: float


def estimate_run(
    stack: Stack, preset: PresetName | Literal["auto"] = "auto", device: str = "auto"
) -> RunEstimate:
    """Predict memory and time of a run.

    Parameters
    ----------
    stack : Stack
    preset, device
        As in `napari_stbn.Denoiser`.

    Returns
    -------
    RunEstimate

    Raises
    ------
    ValueError
        If the stack cannot be denoised.
    """
    stack.check()
    where = resolve_device(device)
    chosen = PRESETS[choose_preset(where) if preset == "auto" else preset]
    free = free_memory(where)
    model = STBN.seeded(chosen.network, 0).to(where)
    shape = (stack.n_frames, *stack.frame_shape)
    try:
        inference = plan_inference(model, shape, free // 2).bytes
    except MemoryError:
        inference = free
    outputs = 12 * math.prod(stack.shape)  # mean, std and prior
    peak = prepared_bytes(stack) + max(
        step_bytes(chosen.network, chosen.training, stack), inference + outputs
    )
    budget = chosen.training.time_budget
    return RunEstimate(
        where, peak, free, math.inf if budget is None else budget, inference_seconds(model, stack)
    )


def prepared_bytes(stack: Stack) -> int:
    """Bytes of the prepared movies of a stack."""
    return _BYTES_A_PIXEL * math.prod(stack.shape)


def step_bytes(network: STBNConfig, training: TrainingConfig, stack: Stack) -> int:
    """Bytes of one step of a fit."""
    extent = (training.clip_frames, training.clip_size, training.clip_size)
    pixels = training.batch * math.prod(map(min, extent, (stack.n_frames, *stack.frame_shape)))
    blocks = (
        network.alignment_blocks
        + 4 * network.fusion_blocks
        + network.expansion_groups * network.expansion_blocks
    )
    return 4 * network.width * pixels * (_MAPS_A_STEP + _MAPS_A_BLOCK * blocks)


def check_training_memory(
    network: STBNConfig, training: TrainingConfig, stack: Stack, device: torch.device
) -> None:
    """Raise before anything is allocated when a fit cannot fit into memory.

    Raises
    ------
    MemoryError
        With what is needed, what is free, and what to change.
    """
    need, free = step_bytes(network, training, stack), free_memory(device)
    if need > free:
        raise MemoryError(
            f"a step of the fit needs about {need / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free on {device}; "
            "choose a smaller preset or a smaller clip_size"
        )
    need, free = prepared_bytes(stack), free_memory(torch.device("cpu"))
    if need > free:
        raise MemoryError(
            f"preparing this stack needs about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            "crop it, or take fewer planes or frames"
        )


@torch.no_grad()
def inference_seconds(model: STBN, stack: Stack, origins: int = len(PATCH_ORIGINS)) -> float:
    """Predict the seconds of inference, scaled from a small clip.

    Parameters
    ----------
    model : STBN
        On the device to use.
    stack : Stack
    origins : int
        Origins of patches that the prediction is averaged over.
    """
    device = next(model.parameters()).device
    frames = torch.zeros(1, _PROBE[0], model.config.inputs, *_PROBE[1:], device=device)
    flow = torch.zeros(1, _PROBE[0] - 1, 2, *_PROBE[1:], device=device)
    states = torch.zeros(_PROBE[0], model.config.width, *_PROBE[1:], device=device)
    model(frames, flow, flow)
    started = time.perf_counter()
    model(frames, flow, flow)
    whole = time.perf_counter() - started
    model.predict(states, states)
    prediction = time.perf_counter() - started - whole
    # The prediction is repeated for every origin of the patches, the backward direction window by
    # window.
    probe = whole + (origins - 1) * prediction + 0.3 * (whole - prediction)
    return probe * math.prod(stack.shape) / math.prod(_PROBE)
