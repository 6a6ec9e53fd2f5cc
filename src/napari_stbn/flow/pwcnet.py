"""PWC-Net (Sun et al. 2018) in plain torch: pyramid, warping, cost volume, context network.

Written from the paper [1]_. No weights come with it: a user's own checkpoint is read by
`napari_stbn.flow.published`, and a student is trained by `napari_stbn.flow.distillation`.

References
----------
.. [1] Sun, Yang, Liu, Kautz. PWC-Net: CNNs for optical flow using pyramid, warping, and cost
   volume. CVPR 2018. Figures 3 and 4 give the layers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["SCALE", "PWCNet", "PWCNetConfig", "correlation", "sample"]

SCALE = 20.0
"""Pixels of the frame that one unit of the network's flow stands for (paper, section 4)."""
_SLOPE = 0.1  # of the rectifiers below 0
_CONTEXT_DILATIONS = (1, 2, 4, 8, 16, 1)


@dataclass(frozen=True)
class PWCNetConfig:
    """Size of a PWC-Net; the default is the paper's.

    Attributes
    ----------
    channels
        Of a frame.
    pyramid
        Features of each level; level l has 1 / 2^l of the frame's size.
    finest
        Level at which the flow is estimated last.
    search
        Reach of the cost volume [px of its level].
    decoder
        Features of the layers of each flow estimator, densely connected.
    context
        Features of the dilated layers that refine the finest flow, six at most.
    correct
        The network corrects a flow that is given to it, and does nothing before it is trained; it
        compares standardised features.
    """

    channels: int = 3
    pyramid: tuple[int, ...] = (16, 32, 64, 96, 128, 196)
    finest: int = 2
    search: int = 4
    decoder: tuple[int, ...] = (128, 128, 96, 64, 32)
    context: tuple[int, ...] = (128, 128, 128, 96, 64, 32)
    correct: bool = False

    def __post_init__(self) -> None:
        for name in ("pyramid", "decoder", "context"):  # JSON makes lists of them
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not 1 <= self.finest <= len(self.pyramid):
            raise ValueError(
                f"finest must be a level from 1 to {len(self.pyramid)}, got {self.finest}"
            )
        if self.channels < 1 or self.search < 1 or not self.decoder:
            raise ValueError("a PWC-Net needs channels, a search of 1 px or more, and a decoder")
        if not 1 <= len(self.context) <= len(_CONTEXT_DILATIONS):
            raise ValueError(f"context must have 1 to 6 layers, got {len(self.context)}")

    @classmethod
    def student(cls, channels: int = 1) -> PWCNetConfig:
        """Small network that corrects another estimator's flow on noisy frames."""
        return cls(
            channels=channels,
            pyramid=(12, 16, 24, 32),
            finest=2,
            search=3,
            decoder=(32, 24, 16),
            context=(24, 24, 16),
            correct=True,
        )


def correlation(first: Tensor, second: Tensor, reach: int) -> Tensor:
    """Cost volume: mean product of features at all displacements (paper, Eq. 2).

    Parameters
    ----------
    first, second : Tensor, shape (N, C, H, W)
    reach : int [px]

    Returns
    -------
    Tensor, shape (N, (2 reach + 1)^2, H, W)
        Channel ``(dy + reach) (2 reach + 1) + dx + reach`` compares ``first[p]`` with
        ``second[p + (dx, dy)]``, zero outside.
    """
    h, w = first.shape[2:]
    padded = functional.pad(second, (reach,) * 4)
    return torch.stack(
        [
            (first * padded[:, :, y : y + h, x : x + w]).mean(1)
            for y in range(2 * reach + 1)
            for x in range(2 * reach + 1)
        ],
        1,
    )


def sample(source: Tensor, flow: Tensor) -> Tensor:
    """Warp features bilinearly along a flow, with gradients to both; zero outside.

    Parameters
    ----------
    source : Tensor, shape (N, C, H, W)
    flow : Tensor, shape (N, 2, H, W) [px], ordered (dx, dy)
    """
    h, w = source.shape[2:]
    x = torch.arange(w, device=flow.device, dtype=flow.dtype) + flow[:, 0]
    y = torch.arange(h, device=flow.device, dtype=flow.dtype)[:, None] + flow[:, 1]
    # align_corners: -1 and 1 are the centres of the outer pixels
    grid = torch.stack([2 * x / max(w - 1, 1) - 1, 2 * y / max(h - 1, 1) - 1], -1)
    return functional.grid_sample(
        source, grid, mode="bilinear", padding_mode="zeros", align_corners=True
    )


def _rectified(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """3 x 3 convolution and leaky rectifier."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation),
        nn.LeakyReLU(_SLOPE),
    )


def _standard(features: Tensor) -> Tensor:
    """Features of mean 0 and deviation 1 over each frame.

    Not in the paper. The products of a young network's features are thousandths, and a student of
    a few hundred steps would not get beyond them.
    """
    mean = features.mean((2, 3), keepdim=True)
    spread = features.std((2, 3), keepdim=True, correction=0)
    return (features - mean) / (spread + 1e-5)


class _Decoder(nn.Module):
    """Flow estimator of one level: dense layers on cost volume, features, coarser flow."""

    def __init__(self, config: PWCNetConfig, level: int, coarser: int | None) -> None:
        super().__init__()
        volume = (2 * config.search + 1) ** 2
        inputs = volume if coarser is None else volume + config.pyramid[level - 1] + 4
        if coarser is not None:
            self.up_flow = nn.ConvTranspose2d(2, 2, 4, 2, 1)
            self.up_features = nn.ConvTranspose2d(coarser, 2, 4, 2, 1)
        layers = []
        for outputs in config.decoder:
            layers.append(_rectified(inputs, outputs))
            inputs += outputs
        self.layers = nn.ModuleList(layers)
        self.predict = nn.Conv2d(inputs, 2, 3, padding=1)
        self.outputs = inputs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Flow and features, from the concatenated inputs."""
        for layer in self.layers:
            x = torch.cat([layer(x), x], 1)
        return self.predict(x), x


class PWCNet(nn.Module):
    """Optical flow of pairs of frames.

    Parameters
    ----------
    config : PWCNetConfig
        The paper's size by default.

    Examples
    --------
    >>> import torch
    >>> net = PWCNet(PWCNetConfig.student())
    >>> frames = torch.rand(2, 1, 1, 50, 70)
    >>> flow = torch.ones(1, 2, 50, 70)
    >>> bool((net(frames[0], frames[1], flow) == flow).all())  # nothing learnt yet
    True
    """

    def __init__(self, config: PWCNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PWCNetConfig()
        inputs, pyramid = config.channels, []
        for features in config.pyramid:
            pyramid.append(
                nn.Sequential(
                    *_rectified(inputs, features, stride=2),
                    *_rectified(features, features),
                    *_rectified(features, features),
                )
            )
            inputs = features
        self.pyramid = nn.ModuleList(pyramid)
        self.decoders = nn.ModuleDict()  # by level, coarse to fine
        coarser: int | None = None
        for level in range(len(config.pyramid), config.finest - 1, -1):
            decoder = _Decoder(config, level, coarser)
            self.decoders[str(level)] = decoder
            coarser = decoder.outputs
        layers: list[nn.Module] = []
        inputs = coarser or 0
        for features, dilation in zip(config.context, _CONTEXT_DILATIONS, strict=False):
            layers += _rectified(inputs, features, dilation=dilation)
            inputs = features
        self.context = nn.Sequential(*layers, nn.Conv2d(inputs, 2, 3, padding=1))
        if config.correct:  # what the flow is added up from begins with zero
            silent = re.compile(rf".*\.predict\..*|context\.{len(layers)}\..*|.*\.up_flow\.bias")
            for name, parameter in self.named_parameters():
                if silent.fullmatch(name):
                    nn.init.zeros_(parameter)

    def forward(self, first: Tensor, second: Tensor, given: Tensor | None = None) -> Tensor:
        """Flow from the first frame to the second.

        Parameters
        ----------
        first, second : Tensor, shape (N, C, H, W)
            On one scale of about 0 to 1; any size.
        given : Tensor, shape (N, 2, H, W) [px], ordered (dx, dy), optional
            Flow to correct; needed where `PWCNetConfig.correct`, else not taken.

        Returns
        -------
        Tensor, shape (N, 2, H, W) [px], ordered (dx, dy)

        Raises
        ------
        ValueError
            If shapes do not match the network.

        Notes
        -----
        Frames are extended at their lower and right edges to whole cells of the coarsest level;
        the authors' programs resize them instead, which changes the noise.
        """
        config = self.config
        if first.shape != second.shape or first.ndim != 4 or first.shape[1] != config.channels:
            raise ValueError(
                f"frames must both have shape (N, {config.channels}, H, W), "
                f"got {tuple(first.shape)} and {tuple(second.shape)}"
            )
        if (given is None) == config.correct:
            raise ValueError(
                "this network corrects a flow; give one"
                if config.correct
                else "this network takes no flow; make one with correct=True"
            )
        n, _, height, width = first.shape
        if given is not None and given.shape != (n, 2, height, width):
            raise ValueError(
                f"given must have shape {(n, 2, height, width)}, got {tuple(given.shape)}"
            )
        cell = 2 ** len(config.pyramid)
        extra = (0, -width % cell, 0, -height % cell)
        a, b = (functional.pad(x, extra, mode="replicate") for x in (first, second))
        known = None if given is None else functional.pad(given, extra, mode="replicate") / SCALE
        flow, features = self._coarse_to_fine(a, b, known)
        flow = flow + self.context(features)
        flow = functional.interpolate(flow, a.shape[2:], mode="bilinear", align_corners=False)
        flow = SCALE * flow[..., :height, :width]
        return flow if given is None else given + flow

    def _coarse_to_fine(
        self, first: Tensor, second: Tensor, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Flow (or correction of a known one) and features at the finest level [SCALE px]."""
        levels = []
        for layer in self.pyramid:
            first, second = layer(first), layer(second)
            levels.append((first, second))
        flow: Tensor | None = None
        features = first
        for decoder in self._decoders():
            level = len(levels)
            a, b = levels.pop()
            along = None
            if flow is not None:
                flow, hint = decoder.up_flow(flow), decoder.up_features(features)
                along = flow
            if known is not None:
                coarse = functional.adaptive_avg_pool2d(known, (a.shape[2], a.shape[3]))
                along = coarse if flow is None else coarse + flow
            warped = b if along is None else sample(b, along * (SCALE / 2**level))
            pair = (_standard(a), _standard(warped)) if self.config.correct else (a, warped)
            volume = functional.leaky_relu(correlation(*pair, self.config.search), _SLOPE)
            before = flow
            inputs = volume if flow is None else torch.cat([volume, a, flow, hint], 1)
            flow, features = decoder(inputs)
            if self.config.correct and before is not None:
                flow = flow + before
        if flow is None:
            raise RuntimeError("a PWC-Net has at least one decoder")
        return flow, features

    def _decoders(self) -> list[_Decoder]:
        """Flow estimators, coarse to fine."""
        return list(self.decoders.values())  # type: ignore[arg-type]
