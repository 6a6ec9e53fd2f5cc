"""A small network that blends candidate flows: what ``train_flow.py`` trains.

Dense inverse search stays the eye. The network sees, at a quarter of the size, how well each
candidate explains the frames and how far they differ, and gives each a weight, so that its flow
always lies between zero, means over place and time, and what the search found.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from napari_stbn.flow import Flow, estimate_flow
from napari_stbn.flow.consistency import round_trip_error
from napari_stbn.flow.multiframe import interpolate
from napari_stbn.flow.steady import steady_flow

__all__ = ["CANDIDATES", "CELL", "FEATURES", "FlowBlend", "blended", "candidates", "features"]

CANDIDATES = ("zero", "global", "wide", "near", "dis", "steady", "steadier", "wide steady")
CELL = 4  # px, side of a cell that has one set of weights
FEATURES = 3 * len(CANDIDATES) + 6
_WIDE, _NEAR = 16.0, 5.0  # px, of means over place
_AROUND = 3.0  # px, over which candidates are compared
_WIDTH = 32
Image = NDArray[np.float32]


class FlowBlend(nn.Module):
    """Weights of candidates from features of cells."""

    def __init__(self, width: int = _WIDTH) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = FEATURES
        for dilation in (1, 2, 4, 1):
            layers += [nn.Conv2d(inputs, width, 3, padding=dilation, dilation=dilation), nn.ReLU()]
            inputs = width
        last = nn.Conv2d(width, len(CANDIDATES), 1)
        nn.init.zeros_(last.weight)  # begins as an even blend
        self.layers = nn.Sequential(*layers, last)

    def forward(self, x: Tensor) -> Tensor:
        """Weights (N, K, h, w), which sum to 1, of features (N, FEATURES, h, w)."""
        weights: Tensor = self.layers(x).softmax(1)
        return weights


def candidates(flow: Flow) -> list[Flow]:
    """`CANDIDATES`, made from flow by dense inverse search alone."""
    zero = Flow(*(np.zeros_like(d) for d in flow))
    whole = Flow(*(np.broadcast_to(np.median(d, (2, 3), keepdims=True), d.shape).astype(np.float32)
                   for d in flow))  # fmt: skip
    wide = _blurred(flow, _WIDE)
    return [
        zero,
        whole,
        wide,
        _blurred(flow, _NEAR),
        flow,
        steady_flow(flow),
        steady_flow(flow, 2),
        steady_flow(wide, 2),
    ]


def features(movie: Image, flows: list[Flow], pair: int, way: int) -> tuple[Image, Image]:
    """What the network sees of one pair and direction.

    Parameters
    ----------
    movie : ndarray, shape (T, Y, X)
    flows : list of Flow
        From `candidates`.
    pair : int
    way : int
        0 for the flow to the previous frame, 1 to the next.

    Returns
    -------
    features : ndarray, shape (FEATURES, Y / 4, X / 4), float32
    moves : ndarray, shape (K, 2, Y / 4, X / 4), float32 [px]
        The candidates, at the cells' middles.
    """
    this, other = (movie[pair + 1], movie[pair]) if way == 0 else (movie[pair], movie[pair + 1])
    both = np.stack([this, other]).astype(np.float32)
    smooth = np.stack([_blur(frame, 1.5) for frame in both])
    low, high = np.percentile(smooth, [1.0, 99.8])
    span = max(float(high - low), 1e-6)
    a, b = (smooth - low) / span
    noise = np.sqrt(_blur(np.square((both[0] - smooth[0]) / span), 6.0)) + 1e-4
    moves = [flow[way][pair] for flow in flows]
    back = [flow[1 - way][pair] for flow in flows]
    dis = CANDIDATES.index("dis")
    planes = []
    for move in moves:
        missed = _blur(np.square(a - interpolate(b, move)), _AROUND)
        planes.append(np.log(missed / noise**2 + 1e-2))
    planes += [np.log1p(np.hypot(*move)) for move in moves]
    planes += [np.log1p(np.hypot(*(move - moves[dis]))) for move in moves]
    for k in (dis, CANDIDATES.index("steadier")):
        planes.append(np.log1p(np.minimum(round_trip_error(moves[k], back[k]), 20.0)))
    edges = np.gradient(_blur(a, 1.0))
    planes.append(np.log(_blur(np.square(edges[0]) + np.square(edges[1]), 4.0) / noise**2 + 1e-3))
    planes += [np.log(noise), np.clip(a, 0, 1.5), np.log(_blur(np.clip(a, 1e-3, None), 8.0))]
    at = slice(CELL // 2, None, CELL)
    seen = np.stack(planes)[:, at, at]
    return seen.astype(np.float32), np.stack(moves)[:, :, at, at].astype(np.float32)


@torch.no_grad()
def blended(net: FlowBlend, movie: Image) -> Flow:
    """Flow of a whole movie (T, Y, X)."""
    movie = np.asarray(movie, np.float32)
    flows = candidates(estimate_flow(movie, "dis"))
    out = Flow(*(np.empty_like(d) for d in flows[0]))
    height, width = movie.shape[1:]
    net.eval()
    for way in (0, 1):
        for pair in range(len(movie) - 1):
            seen, _ = features(movie, flows, pair, way)
            weights = net(torch.from_numpy(seen)[None])
            weights = F.interpolate(weights, (height, width), mode="bilinear")[0].numpy()
            out[way][pair] = sum(
                w * flow[way][pair] for w, flow in zip(weights, flows, strict=True)
            )
    return out


def _blur(image: Image, radius: float) -> Image:
    """Gaussian mean, edges mirrored."""
    import cv2

    blurred = cv2.GaussianBlur(
        np.ascontiguousarray(image, np.float32), (0, 0), radius, borderType=cv2.BORDER_REFLECT_101
    )
    return np.asarray(blurred, np.float32)


def _blurred(flow: Flow, radius: float) -> Flow:
    """Gaussian mean of every field."""
    return Flow(*(np.stack([[_blur(c, radius) for c in pair] for pair in d]) for d in flow))
