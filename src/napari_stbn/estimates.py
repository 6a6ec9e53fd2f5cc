"""Memory and time of a run, before anything is allocated."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Literal

import torch

from .devices import free_memory, resolve_device, size_in_words
from .inference import PATCH_ORIGINS, plan_inference
from .network import STBN, STBNConfig
from .network.frozen import FrozenSTBN
from .precision import DTYPES, Precision, choose_precision, paired_is_right
from .presets import PRESETS, PresetName, choose_preset, choose_turns
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
# Feature maps (width x pixels) alive in a step, and more for each block; set to the peak resident
# memory of steps on the CPU, for three sizes of network in float32 and bfloat16.
_MAPS_A_STEP = 50
_MAPS_A_BLOCK = 2.1
_PLAIN = 1.5  # times as many where both directions cannot go in one pass
_PROBE = 128  # px, side of the frame that times the network


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
    tile
        Side of the tiles that denoising runs in [px].
    window
        Frames whose states denoising holds at once.
    batch
        Clips in a step of the fit. Where memory runs out all the same, tiles are halved and the
        clips of a step are worked on in parts.
    """

    device: torch.device
    bytes: int
    free: int
    fit_seconds: float
    denoise_seconds: float
    tile: int
    window: int
    batch: int

    @property
    def pieces(self) -> str:
        """The pieces that the work is done in, in a sentence."""
        return (
            f"{self.batch} clips in a step of the fit; denoising in windows of {self.window} frames"
            f" and tiles of {self.tile} px"
        )


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
    if preset == "auto":
        preset = choose_preset(where)
    chosen = PRESETS[preset]
    free = free_memory(where)
    network, training = chosen.network, chosen.training
    precision = choose_precision(network, where)
    model = STBN.seeded(network, 0).place(where)
    shape = (stack.n_frames, *stack.frame_shape)
    try:
        plan = plan_inference(model, shape, free // 2, precision)
    except MemoryError:  # said by `bytes` and `free`
        plan = plan_inference(model, shape, 2**60, precision)
    turns = choose_turns(preset, math.prod(stack.shape), None)
    outputs = 12 * math.prod(stack.shape)  # mean, std and prior
    peak = prepared_bytes(stack) + max(
        step_bytes(network, training, stack, where, precision), plan.bytes + outputs
    )
    return RunEstimate(
        device=where,
        bytes=peak,
        free=free,
        fit_seconds=math.inf if training.time_budget is None else training.time_budget,
        denoise_seconds=turns
        * inference_seconds(
            model, stack, origins=len(PATCH_ORIGINS) if turns == 1 else 1, precision=precision
        ),
        tile=plan.tile,
        window=plan.window,
        batch=training.batch,
    )


def prepared_bytes(stack: Stack) -> int:
    """Bytes of the prepared movies of a stack."""
    return _BYTES_A_PIXEL * math.prod(stack.shape)


def step_bytes(
    network: STBNConfig,
    training: TrainingConfig,
    stack: Stack,
    device: torch.device,
    precision: Precision,
) -> int:
    """Bytes of one step of a fit."""
    extent = (training.clip_frames, training.clip_size, training.clip_size)
    pixels = training.batch * math.prod(map(min, extent, (stack.n_frames, *stack.frame_shape)))
    blocks = (
        network.alignment_blocks
        + 4 * network.fusion_blocks
        + network.expansion_groups * network.expansion_blocks
    )
    maps = _MAPS_A_STEP + _MAPS_A_BLOCK * blocks
    if not paired_is_right(network, device, precision):
        maps *= _PLAIN
    return int(maps * network.width * pixels * DTYPES[precision].itemsize)


def check_training_memory(
    network: STBNConfig,
    training: TrainingConfig,
    stack: Stack,
    device: torch.device,
    precision: Precision,
) -> None:
    """Raise before anything is allocated when a fit cannot fit into memory.

    Raises
    ------
    MemoryError
        With what is needed, what is free, and what to change.
    """
    # A step that does not fit is worked on clip by clip.
    least = replace(training, batch=1)
    need, free = step_bytes(network, least, stack, device, precision), free_memory(device)
    if need > free:
        raise MemoryError(
            f"a step of the fit needs about {size_in_words(need)}, "
            f"{size_in_words(free)} are free on {device}; "
            "choose a smaller preset or a smaller clip_size"
        )
    need, free = prepared_bytes(stack), free_memory(torch.device("cpu"))
    if need > free:
        raise MemoryError(
            f"preparing this stack needs about {size_in_words(need)}, {size_in_words(free)} are "
            "free; crop it, or take fewer planes or frames"
        )


@torch.no_grad()
def inference_seconds(
    model: STBN,
    stack: Stack,
    *,
    origins: int = len(PATCH_ORIGINS),
    precision: Precision = "float32",
) -> float:
    """Predict the seconds of inference, scaled from one frame.

    Parameters
    ----------
    model : STBN
        On the device to use.
    stack : Stack
    origins : int
        Origins of patches that the prediction is averaged over.
    precision : {"float32", "bfloat16"}
    """
    device = next(model.parameters()).device
    network = FrozenSTBN(model, DTYPES[precision])
    frame = torch.zeros(1, model.config.inputs, _PROBE, _PROBE, device=device)
    state = torch.zeros(1, model.config.width, _PROBE, _PROBE, device=device)

    def run() -> float:
        started = time.perf_counter()
        for _ in range(3):  # both directions, and one of them again for most of the windows
            network.advance("from_past", frame, state)
        between = time.perf_counter()
        last = network.predict(state, state)
        float(last.mean())  # waits for a GPU
        return between - started + origins * (time.perf_counter() - between)

    run()
    return run() * math.prod(stack.shape) / _PROBE**2
