"""Claims of movies with one known motion: the flow is exact, in both directions."""

from __future__ import annotations

import numpy as np
import pytest

from napari_stbn.flow.multiframe import interpolate
from napari_stbn.samples.motion import MOTIONS, STRUCTURES, simulate_motion


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("motion", ["translation", "rotation", "deformation"])
def test_the_flow_brings_a_frame_to_its_neighbour(structure: str, motion: str) -> None:
    movie = simulate_motion((4, 64, 72), structure=structure, motion=motion, speed=2.0, seed=2)
    inner = (slice(6, -6), slice(6, -6))
    for t in range(3):
        for flow, this, other in (
            (movie.flow_to_next[t], movie.clean[t], movie.clean[t + 1]),
            (movie.flow_to_previous[t], movie.clean[t + 1], movie.clean[t]),
        ):
            moved = np.square(interpolate(other, flow) - this)[inner].mean()
            still = np.square(other - this)[inner].mean()
            assert moved < 0.15 * still


@pytest.mark.parametrize("motion", ["translation", "deformation"])
def test_uneven_motion_has_its_exact_flow_too(motion: str) -> None:
    movie = simulate_motion((5, 64, 72), motion=motion, speed=2.0, unsteady=1.0, seed=2)
    inner = (slice(8, -8), slice(8, -8))
    speeds = []
    for t in range(4):
        moved = np.square(interpolate(movie.clean[t + 1], movie.flow_to_next[t]) - movie.clean[t])
        still = np.square(movie.clean[t + 1] - movie.clean[t])
        speeds.append(np.hypot(*movie.flow_to_next[t]).mean())
        assert moved[inner].mean() < 0.15 * still[inner].mean() + 1e-3
    assert np.std(speeds) > 0.2 * np.mean(speeds)


def test_still_and_crossing_movies() -> None:
    still = simulate_motion((3, 48, 48), motion="static", seed=1)
    assert not still.flow_to_next.any()
    np.testing.assert_allclose(still.clean[0], still.clean[2])
    crossing = simulate_motion((3, 64, 64), structure="puncta", motion="layers", speed=3.0, seed=1)
    flows = crossing.flow_to_next[0].reshape(2, -1).T
    seen = np.unique(flows[np.hypot(*flows.T) > 2.9].round(1), axis=0)
    assert len(seen) == 2


@pytest.mark.parametrize("motion", MOTIONS)
def test_same_seed_same_movie_and_no_motion_beyond_the_speed(motion: str) -> None:
    movies = [simulate_motion((2, 32, 40), motion=motion, speed=1.5, seed=5) for _ in range(2)]
    np.testing.assert_array_equal(movies[0].noisy, movies[1].noisy)
    speed = np.hypot(*movies[0].flow_to_next[0])
    assert speed.max() < 1.7
    assert np.percentile(movies[0].photons, 99.9) == pytest.approx(20, rel=0.2)


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"structure must be one of puncta, .*, got 'cats'"):
        simulate_motion(structure="cats")
    with pytest.raises(ValueError, match=r"motion must be one of static, .*, got 'jump'"):
        simulate_motion(motion="jump")
