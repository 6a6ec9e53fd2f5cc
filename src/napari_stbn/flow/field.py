"""The flow convention of the project, and everything that depends on nothing else.

A flow is a displacement in pixels with two channels ordered ``(dx, dy)``. It says where a pixel of
*this* frame is found in the *other* frame: ``warp(source, flow)[p] = source[p + flow[p]]``.
``flow_to_previous[t]`` leads from frame ``t + 1`` to frame ``t``, ``flow_to_next[t]`` from frame
``t`` to frame ``t + 1``; both have ``T - 1`` entries.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "ALIGNMENTS",
    "BILINEAR_STEPS",
    "Alignment",
    "WarpIndex",
    "align",
    "align_index",
    "end_point_error",
    "gather",
    "gather_rows",
    "scatter_rows",
    "warp",
    "warp_index",
]

Alignment = Literal["nearest", "bilinear"]
ALIGNMENTS: tuple[Alignment, ...] = get_args(Alignment)
BILINEAR_STEPS = 16  # a pixel
_STRIP = 2**17  # pixels whose addresses are held at once


class WarpIndex(NamedTuple):
    """A flow turned into memory addresses, so that every warp along it is one gather.

    Attributes
    ----------
    rows : Tensor, shape (N * H * W, taps), int32
        Rows of the source, flattened to (N * H * W, C), that each output pixel is made of: one for
        the nearest neighbour, four for bilinear sampling.
    weights : Tensor, shape (N * H * W, taps), float32
        Of those rows; all zero where the flow points outside the frame.
    """

    rows: Tensor
    weights: Tensor


def align_index(flow: Tensor, alignment: Alignment, strip: slice | None = None) -> WarpIndex:
    """Resolve a flow for `gather`, to the nearest source pixels or to a blend of four.

    Either is blind: features come from other frames. Rounding to the nearest pixel adds up from
    frame to frame, which a blend does not; measured in docs/flow.md.

    Parameters
    ----------
    flow : Tensor, shape (N, 2, H, W) [px], ordered (dx, dy)
        Displacement from each output pixel to its source. Non-finite entries count as outside.
    alignment : {"nearest", "bilinear"}
        "bilinear" takes the flow in steps of `1 / BILINEAR_STEPS` px: its weights are then exact in
        bfloat16, and a flow that is kept in such steps gives the very same index.
    strip : slice, optional
        Of rows, from a start to a stop: resolve these alone.

    Returns
    -------
    WarpIndex
        On the device of `flow`.

    Raises
    ------
    ValueError
        If `flow` is not (N, 2, H, W).
    """
    if flow.ndim != 4 or flow.shape[1] != 2:
        raise ValueError(f"flow must have shape (N, 2, H, W), got {tuple(flow.shape)}")
    n, _, h, w = flow.shape
    first_row, last_row = (0, h) if strip is None else (strip.start, strip.stop)
    flow = flow[:, :, first_row:last_row].detach().float()
    if alignment == "bilinear":
        flow = (flow * BILINEAR_STEPS).round() / BILINEAR_STEPS
    x = torch.arange(w, device=flow.device, dtype=torch.float32) + flow[:, 0]  # (N, H, W)
    y = torch.arange(first_row, last_row, device=flow.device, dtype=torch.float32)[:, None]
    y = y + flow[:, 1]
    # One comparison, so that NaN is outside.
    inside = ((x >= -0.5) & (x <= w - 0.5) & (y >= -0.5) & (y <= h - 0.5)).float()
    x = torch.nan_to_num(x).clamp_(0, w - 1)
    y = torch.nan_to_num(y).clamp_(0, h - 1)
    frame = torch.arange(n, device=flow.device, dtype=torch.int32)[:, None, None] * (h * w)
    if alignment == "nearest":
        # Half-way cases go to the even neighbour, as grid_sample(mode="nearest") does.
        nearest = frame + y.round().int() * w + x.round().int()
        return WarpIndex(nearest.view(-1, 1), inside.view(-1, 1))
    column, row = x.floor(), y.floor()
    right, down = (x - column) * inside, y - row
    left, up = inside - right, 1 - down
    first = frame + row.int() * w + column.int()
    # At the last column and row the next one has no weight; any address inside will do.
    next_column, next_row = (column < w - 1).int(), (row < h - 1).int() * w
    rows = [first, first + next_column, first + next_row, first + next_row + next_column]
    weights = [left * up, right * up, left * down, right * down]
    return WarpIndex(torch.stack(rows, -1).view(-1, 4), torch.stack(weights, -1).view(-1, 4))


def warp_index(flow: Tensor) -> WarpIndex:
    """`align_index` to the nearest source pixels."""
    return align_index(flow, "nearest")


def gather(source: Tensor, index: WarpIndex) -> Tensor:
    """Warp along a resolved flow: `warp` for a flow that is used many times.

    Parameters
    ----------
    source : Tensor, shape (N, C, H, W)
        Any floating type; fastest in channels-last memory, which the result has too.
    index : WarpIndex
        Made by `align_index` from a flow of shape (N, 2, H, W).

    Returns
    -------
    Tensor, shape (N, C, H, W)
        Copies of values of `source`, or means of four; zero outside.
    """
    n, c, h, w = source.shape
    pixels = source.permute(0, 2, 3, 1).reshape(n * h * w, c)  # a view when channels-last
    return gather_rows(pixels, index).view(n, h, w, c).permute(0, 3, 1, 2)


def align(source: Tensor, flow: Tensor, alignment: Alignment) -> Tensor:
    """Warp (N, C, H, W) along a flow (N, 2, H, W) once, in strips: addresses of few rows at a time.

    The same numbers as `gather`, for inference on large frames.
    """
    n, c, h, w = source.shape
    pixels = source.permute(0, 2, 3, 1).reshape(n * h * w, c)
    out = pixels.new_empty(n, h, w, c)
    height = max(1, _STRIP // (n * w))
    for start in range(0, h, height):
        strip = slice(start, min(start + height, h))
        moved = gather_rows(pixels, align_index(flow, alignment, strip))
        out[:, strip] = moved.view(n, -1, w, c)
    return out.permute(0, 3, 1, 2)


def gather_rows(pixels: Tensor, index: WarpIndex) -> Tensor:
    """Sum the rows (M, C) that an index names, by its weights; (M', C)."""
    weights = index.weights.to(pixels.dtype)
    if _has_bags(pixels) and not (pixels.requires_grad and torch.is_grad_enabled()):
        # Several times faster than `index_select`, most of all in bfloat16.
        return F.embedding_bag(index.rows, pixels, mode="sum", per_sample_weights=weights)
    taps = zip(index.rows.unbind(1), weights.unbind(1), strict=True)
    moved = [pixels.index_select(0, rows) * weight[:, None] for rows, weight in taps]
    return torch.stack(moved).sum(0) if len(moved) > 1 else moved[0]


def scatter_rows(pixels: Tensor, index: WarpIndex) -> Tensor:
    """Gradient of `gather_rows` from as many rows (M, C) to as many; the transposed sum."""
    if pixels.device.type != "cpu" or not _has_bags(pixels):
        shares = pixels[:, None] * index.weights.to(pixels.dtype)[..., None]
        return torch.zeros_like(pixels).index_add_(0, index.rows.flatten(), shares.flatten(0, 1))
    m, taps = index.rows.shape
    starts = np.arange(0, m * taps + 1, taps, dtype=np.int32)
    rows = index.rows.flatten().numpy()
    turned = csr_array((index.weights.flatten().numpy(), rows, starts), (m, m)).tocsc()
    return F.embedding_bag(
        torch.from_numpy(turned.indices),
        pixels,
        torch.from_numpy(turned.indptr),
        mode="sum",
        per_sample_weights=torch.from_numpy(turned.data).to(pixels.dtype),
        include_last_offset=True,
    )


def _has_bags(pixels: Tensor) -> bool:
    """Whether sums of rows are one call: where this torch can on their device in their format."""
    return pixels.device.type in ("cpu", "cuda") and _sums_bags(pixels.device, pixels.dtype)


@lru_cache
def _sums_bags(device: torch.device, dtype: torch.dtype) -> bool:
    """Try a bag of one row."""
    row = torch.ones(1, 1, dtype=dtype, device=device)
    try:
        first = torch.zeros(1, 1, dtype=torch.int32, device=device)
        F.embedding_bag(first, row, mode="sum", per_sample_weights=row)
    except RuntimeError:
        return False
    return True


def warp(source: Tensor, flow: Tensor) -> Tensor:
    """Move a frame along a flow, nearest neighbour, zero outside.

    Nearest neighbour keeps the noise of the source as it is, independent from pixel to pixel
    (paper, "Calibration of Frame Alignment"). Features may be blended, see `align_index`.

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
