"""The network computed fast: both directions in one pass, the same numbers as `STBN.forward`.

A fit spends its time on many small convolutions. Here the forward direction at frame i and the
backward direction at frame T - 1 - i share each call, as two halves of the channels; the gradient
of a weight is computed once for all frames instead of once a frame and summed; what is linear in a
row (the end of the spatial expansion, the beginning of the head) is multiplied out beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..flow.field import WarpIndex, align_index, gather_rows, scatter_rows
from ._prediction import Prediction, convolution, kernel, packed
from .blindspot import DilatedResidual
from .kernels import (
    Chain,
    Gradients,
    Layer,
    Residual,
    back,
    convolve,
    layers,
    maps,
    pixels,
    rectified,
    run,
    run_back,
    weights,
)
from .stbn import STBN, AlignmentBlock

__all__ = ["paired_forward"]

# Channels up to which a product with a block-diagonal matrix beats two small ones: of 1x1 layers on
# a CPU, of all on a GPU (H100: 3x3 of 128 channels, forward and both gradients 157 against 189 us).
_DENSE = {"cpu": 64, "cuda": 128}


class _Parts(NamedTuple):
    """Layers of a step of propagation for both directions at once; channels past, then future."""

    frame: Layer  # the frame's share of the alignment block's inlet
    state: Layer  # the aligned state's share of it
    align: Chain  # the rest of the block
    fuse: Chain  # takes past's features and state, then future's

    def layers(self) -> list[Layer]:
        """All of them, in a fixed order."""
        return [self.frame, self.state, *layers(self.align), *layers(self.fuse)]


def paired_forward(
    model: STBN,
    frames: Tensor,
    flow_to_previous: Tensor,
    flow_to_next: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`STBN.forward`, several times faster in a fit.

    Parameters
    ----------
    model : STBN
        Gradients flow to its weights; none flow to the frames.
    frames : Tensor, shape (N, T, `STBNConfig.inputs`, H, W)
    flow_to_previous, flow_to_next : Tensor, shape (N, T - 1, 2, H, W) [px], ordered (dx, dy)
    dtype : torch.dtype
        Of feature maps and products: float32 or bfloat16. Weights and the last layer are float32.

    Returns
    -------
    Tensor, shape (N, T, K, H, W), float32
        As `STBN.forward`, up to rounding.

    Raises
    ------
    ValueError
        If a shape is not as stated.
    """
    model.check(frames, flow_to_previous, flow_to_next)
    n, t = frames.shape[:2]
    parts = _parts(model, dtype)
    stacked = frames.transpose(0, 1).flatten(0, 1).to(dtype)  # frames of one time side by side
    align = partial(align_index, alignment=model.config.alignment)
    indices = [
        _paired_index(align(flow_to_previous[:, i]), align(flow_to_next[:, t - 2 - i]))
        for i in range(t - 1)
    ]
    states: Tensor = _Propagation.apply(  # type: ignore[no-untyped-call]
        stacked.contiguous(memory_format=torch.channels_last),
        indices,
        parts,
        n,
        *weights(parts.layers()),
    )
    prior = Prediction.of(model, dtype)(states, gradient=torch.is_grad_enabled())
    by_time: Tensor = prior.unflatten(0, (t, n))
    whole: Tensor = model.near(by_time.transpose(0, 1), frames)
    return whole


def _paired_index(past: WarpIndex, future: WarpIndex) -> WarpIndex:
    """One gather for both: of rows (N * H * W * 2, width), past and future by turns."""
    rows = torch.stack([2 * past.rows, 2 * future.rows + 1], 1)
    return WarpIndex(
        rows.flatten(0, 1), torch.stack([past.weights, future.weights], 1).flatten(0, 1)
    )


# ---------------------------------------------------------------- propagation


class _Propagation(torch.autograd.Function):
    """States (T * N, 2 width, H, W) of all frames, from past and from future."""

    @staticmethod
    def forward(
        ctx: Any,
        frames: Tensor,
        indices: Sequence[WarpIndex],
        parts: _Parts,
        n: int,
        *_weights: Tensor,
    ) -> Tensor:
        """Run both directions from their first frame to their last."""
        t, (h, w) = frames.shape[0] // n, frames.shape[-2:]
        seen = _flip_future(maps(_product(frames, parts.frame), frames), t)
        traces, state = [], None
        out = frames.new_empty(t, n, h, w, seen.shape[1])
        half = seen.shape[1] // 2
        for i in range(t):
            trace: dict[str, Any] = {"align": [], "fuse": []}
            inlet = seen[i * n : (i + 1) * n]
            if state is None:
                x = trace["inlet"] = inlet.relu()
                state = run(parts.align, x, trace["align"])
            else:
                aligned = _gather(state, indices[i - 1])
                x = trace["inlet"] = convolve(aligned, parts.state, add=inlet)
                trace["aligned"] = aligned
                features = run(parts.align, x, trace["align"])
                state = run(parts.fuse, _join(features, aligned), trace["fuse"])
            traces.append(trace)
            rows = state.permute(0, 2, 3, 1)
            out[i, ..., :half] = rows[..., :half]
            out[t - 1 - i, ..., half:] = rows[..., half:]
        ctx.kept = (frames, indices, parts, n, traces)
        return out.flatten(0, 1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Walk back through time; then every weight's gradient in one call."""
        frames, indices, parts, n, traces = ctx.kept
        t = len(traces)
        gradient = _flip_future(gradient.contiguous(memory_format=torch.channels_last), t)
        into = Gradients()
        seen: list[Tensor] = []
        carried: Tensor | None = None
        for i in range(t - 1, -1, -1):
            trace = traces[i]
            g = gradient[i * n : (i + 1) * n]
            g = g if carried is None else carried.add_(g)
            if i:
                g, g_state = _part(run_back(parts.fuse, trace["fuse"], g, into))
            g = rectified(run_back(parts.align, trace["align"], g, into), trace["inlet"])
            seen.append(g)
            if i:
                g_state = g_state.add_(back(g, trace["aligned"], parts.state, into))
                carried = _scatter(g_state, indices[i - 1])
            traces[i] = None  # its maps are no longer needed
        back(_flip_future(torch.cat(seen[::-1]), t), frames, parts.frame, into)
        return (None, None, None, None, *into.of(parts.layers()))


def _product(x: Tensor, layer: Layer) -> Tensor:
    """Rows of a 1x1 layer."""
    return F.linear(pixels(x), layer.weight.flatten(1), layer.bias)


def _flip_future(x: Tensor, t: int) -> Tensor:
    """Exchange frame i and T - 1 - i in the second half of the channels; x (T * N, 2 C, H, W)."""
    rows = x.permute(0, 2, 3, 1)
    frames = rows.unflatten(0, (t, -1))
    half = rows.shape[-1] // 2
    both = torch.cat([frames[..., :half], frames[..., half:].flip(0)], -1)
    return both.flatten(0, 1).permute(0, 3, 1, 2)


def _gather(state: Tensor, index: WarpIndex) -> Tensor:
    """Warp both directions' states to their next frames."""
    c = state.shape[1] // 2
    return maps(gather_rows(pixels(state).view(-1, c), index).view(-1, 2 * c), state)


def _scatter(gradient: Tensor, index: WarpIndex) -> Tensor:
    """Gradient of `_gather`'s input."""
    c = gradient.shape[1] // 2
    moved = scatter_rows(pixels(gradient).reshape(-1, c), index)
    return maps(moved.view(-1, 2 * c), gradient)


def _join(features: Tensor, state: Tensor) -> Tensor:
    """Channels (a past, s past, a future, s future) from features and states of both directions."""
    (ap, af), (sp, sf) = features.chunk(2, 1), state.chunk(2, 1)
    return torch.cat([ap, sp, af, sf], 1)


def _part(joined: Tensor) -> tuple[Tensor, Tensor]:
    """Undo `_join`."""
    ap, sp, af, sf = joined.chunk(4, 1)
    return torch.cat([ap, af], 1), torch.cat([sp, sf], 1)


# ---------------------------------------------------------------- weights


def _parts(model: STBN, dtype: torch.dtype) -> _Parts:
    """Pair the layers of both directions; gradients flow through to the model's weights."""
    past, future = (
        cast("AlignmentBlock", model.align[name]) for name in ("from_past", "from_future")
    )
    split = model.config.inputs
    inlets = [past.inlet, future.inlet]
    frame = packed(
        torch.cat([inlet.weight[:, :split] for inlet in inlets]),
        torch.cat([cast("Tensor", inlet.bias) for inlet in inlets]),
        dtype,
    )
    rest = [inlet.weight[:, split:] for inlet in inlets]
    state = _side_by_side(rest[0], rest[1], None, dtype, relu=True)
    align = [
        _pair(a, b, dtype, relu=relu)
        for (a, relu), (b, _) in zip(past.links(), future.links(), strict=True)
    ]
    return _Parts(frame, state, align, [_pair(m, m, dtype, relu=False) for m in model.fuse])


def _pair(a: nn.Module, b: nn.Module, dtype: torch.dtype, *, relu: bool) -> Layer | Residual:
    """The same link of both directions as one."""
    if isinstance(a, DilatedResidual) and isinstance(b, DilatedResidual):
        spread = _pair(a.spread, b.spread, dtype, relu=True)
        return Residual(
            cast("Layer", spread), cast("Layer", _pair(a.mix, b.mix, dtype, relu=False))
        )
    a, b = convolution(a), convolution(b)
    bias = None if a.bias is None or b.bias is None else torch.cat([a.bias, b.bias])
    return _side_by_side(kernel(a), kernel(b), bias, dtype, dilation=a.dilation[0], relu=relu)


def _side_by_side(
    a: Tensor, b: Tensor, bias: Tensor | None, dtype: torch.dtype, *, dilation: int = 1, relu: bool
) -> Layer:
    """Two convolutions side by side in one layer: groups, or a matrix with two blocks."""
    on = a.device.type
    if 2 * a.shape[0] <= _DENSE.get(on, 0) and (on == "cuda" or a.shape[-1] == 1):
        first = F.pad(a, (0, 0, 0, 0, 0, b.shape[1]))
        second = F.pad(b, (0, 0, 0, 0, a.shape[1], 0))
        return packed(torch.cat([first, second]), bias, dtype, dilation, relu=relu)
    return packed(torch.cat([a, b]), bias, dtype, dilation, 2, relu)
