"""Sample data: movies with their truth at once, real movies without a frozen window."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

import skimage.data
from napari.components import ViewerModel
from napari.layers import Layer
from napari.utils.notifications import notification_manager
from napari.utils.progress import progress
from npe2 import DynamicPlugin, PluginManager
from qtpy.QtCore import QTimer

from napari_stbn._napari import sample_data

SIMULATED = [
    sample_data.simulated_cells,
    sample_data.simulated_vesicles,
    sample_data.simulated_flashes,
]


@pytest.fixture
def plugin(npe2pm: PluginManager) -> Any:
    """A plugin with our samples, so that napari's own checks of what they return are run."""
    with DynamicPlugin("stbn-samples-test", plugin_manager=npe2pm) as plugin:
        for function in (
            sample_data.simulated_cells,
            sample_data.palisades_of_vogt,
            sample_data.protein_transport,
        ):
            plugin.contribute.sample_data(function, key=function.__name__)
        yield plugin


@pytest.fixture
def notes() -> Any:
    """Messages to the user in this test."""
    seen: list[tuple[str, str]] = []

    def note(notification: Any) -> None:
        seen.append((str(notification.severity), notification.message))

    notification_manager.notification_ready.connect(note)
    yield seen
    notification_manager.notification_ready.disconnect(note)


@pytest.mark.parametrize("function", SIMULATED)
def test_simulated_movies_come_with_truth_camera_and_scale(function: Callable[[], Any]) -> None:
    viewer = ViewerModel()
    for datum in function():
        viewer.add_layer(Layer.create(*datum))
    truth, noisy = viewer.layers
    assert (truth.visible, noisy.visible) == (False, True)
    assert viewer.layers.selection.active is noisy
    assert noisy.name.startswith("simulated ")
    assert truth.name == f"{noisy.name} truth"
    for layer in (truth, noisy):
        assert layer.axis_labels == ("t", "y", "x")
        assert [str(unit) for unit in layer.units] == ["second", "micrometer", "micrometer"]
        np.testing.assert_allclose(layer.scale, (1.0, 0.1, 0.1))
    camera = noisy.metadata["napari-stbn"]
    electrons = (truth.data - camera["offset"]) / camera["gain"]
    variance = np.mean((noisy.data - truth.data) ** 2) / camera["gain"] ** 2
    assert variance == pytest.approx(electrons.mean() + camera["read_noise"] ** 2, rel=0.02)
    assert camera["seed"] == 0
    low, high = noisy.contrast_limits
    assert noisy.data.min() < low < high < noisy.data.max()
    assert tuple(truth.contrast_limits) == (low, high)


def _slow(movie: np.ndarray[Any, Any], seconds: float = 0.6) -> Callable[[], Any]:
    def fetch() -> np.ndarray[Any, Any]:
        time.sleep(seconds)
        return movie

    return fetch


@pytest.mark.quiet
def test_a_real_movie_arrives_in_the_background(
    make_napari_viewer_proxy: Any,
    plugin: Any,
    notes: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    qtbot: Any,
) -> None:
    movie = np.random.default_rng(0).integers(0, 255, (15, 2, 180, 183)).astype(np.uint8)
    monkeypatch.setattr(skimage.data, "protein_transport", _slow(movie))
    viewer = make_napari_viewer_proxy()
    bars = len(progress._all_instances)
    gaps, last = [], time.perf_counter()

    def tick() -> None:
        nonlocal last
        gaps.append(time.perf_counter() - last)
        last = time.perf_counter()

    timer = QTimer()
    timer.timeout.connect(tick)
    timer.start(10)
    start = time.perf_counter()
    assert viewer.open_sample("stbn-samples-test", "protein_transport") == []
    assert time.perf_counter() - start < 0.4
    assert len(progress._all_instances) == bars + 1
    last = time.perf_counter()
    qtbot.wait(300)  # ms; half of the download
    timer.stop()
    assert max(gaps) < 0.2
    assert len(viewer.layers) == 0
    # A second click does not download it twice.
    assert viewer.open_sample("stbn-samples-test", "protein_transport") == []
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=5000)
    qtbot.waitUntil(lambda: not sample_data._under_way, timeout=5000)
    qtbot.waitUntil(lambda: len(progress._all_instances) == bars, timeout=5000)
    nucleus, protein = viewer.layers
    assert (nucleus.name, protein.name) == (
        "protein transport: nucleus",
        "protein transport: protein",
    )
    np.testing.assert_array_equal(protein.data, movie[:, 1])
    assert nucleus.axis_labels == ("t", "y", "x")
    assert [severity for severity, _ in notes] == ["info", "info"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConnectionError("no route to host"), "Check the network"),
        (ValueError("MD5 hash of downloaded file does not match\nmany lines"), "does not match)"),
        (ModuleNotFoundError("The requested file needs pooch"), "pip install pooch"),
    ],
)
def test_a_failed_download_is_one_sentence(
    make_napari_viewer_proxy: Any,
    plugin: Any,
    notes: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    qtbot: Any,
    error: Exception,
    sentence: str,
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(skimage.data, "palisades_of_vogt", fail)
    viewer = make_napari_viewer_proxy()
    assert viewer.open_sample("stbn-samples-test", "palisades_of_vogt") == []
    qtbot.waitUntil(lambda: len(notes) == 2, timeout=5000)
    qtbot.wait(50)
    assert [severity for severity, _ in notes] == ["info", "error"]
    assert sentence in notes[1][1]
    assert "palisades of Vogt" in notes[1][1]
    assert "\n" not in notes[1][1]
    assert len(viewer.layers) == 0
    qtbot.waitUntil(lambda: not sample_data._under_way, timeout=5000)


def test_a_viewer_closed_meanwhile_is_left_alone(
    make_napari_viewer: Any, plugin: Any, monkeypatch: pytest.MonkeyPatch, qtbot: Any
) -> None:
    movie = np.zeros((4, 64, 64), np.uint16)
    monkeypatch.setattr(skimage.data, "palisades_of_vogt", _slow(movie, 0.3))
    viewer = make_napari_viewer()
    viewer.open_sample("stbn-samples-test", "palisades_of_vogt")
    qtbot.wait(50)
    sample_data._show(lambda: None, [])
    viewer.close()
    with qtbot.capture_exceptions() as exceptions:
        qtbot.waitUntil(lambda: not sample_data._under_way, timeout=5000)
        qtbot.wait(50)
    assert exceptions == []
    assert len(viewer.layers) == 0


def test_without_a_window_the_layers_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari.current_viewer", lambda: None)
    movie = np.zeros((6, 32, 32), np.uint16)
    monkeypatch.setattr(skimage.data, "palisades_of_vogt", lambda: movie)
    ((data, options, kind),) = sample_data.palisades_of_vogt()
    assert (data.shape, kind, options["name"]) == ((6, 32, 32), "image", "palisades of Vogt")
    low, high = options["contrast_limits"]
    assert low < high  # napari refuses equal limits
