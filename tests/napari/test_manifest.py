"""The manifest: valid, complete, and each of its entries does what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

import torch
from napari._app_model import get_app_model
from napari.utils.notifications import Notification, notification_manager
from npe2 import PluginManager, PluginManifest
from npe2.manifest.schema import Category

import napari_stbn as stbn
from napari_stbn._napari.job import running_job
from napari_stbn._napari.preferences import Preferences, save_preferences
from napari_stbn.settings import RunSettings

PACKAGE = Path(stbn.__file__).parent
MANIFEST = PACKAGE / "napari.yaml"
MOVIE = stbn.simulate((6, 32, 40), seed=0).noisy
TINY = RunSettings(
    preset="preview",
    max_steps=2,
    device="cpu",
    training={"clip_frames": 4, "clip_size": 16, "batch": 1, "checks": 2},
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Of this thread, as the job has it: numba, which napari loads for labels, changes it."""
    torch.set_num_threads(1)


@pytest.fixture
def viewer(plugin_settings: None, npe2pm: PluginManager, make_napari_viewer: Any) -> Any:
    """A viewer that knows our plugin; a run takes two small steps."""
    npe2pm.register(PluginManifest.from_distribution("napari"))
    npe2pm.register(PluginManifest.from_file(MANIFEST))
    save_preferences(Preferences.of(TINY))
    return make_napari_viewer()


@pytest.fixture
def notes() -> Any:
    """Notifications of this test."""
    seen: list[Notification] = []
    notification_manager.notification_ready.connect(seen.append)
    yield seen
    notification_manager.notification_ready.disconnect(seen.append)


def widget_of(viewer: Any) -> Any:
    """The open denoise widget."""
    return viewer.window.add_plugin_dock_widget("napari-stbn", "Denoise time-lapse")[1]


# ---------------------------------------------------------------- what is written


def test_npe2_finds_nothing_wrong() -> None:
    command = [sys.executable, "-m", "npe2", "validate", "--imports", str(MANIFEST)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "valid" in done.stdout


def test_categories_are_of_the_closed_list() -> None:
    manifest = PluginManifest.from_file(MANIFEST)
    known = {*(getattr(word, "value", word) for word in Category)}
    assert manifest.categories
    assert {getattr(word, "value", word) for word in manifest.categories} <= known


def test_every_command_is_used_and_every_entry_has_its_command() -> None:
    contributions = PluginManifest.from_file(MANIFEST).contributions
    commands = {command.id for command in contributions.commands or ()}
    used = {
        entry.command
        for part in (contributions.widgets, contributions.readers, contributions.sample_data)
        for entry in part or ()
    }
    for items in (contributions.menus or {}).values():
        used |= {item.command for item in items if hasattr(item, "command")}
    assert used == commands


def test_the_copy_at_the_top_is_the_real_file() -> None:
    top = PACKAGE.parents[1] / "napari.yaml"
    if not top.exists():
        pytest.skip("installed without the source tree")
    text = top.read_text(encoding="utf-8")
    assert text in (MANIFEST.read_text(encoding="utf-8"), "src/napari_stbn/napari.yaml")


# ---------------------------------------------------------------- menu


def test_the_commands_are_below_layers_filter(viewer: Any) -> None:
    menus = get_app_model().menus
    ours = [
        item
        for item in menus.get_menu("napari/layers/filter")
        if getattr(item, "submenu", None) == "napari-stbn.filter"
    ]
    assert [item.title for item in ours] == ["STBN denoising"]
    entries = menus.get_menu("napari-stbn.filter")
    assert [entry.command.id for entry in entries] == ["napari-stbn.open", "napari-stbn.again"]
    titles = [entry.command.title for entry in entries]
    shown = ["Denoise time-lapse…", "Denoise with last settings"]
    assert [title.removesuffix(" (STBN denoising)") for title in titles] == shown


@pytest.mark.parametrize(
    ("images", "labels", "enabled"), [(0, 0, 0), (1, 0, 1), (2, 0, 0), (0, 1, 0)]
)
def test_the_entries_want_one_selected_image(
    viewer: Any, images: int, labels: int, enabled: int
) -> None:
    added = [viewer.add_image(MOVIE) for _ in range(images)]
    added += [viewer.add_labels(MOVIE.astype(int)) for _ in range(labels)]
    viewer.layers.selection = set(added)
    context = viewer.layers._ctx
    for entry in get_app_model().menus.get_menu("napari-stbn.filter"):
        assert entry.when is not None
        assert bool(entry.when.eval(context)) == bool(enabled)


def test_the_menu_opens_the_widget_with_the_selected_layer(viewer: Any) -> None:
    first = viewer.add_image(MOVIE, name="first")
    viewer.add_image(MOVIE, name="second")
    viewer.layers.selection = {first}
    get_app_model().commands.execute_command("napari-stbn.open").result()
    assert widget_of(viewer).layer.value.name == "first"
    viewer.layers.selection = {viewer.layers["second"]}
    get_app_model().commands.execute_command("napari-stbn.open").result()
    assert widget_of(viewer).layer.value.name == "second"
    assert running_job() is None


def test_the_menu_denoises_with_the_last_settings(viewer: Any) -> None:
    viewer.add_image(MOVIE, name="other")
    cells = viewer.add_image(MOVIE, name="cells")
    viewer.layers.selection = {cells}
    get_app_model().commands.execute_command("napari-stbn.again").result()
    job = running_job()
    assert job is not None
    layers = job.wait(60)
    assert layers[0].name == "cells denoised"
    made = RunSettings.from_json(layers[0].metadata["napari-stbn"]["settings"])
    assert (made.preset, made.max_steps, dict(made.training)) == ("preview", 2, TINY.training)


def test_the_menu_denoises_the_movie_behind_a_result(viewer: Any, notes: list[Any]) -> None:
    viewer.add_image(MOVIE, name="other")
    viewer.add_image(MOVIE, name="cells")
    for kind in ("uncertainty", "flow colour", "residual", "preview", "denoised"):
        made = {"napari-stbn": {"kind": kind, "source": "cells"}}
        viewer.add_image(MOVIE, name=f"cells {kind}", metadata=made)
    widget = widget_of(viewer)
    assert widget.layer.value.name == "cells", "a widget opened while a result is active"
    assert [layer.name for layer in widget.layer.choices] == ["other", "cells"]
    widget.layer.value = viewer.layers["other"]
    again = get_app_model().commands.execute_command
    again("napari-stbn.again").result()
    job = running_job()
    assert job is not None
    assert job.title == "cells"
    job.cancel()
    assert job.wait(60) == []
    viewer.layers.remove("cells")
    viewer.layers.selection = {viewer.layers["cells denoised"]}
    again("napari-stbn.again").result()
    assert running_job() is None, "the other movie was not selected"
    assert "what it was made from is not open; select the movie to denoise" in notes[-1].message


def test_the_menu_says_what_is_wrong_in_one_sentence(viewer: Any, notes: list[Any]) -> None:
    viewer.add_image(MOVIE[0], name="one")
    get_app_model().commands.execute_command("napari-stbn.again").result()
    assert running_job() is None
    assert len(notes) == 1
    assert "1 frame" in notes[0].message


# ---------------------------------------------------------------- samples and models


def test_a_sample_is_denoised_not_its_truth(viewer: Any) -> None:
    widget = widget_of(viewer)
    truth, noisy = viewer.open_sample("napari-stbn", "simulated_cells")
    assert widget.layer.value.name == noisy.name
    assert [layer.name for layer in widget.layer.choices] == [noisy.name]
    viewer.layers.remove(noisy)
    assert widget.layer.value.name == truth.name, "where there is nothing else"


@pytest.mark.parametrize("key", ["simulated_cells", "simulated_vesicles", "simulated_flashes"])
def test_samples_open_without_a_network(viewer: Any, key: str) -> None:
    layers = viewer.open_sample("napari-stbn", key)
    truth, noisy = layers
    assert truth.name == f"{noisy.name} truth"
    assert not truth.visible
    assert viewer.layers.selection.active.name == noisy.name
    assert noisy.data.ndim == 3
    assert noisy.data.shape == truth.data.shape
    assert widget_of(viewer).layer.value.name == noisy.name
    assert widget_of(viewer).axes.value == "TYX"


def test_a_model_that_is_opened_reaches_the_widget(
    viewer: Any, tmp_path: Path, notes: list[Any]
) -> None:
    denoiser = TINY.denoiser()
    for _ in TINY.fit_steps(denoiser, stbn.Stack(MOVIE, "TYX")):
        pass
    path = denoiser.save(tmp_path / "cells.stbn")
    cells = viewer.add_image(MOVIE, name="cells")
    assert viewer.open(path, plugin="napari-stbn") == []
    assert list(viewer.layers) == [cells]
    widget = widget_of(viewer)
    assert widget.denoiser is not None
    assert widget.start.value == str(path)
    denoised = widget.apply().wait(60)[0]
    expected = denoiser.denoise(stbn.Stack(MOVIE, "TYX")).denoised
    np.testing.assert_array_equal(denoised.data, expected)
    path.write_bytes(b"no model")
    viewer.open(path, plugin="napari-stbn")
    assert "cells.stbn is not an STBN model" in notes[-1].message
    assert widget.denoiser is not None
