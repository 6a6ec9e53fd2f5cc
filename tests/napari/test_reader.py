"""A model dropped on the viewer reaches the denoise widget, or one sentence says why not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("napari", reason="napari is not installed")

from napari.utils.notifications import Notification, notification_manager
from npe2 import DynamicPlugin, PluginManager

from napari_stbn._napari import reader


class _Widget:
    """Stands in for the denoise widget."""

    def __init__(self) -> None:
        self.loaded: list[Path] = []

    def load_model(self, path: Path) -> None:
        from napari_stbn.denoiser import Denoiser

        Denoiser.load(path, device="cpu")
        self.loaded.append(Path(path))


@pytest.fixture
def widget(monkeypatch: pytest.MonkeyPatch) -> _Widget:
    stand_in = _Widget()
    monkeypatch.setattr(reader, "open_widget", lambda _viewer: stand_in)
    return stand_in


@pytest.fixture
def plugin(npe2pm: PluginManager) -> Any:
    """A plugin whose one reader is ours: the manifest itself is tested with the widget."""
    with DynamicPlugin("stbn-reader-test", plugin_manager=npe2pm) as plugin:

        @plugin.contribute.reader(filename_patterns=["*.stbn"])
        def get_reader(path: Any) -> Any:
            return reader.get_reader(path)

        yield plugin


@pytest.fixture
def notes() -> Any:
    """Notifications of this test."""
    seen: list[Notification] = []
    notification_manager.notification_ready.connect(seen.append)
    yield seen
    notification_manager.notification_ready.disconnect(seen.append)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import napari_stbn as stbn

    movie = stbn.simulate((4, 16, 16), kind="puncta", seed=0)
    denoiser = stbn.Denoiser("preview", device="cpu").fit(movie.noisy, axes="TYX", max_steps=1)
    return denoiser.save(tmp_path_factory.mktemp("models") / "cells.stbn")


def test_only_single_stbn_files_are_taken(tmp_path: Path, model: Path) -> None:
    assert reader.get_reader(model) is not None
    assert reader.get_reader(str(model)) is not None
    assert reader.get_reader([str(model)]) is not None
    assert reader.get_reader([str(model), str(model)]) is None
    assert reader.get_reader([]) is None
    assert reader.get_reader(tmp_path / "missing.stbn") is None
    (tmp_path / "folder.stbn").mkdir()
    assert reader.get_reader(tmp_path / "folder.stbn") is None
    other = tmp_path / "weights.safetensors"
    other.write_bytes(model.read_bytes())
    assert reader.get_reader(other) is None


def test_a_dropped_model_reaches_the_widget_and_adds_no_layer(
    make_napari_viewer_proxy: Any, widget: _Widget, plugin: Any, notes: list[Any], model: Path
) -> None:
    viewer = make_napari_viewer_proxy()
    assert viewer.open(model, plugin="stbn-reader-test") == []
    assert widget.loaded == [model]
    assert len(viewer.layers) == 0
    assert notes == []


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "foreign"])
def test_a_file_that_is_no_model_gives_one_sentence(
    make_napari_viewer_proxy: Any,
    widget: _Widget,
    plugin: Any,
    notes: list[Any],
    model: Path,
    tmp_path: Path,
    damage: str,
) -> None:
    path = tmp_path / "bad.stbn"
    if damage == "foreign":
        import torch
        from safetensors.torch import save_file

        save_file({"w": torch.zeros(2)}, path)
    else:
        whole = model.read_bytes()
        path.write_bytes({"empty": b"", "text": b"just text", "truncated": whole[:-100]}[damage])
    viewer = make_napari_viewer_proxy()
    viewer.open(path, plugin="stbn-reader-test")
    assert widget.loaded == []
    assert len(notes) == 1
    assert "bad.stbn" in notes[0].message
    assert str(notes[0].severity) == "error"
    assert "an STBN model" in notes[0].message


def test_without_a_viewer_a_sentence_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    monkeypatch.setattr("napari.current_viewer", lambda: None)
    with pytest.raises(RuntimeError, match=r"open a napari viewer first.*Denoiser\.load"):
        reader.read_model(model)


def test_the_widget_is_opened_by_its_name() -> None:
    calls: list[Any] = []
    dock = SimpleNamespace(show=lambda: calls.append("show"), raise_=lambda: calls.append("raise"))

    def add(plugin: str, widget: str) -> tuple[Any, str]:
        calls.append((plugin, widget))
        return dock, "widget"

    viewer: Any = SimpleNamespace(window=SimpleNamespace(add_plugin_dock_widget=add))
    assert reader.open_widget(viewer) == "widget"  # type: ignore[comparison-overlap]
    assert calls == [("napari-stbn", "Denoise time-lapse"), "show", "raise"]
