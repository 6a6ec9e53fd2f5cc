"""Claims of averaging over turns: no direction is favoured, streams agree, and it helps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_stbn import Denoiser, simulate
from napari_stbn.presets import choose_turns


@pytest.mark.parametrize("frames", [6, 21])  # one clip, and several
def test_a_turned_movie_gives_the_turned_result(frames: int) -> None:
    movie = simulate((frames, 24, 32), seed=1).noisy
    denoiser = Denoiser("preview", device="cpu", flow="none", turns=4)
    denoiser.fit(movie, axes="TYX", max_steps=1)
    turned = np.ascontiguousarray(np.rot90(movie, 1, (1, 2)))
    straight = denoiser.denoise(movie, axes="TYX").denoised
    other = denoiser.denoise(turned, axes="TYX").denoised
    assert np.allclose(np.rot90(other, -1, (1, 2)), straight, atol=2e-2 * np.ptp(straight))
    once = Denoiser("preview", device="cpu", flow="none", turns=1)
    once.fit(movie, axes="TYX", max_steps=1)
    apart = np.abs(
        np.rot90(once.denoise(turned, axes="TYX").denoised, -1, (1, 2))
        - once.denoise(movie, axes="TYX").denoised
    )
    assert np.abs(np.rot90(other, -1, (1, 2)) - straight).mean() < 0.2 * apart.mean()


def psnr(estimate: NDArray[np.float32], clean: NDArray[np.float32]) -> float:
    """PSNR [dB] over the range of the truth."""
    return float(20 * np.log10(np.ptp(clean) / np.sqrt(np.mean((estimate - clean) ** 2))))


def test_four_turns_are_nearer_to_the_truth() -> None:
    movie = simulate((12, 64, 64), kind="membranes", photons=20, seed=3)
    found = []
    for turns in (1, 4):
        denoiser = Denoiser("preview", device="cpu", flow="none", turns=turns)
        result = denoiser.fit(movie.noisy, axes="TYX", max_steps=2).denoise(movie.noisy, axes="TYX")
        found.append(psnr(result.denoised, movie.clean))
        assert result.report["turns"] == turns
    assert found[1] > found[0] + 0.05


def test_a_stream_and_a_saved_model_turn_too(tmp_path: Path) -> None:
    movie = simulate((20, 40, 48), seed=2).noisy
    denoiser = Denoiser("preview", device="cpu", flow="none", turns=2)
    whole = denoiser.fit(movie, axes="TYX", max_steps=2).denoise(movie, axes="TYX").denoised
    denoiser.denoise_to(movie, tmp_path / "denoised.npy", axes="TYX")
    loaded = Denoiser.load(denoiser.save(tmp_path / "model.stbn"), device="cpu")
    assert np.allclose(np.load(tmp_path / "denoised.npy"), whole, atol=1e-3 * np.ptp(whole))
    assert np.array_equal(loaded.denoise(movie, axes="TYX").denoised, whole)


def test_turns_are_taken_where_they_cost_little() -> None:
    assert choose_turns("balanced", 32 * 128 * 128, 60) == 4
    assert choose_turns("balanced", 500 * 512 * 512, 60) == 1
    assert choose_turns("best", 500 * 512 * 512, 60) == 4
    assert choose_turns("paper", 10, None) == 1


@pytest.mark.parametrize("turns", [0, 5, -1])
def test_other_numbers_of_turns_are_refused(turns: int) -> None:
    with pytest.raises(ValueError, match="turns must be 1 to 4"):
        Denoiser(turns=turns)
