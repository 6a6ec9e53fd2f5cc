"""Claims of the held-out blocks: what they measure, and when a fit loses against its start."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_stbn._fit_path import FitPath
from napari_stbn._held_out import HeldOutScore, Start, held_out_score
from napari_stbn.clips import ClipSampler
from napari_stbn.flow import Flow
from napari_stbn.network import STBN, STBNConfig
from napari_stbn.noise import PoissonGaussianNoise
from napari_stbn.preparation import PreparedMovie, prepare_movie
from napari_stbn.samples import simulate

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)


def score(errors: list[float]) -> HeldOutScore:
    """Blocks of 100 pixels with these mean errors."""
    sums = 100 * torch.tensor(errors)
    return HeldOutScore(sums, sums, torch.full_like(sums, 100.0))


@pytest.fixture(scope="module")
def movie() -> PreparedMovie:
    made = simulate((10, 40, 44), kind="nuclei", seed=0)
    return prepare_movie(
        [made.noisy.astype(np.float32)],
        np.ones(made.noisy.shape, bool),
        [PoissonGaussianNoise(made.gain, made.offset, made.read_noise)],
        None,
        Flow(made.flow_to_previous, made.flow_to_next),
    )


def test_the_score_is_the_blind_loss_and_the_error_of_the_pixels_that_count(
    movie: PreparedMovie,
) -> None:
    model = STBN.seeded(TINY, 0).place(torch.device("cpu"))
    path = FitPath(model, "float32")
    clips = ClipSampler([movie], 7, 24, 1, torch.Generator().manual_seed(0)).held_out()
    measured = held_out_score(path, clips)
    counted = sum(float(clip.weight.sum()) for clip in clips)
    loss = sum(path.loss(clip).item() * float(clip.weight.sum()) for clip in clips) / counted
    assert float(measured.pixels.sum()) == counted
    assert measured.loss == pytest.approx(loss, rel=1e-5)
    assert (measured.pixels > 0).all()
    # An untrained network predicts about a constant: its error is far above that of the noise.
    assert float(measured.errors.sum() / counted) > 1.2


def test_pixels_that_do_not_count_may_hold_anything(movie: PreparedMovie) -> None:
    model = STBN.seeded(TINY, 0).place(torch.device("cpu"))
    path = FitPath(model, "float32")
    clips = ClipSampler([movie], 7, 24, 1, torch.Generator().manual_seed(0)).held_out()
    before = held_out_score(path, clips)
    spoilt = [
        replace(c, intensities=torch.where(c.weight > 0, c.intensities, float("nan")))
        for c in clips
    ]
    after = held_out_score(path, spoilt)
    assert torch.equal(before.losses, after.losses)
    assert torch.equal(before.errors, after.errors)


@pytest.mark.parametrize(
    ("errors", "above"),
    [
        ([1.2, 1.3, 1.1, 1.2], True),  # each block worse
        ([0.9, 0.9, 0.9, 0.9], False),
        ([1.5, 0.5, 1.4, 0.7], False),  # worse on average, by less than the blocks differ
        ([float("nan"), 1, 1, 1], True),
        ([1.0, 1.0, 1.0, 1.0], False),
    ],
)
def test_only_an_error_beyond_its_uncertainty_is_surely_above(
    errors: list[float], above: bool
) -> None:
    assert score(errors).surely_above(score([1.0, 1.0, 1.0, 1.0])) is above


def test_a_start_is_measured_put_in_place_and_moved_from() -> None:
    weights = [torch.zeros(3)]
    start = Start(weights)
    weights[0].fill_(8.0)
    start.measure(lambda: score([1.0 + float(weights[0][0])] * 4))
    assert start.loss == pytest.approx(1.0), "measured with the first weights"
    assert float(weights[0][0]) == 8.0
    with start.in_place():
        assert float(weights[0][0]) == 0.0
    assert float(weights[0][0]) == 8.0
    start.move(0.75)
    assert float(weights[0][0]) == 6.0
    start.put_back()
    assert float(weights[0][0]) == 0.0
