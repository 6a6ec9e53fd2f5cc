"""One run as a generator: fit, denoise, looks at the frame on the screen. No Qt, no napari."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ._threads import gpu_freed, load_ahead, threads, threads_for
from ._unfinished_runs import unfinished_run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_stbn._unfinished import Unfinished
    from napari_stbn.denoiser import Denoiser
    from napari_stbn.result import DenoiseResult, Progress
    from napari_stbn.settings import RunSettings
    from napari_stbn.stack import Stack
    from napari_stbn.training import TrainingStep

__all__ = ["Controls", "Look", "Outcome", "Request", "RunProgress", "View", "run_steps"]

_LOOK_SHARE = 0.1  # of the time goes into looks at the frame on the screen
_LOOK_PIXELS = 256 * 256  # of a frame are looked at on a CPU


@dataclass(frozen=True)
class View:
    """Which part of the stack is on the screen: one frame, and its visible rows and columns."""

    frame: int
    channel: int = 0
    plane: int = 0
    rows: tuple[int, int] = (0, 2**31)
    columns: tuple[int, int] = (0, 2**31)


@dataclass(frozen=True)
class Look:
    """A frame as the fit sees it by now.

    Attributes
    ----------
    view
        What was asked for; rows and columns are those of `image`.
    image : ndarray, shape (Y', X'), float32 [user's units]
    """

    view: View
    image: NDArray[np.float32]


@dataclass(frozen=True)
class RunProgress:
    """Where a run stands.

    Attributes
    ----------
    phase
        "noise", "flow", "fit" or "denoise".
    fraction
        Of the phase, 0 to 1.
    elapsed, remaining
        Seconds since the run began, and to come in this phase as far as one can tell.
    steps
        Steps of the fit since the last report.
    steps_per_second
        Of the fit, lately.
    """

    phase: Literal["noise", "flow", "fit", "denoise"]
    fraction: float
    elapsed: float
    remaining: float | None = None
    steps: tuple[TrainingStep, ...] = ()
    steps_per_second: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: with a result, with an error, or with neither when it was cancelled.

    With both where only the layers could not be made of the result.
    """

    denoiser: Denoiser | None = None
    result: DenoiseResult | None = None
    error: BaseException | None = None


@dataclass
class Controls:
    """What another thread may ask of a run, at any time.

    Attributes
    ----------
    view
        The part of the stack to look at while fitting.
    tell_every
        Seconds between two reports at least; a cancel acts sooner.
    look_every
        Seconds between two looks at the same frame at least.
    """

    view: View | None = None
    tell_every: float = 0.2
    look_every: float = 0.5
    _cancel: threading.Event = field(default_factory=threading.Event)
    _stop: threading.Event = field(default_factory=threading.Event)
    _pause: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """End now, without a result."""
        self._cancel.set()

    def stop(self) -> None:
        """End the fit now and denoise with what was learnt; a rest ends as well."""
        self._stop.set()
        self._pause.clear()

    def pause(self) -> None:
        """Rest until `resume`."""
        self._pause.set()

    def resume(self) -> None:
        """Go on."""
        self._pause.clear()

    @property
    def cancelled(self) -> bool:
        """Whether the run was told to end without a result."""
        return self._cancel.is_set()

    @property
    def stopped(self) -> bool:
        """Whether the fit was told to end."""
        return self._stop.is_set()

    @property
    def paused(self) -> bool:
        """Whether the run rests."""
        return self._pause.is_set()

    def wait_while_paused(self) -> None:
        """Return when the run may go on."""
        while self.paused and not self.cancelled:
            time.sleep(0.02)


@dataclass(frozen=True)
class Request:
    """All that a run needs.

    Attributes
    ----------
    stack : Stack
    settings : RunSettings
    model : Denoiser, optional
        Denoise with it instead of fitting.
    threads : int
        Threads of the numbers on the CPU; 0 leaves one core to the screen.
    unfinished : {"forget", "resume"}, optional
        Keep the state of the fit in the user's cache folder until the run is done, and begin anew
        or go on with what an earlier one left there. Nothing is kept when None.
    """

    stack: Stack
    settings: RunSettings
    model: Denoiser | None = None
    threads: int = 0
    unfinished: Literal["forget", "resume"] | None = None


def run_steps(request: Request, controls: Controls) -> Generator[RunProgress | Look, None, Outcome]:
    """Fit and denoise.

    Yields some times a second (`Controls.tell_every`), and whenever a look is ready. An error does
    not leave the generator: it is in the outcome, with its own type, for Qt's workers swallow some.

    Parameters
    ----------
    request : Request
    controls : Controls
        Asked between any two steps; the generator ends soon after a cancel.

    Returns
    -------
    Outcome
    """
    try:
        with threads(threads_for(request.threads)), gpu_freed():
            load_ahead()
            return (yield from _Run(request, controls).steps())
    except Exception as error:  # noqa: BLE001  # handed on, to be raised where the user is
        return Outcome(error=error)


class _Run:
    """The state of one run."""

    def __init__(self, request: Request, controls: Controls) -> None:
        self.request, self.controls = request, controls
        self.started = self.told = time.perf_counter()
        self.denoiser = request.model or request.settings.denoiser()
        self.pending: list[TrainingStep] = []
        self.looked_at: View | None = None
        self.looked_until = 0.0  # when the last look ended
        self.look_took = 0.0
        self.phase = ""  # that was reported last
        self.rate: tuple[int, float] | None = None  # step and time of work at the last report

    def steps(self) -> Generator[RunProgress | Look, None, Outcome]:
        from napari_stbn.training import GivenUpError  # torch is loaded by now

        left = self._left()
        model = None if left is None else left.model(self.request.settings.device)
        if model is not None:
            self.denoiser = model
        elif self.request.model is None:
            fit = self.request.settings.fit_steps(
                self.denoiser, self.request.stack, checkpoint=None if left is None else left.path
            )
            try:
                yield from self._follow(fit, stoppable=True)
                if self.controls.cancelled:
                    with suppress(GivenUpError):  # else it would take some seconds to keep it
                        fit.throw(GivenUpError())
            finally:
                fit.close()
            if self.controls.cancelled or not self.denoiser.history:
                if left is not None:
                    left.remove()  # a person has thrown it away
                return Outcome()  # also where it was stopped before there was anything to keep
            if left is not None:
                left.keep(self.denoiser)
        denoise = self.denoiser.denoise_steps(self.request.stack)
        try:
            result = yield from self._follow(denoise, stoppable=False)
        finally:
            denoise.close()
        if self.controls.cancelled or result is None:
            return Outcome()
        if left is not None:
            left.remove()
        self.denoiser.release()
        return Outcome(self.denoiser, result)

    def _left(self) -> Unfinished | None:
        """The file of this run, emptied unless it is to go on; None where none is kept."""
        request = self.request
        if request.unfinished is None or request.model is not None:
            return None
        left = unfinished_run(request.stack, request.settings)
        if request.unfinished == "forget":
            left.remove()
        return left

    def _follow(
        self, steps: Generator[Progress, None, Any], *, stoppable: bool
    ) -> Generator[RunProgress | Look, None, Any]:
        """Run the core's generator; what it returns, or None when it was broken off."""
        while True:
            self.controls.wait_while_paused()
            if self.controls.cancelled or (stoppable and self.controls.stopped):
                return None
            try:
                progress = next(steps)
            except StopIteration as stop:
                return stop.value
            if progress.step is not None:
                self.pending.append(progress.step)
            now = time.perf_counter()
            other, self.phase = progress.phase != self.phase, progress.phase
            if other or now - self.told >= self.controls.tell_every or progress.fraction >= 1:
                self.told = now
                yield self._report(progress)
            if stoppable and progress.step is not None:
                yield from self._look()

    def _report(self, progress: Progress) -> RunProgress:
        steps, self.pending = tuple(self.pending), []
        rate = None
        if steps:
            last = steps[-1]
            before = self.rate or (0, 0.0)
            rate = (last.step - before[0]) / max(last.elapsed - before[1], 1e-9)
            if last.elapsed - before[1] > 2:  # s: a mean over about the last two
                self.rate = (last.step, last.elapsed)
        remaining = steps[-1].remaining if steps else None
        if progress.phase == "denoise" and progress.fraction > 0:
            remaining = progress.elapsed * (1 - progress.fraction) / progress.fraction
        elapsed = time.perf_counter() - self.started
        return RunProgress(progress.phase, progress.fraction, elapsed, remaining, steps, rate)

    def _look(self) -> Generator[RunProgress | Look, None, None]:
        """Look at the frame on the screen, if that is due."""
        view = self.controls.view
        if view is None:
            return
        pause = max(self.controls.look_every, self.look_took / _LOOK_SHARE)
        if view != self.looked_at:  # a person who moves the slider waits for it
            pause = min(pause, max(0.2, 2 * self.look_took))
        if time.perf_counter() - self.looked_until < pause:
            return
        started = time.perf_counter()
        height, width = self.request.stack.frame_shape
        rows, columns = _inside(view.rows, height), _inside(view.columns, width)
        if self.denoiser.device.type == "cpu":
            rows, columns = _smaller(rows, columns)
        look = self.denoiser.preview_steps(
            min(view.frame, self.request.stack.n_frames - 1),
            channel=view.channel,
            plane=view.plane,
            rows=slice(*rows),
            columns=slice(*columns),
        )
        image = None
        try:
            while image is None:
                if self.controls.cancelled:
                    return
                try:
                    next(look)
                except StopIteration as stop:
                    image = stop.value
                    break
        finally:
            look.close()
        self.looked_at, self.looked_until = view, time.perf_counter()
        self.look_took = self.looked_until - started
        if image is not None:
            shown = View(view.frame, view.channel, view.plane, rows, columns)
            yield Look(shown, image)


def _inside(span: tuple[int, int], length: int) -> tuple[int, int]:
    """A span within an axis, at least 8 pixels of it."""
    start = max(0, min(span[0], length - 8))
    return start, min(length, max(span[1], start + 8))


def _smaller(
    rows: tuple[int, int], columns: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The middle of a view that is too large to look at quickly."""
    height, width = rows[1] - rows[0], columns[1] - columns[0]
    shrink = (_LOOK_PIXELS / (height * width)) ** 0.5
    if shrink >= 1:
        return rows, columns
    return _middle(rows, int(height * shrink)), _middle(columns, int(width * shrink))


def _middle(span: tuple[int, int], length: int) -> tuple[int, int]:
    """The middle `length` pixels of a span, at least 8."""
    length = min(max(8, length), span[1] - span[0])
    start = (span[0] + span[1] - length) // 2
    return start, start + length
