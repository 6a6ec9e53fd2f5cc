"""Claims of clip sampling: turns keep the flow true, movies are covered, held-out stays out."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from napari_stbn.clips import Clip, ClipSampler, turn
from napari_stbn.flow import warp
from napari_stbn.preparation import PreparedMovie
from napari_stbn.prior import Units
from napari_stbn.stack import IntensityScaling

SYMMETRIES = list(itertools.product(range(4), (False, True)))


def movie_of(shape: tuple[int, int, int], channels: int = 1) -> PreparedMovie:
    """A movie whose intensities number its pixels, so that a crop can be traced back."""
    t, h, w = shape
    numbers = torch.arange(float(t * h * w)).view(t, 1, h, w).repeat(1, channels, 1, 1)
    flows = torch.arange(float((t - 1) * 2 * h * w)).view(t - 1, 2, h, w)
    return PreparedMovie(
        intensities=numbers,
        inputs=numbers / 7,
        valid=torch.ones(t, 1, h, w, dtype=torch.bool),
        flow_to_previous=flows,
        flow_to_next=-flows,
        units=(Units(None, IntensityScaling(0.0, 7.0)),) * channels,
    )


def sampler_of(
    *movies: PreparedMovie, frames: int = 4, size: int = 16, batch: int = 1, seed: int = 0
) -> ClipSampler:
    return ClipSampler(movies, frames, size, batch, torch.Generator().manual_seed(seed))


def tensors(clip: Clip) -> list[Tensor]:
    return [
        clip.inputs,
        clip.intensities,
        clip.weight,
        clip.flow_to_previous,
        clip.flow_to_next,
    ]


def tally(clips: list[Clip], shape: tuple[int, int, int]) -> Tensor:
    """How much weight each pixel of a movie made by `movie_of` got."""
    count = torch.zeros(shape[0] * shape[1] * shape[2])
    for clip in clips:
        count.index_add_(0, clip.intensities[:, :, 0].flatten().long(), clip.weight.flatten())
    return count.view(shape)


# ---------------------------------------------------------------- turns


@pytest.mark.parametrize(("quarter", "mirror"), SYMMETRIES)
@settings(deadline=None, max_examples=15)
@given(h=st.integers(1, 9), w=st.integers(1, 9), seed=st.integers(0, 1000))
def test_turning_commutes_with_warping(
    quarter: int, mirror: bool, h: int, w: int, seed: int
) -> None:
    """A turned frame, warped along the turned flow, is the warped frame, turned."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, h, w, generator=generator) + 1
    flow = torch.randint(-4, 5, (2, 2, h, w), generator=generator).float()
    one = warp(turn(image, quarter, mirror), turn(flow, quarter, mirror, vectors=True))
    assert torch.equal(one, turn(warp(image, flow), quarter, mirror))


def test_turns_are_the_eight_symmetries_of_the_square() -> None:
    image = torch.arange(9.0).view(1, 3, 3)
    seen = {tuple(turn(image, q, m).flatten().tolist()) for q, m in SYMMETRIES}
    assert len(seen) == 8
    assert torch.equal(turn(image, 1, False), image.rot90(1, (-2, -1)))
    assert torch.equal(turn(image, 5, True), turn(image, 1, True))


# ---------------------------------------------------------------- crops


@pytest.mark.parametrize("seed", range(3))
def test_parts_of_a_clip_belong_together(seed: int) -> None:
    """Inputs, intensities and flows are of the same pixels, in the same order of time."""
    movie = movie_of((9, 30, 25))
    for _ in range(20):
        clip = sampler_of(movie, batch=2, seed=seed).draw()
        assert clip.inputs.shape == (2, 4, 1, 16, 16)
        torch.testing.assert_close(clip.inputs * 7, clip.intensities)
        t, y, x = (
            clip.intensities[:, :, 0].long() // 750,
            clip.intensities[:, :, 0].long() % 750 // 25,
            clip.intensities[:, :, 0].long() % 25,
        )
        assert (t[:, 1:] - t[:, :-1] == 1).all()
        assert (y[:, 1:] == y[:, :-1]).all()
        assert (x[:, 1:] == x[:, :-1]).all()
        # the length of a flow vector survives turning, and tells which pixel it is of
        expected = movie.flow_to_previous[t[:, :-1], :, y[:, :-1], x[:, :-1]].norm(dim=-1)
        torch.testing.assert_close(clip.flow_to_previous.norm(dim=2), expected)
        torch.testing.assert_close(clip.flow_to_next, -clip.flow_to_previous)


def test_all_eight_symmetries_are_drawn_equally_often() -> None:
    sampler = sampler_of(movie_of((4, 16, 16)))
    corners: dict[tuple[float, float], int] = {}
    for _ in range(800):
        frame = sampler.draw().intensities[0, 0, 0]
        key = (float(frame[0, 0]), float(frame[0, -1]))
        corners[key] = corners.get(key, 0) + 1
    assert len(corners) == 8
    assert min(corners.values()) > 60  # 100 expected, 4 standard deviations less


def test_pixels_are_covered_evenly_up_to_the_edges() -> None:
    shape = (10, 40, 40)
    sampler = sampler_of(movie_of(shape), frames=4, size=16)
    count = tally([sampler.draw() for _ in range(1500)], shape)
    # expected: 1500 clips of 4x16x16 over 16,000 pixels is 96 for each
    fit = count[count > 0]
    assert (count == 0).float().mean() < 0.06  # the held-out blocks alone
    assert float(fit.mean()) == pytest.approx(100, rel=0.1)
    edges = [count[0], count[-1], count[:, 0], count[:, -1], count[:, :, 0], count[:, :, -1]]
    for edge in edges:
        assert float(edge[edge > 0].mean()) > 0.25 * float(fit.mean())
    middle = count[4:6, 15:25, 15:25]
    assert float(middle[middle > 0].mean()) < 2 * float(fit.mean())


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 9, 40), (12, 40, 11)])
def test_movies_smaller_than_a_clip_are_taken_whole(shape: tuple[int, int, int]) -> None:
    sampler = sampler_of(movie_of(shape), frames=8, size=32, batch=2)
    expected = (min(8, shape[0]), min(32, shape[1]), min(32, shape[2]))
    for clip in [*[sampler.draw() for _ in range(10)], *sampler.held_out()]:
        t, _, h, w = clip.inputs.shape[1:]
        assert (t, h, w) in (expected, (expected[0], *shape[1:]))  # held-out clips may be larger
        assert clip.flow_to_next.shape[1:] == (t - 1, 2, h, w)


def test_movies_are_drawn_by_their_size() -> None:
    large, small = movie_of((8, 60, 60)), movie_of((8, 20, 20))
    small = replace(small, intensities=small.intensities * 0 - 1)
    sampler = sampler_of(large, small)
    drawn = [float(sampler.draw().intensities.flatten()[0]) == -1 for _ in range(500)]
    assert sum(drawn) / 500 == pytest.approx(0.1, abs=0.05)


# ---------------------------------------------------------------- held out


@pytest.mark.parametrize("shape", [(10, 40, 40), (3, 12, 12), (2, 8, 8)])
def test_held_out_pixels_never_weigh_in_the_fit_and_alone_in_the_test(
    shape: tuple[int, int, int],
) -> None:
    sampler = sampler_of(movie_of(shape))
    tested = tally(sampler.held_out(), shape) > 0
    fitted = tally([sampler.draw() for _ in range(400)], shape) > 0
    assert not (tested & fitted).any()
    assert (tested | fitted).float().mean() > 0.95
    assert 0 < tested.float().mean() < 0.2, "the rest is all there is to fit to"


def test_held_out_share_of_a_usual_movie_is_small() -> None:
    shape = (20, 64, 64)
    sampler = sampler_of(movie_of(shape), frames=8, size=32)
    tested = tally(sampler.held_out(), shape) > 0
    assert 0.005 < tested.float().mean() < 0.06


def test_held_out_clips_are_the_same_each_time() -> None:
    sampler = sampler_of(movie_of((10, 40, 40)))
    first = sampler.held_out()
    sampler.draw()
    for one, two in zip(first, sampler.held_out(), strict=True):
        assert all(map(torch.equal, tensors(one), tensors(two)))


def test_pixels_that_were_not_measured_never_weigh() -> None:
    shape = (6, 24, 24)
    movie = movie_of(shape)
    movie.valid[:, 0, 5:9, 3] = False
    movie.valid[2] = False
    kept = movie.valid.clone()
    sampler = sampler_of(movie)
    count = tally([*sampler.held_out(), *[sampler.draw() for _ in range(300)]], shape)
    assert not count[~kept[:, 0]].any()
    assert torch.equal(movie.valid, kept), "the movie itself must not be written to"


def test_same_seed_same_clips() -> None:
    movie = movie_of((10, 40, 40), channels=2)
    one, two, other = (sampler_of(movie, batch=2, seed=seed) for seed in (3, 3, 4))
    pairs = [(one.draw(), two.draw()) for _ in range(5)]
    for a, b in pairs:
        assert all(map(torch.equal, tensors(a), tensors(b)))
    draws = [other.draw() for _ in range(5)]
    assert any(not torch.equal(a.inputs, b.inputs) for (a, _), b in zip(pairs, draws, strict=True))
