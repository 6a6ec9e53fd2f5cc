"""A fit that was cut off goes on from its file, to the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from napari_stbn import _fit_parts, simulate
from napari_stbn.denoiser import Denoiser
from napari_stbn.network import STBNConfig

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
    assert rest.history[0].step == 14
    assert torch.equal(weights(rest), weights(whole))
    assert not path.exists()  # done: nothing is left to go on from


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
