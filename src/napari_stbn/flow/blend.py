"""Flow that a small network blends from what dense inverse search found and its means.

Where there is little light, dense inverse search follows noise; what helps then is a mean over
place or time, or standing still, and which of them is right differs from place to place. The
network sees, at a quarter of the size, how well each candidate explains the frames and how far they
differ, and gives each a weight. So its flow always lies between zero, the means, and what the
search found. It was trained on simulated movies with exact flow (``benchmarks/train_flow.py``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from .consistency import round_trip_error
from .multiframe import interpolate
from .steady import SteadyStream

__all__ = ["CANDIDATES", "BlendStream", "FlowBlend", "all_candidates", "blend_weights", "features"]

CANDIDATES = ("zero", "global", "wide", "near", "dis", "steady", "steadier", "wide steady")
"""Nothing; the median; two means over place; the search; three means over time along the way."""
_CELL = 4  # px, side of a cell that has one set of weights
_FEATURES = 3 * len(CANDIDATES) + 6
_WIDTH = 32  # channels
_WIDE, _NEAR = 16.0, 5.0  # px, of means over place
_SMOOTH = 1.5  # px, of frames before they are compared
_AROUND = 3.0  # px, over which candidates are compared
_LOST = 20.0  # px: round trips that end further away than this are alike
_DIS, _STEADIER = CANDIDATES.index("dis"), CANDIDATES.index("steadier")
_WEIGHTS = Path(__file__).parents[1] / "weights" / "flow_blend.safetensors"
Image = NDArray[np.float32]
Pair = tuple[Image, Image]  # to the previous frame and to the next, each (2, Y, X) [px]


class FlowBlend(nn.Module):
    """Weights of candidates from features of cells."""

    mean: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = _FEATURES
        for dilation in (1, 2, 4, 1):
            layers += [nn.Conv2d(inputs, _WIDTH, 3, padding=dilation, dilation=dilation), nn.ReLU()]
            inputs = _WIDTH
        last = nn.Conv2d(_WIDTH, len(CANDIDATES), 1)
        nn.init.zeros_(last.weight)  # begins as an even blend
        self.layers = nn.Sequential(*layers, last)
        self.register_buffer("mean", torch.zeros(_FEATURES))
        self.register_buffer("spread", torch.ones(_FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        """Weights (N, K, h, w), which sum to 1, of features (N, F, h, w)."""
        scaled = (x - self.mean[:, None, None]) / self.spread[:, None, None]
        weights: Tensor = self.layers(scaled).softmax(1)
        return weights


@lru_cache(maxsize=1)
def blend_weights() -> FlowBlend:
    """The network that comes with the package."""
    net = FlowBlend()
    net.load_state_dict({name: value.float() for name, value in load_file(_WEIGHTS).items()})
    return net.eval()


class _CandidateStream:
    """`CANDIDATES` of pairs whose plain flow is handed in one by one; it stays two pairs behind."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Pair, Pair]] = deque()  # plain, wide
        self._once: deque[Pair] = deque()
        self._twice: deque[Pair] = deque()
        self._plain_once, self._plain_twice = SteadyStream(), SteadyStream()
        self._wide_once, self._wide_twice = SteadyStream(), SteadyStream()

    def add(self, plain: Pair) -> Iterator[list[Pair]]:
        """Take the next pair; the candidates of those for which all is known."""
        wide = _blurred(plain, _WIDE)
        self._waiting.append((plain, wide))
        for once in self._plain_once.add(plain):
            self._once.append(once)
            self._twice.extend(self._plain_twice.add(once))
        for once in self._wide_once.add(wide):
            yield from map(self._put_together, self._wide_twice.add(once))

    def finish(self) -> Iterator[list[Pair]]:
        """Those of the pairs that waited for later ones."""
        for once in self._plain_once.finish():
            self._once.append(once)
            self._twice.extend(self._plain_twice.add(once))
        self._twice.extend(self._plain_twice.finish())
        for once in self._wide_once.finish():
            yield from map(self._put_together, self._wide_twice.add(once))
        yield from map(self._put_together, self._wide_twice.finish())

    def _put_together(self, wide_twice: Pair) -> list[Pair]:
        """All candidates of the pair that has waited longest."""
        plain, wide = self._waiting.popleft()
        return [
            (np.zeros_like(plain[0]), np.zeros_like(plain[1])),
            _medians(plain),
            wide,
            _blurred(plain, _NEAR),
            plain,
            self._once.popleft(),
            self._twice.popleft(),
            wide_twice,
        ]


class BlendStream:
    """Blended flow pair by pair, of pairs of frames that are handed in one by one.

    Parameters
    ----------
    net : FlowBlend, optional
        The package's where None.
    """

    def __init__(self, net: FlowBlend | None = None) -> None:
        self._net = net
        self._frames: deque[tuple[Image, Image]] = deque()
        self._candidates = _CandidateStream()

    def add(self, this: Image, other: Image, plain: Pair) -> Iterator[Pair]:
        """Take the next two frames (Y, X) and the flow between them; flow that can be blended now.

        Yields
        ------
        (to_previous, to_next), each (2, Y, X) float32 [px]
            Of the pair two before this one.
        """
        self._frames.append((_finite(this), _finite(other)))
        yield from map(self._blend, self._candidates.add(plain))

    def finish(self) -> Iterator[Pair]:
        """The pairs that waited for later ones."""
        yield from map(self._blend, self._candidates.finish())

    def _blend(self, flows: list[Pair]) -> Pair:
        """The blend of the candidates of the pair that has waited longest."""
        return _blended(self._net or blend_weights(), *self._frames.popleft(), flows)


def all_candidates(plain: Iterable[Pair]) -> Iterator[list[Pair]]:
    """`CANDIDATES` of each pair, from its plain flow."""
    stream = _CandidateStream()
    for pair in plain:
        yield from stream.add(pair)
    yield from stream.finish()


def features(this: Image, other: Image, flows: list[Pair]) -> Image:
    """What the network sees of one pair, in both directions.

    Parameters
    ----------
    this, other : ndarray, shape (Y, X)
        A frame and the next.
    flows : list of (to_previous, to_next), each (2, Y, X) [px]
        `CANDIDATES`.

    Returns
    -------
    ndarray, shape (2, F, Y / 4, X / 4), float32
        For the flow to the previous frame and to the next.
    """
    smooth = np.stack([_blur(frame, _SMOOTH) for frame in (this, other)])
    low, high = np.percentile(smooth, [1.0, 99.8])
    span = max(float(high - low), 1e-6)
    a, b = (smooth - low) / span
    left: list[Image] = [
        np.asarray(np.sqrt(_blur(np.square((frame - mean) / span), 6.0)) + 1e-4, np.float32)
        for frame, mean in zip((this, other), smooth, strict=True)
    ]
    back, ahead = ([flow[way] for flow in flows] for way in (0, 1))
    return np.stack([_one_way(b, a, left[1], back, ahead), _one_way(a, b, left[0], ahead, back)])


def _one_way(a: Image, b: Image, noise: Image, moves: list[Image], back: list[Image]) -> Image:
    """`features` from frame `a` to frame `b`, smooth and from 0 to 1, with the noise of `a`."""
    planes = []
    for move in moves:
        missed = _blur(np.square(a - interpolate(b, move)), _AROUND)
        planes.append(np.log(missed / noise**2 + 1e-2))
    planes += [np.log1p(np.hypot(*move)) for move in moves]
    planes += [np.log1p(np.hypot(*(move - moves[_DIS]))) for move in moves]
    for k in (_DIS, _STEADIER):
        planes.append(np.log1p(np.minimum(round_trip_error(moves[k], back[k]), _LOST)))
    edges = np.gradient(_blur(a, 1.0))
    planes.append(np.log(_blur(np.square(edges[0]) + np.square(edges[1]), 4.0) / noise**2 + 1e-3))
    planes += [np.log(noise), np.clip(a, 0, 1.5), np.log(_blur(np.clip(a, 1e-3, None), 8.0))]
    at = slice(_CELL // 2, None, _CELL)
    return np.stack([plane[at, at] for plane in planes]).astype(np.float32)


@torch.no_grad()
def _blended(net: FlowBlend, this: Image, other: Image, flows: list[Pair]) -> Pair:
    """Flow of a pair, both ways."""
    height, width = this.shape
    if min(height, width) <= _CELL:  # not two cells to compare
        return flows[_DIS]
    seen = torch.from_numpy(features(this, other, flows))
    weights = F.interpolate(net(seen), (height, width), mode="bilinear").numpy()
    found = [
        np.einsum("kyx,kcyx->cyx", share, np.stack([flow[way] for flow in flows]))
        for way, share in enumerate(weights)
    ]
    return found[0], found[1]


def _finite(frame: Image) -> Image:
    """A frame whose missing pixels are at its median."""
    frame = np.array(frame, np.float32)
    known = np.isfinite(frame)
    if not known.all():
        frame[~known] = np.median(frame[known]) if known.any() else 0.0
    return frame


def _medians(pair: Pair) -> Pair:
    """The median of each direction everywhere."""
    back, ahead = (
        np.broadcast_to(np.median(flow, (1, 2), keepdims=True), flow.shape).astype(np.float32)
        for flow in pair
    )
    return back, ahead


def _blur(image: Image, radius: float) -> Image:
    """Gaussian mean, edges mirrored."""
    import cv2

    blurred = cv2.GaussianBlur(
        np.ascontiguousarray(image, np.float32), (0, 0), radius, borderType=cv2.BORDER_REFLECT_101
    )
    return np.asarray(blurred, np.float32)


def _blurred(pair: Pair, radius: float) -> Pair:
    """Gaussian mean of both directions."""
    back, ahead = (np.stack([_blur(part, radius) for part in flow]) for flow in pair)
    return back, ahead
