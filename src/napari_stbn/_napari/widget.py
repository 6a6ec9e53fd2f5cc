"""The denoise widget: one button, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from napari.layers import Vectors

from napari_stbn.denoiser import Denoiser
from napari_stbn.devices import size_in_words
from napari_stbn.noise import PoissonGaussianNoise
from napari_stbn.settings import RunSettings

from ._axes_of_layers import data_shape
from ._dialogs import Closing, guarded
from ._unfinished_runs import has_unfinished
from ._watching import DataWatch
from .compare import Toggle
from .flow_layers import set_flow_density
from .form import positions
from .inspector import Inspector
from .layers import guess_layer_axes
from .outcome import Outcome
from .preferences import Preferences, load_preferences, save_preferences
from .run_panel import duration_in_words
from .scripting import start_denoising

if TYPE_CHECKING:
    import napari

    from .inspection import Inspection
    from .job import DenoisingJob

__all__ = ["DenoiseWidget"]


class DenoiseWidget(Outcome):
    """Denoise the movie of an image layer.

    Every row and button is an attribute, so that a script can do what a person does:
    ``widget.layer.value = viewer.layers["cells"]; widget.time_budget.value = 60; widget.fit()``.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.inspection: Inspection | None = None
        self._guess = "", ""  # axes, and how they were guessed
        self._toggle = Toggle()
        self._inspector = Inspector(self._inspected)
        self._watch = DataWatch(self._data_changed)
        self._closing = Closing(self)
        self.native.installEventFilter(self._closing)
        self.native.destroyed.connect(self._destroyed)
        self._connect()
        self.run.ended.connect(self._finished)
        self.use(load_preferences())
        self.choose_active()
        self._layer_changed()

    def _connect(self) -> None:
        """Let rows and buttons act."""
        self.layer.changed.connect(self._layer_changed)
        self.axes.changed.connect(self._look)
        self.preset.changed.connect(self._preset_changed)
        self.time_budget.changed.connect(self._describe)
        for row in (self.region, self.channels, self.planes, self.device):
            row.changed.connect(self._look)
        for number in (self.gain, self.offset, self.read_noise):
            number.changed.connect(self._noise_given)
        self.more.changed.connect(self._fold)
        self.flow_density.changed.connect(self._redraw_arrows)
        actions: dict[str, Callable[[], Any]] = {
            "resume": self.resume,
            "load": self.load_model,
            "save": self.save_model,
            "apply": self.apply,
            "side_by_side": self.side_by_side,
            "swipe": self.swipe,
            "script": self.copy_script,
            "report": self.write_report,
            "defaults": self.restore_defaults,
        }
        for name, action in actions.items():
            self.buttons[name].changed.connect(guarded(action))
        self.run.fit.changed.connect(guarded(self.fit))
        self._enable()

    def reset_choices(self, *args: Any) -> None:
        """Offer the layers that there are now; napari calls it when they change."""
        super().reset_choices(*args)
        if self.layer.value is None and self.axes.value:  # the row says nothing of the last one
            self._layer_changed()

    def _layer_changed(self) -> None:
        """Guess the axes of another layer."""
        self.noise.value = "estimate"
        if self.layer.value is not None:
            self._guess = guess_layer_axes(self.layer.value)
            self.axes.value = self._guess[0]
        else:
            self.axes.value, self._guess = "", ("", "")
            self._show_noise(PoissonGaussianNoise(1.0, 0.0, 0.0))
        self._look()

    def _data_changed(self) -> None:
        """Look again; a movie of other dimensions has other axes."""
        layer = self.layer.value
        if layer is not None and len(self.axes.value) != len(data_shape(layer)):
            self._layer_changed()
        else:
            self._look()

    def _look(self) -> None:
        """Show what the axes have, and look at the movie in the background."""
        if self._filling:
            return
        self._watch.watch(self.layer.value, self.region.value)
        letters = self.axes.value.upper()
        self.choices.show_row(self.channels, "C" in letters)
        self.choices.show_row(self.planes, "Z" in letters)
        if self._look_again():
            self.about.value = "\n".join([*self._axes_guessed(), "looking at the movie…"])

    def _look_again(self) -> bool:
        """Look at the movie in the background; False where it cannot be denoised, which is said."""
        try:
            source = self.source()
        except ValueError as error:
            self._inspector.forget()
            self.inspection = None
            self.about.value = f"⚠ {error}"
            return False
        self._inspector.look_at(source.stack, self.settings())
        return True

    def _inspected(self, inspection: Inspection) -> None:
        """Show noise, memory and time."""
        self.inspection = inspection
        job = self.run.job  # while it runs, what is unfinished may be its own fit
        idle = job is None or not job.is_running
        self.buttons["resume"].native.setVisible(inspection.unfinished and idle)
        self._describe()
        if inspection.noise is not None and self.noise.value != "given":
            self._show_noise(inspection.noise.model)

    def _show_noise(self, model: PoissonGaussianNoise) -> None:
        """Fill the rows of the noise, which stays as it is known."""
        self._filling = True
        try:
            self.gain.value, self.offset.value = model.gain, model.offset
            self.read_noise.value = model.read_noise
        finally:
            self._filling = False

    def _describe(self) -> None:
        """Say what the run will take, and what speaks against it."""
        inspection = self.inspection
        if inspection is None:
            return
        lines = self._axes_guessed()
        lines += [f"⚠ {sentence}" for sentence in inspection.warnings]
        run = inspection.estimate
        if run is not None:
            budget = self.time_budget.value or run.fit_seconds
            limited = math.isfinite(budget)
            fit = f"fit at most {duration_in_words(budget)}, then " if limited else ""
            lines.insert(
                0,
                f"About {size_in_words(run.bytes)} of {size_in_words(run.free)}, {fit}"
                f"denoising about {duration_in_words(max(1, run.denoise_seconds))}.",
            )
            self.about.tooltip = run.pieces
        if inspection.noise is not None and inspection.noise.sentence:
            lines.insert(int(run is not None), inspection.noise.sentence)
        self.about.value = "\n".join(lines)

    def _axes_guessed(self) -> list[str]:
        """How the axes were guessed, where the user has not corrected them."""
        letters, sentence = self._guess
        return [sentence] if sentence and self.axes.value.upper() == letters else []

    def _noise_given(self) -> None:
        if not self._filling:
            self.noise.value = "given"

    def _preset_changed(self) -> None:
        """Bring the rows of the fit to the new preset, where the user has not changed them."""
        if self._filling:
            return
        before = RunSettings(preset=self._preset).training_config()
        after = RunSettings(preset=self.preset.value).training_config()
        for name, row in self.training.items():
            if row.value == getattr(before, name):
                row.value = getattr(after, name)
        self._preset = self.preset.value
        self._look()

    def _redraw_arrows(self) -> None:
        """Show the last run's motion at the density that is asked for now."""
        if self.run.job is None or self._filling:
            return
        for layer in self.run.job.layers:
            if isinstance(layer, Vectors) and layer in self._viewer.layers:
                set_flow_density(layer, self.flow_density.value)

    def _fold(self) -> None:
        self.details.setVisible(self.more.value)

    # ------------------------------------------------------------ actions

    def fit(self) -> DenoisingJob:
        """Fit and denoise in the background.

        Raises
        ------
        ValueError
            If the layer cannot be denoised.
        RuntimeError
            If another run is in progress.
        """
        save_preferences(self.preferences())
        return self._begin(None)

    def resume(self) -> DenoisingJob:
        """Go on with a fit to this movie, with these settings, that broke off.

        Errors are those of `fit`, and a ValueError if there is no such fit.
        """
        if not has_unfinished(self.source().stack, self.settings()):
            self.buttons["resume"].native.setVisible(False)
            raise ValueError("there is no unfinished fit of this movie with these settings")
        return self._begin(None, unfinished="resume")

    def apply(self) -> DenoisingJob:
        """Denoise with the model at hand, without a fit.

        Raises
        ------
        ValueError
            If there is no model yet, or the layer cannot be denoised.
        """
        if self.denoiser is None:
            raise ValueError("there is no model yet; fit one or load one first")
        return self._begin(self.denoiser)

    def _begin(
        self, model: Denoiser | None, unfinished: Literal["forget", "resume"] = "forget"
    ) -> DenoisingJob:
        self.run.clear()  # where this is refused, what the last one said is not about this one
        source = self.source()
        job = start_denoising(
            self._viewer,
            source.layer,
            settings=self.settings(),
            axes=source.axes,
            region=self.region.value,
            channels=positions(self.channels.value, "channels"),
            planes=positions(self.planes.value, "planes"),
            model=model,
            flow=self.show_flow.value,
            residual=self.show_residual.value,
            flow_density=self.flow_density.value,
            threads=self.threads.value,
            preview=self.preview.value and model is None,
            unfinished=unfinished,
        )
        self.buttons["resume"].native.setVisible(False)
        self.run.follow(job)
        self._enable()
        return job

    def _finished(self, _state: str) -> None:
        job = self.run.job
        if job is not None and job.denoiser is not None:
            if job.request.model is None:
                self._model_file = None  # of the model that was there before
            self.denoiser = job.denoiser
        self._enable()
        self._look_again()  # a fit that broke off can be gone on with

    def restore_defaults(self) -> None:
        """Forget the settings of earlier sessions."""
        save_preferences(Preferences())
        self.use(Preferences())
        self.start.value = RunSettings().start
        self._layer_changed()

    # ------------------------------------------------------------ open and close

    def opened(self) -> None:
        """Take the key."""
        self._toggle.bind(self._viewer)

    def _destroyed(self) -> None:
        """The window is gone: nothing may touch the rows any more."""
        self._inspector.silence()
        self._watch.watch()
        self.run.release()

    def closed(self) -> None:
        """Give back all that is not ours; a job goes on."""
        self._toggle.unbind()
        self._inspector.forget()
        self._watch.watch()
        self.run.release()
        if self._comparison is not None:
            self._comparison.off()
            self._comparison = None
