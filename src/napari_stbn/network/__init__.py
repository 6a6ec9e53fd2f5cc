"""The network: blind-spot parts, STBN itself, and a loader for the authors' checkpoints."""

from __future__ import annotations

from .config import STBNConfig
from .released import read_released, stbn_from_released
from .stbn import STBN

__all__ = ["STBN", "STBNConfig", "read_released", "stbn_from_released"]
