"""Flow distillation: a student learns on noisy frames what a frozen teacher sees on denoised ones.

Paper, "Flow Refinement in Noise". With F_s the student, F_t the teacher, y noisy and x the denoised
frames (paper, Eqs. 5, 6, 15-17):

    targets   v_i = stop_gradient(F_t(x_i, x_i+1)),   w_i = stop_gradient(F_t(x_i+1, x_i))
    loss      |F_s(y_i, y_i+1) - v_i|_1 + |F_s(y_i+1, y_i) - w_i|_1 + gamma sum_k |theta_k|_2
    total     loss of the denoiser + lambda x loss
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .estimators import Flow
from .pwcnet import PWCNet
from .student import brightness, normalise

__all__ = ["Distillation", "DistillationConfig", "distillation_loss"]

_EPSILON = 1e-12  # of Adam: its usual 1e-8 is as large as gradients times the coefficient
Image = NDArray[np.float32]


@dataclass(frozen=True)
class DistillationConfig:
    """How a student is trained.

    Attributes
    ----------
    coefficient
        Of the distillation in the total loss (paper and released code: 5e-4).
    regularisation
        Of the 2-norms of the student's weights (released code: 4e-4).
    learning_rate
        Of the student's own Adam (released code: 1e-5 for pretrained weights; a correction that
        begins with nothing learns at ten times that and more).
    crop
        Side of the parts of the frames that a step looks at [px].
    batch
        Pairs of a step.
    """

    coefficient: Annotated[float, {"min": 0.0}] = 5e-4
    regularisation: Annotated[float, {"min": 0.0}] = 4e-4
    learning_rate: Annotated[float, {"min": 1e-7, "max": 0.1}] = 1e-3
    crop: Annotated[int, {"min": 16, "max": 512}] = 96
    batch: Annotated[int, {"min": 1, "max": 64}] = 2


def distillation_loss(
    student: PWCNet,
    first: Tensor,
    second: Tensor,
    targets: tuple[Tensor, Tensor],
    given: tuple[Tensor, Tensor] | None = None,
    *,
    regularisation: float = 4e-4,
) -> Tensor:
    """How far the student's flow on noisy frames is from the teacher's on denoised ones.

    Parameters
    ----------
    student : PWCNet
    first, second : Tensor, shape (N, C, H, W)
        Noisy frames, the second follows the first.
    targets : (to_previous, to_next), Tensors of shape (N, 2, H, W) [px]
        The teacher's flow from the second frame to the first, and from the first to the second. No
        gradient flows into them.
    given : (to_previous, to_next), optional
        Flow for a student that corrects.
    regularisation : float

    Returns
    -------
    Tensor, scalar
        Mean absolute difference of both ways, plus the weighted 2-norms of the weights.

    Notes
    -----
    Eqs. 15 and 17. The L1 norm is a mean here, so that it does not grow with the size of the crop.
    """
    to_previous, to_next = (target.detach() for target in targets)
    known = (None, None) if given is None else given
    back = student(second, first, known[0])
    ahead = student(first, second, known[1])
    apart = (back - to_previous).abs().mean() + (ahead - to_next).abs().mean()
    norms = torch.stack([p.norm() for p in student.parameters()]).sum()
    loss: Tensor = apart + regularisation * norms
    return loss


class Distillation:
    """Training of a student beside a fit, on cached whole-frame flow of the teacher.

    Parameters
    ----------
    student : PWCNet
        Trained in place.
    config : DistillationConfig
    generator : torch.Generator
        The only source of chance, on the CPU.

    Notes
    -----
    In the paper the student's loss is added to that of the denoiser. No gradient passes from the
    denoiser into the flow (the alignment detaches it), so that the student's weights see this loss
    alone, and a step of its own optimiser is the same as a joint one; the coefficient
    only scales its gradient, which Adam takes out again. Its usual epsilon would not: with 1e-8 the
    student of the tests learnt nothing in 40 steps.
    """

    def __init__(
        self, student: PWCNet, config: DistillationConfig, generator: torch.Generator
    ) -> None:
        self.student, self.config, self._generator = student, config, generator
        self._optimizer = torch.optim.Adam(
            student.parameters(), lr=config.learning_rate, eps=_EPSILON
        )
        self._lessons: dict[int, _Lesson] = {}  # by movie
        self.steps = 0

    @property
    def ready(self) -> bool:
        """Whether the student has learnt anything."""
        return self.steps > 0

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, but for the targets: by name."""
        state = {f"weight.{k}": v for k, v in self.student.state_dict().items()}
        for i, parameter in enumerate(self.student.parameters()):
            kept = self._optimizer.state.get(parameter, {})
            state |= {f"adam.{i}.{k}": v for k, v in kept.items()}
        state["generator"] = self._generator.get_state()
        state["steps"] = torch.tensor(self.steps)
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave."""
        weights = {
            k.removeprefix("weight."): v for k, v in state.items() if k.startswith("weight.")
        }
        self.student.load_state_dict(weights)
        for i, parameter in enumerate(self.student.parameters()):
            prefix = f"adam.{i}."
            kept = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            if kept:
                moments = {k: v.to(parameter.device) if v.ndim else v for k, v in kept.items()}
                self._optimizer.state[parameter] = moments
        self._generator.set_state(state["generator"])
        self.steps = int(state["steps"])

    def learn(self, movie: int, noisy: NDArray[Any], teacher: Flow, given: Flow | None) -> None:
        """Take the targets of a movie, in place of earlier ones.

        Parameters
        ----------
        movie : int
            Which one.
        noisy : ndarray, shape (T, Y, X)
        teacher : Flow
            On the denoised frames.
        given : Flow or None
            On the noisy frames, for a student that corrects.
        """
        scale = brightness(lambda t: noisy[t], len(noisy))
        self._lessons[movie] = _Lesson(normalise(noisy, scale), teacher, given)

    def step(self) -> float:
        """One step of the student on random parts of random pairs of a movie; its loss.

        Raises
        ------
        RuntimeError
            If there are no targets yet.
        """
        if not self._lessons:
            raise RuntimeError("there is nothing to learn from: call learn() first")
        lesson = list(self._lessons.values())[self._integer(len(self._lessons))]
        device = next(self.student.parameters()).device
        places = [self._place(lesson) for _ in range(self.config.batch)]
        frames = [
            part.expand(-1, self.student.config.channels, -1, -1).to(device)
            for part in lesson.frames_at(places)
        ]
        targets = [part.to(device) for part in _flow_at(lesson.teacher, places)]
        known = None
        if lesson.given is not None:
            back, ahead = (part.to(device) for part in _flow_at(lesson.given, places))
            known = back, ahead
        self.student.train()
        self._optimizer.zero_grad(set_to_none=True)
        loss = distillation_loss(
            self.student,
            frames[0],
            frames[1],
            (targets[0], targets[1]),
            known,
            regularisation=self.config.regularisation,
        )
        (self.config.coefficient * loss).backward()
        self._optimizer.step()
        self.steps += 1
        return float(loss.detach())

    def _place(self, lesson: _Lesson) -> _Place:
        """A random pair, and a part of its frames."""
        count, _, height, width = lesson.frames.shape
        side = self.config.crop
        y, x = (self._integer(max(0, n - side) + 1) for n in (height, width))
        return self._integer(count - 1), slice(y, y + side), slice(x, x + side)

    def _integer(self, below: int) -> int:
        """Random integer from 0 to `below` - 1."""
        return int(torch.randint(below, (), generator=self._generator))


_Place = tuple[int, slice, slice]  # pair, rows, columns


@dataclass(frozen=True)
class _Lesson:
    """What a student learns from one movie: frames (T, 1, Y, X), and flow of every pair."""

    frames: Tensor
    teacher: Flow
    given: Flow | None

    def frames_at(self, places: list[_Place]) -> tuple[Tensor, Tensor]:
        """First and second frames of pairs at places, each (N, 1, H, W)."""
        first, second = (
            torch.stack([self.frames[t + k][:, y, x] for t, y, x in places]) for k in (0, 1)
        )
        return first, second


def _flow_at(flow: Flow, places: list[_Place]) -> list[Tensor]:
    """Both directions of a flow at places, each (N, 2, H, W)."""
    return [torch.from_numpy(np.stack([d[t][:, y, x] for t, y, x in places])) for d in flow]
