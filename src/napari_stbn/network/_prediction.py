"""Spatial expansion and head of the network, for the fast paths of fit and inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blindspot import BlindSpotConv2d, DilatedResidual
from .kernels import Chain, Layer, Residual, differentiable, run
from .stbn import STBN

__all__ = ["Prediction", "convolution", "kernel", "link", "packed"]

Run = Callable[[Chain, Tensor], Tensor]


def packed(
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    dilation: int = 1,
    groups: int = 1,
    relu: bool = False,
) -> Layer:
    """Weights in the number format and memory order of the maps, as a layer."""
    weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
    return Layer(weight, None if bias is None else bias.to(dtype), dilation, groups, relu)


def kernel(module: nn.Conv2d) -> Tensor:
    """Weights of a convolution as they are used: masked where it has a blind spot."""
    return module.weight * module.mask if isinstance(module, BlindSpotConv2d) else module.weight


def link(module: nn.Module, dtype: torch.dtype, *, relu: bool = False) -> Layer | Residual:
    """A convolution or a residual block as a link of a chain."""
    if isinstance(module, DilatedResidual):
        return Residual(_single(module.spread, dtype, relu=True), _single(module.mix, dtype))
    return _single(convolution(module), dtype, relu=relu)


def _single(module: nn.Conv2d, dtype: torch.dtype, *, relu: bool = False) -> Layer:
    """A convolution as a layer."""
    return packed(kernel(module), module.bias, dtype, module.dilation[0], module.groups, relu)


def convolution(module: nn.Module) -> nn.Conv2d:
    """The module, which is a convolution."""
    if not isinstance(module, nn.Conv2d):
        raise TypeError(f"expected a convolution, got {type(module).__name__}")
    return module


class Prediction(NamedTuple):
    """`STBN.predict` in fewer, larger steps.

    Channels of a patch are ordered (place in the patch, channel) instead of (channel, place), so
    that copies are of whole pixels. The last three layers of the expansion and the first of the
    head are linear in a row, and are one.
    """

    inlet: Chain
    groups: list[Chain]
    outlet: Chain
    head: Chain
    finish: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, model: STBN, dtype: torch.dtype) -> Prediction:
        """Make it of a model; gradients flow through to the model's weights."""
        width, expand = model.config.width, model.expand
        order = torch.arange(8 * width, device=expand.inlet.weight.device)
        order = (
            order.view(2, width, 4).permute(2, 0, 1).flatten()
        )  # (state c) place -> place (state c)
        inlet = expand.inlet
        return cls(
            [packed(inlet.weight[:, order], inlet.bias, dtype, inlet.dilation[0])],
            [[link(block, dtype) for block in group.children()] for group in expand.groups],
            [packed(*_merged_outlet(model), dtype, inlet.dilation[0])],
            [link(block, dtype) for block in model.head[1:-1].children()],
            model.finish,
        )

    def __call__(
        self, states: Tensor, origin: tuple[int, int] = (0, 0), *, gradient: bool = False
    ) -> Tensor:
        """Predict the prior of some frames.

        Parameters
        ----------
        states : Tensor, shape (M, 2 width, H, W)
            From past, then from future.
        origin : (row, column), default (0, 0) [px]
            Rows and columns of zeros before the first patch.
        gradient : bool, default False
            Whether autograd shall find its way back.

        Returns
        -------
        Tensor, shape (M, K, H, W), float32
        """
        go: Run = differentiable if gradient else run
        h, w = states.shape[-2:]
        y, x0 = origin
        rows = states.permute(0, 2, 3, 1)
        if y or x0 or h % 4 or w % 4:
            rows = F.pad(rows, (0, 0, x0, -(w + x0) % 4, y, -(h + y) % 4))
        m, high, wide, c = rows.shape
        # m h ny py w nx px c -> m (h py) (w px) (ny nx c), see `patch_unshuffle`
        rows = rows.reshape(m, high // 4, 2, 2, wide // 4, 2, 2, c).permute(0, 1, 3, 4, 6, 2, 5, 7)
        x = rows.reshape(m, high // 2, wide // 2, 4 * c).permute(0, 3, 1, 2)
        x = go(self.inlet, x)
        for group in self.groups:
            x = x + go(group, x)
        x = go(self.outlet, x)
        rows = x.permute(0, 2, 3, 1).reshape(m, high // 4, 2, wide // 4, 2, 2, 2, c // 2)
        rows = rows.permute(0, 1, 5, 2, 3, 6, 4, 7).reshape(m, high, wide, c // 2)
        x = rows[:, y : y + h, x0 : x0 + w].permute(0, 3, 1, 2)
        return self.finish(go(self.head, x.contiguous(memory_format=torch.channels_last)))


def _merged_outlet(model: STBN) -> tuple[Tensor, Tensor]:
    """Weight and bias of the expansion's outlet and the head's first layer as one convolution."""
    first, second, third = (convolution(m) for m in model.expand.outlet.children())
    width, head = model.config.width, convolution(model.head[0]).weight.flatten(1)
    # The head's (d, c) is the same at each place k of the patch: rows (k d), columns (c k).
    same = torch.eye(4, dtype=head.dtype, device=head.device)
    last = torch.einsum("dc,kl->kdcl", head, same).reshape(4 * width, 4 * width)
    matrix = last @ third.weight.flatten(1)
    bias = last @ _bias(third) + matrix @ _bias(second)
    matrix = matrix @ second.weight.flatten(1)
    bias = bias + matrix @ _bias(first)
    return (matrix @ first.weight.flatten(1)).view_as(first.weight), bias


def _bias(module: nn.Conv2d) -> Tensor:
    """Bias of a convolution that has one."""
    if module.bias is None:
        raise TypeError("expected a convolution with bias")
    return module.bias
