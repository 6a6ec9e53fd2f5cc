"""Channels that were not recorded in every frame: denoised from the frames that they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import napari_stbn as stbn
from napari_stbn._gathered_stack import GatheredStack, gathered_stack
from napari_stbn._generators import last
from napari_stbn.stack import MovieDefects

Movie = NDArray[Any]


def sparse(every: int, frames: int = 10, blank: float = 0.0) -> tuple[Movie, Movie, Movie]:
    """A movie that is recorded every so many-th time, its recorded frames, and their truth."""
    made = stbn.simulate((frames, 48, 48), kind="nuclei", photons=20, seed=3)
    movie = np.full((frames * every, 48, 48), blank, np.float32)
    movie[::every] = made.noisy
    return movie, made.noisy.astype(np.float32), made.clean


def gathered(array: Movie, axes: str) -> GatheredStack:
    stack = last(gathered_stack(stbn.Stack(array, axes=axes)))
    assert isinstance(stack, GatheredStack)
    return stack


def test_recorded_frames_stand_one_after_the_other() -> None:
    few, recorded, _ = sparse(4)
    full = np.random.default_rng(0).normal(100, 5, few.shape).astype(np.float32)
    stack = gathered(np.stack([full, few], 1), "TCYX")
    assert stack.places == {(0, 0): list(range(40)), (1, 0): list(range(0, 40, 4))}
    np.testing.assert_array_equal(stack.movie(0), full)
    np.testing.assert_array_equal(stack.movie(1)[:10], recorded)
    assert np.isnan(stack.movie(1)[10:]).all()
    part = stack.movie(1, frames=slice(7, 13), rows=slice(3, 9), columns=slice(20, 48))
    np.testing.assert_array_equal(part, stack.movie(1)[7:13, 3:9, 20:48])
    assert stack.place((1, 0, 8)) == (1, 0, 2)
    assert stack.place((1, 0, 5)) == (1, 0, 2)
    assert stack.place((1, 0, 39)) == (1, 0, 9)


@pytest.mark.parametrize("blanks", [0, 2])
def test_movies_with_few_blank_frames_stay_as_they_are(blanks: int) -> None:
    _, recorded, _ = sparse(1)
    recorded[3 : 3 + blanks] = 0
    stack = stbn.Stack(recorded, axes="TYX")
    assert last(gathered_stack(stack)) is stack


def test_all_frames_come_out_in_order() -> None:
    few, _, _ = sparse(4)
    few[1] = few[0] + 1  # the second frame of ten is recorded, too
    stack = gathered(few, "TYX")
    taken: list[Movie] = []

    def take(channel: int, plane: int, start: int, mean: Movie, std: Movie | None) -> None:
        assert (channel, plane, start) == (0, 0, len(taken))
        assert std is not None
        assert np.isnan(std).all() == (start not in stack.places[0, 0])
        taken.extend(mean)

    output = stack.output(take, None)
    movie = stack.movie()
    for start in (0, 4, 9):
        output(0, 0, start, movie[start : start + 5][: 4 if start == 0 else 5], movie[start:][:5])
    np.testing.assert_array_equal(taken, few)


def test_motion_is_spread_over_the_gaps() -> None:
    few, _, _ = sparse(4, frames=3)
    flow = np.ones((2, 2, 48, 48), np.float32) * np.array([8, 4])[:, None, None, None]
    whole = gathered(few, "TYX").flows_for_user({(0, 0): flow}, forward=True)[0, 0]
    np.testing.assert_array_equal(whole[:, 0, 0, 0], [2] * 4 + [1] * 4 + [0] * 3)


def test_defects_are_told_by_the_frames_of_the_recording() -> None:
    few, _, _ = sparse(4, frames=3)
    found = MovieDefects(None, None, (), 0.0, None, missing=2, repeated=(1,))
    _, told = gathered(few, "TYX").defects_for_user((0, 0), found)
    assert told.constant_frames == (1, 2, 3, 5, 6, 7, 9, 10, 11)
    assert told.repeated == (4,)
    assert told.missing == 2


def test_a_frame_is_blank_where_all_its_colours_are() -> None:
    red, recorded, _ = sparse(2)
    green = np.repeat(recorded, 2, 0)
    colours = stbn.Stack(np.stack([red, green], -1), "TYXS")
    assert last(gathered_stack(colours)) is colours
    colours = stbn.Stack(np.stack([red, red], -1), "TYXS")
    assert isinstance(last(gathered_stack(colours)), GatheredStack)


@pytest.mark.parametrize("blank", [0.0, np.nan])
def test_gaps_change_nothing_in_the_frames_that_were_recorded(blank: float, tmp_path: Path) -> None:
    few, recorded, clean = sparse(5, blank=blank)
    denoiser = stbn.Denoiser("preview", device="cpu", flow="translation", turns=1)
    plain = denoiser.fit(recorded, axes="TYX", max_steps=1).denoise(recorded, axes="TYX")
    stack = stbn.Stack(few, axes="TYX")
    result = denoiser.fit(stack, max_steps=1).denoise(stack)
    assert result.denoised.shape == few.shape
    np.testing.assert_allclose(result.denoised[::5], plain.denoised, rtol=1e-4)
    np.testing.assert_array_equal(result.denoised[1::5], few[1::5])
    assert result.uncertainty is not None
    assert np.isnan(result.uncertainty[2::5]).all()
    assert result.flow_to_next.shape == (49, 2, 48, 48)
    assert any("40 frames are blank: 1, 2, 3, 4, 6" in note for note in result.report["notes"])
    assert not any("NaN" in note for note in result.report["notes"]) or np.isnan(blank)
    look = last(denoiser.preview_steps(10))
    assert look is not None
    assert np.mean((look - clean[2]) ** 2) < np.mean((recorded[2] - clean[2]) ** 2) / 10
    between = last(denoiser.preview_steps(11))
    np.testing.assert_array_equal(between, few[11])
    denoiser.denoise_to(stack, tmp_path / "out.npy")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), result.denoised, rtol=1e-5)


def test_a_channel_that_is_sparse_beside_one_that_is_not() -> None:
    few, recorded, clean = sparse(4)
    full = stbn.simulate((40, 48, 48), kind="filaments", photons=20, seed=5).noisy
    stack = stbn.Stack(np.stack([full, few], 0).astype(np.float32), axes="CTYX")
    denoiser = stbn.Denoiser("preview", device="cpu", flow="translation", turns=1)
    result = denoiser.fit(stack, max_steps=1).denoise(stack)
    plain = denoiser.fit(recorded, axes="TYX", max_steps=1).denoise(recorded, axes="TYX")
    noise = [np.mean((m[1:9] - clean[1:9]) ** 2) for m in (result.denoised[1, ::4], plain.denoised)]
    assert noise[0] < 1.3 * noise[1]
    assert np.isfinite(result.denoised).all()
