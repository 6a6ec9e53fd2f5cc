"""Simulated movies with ground truth and true flow: offline, tiny, reproducible."""

from __future__ import annotations

from napari_stbn.samples._scene import BlinkEvent
from napari_stbn.samples.simulation import KINDS, SimulatedMovie, simulate

__all__ = ["KINDS", "BlinkEvent", "SimulatedMovie", "simulate"]
