"""Presets: size of the network and length of the fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from .network import STBNConfig
from .training import TrainingConfig

__all__ = ["PRESETS", "Preset", "PresetName", "choose_preset"]

PresetName = Literal["preview", "balanced", "best", "paper"]


@dataclass(frozen=True)
class Preset:
    """A network and a fit that belong together.

    Attributes
    ----------
    network : STBNConfig
        With one channel; the stack's channels are put in.
    training : TrainingConfig
    """

    network: STBNConfig
    training: TrainingConfig


# Many small clips beat few large ones: with as many pixels in all, a fit to clips of 32 px ended
# above those to 48, 64 and 96 px on `simulate()`. A GPU wants more work in a step.
PRESETS: dict[PresetName, Preset] = {
    "preview": Preset(STBNConfig(), TrainingConfig(time_budget=30)),
    "balanced": Preset(STBNConfig(), TrainingConfig(time_budget=180)),
    # A wider network would begin fresh, for want of learnt weights. A fresh fit ends below
    # after 60 s what learnt weights give after 10 (docs/quality.md).
    "best": Preset(STBNConfig(), TrainingConfig(time_budget=900, batch=4)),
    "paper": Preset(
        STBNConfig.paper(1),
        TrainingConfig(
            max_steps=80_000, clip_size=96, batch=4, learning_rate=3e-4, beta=0.0, patience=0
        ),
    ),
}


def choose_preset(device: torch.device) -> PresetName:
    """Preset that "auto" stands for on a device."""
    return "balanced" if device.type == "cpu" else "best"
