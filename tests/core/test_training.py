"""Claims of the fit: repeatable, learns, keeps its limits, and is usable whenever it ends."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_stbn import Denoiser, _fit, _fit_movies, _fit_path, training
from napari_stbn._held_out import HeldOutScore
from napari_stbn.flow import Flow
from napari_stbn.network import STBN, STBNConfig
from napari_stbn.noise import PoissonGaussianNoise
from napari_stbn.precision import Precision
from napari_stbn.preparation import PreparedMovie, prepare_movie
from napari_stbn.prior import blind_loss
from napari_stbn.samples import simulate
from napari_stbn.stack import IntensityScaling
from napari_stbn.training import GivenUpError, TrainingConfig, TrainingStep, training_steps

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
WIDER = replace(TINY, width=8)
SHORT = TrainingConfig(max_steps=12, clip_frames=3, clip_size=12, patience=0)


@pytest.fixture(scope="module")
def movie() -> PreparedMovie:
    """Cells of 20 photons, with their true flow and noise."""
    made = simulate((8, 48, 48), kind="nuclei", seed=0)
    return prepare_movie(
        [made.noisy.astype(np.float32)],
        np.ones(made.noisy.shape, bool),
        [PoissonGaussianNoise(made.gain, made.offset, made.read_noise)],
        None,
        Flow(made.flow_to_previous, made.flow_to_next),
    )


def new_model(config: STBNConfig = TINY, seed: int = 0) -> STBN:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return STBN(config).place(torch.device("cpu"))


def scored(loss: float) -> HeldOutScore:
    """A score of two blocks with this loss."""
    return HeldOutScore(torch.full((2,), 8.0 * loss), torch.full((2,), 8.0), torch.full((2,), 8.0))


def fit(
    model: STBN,
    movie: PreparedMovie,
    config: TrainingConfig = SHORT,
    *,
    seed: int = 0,
    precision: Precision = "float32",
) -> list[TrainingStep]:
    generator = torch.Generator().manual_seed(seed)
    return list(training_steps(model, [movie], config, generator=generator, precision=precision))


def weights(model: STBN) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


# ---------------------------------------------------------------- repeatable


def test_a_seed_repeats_a_fit_to_the_last_bit(movie: PreparedMovie) -> None:
    models = [new_model(), new_model(), new_model()]
    one, two, other = (fit(m, movie, seed=s) for m, s in zip(models, (5, 5, 6), strict=True))
    assert [s.loss for s in one] == [s.loss for s in two]
    assert [s.held_out for s in one] == [s.held_out for s in two]
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert [s.loss for s in one] != [s.loss for s in other]


def test_nothing_but_the_generator_is_chance(movie: PreparedMovie) -> None:
    """Another program's random numbers neither change a fit nor are changed by it."""
    torch.manual_seed(1)
    one = fit(new_model(), movie)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two = fit(new_model(), movie)
    assert [s.loss for s in one] == [s.loss for s in two]
    assert torch.equal(torch.get_rng_state(), state)


GOLDEN = (6.980413, 1.139398)


def test_golden_losses() -> None:
    """First and twentieth loss of a fit whose weights and movie are cosines, not random numbers.

    The first is one forward pass in float32: 1e-4 leaves room for sums in another order. Twenty
    steps of Adam amplify a relative change of the weights of 1e-6 to about 1e-7 here: 1e-3 leaves
    room for other machines, and what is drawn, how it is turned and every rate show above it.
    """
    t, y, x = torch.meshgrid(*map(torch.arange, (6.0, 32.0, 32.0)), indexing="ij")
    pixel = torch.arange(6.0 * 32 * 32, dtype=torch.float64).view(6, 32, 32)
    frames = 130 + 25 * torch.cos(0.3 * x + t) * torch.cos(0.2 * y) + 8 * torch.cos(37.1 * pixel)
    still = np.zeros((5, 2, 32, 32), np.float32)
    movie = prepare_movie(
        [frames.float().numpy()],
        np.ones((6, 32, 32), bool),
        [PoissonGaussianNoise(2.0, 100.0, 1.6)],
        [IntensityScaling(6.0, 3.0)],
        Flow(still + 1, still - 1),
    )
    model = new_model()
    for n, parameter in enumerate(model.parameters()):
        numbers = torch.arange(parameter.numel(), dtype=torch.float64)
        fan = parameter[0].numel() if parameter.ndim > 1 else 400
        values = (torch.cos(1.3 * numbers + n) * math.sqrt(1 / fan)).view(parameter.shape)
        parameter.data.copy_(values)
    config = TrainingConfig(  # all of it: better defaults are to come and change nothing here
        max_steps=20,
        clip_frames=4,
        clip_size=16,
        batch=1,
        learning_rate=2e-3,
        decay_from=0.3,
        gradient_norm=1.0,
        averaging=0.05,
        beta=1.0,
        patience=0,
    )
    steps = fit(model, movie, config)
    assert steps[0].loss == pytest.approx(GOLDEN[0], rel=1e-4)
    assert steps[-1].loss == pytest.approx(GOLDEN[1], rel=1e-3)


# ---------------------------------------------------------------- learns


def test_the_blind_loss_falls(movie: PreparedMovie) -> None:
    config = TrainingConfig(max_steps=60, clip_frames=4, clip_size=24, learning_rate=5e-3)
    steps = fit(new_model(WIDER), movie, config)
    scores = [s.held_out for s in steps if s.held_out is not None]
    assert len(scores) >= 10
    # With the true mean a pixel costs half a nat; a flat guess cost a tenth more in this movie.
    assert scores[-1] < scores[0] - 0.07
    assert scores[-1] == pytest.approx(0.5, abs=0.1)
    assert steps[-1].skipped == 0


def test_bfloat16_learns_as_float32_does(movie: PreparedMovie) -> None:
    config = TrainingConfig(max_steps=25, clip_frames=3, clip_size=16, learning_rate=5e-3)
    one = fit(new_model(WIDER), movie, config)
    two = fit(new_model(WIDER), movie, config, precision="bfloat16")
    assert one[-1].held_out == pytest.approx(two[-1].held_out, abs=0.02)
    assert two[-1].skipped == 0


def test_mean_only_fit_learns_too(movie: PreparedMovie) -> None:
    plain = prepare_movie(
        [movie.intensities[:, 0].numpy()],
        movie.valid[:, 0].numpy(),
        [None],
        None,
        Flow(movie.flow_to_previous.numpy(), movie.flow_to_next.numpy()),
    )
    config = TrainingConfig(max_steps=40, clip_frames=4, clip_size=16, learning_rate=5e-3)
    steps = fit(new_model(replace(WIDER, covariance=False)), plain, config)
    scores = [s.held_out for s in steps if s.held_out is not None]
    assert scores[-1] < 0.85 * scores[0]


def test_learning_rate_rises_stays_and_falls(movie: PreparedMovie) -> None:
    config = TrainingConfig(
        max_steps=90, clip_frames=2, clip_size=8, decay_from=0.6, learning_rate=1e-3, patience=0
    )
    rates = np.array([s.learning_rate for s in fit(new_model(), movie, config)])
    assert rates[0] < 1e-4
    assert (np.diff(rates[:29]) > 0).all()
    assert rates[30:54] == pytest.approx(1e-3)
    assert (np.diff(rates[55:]) < 0).all()
    assert rates[-1] < 5e-5


# ---------------------------------------------------------------- limits


@pytest.mark.quiet
def test_time_budget_is_kept(movie: PreparedMovie) -> None:
    config = TrainingConfig(
        max_steps=training.UNLIMITED_STEPS, time_budget=0.8, clip_frames=3, clip_size=16, patience=0
    )
    started = time.perf_counter()
    steps = fit(new_model(), movie, config)
    assert 0.8 <= time.perf_counter() - started < 2.3
    assert steps[-1].fraction == 1
    assert steps[-1].remaining == 0
    assert len(steps) > 5


def test_pauses_do_not_count(movie: PreparedMovie) -> None:
    generator = torch.Generator().manual_seed(0)
    steps = training_steps(new_model(), [movie], SHORT, generator=generator)
    next(steps)
    time.sleep(0.3)
    assert next(steps).elapsed < 0.25
    steps.close()


def test_progress_counts_up_to_one(movie: PreparedMovie) -> None:
    steps = fit(new_model(), movie)
    assert [s.step for s in steps] == list(range(1, 13))
    fractions = [s.fraction for s in steps]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert steps[-1].held_out is not None, "the last weights are always measured"


def test_a_fit_winds_down_when_the_held_out_blocks_no_longer_gain(
    movie: PreparedMovie, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fit, "held_out_score", lambda *_: scored(1.0))
    config = TrainingConfig(max_steps=240, clip_frames=2, clip_size=8, patience=2)
    steps = fit(new_model(), movie, config)
    assert 30 <= len(steps) < 60  # two checks without gain, then 30 % more with a falling rate
    assert steps[-1].learning_rate < 0.2 * max(s.learning_rate for s in steps)
    assert steps[-1].fraction == 1


@pytest.mark.parametrize("gaining", [True, False])
def test_no_winding_down_while_gaining_or_when_not_asked(
    movie: PreparedMovie, monkeypatch: pytest.MonkeyPatch, gaining: bool
) -> None:
    scores = itertools.count(0, -1) if gaining else itertools.repeat(1.0)
    monkeypatch.setattr(_fit, "held_out_score", lambda *_: scored(next(scores)))
    patience = 1 if gaining else 0
    config = TrainingConfig(max_steps=100, clip_frames=2, clip_size=8, patience=patience)
    assert len(fit(new_model(), movie, config)) == 100


@pytest.mark.parametrize("warm", [True, False])
def test_learnt_weights_see_each_pixel_often_enough_and_no_more(
    movie: PreparedMovie, monkeypatch: pytest.MonkeyPatch, warm: bool
) -> None:
    monkeypatch.setattr(_fit_movies, "_PASSES", 3)
    config = TrainingConfig(
        max_steps=40, time_budget=60, clip_frames=2, clip_size=16, batch=3, patience=0
    )
    pixels = math.prod(movie.shape)
    steps = list(
        training_steps(
            new_model(), [movie], config, generator=torch.Generator().manual_seed(0), warm=warm
        )
    )
    enough = math.ceil(3 * pixels / (3 * 2 * 16 * 16))
    assert enough < 40
    assert len(steps) == (enough if warm else 40)
    assert steps[-1].fraction == 1
    assert not warm or steps[-1].learning_rate < 0.2 * max(s.learning_rate for s in steps)


@pytest.mark.parametrize(
    ("warm", "passes", "factor"),
    [(True, 1, 3.0), (True, 20, math.sqrt(2)), (True, 300, 1.0), (False, 1, 1.0)],
)
def test_a_fit_from_learnt_weights_with_few_passes_is_led_faster(
    movie: PreparedMovie, warm: bool, passes: int, factor: float
) -> None:
    frames, side, _ = movie.shape
    config = TrainingConfig(
        max_steps=passes * frames // 2, clip_frames=2, clip_size=side, batch=1, decay_from=1.0
    )
    generator = torch.Generator().manual_seed(0)
    step = next(training_steps(new_model(), [movie], config, generator=generator, warm=warm))
    rate = config.warm_learning_rate if warm else config.learning_rate
    assert step.learning_rate == pytest.approx(factor * rate / 30)


@pytest.mark.parametrize(
    ("before", "warm", "after"),
    [(24, True, 24), (24, False, 6), (4, True, 6), (None, True, 6)],
)
def test_learnt_weights_look_as_far_as_before(
    movie: PreparedMovie, before: int | None, warm: bool, after: int
) -> None:
    model = new_model()
    model.clip_frames = before
    config = TrainingConfig(max_steps=1, clip_frames=6, clip_size=16)
    generator = torch.Generator().manual_seed(0)
    list(training_steps(model, [movie], config, generator=generator, warm=warm))
    assert model.clip_frames == after


# ---------------------------------------------------------------- ends


def test_closing_early_leaves_the_average_of_the_weights_on_the_way(movie: PreparedMovie) -> None:
    model = new_model()
    config = TrainingConfig(
        max_steps=500, clip_frames=3, clip_size=16, averaging=0.5, learning_rate=0.02
    )
    generator = torch.Generator().manual_seed(0)
    steps = training_steps(model, [movie], config, generator=generator)
    visited = []
    for _ in range(8):
        next(steps)
        visited.append(weights(model))
    steps.close()
    final, all_visited = weights(model), torch.stack(visited)
    assert not torch.equal(final, visited[-1])
    assert (final >= all_visited.amin(0) - 1e-6).all()
    assert (final <= all_visited.amax(0) + 1e-6).all()
    assert (final - visited[-1]).norm() < (final - visited[0]).norm()
    with torch.no_grad():
        out = model(movie.inputs[None], movie.flow_to_previous[None], movie.flow_to_next[None])
    assert torch.isfinite(out).all()


def test_a_fit_that_is_given_up_ends_at_once(
    movie: PreparedMovie, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is worked out that nobody wants; the denoiser has the model that it had."""

    def refuse(*_: object) -> None:
        raise AssertionError("nobody wants it")

    model = new_model()
    config = TrainingConfig(max_steps=500, clip_frames=3, clip_size=16)
    steps = training_steps(model, [movie], config, generator=torch.Generator().manual_seed(0))
    next(steps)
    denoiser = Denoiser(network=model.config, flow="none", precision="float32", device="cpu")
    noisy = movie.intensities[:, 0].numpy()
    denoiser.fit(noisy, training=replace(config, max_steps=1))
    before, history = denoiser.model, denoiser.history
    again = denoiser.fit_steps(noisy, training=config)
    while next(again).step is None:
        pass
    monkeypatch.setattr(_fit.Fit, "close", refuse)
    for broken_off in (steps, again):
        with pytest.raises(GivenUpError):
            broken_off.throw(GivenUpError())
    assert denoiser.model is before
    assert denoiser.history is history


def spoil(monkeypatch: pytest.MonkeyPatch, calls: range) -> None:
    """Make the loss NaN in the calls with these numbers."""
    number, original = itertools.count(), blind_loss

    def spoilt(*arguments: Any, **options: Any) -> Tensor:
        loss = original(*arguments, **options)
        return loss * math.nan if next(number) in calls else loss

    monkeypatch.setattr(_fit_path, "blind_loss", spoilt)


def test_steps_without_finite_gradients_change_nothing(
    movie: PreparedMovie, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fit, "held_out_score", lambda *_: scored(1.0))
    spoil(monkeypatch, range(2, 5))
    model = new_model()
    steps = training_steps(model, [movie], SHORT, generator=torch.Generator().manual_seed(0))
    before, skipped = weights(model), []
    for number, step in enumerate(steps):
        if step.step == SHORT.max_steps:
            break
        after = weights(model)
        assert torch.equal(after, before) is (number in range(2, 5))
        before = after
        skipped.append(step.skipped)
    steps.close()
    assert skipped == [0, 0, 1, 2, 3, 3, 3, 3, 3, 3, 3]
    assert torch.isfinite(weights(model)).all()


def test_ten_such_steps_in_a_row_are_an_error(
    movie: PreparedMovie, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, range(1000))
    model = new_model()
    before = weights(model)
    with pytest.raises(
        FloatingPointError, match=r"ten steps in a row .* not finite, in float32 too"
    ):
        fit(model, movie)
    assert torch.equal(weights(model), before)


def test_what_cannot_be_fitted_is_said(movie: PreparedMovie) -> None:
    generator = torch.Generator()
    with pytest.raises(ValueError, match="there is no movie to fit to"):
        next(training_steps(new_model(), [], SHORT, generator=generator))
    model = new_model(STBNConfig(channels=2, width=4))
    with pytest.raises(ValueError, match="the model takes 2 channels, got a movie with 1"):
        next(training_steps(model, [movie], SHORT, generator=generator))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"max_steps": 0}, r"max_steps and batch must be at least 1, got 0 and \d"),
        ({"batch": 0}, r"max_steps and batch must be at least 1, got \d+ and 0"),
        ({"clip_frames": 1}, r"at least 2 frames of 8 x 8 pixels, got 1 frames of \d+"),
        ({"clip_size": 7}, r"at least 2 frames of 8 x 8 pixels, got \d+ frames of 7"),
        ({"time_budget": 0}, "time_budget must be more than 0 seconds and finite, got 0"),
        ({"time_budget": math.nan}, "time_budget must be more than 0 seconds and finite, got nan"),
    ],
)
def test_parameters_out_of_range_are_said(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        TrainingConfig(**change)
