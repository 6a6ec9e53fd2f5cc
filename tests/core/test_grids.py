"""Noise that no filter makes white: every n-th pixel is denoised as a movie of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

import napari_stbn as stbn
from napari_stbn._generators import last
from napari_stbn._grid_stack import GridStack
from napari_stbn._grid_step import GridStep, measure_grid_step, pixels_apart, shortest_of
from napari_stbn._report_sampling import as_one_movie
from napari_stbn._spaced_stack import Spacing, spaced_stack, spacing_of
from napari_stbn.cli import main
from napari_stbn.samples import KINDS

SCENE = stbn.simulate((16, 64, 72), kind="mixed", photons=20, seed=78)


def enlarged(movie: Any, order: int = 3) -> Any:
    return ndimage.zoom(np.asarray(movie, np.float32), (1, 2, 2), order=order)


def smoothed(movie: Any, *width: float) -> Any:
    return ndimage.gaussian_filter(np.asarray(movie, np.float32), (0, *width))


@pytest.mark.parametrize(
    ("movie", "step"),
    [
        (enlarged(SCENE.noisy), (2, 2)),
        (smoothed(SCENE.noisy, 1.5, 1.5), (2, 2)),
        (smoothed(SCENE.noisy, 0, 1.5), (1, 2)),
        (smoothed(SCENE.noisy, 0.6, 0.6), (1, 1)),  # a filter makes that white
        (np.repeat(np.repeat(SCENE.noisy, 2, 1), 3, 2), (2, 3)),
        (ndimage.uniform_filter(SCENE.noisy.astype(np.float32), (1, 3, 3)), (1, 2)),
        (SCENE.noisy, (1, 1)),
    ],
    ids=["enlarged", "smoothed", "along lines", "little", "copies", "mean of 9", "as recorded"],
)
def test_pixels_are_taken_as_far_apart_as_their_noise_asks_for(movie: Any, step: Any) -> None:
    found = measure_grid_step(movie)
    assert found is not None
    assert (found.rows, found.columns) == step
    assert bool(found.note) == (step != (1, 1))


def test_pixels_that_were_not_recorded_do_not_hide_copies() -> None:
    copies = np.repeat(np.repeat(SCENE.noisy, 2, 1), 3, 2).astype(np.float32)
    copies[:, np.random.default_rng(0).random(copies.shape[1:]) < 0.02] = np.nan
    copies[:, :, -30:] = np.nan
    found = measure_grid_step(copies)
    assert found is not None
    assert (found.rows, found.columns) == (2, 3)


@pytest.mark.parametrize("photons", [3, 30, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_recorded_movies_are_left_together(kind: Any, photons: float) -> None:
    found = measure_grid_step(stbn.simulate((12, 64, 64), kind=kind, photons=photons, seed=1).noisy)
    assert found is None or found.pixels == 1


def test_of_channels_the_shortest_step_is_taken() -> None:
    steps = [GridStep(2, 2, 0.9), None, GridStep(1, 2, 0.9)]
    assert shortest_of(steps) == steps[2]
    assert shortest_of([None]) == GridStep()
    assert measure_grid_step(np.full((8, 64, 64), np.nan)) is None
    assert measure_grid_step(SCENE.noisy[:, :20, :20]) in (None, GridStep())
    dark = SCENE.noisy.copy()
    dark[:, :30] = 0
    assert measure_grid_step(dark) == GridStep()


@pytest.mark.parametrize("step", [GridStep(2, 3, 0.8), GridStep(1, 2, 0.8), GridStep(4, 1, 0.8)])
def test_grids_are_parts_of_the_frames_and_come_back_as_these(step: GridStep) -> None:
    data = np.random.default_rng(3).random((2, 5, 3, 22, 25)).astype(np.float32)
    stack = stbn.Stack(data, "CTZYX")
    seen = GridStack(stack, step)
    assert seen.shape == (2, 5, 3 * step.pixels, -(-22 // step.rows), -(-25 // step.columns))
    got: dict[tuple[int, int], Any] = {}

    def output(channel: int, plane: int, start: int, mean: Any, std: Any) -> None:
        np.testing.assert_array_equal(std, mean + 1)
        got.setdefault((channel, plane), []).append((start, mean))

    take = seen.output(output, None)
    for channel, plane in seen.indices():
        movie = seen.movie(channel, plane)
        whole = data[channel, :, plane // step.pixels]
        rows, columns = seen.pixels(plane % step.pixels)
        own = whole[:, rows, columns]
        np.testing.assert_array_equal(movie[:, : own.shape[1], : own.shape[2]], own)
        assert np.isnan(movie).sum() == movie.size - own.size
        part = seen.movie(channel, plane, frames=slice(1, 4), rows=slice(2, 5), columns=slice(3, 9))
        np.testing.assert_array_equal(part, movie[1:4, 2:5, 3:9])
        for start in (0, 2):
            frames = movie[start : start + 3 if start else 2]
            take(channel, plane, start, frames, frames + 1)
    for channel, plane in stack.indices():
        frames = np.concatenate([mean for _, mean in got[channel, plane]])
        np.testing.assert_array_equal(frames, data[channel, :, plane])


def test_motion_is_that_of_the_pixels_of_the_frame() -> None:
    seen = GridStack(stbn.Stack(np.zeros((4, 9, 10)), "TYX"), GridStep(2, 3, 0.8))
    flows = {(0, grid): np.full((3, 2, 5, 4), 1.0 + grid, np.float32) for grid in range(6)}
    whole = seen.flows_for_user(flows, forward=True)[0, 0]
    assert whole.shape == (3, 2, 9, 10)
    assert whole[0, :, 0, 0].tolist() == [3.0, 2.0]  # (x, y) [px of the frame]
    assert whole[0, :, 1, 2].tolist() == [18.0, 12.0]


def test_a_look_lies_between_the_pixels_of_the_first_grid() -> None:
    rows, columns = np.mgrid[:24, :30].astype(np.float32)
    seen = GridStack(stbn.Stack(np.stack([rows + 2 * columns] * 3), "TYX"), GridStep(2, 3, 0.8))
    assert seen.place((0, 0, 1)) == (0, 0, 1)
    for part in ((slice(0, 24), slice(0, 30)), (slice(5, 15), slice(7, 20))):
        inner = seen.window(*part)
        image = seen.movie(0, 0, rows=inner[0], columns=inner[1])[1]
        shown = seen.shown((0, 0, 1), image, *part)
        truth = (rows + 2 * columns)[part]
        assert shown.shape == truth.shape
        np.testing.assert_allclose(shown[:-2, :-3], truth[:-2, :-3], atol=1e-5)


def test_a_fit_tells_a_saved_model_how_far_apart(tmp_path: Path) -> None:
    stack = stbn.Stack(enlarged(SCENE.noisy), "TYX")
    seen = last(spaced_stack(stack))
    assert spacing_of(seen).grid == (2, 2)
    plain = stbn.Stack(SCENE.noisy, "TYX")
    known = last(spaced_stack(plain, Spacing(grid=(2, 2))))
    assert spacing_of(known).grid == (2, 2)
    assert known.remarks() == [
        "As in the fit, every second row and second column is denoised as a movie of its own."
    ]
    small = stbn.Stack(SCENE.noisy[:, :24], "TYX")
    together = last(spaced_stack(small, Spacing(grid=(2, 2))))
    assert spacing_of(together).grid == (1, 1)
    assert ["frames are too small here" in said for said in together.remarks()] == [True]
    denoiser = stbn.Denoiser("preview", device="cpu", flow="none")
    denoiser.fit(stack, max_steps=1)
    path = denoiser.save(tmp_path / "model.stbn")
    again = stbn.Denoiser.load(path, device="cpu").denoise(stack)
    assert again.report["grid_step"] == [2, 2]
    np.testing.assert_array_equal(again.denoised, denoiser.denoise(stack).denoised)


@pytest.mark.parametrize("step", [[1, 9], [0, 1], [2], "ab", [1, True], [1.0, 2]])
def test_a_step_that_makes_no_sense_is_no_model(step: Any) -> None:
    from napari_stbn._saved_model import _spacing

    with pytest.raises(ValueError, match="grid must be"):
        _spacing({"step": 1, "carry": {}, "grid": step})
    assert _spacing({"step": 1, "carry": {}}).grid == (1, 1)  # of a model from before


def test_an_enlarged_movie_is_denoised_better_than_with_a_filter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noisy, clean = enlarged(SCENE.noisy), enlarged(SCENE.clean)
    stack = stbn.Stack(noisy, "TYX")
    errors = []
    for apart in (True, False):
        if not apart:
            monkeypatch.setattr("napari_stbn._spaced_stack.measure_grid_step", lambda _movie: None)
        denoiser = stbn.Denoiser("preview", device="cpu", flow="none")
        denoiser.fit(stack, max_steps=1)
        result = denoiser.denoise(stack)
        errors.append(float(np.mean((result.denoised - clean)[:, 6:-6, 6:-6] ** 2)))
        if apart:
            assert result.denoised.shape == noisy.shape
            assert result.uncertainty is not None
            inside = np.abs(result.denoised - clean) <= result.uncertainty
            assert 0.6 < inside.mean() < 0.9
            assert result.report["grid_step"] == [2, 2]
            assert any("every second row and second" in note for note in result.report["notes"])
            part, seen = as_one_movie(result, stack)
            np.testing.assert_array_equal(part.denoised, result.denoised[:, ::2, ::2])
            np.testing.assert_array_equal(seen.movie(), noisy[:, ::2, ::2])
    assert errors[0] < 0.5 * errors[1]


def test_pixels_apart_and_info_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noisy = enlarged(SCENE.noisy)
    movie, found = pixels_apart(noisy)
    np.testing.assert_array_equal(movie, noisy[:, ::2, ::2])
    assert found.pixels == 4
    stbn.write(tmp_path / "movie.tif", stbn.Stack(noisy, "TYX"))
    main(["info", str(tmp_path / "movie.tif"), "--device", "cpu"])
    assert "share nearly all of their noise" in capsys.readouterr().out
