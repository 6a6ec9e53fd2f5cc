"""The copied script does the run again: the same numbers, from the same file or layer."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

import tifffile
import torch
from napari.components import ViewerModel
from napari.layers import Image
from npe2 import PluginManager, PluginManifest
from qtpy.QtWidgets import QApplication

import napari_stbn as stbn
from napari_stbn._napari.layers import Region, layer_stack
from napari_stbn._napari.script import run_script
from napari_stbn.settings import RunSettings

PACKAGE = Path(stbn.__file__).parent
MOVIE = stbn.simulate((6, 32, 40), seed=0).noisy
SMALL = {"clip_frames": 4, "clip_size": 16, "batch": 1, "checks": 2}
# Kept by the test, so that the arrays are compared and not what a file format made of them.
KEEP = "\nimport numpy\nnumpy.save('again.npy', result.denoised)\n"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Of this thread, as the job has it: numba, which napari loads for labels, changes it."""
    torch.set_num_threads(1)


@pytest.fixture
def viewer(plugin_settings: None, npe2pm: PluginManager, make_napari_viewer: Any) -> Any:
    """A viewer that knows our plugin and napari's own readers."""
    npe2pm.register(PluginManifest.from_distribution("napari"))
    npe2pm.register(PluginManifest.from_file(PACKAGE / "napari.yaml"))
    return make_napari_viewer()


def open_widget(viewer: Any, **training: Any) -> Any:
    _, widget = viewer.window.add_plugin_dock_widget("napari-stbn", "Denoise time-lapse")
    widget.preset.value = "preview"
    widget.device.value = "cpu"
    widget.advanced["max_steps"].value = 3
    for name, value in {**SMALL, **training}.items():
        widget.training[name].value = value
    return widget


def open_tiff(viewer: Any, path: Path, data: np.ndarray = MOVIE) -> Any:
    tifffile.imwrite(path, data, photometric="minisblack")
    return viewer.open(path, plugin="napari")[0]


def run_fresh(script: str, folder: Path) -> np.ndarray:
    """Run a script in an interpreter of its own; the denoised array."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script + KEEP],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stderr}"
    again: np.ndarray = np.load(folder / "again.npy")
    return again


# ---------------------------------------------------------------- in a fresh interpreter


@pytest.mark.quiet
def test_a_run_with_a_time_budget_on_a_file_is_repeated_exactly(
    viewer: Any, tmp_path: Path
) -> None:
    layer = open_tiff(viewer, tmp_path / "it's cells.tif")
    widget = open_widget(viewer)
    widget.layer.value = layer
    widget.advanced["max_steps"].value = 0
    widget.time_budget.value = 3.0
    job = widget.fit()
    denoised = job.wait(60)[0]
    assert job.report["steps"] > 3
    script = widget.script()
    assert "stbn.read(" in script
    assert settings_of(script).time_budget is None
    assert "import napari\n" not in script, "a file needs no viewer"
    np.testing.assert_array_equal(run_fresh(script, tmp_path), denoised.data)
    written = stbn.read(tmp_path / "it_s cells denoised.tif")
    np.testing.assert_array_equal(np.asarray(written.array), denoised.data)


def test_a_run_that_was_stopped_on_a_part_of_a_file_is_repeated_exactly(
    viewer: Any, tmp_path: Path, qtbot: Any
) -> None:
    data = np.stack([MOVIE + 50 * z for z in range(4)], 1)  # T Z Y X
    layer = open_tiff(viewer, tmp_path / "cells.tif", data)
    widget = open_widget(viewer)
    widget.layer.value = layer
    widget.axes.value = "TZYX"
    widget.planes.value = "1, 3"
    box = [[0, 0, 3.6, 7.6], [0, 0, 3.6, 31.4], [0, 0, 27.4, 31.4], [0, 0, 27.4, 7.6]]
    viewer.add_shapes([np.array(box)], shape_type="rectangle", name="box", ndim=4)
    widget.region.value = viewer.layers["box"]
    widget.advanced["max_steps"].value = 0
    widget.time_budget.value = 60
    steps: list[int] = []

    def stop(progress: Any) -> None:
        steps.extend(step.step for step in progress.steps)
        if len(steps) >= 3:
            widget.run.stop.changed.emit(True)

    job = widget.fit()
    job.progressed.connect(stop)
    denoised = job.wait(60)[0]
    assert denoised.data.shape == (6, 2, 24, 24)
    script = widget.script()
    assert "[0:6, 1:4:2, 4:28, 8:32]" in script
    np.testing.assert_array_equal(run_fresh(script, tmp_path), denoised.data)


def test_a_model_that_was_loaded_is_used_again(viewer: Any, tmp_path: Path) -> None:
    layer = open_tiff(viewer, tmp_path / "cells.tif")
    widget = open_widget(viewer)
    widget.layer.value = layer
    widget.fit().wait(60)
    widget.save_model(tmp_path / "a model.stbn")
    widget.load_model(tmp_path / "a model.stbn")
    denoised = widget.apply().wait(60)[0]
    script = widget.script()
    assert "fit" not in script
    np.testing.assert_array_equal(run_fresh(script, tmp_path), denoised.data)


# ---------------------------------------------------------------- in napari's console


@pytest.mark.parametrize("kind", ["plain", "rgba", "pyramid", "part"])
def test_a_layer_without_a_file_is_taken_from_the_viewer(
    viewer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    name = "cells \"of\" day 'one' \\ µ"
    colours = np.stack([np.clip(MOVIE // (2 + c), 0, 255) for c in range(4)], -1).astype(np.uint8)
    data: dict[str, Any] = {
        "plain": MOVIE,
        "part": MOVIE,
        "rgba": colours,
        "pyramid": [MOVIE, MOVIE[:, ::2, ::2]],
    }
    viewer.add_image(data[kind], rgb=kind == "rgba", multiscale=kind == "pyramid", name=name)
    widget = open_widget(viewer)
    source = viewer.layers[name]
    region: Any = Region(slice(4, 28), slice(6, 30)) if kind == "part" else "whole"
    job = stbn.start_denoising(viewer, source, settings=widget.settings(), region=region)
    denoised = job.wait(60)[0]
    taken = layer_stack(source, region=region if kind == "part" else None)
    script = run_script(taken, widget.settings(), threads=1, report=job.report)
    assert "viewer.layers[" in script
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(compile(script, "copied", "exec"), found)  # noqa: S102
    again = found["result"].denoised
    if kind == "rgba":
        again = np.clip(np.rint(again), 0, 255)
    np.testing.assert_array_equal(again, denoised.data[..., : again.shape[-1]])
    assert len(list(tmp_path.glob("*denoised.tif"))) == 1


def test_the_script_is_put_on_the_clipboard_before_a_run_too(viewer: Any) -> None:
    viewer.add_image(MOVIE, name="cells")
    widget = open_widget(viewer)
    widget.buttons["script"].changed.emit(True)
    clipboard = QApplication.clipboard()
    assert clipboard is not None
    assert clipboard.text() == widget.script()
    assert "max_steps=3" in widget.script()
    compile(widget.script(), "copied", "exec")


# ---------------------------------------------------------------- words


def settings_of(script: str) -> RunSettings:
    """The settings that a script makes."""
    start = script.index("settings = ")
    end = script.index("denoiser = ")
    found: dict[str, Any] = {"stbn": stbn}
    exec(script[start:end], found)  # noqa: S102
    settings: RunSettings = found["settings"]
    return settings


@pytest.mark.parametrize(
    "settings",
    [
        RunSettings(),
        RunSettings("best", time_budget=12.5, device="cuda:1", flow="none", start="a 'model'.stbn"),
        RunSettings(noise=stbn.PoissonGaussianNoise(2.5, 100.0, 1.25)),
        RunSettings(noise=stbn.GaussianNoise(3.5)),
        RunSettings(noise=None, channels="joint", seed=4, precision="float32", max_steps=7),
        RunSettings(training={"batch": 3, "learning_rate": 1e-5, "pace": ((0, 0.0, 0.5),)}),
    ],
)
def test_settings_are_written_so_that_they_can_be_read(settings: RunSettings) -> None:
    source = layer_stack(Image(MOVIE, name="cells", rgb=False))
    assert settings_of(run_script(source, settings, threads=1)) == settings


def test_a_report_makes_the_settings_of_a_repetition() -> None:
    source = layer_stack(Image(MOVIE, name="cells", rgb=False))
    report = {
        "steps": 40,
        "checks": 5,
        "pace": [[0, 0.0, 0.01], [20, 0.2, 0.02]],
        "precision": "float32",
        "preset": "balanced",
        "refined_flow": False,
    }
    settings = RunSettings(time_budget=30)
    written = settings_of(run_script(source, settings, threads=1, report=report))
    repeated = settings.repeating(report)
    assert written == replace(repeated, precision="float32", preset="balanced")
    assert written.time_budget is None
    assert written.max_steps == 40


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "it's",
        'say "so"',
        "back\\slash\\n",
        "new\nline",
        "µ-Zellen 細胞",
        "{braces}%s",
        "../up",
        "",
    ],
)
def test_odd_names_compile_and_name_a_file_that_can_be_written(name: str, tmp_path: Path) -> None:
    viewer = ViewerModel()
    layer = viewer.add_image(MOVIE, name=name, rgb=False)
    script = run_script(layer_stack(layer), RunSettings(), threads=1)
    compile(script, "copied", "exec")
    assert f"viewer.layers[{layer.name!r}]" in script
    target = next(line for line in script.splitlines() if line.startswith("target = "))
    found: dict[str, Any] = {"Path": Path}
    exec(target, found)  # noqa: S102
    path = tmp_path / found["target"]
    assert path.parent == tmp_path, "a name is no folder"
    path.write_bytes(b"")


@pytest.mark.parametrize("folder", ["it's", 'say "so"', "µ 細胞", "{0}%s", "back\\slash"])
def test_odd_paths_are_read(folder: str, tmp_path: Path) -> None:
    if os.name == "nt":
        pytest.skip("Windows allows few of these")
    place = tmp_path / folder
    place.mkdir()
    tifffile.imwrite(place / "cells.tif", MOVIE, photometric="minisblack")
    layer = Image(MOVIE, name="cells", rgb=False)
    layer._source = layer.source.model_copy(update={"path": str(place / "cells.tif")})
    script = run_script(layer_stack(layer), RunSettings(), threads=1)
    reading = next(line for line in script.splitlines() if line.startswith("stack = "))
    found: dict[str, Any] = {"stbn": stbn}
    exec(reading, found)  # noqa: S102
    np.testing.assert_array_equal(np.asarray(found["stack"].array), MOVIE)


@pytest.mark.parametrize("change", ["pixels", "last frame", "shape", "gone", "no movie"])
def test_a_file_that_is_not_the_layer_is_not_read(change: str, tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    other = MOVIE.copy()
    if change == "last frame":
        other[-1] += 1
    elif change == "pixels":
        other += 1
    tifffile.imwrite(path, other[:5] if change == "shape" else other, photometric="minisblack")
    if change == "gone":
        path.unlink()
    elif change == "no movie":
        path.write_text("a text")
    layer = Image(MOVIE, name="cells", rgb=False)
    layer._source = layer.source.model_copy(update={"path": str(path)})
    script = run_script(layer_stack(layer), RunSettings(), threads=1)
    assert "stbn.read(" not in script
    assert "viewer.layers['cells']" in script


def test_a_result_that_is_there_is_said_before_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = run_script(layer_stack(Image(MOVIE, name="cells")), RunSettings(), threads=1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells denoised.tif").write_text("an earlier result")
    with pytest.raises(FileExistsError, match=r"cells denoised\.tif exists; move it") as caught:
        exec(compile(script, "copied", "exec"), {})  # noqa: S102
    assert "--force" not in str(caught.value)


def test_a_model_that_is_in_no_file_is_said(tmp_path: Path) -> None:
    source = layer_stack(Image(MOVIE, name="cells"))
    script = run_script(source, RunSettings(), threads=1, model="")
    assert "# The model of this run is in no file yet" in script
    compile(script, "copied", "exec")
    saved = run_script(source, RunSettings(), threads=1, model="a.stbn")
    assert "Denoiser.load('a.stbn', " in saved
    assert "in no file" not in saved
