"""A linear filter over the raw pixels around, added to what the network predicts.

What a network knows of a movie it learnt from others and from a short fit. Texture that neither
taught it, it smooths; but how a pixel goes with those around it, in this movie, is a matter of
least squares (`napari_stbn._least_squares`), and takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import STBNConfig

__all__ = ["REACH", "NearbyPixels"]

REACH = 3  # frames before and after, rows and columns around
_SIDE = 2 * REACH + 1
Place = tuple[int, int, int]  # frames away, then the smaller and the larger way within the frame


def _places() -> list[Place]:
    """What pixels have one weight: those that turns, mirrors and time's arrow exchange.

    Not the pixel itself in other frames, where a camera's fixed pattern is the same; nor those next
    to it in its own frame, which share noise first.
    """
    places = product(range(REACH + 1), range(REACH + 1), range(REACH + 1))
    return [(t, a, b) for t, a, b in places if a <= b and b >= (1 if t else 2)]


def _kernels() -> Tensor:
    """Of each place, which pixels of (frames away, rows, columns) it is."""
    kernels = torch.zeros(len(_places()), REACH + 1, _SIDE, _SIDE)
    for kernel, (t, a, b) in zip(kernels, _places(), strict=True):
        for y, x in product(range(_SIDE), repeat=2):
            if sorted((abs(y - REACH), abs(x - REACH))) == [a, b]:
                kernel[t, y, x] = 1
    return kernels


class NearbyPixels(nn.Module):
    """The filter, of each channel by itself; it does nothing before it is `set`.

    To the mean of a pixel it adds the weighted differences of pixels around from that mean, and
    others that count the more, the less sure the network is. It never sees the pixel itself, and
    its weights are the same in all directions. It is no part of the gradient.

    Parameters
    ----------
    config : STBNConfig
        Sizes of the network that it is added to.

    Attributes
    ----------
    weight : Tensor, shape (C, 2, places)
        Of differences, and of those times the prior's share in the variance.
    noise : Tensor, shape (C,) [network units]
        Variance of the noise, which that share is against.
    active : bool
        Whether there is anything to add.
    """

    weight: Tensor
    noise: Tensor
    _kernel: Tensor

    def __init__(self, config: STBNConfig) -> None:
        super().__init__()
        self.channels, self.covariance = config.channels, config.covariance
        self.register_buffer("weight", torch.zeros(config.channels, 2, len(_places())))
        self.register_buffer("noise", torch.ones(config.channels))
        self.register_buffer("_kernel", _kernels(), persistent=False)
        self.active = False

    @property
    def distances(self) -> Tensor:
        """Squared distance of each place, shape (places,) [px, and frames]."""
        return torch.tensor([float(t * t + a * a + b * b) for t, a, b in _places()])

    @property
    def totals(self) -> Tensor:
        """Sum of the weights over all pixels around, shape (C, 2)."""
        pixels = self._kernel.sum((2, 3))
        pixels[:, 1:] *= 2  # frames on both sides
        return self.weight @ pixels.sum(1)

    def set(self, weight: Tensor, noise: Tensor) -> None:
        """Take weights; with zeros it does nothing again."""
        self.weight.copy_(weight)
        self.noise.copy_(noise)
        self.active = bool(self.weight.any())

    def clear(self) -> None:
        """Do nothing again."""
        self.set(torch.zeros_like(self.weight), torch.ones_like(self.noise))

    def forward(self, prior: Tensor, frames: Tensor) -> Tensor:
        """Add it to the means of a prior (N, T, K, H, W) of clips (N, T, C', H, W)."""
        if not self.active:
            return prior
        pooled, present = self._of_clip(frames)
        added = self._added(prior.flatten(0, 1), pooled, present)
        return added.view_as(prior)

    def of_frame(
        self, prior: Tensor, t: int, frame: Callable[[int], Tensor], first: int, last: int
    ) -> Tensor:
        """Add it to the means of the prior (1, K, H, W) of one frame.

        Parameters
        ----------
        prior : Tensor, shape (1, K, H, W)
        t : int
            The frame.
        frame : callable
            Gives the network input (1, C', H, W) of a frame.
        first, last : int
            Frames outside ``range(first, last)`` are not looked at.
        """
        if not self.active:
            return prior
        pooled, present = [frame(t)[:, : self.channels]], [1]
        for away in range(1, REACH + 1):
            there = [s for s in (t - away, t + away) if first <= s < last]
            frames = [frame(s)[:, : self.channels] for s in there]
            total = sum(frames, start=torch.zeros_like(pooled[0]))
            pooled.append(total * (2 / len(there)) if there else total)
            present.append(2 if there else 0)
        return self._added(
            prior,
            torch.stack(pooled, 2).to(self.weight.dtype),
            prior.new_tensor(present, dtype=self.weight.dtype)[None],
        )

    def differences(self, prior: Tensor, frames: Tensor) -> Tensor:
        """Differences from the mean, summed over each place: what the weights belong to.

        Parameters
        ----------
        prior : Tensor, shape (N, T, K, H, W)
        frames : Tensor, shape (N, T, C', H, W)

        Returns
        -------
        Tensor, shape (N, T, C, places, H, W) [network units]
        """
        pooled, present = self._of_clip(frames)
        mean = prior.flatten(0, 1)[:, : self.channels]
        parts = [
            self._differences(mean[:, c], pooled[:, c], present, self._kernel)
            for c in range(self.channels)
        ]
        whole: Tensor = torch.stack(parts, 1).unflatten(0, prior.shape[:2])
        return whole

    def doubt(self, prior: Tensor, noise: Tensor | Sequence[float]) -> Tensor:
        """Share of the prior in the variance of a pixel, (..., C, H, W) for (..., K, H, W)."""
        c = self.channels
        if not self.covariance:
            return torch.zeros_like(prior[..., :c, :, :])
        entries = iter(prior[..., c:, :, :].square().unbind(-3))
        variance = [torch.zeros_like(prior[..., 0, :, :])] * c
        for row in range(c):  # as `napari_stbn.prior` reads the factor
            for column in range(c - row):
                variance[column] = variance[column] + next(entries)
        own = torch.stack(variance, -3)
        against = torch.as_tensor(noise, dtype=own.dtype, device=own.device)
        return own / (own + against[:, None, None])

    def _of_clip(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames as far away on both sides summed: (N * T, C, REACH + 1, H, W).

        And how many that is: (N * T, REACH + 1). At the ends of a movie one side stands for both.
        """
        n, t = frames.shape[:2]
        y = frames[:, :, : self.channels].to(self.weight.dtype)
        padded = F.pad(y, (0, 0, 0, 0, 0, 0, REACH, REACH))
        inside = F.pad(y.new_ones(t), (REACH, REACH))

        def both(x: Tensor, away: int, axis: int) -> Tensor:
            before, after = (x.narrow(axis, REACH + by, t) for by in (-away, away))
            return before + after if away else before

        pooled = torch.stack([both(padded, away, 1) for away in range(REACH + 1)], 3)
        present = torch.stack([both(inside, away, 0) for away in range(REACH + 1)], 1)
        instead = torch.where(present == 1, 2.0, 1.0)
        instead[:, 0] = 1
        pooled, present = pooled * instead[:, None, :, None, None], present * instead
        return pooled.flatten(0, 1), present.repeat(n, 1)

    def _added(self, prior: Tensor, pooled: Tensor, present: Tensor) -> Tensor:
        """The prior (B, K, H, W) with the filter's part in its means."""
        doubt = self.doubt(prior, self.noise)
        means = []
        with torch.autocast(prior.device.type, enabled=False):
            for c in range(self.channels):
                kernel = torch.einsum("gp,ptyx->gtyx", self.weight[c], self._kernel)
                mean = prior[:, c]
                part = self._differences(mean, pooled[:, c], present, kernel)
                means.append(mean + part[:, 0] + doubt[:, c] * part[:, 1])
        return torch.cat([torch.stack(means, 1), prior[:, self.channels :]], 1)

    @staticmethod
    def _differences(mean: Tensor, pooled: Tensor, present: Tensor, kernel: Tensor) -> Tensor:
        """Filtered differences (B, G, H, W) of pixels inside the movie from a mean (B, H, W)."""
        height, width = mean.shape[-2:]
        total = F.conv2d(pooled, kernel, padding=REACH)
        there = present[:, :, None, None].expand(-1, -1, height, width)
        return total - mean[:, None] * F.conv2d(there, kernel, padding=REACH)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any, **options: Any
    ) -> None:
        """Weights of networks that were saved before there was such a filter have none."""
        state_dict.setdefault(f"{prefix}weight", torch.zeros_like(self.weight))
        state_dict.setdefault(f"{prefix}noise", torch.ones_like(self.noise))
        super()._load_from_state_dict(state_dict, prefix, *arguments, **options)
        self.active = bool(self.weight.any())
