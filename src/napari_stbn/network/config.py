"""Size and kind of an STBN."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated

from ..flow.field import ALIGNMENTS, Alignment

__all__ = ["STBNConfig"]


@dataclass(frozen=True)
class STBNConfig:
    """Size of the network; the defaults are the small model that a CPU fits in minutes.

    Attributes
    ----------
    channels
        Image channels C that are denoised jointly.
    map_channels
        Extra input channels after the frame's own, such as a noise-level map.
    width
        Channels of the hidden state of each direction.
    alignment_blocks
        Dilated residual blocks before the state joins again (first half of the alignment block).
    fusion_blocks
        Dilated residual blocks after it (second half, shared by both directions).
    expansion_groups, expansion_blocks
        Groups with a skip in the spatial expansion, and blocks in each.
    head_blocks
        Dilated residual blocks of the head.
    covariance
        Predict the C (C + 1) / 2 entries of the prior's covariance factor after the C means;
        otherwise the means only.
    positive_factor
        Keep the pivots of the covariance factor positive (softplus). Deviation from the released
        models, whose factor may take either sign: it then passes through zero between regions of
        different sign, where the prior claims a certainty that it does not have. Measured on
        `simulate()`: where such a factor was below 0.05, the error was 7 times what it claimed.
    noise_input
        Two constant maps for each channel after all other inputs, that describe its noise
        (`napari_stbn.prior.network_input`), so that one set of weights serves every noise level.
        They depend on no pixel, so the blind spot is what it is without them.
    alignment
        How states are sampled along the flow. "bilinear" blends four pixels of the other frame, and
        follows motion of parts of a pixel; "nearest" is the paper's, whose rounding adds up from
        frame to frame. Both are blind: what is blended was never measured at the pixel itself.
    """

    channels: Annotated[
        int, {"min": 1, "max": 16, "tooltip": "image channels denoised together"}
    ] = 1
    map_channels: Annotated[int, {"min": 0, "max": 16, "tooltip": "extra input maps"}] = 0
    width: Annotated[int, {"min": 4, "max": 128, "tooltip": "channels of the hidden state"}] = 16
    alignment_blocks: Annotated[
        int, {"min": 1, "max": 8, "tooltip": "blocks before the state joins again"}
    ] = 2
    fusion_blocks: Annotated[int, {"min": 1, "max": 8, "tooltip": "blocks after it"}] = 2
    expansion_groups: Annotated[
        int, {"min": 1, "max": 4, "tooltip": "groups of the spatial expansion"}
    ] = 1
    expansion_blocks: Annotated[int, {"min": 1, "max": 16, "tooltip": "blocks a group"}] = 4
    head_blocks: Annotated[int, {"min": 1, "max": 4, "tooltip": "blocks of the head"}] = 1
    covariance: Annotated[
        bool, {"tooltip": "predict the prior's covariance, not only its mean"}
    ] = True
    positive_factor: Annotated[bool, {"tooltip": "keep the covariance factor positive"}] = True
    noise_input: Annotated[bool, {"tooltip": "tell the network how strong the noise is"}] = False
    alignment: Annotated[
        Alignment, {"tooltip": "bilinear follows parts of a pixel; nearest is the paper's"}
    ] = "bilinear"

    def __post_init__(self) -> None:
        for name in (
            "channels",
            "alignment_blocks",
            "fusion_blocks",
            "expansion_groups",
            "expansion_blocks",
            "head_blocks",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.alignment not in ALIGNMENTS:
            raise ValueError(f"alignment must be {' or '.join(ALIGNMENTS)}, got {self.alignment!r}")
        if self.map_channels < 0:
            raise ValueError(f"map_channels must not be negative, got {self.map_channels}")
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width must be an even number of at least 2, got {self.width}")

    @property
    def inputs(self) -> int:
        """Channels of a frame as the network takes it: the image, its maps, its noise."""
        return self.channels + self.map_channels + 2 * self.channels * self.noise_input

    @property
    def outputs(self) -> int:
        """Channels K of the prediction: C means.

        Then C (C + 1) / 2 covariance entries where predicted.
        """
        c = self.channels
        return c + c * (c + 1) // 2 if self.covariance else c

    @property
    def pivots(self) -> tuple[int, ...]:
        """Channels of the prediction that hold the last entry of each row of the factor."""
        c = self.channels
        rows = accumulate(range(c, 0, -1), initial=c)  # row i has C - i entries
        return tuple(end - 1 for end in list(rows)[1:])

    @classmethod
    def paper(
        cls, channels: int = 3, *, map_channels: int = 0, covariance: bool = True
    ) -> STBNConfig:
        """Return the released size (9,137,728 parameters for three channels with covariance)."""
        return cls(
            channels=channels,
            map_channels=map_channels,
            width=64,
            alignment_blocks=5,
            fusion_blocks=5,
            expansion_groups=2,
            expansion_blocks=8,
            head_blocks=2,
            covariance=covariance,
            positive_factor=False,
            alignment="nearest",
        )
