"""The parts that keep a network blind to the pixel it predicts.

A 3x3 convolution whose centre is masked looks at the eight neighbours only. Everything after it may
move information by *even* offsets alone, otherwise the pixel would come back from a neighbour:
dilation 2, 1x1, and a patch-unshuffle that keeps the parity of a pixel's position in space. The
receptive field in the frame itself is then every offset except the (even, even) ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["BlindSpotConv2d", "DilatedResidual", "patch_shuffle", "patch_unshuffle"]


class BlindSpotConv2d(nn.Conv2d):
    """3x3 convolution that never sees the pixel under its centre.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels before and after.
    """

    mask: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)
        mask = torch.ones(1, 1, 3, 3)
        mask[..., 1, 1] = 0
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, C, H, W) with the masked kernel, zero padding, same size."""
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)


class DilatedResidual(nn.Module):
    """``x + conv1x1(relu(conv3x3(x)))`` with dilation 2: reaches further by even offsets.

    Parameters
    ----------
    channels : int
        Channels of input and output.
    groups : int, default 1
        Groups of the 3x3 convolution.
    """

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__()
        self.spread = nn.Conv2d(channels, channels, 3, padding=2, dilation=2, groups=groups)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        out: Tensor = x + self.mix(F.relu(self.spread(x)))
        return out


def patch_unshuffle(x: Tensor) -> Tensor:
    """Halve the size of a feature map, keeping the parity of every pixel's position.

    Index ``4h + 2n + p`` of either axis goes to spatial index ``2h + p`` and channel offset ``n``.
    Two pixels an even distance apart stay so, which `torch.nn.functional.pixel_unshuffle` would not
    ensure: there, a dilation-2 convolution mixes parities and the blind spot is lost.

    Parameters
    ----------
    x : Tensor, shape (N, C, H, W)
        H and W multiples of 4.

    Returns
    -------
    Tensor, shape (N, 4 C, H / 2, W / 2)
        Channel ``4 c + 2 n_y + n_x``.

    Raises
    ------
    ValueError
        If H or W is not a multiple of 4.
    """
    n, c, h, w = x.shape
    if h % 4 or w % 4:
        raise ValueError(f"height and width must be multiples of 4, got {h} x {w}")
    x = x.reshape(n, c, h // 4, 2, 2, w // 4, 2, 2)  # n c h ny py w nx px
    return x.permute(0, 1, 3, 6, 2, 4, 5, 7).reshape(n, 4 * c, h // 2, w // 2)


def patch_shuffle(x: Tensor) -> Tensor:
    """Undo `patch_unshuffle`.

    Parameters
    ----------
    x : Tensor, shape (N, 4 C, H, W)
        H and W even, channels a multiple of 4.

    Returns
    -------
    Tensor, shape (N, C, 2 H, 2 W)

    Raises
    ------
    ValueError
        If the channels are not a multiple of 4 or H or W is odd.
    """
    n, c, h, w = x.shape
    if c % 4 or h % 2 or w % 2:
        raise ValueError(
            f"channels must be a multiple of 4 and size even, got {c} channels of {h} x {w}"
        )
    x = x.reshape(n, c // 4, 2, 2, h // 2, 2, w // 2, 2)  # n c ny nx h py w px
    return x.permute(0, 1, 4, 2, 5, 6, 3, 7).reshape(n, c // 4, 2 * h, 2 * w)
