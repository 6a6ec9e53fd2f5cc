"""Optical flow: the convention, warping, and estimators for noisy movies."""

from __future__ import annotations

from .choice import FlowChoice, choose_flow
from .consistency import confidence, round_trip_error
from .estimators import Flow, FlowStream, PairMethod, pair_steps
from .field import end_point_error, warp
from .held_out import Comparison, HeldOut, compare
from .movie import (
    FLOW_METHODS,
    FlowMethod,
    estimate_flow,
    flow_steps,
    measured_flow,
    whole_flow,
)
from .routes import ROUNDS, ROUTES, Route, RouteChoice, route_flow, still_flow
from .steady import SteadyStream, steady_flow, steady_pairs

__all__ = [
    "FLOW_METHODS",
    "ROUNDS",
    "ROUTES",
    "Comparison",
    "Flow",
    "FlowChoice",
    "FlowMethod",
    "FlowStream",
    "HeldOut",
    "PairMethod",
    "Route",
    "RouteChoice",
    "SteadyStream",
    "choose_flow",
    "compare",
    "confidence",
    "end_point_error",
    "estimate_flow",
    "flow_steps",
    "measured_flow",
    "pair_steps",
    "round_trip_error",
    "route_flow",
    "steady_flow",
    "steady_pairs",
    "still_flow",
    "warp",
    "whole_flow",
]
