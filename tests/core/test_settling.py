"""Claims of how far a fit is followed: less far, the more it may have learnt by heart."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from napari_stbn._fit_path import FitPath
from napari_stbn._held_out import HeldOutScore, Start, held_out_score
from napari_stbn._settling import _gained, settle
from napari_stbn.clips import Clip, ClipSampler
from napari_stbn.flow import Flow
from napari_stbn.network import STBN, STBNConfig
from napari_stbn.noise import NoiseModel, PoissonGaussianNoise
from napari_stbn.preparation import prepare_movie
from napari_stbn.samples import simulate

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
BLOCKS = 40


def score(errors: torch.Tensor) -> HeldOutScore:
    """Blocks of 100 pixels with these mean errors."""
    return HeldOutScore(100 * errors, 100 * errors, torch.full_like(errors, 100.0))


def clips(noise: NoiseModel | None, channels: int = 1) -> list[Clip]:
    made = simulate((8, 40, 40), kind="nuclei", seed=0)
    movie = prepare_movie(
        [made.noisy.astype(np.float32)] * channels,
        np.ones(made.noisy.shape, bool),
        [noise] * channels,
        None,
        Flow(made.flow_to_previous, made.flow_to_next),
    )
    return ClipSampler([movie], 6, 24, 1, torch.Generator().manual_seed(0)).held_out()


def moved(config: STBNConfig, held: list[Clip]) -> tuple[FitPath, Start, torch.Tensor]:
    """A network that a few steps made better, its start, and where its mean's readout came to."""
    model = STBN.seeded(config, 0).place(torch.device("cpu"))
    start = Start(list(model.parameters()))
    path = FitPath(model, "float32")
    start.score = held_out_score(path, held)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(5):
        optimizer.zero_grad()
        torch.stack([path.loss(clip) for clip in held]).mean().backward()
        optimizer.step()
    start.last = held_out_score(path, held)
    return path, start, model.last.weight[0].clone()


def test_a_gain_that_is_measured_well_decides_and_one_that_is_not_does_not() -> None:
    before, change = torch.ones(BLOCKS), 0.1
    rough = 5 * torch.randn(BLOCKS, generator=torch.Generator().manual_seed(0))
    seldom, often = 2.0, 100.0
    for gain in (-0.05, 0.02, 0.1):
        for passes in (seldom, often):
            share = _gained(score(before - gain), score(before), change, None, passes)
            assert share == pytest.approx(gain / change, abs=0.01)
    blurred = [
        _gained(score(before - rough), score(before), change, None, p) for p in (seldom, often)
    ]
    assert 0.4 < blurred[0] < 0.6, "mostly gained where each pixel was seen twice"
    assert -0.4 < blurred[1] < 0, "mostly lost where each was seen a hundred times"
    # Where the start was far off, its movie is another world: hardly any of the change is noise.
    near, far = (
        _gained(score(before - rough), score(before), change, w, often) for w in (0.2, 0.02)
    )
    assert near < blurred[1] < far
    assert math.isnan(_gained(score(before * math.nan), score(before), change, None, 1.0))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("known", [True, False])
def test_weights_come_to_lie_on_the_way_from_the_start(known: bool, channels: int) -> None:
    noise = PoissonGaussianNoise(2.0, 100.0, 1.6) if known else None
    held = clips(noise, channels)
    config = STBNConfig(
        width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1,
        channels=channels, covariance=known,
    )  # fmt: skip
    path, start, end = moved(config, held)
    assert start.score is not None
    start.last = HeldOutScore(start.score.losses, start.score.errors, start.score.pixels)
    part = settle(path, start, held, 100.0, 100_000).part
    assert 0.1 < part < 0.6, "no gain was measured, and each pixel was seen often"
    begun = start.values[[p is path.model.last.weight for p in start.parameters].index(True)][0]
    torch.testing.assert_close(path.model.last.weight[0], begun + part * (end - begun))


@pytest.mark.parametrize("how", ["worse", "unmeasured", "not finite"])
def test_a_start_comes_back_over_a_fit_that_is_worse_or_unmeasured(how: str) -> None:
    held = clips(PoissonGaussianNoise(2.0, 100.0, 1.6))
    path, start, _ = moved(TINY, held)
    assert start.score is not None
    if how == "worse":
        with torch.no_grad():
            path.model.last.weight[0] += 30.0
        start.last = held_out_score(path, held)
        assert start.last.surely_above(start.score)
    else:
        bad = start.score.errors * math.nan
        start.last = None if how == "unmeasured" else HeldOutScore(bad, bad, start.score.pixels)
    assert settle(path, start, held, 1.0, 100_000).part == 0
    for weight, first in zip(start.parameters, start.values, strict=True):
        assert torch.equal(weight, first)


def test_a_fit_that_changed_nothing_is_left_alone() -> None:
    held = clips(PoissonGaussianNoise(2.0, 100.0, 1.6))
    model = STBN.seeded(TINY, 0).place(torch.device("cpu"))
    start = Start(list(model.parameters()))
    path = FitPath(model, "float32")
    start.score = start.last = held_out_score(path, held)
    assert settle(path, start, held, 50.0, 100_000).part == 1
    torch.testing.assert_close(model.last.weight[0], start.values[-1][0], rtol=1e-6, atol=1e-8)
