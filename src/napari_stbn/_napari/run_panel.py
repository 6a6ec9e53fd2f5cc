"""Buttons, progress and loss curve of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicgui.widgets import Label, ProgressBar, PushButton
from psygnal import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_stbn._words import counted

from ._drivers import PHASES
from .chart import LossChart
from .job import PLAIN_ERRORS, running_job
from .layout import line, wrap

if TYPE_CHECKING:
    from ._run import RunProgress
    from .job import DenoisingJob

__all__ = ["RunPanel", "duration_in_words", "in_words"]

# White on this blue has a contrast of 5 in both themes.
_PRIMARY = """
QPushButton { padding: 6px; font-weight: bold; }
QPushButton:enabled { background-color: #2f6db5; color: white; }
QPushButton:enabled:hover { background-color: #3b7ecb; }
"""


class RunPanel:
    """What a run shows and what one can do with it.

    Attributes
    ----------
    native : QWidget
    job : DenoisingJob or None
        The one that is shown: the last one of this panel, or one that ran when it was made.
    ended : Signal
        Emits the state of that job at its end, when the panel shows it.
    fit, pause, stop, cancel : PushButton
    progress : ProgressBar
    status : Label
    chart : LossChart
    """

    ended = Signal(str)

    def __init__(self) -> None:
        self.fit = PushButton(text="Fit and denoise", tooltip="Learn from this movie, denoise it")
        self.fit.native.setStyleSheet(_PRIMARY)
        self.pause = PushButton(text="Pause", tooltip="Rest; press again to go on")
        self.stop = PushButton(
            text="Stop and keep", tooltip="End the fit now and denoise with what was learnt"
        )
        self.cancel = PushButton(text="Cancel", tooltip="End now, without a result")
        self.progress = ProgressBar(min=0, max=100, value=0)
        self.status = wrap(Label(value=""))
        self.chart = LossChart()
        self.native = QWidget()
        layout = QVBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        buttons = line([self.pause, self.stop, self.cancel])
        for widget in (
            *(self.fit.native, buttons, self.progress.native, self.status.native),
            self.chart,
        ):
            layout.addWidget(widget)
        self.native.setLayout(layout)
        self.job: DenoisingJob | None = None
        self._words = ""  # where the run stands, also while it rests
        self.pause.changed.connect(self._pause)
        self.stop.changed.connect(self._stop)
        self.cancel.changed.connect(self._cancel)
        self.native.destroyed.connect(self.release)  # with the window, when the viewer is closed
        running = running_job()
        if running is None:
            self._enable()
        else:
            self.follow(running)

    def follow(self, job: DenoisingJob) -> None:
        """Show a job until it ends."""
        self.release()
        self.clear()
        self.job = job
        self._say("starting")
        job.progressed.connect(self._progressed)
        job.finished.connect(self._finished)
        self._enable()

    def clear(self) -> None:
        """Show nothing of a run that has ended."""
        if self.job is None or not self.job.is_running:
            self.chart.clear()
            self.progress.value = 0
            self._say("")

    def release(self, *_args: object) -> None:
        """Forget the job; it goes on."""
        if self.job is not None:
            self.job.progressed.disconnect(self._progressed, missing_ok=True)
            self.job.finished.disconnect(self._finished, missing_ok=True)
            self.job = None

    def _progressed(self, progress: RunProgress) -> None:
        for step in progress.steps:
            self.chart.add(step.step, step.loss, step.held_out)
        if progress.steps:
            self.chart.update()
        self.progress.value = int(100 * progress.fraction)
        self._say(in_words(progress))

    def _finished(self, state: str) -> None:
        self.progress.value = 100 if state == "done" else 0
        if self.job is not None:
            self._say(_end_in_words(self.job))
        self._enable()
        self.ended.emit(state)

    def _say(self, words: str) -> None:
        """Where the run stands; while it rests, that it does."""
        self._words = words
        paused = self.job is not None and self.job.is_paused
        self.status.value = "paused" if paused else words

    def _pause(self) -> None:
        if self.job is None:
            return
        if self.job.is_paused:
            self.job.resume()
        else:
            self.job.pause()
        self._say(self._words)
        self._enable()

    def _stop(self) -> None:
        if self.job is not None:
            self.job.stop()
            self._say("stopping; denoising with what was learnt comes next")
            self._enable()

    def _cancel(self) -> None:
        if self.job is not None:
            self.job.cancel()
            self._say("cancelling")
            self._enable()

    def _enable(self) -> None:
        """Offer what can be done now."""
        job = self.job if self.job is not None and self.job.is_running else None
        going_on = job is not None and not job.controls.cancelled
        fits = job is not None and job.request.model is None and not job.controls.stopped
        self.fit.enabled = job is None and running_job() is None
        self.pause.enabled = self.cancel.enabled = going_on
        self.stop.enabled = going_on and fits
        self.pause.text = "Resume" if job is not None and job.is_paused else "Pause"


def in_words(progress: RunProgress) -> str:
    """Where a run stands, in one line."""
    words = [PHASES[progress.phase]]
    if progress.steps:
        words.append(f"step {progress.steps[-1].step}")
    if progress.steps_per_second:
        words.append(f"{progress.steps_per_second:.1f} steps/s")
    if progress.remaining is not None:
        words.append(f"{duration_in_words(progress.remaining)} left")
    return " · ".join(words)


def _end_in_words(job: DenoisingJob) -> str:
    """How a run ended, in one line."""
    if job.state == "done":
        report = job.report
        steps = counted(report["steps"], "step")
        fitted = f"{steps} in {report['fit_seconds']:.0f} s, " * bool(job.request.model is None)
        return f"done: {fitted}denoised in {report['denoise_seconds']:.0f} s"
    if job.state == "failed":
        kind = "" if isinstance(job.error, PLAIN_ERRORS) else f"{type(job.error).__name__}: "
        kept = "; the fitted model is kept" * (job.denoiser is not None)
        return f"{kind}{job.error}{kept}"
    if job.controls.stopped and not job.controls.cancelled:
        return "stopped before anything was learnt; nothing was added"
    return "cancelled; nothing was added"


def duration_in_words(seconds: float) -> str:
    """Seconds for a person, in the two largest units that say something."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count) or "0 s"
