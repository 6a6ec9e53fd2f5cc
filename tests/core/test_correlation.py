"""Claims about noise that pixels share: it is measured, made independent, and brought back."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage, signal

from napari_stbn import Denoiser, GaussianNoise, PoissonGaussianNoise, Stack, STBNConfig
from napari_stbn._correlation_lines import line_offsets
from napari_stbn._correlation_spectrum import ORDERS
from napari_stbn._report_residual import check_residual
from napari_stbn.correlation import (
    NoiseCorrelation,
    correlation_from_dict,
    estimate_pixel_noise,
    measure_correlation,
    said_besides,
)
from napari_stbn.noise import estimate_noise
from napari_stbn.presets import PresetName
from napari_stbn.result import DenoiseResult
from napari_stbn.samples import KINDS, SimulatedMovie, simulate
from napari_stbn.training import TrainingConfig

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
FEW = TrainingConfig(max_steps=3, clip_frames=2, clip_size=16, patience=0)
Array = NDArray[Any]


def shared(shape: tuple[int, ...], kind: str, rng: np.random.Generator) -> Array:
    """Noise of unit variance that neighbours share."""
    white = rng.normal(size=shape)
    if kind == "white":
        return white
    if kind == "rows":  # correlation 0.5, 0.25, ... along x
        return np.asarray(signal.lfilter([np.sqrt(0.75)], [1, -0.5], white))
    side = {"0.15": 0.0767, "0.4": 0.25}[kind]  # correlation along x and y, in three taps
    taps = np.array([side, 1.0, side]) / np.sqrt(1 + 2 * side**2)
    return np.asarray(ndimage.convolve1d(ndimage.convolve1d(white, taps, axis=1), taps, axis=2))


CORRELATION = {"white": (0.0, 0.0), "rows": (0.5, 0.0), "0.15": (0.152, 0.152), "0.4": (0.444,) * 2}


def with_noise(movie: SimulatedMovie, kind: str, seed: int = 0) -> NDArray[np.float32]:
    """The movie's clean frames with its noise's variance, shared as asked for."""
    variance = movie.gain * (movie.clean - movie.offset) + (movie.gain * movie.read_noise) ** 2
    noise = shared(movie.clean.shape, kind, np.random.default_rng(seed))
    return np.asarray(movie.clean + np.sqrt(variance) * noise, np.float32)


def decibels(estimate: Array, clean: Array) -> float:
    return float(10 * np.log10(np.ptp(clean) ** 2 / np.mean((estimate - clean) ** 2.0)))


@pytest.fixture(scope="module")
def movie() -> SimulatedMovie:
    return simulate((16, 96, 96), seed=3)


ROWS = NoiseCorrelation(
    tuple(2 * 0.5**k / k if (j, k) in ((0, 1), (0, 2), (0, 3)) else 0.0 for j, k in ORDERS)
)
"""The filter for noise that is shared along rows: correlation 0.5, 0.25, ..."""


# ---------------------------------------------------------------- measured


@pytest.mark.parametrize("kind", CORRELATION)
def test_correlation_is_recovered_within_its_error_while_things_move(
    movie: SimulatedMovie, kind: str
) -> None:
    fit = measure_correlation([with_noise(movie, kind)])
    x, y = CORRELATION[kind]
    assert fit.along_x == pytest.approx(x, abs=3 * fit.error_x + 0.02)
    assert fit.along_y == pytest.approx(y, abs=3 * fit.error_y + 0.02)
    assert max(fit.error_x, fit.error_y) < 0.04
    assert (fit.correlation is None) == fit.white == (kind == "white")
    assert ("share noise" in fit.note) == (kind != "white")


@pytest.mark.parametrize("photons", [4.0, 1000.0])
@pytest.mark.parametrize("kind", ["mixed", "filaments"])
def test_white_noise_is_left_alone_also_where_motion_outshines_it(
    kind: str, photons: float
) -> None:
    data = simulate((12, 80, 80), kind=kind, photons=photons, seed=1).noisy
    assert measure_correlation([data]).correlation is None


@pytest.mark.slow
def test_white_noise_is_left_alone_in_all_movies() -> None:
    found = []
    for kind in KINDS:
        for photons in (4.0, 20.0, 100.0, 1000.0):
            for seed in range(8):
                data = simulate((16, 96, 96), kind=kind, photons=photons, seed=seed).noisy
                if measure_correlation([data]).correlation is not None:
                    found.append((kind, photons, seed))
    assert not found


@pytest.mark.parametrize("sigma", [0.8, 1.0, 1.3])
@pytest.mark.parametrize("photons", [80.0, 320.0])
def test_fast_sharp_points_are_not_taken_for_shared_noise(photons: float, sigma: float) -> None:
    """A microscope that samples as finely as it must shows points of one pixel's width."""
    rng = np.random.default_rng(int(photons))
    at, bright = rng.uniform(0, 96, (150, 2)), rng.uniform(0.3, 1, 150)
    light = np.zeros((24, 96, 96))
    for frame in light:
        for (cy, cx), strength in zip(at, bright, strict=True):
            down = np.exp(-0.5 * ((np.arange(96) - cy) / sigma) ** 2)
            across = np.exp(-0.5 * ((np.arange(96) - cx) / sigma) ** 2)
            frame += strength * np.outer(down, across)
        middle = at - 48
        turn = 0.13 * np.exp(-(middle**2).sum(1, keepdims=True) / 34**2)
        at = (at + turn * middle[:, ::-1] * (1, -1) + (0.5, 0)) % 96
    camera = PoissonGaussianNoise(2.0, 100.0, 1.6)
    noisy = camera.simulate(camera.offset + camera.gain * photons * light, rng)
    found = measure_correlation([noisy])
    assert found.correlation is None
    if photons * np.exp(-((2 * np.pi * sigma * 0.42) ** 2)) < 0.1:  # no trace in finest details
        assert found.white
        fit, _ = estimate_pixel_noise(noisy)
        assert fit.model.gain == pytest.approx(camera.gain, rel=0.1)


def test_intensity_unit_and_offset_do_not_matter(movie: SimulatedMovie) -> None:
    data = with_noise(movie, "rows")
    plain, changed = (measure_correlation([d]).correlation for d in (data, 0.01 * data - 7))
    assert plain is not None
    assert changed is not None
    np.testing.assert_allclose(changed.coefficients, plain.coefficients, atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 96, 96), (20, 12, 12), (4, 32, 32)])
def test_too_little_to_measure_says_nothing(shape: tuple[int, int, int]) -> None:
    fit = measure_correlation([shared(shape, "rows", np.random.default_rng(0))])
    assert fit.correlation is None
    assert fit.note == ""


def test_copied_frames_and_padding_do_not_count(movie: SimulatedMovie) -> None:
    data = np.repeat(with_noise(movie, "rows"), 2, axis=0)
    data[:, :40] = 5.0
    fit = measure_correlation([data])
    assert fit.along_x == pytest.approx(0.5, abs=0.06)


# ---------------------------------------------------------------- made independent


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(5, 40), st.integers(5, 40)),
    st.lists(st.floats(-0.6, 0.6), min_size=len(ORDERS), max_size=len(ORDERS)),
    st.integers(0, 99),
)
def test_the_filter_is_undone_exactly_and_keeps_the_mean(
    shape: tuple[int, int, int], coefficients: list[float], seed: int
) -> None:
    frames = np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)
    kept = frames.copy()
    model = NoiseCorrelation(tuple(coefficients))
    white = model.whiten(frames)
    np.testing.assert_array_equal(frames, kept)
    np.testing.assert_allclose(model.restore(white), frames, atol=0.02)
    np.testing.assert_allclose(white.mean((1, 2)), frames.mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("kind", ["rows", "0.15", "0.4"])
def test_noise_is_independent_after_the_filter(movie: SimulatedMovie, kind: str) -> None:
    model = measure_correlation([with_noise(movie, kind)]).correlation
    assert model is not None
    noise = shared((8, 96, 96), kind, np.random.default_rng(9))
    white = model.whiten(noise)
    variance = np.mean(white**2)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0)):
        pairs = white[:, dy:, dx:] * white[:, : 96 - dy, : 96 - dx]
        assert abs(np.mean(pairs) / variance) < 0.05
    assert np.mean(noise**2) / variance == pytest.approx(model.variance_ratio, rel=0.05)


def test_an_image_without_noise_is_the_same_after_there_and_back(movie: SimulatedMovie) -> None:
    np.testing.assert_allclose(ROWS.restore(ROWS.whiten(movie.clean)), movie.clean, atol=0.01)


def test_noise_models_go_there_and_back() -> None:
    for noise in (PoissonGaussianNoise(2.0, 100.0, 1.5), GaussianNoise(3.0)):
        levels = np.array([100.0, 150.0])
        white = ROWS.white_noise(noise)
        ratio = noise.variance(levels) / white.variance(levels)
        np.testing.assert_allclose(ratio, ROWS.variance_ratio, rtol=1e-3)
        again = ROWS.pixel_noise(white)
        np.testing.assert_allclose(again.variance(levels), noise.variance(levels), rtol=1e-6)


def test_uncertainty_goes_there_and_back() -> None:
    noise = GaussianNoise(2.0)
    std = np.array([[[0.1, 0.5, 1.0, 1.4]]], np.float32)
    mean = np.zeros_like(std)
    restored = ROWS.restore_std(std, mean, noise)
    assert (restored <= std).all()  # details hold less noise than what the eye sees
    assert (np.diff(restored) > 0).all()
    np.testing.assert_allclose(ROWS.whiten_std(restored, mean, noise), std, rtol=1e-4)


# ---------------------------------------------------------------- offsets of lines


@pytest.mark.parametrize("lines", ["rows", "columns"])
def test_offsets_of_lines_are_measured_and_taken_away(movie: SimulatedMovie, lines: str) -> None:
    offsets = 2.5 * np.random.default_rng(1).normal(size=(16, 96, 1))
    data = movie.noisy + (offsets if lines == "rows" else offsets.transpose(0, 2, 1))
    model = measure_correlation([data]).correlation
    assert model is not None
    assert model.lines == lines
    left = np.sqrt(
        np.mean((model.whiten(data) - movie.noisy).mean(1 if lines != "rows" else 2) ** 2)
    )
    assert left < 0.5 * 2.5


def test_a_stripe_of_the_specimen_is_no_offset() -> None:
    """It stands still, so other frames show it too."""
    scene = np.full((12, 64, 64), 100.0, np.float32)
    scene[:, 30:32] += 50
    noise = np.random.default_rng(0).normal(0, 3, scene.shape).astype(np.float32)
    offsets = line_offsets(scene + noise, "rows", 0.2)
    assert np.abs(offsets[:, 28:34]).max() < 2.5


# ---------------------------------------------------------------- in a run


def test_white_movies_give_the_very_same_result_with_and_without(movie: SimulatedMovie) -> None:
    results = []
    for choice in ("auto", "off"):
        denoiser = Denoiser("preview", device="cpu", network=TINY, correlation=choice)
        denoiser.fit(movie.noisy, axes="TYX", training=FEW)
        results.append(denoiser.denoise(movie.noisy, axes="TYX"))
    np.testing.assert_array_equal(results[0].denoised, results[1].denoised)
    np.testing.assert_array_equal(results[0].uncertainty, results[1].uncertainty)
    assert results[0].correlation == {0: None}


def test_a_run_says_what_it_did_and_a_saved_model_does_it_again(
    movie: SimulatedMovie, tmp_path: Any
) -> None:
    data = with_noise(movie, "rows")
    data[3, 10:12, 20] = np.nan
    denoiser = Denoiser("preview", device="cpu", network=TINY)
    result = denoiser.fit(data, axes="TYX", training=FEW).denoise(data, axes="TYX")
    assert any("share noise (correlation 0." in note for note in result.report["notes"])
    assert result.report["correlation"][0]["lines"] == "none"
    assert np.isfinite(result.denoised).all()
    assert result.denoised.mean() == pytest.approx(np.nanmean(data), rel=0.02)
    # the noise that is handed out is that of a recorded pixel
    noise, level = result.noise[0], np.float64(120.0)
    assert noise is not None
    true = movie.gain * (level - movie.offset) + (movie.gain * movie.read_noise) ** 2
    assert float(noise.variance(level)) == pytest.approx(true, rel=0.25)
    loaded = Denoiser.load(denoiser.save(tmp_path / "model.stbn"), device="cpu")
    assert loaded.channel_correlation == denoiser.channel_correlation
    again = loaded.denoise(data, axes="TYX")
    np.testing.assert_allclose(again.denoised, result.denoised, atol=1e-3)


def test_a_known_noise_is_that_of_a_recorded_pixel(movie: SimulatedMovie) -> None:
    data = with_noise(movie, "rows")
    known = PoissonGaussianNoise(movie.gain, movie.offset, movie.read_noise)
    denoiser = Denoiser("preview", device="cpu", network=TINY, noise=known)
    result = denoiser.fit(data, axes="TYX", training=FEW).denoise(data, axes="TYX")
    assert denoiser.channel_correlation[0] is not None
    handed = result.noise[0]
    assert isinstance(handed, PoissonGaussianNoise)
    assert (handed.gain, handed.read_noise) == pytest.approx((known.gain, known.read_noise))


def test_only_the_channel_that_shares_noise_is_filtered(movie: SimulatedMovie) -> None:
    data = np.stack([movie.noisy.astype(np.float32), with_noise(movie, "rows")])
    denoiser = Denoiser("preview", device="cpu", network=TINY)
    result = denoiser.fit(data, axes="CTYX", training=FEW).denoise(data, axes="CTYX")
    assert [c for c, model in result.correlation.items() if model is not None] == [1]
    assert any(note.startswith("Channel 1: Neighbouring pixels") for note in result.report["notes"])


def test_a_look_between_two_steps_is_in_the_user_s_frames(movie: SimulatedMovie) -> None:
    data = with_noise(movie, "rows")
    denoiser = Denoiser("preview", device="cpu", network=TINY)
    denoiser.fit(data, axes="TYX", training=FEW)
    look = denoiser.preview_steps(5)
    shown = None
    while shown is None:
        try:
            next(look)
        except StopIteration as stop:
            shown = stop.value
            break
    assert shown is not None
    whole = denoiser.denoise(data, axes="TYX").denoised[5]
    # frames further away than two matter little
    assert np.sqrt(np.mean((shown - whole) ** 2)) < 0.25 * np.std(data - movie.clean)


def test_the_residual_of_the_truth_is_white_in_the_report(movie: SimulatedMovie) -> None:
    stack = Stack(with_noise(movie, "rows"), "TYX")
    noise = PoissonGaussianNoise(movie.gain, movie.offset, movie.read_noise)
    flow = np.zeros((15, 2, 96, 96), np.float32)
    small = np.full(movie.clean.shape, 1e-3, np.float32)
    checks = {}
    for name, model in (("filtered", ROWS), ("as recorded", None)):
        result = DenoiseResult(
            movie.clean, small, flow, flow, {0: noise}, stack, correlation={0: model}
        )
        checks[name] = check_residual(result, stack, [0])
    assert checks["as recorded"].along_x[0] == pytest.approx(0.5, abs=0.03)
    filtered = checks["filtered"]
    assert abs(filtered.along_x[0]) < 0.03
    assert filtered.std == pytest.approx(1.0, abs=0.05)
    assert filtered.low_pass == pytest.approx(1.0, abs=0.1)


def test_a_look_before_the_run_says_what_a_pixel_has(movie: SimulatedMovie) -> None:
    data = with_noise(movie, "rows")
    fit, said = estimate_pixel_noise(data)
    assert said.startswith("Neighbouring pixels share noise")
    level = np.float64(120.0)
    true = movie.gain * (level - movie.offset) + (movie.gain * movie.read_noise) ** 2
    assert float(fit.model.variance(level)) == pytest.approx(true, rel=0.25)
    assert estimate_pixel_noise(movie.noisy)[1] == ""
    assert estimate_pixel_noise(data, "off")[1] == ""


def test_noise_that_pixels_share_is_said_once(movie: SimulatedMovie) -> None:
    fit = estimate_noise(with_noise(movie, "rows"))
    assert fit.note.startswith(fit.shared)
    assert "share noise" in fit.shared
    assert "share noise" not in said_besides(fit)
    assert said_besides(replace(fit, note=f"{fit.shared} The gain is far off.")) == (
        "The gain is far off."
    )
    plain = estimate_noise(movie.noisy, white=True)
    assert said_besides(plain) == plain.note


# ---------------------------------------------------------------- wrong input


def test_wrong_choices_are_said() -> None:
    with pytest.raises(ValueError, match="correlation must be auto or off, got 'on'"):
        Denoiser("preview", device="cpu", correlation="on")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape(f"must be {len(ORDERS)} numbers, got 2")):
        NoiseCorrelation((0.0, 0.0))
    with pytest.raises(ValueError, match="must be finite"):
        NoiseCorrelation((float("nan"),) * len(ORDERS))
    with pytest.raises(ValueError, match="none, rows or columns, got 'diagonal'"):
        NoiseCorrelation((0.0,) * len(ORDERS), "diagonal")  # type: ignore[arg-type]
    for damaged in ({}, {"coefficients": [0.0] * len(ORDERS), "colour": 1}):
        with pytest.raises(ValueError, match="correlation cannot be read from"):
            correlation_from_dict(damaged)
    assert correlation_from_dict(ROWS.to_dict()) == ROWS


# ---------------------------------------------------------------- what it is worth


def denoised(
    data: Array, choice: Any, steps: int, preset: PresetName = "balanced"
) -> tuple[Array, Array]:
    """Posterior mean and uncertainty from the pretrained weights."""
    denoiser = Denoiser(preset, device="cpu", correlation=choice)
    result = denoiser.fit(data, axes="TYX", max_steps=steps).denoise(data, axes="TYX")
    assert result.uncertainty is not None
    return result.denoised, result.uncertainty


def test_shared_noise_is_removed_better_from_the_first_step() -> None:
    movie = simulate((10, 64, 64), seed=3)
    data = with_noise(movie, "rows")
    off, auto = (decibels(denoised(data, c, 1, "preview")[0], movie.clean) for c in ("off", "auto"))
    assert auto > off + 0.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rows", "0.15", "0.4"])
def test_a_fit_does_not_learn_shared_noise(kind: str) -> None:
    movie = simulate((24, 96, 96), seed=3)
    data = with_noise(movie, kind)
    off, _ = denoised(data, "off", 100)
    start, _ = denoised(data, "auto", 1)
    auto, std = denoised(data, "auto", 100)
    smoothed = max(
        decibels(ndimage.gaussian_filter(data.astype(float), (t, s, s)), movie.clean)
        for t in (0.0, 0.4, 0.7, 1.0)
        for s in (0.5, 0.8, 1.1, 1.5, 2.0)
    )
    scores = [decibels(d, movie.clean) for d in (off, start, auto)]
    assert scores[2] > scores[0] + 1.5  # without, it gets grainier by each step
    assert scores[2] > scores[1] - 0.1  # never worse than its own start
    assert scores[2] > smoothed + 2.0
    inside = float(np.mean(np.abs(auto - movie.clean) <= std))
    assert 0.55 < inside < 0.85
    assert np.mean(auto - movie.clean) == pytest.approx(0.0, abs=0.2)


@pytest.mark.slow
def test_the_residual_of_a_right_result_is_white_in_the_report() -> None:
    movie = simulate((24, 96, 96), seed=3)
    stack = Stack(with_noise(movie, "rows"), "TYX")
    denoiser = Denoiser("balanced", device="cpu")
    result = denoiser.fit(stack, max_steps=60).denoise(stack)
    checks = check_residual(result, stack, [0])
    assert checks.std == pytest.approx(1.0, abs=0.05)
    assert abs(checks.along_x[0]) < 0.08
    assert 0.7 < checks.low_pass < 1.2
