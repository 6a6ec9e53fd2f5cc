"""Which number format a device is fast and right in, found out by trying."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Literal

import torch

from .network import STBN, STBNConfig

__all__ = ["Precision", "autocast", "choose_precision"]

Precision = Literal["float32", "bfloat16"]
_logger = logging.getLogger(__name__)
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
    A CPU is asked whether it computes in bfloat16 at all, and not timed: another program at work
    would change the answer, and with it the numbers of a seed. Other devices are timed.
    The comparison of gradients is needed: on some CPUs (torch 2.13, AVX512_BF16) the weight
    gradient of a channels-last 3x3 convolution with dilation 2 is not finite at 20, 24 and 40
    channels and right at others.
    """
    model = STBN.seeded(config, 0).place(device)
    chance = torch.Generator().manual_seed(0)
    frames = torch.randn(1, 3, config.inputs, 48, 48, generator=chance).to(device)
    flow = torch.zeros(1, 2, 2, 48, 48, device=device)
    gradients, seconds = {}, {}
    for precision in ("float32", "bfloat16"):
        try:
            times = []
            for _ in range(1 if device.type == "cpu" else 3):
                model.zero_grad()
                started = time.perf_counter()
                with autocast(device, precision):
                    loss = model(frames, flow, flow).square().mean()
                loss.backward()
                gradients[precision] = torch.cat(
                    [p.grad.flatten() for p in model.parameters() if p.grad is not None]
                ).cpu()
                times.append(time.perf_counter() - started)
            seconds[precision] = times[-1]
        except RuntimeError as error:  # a device without the format says so in its own words
            _logger.info("bfloat16 does not run on %s: %s", device, error)
            return "float32"
    reference, low = gradients["float32"], gradients["bfloat16"]
    difference = float((low - reference).norm() / reference.norm())
    right = difference < _WORST_GRADIENT  # False for NaN
    _logger.info(
        "bfloat16 on %s: %s s against %s s, gradient differs by %.3g",
        device,
        seconds["bfloat16"],
        seconds["float32"],
        difference,
    )
    fast = _computes_bfloat16() if device.type == "cpu" else _faster(seconds)
    return "bfloat16" if right and fast else "float32"


def _computes_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; older torch versions may not know."""
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, question, bool)()) for question in questions)


def _faster(seconds: Mapping[str, float]) -> bool:
    """Whether bfloat16 gained at least a tenth."""
    return seconds["bfloat16"] < 0.9 * seconds["float32"]
