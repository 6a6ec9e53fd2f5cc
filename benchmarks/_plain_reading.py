"""The paper read literally: float32, frame by frame, direction by direction, flow per clip.

What `engine.py` compares with. The layers are those of a model of ours, in torch's default memory
order, so that both compute the same function of the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_stbn.clips import Clip
from napari_stbn.flow import estimate_flow
from napari_stbn.flow.pwcnet import PWCNet
from napari_stbn.network import STBN, STBNConfig
from napari_stbn.prior import blind_loss, network_input


def plain_model(config: STBNConfig) -> STBN:
    """A network with weights in torch's default memory order."""
    model = STBN.seeded(config, 0)
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    return model


def warp(source: Tensor, flow: Tensor) -> Tensor:
    """Nearest-neighbour warp by `grid_sample`, zero outside."""
    h, w = source.shape[-2:]
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    grid = torch.stack([2 * (x + flow[:, 0]) / (w - 1) - 1, 2 * (y + flow[:, 1]) / (h - 1) - 1], -1)
    return F.grid_sample(source, grid.to(source.device), mode="nearest", align_corners=True)


def plain_states(
    model: STBN, frames: Sequence[Tensor], flows: Sequence[Tensor], direction: str
) -> list[Tensor]:
    """States of one direction, frame after frame."""
    states = [model.begin(direction, frames[0])]  # type: ignore[arg-type]
    for frame, flow in zip(frames[1:], flows, strict=True):
        aligned = warp(states[-1], flow)
        states.append(model.advance(direction, frame, aligned))  # type: ignore[arg-type]
    return states


def plain_forward(
    model: STBN, frames: Tensor, flow_to_previous: Tensor, flow_to_next: Tensor
) -> Tensor:
    """`STBN.forward`, frame by frame and direction by direction."""
    past = plain_states(model, frames.unbind(1), flow_to_previous.unbind(1), "from_past")
    future = plain_states(
        model, frames.unbind(1)[::-1], flow_to_next.unbind(1)[::-1], "from_future"
    )[::-1]
    return torch.stack([model.predict(a, b) for a, b in zip(past, future, strict=True)], 1)


def clip_flow(clip: Clip) -> tuple[Tensor, Tensor]:
    """Flow of every crop of a clip, estimated on the crop."""
    both = [estimate_flow(crop.sum(1).numpy()) for crop in clip.intensities]
    previous = torch.from_numpy(np.stack([flow.to_previous for flow in both]))
    following = torch.from_numpy(np.stack([flow.to_next for flow in both]))
    return previous, following


@torch.no_grad()
def network_flow(net: PWCNet, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Flow of frames (N, T, C, H, W) both ways by a network, as the paper has it."""
    n, t, _, h, w = frames.shape
    grey = frames[:, :, :1].expand(-1, -1, net.config.channels, -1, -1)
    earlier, later = grey[:, :-1].flatten(0, 1), grey[:, 1:].flatten(0, 1)
    shape = (n, t - 1, 2, h, w)
    return net(later, earlier).view(shape), net(earlier, later).view(shape)


def plain_step(model: STBN, clip: Clip, optimizer: torch.optim.Optimizer) -> float:
    """One step of a fit."""
    flows = clip_flow(clip)
    inputs = network_input(clip.inputs, clip.units, model.config)
    loss = blind_loss(
        plain_forward(model, inputs, *flows), clip.intensities, clip.units, clip.weight
    )
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())
