"""Rows of the denoise widget: which movie, which settings; and what they say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox, ComboBox, Container, Label, LineEdit, PushButton
from napari.layers import Image, Shapes

from napari_stbn._start import WEIGHTS
from napari_stbn.devices import available_devices
from napari_stbn.noise import PoissonGaussianNoise
from napari_stbn.settings import RunSettings
from napari_stbn.training import TrainingConfig

from ._own_layers import movie_of, movies
from .compare import KEY
from .layers import LayerStack, layer_stack
from .layout import Rows, fill_dock, line, wrap
from .preferences import Preferences
from .rows import field_rows, number_row
from .run_panel import RunPanel
from .scripting import find_region

if TYPE_CHECKING:
    import napari

__all__ = ["Form", "positions"]

NOISE = {
    "measured": "estimate",
    "Gaussian, measured": "gaussian",
    "as given below": "given",
    "none (no uncertainty)": "none",
}
REGIONS = {"whole frames": "whole", "what is visible": "visible"}
_OWN_ROWS = ("noise", "start", "device", "training")  # fields of RunSettings with rows made here
_OWN_TRAINING = ("max_steps", "time_budget", "pace", "sampled_pixels")


class Form(Container[Any]):
    """All rows and buttons, without what they do.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(labels=False, name="STBN")
        self._viewer = viewer
        self.model_path: Path | None = None
        self._filling = False  # rows are being filled by us, not by the user
        self._make_rows()

    # ------------------------------------------------------------ rows

    def _make_rows(self) -> None:
        """All rows, in the order of reading."""
        self.layer = ComboBox(
            name="layer", label="Movie", choices=self._movies, tooltip="image layer to denoise"
        )
        self.axes = LineEdit(
            name="axes",
            label="Axes",
            tooltip="one letter for each dimension: T frames, C channels, Z planes, Y rows, "
            "X columns, S colours",
        )
        self.channels = LineEdit(
            name="which_channels", label="Channels", value="all", tooltip="all, or such as 0, 2-3"
        )
        self.planes = LineEdit(
            name="which_planes", label="Planes", value="all", tooltip="all, or such as 4-9"
        )
        self.region = ComboBox(
            name="region",
            label="Region",
            choices=self._regions,
            tooltip="pixels of the frames; draw a Shapes layer to choose some",
        )
        rows = field_rows(RunSettings, _OWN_ROWS)
        rows["joint"] = rows.pop("channels")
        rows["joint"].name = "joint"
        self.preset, self.time_budget = rows.pop("preset"), rows.pop("time_budget")
        self.flow, self.correlation = rows.pop("flow"), rows.pop("correlation")
        self.device = ComboBox(
            name="device", label="Device", choices=_devices(), tooltip="where it is computed"
        )
        self.noise = ComboBox(
            name="noise",
            label="Noise",
            choices=list(NOISE.items()),
            tooltip="how the noise of the camera is known",
        )
        self.gain = number_row(
            float, 1, 1e-9, 1e9, name="gain", label="   gain", tooltip="counts per photoelectron"
        )
        self.offset = number_row(
            float, 0, -1e9, 1e9, name="offset", label="   offset", tooltip="counts in the dark"
        )
        self.read_noise = number_row(
            float, 0, 0, 1e9, name="read_noise", label="   read noise", tooltip="photoelectrons rms"
        )
        self.start = ComboBox(
            name="start",
            label="Start from",
            choices=self._starts,
            tooltip="weights learnt on simulated movies, random ones, or those of a loaded model",
        )
        self.more = CheckBox(name="more", label="", text="Advanced", value=False)
        self.training = field_rows(TrainingConfig, _OWN_TRAINING)
        self.threads = number_row(
            int,
            0,
            0,
            256,
            name="threads",
            label="Threads",
            tooltip="of the computation on the CPU; 0 leaves one core to the screen",
        )
        self.flow_density = number_row(
            int,
            16,
            4,
            256,
            name="flow_density",
            label="Flow arrows",
            tooltip="pixels between two arrows",
        )
        self.preview, self.show_flow, self.show_residual = (
            CheckBox(name=name, label="", text=text, tooltip=tip)
            for name, text, tip in (
                ("preview", "Live preview", "show the frame on the screen while fitting"),
                ("show_flow", "Flow layers", "add the motion that was used"),
                ("show_residual", "Residual layer", "add what was removed: noisy - denoised"),
            )
        )
        self.advanced: dict[str, Any] = {
            **rows,
            **self.training,
            "threads": self.threads,
            "flow_density": self.flow_density,
            "show_flow": self.show_flow,
            "show_residual": self.show_residual,
        }
        self.about = wrap(Label(name="about", label="", value=""))
        self.run = RunPanel()
        self.buttons = {
            name: PushButton(name=name, text=text, tooltip=tip)
            for name, text, tip in (
                ("resume", "Resume unfinished fit", "of this movie and settings: it broke off"),
                ("load", "Load model…", "a .stbn file; or drop it on the viewer"),
                ("save", "Save model…", "keep the fitted model in a .stbn file"),
                ("apply", "Denoise with this model", "without a fit"),
                ("side_by_side", "Side by side", "original and denoised; press again to end"),
                ("swipe", "Swipe", "drag the line over the picture; press again to end"),
                ("script", "Copy as script", "Python that does this run again, to the clipboard"),
                ("report", "Report…", "an HTML page that checks the result"),
                ("defaults", "Restore defaults", "forget the settings of earlier sessions"),
            )
        }
        self.hint = wrap(Label(name="hint", label="", value=f"{KEY} toggles original and denoised"))
        what = [self.layer, self.axes, self.channels, self.planes, self.region]
        how = [self.preset, self.time_budget, self.device, self.flow, self.start]
        noise = [self.noise, self.gain, self.offset, self.read_noise, self.correlation]
        self.choices = Rows([*what, *how, *noise, self.preview, self.more])
        self.details = Rows(list(self.advanced.values()))
        self.details.setVisible(False)
        pairs = (("load", "save"), ("apply",), ("side_by_side", "swipe"), ("script", "report"))
        lines = [line([self.buttons[name] for name in pair]) for pair in pairs]
        fill_dock(
            self.native,
            [
                *(self.choices, self.details, self.about.native, *lines),
                *(self.hint.native, self.buttons["defaults"].native),
            ],
            foot=[self.buttons["resume"].native, self.run.native],
        )
        self.buttons["resume"].native.setVisible(False)

    def reset_choices(self, *_args: Any) -> None:
        """Offer the layers that there are now; napari calls it when they change."""
        for row in (self.layer, self.region, self.start):
            row.reset_choices()

    def choose_active(self) -> None:
        """Take the active layer, or the movie that it was made from, if there is one."""
        movie = movie_of(self._viewer.layers, self._viewer.layers.selection.active)
        if movie is not None:
            self.layer.value = movie

    def _movies(self, _widget: object = None) -> list[Image]:
        return movies(self._viewer.layers)

    def _regions(self, _widget: object = None) -> list[tuple[str, Any]]:
        drawn = [layer for layer in self._viewer.layers if isinstance(layer, Shapes)]
        return [*REGIONS.items(), *((f"shapes in {layer.name}", layer) for layer in drawn)]

    def _starts(self, _widget: object = None) -> list[tuple[str, str]]:
        choices = [("fresh", "fresh")]
        if any(path.exists() for path in WEIGHTS):
            choices.insert(0, ("pretrained", "pretrained"))
        if self.model_path is not None:
            choices.append((self.model_path.name, str(self.model_path)))
        return choices

    # ------------------------------------------------------------ what the rows say

    def settings(self) -> RunSettings:
        """The rows as settings of a run."""
        noise: Any = self.noise.value
        if noise == "given":
            noise = PoissonGaussianNoise(self.gain.value, self.offset.value, self.read_noise.value)
        config = RunSettings(preset=self.preset.value).training_config()
        changed = {
            name: row.value
            for name, row in self.training.items()
            if row.value != getattr(config, name)
        }
        return RunSettings(
            preset=self.preset.value,
            time_budget=self.time_budget.value or None,
            max_steps=int(self.advanced["max_steps"].value) or None,
            device=self.device.value,
            noise=None if noise == "none" else noise,
            correlation=self.correlation.value,
            flicker=self.advanced["flicker"].value,
            flow=self.flow.value,
            start=self.start.value,
            channels=self.advanced["joint"].value,
            seed=self.advanced["seed"].value,
            precision=self.advanced["precision"].value,
            memory_limit=self.advanced["memory_limit"].value or None,
            turns=int(self.advanced["turns"].value) or None,
            training=changed,
        )

    def preferences(self) -> Preferences:
        """The rows as preferences for the next session."""
        return Preferences.of(
            self.settings(),
            threads=self.threads.value,
            flow_density=self.flow_density.value,
            preview=self.preview.value,
            show_flow=self.show_flow.value,
            show_residual=self.show_residual.value,
        )

    def use(self, preferences: Preferences) -> None:
        """Fill the rows."""
        settings = preferences.settings()
        devices = [value for _, value in _devices()]
        self._filling = True
        try:
            self.preset.value = settings.preset
            self.time_budget.value = settings.time_budget or 0
            self.device.value = settings.device if settings.device in devices else "auto"
            self.flow.value = settings.flow
            self.correlation.value = settings.correlation
            self.advanced["flicker"].value = settings.flicker
            self.advanced["max_steps"].value = settings.max_steps or 0
            self.advanced["joint"].value = settings.channels
            self.advanced["seed"].value = settings.seed
            self.advanced["precision"].value = settings.precision
            self.advanced["memory_limit"].value = settings.memory_limit or 0
            self.advanced["turns"].value = settings.turns or 0
            config = settings.training_config()
            for name, row in self.training.items():
                row.value = getattr(config, name)
            for name in ("threads", "flow_density", "preview", "show_flow", "show_residual"):
                getattr(self, name).value = getattr(preferences, name)
        finally:
            self._filling = False
        self._preset = self.preset.value

    def source(self) -> LayerStack:
        """The chosen part of the chosen layer.

        Raises
        ------
        ValueError
            If it cannot be denoised, or a row cannot be read.
        """
        if self.layer.value is None:
            raise ValueError("there is no image layer; open a movie first")
        axes = self.axes.value or None
        source = layer_stack(
            self.layer.value,
            axes=axes,
            region=find_region(self._viewer, self.layer.value, axes, self.region.value),
            channels=positions(self.channels.value, "channels"),
            planes=positions(self.planes.value, "planes"),
        )
        source.stack.check()
        return source


def _devices() -> list[tuple[str, str]]:
    """What a person calls the devices of this machine, and their names."""
    found = available_devices()
    return [("automatic", "auto"), *((words, name) for name, words in found.items())]


def positions(text: str, word: str) -> list[int] | None:
    """Numbers that were written such as ``0, 2-4``; None for all.

    Raises
    ------
    ValueError
        If they cannot be read.
    """
    text = text.strip()
    if text.lower() in ("", "all"):
        return None
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal()) or int(last) < int(first):
            raise ValueError(f'{word} must be "all" or numbers such as 0, 2-4; got "{text}"')
        chosen += range(int(first), int(last) + 1)
    return chosen
