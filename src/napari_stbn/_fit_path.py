"""How the loss of a clip and its gradient are computed: the fast way, or the safe one."""

from __future__ import annotations

import logging

from torch import Tensor

from .clips import Clip
from .devices import is_out_of_memory, keep_freed_memory, release_cached
from .network import STBN
from .network.paired import paired_forward
from .precision import DTYPES, Precision, autocast, paired_is_right
from .prior import blind_loss, network_input

__all__ = ["FitPath"]

_logger = logging.getLogger(__name__)


class FitPath:
    """Loss and gradient of a network on clips.

    Begins with both directions in one pass (`napari_stbn.network.paired`) in the precision asked
    for, where a trial finds that right, and falls back to the plain network in float32. Where
    memory runs out, a clip's crops are worked on in parts, which changes nothing but rounding.

    Parameters
    ----------
    model : STBN
    precision : {"float32", "bfloat16"}
    """

    def __init__(self, model: STBN, precision: Precision) -> None:
        device = next(model.parameters()).device
        if device.type == "cpu":
            keep_freed_memory()
        self.model, self.precision = model, precision
        self.paired = paired_is_right(model.config, device, precision)
        self.safe = False
        self.parts = 1

    def play_safe(self) -> None:
        """Go on in float32 with the plain network."""
        if not self.safe:
            _logger.warning(
                "gradients in %s are not finite; going on in float32, which is slower",
                self.precision,
            )
        self.safe, self.paired, self.precision = True, False, "float32"

    def loss(self, clip: Clip, beta: float = 0.0) -> Tensor:
        """Blind loss of a clip."""
        prior = self.prior(clip)
        return blind_loss(prior, clip.intensities, clip.units, clip.weight, beta=beta)

    def prior(self, clip: Clip) -> Tensor:
        """Prior (N, T, K, H, W) of a clip."""
        model, device = self.model, clip.inputs.device
        inputs = network_input(clip.inputs, clip.units, model.config)
        flows = (clip.flow_to_previous, clip.flow_to_next)
        if self.paired:
            return paired_forward(model, inputs, *flows, DTYPES[self.precision])
        with autocast(device, self.precision):
            prior: Tensor = model(inputs, *flows)
        return prior

    def backward(self, clip: Clip, beta: float = 0.0) -> Tensor:
        """Blind loss of a clip, without a graph; its gradients are in the weights afterwards.

        Raises
        ------
        torch.OutOfMemoryError
            If even a single crop does not fit.
        """
        while True:
            try:
                return self._backward(clip, beta)
            except RuntimeError as error:
                if not is_out_of_memory(error) or self.parts >= clip.inputs.shape[0]:
                    raise
            self.parts *= 2  # outside the handler, which holds the frames that filled the memory
            self.model.zero_grad(set_to_none=True)
            release_cached(clip.inputs.device)
            _logger.warning("out of memory; going on with the clips of a step in parts")

    def _backward(self, clip: Clip, beta: float) -> Tensor:
        """Loss and gradients, part by part; each weighs as many pixels as count in it."""
        weight = clip.weight.sum().clamp(min=1)
        total = weight.new_zeros(())
        for part in clip.split(self.parts):
            loss = self.loss(part, beta) * (part.weight.sum() / weight)
            loss.backward()
            total += loss.detach()
        return total
