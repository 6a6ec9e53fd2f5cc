"""Lines that a scanner recorded going both ways: found, put in their places, and put back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import napari_stbn as stbn
from napari_stbn._aligned_stack import AlignedStack, aligned_stack, line_shift_of
from napari_stbn._generators import last
from napari_stbn._line_shift import LineShift, measure_line_shift
from napari_stbn.cli import main
from napari_stbn.samples import KINDS

SCENE = stbn.simulate((16, 64, 80), kind="mixed", photons=30, seed=5)


def scanned(movie: Any, pixels: int, axis: str = "X") -> Any:
    """Every second line (…, Y, X) along an axis shifted; its ends come round."""
    lines = np.array(movie)
    lines = lines if axis == "X" else lines.swapaxes(-2, -1)
    lines[..., 1::2, :] = np.roll(lines[..., 1::2, :], pixels, -1)
    return lines if axis == "X" else lines.swapaxes(-2, -1)


@pytest.mark.parametrize("axis", ["X", "Y"])
@pytest.mark.parametrize("pixels", [-5, -1, 1, 2])
def test_a_shift_is_found(axis: str, pixels: int) -> None:
    found = measure_line_shift(scanned(SCENE.noisy, pixels, axis))
    assert found is not None
    assert (found.axis, found.pixels) == (axis, pixels)


@pytest.mark.parametrize("photons", [2, 20, 500])
@pytest.mark.parametrize("kind", KINDS)
def test_lines_that_lie_in_their_places_stay_there(kind: Any, photons: float) -> None:
    for seed in range(3):
        movie = stbn.simulate((12, 64, 80), kind=kind, photons=photons, seed=seed).noisy
        assert measure_line_shift(movie) is None


def test_noise_alone_and_patterns_of_pixels_are_no_shift() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert measure_line_shift(rng.poisson(9, (8, 64, 64))) is None
    mosaic = SCENE.noisy.astype(np.float32)
    mosaic[:, ::2, ::2] *= 0.4  # colours of a camera
    mosaic[:, 1::2, 1::2] *= 0.7
    assert measure_line_shift(mosaic) is None
    assert measure_line_shift(np.ones((4, 40, 40))) is None
    assert measure_line_shift(np.ones((4, 9, 9))) is None


def test_pixels_that_were_not_recorded_do_not_hide_a_shift() -> None:
    movie = scanned(stbn.simulate((8, 256, 256), photons=30, seed=5).noisy, 3).astype(np.float32)
    movie[:, np.random.default_rng(0).random(movie.shape[1:]) < 0.02] = np.nan
    found = measure_line_shift(movie)
    assert found is not None
    assert (found.axis, found.pixels) == ("X", 3)


def test_padding_does_not_hide_a_shift() -> None:
    movie = scanned(SCENE.noisy, 3).astype(np.float32)
    movie[:, :, :6] = np.nan
    found = measure_line_shift(movie)
    assert found is not None
    assert found.pixels == 3


@pytest.mark.parametrize("axis", ["X", "Y"])
@pytest.mark.parametrize("pixels", [-3, 2])
def test_any_part_of_an_aligned_stack_is_that_part_of_the_whole(axis: Any, pixels: int) -> None:
    data = np.random.default_rng(1).random((2, 5, 20, 24)).astype(np.float32)
    stack = stbn.Stack(data, "CTYX")
    seen = AlignedStack(stack, LineShift(axis, pixels, 9.0))
    whole = seen.movie(1)
    assert whole.shape == (5, 20, 24)
    back = scanned(data[1], -pixels, axis)
    there = np.isfinite(whole)
    np.testing.assert_array_equal(whole[there], back[there])
    lines, length = (10, 24) if axis == "X" else (12, 20)
    assert (~there).sum() == 5 * lines * abs(pixels)
    assert length > abs(pixels)
    for rows, columns in (
        (slice(3, 17), slice(0, 9)),
        (slice(0, 4), slice(15, 24)),
        (slice(None, None, 3), slice(1, None, 2)),
    ):
        part = seen.movie(1, frames=slice(1, 4), rows=rows, columns=columns)
        np.testing.assert_array_equal(part, whole[1:4, rows, columns])


@pytest.mark.parametrize("axis", ["X", "Y"])
@pytest.mark.parametrize("pixels", [-3, 2])
def test_what_was_seen_goes_back_to_where_it_was_recorded(axis: Any, pixels: int) -> None:
    data = np.random.default_rng(2).random((5, 20, 24)).astype(np.float32)
    seen = AlignedStack(stbn.Stack(data, "TYX"), LineShift(axis, pixels, 9.0))
    got: list[Any] = []
    take = seen.output(lambda *given: got.append(given), None)
    movie = seen.movie()
    take(0, 0, 1, movie[1:4], movie[1:4] + 1)
    _, _, start, mean, std = got[0]
    assert start == 1
    measured = np.isfinite(std)
    np.testing.assert_array_equal(mean[measured], data[1:4][measured])
    np.testing.assert_array_equal(std[measured], data[1:4][measured] + 1)
    assert (~measured).sum() == 3 * (10 if axis == "X" else 12) * abs(pixels)
    flow = np.broadcast_to(movie[1:, None], (4, 2, 20, 24))
    back = seen.flows_for_user({(0, 0): flow}, forward=True)[0, 0]
    np.testing.assert_array_equal(back[0, 1][measured[0]], data[1][measured[0]])
    whole, part = slice(None), slice(5, 15)
    shown = seen.shown((0, 0, 2), movie[2], whole, whole)
    np.testing.assert_array_equal(shown[measured[1]], data[2][measured[1]])
    shown = seen.shown((0, 0, 2), movie[2][part, part], part, part)
    np.testing.assert_array_equal(shown[4:-4, 4:-4], data[2][9:11, 9:11][..., :])


def test_one_scanner_made_all_channels() -> None:
    dim = np.random.default_rng(0).poisson(1, SCENE.noisy.shape)
    stack = stbn.Stack(np.stack([dim, scanned(SCENE.noisy, 2)]), "CTYX")
    seen = last(aligned_stack(stack))
    shift = line_shift_of(seen)
    assert shift is not None
    assert (shift.axis, shift.pixels) == ("X", 2)
    plain = stbn.Stack(SCENE.noisy, "TYX")
    assert last(aligned_stack(plain)) is plain
    assert line_shift_of(plain) is None


def test_a_scanned_movie_is_denoised_as_well_as_one_that_was_not_shifted() -> None:
    shifted, clean = scanned(SCENE.noisy, 3), scanned(SCENE.clean, 3)
    errors = []
    for movie, truth in ((SCENE.noisy, SCENE.clean), (shifted, clean)):
        denoiser = stbn.Denoiser("preview", device="cpu", flow="none")
        denoiser.fit(stbn.Stack(movie, "TYX"), max_steps=1)
        result = denoiser.denoise(stbn.Stack(movie, "TYX"))
        assert result.uncertainty is not None
        assert result.denoised.shape == movie.shape
        inner = (result.denoised - truth)[:, :, 4:-4]
        errors.append(float(np.mean(inner**2)))
        lost = ~np.isfinite(result.uncertainty)
    assert errors[1] < 1.1 * errors[0]
    assert lost[:, 1::2, :3].all()
    assert lost.sum() == 16 * 32 * 3
    assert np.isfinite(result.denoised).all()
    assert result.report["line_shift"] == {"axis": "X", "pixels": 3}
    assert any("Every second row is shifted by 3 px" in note for note in result.report["notes"])
    assert not any("NaN" in note for note in result.report["notes"])


def test_without_a_look_at_what_is_shared_lines_stay_as_they_are() -> None:
    denoiser = stbn.Denoiser("preview", device="cpu", flow="none", correlation="off")
    stack = stbn.Stack(scanned(SCENE.noisy, 3), "TYX")
    denoiser.fit(stack, max_steps=1)
    assert denoiser.denoise(stack).report["line_shift"] is None


def test_info_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stbn.write(tmp_path / "movie.tif", stbn.Stack(scanned(SCENE.noisy, 2, "Y"), "TYX"))
    main(["info", str(tmp_path / "movie.tif"), "--device", "cpu"])
    assert "Every second column is shifted by 2 px" in capsys.readouterr().out
