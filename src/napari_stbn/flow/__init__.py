"""Optical flow: the convention, warping, and estimators for noisy movies."""

from __future__ import annotations

from .choice import FlowChoice, choose_flow
from .consistency import confidence, round_trip_error
from .estimators import Flow, FlowStream, PairMethod
from .field import end_point_error, warp
from .held_out import HeldOut, compare
from .movie import (
    FLOW_METHODS,
    FlowMethod,
    estimate_flow,
    flow_steps,
    measured_flow,
    whole_flow,
)

__all__ = [
    "FLOW_METHODS",
    "Flow",
    "FlowChoice",
    "FlowMethod",
    "FlowStream",
    "HeldOut",
    "PairMethod",
    "choose_flow",
    "compare",
    "confidence",
    "end_point_error",
    "estimate_flow",
    "flow_steps",
    "measured_flow",
    "round_trip_error",
    "warp",
    "whole_flow",
]
