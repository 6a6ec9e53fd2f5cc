"""The widget as napari opens it: rows, what is said before a run, and every button."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

import torch
from napari.utils.notifications import Notification, notification_manager
from npe2 import PluginManager, PluginManifest
from scipy import ndimage

import napari_stbn as stbn
from napari_stbn._napari.form import positions
from napari_stbn._napari.run_panel import duration_in_words
from napari_stbn.settings import RunSettings
from napari_stbn.training import TrainingConfig

MANIFEST = Path(stbn.__file__).parent / "napari.yaml"
SCENE = stbn.simulate((6, 32, 40), seed=0)
MOVIE = SCENE.noisy


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Of this thread, as the job has it: numba, which napari loads for labels, changes it."""
    torch.set_num_threads(1)


@pytest.fixture
def viewer(plugin_settings: None, npe2pm: PluginManager, make_napari_viewer: Any) -> Any:
    """A viewer that knows our plugin, with settings of its own."""
    npe2pm.register(PluginManifest.from_file(MANIFEST))
    return make_napari_viewer()


def open_widget(viewer: Any) -> Any:
    """The widget through the manifest, set to a fit of two small steps."""
    _, widget = viewer.window.add_plugin_dock_widget("napari-stbn", "Denoise time-lapse")
    widget.preset.value = "preview"
    widget.device.value = "cpu"
    widget.advanced["max_steps"].value = 2
    for name, value in {"clip_frames": 4, "clip_size": 16, "batch": 1, "checks": 2}.items():
        widget.training[name].value = value
    return widget


@pytest.fixture
def widget(viewer: Any) -> Any:
    """The widget of a viewer with one movie."""
    viewer.add_image(MOVIE, name="cells")
    return open_widget(viewer)


@pytest.fixture
def looked(qtbot: Any) -> Callable[[Any], str]:
    """Wait for the look at the movie; what is said about it."""

    def wait(widget: Any) -> str:
        qtbot.waitUntil(lambda: "looking at" not in widget.about.value, timeout=20_000)
        return str(widget.about.value)

    return wait


@pytest.fixture
def notes() -> Any:
    """Notifications of this test."""
    seen: list[Notification] = []
    notification_manager.notification_ready.connect(seen.append)
    yield seen
    notification_manager.notification_ready.disconnect(seen.append)


def last_note(notes: list[Any]) -> str:
    return str(notes[-1].message) if notes else ""


# ---------------------------------------------------------------- rows and settings


def test_each_setting_has_a_row(widget: Any) -> None:
    own = {"preset", "time_budget", "device", "noise", "correlation", "flow", "start"}
    for row in fields(RunSettings):
        if row.name in own:
            assert hasattr(widget, row.name), row.name
        elif row.name not in ("training", "channels"):
            assert row.name in widget.advanced, row.name
    assert "joint" in widget.advanced, "channels says which ones; joint says how"
    for row in fields(TrainingConfig):
        if row.name not in ("max_steps", "time_budget", "pace", "sampled_pixels"):
            assert row.name in widget.training, row.name
            assert widget.training[row.name].tooltip
    assert not widget.details.isVisibleTo(widget.native)
    widget.more.value = True
    assert widget.details.isVisibleTo(widget.native)


def test_settings_say_what_the_rows_say(widget: Any) -> None:
    widget.time_budget.value = 45
    widget.flow.value = "none"
    widget.noise.value = "gaussian"
    widget.advanced["seed"].value = 7
    widget.advanced["joint"].value = "separate"
    widget.advanced["precision"].value = "float32"
    widget.training["learning_rate"].value = 1e-4
    settings = widget.settings()
    assert settings == RunSettings(
        preset="preview",
        time_budget=45,
        max_steps=2,
        device="cpu",
        noise="gaussian",
        flow="none",
        start=widget.start.value,
        channels="separate",
        seed=7,
        precision="float32",
        training=settings.training,
    )
    changed = {"clip_frames": 4, "clip_size": 16, "batch": 1, "checks": 2}
    assert dict(settings.training) == {**changed, "learning_rate": 1e-4}
    widget.noise.value = "none"
    assert widget.settings().noise is None
    widget.time_budget.value = 0
    widget.advanced["max_steps"].value = 0
    assert (widget.settings().time_budget, widget.settings().max_steps) == (None, None)


@pytest.mark.parametrize("preset", ["auto", "preview", "best", "paper"])
def test_untouched_rows_of_the_fit_are_the_presets(viewer: Any, preset: str) -> None:
    _, widget = viewer.window.add_plugin_dock_widget("napari-stbn", "Denoise time-lapse")
    widget.preset.value = preset
    assert widget.settings().training == {}
    config = RunSettings(preset=preset).training_config()  # type: ignore[arg-type]
    for name, row in widget.training.items():
        assert row.value == getattr(config, name), name


def test_another_preset_changes_only_rows_that_were_not_touched(viewer: Any) -> None:
    _, widget = viewer.window.add_plugin_dock_widget("napari-stbn", "Denoise time-lapse")
    widget.preset.value = "preview"
    widget.training["patience"].value = 3
    widget.preset.value = "paper"
    paper = RunSettings(preset="paper").training_config()
    assert widget.training["clip_size"].value == paper.clip_size == 96
    assert widget.training["learning_rate"].value == pytest.approx(paper.learning_rate)
    assert widget.training["patience"].value == 3
    assert dict(widget.settings().training) == {"patience": 3}
    widget.preset.value = "preview"
    assert widget.training["clip_size"].value == 32
    assert dict(widget.settings().training) == {"patience": 3}


# ---------------------------------------------------------------- layers


def test_choices_follow_the_layers(viewer: Any) -> None:
    widget = open_widget(viewer)
    assert widget.layer.choices == ()
    assert "open a movie" in widget.about.value
    cells = viewer.add_image(MOVIE, name="cells")
    assert widget.layer.value is not None
    assert widget.axes.value == "TYX"
    viewer.add_labels(MOVIE.astype(int), name="labels")
    viewer.add_image(MOVIE, name="other")
    assert [layer.name for layer in widget.layer.choices] == ["cells", "other"]
    assert widget.layer.value.name == "cells", "another layer must not change the choice"
    cells.name = "renamed"
    words = [widget.layer.native.itemText(i) for i in range(widget.layer.native.count())]
    assert sorted(words) == ["other", "renamed"]
    viewer.layers.remove("renamed")
    assert [layer.name for layer in widget.layer.choices] == ["other"]
    viewer.layers.remove("other")
    assert widget.layer.choices == ()


def test_nothing_is_said_of_a_movie_that_is_gone(
    viewer: Any, widget: Any, looked: Callable[[Any], str]
) -> None:
    assert "Noise of a pixel" in looked(widget)
    viewer.layers.clear()
    assert widget.about.value == "⚠ there is no image layer; open a movie first"
    assert (widget.axes.value, widget.inspection) == ("", None)
    assert (widget.gain.value, widget.offset.value, widget.read_noise.value) == (1, 0, 0)
    assert widget.noise.value == "estimate"


def test_a_movie_that_changes_is_looked_at_again(
    viewer: Any, widget: Any, looked: Callable[[Any], str]
) -> None:
    looked(widget)
    cells, before = viewer.layers["cells"], widget.inspection
    cells.data = np.repeat(MOVIE[:1], 6, 0)
    assert "The frames are all the same" in looked(widget)
    cells.data = np.stack([MOVIE, MOVIE])
    assert widget.axes.value == "CTYX"
    assert looked(widget)
    assert widget.inspection is not before


def test_a_region_that_is_drawn_anew_is_looked_at_again(
    viewer: Any, widget: Any, looked: Callable[[Any], str]
) -> None:
    box = np.array([[0, 4, 8], [0, 4, 29], [0, 21, 29], [0, 21, 8]])
    drawn = viewer.add_shapes([box], shape_type="rectangle", name="box")
    widget.region.value = drawn
    looked(widget)
    drawn.data = [box + np.array([0, 2, 2])]
    assert "looking at" in widget.about.value
    looked(widget)
    widget.region.value = "whole"
    looked(widget)
    drawn.data = [box]
    assert "looking at" not in widget.about.value


def test_the_widget_opens_with_the_selected_layer(viewer: Any) -> None:
    viewer.add_image(MOVIE, name="first")
    second = viewer.add_image(MOVIE, name="second")
    viewer.add_image(MOVIE, name="third")
    viewer.layers.selection = {second}
    assert open_widget(viewer).layer.value.name == "second"


def test_axes_are_guessed_again_for_another_layer(viewer: Any) -> None:
    viewer.add_image(MOVIE, name="cells")
    five = np.zeros((4, 3, 2, 16, 16), np.uint16)
    many = viewer.add_image(five, name="many", axis_labels=("t", "z", "c", "y", "x"))
    widget = open_widget(viewer)
    widget.layer.value = viewer.layers["cells"]
    assert widget.axes.value == "TYX"
    for row in (widget.channels, widget.planes):
        assert not row.native.isVisibleTo(widget.native)
    widget.layer.value = many
    assert widget.axes.value == "TZCYX"
    for row in (widget.channels, widget.planes):
        assert row.native.isVisibleTo(widget.native)
    widget.axes.value = "TYX"
    assert "5" in widget.about.value, "three letters for five dimensions"
    assert widget.about.value.startswith("⚠")


def test_channels_and_planes_are_read_as_people_write_them(viewer: Any) -> None:
    data = np.zeros((4, 5, 2, 16, 16), np.uint16)
    viewer.add_image(data, name="many", axis_labels=("t", "z", "c", "y", "x"))
    widget = open_widget(viewer)
    widget.planes.value, widget.channels.value = "1-3", "0"
    assert widget.source().stack.shape == (4, 3, 1, 16, 16)
    widget.planes.value = "first"
    with pytest.raises(ValueError, match='planes must be "all" or numbers such as 0, 2-4; got'):
        widget.source()
    assert "planes must be" in widget.about.value
    widget.planes.value = "9"
    assert "there is no plane 9" in widget.about.value
    widget.planes.value = "all"
    assert "plane" not in widget.about.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", None),
        (" ALL ", None),
        ("", None),
        ("0", [0]),
        ("0, 2-3", [0, 2, 3]),
        ("4 - 6,1", [4, 5, 6, 1]),
    ],
)
def test_positions(text: str, expected: list[int] | None) -> None:
    assert positions(text, "planes") == expected


@pytest.mark.parametrize("text", ["-1", "a", "1-", "1,,2", "2.5", "3-1", "²"])
def test_positions_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match=r'planes must be "all" or numbers'):
        positions(text, "planes")


def test_a_region_may_be_drawn(viewer: Any) -> None:
    viewer.add_image(MOVIE, name="cells")
    widget = open_widget(viewer)
    assert list(widget.region.choices) == ["whole", "visible"]
    box = np.array([[0, 4, 8], [0, 4, 29], [0, 21, 29], [0, 21, 8]])
    viewer.add_shapes([box], shape_type="rectangle", name="box")
    words = [widget.region.native.itemText(i) for i in range(widget.region.native.count())]
    assert words == ["whole frames", "what is visible", "shapes in box"]
    widget.region.value = widget.region.choices[-1]
    assert widget.source().stack.shape == (6, 18, 22)
    layers = widget.fit().wait(60)
    assert layers[0].data.shape == (6, 18, 22)
    viewer.layers.remove("box")
    assert widget.region.value == "whole"


# ---------------------------------------------------------------- before the run


def test_noise_memory_and_time_are_shown(widget: Any, looked: Callable[[Any], str]) -> None:
    said = looked(widget)
    assert "Noise of a pixel: " in said
    assert "GB" in said
    assert "fit at most 30 s" in said
    measured = widget.inspection.noise.model
    assert measured.gain == pytest.approx(SCENE.gain, rel=0.3)
    for name in ("gain", "offset", "read_noise"):
        assert getattr(widget, name).value == pytest.approx(getattr(measured, name), abs=1e-3)
    assert widget.noise.value == "estimate"
    assert widget.settings().noise == "estimate"


def test_what_a_long_run_takes_is_said_in_words(widget: Any, looked: Callable[[Any], str]) -> None:
    looked(widget)
    run = replace(
        widget.inspection.estimate, bytes=int(3.579e12), free=int(2.32e10), denoise_seconds=366_515
    )
    widget._inspected(replace(widget.inspection, estimate=run))
    assert widget.about.value.startswith(
        "About 3.6 TB of 23.2 GB, fit at most 30 s, then denoising about 4 d 5 h."
    )
    endless = replace(run, fit_seconds=float("inf"), denoise_seconds=90)
    widget._inspected(replace(widget.inspection, estimate=endless))
    assert "23.2 GB, denoising about 1 min 30 s." in widget.about.value
    words = {0: "0 s", 59.6: "1 min", 7_199: "1 h 59 min", 7_230: "2 h", 86_400: "1 d"}
    assert {seconds: duration_in_words(seconds) for seconds in words} == words


def test_axes_that_were_corrected_are_no_longer_guessed(
    widget: Any, looked: Callable[[Any], str]
) -> None:
    assert "Axes guessed as TYX" in widget.about.value
    assert "Axes guessed as TYX" in looked(widget)
    widget.axes.value = "YXT"
    assert "guessed" not in widget.about.value
    assert "guessed" not in looked(widget)
    widget.axes.value = "TYX"
    assert "Axes guessed as TYX" in looked(widget)


def test_an_edited_noise_model_is_what_the_fit_uses(
    widget: Any, looked: Callable[[Any], str]
) -> None:
    looked(widget)
    widget.gain.value, widget.offset.value, widget.read_noise.value = 2.5, 99, 1.25
    assert widget.noise.value == "given"
    assert widget.settings().noise == stbn.PoissonGaussianNoise(2.5, 99, 1.25)
    job = widget.fit()
    job.wait(60)
    noise = job.report["noise"][0]
    assert (noise["gain"], noise["offset"], noise["read_noise"]) == (2.5, 99, 1.25)
    widget.preset.value = "balanced"  # a further look leaves the given values alone
    looked(widget)
    assert widget.gain.value == 2.5


def test_a_picture_that_stands_still_is_warned_of(
    viewer: Any, looked: Callable[[Any], str]
) -> None:
    viewer.add_image(np.repeat(MOVIE[:1], 6, 0), name="still")
    assert "⚠ The frames are all the same: is this a movie?" in looked(open_widget(viewer))


def test_correlated_noise_is_warned_of(viewer: Any, looked: Callable[[Any], str]) -> None:
    rng = np.random.default_rng(0)
    smooth = ndimage.uniform_filter1d(rng.normal(size=(12, 64, 64)), 3, axis=2)
    viewer.add_image((smooth * 50 + 500).astype(np.float32), name="rows")
    said = looked(open_widget(viewer))
    assert "⚠" in said
    assert "⚠ Neighbouring pixels share noise" in said


def test_one_frame_is_warned_of_at_once_and_refused(viewer: Any, notes: list[Any]) -> None:
    viewer.add_image(MOVIE[0], name="one")
    widget = open_widget(viewer)
    assert "1 frame" in widget.about.value
    with pytest.raises(ValueError, match="1 frame"):
        widget.fit()
    widget.run.fit.changed.emit(True)  # as the button does
    assert "1 frame" in last_note(notes)
    assert str(notes[-1].severity) == "error"
    assert len(viewer.layers) == 1


def test_without_any_movie_the_button_says_so(viewer: Any, notes: list[Any]) -> None:
    widget = open_widget(viewer)
    widget.run.fit.changed.emit(True)
    assert "there is no image layer; open a movie first" in last_note(notes)


# ---------------------------------------------------------------- run, keep, compare


def test_a_fit_from_a_script_gives_layers(viewer: Any, widget: Any, qtbot: Any) -> None:
    for name in ("save", "apply", "report"):
        assert not widget.buttons[name].enabled
    job = widget.fit()
    assert not widget.run.fit.enabled
    assert widget.run.cancel.enabled
    assert widget.run.stop.enabled
    layers = job.wait(60)
    kinds = ["denoised", "uncertainty", "flow", "flow colour"]
    assert [layer.name for layer in layers] == [f"cells {kind}" for kind in kinds]
    assert widget.denoiser is job.denoiser is not None
    assert widget.run.status.value.startswith("done: 2 steps in")
    assert widget.run.progress.value == 100
    assert "2" in widget.run.chart.summary()
    assert widget.run.fit.enabled
    assert not widget.run.cancel.enabled
    for name in ("save", "apply", "report"):
        assert widget.buttons[name].enabled
    assert widget.layer.value.name == "cells", "results must not take the place of the movie"


def test_what_is_shown_is_chosen(widget: Any) -> None:
    widget.show_flow.value, widget.show_residual.value = False, True
    layers = widget.fit().wait(60)
    assert [layer.name.partition(" ")[2] for layer in layers] == [
        "denoised",
        "uncertainty",
        "residual",
    ]


def test_a_model_is_kept_loaded_started_from_and_used(
    viewer: Any, widget: Any, tmp_path: Path, notes: list[Any]
) -> None:
    with pytest.raises(ValueError, match="there is no model yet; fit one first"):
        widget.save_model(tmp_path / "early.stbn")
    with pytest.raises(ValueError, match="there is no model yet; fit one or load one first"):
        widget.apply()
    first = widget.fit().wait(60)[0]
    path = tmp_path / "cells.stbn"
    widget.save_model(path)
    assert path.is_file()
    assert "saved" in last_note(notes)
    with pytest.raises(FileExistsError, match=r"cells\.stbn"):
        widget.save_model(path)

    widget.denoiser = None
    widget.load_model(path)
    assert "cells.stbn is ready" in last_note(notes)
    assert widget.start.value == str(path)
    assert widget.settings().start == str(path)
    assert widget.buttons["apply"].enabled
    job = widget.apply()
    assert not widget.run.stop.enabled, "there is no fit to stop"
    again = job.wait(60)[0]
    np.testing.assert_array_equal(again.data, first.data)
    assert widget.run.status.value.startswith("done: denoised in")

    warm = widget.fit()
    warm.wait(60)
    assert "cells" in str(warm.report["start"])


@pytest.mark.parametrize("damage", ["truncated", "text", "missing"])
def test_a_damaged_model_is_one_sentence_and_changes_nothing(
    widget: Any, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "bad.stbn"
    if damage == "truncated":
        widget.fit().wait(60)
        good = tmp_path / "good.stbn"
        widget.save_model(good)
        path.write_bytes(good.read_bytes()[:-200])
    elif damage == "text":
        path.write_text("a text")
    before, start = widget.denoiser, widget.start.value
    with pytest.raises((ValueError, FileNotFoundError), match=r"bad\.stbn") as caught:
        widget.load_model(path)
    assert "\n" not in str(caught.value)
    assert widget.denoiser is before
    assert widget.start.value == start


def test_a_report_is_written_when_there_is_a_result(
    viewer: Any, widget: Any, tmp_path: Path, notes: list[Any]
) -> None:
    path = tmp_path / "report.html"
    with pytest.raises(ValueError, match="there is no result yet; denoise a movie first"):
        widget.write_report(path)
    layers = widget.fit().wait(60)
    widget.write_report(path)
    text = path.read_text(encoding="utf-8")
    assert "Denoising report: cells" in text
    assert "held-out" in text
    with pytest.raises(FileExistsError):
        widget.write_report(path)
    with pytest.raises(ValueError, match=r"\.html"):
        widget.write_report(tmp_path / "report.txt")
    viewer.layers.remove(layers[0])
    with pytest.raises(ValueError, match="the denoised layer was removed"):
        widget.write_report()  # before it asks for a file


def test_a_report_of_a_region_of_a_pyramid(viewer: Any, tmp_path: Path) -> None:
    viewer.add_image([MOVIE, MOVIE[:, ::2, ::2]], multiscale=True, name="cells")
    widget = open_widget(viewer)
    widget.fit().wait(60)
    widget.write_report(tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_comparisons_go_on_and_off_and_take_turns(
    viewer: Any, widget: Any, notes: list[Any]
) -> None:
    widget.buttons["swipe"].changed.emit(True)
    assert "there is no denoised layer to compare" in last_note(notes)
    widget.fit().wait(60)
    grid = viewer.canvas.grid
    callbacks = len(viewer.mouse_drag_callbacks)
    widget.side_by_side()
    assert grid.enabled
    widget.side_by_side()
    assert not grid.enabled
    widget.side_by_side()
    widget.swipe()
    assert not grid.enabled, "one comparison at a time"
    assert len(viewer.mouse_drag_callbacks) > callbacks
    widget.swipe()
    assert len(viewer.mouse_drag_callbacks) == callbacks


def test_restore_defaults(widget: Any) -> None:
    widget.time_budget.value = 77
    widget.flow.value = "none"
    widget.threads.value = 2
    widget.advanced["seed"].value = 9
    widget.fit().wait(60)
    widget.restore_defaults()
    assert widget.settings() == replace(RunSettings(), start=widget.start.value)
    assert widget.start.value == RunSettings().start
    assert (widget.threads.value, widget.flow_density.value) == (0, 16)
    assert widget.preview.value
    assert widget.show_flow.value
    assert not widget.show_residual.value


def test_an_error_of_the_fit_is_one_sentence_in_the_widget(
    viewer: Any, qtbot: Any, notes: list[Any]
) -> None:
    viewer.add_image(np.full((6, 32, 32), 7, np.uint16), name="flat")
    widget = open_widget(viewer)
    with pytest.raises(ValueError, match="one value in every frame"):
        widget.fit().wait(60)
    assert "one value in every frame" in widget.run.status.value
    assert widget.run.fit.enabled
    assert len(viewer.layers) == 1
