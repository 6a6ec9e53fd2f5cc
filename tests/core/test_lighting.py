"""Light that flickers: found where it does, taken out for the network, put back in the result."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import savgol_filter

import napari_stbn as stbn
from napari_stbn._even_stack import EvenStack, even_stack
from napari_stbn._generators import last
from napari_stbn._lighting import (
    FlickerChoice,
    Lighting,
    _slow,
    even_movie,
    measure_lighting,
)
from napari_stbn.noise import estimate_noise
from napari_stbn.samples import KINDS

CAMERA = stbn.PoissonGaussianNoise(gain=2.0, offset=100.0, read_noise=1.6)
FRAMES, SIDE = 24, 96


def lit(
    strength: float, *, kind: str = "filaments", photons: float = 80.0, seed: int = 3
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """A noisy movie under a lamp, its clean frames, and the lamp."""
    made = stbn.simulate((FRAMES, SIDE, SIDE), kind=kind, photons=photons, seed=seed)
    rng = np.random.default_rng(seed)
    lamp = 1 + strength * rng.uniform(-1, 1, FRAMES)
    light = (made.clean - made.offset) / made.gain * lamp[:, None, None]
    clean = CAMERA.offset + CAMERA.gain * light
    noisy = np.rint(CAMERA.simulate(clean, rng)).astype(np.float32)
    return noisy, clean.astype(np.float32), lamp


def measured(movie: NDArray[np.generic]) -> Lighting | None:
    return last(measure_lighting(movie))


def psnr(estimate: NDArray[np.float32], clean: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.ptp(clean) ** 2 / np.mean((estimate - clean) ** 2)))


def test_the_light_of_a_lamp_is_measured() -> None:
    noisy, _, lamp = lit(0.15)
    found = measured(noisy)
    assert found is not None
    quick = np.log(lamp) - np.log(lamp).mean()
    off = np.log(found.gains) - quick
    # What changes over many frames stays: it is a part of a third of the lamp's.
    assert np.std(off) < 0.4 * np.std(quick)
    assert np.corrcoef(np.log(found.gains), quick)[0, 1] > 0.93
    assert abs(found.level - CAMERA.offset) < 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("photons", [5.0, 100.0])
def test_what_changes_in_the_scene_is_no_flicker(kind: str, photons: float) -> None:
    movie = stbn.simulate((FRAMES, SIDE, SIDE), kind=kind, photons=photons, seed=11).noisy
    assert measured(movie) is None


def test_a_wave_over_the_field_is_no_flicker() -> None:
    y, t = np.mgrid[:SIDE, :FRAMES]
    bright = 60 * np.exp(2 * np.cos(y / 15 - t / 2) - 2).T[:, :, None] + np.full((1, 1, SIDE), 5.0)
    noisy = CAMERA.simulate(CAMERA.offset + CAMERA.gain * bright, np.random.default_rng(0))
    assert measured(noisy) is None


def test_cells_that_flash_are_no_flicker() -> None:
    rng = np.random.default_rng(1)
    y, x = np.indices((SIDE, SIDE))
    light = np.full((FRAMES, SIDE, SIDE), 0.2)
    burst = np.convolve(rng.random(FRAMES) < 0.1, np.exp(-np.arange(FRAMES) / 4))[:FRAMES]
    for cy, cx in rng.uniform(0, SIDE, (26, 2)):
        ring = np.exp(-0.5 * ((np.hypot(y - cy, x - cx) - 4) / 1.3) ** 2)
        own = np.convolve(rng.random(FRAMES) < 0.05, np.exp(-np.arange(FRAMES) / 4))[:FRAMES]
        light += ring * (0.15 + 0.6 * own + 0.1 * burst)[:, None, None]
    noisy = CAMERA.simulate(CAMERA.offset + CAMERA.gain * 80 * light, rng)
    assert measured(noisy) is None


def test_bleaching_is_no_flicker() -> None:
    made = stbn.simulate((FRAMES, SIDE, SIDE), kind="nuclei", photons=80, bleaching=0.6, seed=1)
    assert measured(made.noisy) is None


def test_a_camera_whose_offset_drifts_is_made_even_too() -> None:
    made = stbn.simulate((FRAMES, SIDE, SIDE), kind="nuclei", photons=20, seed=1)
    rng = np.random.default_rng(0)
    drift = rng.normal(0, 6.0, FRAMES)[:, None, None]
    noisy = (made.noisy + drift).astype(np.float32)
    even = last(even_stack(stbn.Stack(noisy, axes="TYX")))
    assert isinstance(even, EvenStack)
    left = np.median(even.movie(), axis=(1, 2)) - np.median(made.noisy, axis=(1, 2))
    assert np.std(left) < 0.45 * np.std(drift)


def test_frames_without_light_stay_as_they_are() -> None:
    noisy, _, _ = lit(0.15)
    noisy[5], noisy[11:19] = 0.0, np.nan
    stack = stbn.Stack(noisy, axes="TYX")
    even = last(even_stack(stack))
    assert isinstance(even, EvenStack)
    gains = even.lighting[0, 0].gains
    blank = [5, *range(11, 19)]
    assert np.all(gains[blank] == 1)
    np.testing.assert_array_equal(even.movie()[blank], noisy[blank])
    others = np.delete(np.arange(FRAMES), blank)
    assert np.std(np.log(gains[others])) > 0.05


@pytest.mark.parametrize("size", [(2, SIDE, SIDE), (5, SIDE, SIDE), (FRAMES, 16, 16)])
def test_too_few_frames_or_pixels_say_nothing(size: tuple[int, int, int]) -> None:
    noisy, _, _ = lit(0.2)
    assert measured(noisy[: size[0], : size[1], : size[2]]) is None


def test_frames_that_are_no_numbers_say_nothing() -> None:
    assert measured(np.full((8, 64, 64), np.nan, np.float32)) is None


def test_clipped_pixels_leave_a_movie_as_it_is() -> None:
    noisy, _, _ = lit(0.15)
    assert measured(np.minimum(noisy, np.percentile(noisy, 99))) is None


def test_any_part_of_an_even_stack_is_that_part_of_the_whole() -> None:
    noisy, _, _ = lit(0.15)
    other, _, _ = lit(0.0, seed=4)
    # One of two channels flickers; axes in an unusual order.
    array = np.stack([other, noisy]).transpose(2, 0, 1, 3).astype(np.uint16)
    stack = stbn.Stack(array, axes="YCTX")
    even = last(even_stack(stack))
    assert isinstance(even, EvenStack)
    assert set(even.lighting) == {(1, 0)}
    np.testing.assert_array_equal(even.movie(0), other.astype(np.uint16))
    whole = even.movie(1)
    part = even.movie(1, frames=slice(3, 9), rows=slice(10, 30), columns=slice(5, 6))
    np.testing.assert_array_equal(part, whole[3:9, 10:30, 5:6])
    light = even.lighting[1, 0]
    back, _ = light.restored(0, whole, None)
    np.testing.assert_allclose(back, noisy, rtol=1e-5)
    assert even.dtype == np.float32
    assert stack.dtype == np.uint16


def test_a_result_has_the_light_of_its_frames_and_less_error() -> None:
    noisy, clean, lamp = lit(0.2)
    results = {}
    for choice in ("auto", "off"):
        denoiser = stbn.Denoiser("preview", device="cpu", flicker=choice, flow="none", turns=1)
        results[choice] = denoiser.fit(noisy, axes="TYX", max_steps=1).denoise(noisy, axes="TYX")
    even, plain = results["auto"], results["off"]
    assert psnr(even.denoised, clean) > psnr(plain.denoised, clean) + 1
    bright = clean > np.percentile(clean, 95)
    share = [
        float((even.denoised[t] - 100)[bright[t]].sum() / (clean[t] - 100)[bright[t]].sum())
        for t in range(FRAMES)
    ]
    np.testing.assert_allclose(share, 1, atol=0.03)
    assert any("flickers by" in note for note in even.report["notes"])
    assert not any("flickers" in note for note in plain.report["notes"])
    assert 0.5 * np.std(lamp) < even.report["flicker"] < 1.2 * np.std(lamp)
    assert plain.report["flicker"] == 0
    assert even.uncertainty is not None
    inside = np.mean(np.abs(even.denoised - clean) <= even.uncertainty)
    assert 0.55 < inside < 0.85


def test_a_saved_model_and_a_stream_make_the_light_even_too(tmp_path: Path) -> None:
    noisy, _, _ = lit(0.2)
    denoiser = stbn.Denoiser("preview", device="cpu", flow="none", turns=1)
    result = denoiser.fit(noisy, axes="TYX", max_steps=1).denoise(noisy, axes="TYX")
    path = denoiser.save(tmp_path / "model.stbn")
    again = stbn.Denoiser.load(path, device="cpu").denoise(noisy, axes="TYX")
    np.testing.assert_allclose(again.denoised, result.denoised, rtol=1e-4)
    target = tmp_path / "out.npy"
    stbn.Denoiser.load(path, device="cpu").denoise_to(noisy, target, axes="TYX")
    np.testing.assert_allclose(np.load(target), again.denoised, rtol=1e-4)


@pytest.mark.parametrize("choice", ["auto", "off"])
def test_a_saved_model_keeps_the_choice(choice: FlickerChoice, tmp_path: Path) -> None:
    noisy, _, _ = lit(0.0)
    denoiser = stbn.Denoiser("preview", device="cpu", flicker=choice, flow="none")
    path = denoiser.fit(noisy[:, :16, :16], axes="TYX", max_steps=1).save(tmp_path / "model.stbn")
    assert stbn.Denoiser.load(path, device="cpu").flicker == choice


def test_slow_changes_are_those_of_a_savitzky_golay_filter() -> None:
    course = np.random.default_rng(0).normal(size=31).cumsum()
    for window in (5, 15, 31):
        np.testing.assert_allclose(_slow(course, window), savgol_filter(course, window, 1))


def test_colours_are_seen_in_even_light() -> None:
    noisy, clean, _ = lit(0.2)
    colours = np.stack([noisy, 0.5 * noisy + 20, 0.25 * noisy + 40], -1)
    colours += np.asarray(np.random.default_rng(1).normal(0, 2, colours.shape), np.float32)
    denoiser = stbn.Denoiser("preview", device="cpu", flow="none", turns=1)
    result = denoiser.fit(colours, axes="TYXS", max_steps=1).denoise(colours, axes="TYXS")
    assert any("flickers by" in note for note in result.report["notes"])
    assert psnr(result.denoised[..., 0], clean) > 36


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="flicker must be auto or off, got 'on'"):
        stbn.Denoiser(flicker="on")  # type: ignore[arg-type]


def test_a_look_before_the_run_says_it_and_measures_the_noise_without_it() -> None:
    noisy, _, _ = lit(0.2, kind="nuclei")
    even, note = even_movie(noisy)
    assert re.search(r"flickers by \d+ %", note)
    gains = [estimate_noise(movie).model.gain for movie in (even, noisy)]
    assert abs(gains[0] / CAMERA.gain - 1) < min(0.1, abs(gains[1] / CAMERA.gain - 1))
    same, nothing = even_movie(noisy, "off")
    assert same is noisy
    assert nothing == ""
