"""The spatiotemporal blind-spot network (STBN), on one screen.

Features travel through time twice, forward and backward (`Propagation`): at each frame the state of
the neighbouring frame is warped along the flow and joined with the frame by a blind-spot alignment
block. Both states of a frame then pass the spatial receptive-field expansion
(`SpatialExpansion`) and a head that gives the prior of every pixel: mean and covariance factor.
After a fit a linear filter over the pixels around may add to the mean (`NearbyPixels`).
"""

from __future__ import annotations

import re
import threading
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..flow.field import align_index, gather
from .blindspot import BlindSpotConv2d, DilatedResidual, patch_shuffle, patch_unshuffle
from .config import STBNConfig
from .nearby import NearbyPixels

__all__ = ["STBN", "AlignmentBlock", "SpatialExpansion"]

_NOT_RECTIFIED = re.compile(r"(fuse|head)\.\d+|expand\.(inlet|outlet\.\d)|align\.\w+\.tail\.4")
Direction = Literal["from_past", "from_future"]
_CHANCE = threading.RLock()  # held while weights are drawn


def _pointwise(*channels: int, bias: bool = True) -> nn.Sequential:
    """1x1 convolutions through the given channel counts with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 1, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class AlignmentBlock(nn.Module):
    """First half of the blind-spot alignment block: frame and aligned state, masked.

    Parameters
    ----------
    config : STBNConfig
        Sizes.
    """

    def __init__(self, config: STBNConfig) -> None:
        super().__init__()
        w = config.width
        self.inlet = nn.Conv2d(config.inputs + w, w, 1)
        self.blind = BlindSpotConv2d(w, w)
        self.mix = _pointwise(w, w, w)
        self.blocks = nn.Sequential(*(DilatedResidual(w) for _ in range(config.alignment_blocks)))
        self.outlet = nn.Conv2d(w, w, 1)
        self.tail = _pointwise(w, w // 2, w // 2, w)

    def forward(self, frame: Tensor, state: Tensor) -> Tensor:
        """Join a frame (N, C', H, W) with the aligned state (N, width, H, W)."""
        x = F.relu(self.inlet(torch.cat([frame, state], 1)))
        x = F.relu(self.mix(F.relu(self.blind(x))))
        out: Tensor = self.tail(F.relu(self.outlet(self.blocks(x))))
        return out

    def links(self) -> list[tuple[nn.Module, bool]]:
        """Convolutions and residual blocks after the inlet, each with whether a ReLU follows."""
        return [
            *((m, True) for m in (self.blind, self.mix[0], self.mix[2])),
            *((m, False) for m in self.blocks),
            *((m, True) for m in (self.outlet, self.tail[0], self.tail[2])),
            (self.tail[4], False),
        ]


class SpatialExpansion(nn.Module):
    """Spatial receptive-field expansion (paper Eq. 4): both states at half size.

    Parameters
    ----------
    config : STBNConfig
        Sizes.
    """

    def __init__(self, config: STBNConfig) -> None:
        super().__init__()
        wide = 4 * config.width
        self.inlet = nn.Conv2d(2 * wide, wide, 3, padding=2, dilation=2)
        self.groups = nn.ModuleList(
            nn.Sequential(
                *(DilatedResidual(wide, groups=2) for _ in range(config.expansion_blocks))
            )
            for _ in range(config.expansion_groups)
        )
        self.outlet = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=2, dilation=2),
            nn.Conv2d(wide, wide, 1),
            nn.Conv2d(wide, wide, 1),
        )

    def forward(self, forward: Tensor, backward: Tensor) -> Tensor:
        """Fuse two states (N, width, H, W) of the same frames to (N, width, H, W)."""
        h, w = forward.shape[-2:]
        pad = (0, -w % 4, 0, -h % 4)
        states = [patch_unshuffle(F.pad(s, pad)) for s in (forward, backward)]
        x = self.inlet(torch.cat(states, 1))
        for group in self.groups:
            x = x + group(x)
        return patch_shuffle(self.outlet(x))[..., :h, :w]


class STBN(nn.Module):
    """Blind prediction of every pixel of a clip from the rest of the clip, given the flow.

    Parameters
    ----------
    config : STBNConfig
        Sizes; `STBNConfig.paper` gives the released model.

    Notes
    -----
    Paper Eqs. 3 and 4, sizes from the authors' released model. Directions differ only in the flow
    they follow and in the weights of the first half of their alignment block; the second half is
    shared and skipped at the first frame of each direction. The output at a pixel does not depend
    on that pixel *given the flow*; flow estimated from noisy frames carries a little of it, see
    `napari_stbn.diagnostics.blind_spot_leak`.
    """

    def __init__(self, config: STBNConfig | None = None) -> None:
        super().__init__()
        self.config = config or STBNConfig()
        # Frames of the clips that it learnt from, None where that is not known. Beyond as many its
        # states were never seen in a fit, and may grow without bound.
        self.clip_frames: int | None = None
        with _CHANCE:
            self._build(self.config)

    @classmethod
    def seeded(cls, config: STBNConfig, seed: int) -> STBN:
        """A network whose random weights depend on the seed alone.

        Other threads that make a network wait meanwhile: torch draws weights from one generator.
        """
        with _CHANCE, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config)

    def _build(self, config: STBNConfig) -> None:
        """Make all parts, with random weights."""
        w = config.width
        self.align = nn.ModuleDict(
            {"from_past": AlignmentBlock(config), "from_future": AlignmentBlock(config)}
        )
        self.fuse = nn.Sequential(
            nn.Conv2d(2 * w, 2 * w, 1, bias=False),
            *(DilatedResidual(2 * w) for _ in range(config.fusion_blocks)),
            nn.Conv2d(2 * w, w, 1, bias=False),
        )
        self.expand = SpatialExpansion(config)
        self.head = nn.Sequential(
            nn.Conv2d(w, w, 1, bias=False),
            *(DilatedResidual(w) for _ in range(config.head_blocks)),
            nn.Conv2d(w, config.outputs, 1, bias=False),
        )
        self.near = NearbyPixels(config)
        self._initialise()

    def place(self, device: torch.device) -> STBN:
        """Move to a device, weights in the memory order that convolutions are fastest in."""
        self.to(device)
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return self

    @torch.no_grad()
    def _initialise(self) -> None:
        """Start from features of unit size at every depth and a nearly flat prior.

        Deviation from the released code, which keeps torch's defaults: with those, signal shrinks
        about threefold in each of a dozen layers, and a fit of minutes learns little else than to
        undo that.
        """
        inputs = self.config.channels + self.config.map_channels
        for name, module in self.named_modules():
            if not isinstance(module, nn.Conv2d):
                continue
            rectified = not _NOT_RECTIFIED.fullmatch(name)
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if rectified else "linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.endswith(".mix"):
                module.weight *= 0.2  # residual blocks hardly change what passes them
            if name.endswith(".inlet") and name.startswith("align"):
                # The frame is one channel beside many of the state, which is zero at first.
                module.weight[:, :inputs] *= (self.config.width / inputs) ** 0.5
                # A constant is a bias: it starts as biases do.
                module.weight[:, inputs : self.config.inputs] = 0
        self.last.weight *= 0.1

    @property
    def last(self) -> nn.Conv2d:
        """The final 1x1 convolution."""
        return cast("nn.Conv2d", self.head[-1])

    def forward(self, frames: Tensor, flow_to_previous: Tensor, flow_to_next: Tensor) -> Tensor:
        """Predict the prior of every pixel.

        Parameters
        ----------
        frames : Tensor, shape (N, T, `STBNConfig.inputs`, H, W)
            Noisy clips with their maps, T >= 2, H and W >= 8.
        flow_to_previous, flow_to_next : Tensor, shape (N, T - 1, 2, H, W) [px], ordered (dx, dy)
            Entry t leads from frame t + 1 to t, and from frame t to t + 1.

        Returns
        -------
        Tensor, shape (N, T, K, H, W), float32
            C prior means, then, with `STBNConfig.covariance`, the triangular factor A row by
            row (prior covariance A^T A).

        Raises
        ------
        ValueError
            If a shape is not as stated.
        """
        self.check(frames, flow_to_previous, flow_to_next)
        t = frames.shape[1]
        to_previous = [
            align_index(flow, self.config.alignment) for flow in flow_to_previous.unbind(1)
        ]
        to_next = [align_index(flow, self.config.alignment) for flow in flow_to_next.unbind(1)]
        frame = [f.contiguous(memory_format=torch.channels_last) for f in frames.unbind(1)]
        past: list[Tensor] = []  # states of the forward direction, first frame first
        future: list[Tensor] = []  # of the backward direction, last frame first
        for i in range(t):
            j = t - 1 - i
            if i == 0:
                past.append(self.begin("from_past", frame[0]))
                future.append(self.begin("from_future", frame[j]))
                continue
            from_past = gather(past[-1], to_previous[i - 1])
            from_future = gather(future[-1], to_next[j])
            joined = torch.cat(
                [
                    torch.cat([self.align["from_past"](frame[i], from_past), from_past], 1),
                    torch.cat([self.align["from_future"](frame[j], from_future), from_future], 1),
                ]
            )
            state_past, state_future = self.fuse(joined).chunk(2)
            past.append(state_past)
            future.append(state_future)
        prior = self.predict(
            torch.cat(past), torch.cat(future[::-1])
        )  # frames stacked over the batch
        stacked = prior.unflatten(0, (t, -1))
        whole: Tensor = self.near(stacked.transpose(0, 1), frames)
        return whole

    def begin(self, direction: Direction, frame: Tensor) -> Tensor:
        """State (N, width, H, W) at the first frame of a direction, whose hidden state is zero."""
        n, _, h, w = frame.shape
        state: Tensor = self.align[direction](frame, frame.new_zeros(n, self.config.width, h, w))
        return state

    def advance(self, direction: Direction, frame: Tensor, aligned: Tensor) -> Tensor:
        """State (N, width, H, W) at a frame (N, C', H, W).

        From its neighbour's state warped to it.
        """
        joined = torch.cat([self.align[direction](frame, aligned), aligned], 1)
        state: Tensor = self.fuse(joined)
        return state

    def predict(self, past: Tensor, future: Tensor) -> Tensor:
        """Prior (N, K, H, W), float32, from both states (N, width, H, W) of the same frames."""
        return self.finish(self.head[:-1](self.expand(past, future)))

    def finish(self, x: Tensor) -> Tensor:
        """Prior (N, K, H, W), float32, from the head's last features (N, width, H, W)."""
        # The last 1x1 runs in float32: bfloat16 has 8 bits, which would band the smooth parts of a
        # bright movie.
        with torch.autocast(x.device.type, enabled=False):
            prior: Tensor = self.last(x.to(self.last.weight.dtype))
        if not (self.config.covariance and self.config.positive_factor):
            return prior
        parts = list(prior.split(1, dim=1))
        for pivot in self.config.pivots:
            parts[pivot] = F.softplus(parts[pivot])
        return torch.cat(parts, 1)

    def check(self, frames: Tensor, flow_to_previous: Tensor, flow_to_next: Tensor) -> None:
        """Raise ValueError where shapes are not those of `forward`."""
        inputs = self.config.inputs
        if frames.ndim != 5 or frames.shape[2] != inputs:
            raise ValueError(
                f"frames must have shape (N, T, {inputs}, H, W), got {tuple(frames.shape)}"
            )
        n, t, _, h, w = frames.shape
        if t < 2:
            raise ValueError(f"a clip needs at least 2 frames, got {t}")
        if h < 8 or w < 8:
            raise ValueError(f"frames must be at least 8 x 8 pixels, got {h} x {w}")
        for name, flow in (("flow_to_previous", flow_to_previous), ("flow_to_next", flow_to_next)):
            if tuple(flow.shape) != (n, t - 1, 2, h, w):
                raise ValueError(
                    f"{name} must have shape {(n, t - 1, 2, h, w)} to match frames, "
                    f"got {tuple(flow.shape)}"
                )


# Receptive radii in pixels, for tiles that must equal the whole (see `napari_stbn.inference`).


def state_radius(config: STBNConfig) -> int:
    """Pixels that one step of propagation reaches from the aligned state and the frame."""
    return 1 + 2 * config.alignment_blocks + 2 * config.fusion_blocks


def head_radius(config: STBNConfig) -> int:
    """Pixels that expansion and head reach from the states: blocks at half size count double.

    Plus one unshuffled patch.
    """
    expansion = 2 * (2 + config.expansion_groups * config.expansion_blocks)
    return 2 * expansion + 4 + 2 * config.head_blocks
