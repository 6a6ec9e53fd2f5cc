"""A run can be repeated from what its report says; a fit can start from another's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_stbn import PoissonGaussianNoise, Stack, read, simulate, write
from napari_stbn._generators import last
from napari_stbn.cli import main
from napari_stbn.denoiser import Denoiser
from napari_stbn.network import STBNConfig
from napari_stbn.presets import predictable_pixels
from napari_stbn.settings import RunSettings
from napari_stbn.training import TrainingConfig, TrainingStep

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
MOVIE = Stack(simulate((6, 24, 24), seed=3).noisy, "TYX")


def denoiser(start: str | Path = "fresh", seed: int = 0) -> Denoiser:
    return Denoiser(
        device="cpu", network=TINY, precision="float32", flow="none", start=start, seed=seed
    )


def repeat(first: Denoiser) -> Denoiser:
    """Fit again along the pace of a fit."""
    done: TrainingStep = first.history[-1]
    settings = RunSettings(preset="balanced").repeating(first.denoise(MOVIE).report)
    assert settings.max_steps == done.step
    again = denoiser()
    for _ in settings.fit_steps(again, MOVIE):
        pass
    return again


def same(first: Denoiser, second: Denoiser) -> bool:
    """Equal losses all the way and equal results."""
    assert [s.loss for s in first.history] == [s.loss for s in second.history]
    return np.array_equal(first.denoise(MOVIE).denoised, second.denoise(MOVIE).denoised)


def test_a_fit_with_a_time_budget_is_repeated_by_its_pace() -> None:
    timed = denoiser().fit(MOVIE, time_budget=3)
    assert len(timed.history[-1].pace) > 5, "the budget must have been planned anew several times"
    assert timed.history[-1].fraction == 1
    assert min(s.learning_rate for s in timed.history[-3:]) < 0.1 * max(
        s.learning_rate for s in timed.history
    )
    assert same(timed, repeat(timed))


def test_a_fit_that_was_stopped_is_repeated_by_its_pace_and_steps() -> None:
    stopped = denoiser()
    steps = stopped.fit_steps(MOVIE, max_steps=40)
    for progress in steps:
        if progress.step is not None and progress.step.step == 15:
            break
    steps.close()
    assert len(stopped.history) == 15
    assert same(stopped, repeat(stopped))


def test_the_report_holds_the_pace() -> None:
    fitted = denoiser().fit(MOVIE, max_steps=3)
    report = fitted.denoise(MOVIE).report
    assert report["pace"] == [[0, 0.0, 1 / 3]]
    assert report["start"] == "fresh"


def test_pace_and_time_budget_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="leave out time_budget, or pace"):
        TrainingConfig(time_budget=5, pace=((0, 0.0, 0.1),))


def test_a_fit_goes_on_from_a_saved_model(tmp_path: Path) -> None:
    first = denoiser().fit(MOVIE, max_steps=60)
    path = first.save(tmp_path / "first.stbn")
    warm = denoiser(path, seed=1).fit(MOVIE, max_steps=1)
    cold = denoiser(seed=1).fit(MOVIE, max_steps=1)
    assert warm.history[0].loss < cold.history[0].loss - 0.02
    assert warm.denoise(MOVIE).report["start"] == "first.stbn"


def test_a_start_that_does_not_fit_is_said(tmp_path: Path) -> None:
    path = denoiser().fit(MOVIE, max_steps=1).save(tmp_path / "grey.stbn")
    colour = Stack(simulate((4, 24, 24), seed=3).noisy[..., None].repeat(3, -1), "TYXS")
    together = denoiser(path)
    together.channels = "joint"
    with pytest.raises(ValueError, match=r"3 channel.* cannot start from grey\.stbn"):
        together.fit(colour, max_steps=1)
    with pytest.raises(FileNotFoundError, match=r"absent\.stbn"):
        denoiser(tmp_path / "absent.stbn").fit(MOVIE, max_steps=1)


def test_a_look_at_a_frame_changes_nothing_and_shows_what_was_learnt() -> None:
    watched, unwatched = denoiser(), denoiser()
    assert last(watched.preview_steps(2)) is None
    looks = []
    for number, _ in enumerate(watched.fit_steps(MOVIE, max_steps=80)):
        if number % 20 == 19:
            looks.append(last(watched.preview_steps(2, rows=slice(4, 20))))
    unwatched.fit(MOVIE, max_steps=80)
    assert same(watched, unwatched)
    shown = looks[-1]
    assert shown is not None
    assert shown.shape == (16, 24)
    result = watched.denoise(MOVIE).denoised[2, 4:20]
    noisy = MOVIE.movie()[2, 4:20]
    assert np.mean((shown - result) ** 2) < 0.5 * np.mean((noisy - result) ** 2)
    after = last(watched.preview_steps(2, rows=slice(4, 20)))
    assert after is not None
    assert np.corrcoef(after.ravel(), result.ravel())[0, 1] > 0.95


def test_a_look_that_is_broken_off_leaves_the_fit_as_it_was() -> None:
    watched, unwatched = denoiser(), denoiser()
    for _ in watched.fit_steps(MOVIE, max_steps=12):
        look = watched.preview_steps(3)
        if watched.history:
            next(look)
        look.close()
    unwatched.fit(MOVIE, max_steps=12)
    assert same(watched, unwatched)


def test_settings_survive_json_and_repeat_a_report() -> None:
    settings = RunSettings(
        preset="preview", noise=PoissonGaussianNoise(2.0, 100.0, 1.5), training={"batch": 1}
    )
    assert RunSettings.from_json(settings.to_json()) == settings
    assert RunSettings.from_json('{"preset": "best", "of": "the future"}').preset == "best"
    report = {"steps": 7, "checks": 5, "refined_flow": False, "pace": [[0, 0.0, 0.1]]}
    again = settings.repeating(report)
    assert again.training_config().pace == ((0, 0.0, 0.1),)
    assert again.training_config().batch == 1
    assert (again.max_steps, again.training_config().checks) == (7, 5)
    wrong: list[dict[str, Any]] = [{}, {**report, "pace": 5}, {**report, "steps": None}]
    for known in wrong:
        with pytest.raises(ValueError, match="tells of no fit"):
            settings.repeating(known)
    with pytest.raises(ValueError, match="training has no clip; choose from"):
        RunSettings(training={"clip": 3})


def test_the_command_line_repeats_a_run_with_a_time_budget(tmp_path: Path) -> None:
    write(tmp_path / "in.tif", MOVIE)
    first = ["denoise", str(tmp_path / "in.tif"), "--preset", "preview", "--flow", "none"]
    report = str(tmp_path / "run.json")
    where = ["-o", str(tmp_path / "a.tif"), "--report", report]
    assert main([*first, "--time-budget", "2", *where]) == 0
    assert main([*first, "--pace", report, "-o", str(tmp_path / "b.tif")]) == 0
    assert np.array_equal(read(tmp_path / "a.tif").array[:], read(tmp_path / "b.tif").array[:])
    assert main([*first, "--pace", str(tmp_path / "in.tif"), "-o", str(tmp_path / "c.tif")]) == 2


def test_a_large_movie_and_a_short_budget_learn_from_parts_and_are_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Motion in all of it would take most of the time; the result finds it everywhere."""
    # So that a small movie is a large one.
    monkeypatch.setattr("napari_stbn._fit_plan._LEAST_SAMPLE", 60_000)
    movie = simulate((16, 96, 112), kind="static", photons=5, seed=3).noisy
    settings = RunSettings(preset="preview", device="cpu", time_budget=0.6)
    first, stack = settings.denoiser(), Stack(movie, "TYX")
    for _ in settings.fit_steps(first, stack):
        pass
    learnt = first.denoise(stack)
    assert 0 < learnt.report["sampled_pixels"] < movie.size
    assert any("the fit learnt from" in note for note in learnt.report["notes"])
    assert learnt.report["refined_flow"]
    assert np.abs(learnt.flow_to_next).mean() < 0.1  # noise would have moved it by .5 px
    repeated = settings.repeating(learnt.report)
    again = repeated.denoiser()
    for _ in repeated.fit_steps(again, stack):
        pass
    assert same(first, again)


def test_whether_parts_are_enough_is_no_matter_of_the_clock() -> None:
    device = torch.device("cpu")
    narrow, wide = STBNConfig(), STBNConfig(width=32)
    half = predictable_pixels(30, device, narrow)
    assert predictable_pixels(60, device, narrow) == 2 * half > 2**22
    assert predictable_pixels(30, device, wide) < half / 2
    small = simulate((4, 32, 32), seed=0).noisy
    fitted = Denoiser("preview", device="cpu").fit(small, axes="TYX", time_budget=1.0)
    assert fitted.denoise(small, axes="TYX").report["sampled_pixels"] == 0
