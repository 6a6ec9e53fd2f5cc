"""A fit that was cut off goes on from its file, to the same numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_stbn import Stack, TrainingConfig, _fit_parts, simulate
from napari_stbn.denoiser import Denoiser
from napari_stbn.network import STBNConfig
from napari_stbn.samples.motion import simulate_motion

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
MOVIE = simulate((6, 24, 24), seed=1).noisy


def denoiser(seed: int = 0) -> Denoiser:
    return Denoiser(device="cpu", network=TINY, seed=seed, precision="float32")


def weights(fitted: Denoiser) -> torch.Tensor:
    assert fitted.model is not None
    return torch.cat([p.flatten() for p in fitted.model.parameters()])


@pytest.fixture(autouse=True)
def _save_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fit_parts, "_SAVE_EVERY", 0.0)


def cut_off(path: Path, *, after: int, seed: int = 0) -> None:
    """Run a fit until a step, then let it fall, as a killed process would leave it."""
    steps = denoiser(seed).fit_steps(MOVIE, axes="TYX", max_steps=30, checkpoint=path)
    for progress in steps:
        if progress.step is not None and progress.step.step == after:
            break
    steps.close()


def test_a_fit_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    path = tmp_path / "fit"
    whole = denoiser().fit(MOVIE, axes="TYX", max_steps=30)
    cut_off(path, after=13)
    assert path.exists()
    rest = denoiser()
    rest.fit(MOVIE, axes="TYX", max_steps=30, checkpoint=path)
    assert rest.history[0].step == 13  # the last one was not in the file yet
    assert torch.equal(weights(rest), weights(whole))
    assert not path.exists()  # done: nothing is left to go on from


@pytest.mark.parametrize("form", ["reestimate", "distill"])
@pytest.mark.parametrize("after", [12, 22])
def test_flow_that_was_refined_is_made_again(form: str, after: int, tmp_path: Path) -> None:
    """After one round and after two: same flow, same student, same weights of the network."""
    plan = TrainingConfig(max_steps=26, clip_frames=3, clip_size=16, batch=1, patience=0)
    plan = replace(plan, refine=form)  # type: ignore[arg-type]
    moving = simulate_motion((4, 56, 56), motion="translation", speed=3, photons=10, seed=1)
    stack = Stack(moving.noisy, "TYX")

    def new() -> Denoiser:
        return Denoiser(device="cpu", network=TINY, precision="float32", start="fresh")

    path = tmp_path / "fit"
    whole = new().fit(stack, training=plan)
    steps = new().fit_steps(stack, training=plan, checkpoint=path)
    for progress in steps:
        if progress.step is not None and progress.step.step == after:
            break
    steps.close()
    rest = new()
    rest.fit(stack, training=plan, checkpoint=path)
    assert rest.history[0].step == after
    assert torch.equal(weights(rest), weights(whole))
    results = [fitted.denoise(stack) for fitted in (rest, whole)]
    np.testing.assert_array_equal(results[0].flow_to_next, results[1].flow_to_next)


def test_a_file_changes_nothing(tmp_path: Path) -> None:
    plain = denoiser().fit(MOVIE, axes="TYX", max_steps=10)
    kept = denoiser().fit(MOVIE, axes="TYX", max_steps=10, checkpoint=tmp_path / "fit")
    assert torch.equal(weights(plain), weights(kept))


def test_the_fit_of_another_movie_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "fit"
    cut_off(path, after=5)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="state of another fit"):
        denoiser().fit(MOVIE[::-1] + 1, axes="TYX", max_steps=30, checkpoint=path)
    with pytest.raises(ValueError, match="state of another fit"):
        denoiser().fit(MOVIE, axes="TYX", max_steps=31, checkpoint=path)
    assert path.read_bytes() == before


def test_a_truncated_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "fit"
    cut_off(path, after=5)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        denoiser().fit(MOVIE, axes="TYX", max_steps=30, checkpoint=path)


def test_a_model_is_no_state_of_a_fit(tmp_path: Path) -> None:
    path = denoiser().fit(MOVIE, axes="TYX", max_steps=1).save(tmp_path / "m.stbn")
    with pytest.raises(ValueError, match="holds no state of a fit"):
        denoiser().fit(MOVIE, axes="TYX", max_steps=30, checkpoint=path)


def test_a_state_that_vanishes_while_it_is_opened_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.fit"
    path.write_bytes(b"not a model")

    def open_too_late(name: Path, **_: object) -> None:
        Path(name).unlink()
        raise OSError("No such file or directory")

    monkeypatch.setattr("napari_stbn._model_file.safe_open", open_too_late)
    assert _fit_parts.begun_fit(path) is None
