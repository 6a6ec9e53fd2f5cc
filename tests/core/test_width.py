"""Claims of the width of the prior after a fit: the start's, narrowed by what the fit gained."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from napari_stbn import Denoiser, simulate
from napari_stbn._fit_path import FitPath
from napari_stbn._held_out import HeldOutScore, Start
from napari_stbn._width import _gain, keep_width, looked_at
from napari_stbn.clips import Clip, ClipSampler
from napari_stbn.flow import Flow
from napari_stbn.network import STBN, STBNConfig
from napari_stbn.noise import PoissonGaussianNoise
from napari_stbn.preparation import PreparedMovie, prepare_movie
from napari_stbn.prior import network_input, prior_mean
from napari_stbn.training import TrainingConfig

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    made = simulate((8, 40, 40), kind="nuclei", seed=0)
    movie: PreparedMovie = prepare_movie(
        [made.noisy.astype(np.float32)],
        np.ones(made.noisy.shape, bool),
        [PoissonGaussianNoise(made.gain, made.offset, made.read_noise)],
        None,
        Flow(made.flow_to_previous, made.flow_to_next),
    )
    return ClipSampler([movie], 6, 24, 1, torch.Generator().manual_seed(0)).held_out()


def predicted(model: STBN, clip: Clip) -> torch.Tensor:
    with torch.no_grad():
        prior: torch.Tensor = model(
            network_input(clip.inputs, clip.units, model.config),
            clip.flow_to_previous,
            clip.flow_to_next,
        )
    return prior


def kept(model: STBN, start: Start, clips: list[Clip]) -> float | None:
    path = FitPath(model, "float32")
    after = [looked_at(path, clip) for clip in clips]
    with torch.no_grad(), start.in_place():
        before = [path.prior(clip) for clip in clips]
    return keep_width(model, start, clips, before, after)


def moved(model: STBN, by: float) -> None:
    """Change the mean's readout a little, and the width's beyond recognition."""
    with torch.no_grad():
        model.last.weight[0] += by * torch.randn(
            model.last.weight[0].shape, generator=torch.Generator().manual_seed(1)
        )
        model.last.weight[1] *= -3.0


def test_the_width_is_that_of_the_start_less_what_the_mean_changed(clips: list[Clip]) -> None:
    model = STBN.seeded(TINY, 0).place(torch.device("cpu"))
    start = Start(list(model.parameters()))
    before = [predicted(model, clip) for clip in clips]
    moved(model, 10.0)
    share = kept(model, start, clips)
    after = [predicted(model, clip) for clip in clips]
    # The share, by its definition.
    changes, widths = [], []
    for clip, old, new in zip(clips, before, after, strict=True):
        (unit,) = clip.units
        assert unit.noise is not None
        means = [prior_mean(prior, clip.units) for prior in (old, new)]
        changes.append(((means[1] - means[0]).square() / unit.noise.variance(means[1])).mean())
        widths.append((old[:, :, 1] * unit.scaling.scale).square().mean())
    change = float(torch.stack(changes).mean())
    width = float(torch.stack(widths).mean())
    assert 0.05 < change / width < 0.7, "the example must change something, and not all"
    expected = 1 - 0.85 * change / width  # where the held-out blocks were not measured
    assert share == pytest.approx(expected, rel=1e-4)
    # Features are those of the start here, so that its widths come back but for the softplus.
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(
            new[:, :, 1], old[:, :, 1] * math.sqrt(expected), rtol=0.1, atol=1e-3
        )


def test_what_was_measured_surely_counts_and_what_was_not_does_not() -> None:
    start = Start([torch.zeros(1)])
    assert _gain(0.1, start) == pytest.approx(0.085)
    pixels = torch.full((50,), 100.0)
    rough = 40 * torch.randn(50, generator=torch.Generator().manual_seed(0))
    for spoilt, expected, slack in ((0 * rough, 0.09, 1e-4), (rough, 0.085, 0.01)):
        before = 100 + 0 * pixels
        start.score = HeldOutScore(before, before, pixels)
        after = before - 9.0 + spoilt
        start.last = HeldOutScore(after, after, pixels)
        assert _gain(0.1, start) == pytest.approx(expected, abs=slack)


def test_a_mean_that_changed_by_more_than_its_width_leaves_the_width_as_learnt(
    clips: list[Clip],
) -> None:
    model = STBN.seeded(TINY, 0).place(torch.device("cpu"))
    start = Start(list(model.parameters()))
    moved(model, 50.0)
    learnt = model.last.weight.clone()
    assert kept(model, start, clips) is None
    assert torch.equal(model.last.weight, learnt)


def test_without_a_width_nothing_happens(clips: list[Clip]) -> None:
    model = STBN.seeded(STBNConfig(width=4, covariance=False), 0).place(torch.device("cpu"))
    start = Start(list(model.parameters()))
    learnt = [p.clone() for p in model.parameters()]
    assert kept(model, start, clips) is None
    assert all(torch.equal(a, b) for a, b in zip(learnt, model.parameters(), strict=True))


def test_most_of_the_truth_lies_within_the_stated_deviation_after_a_fit() -> None:
    """From the weights of the package, on a movie they do not know."""
    movie = simulate((16, 64, 64), kind="puncta", photons=4, seed=71)
    denoiser = Denoiser("preview", device="cpu", noise=PoissonGaussianNoise(2.0, 100.0, 1.6))
    fitted = denoiser.fit(
        movie.noisy, axes="TYX", training=TrainingConfig(max_steps=30, batch=1)
    ).denoise(movie.noisy, axes="TYX")
    assert fitted.uncertainty is not None
    off = np.abs(fitted.denoised - movie.clean)
    assert 0.6 < float(np.mean(off <= fitted.uncertainty)) < 0.8
    assert 0.9 < float(np.mean(off <= 2 * fitted.uncertainty)) < 0.99


def test_features_are_seen_where_priors_come_from_recordings(clips: list[Clip]) -> None:
    """A GPU replays its kernels and calls no layer that a hook could listen to."""
    path = FitPath(STBN.seeded(TINY, 0).place(torch.device("cpu")), "float32")
    with torch.no_grad():
        expected = path.prior(clips[0])
        path._recorder = lambda *_: [expected]  # type: ignore[assignment]
        prior, features = looked_at(path, clips[0])
    torch.testing.assert_close(prior, expected)
    assert features.shape == (expected[:, :, 0].numel(), TINY.width)
