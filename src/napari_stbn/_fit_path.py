"""How the loss of a clip and its gradient are computed: the fast way, or the safe one."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ._recorded import Recorder, loss_and_gradients
from .clips import Clip
from .devices import is_out_of_memory, keep_freed_memory, release_cached
from .network import STBN
from .network.paired import paired_forward
from .precision import DTYPES, Precision, autocast, paired_is_right
from .prior import Units, blind_loss, network_input

__all__ = ["FitPath"]

_logger = logging.getLogger(__name__)


class FitPath:
    """Loss and gradient of a network on clips.

    Begins with both directions in one pass (`napari_stbn.network.paired`) in the precision asked
    for, where a trial finds that right, and falls back to the plain network in float32. Where
    memory runs out, a clip's crops are worked on in parts, which changes nothing but rounding. On a
    CUDA GPU loss and gradients are recorded once and replayed (`napari_stbn._recorded`).

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
        self._recorder = Recorder()
        self._units: dict[int, tuple[Units, ...]] = {}  # by address, which they so keep

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

    def prior(self, clip: Clip, *, recorded: bool = True) -> Tensor:
        """Prior (N, T, K, H, W) of a clip.

        Without a gradient it comes from a recording where there can be one. That calls no layers,
        and so no hooks of theirs: who listens to a layer wants it not `recorded`.
        """
        inputs = network_input(clip.inputs, clip.units, self.model.config)
        tensors = inputs, clip.flow_to_previous, clip.flow_to_next
        if torch.is_grad_enabled() or not recorded:
            return self._run(self.model, *tensors)

        def work(*tensors: Tensor) -> list[Tensor]:
            inputs, to_previous, to_next = tensors
            return [self._run(self.model, inputs, to_previous, to_next)]

        (prior,) = self._recorder(("prior", self.paired, self.precision), work, tensors)
        return prior.clone()  # the next clip's may take its place

    def _run(self, model: STBN, inputs: Tensor, to_previous: Tensor, to_next: Tensor) -> Tensor:
        """Prior of what the network takes."""
        if self.paired:
            dtype = DTYPES[self.precision]
            return paired_forward(model, inputs, to_previous, to_next, dtype)
        with autocast(inputs.device, self.precision):
            prior: Tensor = model(inputs, to_previous, to_next)
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
            self._recorder.forget()
            self.model.zero_grad(set_to_none=True)
            release_cached(clip.inputs.device)
            _logger.warning("out of memory; going on with the clips of a step in parts")

    def _backward(self, clip: Clip, beta: float) -> Tensor:
        """Loss and gradients, part by part; each weighs as many pixels as count in it."""
        if self.parts == 1 and clip.inputs.device.type == "cuda":
            return self._recorded_backward(clip, beta)
        weight = clip.weight.sum().clamp(min=1)
        total = weight.new_zeros(())
        for part in clip.split(self.parts):
            loss = self.loss(part, beta) * (part.weight.sum() / weight)
            loss.backward()
            total += loss.detach()
        return total

    def _recorded_backward(self, clip: Clip, beta: float) -> Tensor:
        """Loss and gradients of a whole clip, from a recording where there can be one."""

        def work(power: Tensor, *tensors: Tensor) -> list[Tensor]:
            exponent = power if beta else 0.0

            def loss(model: STBN, *tensors: Tensor) -> Tensor:
                inputs, intensities, weight, to_previous, to_next = tensors
                prior = self._run(model, inputs, to_previous, to_next)
                return blind_loss(prior, intensities, clip.units, weight, beta=exponent)

            return loss_and_gradients(self.model, loss, *tensors)

        inputs = network_input(clip.inputs, clip.units, self.model.config)
        others = clip.intensities, clip.weight, clip.flow_to_previous, clip.flow_to_next
        self._units[id(clip.units)] = clip.units
        key = id(clip.units), bool(beta), self.paired, self.precision
        loss, *gradients = self._recorder(key, work, (inputs.new_full((), beta), inputs, *others))
        for parameter, gradient in zip(self.model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        return loss
