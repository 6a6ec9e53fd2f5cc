"""What runs a job: napari's worker, or a thread where there is no Qt."""

from __future__ import annotations

import io
import threading
from collections.abc import Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ._run import Look, Outcome, RunProgress

if TYPE_CHECKING:
    from .job import DenoisingJob

__all__ = ["PHASES", "Driver", "Ending", "NotYet", "QtDriver", "ThreadDriver"]

Ending = tuple[Outcome, list[Any]]
_BREATH = 10  # ms for the screen between two layers that are added
PHASES = {
    "noise": "measuring noise",
    "flow": "estimating motion",
    "fit": "fitting",
    "denoise": "denoising",
}


class Driver(Protocol):
    """What runs a job."""

    def is_alive(self) -> bool: ...
    def wait(self, timeout: float | None) -> None: ...


class NotYet:
    """In place of a driver until there is one."""

    def is_alive(self) -> bool:
        return True

    def wait(self, timeout: float | None) -> None:
        raise TimeoutError(f"the job has not begun, waited {timeout} s")


class _Named(partial[Any]):
    """A function that napari calls by a name in its dialogs."""

    name = ""

    def __repr__(self) -> str:
        return self.name


def _run_in_thread(held: list[DenoisingJob]) -> Generator[RunProgress | Look, None, Ending]:
    """The work of the only job in a list, which is emptied: napari keeps its workers for ever."""
    return (yield from held.pop().run_in_thread())


class QtDriver:
    """Runs a job in napari's worker, shows it in the activity dock."""

    def __init__(self, job: DenoisingJob) -> None:
        from napari.qt.threading import GeneratorWorker, create_worker
        from napari.utils import progress
        from qtpy.QtCore import QTimer

        from ._screen import calm_spinners, draws_in_software

        controls = job.controls

        class Worker(GeneratorWorker):
            """Quits by way of the job: its generator ends, and closes what it holds, by itself."""

            def quit(self) -> None:
                controls.cancel()

        work = _Named(_run_in_thread, [job])
        work.name = f'STBN denoising of "{job.title}"'
        self.worker = create_worker(work, _worker_class=Worker, _start_thread=False)
        self.bar = progress(total=100, desc=f"STBN {job.title}", file=io.StringIO())
        self.job = job
        self.loop: Any = None
        self.ending: Iterator[None] = iter(())
        if draws_in_software():
            job.controls.tell_every, job.controls.look_every = 1.0, 2.0
            QTimer.singleShot(0, calm_spinners)  # once the one of the activity dock turns
        self.phase = ""
        self.worker.yielded.connect(self._yielded)
        self.worker.returned.connect(self._returned)
        self.worker.errored.connect(self._errored)
        self.worker.start()

    def _yielded(self, item: RunProgress | Look) -> None:
        if isinstance(item, RunProgress):
            if item.phase != self.phase:
                self.phase = item.phase
                self.bar.set_description(f"STBN {self.job.title}: {PHASES[item.phase]}")
            more = int(100 * item.fraction) - self.bar.n
            if more:
                self.bar.update(more)
        self.job.tell(item)

    def _returned(self, ending: Ending) -> None:
        self._end(ending)

    def _errored(self, error: Exception) -> None:
        self._end((Outcome(error=error), []))

    def _end(self, ending: Ending) -> None:
        self.ending = self.job.end(ending)
        self._go_on()

    def _go_on(self) -> None:
        """Add the next layer, then let the screen be drawn."""
        from qtpy.QtCore import QTimer

        more = False
        try:
            more = next(self.ending, self) is None
        finally:
            if not more:
                self.bar.close()
                if self.loop is not None:
                    self.loop.quit()
        if more:
            QTimer.singleShot(_BREATH, self._go_on)

    def is_alive(self) -> bool:
        """Until it has ended in the thread of the viewer."""
        return True

    def wait(self, timeout: float | None) -> None:
        from qtpy.QtCore import QEventLoop, QTimer

        if not self.job.is_running:
            return
        self.loop = QEventLoop()
        if timeout is not None:
            QTimer.singleShot(int(1000 * timeout), self.loop.quit)
        self.loop.exec()
        self.loop = None


class ThreadDriver:
    """Runs a job in a plain thread; whoever waits for it ends it in his own."""

    def __init__(self, job: DenoisingJob) -> None:
        self.job = job
        self.ending: Ending | None = None
        self.thread = threading.Thread(target=self._run, name="napari-stbn", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        work = self.job.run_in_thread()
        while True:
            try:
                self.job.tell(next(work))
            except StopIteration as stop:
                self.ending = stop.value
                return
            except Exception as error:  # noqa: BLE001  # raised by wait()
                self.ending = Outcome(error=error), []
                return

    def is_alive(self) -> bool:
        return self.thread.is_alive()

    def wait(self, timeout: float | None) -> None:
        self.thread.join(timeout)
        if self.ending is not None:
            for _ in self.job.end(self.ending):
                pass
