"""Along what a prediction can go from which flow is estimated: none, or flow of noisy frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np

from .estimators import Flow
from .held_out import Comparison
from .steady import steady_flow

__all__ = ["ROUNDS", "ROUTES", "Route", "RouteChoice", "route_flow", "still_flow"]

Route = Literal["still", "steady", "noisy"]
ROUTES: tuple[Route, ...] = get_args(Route)
"""No motion; flow between noisy frames, a mean over five pairs along the way; that flow itself."""
ROUNDS = 2  # of the mean


@dataclass(frozen=True)
class RouteChoice:
    """Which flow the first prediction went along, and why.

    Attributes
    ----------
    route : str
        One of `ROUTES`.
    gains : mapping of str to Comparison
        For each, the part of the squared error at hidden pixels, noise included, that it avoids
        against a prediction along no motion, and this in standard errors.
    again : bool
        Flow is estimated on that prediction; else the flow of the route itself predicts better.
    """

    route: Route
    gains: Mapping[Route, Comparison]
    again: bool = True

    def improved(self, found: Flow) -> Flow:
        """What becomes of the flow that was found between predicted frames.

        Where the mean over time predicted best, the motion is even, and a mean is taken once more.
        """
        return steady_flow(found) if self.route == "steady" else found

    @property
    def sentence(self) -> str:
        """For the user."""
        names = {
            "still": "no motion",
            "steady": "the mean over time of flow between noisy frames",
            "noisy": "flow between noisy frames",
        }
        tried = ", ".join(
            f"{names[name]} {100 * gain:.2f} % ({sigmas:+.1f} standard errors)"
            for name, (gain, sigmas) in self.gains.items()
            if name != "still"
        )
        chosen = names[self.route]
        how = f"estimated on a prediction along {chosen}" if self.again else f"taken from {chosen}"
        return f"Motion was {how}. Error of hidden pixels avoided, noise included: {tried}."

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises
        ------
        ValueError
            If there is no such route.
        """
        if values["route"] not in ROUTES or not isinstance(values["again"], bool):
            raise ValueError(f"there is no route {str(values['route'])[:40]!r}")
        gains: dict[Route, Comparison] = {
            name: Comparison(
                float(values["gains"][name]["part"]),
                float(values["gains"][name]["standard_errors"]),
            )
            for name in ROUTES
        }
        return cls(values["route"], gains, values["again"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "route": self.route,
            "again": self.again,
            "gains": {
                name: {"part": gain, "standard_errors": sigmas}
                for name, (gain, sigmas) in self.gains.items()
            },
            "sentence": self.sentence,
        }


def route_flow(route: Route, noisy: Flow) -> Flow:
    """The flow of a route, from that between noisy frames."""
    if route == "still":
        pairs, _, height, width = noisy.to_next.shape
        return still_flow(pairs, height, width)
    return noisy if route == "noisy" else steady_flow(noisy, ROUNDS)


def still_flow(pairs: int, height: int, width: int) -> Flow:
    """No motion, in no memory: one zero stands for all, and cannot be written to."""
    zero = np.broadcast_to(np.zeros(1, np.float32), (pairs, 2, height, width))
    return Flow(zero, zero)
