"""Claims of the public face: any stack in, the same stack out, denoised; nothing else touched."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import napari_stbn as napari_stbn_
from napari_stbn import Denoiser, GaussianNoise, PoissonGaussianNoise, Stack, STBNConfig
from napari_stbn.denoiser import DenoiseResult, denoise
from napari_stbn.samples import simulate
from napari_stbn.training import TrainingConfig

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
FEW = TrainingConfig(max_steps=3, clip_frames=2, clip_size=16, patience=0)
Array = NDArray[Any]


def tiny(**options: Any) -> Denoiser:
    return Denoiser("preview", device="cpu", network=TINY, precision="float32", **options)


def run(data: Any, axes: str | None = "TYX", **options: Any) -> DenoiseResult:
    """Fit a few steps and denoise."""
    denoiser = tiny(**options)
    return denoiser.fit(data, axes=axes, training=FEW).denoise(data, axes=axes)


@pytest.fixture(scope="module")
def noisy() -> Array:
    return simulate((5, 32, 28), kind="nuclei", motion=2.0, seed=0).noisy


def in_order(movie: Array, axes: str, target: str) -> Array:
    """Transpose an array from `axes` to the order `target`."""
    return movie.transpose([axes.index(axis) for axis in target])


# ---------------------------------------------------------------- any stack


@pytest.mark.parametrize("axes", ["TYX", "YXT", "XTY", "TCYX", "CTZYX", "ZYXTC"])
def test_shape_axes_and_scale_of_the_input_come_back(noisy: Array, axes: str) -> None:
    sizes = {"C": 2, "Z": 2}
    extra = [axis for axis in "CZ" if axis in axes]
    full = np.broadcast_to(noisy, (*(sizes[a] for a in extra), *noisy.shape)).copy()
    full[-1:] += 7  # movies of a stack differ
    data = in_order(full, "".join(extra) + "TYX", axes)
    stack = Stack(data, axes, pixel_size=0.2, frame_interval=3.0, name="cells")
    result = run(stack, None)
    assert result.denoised.shape == data.shape
    assert result.denoised.dtype == np.float32
    assert result.uncertainty is not None
    assert result.uncertainty.shape == data.shape
    assert np.isfinite(result.denoised).all()
    assert (result.uncertainty > 0).all()
    assert result.stack.axes == axes
    assert result.stack.pixel_size == {"Y": 0.2, "X": 0.2}
    assert result.stack.frame_interval == 3.0
    assert result.stack.name == "cells denoised"
    # each movie went back to its own place: closer to its own input than to another's
    moved = in_order(result.denoised, axes, "".join(extra) + "TYX")
    assert abs(float((moved - full).mean())) < 3
    flows = (4, 2, 32, 28) if not extra else (sizes["C"], sizes.get("Z", 1), 4, 2, 32, 28)
    if axes != "ZYXTC":
        flows = flows if "Z" in axes or not extra else (2, 1, 4, 2, 32, 28)
    assert result.flow_to_previous.shape == flows
    assert set(result.noise) == set(range(2 if "C" in axes else 1))


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4", "f8", ">u2", ">f4"])
def test_any_number_type_of_any_byte_order(noisy: Array, dtype: str) -> None:
    data = noisy.clip(0, 255).astype(dtype)
    result = run(data)
    assert np.isfinite(result.denoised).all()
    assert abs(float(result.denoised.mean() - noisy.mean())) < 5


@pytest.mark.parametrize("layout", ["read-only", "strided", "fortran", "list"])
def test_any_memory_and_the_input_is_never_written_to(noisy: Array, layout: str) -> None:
    data: Any = noisy.astype(np.float32)
    if layout == "read-only":
        data.flags.writeable = False
    elif layout == "strided":
        data = np.repeat(data, 2, axis=2)[:, :, ::2]
    elif layout == "fortran":
        data = np.asfortranarray(data)
    expected = run(noisy.astype(np.float32)).denoised
    result = run(data.tolist() if layout == "list" else data)
    np.testing.assert_allclose(result.denoised, expected, rtol=1e-5)
    np.testing.assert_array_equal(data, noisy)


def test_colour_samples_are_denoised_together_where_asked(noisy: Array) -> None:
    data = np.stack([noisy, noisy // 2 + 40, noisy + 3], -1)
    denoiser = tiny(channels="joint").fit(data, axes="TYXS", training=FEW)
    assert denoiser.model is not None
    assert denoiser.model.config.channels == 3
    assert denoiser.model.config.outputs == 9
    result = denoiser.denoise(data, axes="TYXS")
    assert result.denoised.shape == data.shape
    assert result.flow_to_next.shape == (4, 2, 32, 28), "one flow for all colours"
    for c in range(3):
        assert abs(float(result.denoised[..., c].mean() - data[..., c].mean())) < 5
    with pytest.raises(ValueError, match="denoises 3 channels together, this stack has 1"):
        denoiser.denoise(noisy, axes="TYX")


def test_channels_are_denoised_together_only_when_asked(noisy: Array) -> None:
    data = np.stack([noisy, noisy + 5])
    for choice, expected in (("auto", 1), ("separate", 1), ("joint", 2)):
        denoiser = tiny(channels=choice).fit(data, axes="CTYX", training=FEW)
        assert denoiser.model is not None
        assert denoiser.model.config.channels == expected


@pytest.mark.parametrize("shape", [(2, 32, 28), (2, 8, 8), (4, 9, 21)])
def test_two_frames_and_tiny_frames(noisy: Array, shape: tuple[int, int, int]) -> None:
    data = noisy[: shape[0], 10 : 10 + shape[1], : shape[2]] if shape[1] < 32 else noisy[:2]
    result = run(data)
    assert result.denoised.shape == data.shape
    assert np.isfinite(result.denoised).all()


def test_denoise_in_one_line(noisy: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    out = denoise(noisy, axes="TYX", preset="preview", time_budget=0.5, device="cpu")
    assert out.shape == noisy.shape
    assert out.dtype == np.float32
    assert napari_stbn_.denoise is denoise


# ---------------------------------------------------------------- intensities


@pytest.mark.parametrize(("a", "b"), [(3.0, -50.0), (0.01, 0.0), (1000.0, 1e5)])
def test_scale_and_offset_of_the_data_do_not_matter(noisy: Array, a: float, b: float) -> None:
    """denoise(a y + b) = a denoise(y) + b. Where float32 rounds the inputs differently, three
    steps of Adam turn it into up to 1e-3 of the noise; ten times that is allowed.
    """
    data = noisy.astype(np.float64)
    one, other = run(data), run(a * data + b)
    noise = one.noise[0]
    assert noise is not None
    scale = float(np.sqrt(noise.variance(np.asarray(data.mean()))))
    assert np.abs((other.denoised - b) / a - one.denoised).max() < 0.01 * scale
    assert one.uncertainty is not None
    assert other.uncertainty is not None
    assert np.abs(other.uncertainty / a - one.uncertainty).max() < 0.01 * scale


def test_a_seed_and_steps_repeat_and_another_seed_differs(noisy: Array) -> None:
    one, two, other = (run(noisy, seed=seed).denoised for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_without_a_noise_model_there_is_no_uncertainty(noisy: Array) -> None:
    result = run(noisy, noise=None)
    assert result.uncertainty is None
    assert result.noise == {0: None}
    assert np.isfinite(result.denoised).all()


@pytest.mark.parametrize("noise", [PoissonGaussianNoise(2.0, 100.0, 1.6), GaussianNoise(4.0)])
def test_known_noise_is_used_as_it_is(noisy: Array, noise: Any) -> None:
    assert run(noisy, noise=noise).noise == {0: noise}


def test_gaussian_noise_is_measured_when_asked(noisy: Array) -> None:
    model = run(noisy, noise="gaussian").noise[0]
    assert isinstance(model, GaussianNoise)
    assert 3 < model.sigma < 8


def test_report_is_plain_and_says_what_was_done(noisy: Array) -> None:
    import json

    report = run(noisy, seed=4, flow="none").report
    assert json.loads(json.dumps(report, allow_nan=False))["steps"] == 3
    assert report["seed"] == 4
    assert report["flow"] == "none"
    assert report["shape"] == [5, 32, 28]


# ---------------------------------------------------------------- defects


def test_pixels_without_a_value_are_filled_in(noisy: Array) -> None:
    data = noisy.astype(np.float32)
    data[1, 5:8, 6] = np.nan
    data[2, 0, 0] = np.inf
    kept = data.copy()
    result = run(data)
    assert np.isfinite(result.denoised).all()
    assert np.abs(result.denoised[1, 5:8, 6] - noisy[1, 5:8, 6]).max() < 60
    np.testing.assert_array_equal(data, kept)
    assert any("4 pixels are NaN or infinite" in note for note in result.report["notes"])


def test_a_stuck_pixel_does_not_stay(noisy: Array) -> None:
    data = noisy.copy()
    data[:, 15, 14] = 5000
    result = run(data)
    assert result.denoised[:, 15, 14].max() < 500
    assert any("never change" in note for note in result.report["notes"])


def test_a_dropped_frame_comes_back_as_it_was(noisy: Array) -> None:
    data = noisy.copy()
    data[2] = 100
    result = run(data)
    assert (result.denoised[2] == 100).all()
    assert result.uncertainty is not None
    assert np.isnan(result.uncertainty[2]).all()
    assert np.isfinite(result.denoised).all()
    assert any("1 frame is blank: 2" in note for note in result.report["notes"])


def test_saturated_and_negative_values_are_no_obstacle(noisy: Array) -> None:
    for data in (noisy.clip(0, 118), noisy.astype(np.int16) - 110):
        result = run(data)
        assert np.isfinite(result.denoised).all()
        assert abs(float(result.denoised.mean() - data.mean())) < 5


@pytest.mark.parametrize(
    ("data", "axes", "sentence"),
    [
        (np.full((4, 16, 16), 3), "TYX", "has one value in every frame"),
        (
            np.zeros((1, 16, 16)),
            "TYX",
            'has 1 frame; .* at least 2. Is T the first axis? Set "axes"',
        ),
        (np.zeros((16, 16)), "YX", "has 1 frame"),
        (np.ones((5, 16, 16)), "ZYX", "has 1 frame"),
        (np.zeros((3, 7, 16)), "TYX", "frames of 7 x 16 pixels; denoising needs at least 8 x 8"),
        (np.full((3, 16, 16), np.nan), "TYX", "has no finite pixel"),
        (np.zeros((3, 16, 16), complex), "TYX", "is of type complex128"),
        (np.zeros((3, 16, 16), bool), "TYX", "is of type bool"),
        (np.zeros((0, 16, 16)), "TYX", "is empty"),
    ],
)
def test_what_cannot_be_denoised_is_said(data: Array, axes: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace("axis?", r"axis\?")):
        tiny().fit(data, axes=axes, training=FEW)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"preset": "huge"}, "preset must be one of auto, preview, .*, got 'huge'"),
        ({"flow": "pwc"}, "flow must be one of dis, .*, got 'pwc'"),
        ({"channels": "all"}, "channels must be auto, separate or joint, got 'all'"),
        ({"noise": "poisson"}, 'noise must be "estimate", "gaussian", .* got \'poisson\''),
        ({"noise": 5.0}, r"noise must be .* such as GaussianNoise\(5.0\) or None, got 5.0"),
        ({"noise": {"kind": "gaussian", "sigma": 5.0}}, "noise must be .* got {'kind'"),
        ({"device": "abacus"}, "device must be \"auto\", .* got 'abacus'"),
        ({"precision": "float8"}, "precision must be .*float8"),
    ],
)
def test_unknown_choices_are_said(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Denoiser(**options)


def test_axes_that_contradict_a_stack_are_said(noisy: Array) -> None:
    with pytest.raises(ValueError, match="this stack has axes TYX, got axes='YXT'"):
        tiny().fit(Stack(noisy, "TYX"), axes="YXT")


def test_denoising_changes_nothing_that_the_fit_knows(noisy: Array) -> None:
    """Nor the next result: channels that the fit has not seen are measured on each stack anew."""
    denoiser = tiny(flow="none").fit(noisy, axes="TYX", training=FEW)
    before = dict(denoiser.channel_noise), dict(denoiser.channel_scaling)
    bright = np.stack([noisy, 3 * noisy])
    alone = denoiser.denoise(bright, axes="CTYX")
    denoiser.denoise(np.stack([noisy, noisy]), axes="CTYX")
    after = denoiser.denoise(bright.copy(), axes="CTYX")
    np.testing.assert_array_equal(after.denoised, alone.denoised)
    assert after.noise == alone.noise
    assert (denoiser.channel_noise, denoiser.channel_scaling) == before


def test_what_a_fit_says_is_said_of_a_bare_array_too(noisy: Array) -> None:
    plan = TrainingConfig(max_steps=3, clip_frames=2, clip_size=16, patience=0, sampled_pixels=900)
    denoiser = tiny(flow="none").fit(noisy, axes="TYX", training=plan)
    for data, said in ((noisy, True), (noisy.copy(), False)):
        notes = denoiser.denoise(data, axes="TYX").report["notes"]
        assert any("the fit learnt from" in note for note in notes) == said


def test_a_model_that_predicts_no_numbers_is_said(noisy: Array) -> None:
    denoiser = tiny(flow="none").fit(noisy, axes="TYX", training=FEW)
    assert denoiser.model is not None
    with torch.no_grad():
        for weight in denoiser.model.parameters():
            weight.fill_(np.nan)
    with pytest.raises(RuntimeError, match="predicts values that are no numbers: fit again"):
        denoiser.denoise(noisy, axes="TYX")


def test_a_movie_that_is_refused_leaves_the_model_as_it_was(noisy: Array) -> None:
    denoiser = tiny(flow="none").fit(noisy, axes="TYX", training=FEW)
    before = denoiser.denoise(noisy, axes="TYX")
    with pytest.raises(ValueError, match="one value in every frame"):
        denoiser.fit(np.full_like(noisy, 3), axes="TYX", training=FEW)
    after = denoiser.denoise(noisy, axes="TYX")
    np.testing.assert_array_equal(after.denoised, before.denoised)
    assert after.report["steps"] == before.report["steps"]


@pytest.mark.quiet
def test_a_fit_larger_than_memory_is_refused_before_it_starts(noisy: Array) -> None:
    # One number seen a billion times: a movie of a terabyte that takes no memory here.
    huge = Stack(np.broadcast_to(noisy[0, 0, 0], (1000, 100_000, 10_000)), "TYX")
    started = time.perf_counter()
    with pytest.raises(MemoryError, match="denoising frames of 100000 x 10000 needs"):
        next(tiny().fit_steps(huge, training=FEW))
    assert time.perf_counter() - started < 2


# ---------------------------------------------------------------- stopping


def test_closing_a_fit_keeps_what_was_learnt(noisy: Array) -> None:
    denoiser = tiny()
    endless = TrainingConfig(max_steps=100_000, clip_frames=2, clip_size=16)
    steps = denoiser.fit_steps(noisy, axes="TYX", training=endless)
    phases = []
    for progress in steps:
        phases.append(progress.phase)
        if progress.step is not None and progress.step.step == 2:
            break
    steps.close()
    assert phases == [*["noise"] * 3, *["flow"] * 5, "fit", "fit"]
    result = denoiser.denoise(noisy, axes="TYX")
    assert np.isfinite(result.denoised).all()
    assert result.report["steps"] == 2


def test_closing_before_the_first_step_leaves_no_model(noisy: Array) -> None:
    denoiser = tiny()
    steps = denoiser.fit_steps(noisy, axes="TYX", training=FEW)
    next(steps)
    steps.close()
    with pytest.raises(RuntimeError, match=re.escape("call fit() or load() first")):
        denoiser.denoise(noisy, axes="TYX")


@pytest.mark.quiet
def test_cancelling_acts_within_a_second() -> None:
    """A network and clips of the size that people use; no yield is more than a second away."""
    data = simulate((10, 96, 96), seed=0).noisy
    denoiser = Denoiser("preview", device="cpu")
    gaps = []
    for steps in (
        denoiser.fit_steps(data, axes="TYX", max_steps=5),
        denoiser.denoise_steps(data, axes="TYX"),
    ):
        last = time.perf_counter()
        for _ in steps:
            gaps.append(time.perf_counter() - last)
            last = time.perf_counter()
    assert max(gaps) < 1


def test_nothing_is_denoised_or_saved_before_a_fit(noisy: Array, tmp_path: Any) -> None:
    with pytest.raises(RuntimeError, match=re.escape("there is no model yet: call fit()")):
        tiny().denoise(noisy, axes="TYX")
    with pytest.raises(RuntimeError, match=re.escape("there is no model to save: call fit()")):
        tiny().save(tmp_path / "model.stbn")
    assert not list(tmp_path.iterdir())
