"""The network with fixed weights, for inference: single steps, the same numbers as `STBN`'s own."""

from __future__ import annotations

from copy import deepcopy
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ._prediction import Prediction, link, packed
from .kernels import Chain, Layer, convolve, run
from .stbn import STBN, AlignmentBlock, Direction

__all__ = ["FrozenSTBN"]


class FrozenSTBN:
    """Steps of a network, without gradients; it keeps the weights that the model has now.

    Parameters
    ----------
    model : STBN
        On the device to use.
    dtype : torch.dtype
        Of feature maps and products: float32 or bfloat16. The last layer is float32.
    """

    def __init__(self, model: STBN, dtype: torch.dtype = torch.float32) -> None:
        self.dtype, self.config = dtype, model.config
        model = deepcopy(model)  # layers in float32 would share its weights
        with torch.no_grad():
            self._align = {
                name: _align(cast("AlignmentBlock", block), dtype)
                for name, block in model.align.items()
            }
            self._fuse = [link(module, dtype) for module in model.fuse]
            self._prediction = Prediction.of(model, dtype)
        self.near = model.near

    @torch.no_grad()
    def begin(self, direction: Direction, frame: Tensor) -> Tensor:
        """State (N, width, H, W) at the first frame (N, C', H, W) of a direction."""
        n, _, h, w = frame.shape
        return self._features(direction, frame, frame.new_zeros(n, self.config.width, h, w))

    @torch.no_grad()
    def advance(self, direction: Direction, frame: Tensor, aligned: Tensor) -> Tensor:
        """State (N, width, H, W) at a frame, from its neighbour's state warped to it."""
        features = self._features(direction, frame, aligned)
        return run(self._fuse, torch.cat([features, aligned.to(self.dtype)], 1))

    @torch.no_grad()
    def predict(self, past: Tensor, future: Tensor, origin: tuple[int, int] = (0, 0)) -> Tensor:
        """Prior (N, K, H, W), float32, from both states; `origin` is that of the first patch."""
        states = torch.cat([past, future], 1).to(self.dtype)
        return self._prediction(states, origin)

    def _features(self, direction: Direction, frame: Tensor, state: Tensor) -> Tensor:
        """First half of the alignment block."""
        inlet, rest = self._align[direction]
        # Channels up to a multiple of 8: oneDNN is several times slower with others.
        spare = inlet.weight.shape[1] - frame.shape[1] - state.shape[1]
        x = torch.cat([frame.to(self.dtype), state.to(self.dtype)], 1)
        x = F.pad(x.permute(0, 2, 3, 1), (0, spare)).permute(0, 3, 1, 2)
        return run(rest, convolve(x, inlet))


def _align(block: AlignmentBlock, dtype: torch.dtype) -> tuple[Layer, Chain]:
    """Inlet and the rest of an alignment block."""
    weight = block.inlet.weight
    weight = F.pad(weight, (0, 0, 0, 0, 0, -weight.shape[1] % 8))
    inlet = packed(weight, block.inlet.bias, dtype, relu=True)
    return inlet, [link(module, dtype, relu=relu) for module, relu in block.links()]
