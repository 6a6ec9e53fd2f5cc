"""Claims of the choice between flows: blind to what is hidden, still where nothing moves."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_stbn._generators import last
from napari_stbn._motion_image import motion_image
from napari_stbn.flow import (
    Flow,
    HeldOut,
    choose_flow,
    compare,
    confidence,
    estimate_flow,
)
from napari_stbn.flow.choice import still_where_worse
from napari_stbn.flow.consistency import smooth_unsure
from napari_stbn.noise import PoissonGaussianNoise
from napari_stbn.preparation import network_scaling
from napari_stbn.prior import Units
from napari_stbn.samples import SimulatedMovie
from napari_stbn.samples.motion import simulate_motion


def moving(motion: str, photons: float, *, speed: float = 2.0, seed: int = 0) -> SimulatedMovie:
    return simulate_motion(
        (6, 96, 96), structure="filaments", motion=motion, speed=speed, photons=photons, seed=seed
    )


def truth(movie: SimulatedMovie) -> Flow:
    return Flow(movie.flow_to_previous, movie.flow_to_next)


def test_hidden_pixels_are_hidden() -> None:
    """What stood there changes neither the movie that flow is estimated on nor the answers."""
    movie = moving("translation", 20).noisy.astype(np.float32)
    held = HeldOut.of(movie)
    frame = np.arange(len(movie))[:, None, None]
    changed = movie.copy()
    changed[frame, held.rows, held.columns] += 1000
    other = HeldOut.of(changed)
    np.testing.assert_array_equal(held.filled, other.filled)
    np.testing.assert_array_equal(held.answers, other.answers)
    np.testing.assert_allclose(held.weights, other.weights)
    np.testing.assert_allclose(other.values, held.values + 1000)
    shown = np.ones(movie.shape, bool)
    shown[frame, held.rows, held.columns] = False
    assert 0.06 < 1 - shown.mean() < 0.07  # one of sixteen
    np.testing.assert_array_equal(held.filled[shown], movie[shown])


@pytest.mark.parametrize("photons", [3, 10, 100])
def test_noise_gains_nothing_from_flow_that_follows_it(photons: float) -> None:
    """Dense flow between noisy frames of a still scene must not seem better than none."""
    sure = []
    for seed in range(3):
        held = HeldOut.of(moving("static", photons, seed=seed).noisy)
        flow = estimate_flow(held.filled, "dis")
        sure.append(compare(held.errors(flow), held.errors(None)).sigmas)
    assert max(sure) < 3
    assert np.mean(sure) < 1


@pytest.mark.parametrize("photons", [10, 100])
def test_the_true_flow_explains_most(photons: float) -> None:
    movie = moving("deformation", photons)
    held = HeldOut.of(movie.noisy)
    true, still = held.errors(truth(movie)), held.errors(None)
    reverse = held.errors(Flow(movie.flow_to_next, movie.flow_to_previous))
    assert compare(true, still).sigmas > 4
    assert compare(still, reverse).sigmas > 4
    assert compare(true, true) == (0, 0)


@pytest.mark.parametrize("photons", [2, 5, 100])
def test_a_still_movie_gets_no_flow_at_all(photons: float) -> None:
    flow, choice = last(choose_flow(moving("static", photons, seed=3).noisy))
    assert choice.method == "none"
    assert not flow.to_previous.any()
    assert not flow.to_next.any()
    assert "nothing explained" in choice.sentence


def test_motion_is_found_and_said() -> None:
    movie = moving("deformation", 20)
    flow, choice = last(choose_flow(movie.noisy))
    assert choice.method in ("dis", "dis_multi")
    bright = movie.photons[:-1] > 2
    missed = np.hypot(*np.moveaxis(flow.to_next - movie.flow_to_next, 1, 0))[bright].mean()
    assert missed < 0.5 * np.hypot(*np.moveaxis(movie.flow_to_next, 1, 0))[bright].mean()
    described = json.loads(json.dumps(choice.to_dict()))
    assert described["gains"][choice.method]["standard_errors"] > 3
    assert choice.method in described["sentence"]
    assert choice.method == max(choice.gains, key=lambda name: choice.gains[name][0])


def test_flow_that_does_harm_is_set_to_zero_where_it_does() -> None:
    movie = moving("static", 100)
    held = HeldOut.of(movie.noisy)
    flow = truth(movie)
    flow.to_previous[..., :32] = flow.to_next[..., :32] = 4.0  # wrong in the left third
    still = held.errors(None)
    share = still_where_worse(flow, held.errors(flow), still)
    assert 0.2 < share < 0.5
    assert np.mean(flow.to_next[..., :32] != 0) < 0.2
    assert not flow.to_next[..., 48:].any()


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 9, 31), (2, 50, 7)])
def test_small_blank_and_broken_movies_stand_still(shape: tuple[int, int, int]) -> None:
    blank = np.full(shape, 7.0)
    broken = np.full(shape, np.nan)
    noise = np.random.default_rng(0).poisson(4, shape).astype(float)
    noise[0, 0, 0] = np.inf
    for movie in (blank, broken, noise):
        flow, choice = last(choose_flow(movie))
        assert flow.to_next.shape == (shape[0] - 1, 2, *shape[1:])
        assert choice.method == "none"


def test_answers_of_denoised_frames_are_asked_for_in_their_shape() -> None:
    movie = moving("translation", 10)
    held = HeldOut.of(movie.noisy)
    sharper = held.asking(movie.clean)
    plain = compare(held.errors(truth(movie)), held.errors(None))
    clean = compare(sharper.errors(truth(movie)), sharper.errors(None))
    assert clean.gain > plain.gain  # a better answer tells right from wrong more clearly
    with pytest.raises(ValueError, match="frames must have shape"):
        held.asking(movie.clean[:2])


def shifted(dx: float, size: int = 20) -> NDArray[np.float32]:
    flow = np.zeros((1, 2, size, size), np.float32)
    flow[:, 0] = dx
    return flow


def test_confidence_tells_what_the_way_back_says() -> None:
    agree = confidence(Flow(shifted(-2), shifted(2)))
    assert agree.to_next[0, :, :18].min() == 1
    assert agree.to_next[0, :, 18:].max() == 0  # leads out of the frame
    differ = confidence(Flow(shifted(1), shifted(2)))
    assert differ.to_next[0, :, :18].max() < 1e-3


def test_unsure_flow_takes_its_surroundings() -> None:
    ahead, back = shifted(2, 40), shifted(-2, 40)
    ahead[0, :, 20:23, 20:23] = 9
    flow = Flow(back, ahead)
    better = smooth_unsure(flow, confidence(flow))
    assert np.abs(better.to_next[0, 0, 18:25, 18:25] - 2).max() < 0.2
    np.testing.assert_array_equal(better.to_next[0, :, :10, :10], ahead[0, :, :10, :10])


def units_of(gain: float, photons: NDArray[np.float32], read_noise: float) -> Units:
    noise = PoissonGaussianNoise(gain, 0.0, read_noise)
    rng = np.random.default_rng(3)
    noisy = gain * (rng.poisson(photons) + rng.normal(0, read_noise, photons.shape))
    return Units(noise, network_scaling(noise.stabilize(noisy)))


def test_one_flow_of_several_channels_comes_from_those_with_signal() -> None:
    """A channel of noise, in counts a thousand times larger, must not drown the one that shows."""
    movie = moving("translation", 30)
    rng = np.random.default_rng(0)
    flat = np.full_like(movie.photons, 50)
    channels = np.stack([1000 * rng.poisson(flat), rng.poisson(movie.photons)], 1)
    units = [units_of(1000.0, flat, 0.5), units_of(1.0, movie.photons, 0.5)]
    joined = motion_image(torch.from_numpy(channels.astype(np.float32)), units).numpy()
    bright = movie.photons[:-1] > 3

    def missed(image: NDArray[Any]) -> float:
        found = estimate_flow(image).to_next - movie.flow_to_next
        return float(np.hypot(found[:, 0], found[:, 1])[bright].mean())

    assert missed(joined) < missed(channels[:, 1]) + 0.05
    assert missed(channels.sum(1)) > 5 * missed(channels[:, 1])
    one = torch.from_numpy(channels[:, 1:].astype(np.float32))
    torch.testing.assert_close(motion_image(one, units[1:]), one[:, 0])


def test_two_channels_of_one_structure_are_better_than_one() -> None:
    movie = moving("deformation", 5, seed=4)
    rng = np.random.default_rng(1)
    gains = (1.0, 40.0)
    channels = np.stack([gain * rng.poisson(movie.photons) for gain in gains], 1)
    units = [units_of(gain, movie.photons, 0.3) for gain in gains]
    joined = motion_image(torch.from_numpy(channels.astype(np.float32)), units).numpy()
    bright = movie.photons[:-1] > 0.5

    def missed(image: NDArray[Any]) -> float:
        found = estimate_flow(image).to_next - movie.flow_to_next
        return float(np.hypot(found[:, 0], found[:, 1])[bright].mean())

    assert missed(joined) < 0.95 * missed(channels[:, 0])
