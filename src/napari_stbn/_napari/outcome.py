"""What comes of a run, in the widget: a model, a script, a report, a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_info
from qtpy.QtWidgets import QApplication

from napari_stbn.denoiser import Denoiser

from ._dialogs import ask_open, ask_save
from ._threads import threads_for
from .compare import SideBySide, Swipe, find_pairs
from .form import Form
from .reporting import write_job_report
from .script import run_script

if TYPE_CHECKING:
    import napari

    from .job import DenoisingJob

__all__ = ["Outcome"]


class Outcome(Form):
    """The rows, and what can be done with the last run and the model at hand.

    Attributes
    ----------
    denoiser : Denoiser or None
        The model at hand, fitted or loaded.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.denoiser: Denoiser | None = None
        self._model_file: Path | None = None  # that holds the denoiser at hand
        self._comparison: SideBySide | Swipe | None = None

    def load_model(self, path: str | Path | None = None) -> None:
        """Take a saved model, to denoise with or to start from.

        Parameters
        ----------
        path : path, optional
            Asked for when None.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, or it is not a model of ours.
        """
        path = path or ask_open(self.native, "Load model", "Models (*.stbn)")
        if path is None:
            return
        self.denoiser = Denoiser.load(path, device=self.device.value)
        self.model_path = self._model_file = Path(path)
        self.start.reset_choices()
        self.start.value = str(path)
        show_info(f"{self.model_path.name} is ready: denoise with it, or start a fit from it")
        self._enable()

    def save_model(self, path: str | Path | None = None) -> None:
        """Keep the fitted model in a file.

        Parameters
        ----------
        path : path, optional
            Asked for when None; an existing file is then replaced, since the dialog asked.

        Raises
        ------
        ValueError
            If there is no model yet.
        FileExistsError
            If a given path exists.
        """
        if self.denoiser is None:
            raise ValueError("there is no model yet; fit one first")
        asked = path is None
        path = path or ask_save(self.native, "Save model", "model.stbn", "Models (*.stbn)")
        if path is not None:
            self._model_file = self.denoiser.save(path, overwrite=asked)
            show_info(f"saved {self._model_file}")

    def script(self) -> str:
        """A Python script of the last run, or of the one that the rows describe."""
        job = self._done()
        if job is not None:
            model = None
            if job.request.model is not None:
                at_hand = job.request.model is self.denoiser
                model = str(self._model_file) if at_hand and self._model_file else ""
            return run_script(
                job.source,
                job.request.settings,
                threads=threads_for(job.request.threads),
                report=job.report,
                model=model,
            )
        return run_script(self.source(), self.settings(), threads=threads_for(self.threads.value))

    def copy_script(self) -> None:
        """Put `script` on the clipboard."""
        clipboard = QApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(self.script())
            show_info("the script is on the clipboard")

    def write_report(self, path: str | Path | None = None) -> None:
        """Write an HTML page that checks the last result.

        Raises
        ------
        ValueError
            If there is no result yet, or its layers are gone.
        """
        job = self._done()
        if job is None:
            raise ValueError("there is no result yet; denoise a movie first")
        if job.result is None:
            raise ValueError(
                "the denoised layer was removed, and its result with it; denoise the movie again"
            )
        asked = path is None
        path = path or ask_save(self.native, "Write report", "report.html", "Report (*.html)")
        if path is not None:
            show_info(f"wrote {write_job_report(path, job, overwrite=asked)}")

    def side_by_side(self) -> None:
        """Show original and denoised side by side, or go back."""
        self._compare(SideBySide)

    def swipe(self) -> None:
        """Show original and denoised left and right of a line, or go back."""
        self._compare(Swipe)

    def _compare(self, kind: type[SideBySide | Swipe]) -> None:
        before, self._comparison = self._comparison, None
        was_on = before is not None and before.is_on
        if before is not None:
            before.off()
        if was_on and isinstance(before, kind):
            return
        pairs = find_pairs(self._viewer)
        if not pairs:
            raise ValueError("there is no denoised layer to compare with its original yet")
        selected = [pair for pair in pairs if self._viewer.layers.selection & set(pair)]
        self._comparison = kind(self._viewer, *(selected or pairs)[-1])
        self._comparison.on()

    def _done(self) -> DenoisingJob | None:
        """The last run, if it is done."""
        job = self.run.job
        return job if job is not None and job.state == "done" else None

    def _enable(self) -> None:
        """Offer what can be done now."""
        idle = self.run.job is None or not self.run.job.is_running
        self.buttons["save"].enabled = self.denoiser is not None and idle
        self.buttons["apply"].enabled = self.denoiser is not None and idle
        self.buttons["report"].enabled = self._done() is not None
