"""A run in the background, one at a time: in napari's worker, or in a thread where there is no Qt.

The generator of `_run` does the work in another thread. What it yields and how it ends is handled
in the thread of the viewer, which alone may touch layers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from napari.utils.notifications import notification_manager, show_error
from psygnal import Signal

from ._drivers import Driver, Ending, NotYet, QtDriver, ThreadDriver
from ._run import Controls, Look, Outcome, Request, RunProgress, run_steps

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_stbn.denoiser import Denoiser
    from napari_stbn.result import DenoiseResult

    from .layers import LayerStack

__all__ = ["PLAIN_ERRORS", "DenoisingJob", "State", "running_job"]

State = Literal["running", "done", "cancelled", "failed"]


# What is wrong with the movie, the settings or the machine: their sentence says all of it.
PLAIN_ERRORS = (ValueError, MemoryError, OSError)


class _Active:
    """The job that runs now."""

    job: ClassVar[DenoisingJob | None] = None
    lock = threading.Lock()


def running_job() -> DenoisingJob | None:
    """The job that runs now, if any."""
    job = _Active.job
    return job if job is not None and job.is_working else None


def _tell_error(error: BaseException) -> None:
    """Tell a person: napari takes half a second to write a traceback, the screen stands still."""
    if isinstance(error, PLAIN_ERRORS):
        show_error(str(error))
    else:
        notification_manager.receive_error(type(error), error, error.__traceback__)


class DenoisingJob:
    """A run in the background; what `napari_stbn.start_denoising` returns.

    Parameters
    ----------
    title : str
        What is denoised, for messages.
    request : Request
    source : LayerStack
        The layer that is denoised, as it was when the run began.
    build : callable
        Makes the layers of an outcome; called in the other thread.
    add : callable
        Adds them to the viewer, and iterates over them; called in the thread of the viewer. Where
        it is a generator, the screen is drawn between any two layers.
    screen : bool
        Whether Qt runs. Without it, call `wait` to get the layers.

    Attributes
    ----------
    progressed : Signal
        Emits `RunProgress`, some times a second.
    looked : Signal
        Emits `Look`: the frame on the screen as the fit sees it by now.
    finished : Signal
        Emits the state once: "done", "cancelled" or "failed".
    state : {"running", "done", "cancelled", "failed"}
    layers : list of napari layers
        The results, when done, until they are removed.
    error : exception or None
        What went wrong, when failed.
    denoiser : Denoiser or None
        The fitted model, when done; also where no layers could be made of the result.
    preview : Preview or None
        Its layer, while it runs.
    result : DenoiseResult or None
        Likewise, until the denoised layer is removed.
    report : dict
        Of the run, likewise.

    Raises
    ------
    RuntimeError
        If another job runs.
    """

    progressed = Signal(object)
    looked = Signal(object)
    finished = Signal(str)

    def __init__(
        self,
        title: str,
        request: Request,
        source: LayerStack,
        *,
        build: Callable[[Outcome], list[Any]],
        add: Callable[[list[Any]], Iterable[Layer]],
        screen: bool,
    ) -> None:
        self.title, self.request, self.source = title, request, source
        self.controls = Controls()
        self._build, self._add = build, add
        self.state: State = "running"
        self.layers: list[Layer] = []
        self.error: BaseException | None = None
        self.denoiser: Denoiser | None = None
        self.result: DenoiseResult | None = None
        self.report: dict[str, Any] = {}
        self.preview: Any = None
        self._awaited = False
        self._driver: Driver = NotYet()
        with _Active.lock:
            other = running_job()
            if other is not None:
                raise RuntimeError(
                    f'"{other.title}" is being denoised; wait for it, or stop or cancel it, before '
                    f'you start with "{title}"'
                )
            _Active.job = self
        try:
            self._driver = QtDriver(self) if screen else ThreadDriver(self)
        except BaseException:
            self.state, _Active.job = "failed", None
            raise

    def __repr__(self) -> str:
        """Title and state."""
        return f"<DenoisingJob {self.title!r}: {self.state}>"

    @property
    def is_running(self) -> bool:
        """Whether the job has not ended yet."""
        return self.state == "running"

    @property
    def is_working(self) -> bool:
        """Whether its thread still works; without Qt, results may wait for `wait` after that."""
        return self.is_running and self._driver.is_alive()

    @property
    def is_paused(self) -> bool:
        """Whether the job rests."""
        return self.is_running and self.controls.paused and not self.controls.cancelled

    def pause(self) -> None:
        """Rest: no step is done until `resume`."""
        self.controls.pause()

    def resume(self) -> None:
        """Go on."""
        self.controls.resume()

    def stop(self) -> None:
        """End the fit now, keep what was learnt, and denoise with it."""
        self.controls.stop()

    def cancel(self) -> None:
        """End now, without a result."""
        self.controls.cancel()

    quit = cancel  # as napari's workers call it

    def wait(self, timeout: float | None = None) -> list[Layer]:
        """Wait for the end; the viewer stays alive meanwhile.

        Parameters
        ----------
        timeout : float, optional [s]

        Returns
        -------
        list of napari layers
            The results; empty after a cancel.

        Raises
        ------
        TimeoutError
            If it has not ended by then; it goes on.
        Exception
            What went wrong in the run, with its own type.
        """
        self._awaited = True
        try:
            self._driver.wait(timeout)
        except BaseException as error:
            if not isinstance(error, TimeoutError):
                self.cancel()  # Ctrl-C
            raise
        finally:
            self._awaited = False
        if self.is_running:
            raise TimeoutError(f'"{self.title}" is still being denoised after {timeout} s')
        if self.error is not None:
            raise self.error
        return list(self.layers)

    def run_in_thread(self) -> Generator[RunProgress | Look, None, Ending]:
        """The work, and the layers that come of it."""
        outcome = yield from run_steps(self.request, self.controls)
        layers: list[Any] = []
        if outcome.result is not None:
            try:
                layers = self._build(outcome)
            except Exception as error:  # noqa: BLE001  # raised where the user is
                outcome = replace(outcome, error=error)  # the model can still be kept
        return outcome, layers

    def tell(self, item: RunProgress | Look) -> None:
        """Hand on what the work yields; in the thread of the viewer."""
        if self.is_running and not self.controls.cancelled:
            (self.looked if isinstance(item, Look) else self.progressed).emit(item)

    def end(self, ending: Ending) -> Iterator[None]:
        """Add the layers, or say what went wrong; in the thread of the viewer.

        A generator, to be run to its end: between two layers there is time for the screen.
        """
        if not self.is_running:
            return
        outcome, layers = ending
        error = outcome.error
        state: State = "cancelled"
        if self.controls.cancelled:
            error = None
        elif outcome.result is not None and outcome.denoiser is not None:
            try:
                yield from self._add_all(layers)
            except Exception as problem:  # noqa: BLE001  # the job must end all the same
                error = problem
            self.denoiser, self.result = outcome.denoiser, outcome.result
            self.report = outcome.result.report
            state = "done"
        if error is not None:
            self.error, state = error, "failed"
        self.state = state
        _Active.job = None
        self.finished.emit(state)
        if error is not None and not self._awaited and isinstance(self._driver, QtDriver):
            _tell_error(error)

    def _add_all(self, layers: list[Any]) -> Iterator[None]:
        """Add the layers; for a person it is too late to cancel then, but the viewer may close."""
        for layer in self._add(layers):
            self.layers.append(layer)
            yield
            if self.controls.cancelled:
                return
