"""Flow that is refined while a fit goes on: estimated anew on denoised frames, or learnt from them.

The fit's clips share memory with the movies whose flow is overwritten here, so that the steps that
follow go along the new flow.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._fit_parts import Average
from ._generators import part_of, relay
from ._hidden_pixels import hide_pixels, predict_frames
from ._motion_image import motion_image
from ._refinement import dense_method, keep_better, predicted_method
from .flow import Flow, FlowMethod, HeldOut, whole_flow
from .flow.distillation import Distillation, DistillationConfig
from .flow.pwcnet import PWCNet, PWCNetConfig
from .flow.student import student_flow
from .network import STBN
from .precision import Precision
from .preparation import PreparedMovie, PreparedStack

__all__ = ["FORMS", "FlowUpdates", "Form", "follow_student", "new_student"]

_logger = logging.getLogger(__name__)
Form = Literal["reestimate", "distill"]
FORMS: tuple[Form, ...] = get_args(Form)
_ROUNDS = (0.25, 0.5)  # parts of the fit after which flow is estimated anew


def new_student(seed: int) -> PWCNet:
    """Network that corrects flow between noisy frames, and changes nothing yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PWCNet(PWCNetConfig.student())


class FlowUpdates:
    """Refine the flow of movies between the steps of a fit.

    Parameters
    ----------
    form : {"reestimate", "distill"}
        Take flow between predicted frames; or let a student learn it, and take the student's flow
        between noisy frames. Either way pair by pair, where it explains hidden pixels better.
    method : str
        Of the flow between frames; the teacher's, too.
    precision : {"float32", "bfloat16"}
        Of the predictions.
    seed : int
        Of the student.
    """

    def __init__(self, form: Form, method: FlowMethod, precision: Precision, seed: int) -> None:
        self.form, self.method, self.precision = form, dense_method(method), precision
        self.student: PWCNet | None = None
        self._distillation: Distillation | None = None
        if form == "distill":
            self.student = new_student(seed)
            generator = torch.Generator().manual_seed(seed)
            self._distillation = Distillation(self.student, DistillationConfig(), generator)
        self._rounds = list(_ROUNDS)
        self._given: dict[int, tuple[HeldOut, Flow]] = {}  # of each movie, between noisy frames
        self._done: list[dict[str, Tensor]] = []  # what each round so far was made with

    def due(self, fraction: float) -> bool:
        """Whether flow should be refined now that this part of the fit is done."""
        left = [part for part in self._rounds if part > fraction]
        due, self._rounds = len(left) < len(self._rounds), left
        return due

    def after(
        self, part: float, model: STBN, average: Average, movies: Sequence[PreparedMovie]
    ) -> Generator[float, None, float]:
        """After a step of the fit: train the student a little, refine flow where it is time to.

        Parameters
        ----------
        part : float
            Of the fit that is done (`TrainingStep.part`).
        model, average, movies
            As in `update`.

        Yields
        ------
        float
            Part of the refinement that is done, 0 to 1.

        Returns
        -------
        float [s]
            Spent on it; a pause between two pieces is no work.
        """
        began = time.perf_counter()
        if self._distillation is not None and self._given:
            self._distillation.step()
        spent = time.perf_counter() - began
        if not self.due(part):
            return spent
        work = self.update(model, average, movies)
        try:
            while True:
                began = time.perf_counter()
                done = next(work, None)
                spent += time.perf_counter() - began
                if done is None:
                    return spent
                yield done
        finally:
            work.close()

    def update(
        self, model: STBN, average: Average, movies: Sequence[PreparedMovie]
    ) -> Generator[float, None, None]:
        """Refine the flow of all movies, in place, by the averaged weights of the fit.

        Yields
        ------
        float
            Part of the work that is done, 0 to 1.
        """
        average.swap()
        try:
            self._done.append(self._made_with(model))
            yield from self._round(model, movies)
        finally:
            average.swap()

    def state(self) -> dict[str, Tensor]:
        """What a fit that goes on needs: what each round was made with, and the student.

        Flow itself is not in it: it is large, and made again from these.
        """
        rounds = {f"{n}.{k}": v for n, kept in enumerate(self._done) for k, v in kept.items()}
        student = {} if self._distillation is None else self._distillation.state()
        return rounds | {f"now.{name}": value for name, value in student.items()}

    def restore(
        self, state: Mapping[str, Tensor], model: STBN, movies: Sequence[PreparedMovie]
    ) -> Generator[float, None, None]:
        """Make the flow of movies what it was when `state` was taken, in place.

        Yields
        ------
        float
            Part of the work that is done, 0 to 1.

        Raises
        ------
        ValueError
            If the state does not fit the model.
        """
        count = len({name.partition(".")[0] for name in state} - {"now"})
        own = [p.detach().clone() for p in model.parameters()]
        try:
            for number in range(count):
                kept = _part(state, f"{number}.")
                self._put_back(kept, model)
                self._done.append(kept)
                yield from relay(self._round(model, movies), partial(part_of, number, count))
            now = _part(state, "now.")
            if self._distillation is not None and now:
                self._distillation.restore(now)
        except (KeyError, IndexError, RuntimeError) as error:
            said = " ".join(str(error).split())[:300]
            raise ValueError(
                f"the state of the fit is damaged or was changed by hand ({said}); delete it to "
                "start anew"
            ) from error
        finally:
            with torch.no_grad():
                torch._foreach_copy_(list(model.parameters()), own)
        self._rounds = self._rounds[count:]

    def _made_with(self, model: STBN) -> dict[str, Tensor]:
        """Weights that a round is made with."""
        kept: dict[str, Tensor] = {f"model.{i}": p for i, p in enumerate(model.parameters())}
        if self._distillation is not None:
            kept |= {f"student.{k}": v for k, v in self._distillation.state().items()}
        return {name: value.detach().cpu().clone() for name, value in kept.items()}

    @torch.no_grad()
    def _put_back(self, kept: Mapping[str, Tensor], model: STBN) -> None:
        """Load what `_made_with` gave."""
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(kept[f"model.{i}"])
        if self._distillation is not None:
            self._distillation.restore(_part(kept, "student."))

    def _round(self, model: STBN, movies: Sequence[PreparedMovie]) -> Generator[float, None, None]:
        """Refine the flow of all movies by the weights that the model has now."""
        for number, movie in enumerate(movies):
            share = partial(part_of, number, len(movies))
            kept = yield from relay(self._update(model, number, movie), share)
            _logger.info("flow of %.0f %% of the pairs was replaced", 100 * kept)

    def _update(
        self, model: STBN, number: int, movie: PreparedMovie
    ) -> Generator[float, None, float]:
        """Refine the flow of one movie; returns the part of the pairs that was replaced."""
        held, hidden = hide_pixels(movie)
        frames = yield from relay(predict_frames(model, hidden, self.precision), _most)
        found = yield from relay(whole_flow(frames, predicted_method(self.method)), _rest)
        flow = Flow(movie.flow_to_previous.numpy(), movie.flow_to_next.numpy())
        if self._distillation is None or self.student is None:
            return keep_better(flow, found, held.asking(frames))
        if number not in self._given:
            given = yield from relay(whole_flow(held.filled, self.method), _rest)
            self._given[number] = held, given
        noisy, given = self._given[number]
        if self._distillation.ready:  # learnt since the last round
            learnt = yield from relay(student_flow(self.student, noisy.filled, given), _rest)
            kept = keep_better(flow, learnt, held.asking(frames))
        else:
            kept = 0.0
        self._distillation.learn(number, noisy.filled, found, given)
        return kept


def follow_student(
    student: PWCNet, prepared: PreparedStack, method: FlowMethod
) -> Generator[float, None, None]:
    """Give all movies the flow that a student makes of that between their noisy frames, in place.

    Yields
    ------
    float
        Part of the work that is done, 0 to 1.
    """
    movies = prepared.moving()
    for number, movie in enumerate(movies):
        share = partial(part_of, number, len(movies))
        noisy: NDArray[np.float32] = motion_image(movie.intensities, movie.units).numpy()
        given = yield from relay(whole_flow(noisy, dense_method(method)), share)
        learnt = yield from relay(student_flow(student, noisy, given), share)
        movie.flow_to_previous.copy_(torch.from_numpy(learnt.to_previous))
        movie.flow_to_next.copy_(torch.from_numpy(learnt.to_next))


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries whose names begin so, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _most(done: float) -> float:
    """Part of a movie's work when a part of its prediction is done."""
    return 0.8 * done


def _rest(done: float) -> float:
    """Part of a movie's work when a part of what follows is done."""
    return 0.8 + 0.2 * done
