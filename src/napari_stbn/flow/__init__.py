"""Optical flow: the convention, warping, and estimators for noisy movies."""

from __future__ import annotations

from .estimators import FLOW_METHODS, Flow, FlowMethod, estimate_flow, flow_steps, whole_flow
from .field import end_point_error, warp

__all__ = [
    "FLOW_METHODS",
    "Flow",
    "FlowMethod",
    "end_point_error",
    "estimate_flow",
    "flow_steps",
    "warp",
    "whole_flow",
]
