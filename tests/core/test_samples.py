"""Simulated movies: the truth they claim is the truth."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import map_coordinates

from napari_stbn.samples import KINDS, SimulatedMovie, simulate
from napari_stbn.samples._bodies import draw_nucleus
from napari_stbn.samples._canvas import Canvas
from napari_stbn.samples._emitters import add_filament, vesicle_paths

Float = npt.NDArray[np.floating[Any]]


@cache
def default() -> SimulatedMovie:
    return simulate()


@cache
def small(kind: str, motion: float = 1.0) -> SimulatedMovie:
    return simulate((8, 96, 96), kind=kind, motion=motion, seed=4)


def fetch(source: Float, flow: Float, order: int) -> Float:
    """Source[p + flow[p]]: nearest (order 0) or cubic (order 3) interpolation."""
    y, x = np.mgrid[: source.shape[0], : source.shape[1]].astype(float)
    return np.asarray(
        map_coordinates(source, [y + flow[1], x + flow[0]], order=order, mode="nearest")
    )


def unexplained(movie: SimulatedMovie, direction: str, order: int = 0) -> float:
    """Squared difference left after following the true flow, over that with no motion."""
    left = still = 0.0
    for t in range(len(movie.photons) - 1):
        here, there = movie.photons[t], movie.photons[t + 1]
        flow = movie.flow_to_next[t]
        if direction == "previous":
            here, there, flow = there, here, movie.flow_to_previous[t]
        left += float(((fetch(there, flow, order) - here) ** 2).sum())
        still += float(((there - here) ** 2).sum())
    return left / still


def test_default_movie_is_the_benchmark_clip() -> None:
    movie = default()
    assert movie.noisy.shape == movie.clean.shape == movie.photons.shape == (32, 128, 128)
    assert movie.noisy.dtype == np.uint16
    assert movie.clean.dtype == movie.photons.dtype == movie.flow_to_next.dtype == np.float32
    assert movie.flow_to_next.shape == movie.flow_to_previous.shape == (31, 2, 128, 128)
    assert movie.events.shape == (32, 128, 128)
    error = movie.noisy.astype(float) - movie.clean
    peak = float(np.ptp(movie.clean))
    assert 18.3 < 10 * np.log10(peak**2 / np.mean(error**2)) < 19.3
    assert 13.0 < 10 * np.log10(peak**2 / np.mean(error[movie.events] ** 2)) < 15.5
    assert 3.0 < movie.photons.mean() < 4.0
    assert np.percentile(movie.photons, 99.9) == pytest.approx(20.0, rel=1e-5)
    np.testing.assert_allclose(movie.clean, 100 + 2 * movie.photons, rtol=1e-6)
    assert len({event.centre for event in movie.event_list}) == len(movie.event_list) == 8


def test_noise_is_that_of_the_stated_camera() -> None:
    for gain, offset, read_noise in ((2.0, 100.0, 1.6), (0.7, 300.0, 4.0)):
        movie = (
            default()
            if gain == 2.0
            else simulate((16, 96, 96), gain=gain, offset=offset, read_noise=read_noise)
        )
        error = movie.noisy.astype(float) - movie.clean
        signal = movie.clean.astype(float) - movie.offset
        design = np.stack([signal.ravel(), np.ones(signal.size)], axis=1)
        weight = 1 / (gain * signal.ravel() + (gain * read_noise) ** 2)
        slope, floor = np.linalg.lstsq(
            design * weight[:, None], error.ravel() ** 2 * weight, rcond=None
        )[0]
        assert abs(error.mean()) < 0.02 * gain
        assert slope == pytest.approx(gain, rel=0.05)
        assert floor == pytest.approx((gain * read_noise) ** 2 + 1 / 12, rel=0.05)
        standard = error / np.sqrt(gain * signal + (gain * read_noise) ** 2 + 1 / 12)
        for axis in range(3):  # independent from pixel to pixel and frame to frame
            first = np.take(standard, range(standard.shape[axis] - 1), axis)
            second = np.take(standard, range(1, standard.shape[axis]), axis)
            assert abs(float((first * second).mean())) < 0.012


@pytest.mark.parametrize("direction", ["next", "previous"])
@pytest.mark.parametrize(
    ("kind", "motion", "left"),
    [("puncta", 1.0, 0.4), ("nuclei", 2.0, 0.2), ("filaments", 2.0, 0.6), ("membranes", 2.0, 0.3)],
)
def test_true_flow_leads_to_the_other_frame(
    kind: str, motion: float, left: float, direction: str
) -> None:
    movie = small(kind, motion)
    assert unexplained(movie, direction) < left
    mirrored = SimulatedMovie(
        **{
            **vars(movie),
            "flow_to_next": -movie.flow_to_next,
            "flow_to_previous": -movie.flow_to_previous,
        }
    )
    assert unexplained(mirrored, direction) > 1.2


def test_flow_of_a_nucleus_is_exact_below_a_pixel() -> None:
    times = 1.5 * np.arange(6.0)
    canvas = Canvas(6, 160, 160, 1.2)
    rng = np.random.default_rng(3)
    draw_nucleus(rng, times, np.array([80.0, 79.0]), 14.0, core=1.0).render(canvas)
    to_previous, to_next = canvas.flows(0.0)
    for t in range(5):
        here, there = canvas.light[t], canvas.light[t + 1]
        still = float(((there - here) ** 2).mean())
        assert float(((fetch(there, to_next[t], 3) - here) ** 2).mean()) < 0.01 * still
        assert float(((fetch(here, to_previous[t], 3) - there) ** 2).mean()) < 0.01 * still
        core = here > 0.4
        back = np.stack([fetch(to_previous[t, c], to_next[t], 1) for c in (0, 1)])
        assert np.abs(back + to_next[t])[:, core].max() < 0.02
    assert canvas.light.sum(axis=(1, 2)).std() < 1e-3 * canvas.light.sum(axis=(1, 2)).mean()


def test_flow_of_a_filament_is_exact_below_a_pixel() -> None:
    canvas = Canvas(5, 96, 96, 1.2)
    rng = np.random.default_rng(5)
    start = np.array([48.0, 48.0])
    add_filament(canvas, rng, 2.0 * np.arange(5.0), start, 0.7, 60.0, 1.0, centred=True)
    to_previous, to_next = canvas.flows(0.0)
    for t in range(4):
        here, there = canvas.light[t], canvas.light[t + 1]
        still = float(((there - here) ** 2).mean())
        assert np.abs(to_next[t]).max() > 0.5
        assert float(((fetch(there, to_next[t], 3) - here) ** 2).mean()) < 0.03 * still
        assert float(((fetch(here, to_previous[t], 3) - there) ** 2).mean()) < 0.03 * still


def test_nuclei_deform_and_not_only_turn_and_shift() -> None:
    times = np.arange(12.0)
    body = draw_nucleus(np.random.default_rng(0), times, np.zeros(2), 14.0, core=1.0)
    angle = np.linspace(0, 2 * np.pi, 40)
    u, v = 12 * np.cos(angle), 12 * np.sin(angle)
    first, last = (np.array(body.motion.place(u, v, t)) for t in (0, 11))
    first -= first.mean(axis=1, keepdims=True)
    last -= last.mean(axis=1, keepdims=True)
    left, _, right = np.linalg.svd(last @ first.T)
    rigid = left @ np.diag([1.0, np.linalg.det(left @ right)]) @ right @ first
    assert np.abs(last - rigid).max() > 0.7
    x, y = body.motion.place(u, v, 7)
    np.testing.assert_allclose(body.motion.matter(x, y, 7), (u, v), atol=1e-9)


def test_emitter_is_drawn_where_it_is() -> None:
    paths = np.array([[[12.3, 20.7]], [[15.95, 18.1]], [[16.0, 18.0]]])
    canvas = Canvas(3, 40, 32, 1.2)
    canvas.add_emitters(paths, np.ones(1))
    y, x = np.mgrid[:40, :32]
    for t in range(3):
        light = canvas.light[t]
        assert float((x * light).sum() / light.sum()) == pytest.approx(paths[t, 0, 0], abs=1e-3)
        assert float((y * light).sum() / light.sum()) == pytest.approx(paths[t, 0, 1], abs=1e-3)
    to_previous, to_next = canvas.flows(0.01)
    np.testing.assert_allclose(to_next[0, :, 21, 12], [3.65, -2.6], rtol=1e-5)
    np.testing.assert_allclose(to_previous[0, :, 18, 16], [-3.65, 2.6], rtol=1e-5)
    assert (to_next[0, :, 5, 5] == 0).all()


def test_brighter_structure_owns_the_flow() -> None:
    canvas = Canvas(2, 32, 32, 1.2)
    canvas.add_emitters(np.array([[[16.0, 16.0]], [[19.0, 16.0]]]), np.array([1.0]))
    canvas.add_emitters(np.array([[[17.0, 16.0]], [[17.0, 12.0]]]), np.array([0.2]))
    _, to_next = canvas.flows(0.01)
    np.testing.assert_allclose(to_next[0, :, 16, 17], [3.0, 0.0], atol=1e-6)


def test_vesicles_run_fast_and_stay_out_of_obstacles() -> None:
    centre = np.array([60.0, 60.0])
    paths = vesicle_paths(
        np.random.default_rng(0), 60, 200, 128, 128, motion=1.0, obstacles=[(centre, 15.0)]
    )
    steps = np.hypot(*np.moveaxis(np.diff(paths, axis=0), -1, 0))
    assert 0.5 < np.mean((steps > 1) & (steps < 4)) < 0.95
    assert np.percentile(steps, 99) < 4.5
    assert np.hypot(*np.moveaxis(paths - centre, -1, 0)).min() > 14.9
    ahead = (np.diff(paths, axis=0)[1:] * np.diff(paths, axis=0)[:-1]).sum(axis=2)
    fast = (steps[1:] > 1.5) & (steps[:-1] > 1.5)
    assert np.mean(ahead[fast] > 0) > 0.85  # directed, no random walk


def test_flashes_rise_in_one_frame_and_decay() -> None:
    movie = simulate((32, 96, 96), kind="blinking", seed=2)
    assert len(movie.event_list) >= 4
    for event in movie.event_list:
        y, x = (round(c) for c in event.centre)
        course = movie.photons[:, y - 1 : y + 2, x - 1 : x + 2].mean(axis=(1, 2))
        t = event.frame
        assert 1 <= t < 32
        assert course[t] > 1.4 * course[t - 1]
        assert movie.events[t, y, x]
        if t + 1 < 32:
            assert 0.6 * course[t] < course[t + 1] < course[t]
            assert movie.events[t + 1, y, x]
    onsets = {event.frame for event in movie.event_list}
    marked = set(np.flatnonzero(movie.events.any(axis=(1, 2))).tolist())
    assert marked == (onsets | {t + 1 for t in onsets if t + 1 < 32})
    bright = movie.photons[movie.events].mean()
    assert bright > 3 * movie.photons.mean()


def test_static_scene_stands_still_and_bleaches() -> None:
    movie = simulate((5, 64, 64), kind="static", bleaching=0.4)
    assert not movie.flow_to_next.any()
    assert not movie.flow_to_previous.any()
    assert not movie.events.any()
    factors = movie.photons.reshape(5, -1).sum(axis=1) / movie.photons[0].sum()
    np.testing.assert_allclose(factors, 0.6 ** (np.arange(5) / 4), rtol=1e-5)
    np.testing.assert_allclose(movie.photons[4], 0.6 * movie.photons[0], rtol=1e-5)


@pytest.mark.parametrize("kind", ["nuclei", "filaments", "puncta", "membranes"])
def test_no_motion_stops_everything(kind: str) -> None:
    movie = simulate((3, 48, 48), kind=kind, motion=0.0)
    assert not movie.flow_to_next.any()
    np.testing.assert_allclose(movie.photons[2], movie.photons[0], rtol=1e-5)


def test_seed_decides_the_movie() -> None:
    state = repr(np.random.get_state())  # noqa: NPY002
    first, again = (simulate((4, 32, 40), seed=3) for _ in range(2))
    other = simulate((4, 32, 40), seed=4)
    np.testing.assert_array_equal(first.noisy, again.noisy)
    np.testing.assert_array_equal(first.flow_to_next, again.flow_to_next)
    assert (first.clean != other.clean).mean() > 0.9
    assert repr(np.random.get_state()) == state  # noqa: NPY002


def test_camera_leaves_the_scene_alone() -> None:
    dim = simulate((4, 32, 40), photons=5.0)
    bright = simulate((4, 32, 40), photons=50.0, gain=0.5, offset=20.0, read_noise=0.0)
    np.testing.assert_allclose(bright.photons, 10 * dim.photons, rtol=1e-5)
    np.testing.assert_array_equal(bright.flow_to_next, dim.flow_to_next)


@pytest.mark.parametrize("shape", [(2, 16, 16), (3, 17, 61), (2, 150, 16)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_size(kind: str, shape: tuple[int, int, int]) -> None:
    for seed in range(3):
        movie = simulate(shape, kind=kind, seed=seed)
        assert movie.noisy.shape == shape
        assert movie.flow_to_next.shape == (shape[0] - 1, 2, *shape[1:])
        assert np.isfinite(movie.photons).all()
        assert np.isfinite(movie.flow_to_previous).all()
        assert movie.photons.min() > 0
        assert movie.photons.std() > 0.5
        assert (kind != "static") == bool(movie.flow_to_next.any())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (1, 32, 32)}, r"at least \(2, 16, 16\), got \(1, 32, 32\)"),
        ({"shape": (4, 32, 15)}, r"at least \(2, 16, 16\)"),
        ({"shape": (32, 32)}, r"\(T, Y, X\)"),
        ({"kind": "cells"}, "one of mixed, nuclei, .* got 'cells'"),
        ({"photons": 0.0}, "photons must be above 0, got 0.0"),
        ({"photons": float("inf")}, "photons"),
        ({"gain": -1.0}, "gain must be above 0"),
        ({"offset": -1.0}, "offset must be in"),
        ({"read_noise": -0.1}, "read_noise must be at least 0"),
        ({"psf_sigma": float("nan")}, "psf_sigma must be above 0"),
        ({"motion": -1.0}, "motion must be at least 0"),
        ({"bleaching": 1.0}, r"bleaching must be in \[0, 1\)"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_wrong_input_is_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(**arguments)


def test_needs_neither_torch_nor_napari() -> None:
    code = (
        "import sys, napari_stbn.samples as s; s.simulate((2, 16, 16));"
        "sys.exit(bool({'torch', 'napari', 'qtpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
