"""Claims of a warm start: its weights are what they say, and no fit ends worse than it began."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from napari_stbn import Denoiser, Stack, STBNConfig, simulate
from napari_stbn._start import WEIGHTS, first_model, pretrained_model
from napari_stbn.network import STBN
from napari_stbn.presets import PRESETS
from napari_stbn.settings import RunSettings
from napari_stbn.training import TrainingConfig

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
MOVIE = Stack(simulate((6, 24, 24), seed=3).noisy, "TYX")
FEW = TrainingConfig(max_steps=20, clip_frames=4, clip_size=16, patience=0)


def weights(model: STBN | None) -> torch.Tensor:
    assert model is not None
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that was fitted to the movie for a while."""
    first = Denoiser(device="cpu", network=TINY, precision="float32", flow="none")
    first.fit(MOVIE, training=TrainingConfig(max_steps=150, clip_frames=4, clip_size=16))
    return first.save(tmp_path_factory.mktemp("learnt") / "learnt.stbn")


def warm(start: str | Path) -> Denoiser:
    return Denoiser(device="cpu", network=TINY, precision="float32", flow="none", start=start)


def test_a_fit_that_gets_worse_ends_with_its_start(learnt: Path) -> None:
    """A learning rate that destroys all that was learnt stands for any reason; so does NaN."""
    fitted = warm(learnt).fit(
        MOVIE, training=TrainingConfig(max_steps=5, clip_size=16, warm_learning_rate=20.0)
    )
    last = fitted.history[-1]
    assert last.held_out is not None
    assert last.start_held_out is not None
    assert not last.held_out < last.start_held_out + 0.1, "the example must get much worse"
    assert torch.equal(weights(fitted.model), weights(first_model(learnt, TINY, 0).model))
    assert fitted.denoise(MOVIE).report["start_held_out_loss"] == last.start_held_out


def test_a_start_that_comes_back_has_its_filter(learnt: Path) -> None:
    first = Denoiser.load(learnt, device="cpu")
    assert first.model is not None
    filtering = first.model.near.weight + 0.01
    first.model.near.set(filtering, first.model.near.noise)
    path = first.save(learnt.with_name("filtering.stbn"), overwrite=True)
    worse = TrainingConfig(max_steps=5, clip_size=16, warm_learning_rate=20.0)
    fitted = warm(path).fit(MOVIE, training=worse)
    assert fitted.model is not None
    assert fitted.model.near.active
    assert torch.equal(fitted.model.near.weight, filtering)


def test_a_fit_that_gets_better_is_kept(learnt: Path) -> None:
    short = Denoiser(device="cpu", network=TINY, precision="float32", flow="none")
    path = short.fit(MOVIE, training=FEW).save(learnt.with_name("short.stbn"), overwrite=True)
    fitted = warm(path).fit(
        MOVIE, training=TrainingConfig(max_steps=100, clip_size=16, warm_learning_rate=2e-3)
    )
    last = fitted.history[-1]
    assert last.held_out is not None
    assert last.start_held_out is not None
    assert last.held_out < last.start_held_out
    assert not torch.equal(weights(fitted.model), weights(first_model(path, TINY, 0).model))


def test_a_warm_fit_that_is_stopped_at_once_keeps_its_start(learnt: Path) -> None:
    """Nothing was measured yet that would speak for other weights."""
    stopped = warm(learnt)
    steps = stopped.fit_steps(MOVIE, max_steps=200)
    for progress in steps:
        if progress.step is not None:
            break
    steps.close()
    assert torch.equal(weights(stopped.model), weights(first_model(learnt, TINY, 0).model))


def test_a_warm_fit_goes_on_after_a_crash_to_the_same_numbers(
    learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_stbn._fit_parts._SAVE_EVERY", 0.0)
    whole = warm(learnt).fit(MOVIE, training=FEW)
    steps = warm(learnt).fit_steps(MOVIE, training=FEW, checkpoint=tmp_path / "fit")
    for progress in steps:
        if progress.step is not None and progress.step.step == 9:
            break
    steps.close()
    rest = warm(learnt).fit(MOVIE, training=FEW, checkpoint=tmp_path / "fit")
    assert rest.history[0].step == 9  # the one that was not written yet is done again
    assert rest.history[-1].start_held_out == whole.history[-1].start_held_out
    assert torch.equal(weights(rest.model), weights(whole.model))


def test_where_there_are_no_weights_the_fit_begins_fresh_and_says_so() -> None:
    fitted = warm("pretrained").fit(MOVIE, max_steps=3)
    report = fitted.denoise(MOVIE).report
    assert report["start"] == "fresh"
    assert report["start_held_out_loss"] is None
    assert any("no pretrained weights" in note for note in report["notes"])
    fresh = warm("fresh").fit(MOVIE, max_steps=3)
    assert torch.equal(weights(fitted.model), weights(fresh.model))


def test_motion_is_estimated_on_the_prediction_of_the_start(learnt: Path, tmp_path: Path) -> None:
    """With the flow of the noisy frames out of it; a model that is loaded again does the same."""
    denoiser = Denoiser(device="cpu", network=TINY, precision="float32", start=learnt)
    result = denoiser.fit(MOVIE, training=FEW).denoise(MOVIE)
    assert result.report["refined_flow"]
    noisy = Denoiser(device="cpu", network=TINY, precision="float32").fit(MOVIE, training=FEW)
    other = noisy.denoise(MOVIE)
    assert not other.report["refined_flow"]
    # What is smooth moves smoothly: noise leads the flow astray.
    rough = [np.abs(np.diff(r.flow_to_next, axis=-1)).mean() for r in (result, other)]
    assert rough[0] < rough[1]
    again = Denoiser.load(denoiser.save(tmp_path / "warm.stbn"), device="cpu").denoise(MOVIE)
    assert again.report["refined_flow"]
    assert again.flow_to_next.shape == result.flow_to_next.shape


# ---------------------------------------------------------------- the weights of the package

shipped = pytest.mark.skipif(not WEIGHTS[0].exists(), reason="this build has no weights")


@shipped
def test_the_weights_are_those_of_all_presets_but_the_papers_and_small() -> None:
    for preset in ("preview", "balanced", "best"):
        model = pretrained_model(PRESETS[preset].network)
        assert model is not None
        assert model.config.width == PRESETS[preset].network.width
    assert pretrained_model(PRESETS["paper"].network) is None
    assert sum(path.stat().st_size for path in WEIGHTS) < 25e6


@shipped
@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_weights_denoise_a_movie_of_any_brightness_without_a_fit(weights: Path) -> None:
    for photons, gain in ((5.0, 2.0), (80.0, 5.0)):
        movie = simulate((8, 48, 48), photons=photons, gain=gain, seed=7)
        result = Denoiser.load(weights, device="cpu").denoise(movie.noisy, axes="TYX")
        noisy = ((movie.noisy - movie.clean) ** 2).mean()
        assert ((result.denoised - movie.clean) ** 2).mean() < 0.2 * noisy


@shipped
def test_a_fit_begins_with_the_weights_and_ends_no_worse() -> None:
    denoiser = Denoiser("preview", device="cpu", start="pretrained").fit(MOVIE, max_steps=3)
    report = denoiser.denoise(MOVIE).report
    assert report["start"] == "pretrained"
    assert not any("pretrained" in note for note in report["notes"])


def test_a_warm_fit_that_is_stopped_is_repeated(tmp_path: Path) -> None:
    """Stopped between two checks it is scored once more, as the repeated one is at its end."""
    movie = Stack(simulate((6, 32, 32), seed=4).noisy, "TYX")
    settings = RunSettings(preset="preview", device="cpu", start="pretrained", max_steps=200)
    stopped = settings.denoiser()
    steps = settings.fit_steps(stopped, movie)
    for progress in steps:
        if progress.step is not None and progress.step.step == 5:
            break
    steps.close()
    first = stopped.denoise(movie)
    again = settings.repeating(first.report)
    repeated = again.denoiser()
    for _ in again.fit_steps(repeated, movie):
        pass
    np.testing.assert_array_equal(repeated.denoise(movie).denoised, first.denoised)


def test_what_was_noted_of_the_noise_is_not_lost_when_motion_is_refined() -> None:
    rng = np.random.default_rng(0)
    clean = simulate((6, 32, 32), seed=4).clean.astype(float)
    noise = rng.normal(0, 20, clean.shape)
    movie = Stack(clean + noise + np.roll(noise, 1, -1) + np.roll(noise, 1, -2), "TYX")
    denoiser = Denoiser("preview", device="cpu").fit(movie, max_steps=2)
    result = denoiser.denoise(movie)
    assert result.report["refined_flow"]
    assert any("share noise" in note for note in result.report["notes"])
