"""The flow convention of the project, and everything that depends on nothing else.

A flow is a displacement in pixels with two channels ordered ``(dx, dy)``. It says where a pixel of
*this* frame is found in the *other* frame: ``warp(source, flow)[p] = source[p + flow[p]]``.
``flow_to_previous[t]`` leads from frame ``t + 1`` to frame ``t``, ``flow_to_next[t]`` from frame
``t`` to frame ``t + 1``; both have ``T - 1`` entries.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

__all__ = [
    "ALIGNMENTS",
    "Alignment",
    "BlendIndex",
    "WarpIndex",
    "align_index",
    "end_point_error",
    "gather",
    "warp",
    "warp_index",
]

Alignment = Literal["nearest", "bilinear"]
ALIGNMENTS: tuple[Alignment, ...] = get_args(Alignment)


class WarpIndex(NamedTuple):
    """A flow turned into memory addresses, so that every warp along it is one gather.

    Attributes
    ----------
    rows : Tensor, shape (N * H * W,), int64
        Row of the source, flattened to (N * H * W, C), that each output pixel copies.
    inside : Tensor, shape (N, 1, H, W), bool
        False where the flow points outside the frame; the output is zero there.
    """

    rows: Tensor
    inside: Tensor


class BlendIndex(NamedTuple):
    """A flow turned into four addresses and their weights: bilinear alignment.

    Attributes
    ----------
    corners : tuple of four WarpIndex
    weights : tuple of four Tensors, shape (N, 1, H, W)
    """

    corners: tuple[WarpIndex, ...]
    weights: tuple[Tensor, ...]


def align_index(flow: Tensor, alignment: Alignment) -> WarpIndex | BlendIndex:
    """Resolve a flow for `gather`, to the nearest source pixels or to a blend of four.

    Parameters
    ----------
    flow : Tensor, shape (N, 2, H, W) [px], ordered (dx, dy)
    alignment : {"nearest", "bilinear"}
        "bilinear" is there for the paper's ablation alone: it mixes the noise of neighbours.
    """
    if alignment == "nearest":
        return warp_index(flow)
    flow = flow.detach().float()
    whole = flow.floor()
    part = torch.nan_to_num(flow - whole, posinf=0.0, neginf=0.0)
    corners, weights = [], []
    for dy in (0, 1):
        for dx in (0, 1):
            corner = whole + whole.new_tensor([dx, dy]).view(1, 2, 1, 1)
            along_x = part[:, :1] if dx else 1 - part[:, :1]
            corners.append(warp_index(corner))
            weights.append(along_x * (part[:, 1:] if dy else 1 - part[:, 1:]))
    return BlendIndex(tuple(corners), tuple(weights))


def warp_index(flow: Tensor) -> WarpIndex:
    """Resolve a flow to the nearest source pixels.

    Parameters
    ----------
    flow : Tensor, shape (N, 2, H, W) [px], ordered (dx, dy)
        Displacement from each output pixel to its source. Non-finite entries count as outside.

    Returns
    -------
    WarpIndex
        Addresses and validity, on the device of `flow`.

    Raises
    ------
    ValueError
        If `flow` is not (N, 2, H, W).
    """
    if flow.ndim != 4 or flow.shape[1] != 2:
        raise ValueError(f"flow must have shape (N, 2, H, W), got {tuple(flow.shape)}")
    n, _, h, w = flow.shape
    flow = flow.detach().float()
    x = torch.arange(w, device=flow.device, dtype=torch.float32) + flow[:, 0]  # (N, H, W)
    y = torch.arange(h, device=flow.device, dtype=torch.float32)[:, None] + flow[:, 1]
    # Half-way cases go to the even neighbour, as grid_sample(mode="nearest") does; written as one
    # comparison so that NaN is outside.
    inside = (x >= -0.5) & (x <= w - 0.5) & (y >= -0.5) & (y <= h - 0.5)
    column = torch.nan_to_num(x).round().clamp_(0, w - 1).long()
    row = torch.nan_to_num(y).round().clamp_(0, h - 1).long()
    frame = torch.arange(n, device=flow.device)[:, None, None] * (h * w)
    return WarpIndex((frame + row * w + column).flatten(), inside[:, None])


def gather(source: Tensor, index: WarpIndex | BlendIndex) -> Tensor:
    """Warp along a resolved flow: `warp` for a flow that is used many times.

    Parameters
    ----------
    source : Tensor, shape (N, C, H, W)
        Any floating type; fastest in channels-last memory, which the result has too.
    index : WarpIndex or BlendIndex
        Made by `warp_index` or `align_index` from a flow of shape (N, 2, H, W).

    Returns
    -------
    Tensor, shape (N, C, H, W)
        Copies of values of `source` (means of four for a `BlendIndex`), or zero outside.
    """
    if isinstance(index, BlendIndex):
        pairs = zip(index.corners, index.weights, strict=True)
        blend = [gather(source, corner) * weight.to(source.dtype) for corner, weight in pairs]
        return torch.stack(blend).sum(0)
    n, c, h, w = source.shape
    pixels = source.permute(0, 2, 3, 1).reshape(n * h * w, c)  # a view when channels-last
    moved = pixels.index_select(0, index.rows).view(n, h, w, c).permute(0, 3, 1, 2)
    return moved * index.inside.to(source.dtype)


def warp(source: Tensor, flow: Tensor) -> Tensor:
    """Move a frame along a flow, nearest neighbour, zero outside.

    Nearest neighbour keeps the noise of the source as it is: every output value is one source
    value, so noise stays independent from pixel to pixel. Bilinear sampling would mix neighbours
    and break the assumption of the blind spot (paper, "Calibration of Frame Alignment").

    Parameters
    ----------
    source : Tensor, shape (N, C, H, W)
        Frames or features.
    flow : Tensor, shape (N, 2, H, W) [px], ordered (dx, dy)
        ``warp(source, flow)[p] = source[p + flow[p]]``. No gradient flows into it.

    Returns
    -------
    Tensor, shape (N, C, H, W)
        Warped source.

    Raises
    ------
    ValueError
        If the shapes do not match.

    Examples
    --------
    >>> import torch
    >>> frame = torch.arange(3.0).view(1, 1, 1, 3)
    >>> one_right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    >>> warp(frame, one_right).flatten().tolist()
    [1.0, 2.0, 0.0]
    """
    if source.ndim != 4:
        raise ValueError(f"source must have shape (N, C, H, W), got {tuple(source.shape)}")
    expected = (source.shape[0], 2, *source.shape[2:])
    if tuple(flow.shape) != expected:
        raise ValueError(
            f"flow must have shape {expected} to match source, got {tuple(flow.shape)}"
        )
    return gather(source, warp_index(flow))


def end_point_error(flow: Tensor, truth: Tensor, where: Tensor | None = None) -> float:
    """Mean length of the difference of two flows, in pixels.

    Parameters
    ----------
    flow, truth : Tensor, shape (..., 2, H, W) [px], ordered (dx, dy)
        Flows to compare. Pixels where either is not finite, or larger than 1e9 (the mark of unknown
        flow in ``.flo`` files), are left out.
    where : Tensor of bool, shape (..., H, W), optional
        Pixels to include, such as the foreground.

    Returns
    -------
    float
        Average end-point error [px]; NaN when no pixel remains.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if flow.shape != truth.shape or flow.ndim < 3 or flow.shape[-3] != 2:
        raise ValueError(
            "flow and truth must both have shape (..., 2, H, W), "
            f"got {tuple(flow.shape)} and {tuple(truth.shape)}"
        )
    error = torch.linalg.vector_norm(flow - truth, dim=-3)
    known = torch.isfinite(error) & (truth.abs().amax(dim=-3) < 1e9)
    if where is not None:
        known &= where
    return float(error[known].mean())
