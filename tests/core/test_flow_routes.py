"""Which flow a first prediction goes along: judged by pixels that nobody saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from napari_stbn import Denoiser, PoissonGaussianNoise, Stack, _flow_routes
from napari_stbn._flow_routes import choice_pixels, choose_route, with_flow
from napari_stbn._generators import last
from napari_stbn._hidden_pixels import hide_pixels
from napari_stbn._lazy import MovieView
from napari_stbn._lazy_movie import LazyMovie
from napari_stbn._refinement import refine_flow
from napari_stbn._saved_model import SavedModel
from napari_stbn._start import pretrained_model
from napari_stbn.flow import (
    Comparison,
    Flow,
    RouteChoice,
    estimate_flow,
    route_flow,
    steady_flow,
    steady_pairs,
    still_flow,
)
from napari_stbn.network import STBN, STBNConfig
from napari_stbn.precision import choose_precision
from napari_stbn.preparation import PreparedMovie, PreparedStack, prepare_stack
from napari_stbn.samples import SimulatedMovie
from napari_stbn.samples.motion import simulate_motion


def movie(motion: str, speed: float, photons: float, frames: int = 6) -> SimulatedMovie:
    return simulate_motion(
        (frames, 72, 80), structure="mixed", motion=motion, speed=speed, photons=photons, seed=4
    )


def prepared(simulated: SimulatedMovie) -> PreparedStack:
    noise = PoissonGaussianNoise(simulated.gain, simulated.offset, simulated.read_noise)
    return last(
        prepare_stack(
            Stack(simulated.noisy, axes="TYX"),
            joint=False,
            noise=noise,
            flow="none",
            known_noise={},
            known_scaling={},
        )
    )


def start() -> STBN:
    model = pretrained_model(STBNConfig())
    assert model is not None
    return model.eval()


def errors(flow: Flow, true: Flow) -> float:
    return float(
        np.mean([np.hypot(*(a - b).swapaxes(0, 1)).mean() for a, b in zip(flow, true, strict=True)])
    )


def test_a_mean_along_the_way_lowers_the_error_of_even_motion() -> None:
    simulated = movie("translation", 3, 5)
    true = Flow(simulated.flow_to_previous, simulated.flow_to_next)
    noisy = estimate_flow(simulated.noisy, "dis")
    assert errors(steady_flow(noisy, 2), true) < 0.8 * errors(noisy, true)
    assert errors(steady_flow(true, 2), true) < 1e-5  # what is right stays


def test_a_mean_follows_the_matter_not_the_place() -> None:
    """A shear: what is at a place later had another speed, what moves there keeps its own."""
    simulated = movie("rotation", 4, 100)
    true = Flow(simulated.flow_to_previous, simulated.flow_to_next)
    inner = [d[:, :, 12:-12, 12:-12] for d in true]
    kept = [d[:, :, 12:-12, 12:-12] for d in steady_flow(true)]
    at_place = [np.stack([d[max(0, t - 1) : t + 2].mean(0) for t in range(len(d))]) for d in inner]
    assert errors(Flow(*kept), Flow(*inner)) < 0.5 * errors(Flow(*at_place), Flow(*inner))


def test_time_reversed_means_are_the_reverse() -> None:
    rng = np.random.default_rng(0)
    flow = Flow(*(rng.normal(size=(5, 2, 12, 14)).astype(np.float32) for _ in range(2)))
    back = Flow(flow.to_next[::-1], flow.to_previous[::-1])
    mean, reverse = steady_flow(flow, 2), steady_flow(back, 2)
    np.testing.assert_allclose(reverse.to_previous[::-1], mean.to_next, atol=1e-6)
    streamed = list(steady_pairs(zip(*flow, strict=True), 2))
    np.testing.assert_array_equal([pair[1] for pair in streamed], mean.to_next)
    single = Flow(flow.to_previous[:1], flow.to_next[:1])
    np.testing.assert_array_equal(steady_flow(single).to_next, single.to_next)


@pytest.mark.parametrize(
    ("motion", "speed", "routes"),
    [("static", 0, {"still"}), ("translation", 5, {"steady", "noisy"})],
)
def test_the_route_that_predicts_best_is_taken(motion: str, speed: float, routes: set[str]) -> None:
    """And it is worth it: the fast movie is lost along no motion, the still one along noise."""
    simulated = movie(motion, speed, 20)
    ready, model = prepared(simulated), start()
    for _ in refine_flow(model, ready, "dis"):
        pass
    choice = ready.routes[0, 0]
    assert choice.route in routes
    assert choice.to_dict()["sentence"].startswith("Motion was ")
    found = ready.movies[0, 0].flow_to_next.numpy()
    if motion == "static":
        assert np.abs(found).mean() < 0.1
        assert np.abs(found).max() < 1
    else:
        assert choice.gains[choice.route].sigmas > 1
        missed = np.hypot(*(found - simulated.flow_to_next).swapaxes(0, 1))
        assert missed[simulated.photons[:-1] > 2].mean() < 0.6


def test_a_stream_is_judged_by_the_same_pixels() -> None:
    simulated = movie("translation", 4, 20)
    ready, model = prepared(simulated), start()
    units = ready.movies[0, 0].units
    lazy = LazyMovie([MovieView(ready.stack, 0, 0)], units, 10**6)
    for _ in lazy.scan():
        pass
    whole = last(choose_route(model, [ready.movies[0, 0]], "blend", "dis"))
    assert last(choose_route(model, [lazy], "blend", "dis")) == whole


def test_hidden_pixels_of_trials_differ() -> None:
    ready: PreparedMovie = prepared(movie("static", 0, 20)).movies[0, 0]
    first, second = (hide_pixels(ready, seed)[0] for seed in (0, 1))
    assert (first.rows != second.rows).any()


def test_what_the_choice_costs_does_not_grow_with_the_movie() -> None:
    small, large = 12 * 96 * 96, 200 * 256 * 256
    assert choice_pixels(large) == choice_pixels(2 * large) <= 5 * 2**18
    assert choice_pixels(small) <= choice_pixels(large)


def test_flows_of_routes() -> None:
    rng = np.random.default_rng(0)
    noisy = Flow(*(rng.normal(size=(3, 2, 8, 8)).astype(np.float32) for _ in range(2)))
    assert route_flow("noisy", noisy) is noisy
    still = route_flow("still", noisy)
    assert still.to_next.shape == noisy.to_next.shape
    assert not still.to_next.any()
    ready = prepared(movie("static", 0, 20, frames=3)).movies[0, 0]
    assert not with_flow(ready, still_flow(2, 72, 80)).flow_to_previous.any()
    gains = {
        "still": Comparison(0.0, 0.0),
        "steady": Comparison(0.1, 3.0),
        "noisy": Comparison(0.05, 2.0),
    }
    even = RouteChoice("steady", gains, again=False)  # type: ignore[arg-type]
    assert "taken from the mean over time" in even.sentence
    np.testing.assert_array_equal(even.improved(noisy).to_next, steady_flow(noisy).to_next)


def test_a_movie_is_judged_once_in_the_life_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Choosing takes several predictions: not again for the result, nor for a loaded model."""
    simulated = movie("static", 0, 20)
    fitted = Denoiser("preview", device="cpu").fit(simulated.noisy, axes="TYX", max_steps=1)
    fitted.save(tmp_path / "model.stbn")
    loaded = Denoiser.load(tmp_path / "model.stbn", device="cpu")

    def judge(*_: object) -> None:
        raise AssertionError("judged anew")

    monkeypatch.setattr(_flow_routes, "_choose", judge)
    first, second = (d.denoise(simulated.noisy, axes="TYX") for d in (fitted, loaded))
    np.testing.assert_array_equal(first.denoised, second.denoised)
    assert first.report["flow_route"] == second.report["flow_route"]
    assert first.report["flow_route"]["0,0"]["route"] == "still"
    with pytest.raises(AssertionError, match="judged anew"):
        loaded.denoise(simulated.noisy[:, ::-1], axes="TYX")  # another movie


def test_motion_is_that_of_the_start(tmp_path: Path) -> None:
    """A fitted model has learnt noise by heart; flow between its frames would follow that."""
    simulated, first = movie("translation", 2, 20), start()
    noise = PoissonGaussianNoise(simulated.gain, simulated.offset, simulated.read_noise)
    fitted = Denoiser("preview", device="cpu", turns=1, noise=noise)
    fitted.fit(simulated.noisy, axes="TYX", max_steps=8)
    found = fitted.denoise(simulated.noisy, axes="TYX").flow_to_next
    assert found.any()
    ready = prepared(simulated)
    last(refine_flow(first, ready, "dis", choose_precision(first.config, torch.device("cpu"))))
    np.testing.assert_array_equal(ready.movies[0, 0].flow_to_next.numpy(), found.squeeze())
    # So it is from the file, and where a fit goes on from there.
    path = fitted.save(tmp_path / "model.stbn")
    on = Denoiser("preview", device="cpu", turns=1, noise=noise, start=path)
    on.fit(simulated.noisy, axes="TYX", max_steps=2)
    kept, again = (SavedModel.read(p) for p in (path, on.save(tmp_path / "again.stbn")))
    for saved in (kept, again):
        assert saved.flow_model is not None
        assert saved.flow_model.clip_frames == first.clip_frames
        for name, weight in first.state_dict().items():
            torch.testing.assert_close(saved.flow_model.state_dict()[name], weight)
    assert not torch.equal(kept.model.last.weight, first.last.weight)


def test_a_choice_from_a_file_is_checked() -> None:
    gains = dict.fromkeys(("still", "steady", "noisy"), Comparison(0.0, 0.0))
    choice = RouteChoice("noisy", gains, again=False)  # type: ignore[arg-type]
    assert RouteChoice.from_dict(choice.to_dict()) == choice
    with pytest.raises(ValueError, match="no route 'sideways'"):
        RouteChoice.from_dict({**choice.to_dict(), "route": "sideways"})
