"""Flow that is refined while a fit goes on: estimated anew on denoised frames, or learnt from them.

The fit's clips share memory with the movies whose flow is overwritten here, so that the steps that
follow go along the new flow.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from ._fit_parts import Average
from ._generators import relay
from ._refinement import dense_method, hide_pixels, keep_better, predict_frames
from .flow import Flow, FlowMethod, HeldOut, whole_flow
from .flow.distillation import Distillation, DistillationConfig, student_flow
from .flow.pwcnet import PWCNet, PWCNetConfig
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

    def due(self, fraction: float) -> bool:
        """Whether flow should be refined now that this part of the fit is done."""
        left = [part for part in self._rounds if part > fraction]
        due, self._rounds = len(left) < len(self._rounds), left
        return due

    def step(self) -> None:
        """Train the student a little, if there is one that has something to learn from."""
        if self._distillation is not None and self._given:
            self._distillation.step()

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
            for number, movie in enumerate(movies):
                share = partial(_share, number, len(movies))
                kept = yield from relay(self._update(model, number, movie), share)
                _logger.info("flow of %.0f %% of the pairs was replaced", 100 * kept)
        finally:
            average.swap()

    def _update(
        self, model: STBN, number: int, movie: PreparedMovie
    ) -> Generator[float, None, float]:
        """Refine the flow of one movie; returns the part of the pairs that was replaced."""
        held, hidden = hide_pixels(movie)
        frames = yield from relay(predict_frames(model, hidden, self.precision), _most)
        found = yield from relay(whole_flow(frames, self.method), _rest)
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
    movies = list(prepared.movies.values())
    for number, movie in enumerate(movies):
        share = partial(_share, number, len(movies))
        noisy: NDArray[np.float32] = hide_pixels(movie)[0].filled
        given = yield from relay(whole_flow(noisy, dense_method(method)), share)
        learnt = yield from relay(student_flow(student, noisy, given), share)
        movie.flow_to_previous.copy_(torch.from_numpy(learnt.to_previous))
        movie.flow_to_next.copy_(torch.from_numpy(learnt.to_next))


def _share(number: int, count: int, done: float) -> float:
    """Part of the whole work when a part of one movie's is done."""
    return (number + done) / count


def _most(done: float) -> float:
    """Part of a movie's work when a part of its prediction is done."""
    return 0.8 * done


def _rest(done: float) -> float:
    """Part of a movie's work when a part of what follows is done."""
    return 0.8 + 0.2 * done
