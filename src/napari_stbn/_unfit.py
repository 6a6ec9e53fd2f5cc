"""Movies that a fit would make worse: the learnt start denoises them as it is."""

from __future__ import annotations

from collections.abc import Mapping

from ._compression import COMPRESSED, is_compressed
from ._generators import last
from ._grid_stack import GridStack
from ._lazy import of_channels
from .correlation import NoiseCorrelation
from .stack import Stack

__all__ = ["FILTERED", "why_unfit"]

FILTERED = (
    "So much of the noise is shared that the filter leaves some of it, which a fit would learn, so "
    "the start is kept as it is. Recorded frames hold more."
)

# Mean of the noise's spectrum over its geometric mean, as `benchmarks/red_noise.py` has it.
_MOST = 1.3


def why_unfit(stack: Stack, correlation: Mapping[int, NoiseCorrelation | None]) -> str:
    """Why a fit would learn noise.

    Parameters
    ----------
    stack : Stack
        As it is denoised.
    correlation : mapping of channel to NoiseCorrelation or None
        Of its noise.

    Returns
    -------
    str
        A sentence for the user; empty where nothing speaks against a fit.
    """
    whole = stack.source if isinstance(stack, GridStack) else stack
    if any(last(of_channels(whole, is_compressed)).values()):
        return COMPRESSED
    shared = [one.unevenness for one in correlation.values() if one is not None]
    return FILTERED if max(shared, default=1.0) > _MOST else ""
