"""Padding, blank frames, copies of frames: not recorded, not learnt from, no loss to the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

import napari_stbn as stbn
from napari_stbn._filling import around, fill_defects
from napari_stbn._generators import last
from napari_stbn._padded_stack import PaddedStack, padded_stack, padding_value
from napari_stbn.cli import main
from napari_stbn.report import residual_checks
from napari_stbn.samples import KINDS
from napari_stbn.stack import inspect_movie

Movie = NDArray[Any]
FRAMES, SIDE = 24, 72
SHIFTS = np.random.default_rng(5).uniform(-5, 5, (FRAMES, 2))


def registered(movie: Movie, *, order: int = 0, fill: float = 0.0) -> Movie:
    """Each frame shifted, and what is left free filled with one value."""
    shifts = SHIFTS if order else SHIFTS.round()
    return np.stack(
        [
            ndimage.shift(f.astype(np.float64), s, order=order, cval=fill)
            for f, s in zip(movie, shifts, strict=True)
        ]
    )


def simulated(kind: str = "mixed", photons: float = 20.0) -> tuple[Movie, Movie]:
    made = stbn.simulate((FRAMES, SIDE, SIDE), kind=kind, photons=photons, seed=3)
    return made.noisy.astype(np.float64), made.clean.astype(np.float64)


def psnr(estimate: Movie, clean: Movie, span: float) -> float:
    return float(10 * np.log10(span**2 / np.mean((estimate - clean) ** 2)))


def denoised(movie: Movie) -> stbn.DenoiseResult:
    denoiser = stbn.Denoiser("preview", device="cpu", flow="none", turns=1)
    stack = stbn.Stack(movie.astype(np.float32), axes="TYX")
    return denoiser.fit(stack, max_steps=1).denoise(stack)


@pytest.mark.parametrize("fill", [0.0, 65535.0, -1.0])
@pytest.mark.parametrize("order", [0, 1])
def test_padding_is_found(fill: float, order: int) -> None:
    noisy, _ = simulated()
    assert padding_value(registered(noisy, order=order, fill=fill)) == fill


def test_a_field_that_was_turned_or_cut_out_is_found() -> None:
    noisy, _ = simulated()
    turned = np.stack([ndimage.rotate(f, t, reshape=False, order=1) for t, f in enumerate(noisy)])
    assert padding_value(turned) == 0
    y, x = np.indices((SIDE, SIDE)) - SIDE / 2
    assert padding_value(np.where(np.hypot(y, x) < SIDE / 2 - 1, noisy, 0)) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_movies_as_recorded_have_none(kind: str) -> None:
    noisy, _ = simulated(kind, 3.0)
    assert padding_value(noisy) is None
    # Photons that are counted: most pixels are 0, along the edges too.
    assert padding_value(np.maximum((noisy - 103) // 4, 0)) is None


def test_blank_frames_and_dead_lines_are_no_padding() -> None:
    noisy, _ = simulated()
    noisy[3], noisy[7] = 0, np.nan
    assert padding_value(noisy) is None


def test_any_part_of_a_padded_stack_is_that_part_of_the_whole() -> None:
    noisy, _ = simulated()
    array = np.stack([noisy, registered(noisy)], 1).transpose(0, 2, 1, 3).astype(np.uint16)
    stack = stbn.Stack(array, axes="TYCX")
    padded = last(padded_stack(stack))
    assert isinstance(padded, PaddedStack)
    assert padded.values == {1: 0.0}
    np.testing.assert_array_equal(padded.movie(0), stack.movie(0))
    whole = padded.movie(1)
    assert np.isnan(whole[stack.movie(1) == 0]).all()
    known = np.isfinite(whole)
    np.testing.assert_array_equal(whole[known], stack.movie(1)[known])
    part = padded.movie(1, frames=slice(2, 9), rows=slice(20, 50), columns=slice(10, 40))
    np.testing.assert_array_equal(part, whole[2:9, 20:50, 10:40])


@pytest.mark.parametrize("order", [0, 1])
def test_a_registered_movie_is_denoised_as_well_as_without_padding(order: int) -> None:
    noisy, clean = simulated()
    span, inside = float(np.ptp(clean)), np.s_[:, 7:-7, 7:-7]
    truth = registered(clean, order=order)
    result = denoised(registered(noisy, order=order))
    mirrored = [
        ndimage.shift(f, s, order=order, mode="reflect")
        for f, s in zip(noisy, SHIFTS if order else SHIFTS.round(), strict=True)
    ]
    without = denoised(np.stack(mirrored))
    reached = psnr(result.denoised[inside], truth[inside], span)
    assert reached > psnr(without.denoised[inside], truth[inside], span) - 0.5
    padding = registered(noisy, order=order) == 0
    assert (result.denoised[padding] == 0).all()
    assert result.uncertainty is not None
    assert np.isnan(result.uncertainty[padding]).all()
    assert np.isfinite(result.uncertainty[inside]).all()
    assert np.isfinite(result.denoised).all()
    assert any("padded" in note for note in result.report["notes"])
    assert not any("NaN" in note for note in result.report["notes"])


def test_a_look_during_the_fit_shows_the_padding() -> None:
    noisy, clean = simulated()
    movie = registered(noisy).astype(np.float32)
    denoiser = stbn.Denoiser("preview", device="cpu", flow="none").fit(
        movie, axes="TYX", max_steps=1
    )
    look = last(denoiser.preview_steps(5))
    assert look is not None
    assert (look[movie[5] == 0] == 0).all()
    inside = np.s_[7:-7, 7:-7]
    assert psnr(look[inside], registered(clean)[5][inside], float(np.ptp(clean))) > 28


@pytest.mark.parametrize("blank", [0.0, np.nan])
def test_blank_frames_cost_the_others_little(blank: float) -> None:
    noisy, clean = simulated()
    span = float(np.ptp(clean))
    whole = denoised(noisy).denoised
    gaps = noisy.copy()
    gaps[[5, 12, 23]] = blank
    result = denoised(gaps).denoised
    np.testing.assert_array_equal(result[[5, 12, 23]], np.full((3, SIDE, SIDE), blank))
    far = [0, 1, 2, 8, 9, 15, 16, 17, 18, 19]
    assert psnr(result[far], clean[far], span) > psnr(whole[far], clean[far], span) - 0.3
    near = [4, 6, 11, 13, 22]
    assert psnr(result[near], clean[near], span) > psnr(whole[near], clean[near], span) - 1.5


def test_copies_of_frames_are_found_and_predicted() -> None:
    noisy, clean = simulated()
    movie = noisy.copy()
    movie[[6, 14]] = movie[[5, 13]]
    assert inspect_movie(movie).repeated == (6, 14)
    result = denoised(movie)
    assert any("2 frames are copies of those before" in n for n in result.report["notes"])
    span = float(np.ptp(clean))
    copies = psnr(result.denoised[[6, 14]], clean[[6, 14]], span)
    assert copies > psnr(movie[[6, 14]], clean[[6, 14]], span) + 8
    assert result.uncertainty is not None
    assert np.isfinite(result.uncertainty).all()


def test_movies_that_repeat_every_frame_have_no_dropped_ones() -> None:
    noisy, _ = simulated()
    assert inspect_movie(np.repeat(noisy, 2, 0)).repeated == ()


def test_no_noise_is_copied_into_what_is_filled() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(12, 64, 64))
    movie = noise.copy()
    movie[4], movie[9, 20:30, 20:30], movie[7, ::7, ::7] = np.nan, np.nan, np.inf
    filled, valid = fill_defects(movie, inspect_movie(movie))
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[valid], movie[valid].astype(np.float32))
    for neighbour in (3, 5):
        shared = np.corrcoef(filled[4].ravel(), noise[neighbour].ravel())[0, 1]
        assert filled[4].std() * shared < 0.1  # what a pixel of the neighbour adds to its place
    assert filled[9, 22:28, 22:28].std() < 0.5
    assert filled[7, ::7, ::7].std() < 0.5


def test_frames_that_fill_a_gap_follow_its_course() -> None:
    movie = np.broadcast_to(np.arange(10.0)[:, None, None] * 10, (10, 16, 16)).copy()
    movie += np.random.default_rng(0).normal(0, 0.01, movie.shape)
    movie[3:6] = np.nan
    movie[9] = np.nan
    filled, _ = fill_defects(movie, inspect_movie(movie))
    np.testing.assert_allclose(
        filled.mean((1, 2)), [0, 10, 20, 30, 40, 50, 60, 70, 80, 80], atol=0.1
    )


def test_padding_is_no_residual() -> None:
    noisy, _ = simulated()
    movie = registered(noisy)
    checks = residual_checks(denoised(movie), stbn.Stack(movie.astype(np.float32), axes="TYX"))
    assert abs(checks.mean) < 0.05
    assert checks.std == pytest.approx(1, abs=0.1)


def test_beyond_its_end_a_movie_is_mirrored() -> None:
    good = np.array([4, 5, 7])
    after = [around(t, good) for t in range(8, 16)]
    assert after == [[(g, 1.0)] for g in (7, 5, 4, 4, 5, 7, 7, 5)]
    before = [around(t, good) for t in (3, 2, 1, 0)]
    assert before == [[(g, 1.0)] for g in (4, 5, 7, 7)]
    assert around(6, good) == [(5, 0.5), (7, 0.5)]
    assert around(3, np.array([9])) == [(9, 1.0)]


def test_info_says_that_a_movie_is_padded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy, _ = simulated()
    stbn.write(tmp_path / "shifted.tif", stbn.Stack(registered(noisy).astype(np.uint16), "TYX"))
    assert main(["info", str(tmp_path / "shifted.tif")]) == 0
    said = capsys.readouterr().out
    assert "padded along their edges with 0" in said
    gain = float(said.split("gain ")[1].split()[0])
    assert gain == pytest.approx(2.0, rel=0.15)
