"""Claims of the last, linear step of a fit: it finds what is there, and leaves alone the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_stbn import Denoiser
from napari_stbn._fit_path import FitPath
from napari_stbn._held_out import held_out_score
from napari_stbn._least_squares import Seen, _evidence, _Sums, solve_last
from napari_stbn._width import looked_at
from napari_stbn.clips import ClipSampler
from napari_stbn.flow import Flow
from napari_stbn.network import STBN, STBNConfig
from napari_stbn.noise import PoissonGaussianNoise
from napari_stbn.preparation import PreparedMovie, prepare_movie
from napari_stbn.prior import prior_mean

CAMERA = PoissonGaussianNoise(2.0, 100.0, 1.6)


def sums(x: Tensor, y: Tensor) -> _Sums:
    return _Sums(x.T @ x, x.T @ y, y @ y, torch.tensor(float(len(y))).double())


@pytest.mark.parametrize("strength", [0.0, 0.003, 0.3])
def test_coefficients_are_believed_as_far_as_they_are_told(strength: float) -> None:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 30, generator=chance, dtype=torch.float64)
    true = strength * torch.randn(30, generator=chance, dtype=torch.float64)
    y = x @ true + torch.randn(20_000, generator=chance, dtype=torch.float64)
    one = torch.ones(30, dtype=torch.float64)
    found, gain = _evidence(sums(x, y), [one])
    plain = torch.linalg.solve(x.T @ x, x.T @ y)
    assert (found - true).square().sum() <= 1.1 * (plain - true).square().sum()
    if strength == 0:
        assert gain < 2
        assert (found - true).square().sum() < 0.3 * (plain - true).square().sum()
    if strength == 0.3:
        assert gain > 1000
        torch.testing.assert_close(found, plain, atol=1e-3, rtol=1e-2)


def textured(strength: float, channels: int = 1) -> tuple[PreparedMovie, NDArray[np.float64]]:
    """Fine random texture that stands still, under the noise of a camera; and its clean frames."""
    rng = np.random.default_rng(0)
    rough = rng.normal(size=(channels, 1, 40, 40))
    texture = (rough + np.roll(rough, 1, 2) + np.roll(rough, 1, 3) + np.roll(rough, 1, (2, 3))) / 2
    clean = np.broadcast_to(160 + strength * texture, (channels, 12, 40, 40))
    noisy = [CAMERA.simulate(c, rng).astype(np.float32) for c in clean]
    still = np.zeros((11, 2, 40, 40), np.float32)
    valid = np.ones((12, 40, 40), bool)
    movie = prepare_movie(noisy, valid, [CAMERA] * channels, None, Flow(still, still))
    return movie, clean.transpose(1, 0, 2, 3)


def flat_model(movie: PreparedMovie, channels: int) -> STBN:
    """A network that predicts the same everywhere."""
    config = STBNConfig(
        width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1, channels=channels
    )
    model = STBN.seeded(config, 0)
    with torch.no_grad():
        model.last.weight.zero_()
    return model


def solved(movie: PreparedMovie, model: STBN) -> tuple[Sequence[Seen], object]:
    sampler = ClipSampler([movie], 8, 24, 1, torch.Generator().manual_seed(0))
    path = FitPath(model, "float32")
    seen = [Seen(c, w, *looked_at(path, c)) for c, w in sampler.learnt_from(3)]
    score = held_out_score(path, [s.clip for s in seen])
    return seen, solve_last(model, seen, score)


def error(movie: PreparedMovie, model: STBN, clean: NDArray[np.float64]) -> float:
    with torch.no_grad():
        prior = model(movie.inputs[None], movie.flow_to_previous[None], movie.flow_to_next[None])
    mean = prior_mean(prior, movie.units)[0].numpy()
    return float(np.mean((mean - clean) ** 2))


@pytest.mark.parametrize("channels", [1, 2])
def test_texture_that_the_network_does_not_know_is_found(channels: int) -> None:
    movie, clean = textured(20.0, channels)
    model = flat_model(movie, channels)
    before = error(movie, model, clean)
    _, result = solved(movie, model)
    assert result is not None
    assert model.near.active
    assert error(movie, model, clean) < 0.7 * before


def test_nothing_is_found_where_nothing_is() -> None:
    movie, _ = textured(0.0)
    model = flat_model(movie, 1)
    solved(movie, model)
    assert not model.near.active


def test_what_is_worse_on_held_out_pixels_is_taken_back() -> None:
    movie, _ = textured(20.0)
    model = flat_model(movie, 1)
    last = model.last.weight.clone()
    sampler = ClipSampler([movie], 8, 24, 1, torch.Generator().manual_seed(0))
    path = FitPath(model, "float32")
    seen = []
    for clip, weight in sampler.learnt_from(0):
        mirrored = torch.where(clip.weight > 0, 320 - clip.intensities, clip.intensities)
        clip = replace(clip, intensities=mirrored)
        seen.append(Seen(clip, weight, *looked_at(path, clip)))
    assert solve_last(model, seen, held_out_score(path, [s.clip for s in seen])) is None
    assert not model.near.active
    assert torch.equal(model.last.weight, last)


def test_crops_weigh_each_pixel_once() -> None:
    movie, _ = textured(20.0)
    sampler = ClipSampler([movie], 12, 24, 1, torch.Generator().manual_seed(0))
    total = torch.zeros(12, 40, 40)
    held = torch.zeros(12, 40, 40)
    for clip, weight in sampler.learnt_from(8):
        assert not ((clip.weight > 0) & (weight > 0)).any()
        total += weight[0, :, 0]
        held += clip.weight[0, :, 0]
    assert total.max() <= 1.0001
    assert ((total > 0.999) | (held > 0)).all(), "crops of 40 px hold all of the movie"


def test_a_fit_ends_with_it_and_a_saved_model_keeps_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texture = np.kron(rng.random((1, 20, 20)), np.ones((2, 2)))
    light = 30 * texture * np.linspace(1, 2, 12)[:, None, None]
    noisy = CAMERA.simulate(100 + 2 * light, rng).astype(np.float32)
    denoiser = Denoiser(preset="preview", flow="none", noise=CAMERA)
    denoiser.fit(noisy, max_steps=2)
    assert denoiser.model is not None
    path = denoiser.save(tmp_path / "model.stbn")
    again = Denoiser.load(path)
    assert again.model is not None
    assert torch.equal(again.model.near.weight, denoiser.model.near.weight)
    np.testing.assert_array_equal(again.denoise(noisy).denoised, denoiser.denoise(noisy).denoised)
