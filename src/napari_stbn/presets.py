"""Presets: size of the network and length of the fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from .network import STBNConfig
from .training import TrainingConfig

__all__ = ["PRESETS", "Preset", "PresetName", "choose_preset", "choose_turns",
           "predictable_pixels"]  # fmt: skip

# Pixels that are predicted in a second along one flow by a network of 16 channels: three quarters
# of what two cores of an AMD EPYC do, and guessed for the others.
_PREDICTED_PIXELS = {"cpu": 800_000, "mps": 3_000_000, "cuda": 20_000_000}
_WIDTH, _GROWTH = 16, 1.4  # one of 32 channels takes 2.6 times as long
_REFINEMENT_SHARE = 0.2  # of a time budget that may go into a first prediction
# Pixels for each second of the fit up to which results are averaged over turns, of a network of 16
# channels. One core denoises about 80,000 pixels a second in four turns (AMD EPYC, bfloat16).
_TURNED_PIXELS = 25_000

PresetName = Literal["preview", "balanced", "best", "paper"]


@dataclass(frozen=True)
class Preset:
    """A network and a fit that belong together.

    Attributes
    ----------
    network : STBNConfig
        With one channel; the stack's channels are put in.
    training : TrainingConfig
    turns : int or None
        Quarter turns of the movie that a result is averaged over; None where the size of the movie
        decides (`choose_turns`).
    """

    network: STBNConfig
    training: TrainingConfig
    turns: int | None = None


# Many small clips beat few large ones: with as many pixels in all, a fit to clips of 32 px ended
# above those to 48, 64 and 96 px on `simulate()`. A GPU wants more work in a step. In time, longer
# clips are better: from learnt weights, 24 frames instead of 16 gained .3 and .6 dB on still scenes
# and lost less than .1 on others; 32 gained no more. Twice the channels are worth their time: in
# 12 s of one core on movies of 32 x 96 x 96 pixels they ended .46 dB higher.
_STANDARD = STBNConfig(width=32, head_blocks=2)
PRESETS: dict[PresetName, Preset] = {
    "preview": Preset(STBNConfig(), TrainingConfig(time_budget=30)),
    "balanced": Preset(_STANDARD, TrainingConfig(time_budget=180)),
    "best": Preset(_STANDARD, TrainingConfig(time_budget=900, batch=4), turns=4),
    "paper": Preset(
        STBNConfig.paper(1),
        TrainingConfig(
            max_steps=80_000,
            clip_frames=16,
            clip_size=96,
            batch=4,
            learning_rate=3e-4,
            beta=0.0,
            patience=0,
        ),
        turns=1,
    ),
}


def choose_preset(device: torch.device) -> PresetName:
    """Preset that "auto" stands for on a device."""
    return "balanced" if device.type == "cpu" else "best"


def choose_turns(preset: PresetName, pixels: int, seconds: float | None) -> int:
    """Quarter turns to average over: all four where they take a small part of the time.

    Parameters
    ----------
    preset : str
    pixels : int
        Of the stack.
    seconds : float or None
        Time budget of the fit; the preset's when None.

    Returns
    -------
    int
        Not from a clock, so that the same run gives the same result again.
    """
    chosen = PRESETS[preset]
    if chosen.turns is not None:
        return chosen.turns
    budget = seconds or chosen.training.time_budget or math.inf
    return 4 if pixels <= _TURNED_PIXELS * _speed(chosen.network) * budget else 1


def predictable_pixels(seconds: float, device: torch.device, network: STBNConfig) -> int:
    """Pixels that a first prediction may go over in a fit of so many seconds: a fifth of its time.

    Parameters
    ----------
    seconds : float
        Time budget of the fit.
    device : torch.device
    network : STBNConfig
        That predicts.

    Returns
    -------
    int
        Not from a clock, so that the same run gives the same result again.
    """
    rate = _PREDICTED_PIXELS.get(device.type, _PREDICTED_PIXELS["cpu"])
    return int(rate * _speed(network) * _REFINEMENT_SHARE * seconds)


def _speed(network: STBNConfig) -> float:
    """Pixels in a second, as a part of those of a network of 16 channels."""
    return float((_WIDTH / network.width) ** _GROWTH)
