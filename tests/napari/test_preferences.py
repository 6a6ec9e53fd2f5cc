"""Settings outlast the session, on the plugin's page of napari's Preferences."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest

pytest.importorskip("napari", reason="napari is not installed")

from npe2 import PluginManager, PluginManifest

import napari_stbn as stbn
from napari import settings as napari_settings
from napari_stbn._napari.preferences import Preferences, load_preferences, save_preferences
from napari_stbn.flow import FlowMethod
from napari_stbn.settings import RunSettings

MANIFEST = Path(stbn.__file__).parent / "napari.yaml"


@pytest.fixture
def plugin(plugin_settings: None, npe2pm: PluginManager) -> PluginManifest:
    """Our plugin, with settings in a folder of this test."""
    manifest: PluginManifest = PluginManifest.from_file(MANIFEST)
    npe2pm.register(manifest)
    return manifest


def new_session() -> None:
    """Forget all that is not in files, as the end of napari does."""
    napari_settings._clear_plugin_settings_cache()


def properties() -> dict[str, Any]:
    """The properties of our page, by name."""
    manifest = PluginManifest.from_file(MANIFEST)
    pages = manifest.contributions.configurations
    assert pages is not None
    assert list(pages) == ["denoising"]
    return dict(pages["denoising"].properties)


# ---------------------------------------------------------------- the page


def test_one_field_is_one_property_with_the_same_default() -> None:
    shown = properties()
    assert {name: row.default for name, row in shown.items()} == asdict(Preferences())
    assert list(shown) == [row.name for row in fields(Preferences)]
    for name, row in shown.items():
        assert row.title, name
        assert row.description, name
        assert type(row.default) is type(getattr(Preferences(), name)) or name == "time_budget"


def test_choices_are_those_of_the_library() -> None:
    shown = properties()
    presets = next(f for f in fields(RunSettings) if f.name == "preset").type
    for preset in shown["preset"].enum:
        RunSettings(preset=preset).denoiser()
        assert preset in str(presets)
    methods = [word for part in (FlowMethod, *get_args(FlowMethod)) for word in get_args(part)]
    assert set(shown["flow"].enum) == set(methods or get_args(FlowMethod))


def test_defaults_of_the_page_are_those_of_a_run(plugin: PluginManifest) -> None:
    assert load_preferences() == Preferences()
    assert replace(Preferences().settings(), start=RunSettings().start) == RunSettings()


def test_without_the_plugin_there_are_defaults(plugin_settings: None) -> None:
    save_preferences(Preferences(preset="best"))
    assert load_preferences() == Preferences()


# ---------------------------------------------------------------- sessions


def test_preferences_come_back_in_the_next_session(plugin: PluginManifest, tmp_path: Path) -> None:
    kept = Preferences(
        preset="best",
        time_budget=42.5,
        device="cpu",
        flow="none",
        threads=3,
        flow_density=8,
        preview=False,
        show_flow=False,
        show_residual=True,
        advanced='{"seed": 4}',
    )
    assert all(getattr(kept, f.name) != getattr(Preferences(), f.name) for f in fields(kept))
    save_preferences(kept)
    new_session()
    assert load_preferences() == kept
    assert [path.name for path in tmp_path.glob("*.yaml")] == ["napari-stbn.yaml"]
    save_preferences(Preferences())
    new_session()
    assert load_preferences() == Preferences()


def test_settings_there_and_back() -> None:
    settings = RunSettings(
        preset="preview",
        time_budget=30,
        max_steps=9,
        device="cpu",
        flow="none",
        correlation="off",
        flicker="off",
        channels="joint",
        seed=3,
        precision="float32",
        training={"batch": 1, "learning_rate": 1e-4},
    )
    assert Preferences.of(settings).settings() == settings
    movie_bound = replace(settings, noise=stbn.GaussianNoise(3.0), start="cells.stbn")
    assert Preferences.of(movie_bound).settings() == settings, "they belong to one movie"


@pytest.mark.parametrize(
    "advanced",
    [
        "",
        "no JSON",
        "[]",
        "5",
        "null",
        '{"seed": "many"}',
        '{"max_steps": "few"}',
        '{"max_steps": -3}',
        '{"precision": "half"}',
        '{"channels": "odd"}',
        '{"correlation": "odd"}',
        '{"flicker": 5}',
        '{"training": 5}',
        '{"training": {"depth": 3}}',
        '{"training": {"batch": 0}}',
        '{"training": {"batch": "many"}}',
        '{"training": {"learning_rate": "fast"}}',
    ],
)
def test_advanced_settings_that_cannot_be_used_are_left_out(advanced: str) -> None:
    kept = Preferences(flow="none", advanced=advanced)
    assert kept.settings() == replace(RunSettings(), flow="none")


def test_a_page_that_cannot_be_used_opens_the_widget_with_defaults(
    plugin: PluginManifest, make_napari_viewer: Any
) -> None:
    save_preferences(Preferences(flow="none", advanced='{"seed": "many"}'))
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget("napari-stbn", "Denoise time-lapse")
    assert widget.settings() == replace(RunSettings(), flow="none", start=widget.start.value)


def test_a_later_version_may_have_written_more() -> None:
    kept = Preferences(advanced=json.dumps({"seed": 4, "colour": "red"}))
    assert kept.settings().seed == 4


# ---------------------------------------------------------------- the widget


def test_the_widget_keeps_what_a_fit_used(plugin: PluginManifest, make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer()
    viewer.add_image(stbn.simulate((6, 32, 32), seed=0).noisy, name="cells")
    _, widget = viewer.window.add_plugin_dock_widget("napari-stbn", "Denoise time-lapse")
    widget.preset.value = "preview"
    widget.device.value = "cpu"
    widget.threads.value = 1
    widget.flow_density.value = 8
    widget.preview.value = False
    widget.show_residual.value = True
    widget.correlation.value = "off"
    rows = {"max_steps": 2, "seed": 5, "joint": "separate", "flicker": "off"}
    for name, value in rows.items():
        widget.advanced[name].value = value
    for name, value in {"clip_frames": 4, "clip_size": 16, "batch": 1, "checks": 2}.items():
        widget.training[name].value = value
    settings = widget.settings()
    widget.fit().wait(60)
    viewer.window.remove_dock_widget("all")
    new_session()
    _, widget = viewer.window.add_plugin_dock_widget("napari-stbn", "Denoise time-lapse")
    assert widget.settings() == settings
    assert (widget.threads.value, widget.flow_density.value) == (1, 8)
    assert not widget.preview.value
    assert widget.show_residual.value
    widget.restore_defaults()
    assert load_preferences() == Preferences()
    new_session()
    assert load_preferences() == Preferences()


def test_a_device_that_is_gone_becomes_automatic(
    plugin: PluginManifest, make_napari_viewer: Any
) -> None:
    save_preferences(Preferences(device="cuda:17"))
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget("napari-stbn", "Denoise time-lapse")
    assert widget.device.value == "auto"
