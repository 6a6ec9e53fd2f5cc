"""Frames that share noise with those before: found, kept apart for the network, put in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

import napari_stbn as stbn
from napari_stbn._frame_cycle import frame_cycle
from napari_stbn._frame_sharing import FrameSharing, measure_frame_sharing
from napari_stbn._frame_spacing import FrameSpacing, frames_apart, measure_frame_spacing
from napari_stbn._generators import last
from napari_stbn._spaced_stack import Spacing, spaced_stack
from napari_stbn._track_stack import TrackStack
from napari_stbn._unmixed_stack import UnmixedStack, mixed
from napari_stbn.noise import estimate_noise
from napari_stbn.report import residual_checks, write_report
from napari_stbn.samples import KINDS
from napari_stbn.stack import MovieDefects

Movie = NDArray[Any]


def running(movie: Movie, length: int) -> Movie:
    """The mean of each frame and those before it."""
    return np.stack([movie[max(0, t - length + 1) : t + 1].mean(0) for t in range(len(movie))])


def recursive(movie: Movie, part: float) -> Movie:
    """Each frame mixed into what was shown before, as confocal microscopes do."""
    shown = [movie[0].astype(np.float64)]
    for frame in movie[1:]:
        shown.append(part * frame + (1 - part) * shown[-1])
    return np.stack(shown)


def simulated(kind: str = "mixed", photons: float = 20.0, frames: int = 32) -> tuple[Movie, Movie]:
    made = stbn.simulate((frames, 64, 64), kind=kind, photons=photons, seed=7)
    return made.noisy.astype(np.float64), made.clean.astype(np.float64)


def psnr(estimate: Movie, clean: Movie) -> float:
    return float(10 * np.log10(np.ptp(clean) ** 2 / np.mean((estimate - clean) ** 2)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("photons", [3.0, 20.0, 300.0])
def test_frames_as_recorded_share_nothing(kind: str, photons: float) -> None:
    noisy, _ = simulated(kind, photons)
    assert measure_frame_sharing(noisy) == FrameSharing(1)


@pytest.mark.parametrize("kind", ["nuclei", "puncta", "static"])
@pytest.mark.parametrize(
    ("name", "step", "correlation"),
    [("mean of 2", 2, 1 / 2), ("mean of 3", 3, 2 / 3), ("mean of 4", 4, 3 / 4),
     ("median of 3", 3, 0.51), ("twice", 2, 1 / 2)],
)  # fmt: skip
def test_what_frames_share_is_measured(kind: str, name: str, step: int, correlation: float) -> None:
    noisy, _ = simulated(kind)
    made: dict[str, Callable[[], Movie]] = {
        "mean of 2": lambda: running(noisy, 2),
        "mean of 3": lambda: running(noisy, 3),
        "mean of 4": lambda: running(noisy, 4),
        "median of 3": lambda: np.asarray(ndimage.median_filter(noisy, (3, 1, 1))),
        "twice": lambda: np.repeat(noisy, 2, 0),
    }
    found = measure_frame_sharing(made[name]())
    assert (found.step, found.carry) == (step, 0.0)
    assert found.correlation == pytest.approx(correlation, abs=0.05)


@pytest.mark.parametrize("kind", ["nuclei", "puncta", "static"])
@pytest.mark.parametrize("frames", [16, 40])
@pytest.mark.parametrize("part", [0.2, 0.4, 0.7, 0.97])
@pytest.mark.parametrize("rounded", [False, True])
def test_what_a_recursive_filter_carries_on_is_measured(
    kind: str, frames: int, part: float, rounded: bool
) -> None:
    movie = recursive(simulated(kind, frames=frames)[0], part)
    found = measure_frame_sharing(np.rint(movie) if rounded else movie)
    assert found.carry == pytest.approx(1 - part if part < 0.9 else 0, abs=0.05)


@pytest.mark.parametrize("size", [(7, 64, 64), (32, 8, 8)])
def test_too_few_frames_or_pixels_say_nothing(size: tuple[int, int, int]) -> None:
    noisy, _ = simulated()
    movie = running(noisy, 3)[: size[0], : size[1], : size[2]]
    assert measure_frame_sharing(movie).step == 1


def test_blank_frames_and_pixels_that_are_no_numbers_do_not_count() -> None:
    noisy, _ = simulated()
    movie = running(noisy, 3)
    movie[4], movie[9], movie[:, :20, :30] = 0, np.nan, np.nan
    assert measure_frame_sharing(movie).step == 3
    assert measure_frame_sharing(np.full((20, 64, 64), np.nan)).step == 1


@pytest.mark.parametrize("still", [True, False])
def test_scattered_pixels_that_are_no_numbers_do_not_hide_what_frames_share(still: bool) -> None:
    noisy, _ = simulated()
    shape = noisy.shape[1:] if still else noisy.shape
    gone = np.broadcast_to(np.random.default_rng(0).random(shape) < 0.02, noisy.shape)
    found = measure_frame_sharing(np.where(gone, np.nan, running(noisy, 2)))
    assert found.step == 2
    assert found.correlation == pytest.approx(1 / 2, abs=0.05)
    found = measure_frame_sharing(np.where(gone, np.nan, recursive(noisy, 0.6)))
    assert found.carry == pytest.approx(0.4, abs=0.05)
    assert measure_frame_sharing(np.where(gone, np.nan, noisy)) == FrameSharing(1)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("photons", [5.0, 80.0])
def test_scenes_that_take_turns_are_counted(count: int, photons: float) -> None:
    kinds = ("nuclei", "filaments", "puncta", "mixed", "membranes")[:count]
    scenes = [
        stbn.simulate((20, 64, 64), kind=kind, photons=photons, seed=n).noisy
        for n, kind in enumerate(kinds)
    ]
    movie = np.stack(scenes, 1).reshape(-1, 64, 64)
    assert frame_cycle(movie) == count
    spacing = measure_frame_spacing(movie)
    assert spacing.step == count
    assert f"show {count} scenes in turn" in spacing.note
    assert frame_cycle(movie[: 3 * count]) == 1  # too few turns


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("photons", [2.0, 20.0, 200.0])
def test_one_scene_is_no_cycle(kind: str, photons: float) -> None:
    noisy, _ = simulated(kind, photons, 40)
    assert frame_cycle(noisy) == 1


def test_a_lamp_that_alternates_lights_one_scene() -> None:
    noisy, _ = simulated("nuclei", 40)
    noisy[1::2] = 100 + 0.5 * (noisy[1::2] - 100)
    assert frame_cycle(noisy) == 1


def test_something_that_swings_is_one_scene() -> None:
    t, y, x = np.indices((32, 64, 64))
    centre = 32 + 8 * np.sin(2 * np.pi * t / 6)
    spot = np.exp(-((y - centre) ** 2 + (x - 32) ** 2) / 100)
    noisy = 100 + np.random.default_rng(0).normal(40 * spot, 5)
    assert frame_cycle(noisy) == 1


def tracks_of(array: Movie, axes: str, step: int = 3) -> TrackStack:
    return TrackStack(stbn.Stack(array, axes=axes), FrameSpacing(step, "They share noise"))


@pytest.mark.parametrize("axes", ["TYX", "YTX", "ZTYX", "TCYX", "TYXS"])
def test_tracks_are_every_third_frame(axes: str) -> None:
    sizes = {"T": 8, "Z": 2, "C": 2, "Y": 9, "X": 10, "S": 3}
    array = np.random.default_rng(0).integers(0, 999, [sizes[a] for a in axes]).astype(np.uint16)
    stack = stbn.Stack(array, axes=axes)
    tracks = tracks_of(array, axes)
    assert tracks.n_frames == 3
    assert tracks.n_planes == 3 * stack.n_planes
    assert tracks.recorded is tracks.source
    for channel, plane in stack.indices():
        movie = stack.movie(channel, plane)
        for track in range(3):
            seen = tracks.movie(channel, 3 * plane + track)
            expected = movie[track::3]
            np.testing.assert_array_equal(seen[: len(expected)], expected)
            assert np.isnan(seen[len(expected) :]).all()
            part = tracks.movie(
                channel, 3 * plane + track, frames=slice(1, 3), rows=slice(2, 7), columns=slice(4)
            )
            np.testing.assert_array_equal(part, seen[1:3, 2:7, :4])
            for at in range(len(expected)):
                there = tracks.place((channel, plane, track + 3 * at))
                assert there == (channel, 3 * plane + track, at)


@pytest.mark.parametrize("in_a_folder", [False, True])
def test_denoised_tracks_come_out_as_frames_in_order(in_a_folder: bool, tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(2, 35, 9, 10)).astype(np.float32)
    tracks = tracks_of(array, "CTYX")
    taken: dict[int, list[Movie]] = {0: [], 1: []}
    starts = []

    def take(channel: int, plane: int, start: int, mean: Movie, std: Movie | None) -> None:
        assert plane == 0
        assert std is not None
        np.testing.assert_array_equal(std, 2 * mean)
        starts.append(start)
        taken[channel].append(mean)

    output = tracks.output(take, tmp_path if in_a_folder else None)
    for channel, plane in tracks.indices():
        movie = tracks.movie(channel, plane)
        for start in (0, 5):
            part = movie[start : start + 5] if start == 0 else movie[start:]
            output(channel, plane, start, part, 2 * part)
    np.testing.assert_array_equal([np.concatenate(taken[c]) for c in (0, 1)], array)
    assert starts == sorted(starts[: len(starts) // 2]) * 2


def test_motion_between_frames_is_that_between_tracks_by_their_distance() -> None:
    frames, step = 11, 3
    tracks = tracks_of(np.zeros((frames, 8, 8)), "TYX")
    position = np.arange(frames) ** 2.0
    to_previous, to_next = [], []
    for track in range(step):
        own = np.full(4, np.nan)
        own[: len(position[track::step])] = position[track::step]
        moved = np.broadcast_to(np.diff(own)[:, None, None, None], (3, 2, 8, 8))
        to_next.append(moved.astype(np.float32))
        to_previous.append(-moved.astype(np.float32))
    ahead, back = (
        tracks.flows_for_user({(2, 3 + n): flow for n, flow in enumerate(flows)}, forward=forward)[
            2, 1
        ]
        for flows, forward in ((to_next, True), (to_previous, False))
    )
    assert ahead.shape == back.shape == (frames - 1, 2, 8, 8)
    np.testing.assert_allclose(ahead[0], 9 / 3)
    np.testing.assert_allclose(ahead[4], (49 - 16) / 3)
    np.testing.assert_allclose(ahead[-1], (81 - 36) / 3, rtol=1e-6)  # the last pair of its track
    np.testing.assert_allclose(back[4], (4 - 25) / 3)
    np.testing.assert_allclose(back[-1], (49 - 100) / 3)
    np.testing.assert_allclose(back[0], (1 - 16) / 3)  # the first pair of its track


def test_defects_are_told_by_the_frames_of_the_recording() -> None:
    tracks = tracks_of(np.zeros((8, 9, 10)), "TYX")
    found = MovieDefects(None, None, (1, 2), 0.0, None, missing=95, repeated=(1,))
    index, told = tracks.defects_for_user((0, 2), found)
    assert index == (0, 0)
    assert told.constant_frames == (5,)  # the other one makes the track as long as the others
    assert told.repeated == (5,)
    assert told.missing == 5


@pytest.mark.parametrize("blank", [0.0, np.nan])
def test_a_recursive_filter_is_taken_to_begin_anew_after_blank_frames(blank: float) -> None:
    noisy = simulated(frames=12)[0].astype(np.float32)
    noisy[:, :9, :9] = 7  # a dark corner is no blank frame
    shown = mixed(noisy, 0.4)
    shown[[0, 4, 9, 10]] = blank
    seen = UnmixedStack(stbn.Stack(shown, "TYX"), {0: 0.4}, "")
    frames = seen.movie()
    assert np.isnan(frames[[0, 4, 9, 10]]).all()
    np.testing.assert_allclose(frames[[2, 3, 6, 7, 8]], noisy[[2, 3, 6, 7, 8]], rtol=1e-4)
    np.testing.assert_array_equal(frames[[1, 5, 11]], shown[[1, 5, 11]])
    part = seen.movie(frames=slice(4, 8), rows=slice(0, 8), columns=slice(0, 8))
    np.testing.assert_array_equal(part, frames[4:8, :8, :8])
    again = mixed(frames, 0.4)
    kept = np.delete(np.arange(12), [0, 4, 9, 10])
    np.testing.assert_allclose(again[kept], shown[kept], rtol=1e-4)
    found = MovieDefects(None, None, (0, 4, 9, 10), 0.0, None, missing=4 * 64 * 64 + 3)
    assert seen.defects_for_user((0, 0), found)[1].missing == 3


def test_blank_frames_of_a_filtered_movie_stay_as_they_are_and_cost_the_others_little() -> None:
    made = stbn.simulate((16, 48, 48), kind="nuclei", photons=20, seed=7)
    shown, clean = (recursive(m, 0.5) for m in (made.noisy, made.clean))
    shown[[4, 9]] = 0
    denoiser = stbn.Denoiser("preview", device="cpu", flow="none", turns=1)
    result = denoiser.fit(shown, axes="TYX", max_steps=1).denoise(shown, axes="TYX")
    assert result.report["frame_carry"][0] == pytest.approx(0.5, abs=0.1)
    assert (result.denoised[[4, 9]] == 0).all()
    seen = np.delete(np.arange(16), [4, 9])
    assert psnr(result.denoised[seen], clean[seen]) > 30
    assert not any("NaN" in note for note in result.report["notes"])


def test_a_result_of_a_running_mean_has_less_error(tmp_path: Path) -> None:
    noisy, clean = (running(m, 3) for m in simulated(frames=31))
    noisy = noisy.astype(np.float32)
    stack = stbn.Stack(noisy, axes="TYX")
    results = {}
    for choice in ("auto", "off"):
        denoiser = stbn.Denoiser(
            "preview", device="cpu", flow="translation", correlation=choice, turns=1
        )
        results[choice] = denoiser.fit(stack, max_steps=2).denoise(stack)
        if choice == "auto":
            fitted = denoiser
    apart, plain = results["auto"], results["off"]
    assert apart.denoised.shape == noisy.shape
    assert apart.flow_to_previous.shape == (30, 2, 64, 64)
    assert psnr(apart.denoised, clean) > psnr(plain.denoised, clean) + 4
    assert apart.report["frame_step"] == 3
    assert apart.report["shape"] == [31, 64, 64]
    assert apart.report["axes"] == "TYX"
    assert plain.report["frame_step"] == 1
    assert any("Frames share noise" in note for note in apart.report["notes"])
    assert not any("blank" in note or "NaN" in note for note in apart.report["notes"])
    assert apart.uncertainty is not None
    inside = np.mean(np.abs(apart.denoised - clean) <= apart.uncertainty)
    assert 0.55 < inside < 0.85
    noise = apart.noise[0]
    assert isinstance(noise, stbn.PoissonGaussianNoise)
    assert noise.gain == pytest.approx(2 / 3, rel=0.15)

    look = last(fitted.preview_steps(10, rows=slice(8, 40)))
    assert look is not None
    assert psnr(look, clean[10, 8:40]) > 30

    loaded = stbn.Denoiser.load(fitted.save(tmp_path / "model.stbn"), device="cpu")
    assert loaded.spacing == Spacing(3)
    np.testing.assert_allclose(loaded.denoise(stack).denoised, apart.denoised, rtol=1e-5)
    loaded.memory_limit = 0.01
    loaded.denoise_to(stack, tmp_path / "out.npy")
    noise_of_result = float(np.median(apart.uncertainty))
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), apart.denoised, atol=2e-2 * noise_of_result
    )


def test_colours_of_a_running_mean_are_kept_apart_too() -> None:
    made = stbn.simulate((24, 48, 48), kind="nuclei", photons=20, seed=7)
    rng = np.random.default_rng(0)
    clean = made.clean.astype(np.float64)
    camera = stbn.PoissonGaussianNoise(gain=2.0, offset=100.0, read_noise=1.6)
    samples = [running(camera.simulate(clean, rng), 3) for _ in range(3)]
    colours = np.stack(samples, -1).astype(np.float32)
    denoiser = stbn.Denoiser("preview", device="cpu", flow="none", turns=1)
    result = denoiser.fit(colours, axes="TYXS", max_steps=1).denoise(colours, axes="TYXS")
    assert result.report["frame_step"] == 3
    assert result.denoised.shape == colours.shape
    assert psnr(result.denoised[..., 1], running(clean, 3)) > 35


def test_a_model_is_used_on_a_movie_that_is_too_short_for_its_tracks() -> None:
    noisy = running(simulated()[0], 3).astype(np.float32)
    stack = last(spaced_stack(stbn.Stack(noisy[:4], axes="TYX"), Spacing(3)))
    assert not isinstance(stack, TrackStack)
    said = (
        "saw every 3rd frame as a movie of its own, for which there are too few frames here: noise"
    )
    assert [said in remark for remark in stack.remarks()] == [True]
    assert last(spaced_stack(stbn.Stack(noisy, axes="TYX"), Spacing(2))).remarks() == [
        "As in the fit, every 2nd frame is denoised as a movie of its own."
    ]


def test_a_look_before_the_run_takes_frames_apart() -> None:
    noisy, _ = simulated()
    movie, spacing = frames_apart(running(noisy, 3))
    assert len(movie) == 11
    assert "every 3rd frame" in spacing.note
    same, nothing = frames_apart(noisy)
    assert same.shape == noisy.shape
    assert nothing.note == ""


def test_a_look_before_the_run_tells_the_noise_as_recorded() -> None:
    noisy, _ = simulated("nuclei", frames=40)
    movie, spacing = frames_apart(recursive(noisy, 0.4))
    fit = estimate_noise(movie)
    assert fit.model.gain == pytest.approx(2.0, rel=0.15)
    assert spacing.as_recorded(fit).model.gain == pytest.approx(2.0 * 0.4 / 1.6, rel=0.15)
    assert FrameSpacing(1).as_recorded(fit) is fit


def test_the_residual_of_tracks_is_white(tmp_path: Path) -> None:
    noisy = running(simulated(frames=48)[0], 3).astype(np.float32)
    stack = stbn.Stack(noisy, axes="TYX")
    result = (
        stbn.Denoiser("preview", device="cpu", flow="none", turns=1)
        .fit(stack, max_steps=1)
        .denoise(stack)
    )
    checks = residual_checks(result, stack)
    assert abs(checks.along_t[0]) < 0.1
    assert checks.std == pytest.approx(1, abs=0.1)
    page = write_report(tmp_path / "report.html", result, stack).read_text(encoding="utf-8")
    assert "Frames share noise" in page


@pytest.mark.parametrize("axes", ["TYX", "YTX", "ZTYX", "TCYX", "TYXS"])
def test_any_part_of_an_unmixed_stack_is_that_part_of_the_whole(axes: str) -> None:
    sizes = {"T": 8, "Z": 2, "C": 2, "Y": 9, "X": 10, "S": 3}
    rng = np.random.default_rng(0)
    clean = stbn.Stack(rng.normal(100, 9, [sizes[a] for a in axes]).astype(np.float32), axes=axes)
    carry = {0: 0.6} | ({1: 0.3} if clean.n_channels > 1 else {})
    shown = {
        index: mixed(clean.movie(*index), carry.get(index[0], 0.0)) for index in clean.indices()
    }
    stack = UnmixedStack(clean.like(clean.assemble(shown)), carry, "")
    for index in stack.indices():
        np.testing.assert_allclose(stack.movie(*index), clean.movie(*index), rtol=1e-4)
        for frames in (slice(0, 3), slice(3, 7), slice(2, None, 2), slice(0, 1)):
            part = stack.movie(*index, frames=frames, rows=slice(2, 7), columns=slice(4))
            np.testing.assert_array_equal(part, stack.movie(*index)[frames, 2:7, :4])
    if "S" in axes:
        whole = tuple(slice(None) for _ in axes)
        np.testing.assert_allclose(stack.read(whole, axes), np.asarray(clean.array), rtol=1e-4)


def test_frames_are_mixed_again_in_the_result() -> None:
    clean = np.random.default_rng(0).normal(size=(9, 8, 8)).astype(np.float32)
    stack = UnmixedStack(stbn.Stack(clean, axes="TYX"), {0: 0.6}, "")
    taken: list[Movie] = []

    def take(channel: int, plane: int, start: int, mean: Movie, std: Movie | None) -> None:
        assert (channel, plane, start) == (0, 0, len(taken))
        assert std is not None
        np.testing.assert_allclose(std, 0 * std + 2, rtol=1e-6)
        taken.extend(mean)

    output = stack.output(take, None)
    for start in (0, 4):
        part = clean[start : start + 4 + start]
        output(0, 0, start, part, np.full_like(part, 2))
    np.testing.assert_allclose(taken, recursive(clean, 0.4), atol=1e-6)


def test_a_result_of_a_recursive_filter_has_less_error(tmp_path: Path) -> None:
    noisy, clean = (recursive(m, 0.4) for m in simulated("nuclei", frames=24))
    stack = stbn.Stack(noisy.astype(np.float32), axes="TYX")
    results = {}
    for choice in ("auto", "off"):
        denoiser = stbn.Denoiser(
            "preview", device="cpu", flow="translation", correlation=choice, turns=1
        )
        results[choice] = denoiser.fit(stack, max_steps=2).denoise(stack)
        if choice == "auto":
            fitted = denoiser
    free, plain = results["auto"], results["off"]
    assert psnr(free.denoised, clean) > psnr(plain.denoised, clean) + 6
    assert free.report["frame_step"] == 1
    assert free.report["frame_carry"][0] == pytest.approx(0.6, abs=0.03)
    assert plain.report["frame_carry"] == {}
    assert any("60 % of what was shown" in n or "Kalman" in n for n in free.report["notes"])
    assert free.uncertainty is not None
    inside = np.mean(np.abs(free.denoised - clean) <= free.uncertainty)
    assert 0.6 < inside < 0.9
    noise = free.noise[0]
    assert isinstance(noise, stbn.PoissonGaussianNoise)
    assert noise.gain == pytest.approx(2.0 * 0.4 / 1.6, rel=0.15)
    checks = residual_checks(free, stack)
    assert abs(checks.along_t[0]) < 0.1
    assert checks.std == pytest.approx(1, abs=0.1)

    loaded = stbn.Denoiser.load(fitted.save(tmp_path / "model.stbn"), device="cpu")
    assert loaded.spacing == fitted.spacing
    np.testing.assert_allclose(loaded.denoise(stack).denoised, free.denoised, rtol=1e-4)
    loaded.memory_limit = 0.01
    loaded.denoise_to(stack, tmp_path / "out.npy")
    streamed = np.load(tmp_path / "out.npy")
    assert np.abs(streamed - free.denoised).max() < 0.05 * np.median(free.uncertainty)


def test_a_camera_that_is_known_is_that_of_a_pixel_as_recorded() -> None:
    noisy = recursive(simulated("nuclei", frames=24)[0], 0.4).astype(np.float32)
    camera = stbn.PoissonGaussianNoise(gain=0.5, offset=100.0, read_noise=3.2)
    denoiser = stbn.Denoiser("preview", device="cpu", flow="none", noise=camera, turns=1)
    result = denoiser.fit(noisy, axes="TYX", max_steps=1).denoise(noisy, axes="TYX")
    known = result.noise[0]
    assert isinstance(known, stbn.PoissonGaussianNoise)
    assert known.gain == pytest.approx(camera.gain)
    assert known.read_noise == pytest.approx(camera.read_noise)
    fitted = denoiser.channel_noise[0]
    assert isinstance(fitted, stbn.PoissonGaussianNoise)
    assert fitted.gain == pytest.approx(2.0, rel=0.15)


def test_what_cannot_be_taken_apart_is_said() -> None:
    noisy, _ = simulated(frames=24)
    stack = stbn.Stack(running(noisy, 12).astype(np.float32), axes="TYX")
    seen = last(spaced_stack(stack))
    assert any("further than can be told apart" in remark for remark in seen.remarks())
    np.testing.assert_array_equal(seen.movie(), stack.movie())
    assert seen.dtype == stack.dtype
    assert seen.recorded is stack
