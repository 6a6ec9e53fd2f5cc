"""Convolutions of the fast path: one call each, forward and backward, without autograd.

`napari_stbn.network.paired` strings them together. Feature maps are channels-last; a 1x1 layer is a
matrix product over their pixels. On a CPU the activation and the residual sum run inside oneDNN's
convolution, so that a feature map is written once instead of three times; elsewhere they follow it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = [
    "Chain",
    "Gradients",
    "Layer",
    "Residual",
    "Trace",
    "back",
    "convolve",
    "run",
    "run_back",
]

_logger = logging.getLogger(__name__)
_TOGETHER = 2**16  # pixels that keep a GPU busy


@dataclass(frozen=True, eq=False)  # told apart by identity, also where weights are equal
class Layer:
    """A convolution with what follows it.

    Attributes
    ----------
    weight : Tensor, shape (C_out, C_in / groups, k, k)
    bias : Tensor, shape (C_out,), or None
    dilation, groups : int
    relu : bool
        Whether negative outputs become zero.
    """

    weight: Tensor
    bias: Tensor | None
    dilation: int = 1
    groups: int = 1
    relu: bool = False

    @property
    def padding(self) -> int:
        """Zeros around the map that keep its size."""
        return self.dilation * (self.weight.shape[-1] // 2)

    @property
    def dense(self) -> bool:
        """Whether it is a matrix product over pixels."""
        return self.weight.shape[-1] == 1 and self.groups == 1


@dataclass(frozen=True, eq=False)
class Residual:
    """``x + mix(spread(x))``, with the activation in `spread`."""

    spread: Layer
    mix: Layer


Chain = Sequence[Layer | Residual]
Trace = list[tuple[Tensor, Tensor]]  # of each link: its input, its output (a residual's inner one)


class Gradients:
    """Sums of the gradients of layers, in float32 whatever the maps are in.

    A GPU that works on few pixels at a time hardly gets going: there the uses of a layer wait until
    together they are many.
    """

    def __init__(self) -> None:
        self._sums: dict[Layer, list[Tensor]] = {}
        self._waiting: dict[Layer, list[tuple[Tensor, Tensor]]] = {}

    def use(self, gradient: Tensor, x: Tensor, layer: Layer) -> None:
        """Add those of one use of a layer, from the gradient of its output and its input."""
        if gradient.device.type != "cuda":
            self.add(layer, _of_weights(gradient, x, layer))
            return
        waiting = self._waiting.setdefault(layer, [])
        waiting.append((gradient, x))
        if sum(g.numel() // g.shape[1] for g, _ in waiting) >= _TOGETHER:
            self._add_waiting(layer)

    def _add_waiting(self, layer: Layer) -> None:
        """Add those of the uses that waited."""
        uses = self._waiting.pop(layer)
        if len(uses) == 1:
            self.add(layer, _of_weights(*uses[0], layer))
            return
        gradient, x = (
            torch.cat(each).contiguous(memory_format=torch.channels_last)
            for each in zip(*uses, strict=True)
        )
        self.add(layer, _of_weights(gradient, x, layer))

    def add(self, layer: Layer, found: Sequence[Tensor]) -> None:
        """Add those of weight and bias from one use of a layer."""
        if layer not in self._sums:
            self._sums[layer] = [g.float() for g in found]
        else:
            for total, g in zip(self._sums[layer], found, strict=True):
                total += g

    def of(self, layers: Sequence[Layer]) -> list[Tensor]:
        """Those of weight and, where there is one, bias of each layer."""
        for layer in list(self._waiting):
            self._add_waiting(layer)
        return [total for layer in layers for total in self._sums[layer]]


def pixels(x: Tensor) -> Tensor:
    """View a channels-last map (N, C, H, W) as (N * H * W, C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def maps(rows: Tensor, like: Tensor) -> Tensor:
    """View rows (N * H * W, C) as a channels-last map of the size of another."""
    n, _, h, w = like.shape
    return rows.view(n, h, w, -1).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def fused(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN's convolutions with activation and sum are here, and right.

    They are torch's own for compiled models, and no part of its public face: a version that lacks
    them, or changes their meaning, is served by the plain operations.
    """
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(1, 8, 8, 8, generator=chance).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    bias = torch.randn(8, generator=chance).to(dtype)
    try:
        for k, dilation, groups in ((3, 2, 2), (3, 1, 1), (1, 1, 2), (1, 1, 1)):
            weight = torch.randn(8, 8 // groups, k, k, generator=chance).to(dtype) / 8
            layer = Layer(weight, bias, dilation, groups, relu=True)
            plain = Layer(weight, bias, dilation, groups)
            for got, expected in (
                (_fused(x, layer, None), _plain(x, layer, None)),
                (_fused(x, plain, x), _plain(x, plain, x)),
            ):
                if got.shape != expected.shape or not torch.allclose(
                    got.float(), expected.float(), rtol=0.02, atol=0.02
                ):
                    return False
    except (AttributeError, RuntimeError, TypeError) as error:
        _logger.info("no fused convolutions on %s in %s: %s", device, dtype, error)
        return False
    return True


def _fused(x: Tensor, layer: Layer, add: Tensor | None) -> Tensor:
    """Convolution, activation or sum in one call of oneDNN."""
    linear = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001  see `fused`
    convolution = torch.ops.mkldnn._convolution_pointwise  # noqa: SLF001
    after = "relu" if layer.relu else "none"
    if layer.dense:
        rows, weight = pixels(x), layer.weight.flatten(1)
        if add is None:
            out = linear(rows, weight, layer.bias, after, [], "")
        else:
            out = linear.binary(rows, pixels(add), weight, layer.bias, "add")
            out = out.relu_() if layer.relu else out
        return maps(out, x)
    place = (2 * [layer.padding], [1, 1], 2 * [layer.dilation], layer.groups)
    if add is None:
        done = convolution(x, layer.weight, layer.bias, *place, after, [], "")
    else:
        done = convolution.binary(
            x, add, layer.weight, layer.bias, *place, "add", 1.0, None, [], None
        )
        done = done.relu_() if layer.relu else done
    return cast("Tensor", done)


def _plain(x: Tensor, layer: Layer, add: Tensor | None) -> Tensor:
    """The same with public operations."""
    if layer.dense:
        out = maps(F.linear(pixels(x), layer.weight.flatten(1), layer.bias), x)
    else:
        out = F.conv2d(x, layer.weight, layer.bias, 1, layer.padding, layer.dilation, layer.groups)
    if add is not None:
        out += add
    return out.relu_() if layer.relu else out


def convolve(x: Tensor, layer: Layer, add: Tensor | None = None) -> Tensor:
    """Apply a layer to a channels-last map; `add` joins before the activation. No gradient."""
    return (_fused if fused(x.device, x.dtype) else _plain)(x, layer, add)


def run(chain: Chain, x: Tensor, trace: Trace | None = None) -> Tensor:
    """Send a map through a chain of layers; a trace, where given, keeps what `run_back` needs."""
    for link in chain:
        if isinstance(link, Residual):
            inner = convolve(x, link.spread)
            out = convolve(inner, link.mix, add=x)
        else:
            inner = out = convolve(x, link)
        if trace is not None:
            trace.append((x, inner))
        x = out
    return x


def run_back(chain: Chain, trace: Trace, gradient: Tensor, into: Gradients) -> Tensor:
    """Send a gradient back through a chain.

    Parameters
    ----------
    chain : sequence of Layer or Residual
    trace : list
        Of `run`.
    gradient : Tensor
        Of the chain's output; left as it is.
    into : Gradients
        Where those of the weights are added.

    Returns
    -------
    Tensor
        Gradient of the chain's input.
    """
    for link, (x, out) in zip(reversed(chain), reversed(trace), strict=True):
        if isinstance(link, Residual):
            within = rectified(back(gradient, out, link.mix, into), out)
            gradient = back(within, x, link.spread, into).add_(gradient)
        else:
            if link.relu:
                gradient = rectified(gradient, out)
            gradient = back(gradient, x, link, into)
    return gradient


def rectified(gradient: Tensor, out: Tensor) -> Tensor:
    """Gradient before a ReLU, from the gradient after it and its output."""
    before: Tensor = torch.ops.aten.threshold_backward(gradient, out, 0)
    return before


class _Run(torch.autograd.Function):
    """`run`, with gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, chain: Chain, *_weights: Tensor) -> Tensor:
        """Run, and keep the trace."""
        trace: Trace = []
        out = run(chain, x, trace)
        ctx.kept = chain, trace
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Run back."""
        chain, trace = ctx.kept
        into = Gradients()
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_input = run_back(chain, trace, gradient, into)
        return (of_input, None, *into.of(layers(chain)))


def layers(chain: Chain) -> list[Layer]:
    """The layers of a chain, in order."""
    pairs = ([k.spread, k.mix] if isinstance(k, Residual) else [k] for k in chain)
    return [layer for pair in pairs for layer in pair]


def weights(found: Iterable[Layer]) -> list[Tensor]:
    """Weight and, where there is one, bias of each layer, as `Gradients.of` orders theirs."""
    return [w for layer in found for w in (layer.weight, layer.bias) if w is not None]


def differentiable(chain: Chain, x: Tensor) -> Tensor:
    """`run` a chain so that autograd finds its way back."""
    out: Tensor = _Run.apply(x, chain, *weights(layers(chain)))  # type: ignore[no-untyped-call]
    return out


def back(gradient: Tensor, x: Tensor, layer: Layer, into: Gradients) -> Tensor:
    """Gradient of a layer's input, from that before its activation; its weights' are added up."""
    if layer.dense:
        into.use(gradient, x, layer)
        return maps(pixels(gradient) @ layer.weight.flatten(1), x)
    biased = layer.bias is not None
    if gradient.device.type != "cuda" and _right(_Shape.of(x, layer)):
        of_input, *of_weights = _back(gradient, x, layer, [True, True, biased])
        into.add(layer, [g for g in of_weights if g is not None])
    else:
        of_input = _back(gradient, x, layer, [True, False, False])[0]
        into.use(gradient, x, layer)
    return cast("Tensor", of_input)


def _of_weights(gradient: Tensor, x: Tensor, layer: Layer) -> list[Tensor]:
    """Gradients of weight and bias of a layer."""
    if layer.dense:
        rows = pixels(gradient)
        found = [(rows.t() @ pixels(x)).view_as(layer.weight)]
        return found if layer.bias is None else [*found, _sum(rows)]
    if not _right(_Shape.of(x, layer)):
        return _ordinary(gradient, x, layer)
    of_weight = _back(gradient, x, layer, [False, True, False])[1]
    biases = [] if layer.bias is None else [_sum(pixels(gradient))]
    return [cast("Tensor", of_weight), *biases]


def _sum(rows: Tensor) -> Tensor:
    """Sum (C,) of rows (M, C): on a GPU as a product, which takes a third of the time."""
    if rows.device.type != "cuda":
        return rows.sum(0)
    return (rows.new_ones(1, rows.shape[0]) @ rows)[0]


def _ordinary(gradient: Tensor, x: Tensor, layer: Layer) -> list[Tensor]:
    """Gradients of weight and bias from maps and weights in the ordinary order."""
    plain = replace(layer, weight=layer.weight.contiguous())
    wanted = [False, True, layer.bias is not None]
    both = _back(gradient.contiguous(), x.contiguous(), plain, wanted)[1:]
    return [g for g in both if g is not None]


def _back(
    gradient: Tensor, x: Tensor, layer: Layer, wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias of a convolution, those that are wanted."""
    sizes = None if layer.bias is None else [layer.bias.numel()]
    pad, dilation = 2 * [layer.padding], 2 * [layer.dilation]
    out = torch.ops.aten.convolution_backward(
        gradient, x, layer.weight, sizes, [1, 1], pad, dilation, False, [0, 0], layer.groups, wanted
    )
    return cast("tuple[Tensor | None, Tensor | None, Tensor | None]", out)


class _Shape(NamedTuple):
    """What decides whether a weight gradient is right."""

    c_in: int
    c_out: int
    groups: int
    kernel: int
    dilation: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, x: Tensor, layer: Layer) -> _Shape:
        """That of a layer on a map."""
        c_out, _, kernel, _ = layer.weight.shape
        return cls(x.shape[1], c_out, layer.groups, kernel, layer.dilation, x.dtype, x.device)


@lru_cache(maxsize=64)
def _right(shape: _Shape) -> bool:
    """Whether the weight gradient of channels-last maps is right.

    On some CPUs (torch 2.13, AVX512_BF16) that of a 3x3 convolution with dilation 2 is noise or not
    finite where the channels of a group are 4, 8, 12, 20, 24 or 40, on maps of 30 pixels and more;
    maps and weights in the ordinary order are right at all.
    """
    if shape.dtype not in (torch.bfloat16, torch.float16):
        return True
    chance = torch.Generator().manual_seed(0)
    x, gradient = (
        torch.randn(2, c, 32, 32, generator=chance)
        .to(shape.device, shape.dtype)
        .contiguous(memory_format=torch.channels_last)
        for c in (shape.c_in, shape.c_out)
    )
    size = (shape.c_out, shape.c_in // shape.groups, shape.kernel, shape.kernel)
    exact = Layer(torch.zeros(size, device=shape.device), None, shape.dilation, shape.groups)
    weight = exact.weight.to(shape.dtype).contiguous(memory_format=torch.channels_last)
    got = _back(gradient, x, replace(exact, weight=weight), [False, True, False])[1]
    expected = _back(gradient.float(), x.float(), exact, [False, True, False])[1]
    if got is None or expected is None:
        return False
    right = bool((got.float() - expected).norm() < 0.02 * expected.norm())  # False for NaN
    if not right:
        _logger.info("channels-last weight gradients are wrong here: %s", shape)
    return right
