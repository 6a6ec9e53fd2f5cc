"""Work of a GPU that is recorded once and then started by one call: a CUDA graph.

A step of a small network is thousands of short kernels, and a processor that starts them one by one
takes several times as long as the GPU needs for them.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["Recorder", "loss_and_gradients"]

_logger = logging.getLogger(__name__)
_MOST = 4  # recordings that are kept: each holds the memory of its maps
_RUNS_BEFORE = 2  # in which libraries choose their kernels


class _Recording(NamedTuple):
    """A graph with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    given: list[Tensor]
    results: list[Tensor]


class Recorder:
    """Runs functions of tensors, from a recording where there can be one.

    What is recorded are the kernels, with every number that Python computed between them: the
    function may depend on nothing but its tensors and the key. On other devices than CUDA, and
    where a recording fails, functions run as they are.
    """

    def __init__(self) -> None:
        self._recordings: dict[Hashable, _Recording] = {}
        self.refused: str | None = None  # why nothing is recorded any more

    def __call__(
        self,
        key: Hashable,
        function: Callable[..., Sequence[Tensor]],
        tensors: Sequence[Tensor],
    ) -> Sequence[Tensor]:
        """Call ``function(*tensors)``.

        Parameters
        ----------
        key : hashable
            Whatever else the function depends on; shapes and types of the tensors are known.
        function : callable
            Returns tensors on the device.
        tensors : sequence of Tensor
            On one device.

        Returns
        -------
        sequence of Tensor
            From a recording they are overwritten by the next call with the same key.
        """
        if self.refused is not None or tensors[0].device.type != "cuda":
            return function(*tensors)
        key = (key, *((t.shape, t.dtype) for t in tensors))
        recording = self._recordings.get(key)
        if recording is None:
            if len(self._recordings) >= _MOST:
                return function(*tensors)
            try:
                recording = _record(function, tensors)
            except RuntimeError as error:  # memory that ran out, too: a recording takes more of it
                self.refused = _first_line(error)
            if recording is None:  # outside the handler, which holds what was made so far
                self.forget()
                _logger.info("no CUDA graph: %s", self.refused)
                return function(*tensors)
            self._recordings[key] = recording
        for mine, new in zip(recording.given, tensors, strict=True):
            mine.copy_(new, non_blocking=True)
        recording.graph.replay()
        return recording.results

    def forget(self) -> None:
        """Give the memory of all recordings back."""
        self._recordings.clear()
        gc.collect()
        torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    """What went wrong first: the end of a recording that failed raises an error of its own."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0]


def _record(function: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor]) -> _Recording:
    """Run a function as a trial on copies of its tensors, then record it."""
    given = [t.clone() for t in tensors]
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_RUNS_BEFORE):
            function(*given)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads, a viewer's say, may go on with the GPU meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        results = list(function(*given))
    return _Recording(graph, given, results)


class _Call(nn.Module):
    """A function of a network and tensors as a module, so that its weights can be exchanged."""

    def __init__(self, model: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *tensors: Tensor) -> Tensor:
        """Call it."""
        return self.function(self.model, *tensors)


def loss_and_gradients(
    model: nn.Module, function: Callable[..., Tensor], *tensors: Tensor
) -> list[Tensor]:
    """Loss ``function(model, *tensors)``, then its gradient by each parameter, to be recorded.

    Autograd ties what it keeps of a parameter to the stream where that was used first, which may be
    none that is recorded; so the function meets the same weights as new tensors. A weight that the
    loss does not depend on gets zeros.
    """
    leaves = {f"model.{name}": p.detach().requires_grad_() for name, p in model.named_parameters()}
    loss = functional_call(_Call(model, function), leaves, tensors)
    gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    # In the memory order of the weights, which a fused optimiser asks for.
    ordered = [
        torch.empty_like(leaf).copy_(g) for leaf, g in zip(leaves.values(), gradients, strict=True)
    ]
    return [loss.detach(), *ordered]
