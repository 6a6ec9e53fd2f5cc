"""What is said about a movie before a run."""

from __future__ import annotations

from dataclasses import replace
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

from scipy import ndimage

import napari_stbn as stbn
from napari_stbn import estimates
from napari_stbn._napari.inspection import Inspection, inspect_stack
from napari_stbn._start import first_model
from napari_stbn.presets import PRESETS
from napari_stbn.settings import RunSettings

QUICK = RunSettings(preset="preview", device="cpu")
SCENE = stbn.simulate((12, 64, 64), seed=0)


def look(data: Any, axes: str, settings: RunSettings = QUICK) -> Inspection:
    return inspect_stack(stbn.Stack(data, axes, name="cells"), settings)


def test_figures_of_a_movie_that_is_as_it_should_be() -> None:
    seen = look(SCENE.noisy, "TYX")
    assert seen.noise is not None
    assert seen.noise.model.gain == pytest.approx(SCENE.gain, rel=0.15)
    assert seen.estimate is not None
    assert 0 < seen.estimate.bytes < seen.estimate.free
    assert seen.estimate.fit_seconds == 30
    assert 0 < seen.estimate.denoise_seconds < 60
    assert not any("share noise" in sentence for sentence in seen.warnings)


@pytest.mark.parametrize("axis", [1, 2])
def test_noise_that_neighbours_share(axis: int) -> None:
    noise = np.random.default_rng(0).normal(size=(12, 64, 64))
    seen = look((ndimage.uniform_filter1d(noise, 3, axis=axis) * 50 + 500).astype("f4"), "TYX")
    assert any(sentence.startswith("Neighbouring pixels share noise") for sentence in seen.warnings)


@pytest.mark.parametrize("level", ["picture", "flat", "zero"])
def test_frames_that_are_all_the_same(level: str) -> None:
    frame = {
        "picture": SCENE.noisy[0],
        "flat": np.full((32, 32), 7, np.uint16),
        "zero": np.zeros((32, 32), np.uint16),
    }[level]
    seen = look(np.repeat(frame[None], 6, 0), "TYX")
    assert seen.noise is None
    assert "The frames are all the same: is this a movie? Check the axes." in seen.warnings


def test_too_little_memory_is_said_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "free_memory", lambda _device: 2_000_000)
    seen = look(SCENE.noisy, "TYX")
    said = [sentence for sentence in seen.warnings if "This needs" in sentence]
    assert len(said) == 1
    assert "2 MB are free: choose a region, fewer planes or a smaller preset." in said[0]
    assert seen.noise is not None, "noise is measured all the same"


def test_a_run_that_is_refused_takes_no_time_and_says_real_numbers() -> None:
    seen = look(SCENE.noisy, "TYX", replace(QUICK, memory_limit=0.0001))
    assert seen.estimate is None
    assert "takes about 786 kB, the limit is 100 kB; write it to a file" in seen.warnings[0]


@pytest.mark.parametrize("axes", ["TCYX", "CTYX", "TZCYX", "YXT", "TYXS"])
def test_the_first_channel_of_the_middle_plane_is_measured(axes: str) -> None:
    sizes = {"T": 12, "C": 2, "Z": 3, "Y": 64, "X": 64, "S": 3}
    data = np.zeros([sizes[axis] for axis in axes], np.uint16)
    at = {"C": 0, "Z": 1, "S": 0}
    order = [axis for axis in axes if axis in "TYX"]
    movie = SCENE.noisy.transpose(["TYX".index(axis) for axis in order])
    data[tuple(at.get(axis, slice(None)) for axis in axes)] = movie
    alone = look(SCENE.noisy, "TYX").noise
    seen = look(data, axes)
    assert seen.noise is not None
    assert alone is not None
    assert seen.noise.model == alone.model


def test_of_a_large_movie_only_the_middle_is_read() -> None:
    class Lazy:
        """Counts what is read."""

        shape, dtype, read = (500, 4, 2000, 2000), np.dtype(np.uint16), 0

        def __getitem__(self, index: Any) -> np.ndarray:
            shape = [
                len(range(*part.indices(n))) for part, n in zip(index, self.shape, strict=True)
            ]
            Lazy.read += int(np.prod(shape))
            values: np.ndarray = np.random.default_rng(0).poisson(50, shape).astype(np.uint16)
            return values

    seen = look(Lazy(), "TZYX")
    assert seen.noise is not None
    assert 0 < Lazy.read <= 24 * 192 * 192


@pytest.mark.parametrize("bad", ["nan", "infinite"])
def test_values_that_are_no_numbers_do_not_stop_the_look(bad: str) -> None:
    data = SCENE.noisy.astype(np.float32)
    data[3:5, 5] = np.nan if bad == "nan" else np.inf
    seen = look(data, "TYX")
    assert seen.noise is not None
    assert np.isfinite(seen.noise.model.gain)
    everywhere = look(np.full((6, 32, 32), np.nan, np.float32), "TYX")
    assert everywhere.noise is None
    assert everywhere.warnings


def test_a_look_beside_a_fit_does_not_change_its_numbers() -> None:
    stack, ended = stbn.Stack(SCENE.noisy[:4, :16, :16], "TYX"), Event()

    def first_weights() -> float:
        model = first_model("fresh", PRESETS["preview"].network, seed=0).model
        return sum(float(weights.detach().double().sum()) for weights in model.parameters())

    def looks() -> None:
        while not ended.is_set():
            inspect_stack(stack, QUICK)

    alone = first_weights()
    thread = Thread(target=looks)
    thread.start()
    try:
        beside = {first_weights() for _ in range(100)}
    finally:
        ended.set()
        thread.join()
    assert beside == {alone}


def test_one_frame_and_a_missing_device_are_sentences() -> None:
    seen = look(SCENE.noisy[:1], "TYX")
    assert seen.estimate is None
    assert "1 frame" in seen.warnings[0]
    assert len(set(seen.warnings)) == len(seen.warnings)
    seen = look(SCENE.noisy, "TYX", RunSettings(preset="preview", device="cuda:17"))
    assert seen.estimate is None
    assert "cuda:17" in seen.warnings[0]


def test_padding_and_scenes_in_turn_are_said_and_left_out_of_the_noise() -> None:
    kinds = ("nuclei", "filaments")
    scenes = [stbn.simulate((16, 80, 80), kind=k, photons=30, seed=1).noisy for k in kinds]
    movie = np.stack(scenes, 1).reshape(32, 80, 80)
    for t, frame in enumerate(movie):
        frame[: t % 4 + 1] = 0
    seen = look(movie, "TYX")
    assert any("padded along their edges with 0" in sentence for sentence in seen.warnings)
    assert any("show 2 scenes in turn" in sentence for sentence in seen.warnings)
    assert seen.noise is not None
    assert seen.noise.model.gain == pytest.approx(2.0, rel=0.15)
    assert seen.noise.model.offset == pytest.approx(100, abs=5)
