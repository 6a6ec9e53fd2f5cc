"""Which number format a device is fast and right in, found out by trying."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from .network import STBN, STBNConfig
from .network.paired import paired_forward

__all__ = ["DTYPES", "Precision", "autocast", "choose_precision", "paired_is_right"]

Precision = Literal["float32", "bfloat16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_logger = logging.getLogger(__name__)
_ASKED = ("cpu", "cuda")  # kinds of device that are asked what they can, not timed
_WORST_GRADIENT = 0.15  # largest relative difference of a gradient that rounding to 8 bits explains


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Context in which convolutions run in `precision`.

    Without torch's cache of converted weights: all threads share it, and one that leaves such a
    context empties it for the others. Their gradients are then summed in another precision, and a
    seed gives other numbers.
    """
    return torch.autocast(
        device.type,
        dtype=torch.bfloat16,
        enabled=precision == "bfloat16",
        cache_enabled=False,
    )


@lru_cache(maxsize=16)
def choose_precision(config: STBNConfig, device: torch.device) -> Precision:
    """Try a step in bfloat16 beside float32; take it where it is fast and its gradients agree.

    Parameters
    ----------
    config : STBNConfig
        The network that is to be fitted: speed and correctness depend on its channel counts.
    device : torch.device
        Where.

    Returns
    -------
    {"float32", "bfloat16"}

    Notes
    -----
    A CPU and a CUDA GPU are asked whether they compute in bfloat16 at all, and not timed: another
    program at work would change the answer, and with it the numbers of a seed; and on so few pixels
    a GPU does nothing but begin. Other devices are timed.
    """
    asked = device.type in _ASKED
    if asked:
        if not _computes_bfloat16(device):
            return "float32"
        if paired_is_right(config, device, "bfloat16"):  # what the fit takes, then
            return "bfloat16"
    exact = try_step(config, device, "float32", paired=False)
    low = try_step(config, device, "bfloat16", paired=False)
    if exact is None or low is None or not low.agrees(exact):
        return "float32"
    return "bfloat16" if asked or low.faster(exact) else "float32"


@lru_cache(maxsize=16)
def paired_is_right(config: STBNConfig, device: torch.device, precision: Precision) -> bool:
    """Whether `napari_stbn.network.paired` gives the gradients of the plain network, and gains.

    It gains on every CPU and CUDA GPU that was measured, and is not timed there, see
    `choose_precision`.
    """
    exact = try_step(config, device, "float32", paired=False)
    fast = try_step(config, device, precision, paired=True)
    if exact is None or fast is None or not fast.agrees(exact):
        return False
    plain = None if device.type in _ASKED else try_step(config, device, precision, paired=False)
    return plain is None or fast.faster(plain)


@dataclass(frozen=True)
class Trial:
    """A step that was tried: gradient of all weights, and seconds."""

    gradient: torch.Tensor
    seconds: float

    def agrees(self, exact: Trial) -> bool:
        """Whether the gradient is that of another trial, up to rounding to 8 bits; NaN is not."""
        difference = (self.gradient - exact.gradient).norm() / exact.gradient.norm()
        return bool(difference < _WORST_GRADIENT)

    def faster(self, other: Trial) -> bool:
        """Whether it gained at least a tenth."""
        return self.seconds < 0.9 * other.seconds


def try_step(
    config: STBNConfig, device: torch.device, precision: Precision, *, paired: bool
) -> Trial | None:
    """Run a step of a fit on made-up frames.

    None where the device has not got the format: it says so in words of its own.
    """
    model = STBN.seeded(config, 0).place(device)
    chance = torch.Generator().manual_seed(0)
    frames = torch.randn(1, 3, config.inputs, 48, 48, generator=chance).to(device)
    flow = torch.full((1, 2, 2, 48, 48), 0.25, device=device)
    times = []
    try:
        for _ in range(1 if device.type == "cpu" else 3):
            model.zero_grad()
            started = time.perf_counter()
            if paired:
                prior = paired_forward(model, frames, flow, flow, DTYPES[precision])
            else:
                with autocast(device, precision):
                    prior = model(frames, flow, flow)
            prior.square().mean().backward()
            gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
            gradient = torch.cat(gradients).cpu()
            times.append(time.perf_counter() - started)
    except RuntimeError as error:
        _logger.info("%s does not run on %s: %s", precision, device, error)
        return None
    path = "paired" if paired else "plain"
    _logger.info("%s step in %s on %s: %.3g s", path, precision, device, times[-1])
    return Trial(gradient, times[-1])


def _computes_bfloat16(device: torch.device) -> bool:
    """Whether a CPU or GPU has instructions for bfloat16; older torch versions may not know."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, question, bool)()) for question in questions)
