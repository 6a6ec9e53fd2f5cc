"""Claims of inference: pieces in time and space change memory and time, never the result."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_stbn import _inference_steps
from napari_stbn._inference_steps import shown_prior
from napari_stbn.flow import Flow
from napari_stbn.inference import (
    PATCH_ORIGINS,
    DenoisedWindow,
    InferencePlan,
    denoise_frames,
    plan_inference,
)
from napari_stbn.network import STBN, STBNConfig
from napari_stbn.network.frozen import FrozenSTBN
from napari_stbn.noise import PoissonGaussianNoise
from napari_stbn.preparation import PreparedMovie, prepare_movie
from napari_stbn.prior import network_input, posterior, prior_mean, prior_std
from napari_stbn.training import TrainingConfig


@pytest.fixture(autouse=True)
def _believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random networks are far off everywhere; single wrong pixels are the matter of test_doubt."""
    monkeypatch.setattr(_inference_steps, "doubt", lambda noisy, *_: torch.zeros_like(noisy))


TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
NOISE = PoissonGaussianNoise(2.0, 100.0, 1.6)


def random_movie(
    shape: tuple[int, int, int], channels: int = 1, reach: float = 12.0
) -> PreparedMovie:
    """Photon noise on a random scene, with flows as large and rough as `reach` [px]."""
    rng = np.random.default_rng(0)
    scene = 100 + 2 * rng.gamma(2.0, 5.0, (channels, *shape))
    noisy = [NOISE.simulate(channel, rng).astype(np.float32) for channel in scene]
    flows = rng.normal(0, reach, (2, shape[0] - 1, 2, *shape[1:])).astype(np.float32)
    noises = [NOISE] * channels
    return prepare_movie(noisy, np.ones(shape, bool), noises, None, Flow(flows[0], flows[1]))


def random_model(config: STBNConfig = TINY) -> STBN:
    """Weights large enough that every far influence shows in the result."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = STBN(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=0.3)
        last = model.head[-1]
        assert isinstance(last, nn.Conv2d)
        last.weight *= 5
        model.near.set(0.03 * torch.randn(model.near.weight.shape), model.near.noise)
    return model.place(torch.device("cpu")).eval()


def run(
    model: STBN,
    movie: PreparedMovie,
    window: int,
    tile: int,
    origins: Sequence[tuple[int, int]] = ((0, 0),),
) -> tuple[Tensor, Tensor, Tensor, list[float]]:
    """Mean, std and prior of the whole movie, and the progress on the way.

    By default of the network as it is, not averaged over the origins of its patches.
    """
    windows, progress = [], []
    plan = InferencePlan(window, tile, 0)
    for piece in denoise_frames(model, movie, plan, origins=origins):
        if isinstance(piece, DenoisedWindow):
            windows.append(piece)
        else:
            progress.append(piece)
    assert [w.start for w in windows] == list(range(0, movie.shape[0], window))
    stds = [w.std for w in windows if w.std is not None]
    assert len(stds) == len(windows)
    mean, std = torch.cat([w.mean for w in windows]), torch.cat(stds)
    return mean, std, torch.cat([w.prior for w in windows]), progress


@torch.no_grad()
def at_once(model: STBN, movie: PreparedMovie) -> tuple[Tensor, Tensor, Tensor]:
    """The same from one call of the network."""
    inputs = network_input(movie.inputs[None], movie.units, model.config)
    prior = model(inputs, movie.flow_to_previous[None], movie.flow_to_next[None])
    mean, _ = posterior(prior, movie.intensities[None], movie.units)
    shown = shown_prior(prior[0], model.config, movie.units)[None]
    _, std = posterior(shown, movie.intensities[None], movie.units)
    return mean[0], std[0], prior_mean(prior, movie.units)[0]


def worst(one: Tensor, other: Tensor, movie: PreparedMovie) -> float:
    """Largest difference in units of the noise's standard deviation."""
    noise = NOISE.variance(movie.intensities.clamp(min=100)).sqrt()
    return float(((one - other).abs() / noise).max())


@pytest.mark.parametrize("window", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("tile", [64, 32])
def test_windows_and_tiles_change_nothing(window: int, tile: int) -> None:
    """1e-3 of the noise is asked for; only rounding is there. No pixel is left out, the outermost
    neither, and the flows lead over every cut.
    """
    model, movie = random_model(), random_movie((7, 61, 53))
    mean, std, prior, _ = run(model, movie, window, tile)
    for one, other in zip((mean, std, prior), at_once(model, movie), strict=True):
        assert one.shape == (7, 1, 61, 53)
        assert worst(one, other, movie) < 1e-4


def test_the_shown_width_keeps_nothing_of_two_pixels_period() -> None:
    """Columns, rows and a checkerboard that come and go vanish; a mean, and a slope, stay."""
    units = random_movie((2, 8, 8)).units
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(10.0), indexing="ij")
    slope = 3 + 0.2 * y + 0.1 * x
    for pattern in ((-1) ** x, (-1) ** y, (-1) ** (x + y)):
        prior = torch.stack([pattern, slope + 0.5 * pattern])[None]
        shown = shown_prior(prior, TINY, units)
        assert torch.equal(shown[:, 0], prior[:, 0])
        inside = (0, 1, slice(1, -1), slice(1, -1))
        torch.testing.assert_close(shown[inside], slope[1:-1, 1:-1], rtol=1e-4, atol=0)
    assert torch.equal(shown_prior(prior, replace(TINY, positive_factor=False), units), prior)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_no_shown_width_is_below_a_share_of_the_noise(channels: int) -> None:
    """Also of several channels, each with a scale of its own, and of widths that are nothing."""
    units = random_movie((2, 8, 8), channels).units
    units = tuple(
        replace(u, scaling=replace(u.scaling, scale=0.5 + i)) for i, u in enumerate(units)
    )
    config = replace(TINY, channels=channels)
    shown = shown_prior(torch.zeros(1, config.outputs, 8, 8), config, units)[:, None]
    for i, unit in enumerate(units):
        assert unit.noise is not None
        noise = unit.noise.variance(prior_mean(shown, units)[0, 0, i]).sqrt()
        std = prior_std(shown, units)[0, 0, i]
        torch.testing.assert_close(std, 0.02 * noise, rtol=1e-3, atol=0)


def test_a_network_that_is_told_the_noise_gives_the_same_in_tiles() -> None:
    config = replace(TINY, noise_input=True)
    model, movie = random_model(config), random_movie((5, 61, 53))
    with torch.no_grad():
        for block in model.align.values():  # a fit starts from zero there
            nn.init.normal_(block.inlet.weight[:, 1:3])  # type: ignore[union-attr,index]
    for one, other in zip(run(model, movie, 2, 32)[:3], at_once(model, movie), strict=True):
        assert worst(one, other, movie) < 1e-4
    louder = tuple(replace(u, scaling=replace(u.scaling, scale=0.3)) for u in movie.units)
    told = at_once(model, replace(movie, units=louder))[1]
    assert not torch.allclose(told, at_once(model, movie)[1])


def test_averaged_over_origins_windows_and_tiles_change_nothing_either() -> None:
    model, movie = random_model(), random_movie((5, 61, 53))
    expected = run(model, movie, 8, 64, PATCH_ORIGINS)[:3]
    for window, tile in ((2, 64), (8, 32), (2, 32)):
        for one, other in zip(
            run(model, movie, window, tile, PATCH_ORIGINS), expected, strict=False
        ):
            assert worst(one, other, movie) < 1e-4  # type: ignore[arg-type]


def test_averaging_cancels_the_pattern_of_the_patches() -> None:
    """What is seen alike is predicted alike: without it, the patches show with period 4."""
    model, movie = random_model(), random_movie((2, 96, 96))
    flat = replace(
        movie,
        inputs=torch.ones_like(movie.inputs),
        flow_to_previous=torch.zeros_like(movie.flow_to_previous),
        flow_to_next=torch.zeros_like(movie.flow_to_next),
    )
    spread = []
    for origins in (((0, 0),), PATCH_ORIGINS):
        *_, prior, _ = run(model, flat, 2, 96, origins)
        spread.append(float(prior[0, 0, 42:54, 42:54].std()))  # far from the borders
    assert spread[0] > 0.01
    assert spread[1] < 1e-4


@pytest.mark.parametrize("pixel", [(0, 0), (7, 12), (23, 21)])
def test_the_prior_is_blind_also_through_tiles_and_averaging(pixel: tuple[int, int]) -> None:
    """The pixel moves by a thousand photons, its own prior by no bit (float64, flow held)."""
    movie = random_movie((3, 40, 36))
    y, x = pixel
    priors = []
    for by in (0.0, 1e3):
        inputs = movie.inputs.double()
        inputs[1, 0, y, x] += by
        changed = replace(movie, inputs=inputs, intensities=movie.intensities.double())
        priors.append(run(random_model().double(), changed, 2, 32, PATCH_ORIGINS)[2])
    assert torch.equal(priors[0][1, 0, y, x], priors[1][1, 0, y, x])
    assert (priors[0] != priors[1]).any()


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (replace(TINY, alignment_blocks=2, expansion_groups=2, head_blocks=2), (3, 70, 101)),
        (replace(TINY, fusion_blocks=3, expansion_blocks=2), (2, 33, 97)),
        (replace(TINY, channels=2), (3, 66, 34)),
    ],
)
def test_the_reach_of_every_depth_is_known(config: STBNConfig, shape: tuple[int, int, int]) -> None:
    """A halo that is too narrow for a deeper network would show at the tiles' edges."""
    model, movie = random_model(config), random_movie(shape, config.channels)
    mean, std, prior, _ = run(model, movie, 2, 32)
    for one, other in zip((mean, std, prior), at_once(model, movie), strict=True):
        assert worst(one, other, movie) < 1e-4


def test_the_halo_is_not_wider_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With half the reach the cuts do show, so the test above can fail."""
    monkeypatch.setattr("napari_stbn._inference_steps.head_radius", lambda _: 8)
    model, movie = random_model(), random_movie((2, 64, 97))
    mean, *_ = run(model, movie, 2, 32)
    assert worst(mean, at_once(model, movie)[0], movie) > 1e-4


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 9, 40), (3, 8, 13)])
def test_the_smallest_movies(shape: tuple[int, int, int]) -> None:
    model, movie = random_model(), random_movie(shape)
    plan = plan_inference(model, movie.shape, 10**9)
    mean, *_ = run(model, movie, plan.window, plan.tile)
    assert worst(mean, at_once(model, movie)[0], movie) < 1e-4


@pytest.mark.parametrize(("window", "tile"), [(64, 64), (2, 64), (2, 32)])
def test_progress_comes_often_and_only_grows(window: int, tile: int) -> None:
    _, _, _, progress = run(random_model(), random_movie((6, 40, 40)), window, tile)
    assert len(progress) >= 6
    assert progress == sorted(progress)
    assert progress[0] < 0.3
    assert progress[-1] == pytest.approx(1)
    assert max(np.diff(progress)) < 0.35


def test_unmeasured_pixels_get_the_prior() -> None:
    model, movie = random_model(), random_movie((3, 16, 16))
    movie.valid[1, 0, 4:7, 5] = False
    mean, _, prior, _ = run(model, movie, 8, 64)
    unmeasured = ~movie.valid.expand_as(mean)
    assert torch.equal(mean[unmeasured], prior[unmeasured])
    assert not torch.equal(mean[~unmeasured], prior[~unmeasured])


def test_without_covariance_there_is_no_uncertainty() -> None:
    model, movie = random_model(replace(TINY, covariance=False)), random_movie((3, 16, 16))
    for piece in denoise_frames(model, movie, InferencePlan(2, 64, 0)):
        if isinstance(piece, DenoisedWindow):
            assert piece.std is None
            assert torch.equal(piece.mean, piece.prior)


# ---------------------------------------------------------------- memory


def runs_out(limit: int, error: RuntimeError) -> Callable[..., Tensor]:
    """`FrozenSTBN.predict` on a device too small for more than `limit` pixels."""
    original = FrozenSTBN.predict

    def predict(self: FrozenSTBN, past: Tensor, future: Tensor, origin: tuple[int, int]) -> Tensor:
        if past.shape[-1] * past.shape[-2] > limit:
            raise error
        return original(self, past, future, origin)

    return predict


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_goes_on_in_smaller_tiles(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: RuntimeError
) -> None:
    model, movie = random_model(), random_movie((3, 130, 70))
    expected, *_ = at_once(model, movie)
    monkeypatch.setattr(FrozenSTBN, "predict", runs_out(110 * 70, error))
    with caplog.at_level(logging.WARNING):
        mean, *_ = run(model, movie, 2, 132)
    assert worst(mean, expected, movie) < 1e-4
    assert "out of memory on cpu; going on with tiles of 68 pixels" in caplog.text


def test_out_of_memory_in_the_smallest_tile_and_other_errors_are_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, movie = random_model(), random_movie((2, 40, 40))
    for error in (torch.OutOfMemoryError("no more"), RuntimeError("a bug")):
        monkeypatch.setattr(FrozenSTBN, "predict", runs_out(0, error))
        with pytest.raises(type(error), match=str(error)):
            run(model, movie, 2, 40)
        monkeypatch.undo()


def test_less_memory_never_plans_for_more() -> None:
    model, shape = random_model(), (100, 512, 700)
    plans = []
    for exponent in np.linspace(12, 7.6, 60):
        try:
            plans.append(plan_inference(model, shape, int(10**exponent)))
        except MemoryError:
            break
        assert plans[-1].bytes <= 10**exponent
        assert plans[-1].tile % 4 == 0
    assert (plans[0].window, plans[0].tile) == (64, 700)
    assert len({(p.window, p.tile) for p in plans}) > 5
    for more, less in itertools.pairwise(plans):
        assert less.bytes <= more.bytes
        assert less.tile <= more.tile


def test_half_the_bytes_in_bfloat16_and_more_for_a_wider_network() -> None:
    shape = (10, 256, 256)
    small, wide = random_model(), random_model(replace(TINY, width=16))
    plans = [
        plan_inference(small, shape, 10**12, "bfloat16"),
        plan_inference(small, shape, 10**12),
        plan_inference(wide, shape, 10**12),
    ]
    assert plans[0].bytes < plans[1].bytes < plans[2].bytes


def test_too_little_memory_is_said() -> None:
    with pytest.raises(
        MemoryError,
        match=r"frames of 2048 x 2048 needs \d\.\d GB, \d+ MB are free; .* crop the movie",
    ):
        plan_inference(random_model(), (100, 2048, 2048), 10**6)


def test_a_plan_keeps_its_promise_of_memory() -> None:
    """States at the starts of windows grow with the movie: windows then grow, too, or memory."""
    model = random_model()
    long = plan_inference(model, (20_000, 128, 128), 2 * 10**9)
    kept = math.ceil(20_000 / long.window) * 4 * 128 * 128 * 4
    assert kept <= long.bytes <= 2 * 10**9


# ---------------------------------------------------------------- clips


def cut(movie: PreparedMovie, first: int, last: int) -> PreparedMovie:
    """Frames from `first` to `last` - 1 as a movie of their own."""
    frames, pairs = slice(first, last), slice(first, last - 1)
    return replace(
        movie,
        intensities=movie.intensities[frames],
        inputs=movie.inputs[frames],
        valid=movie.valid[frames],
        flow_to_previous=movie.flow_to_previous[pairs],
        flow_to_next=movie.flow_to_next[pairs],
    )


@pytest.mark.parametrize("frames", [2, 7, 8, 9, 12, 19])
def test_every_block_is_denoised_from_the_clip_around_it(frames: int) -> None:
    model, movie = random_model(), random_movie((frames, 20, 24))
    model.clip_frames = 8
    plan = plan_inference(model, movie.shape, 10**9)
    assert plan.clip_frames == 8
    yielded = list(denoise_frames(model, movie, plan, origins=[(0, 0)]))
    pieces = [p for p in yielded if isinstance(p, DenoisedWindow)]
    progress = [p.fraction if isinstance(p, DenoisedWindow) else p for p in yielded]
    assert progress == sorted(progress)
    assert progress[-1] == 1  # fmt: skip
    assert torch.cat([torch.arange(p.start, p.start + len(p.mean)) for p in pieces]).tolist() == [
        *range(frames)
    ]
    got = torch.cat([p.mean for p in pieces])
    for start in range(0, frames, 4):
        first = min(max(0, start - 2), max(0, frames - 8))
        clip = cut(movie, first, min(frames, first + 8))
        expected, *_ = at_once(model, clip)
        block = slice(start, min(start + 4, frames))
        kept = expected[start - first :][: block.stop - start]
        assert worst(got[block], kept, cut(movie, block.start, block.stop)) < 1e-4


def test_memory_does_not_grow_with_the_frames_of_a_movie() -> None:
    model = random_model()
    model.clip_frames = 8
    short, long = (plan_inference(model, (t, 256, 256), 10**9) for t in (20, 20_000))
    assert short == long


def test_a_fit_says_how_far_its_model_looks(tmp_path: Path) -> None:
    from napari_stbn import Denoiser, simulate

    noisy = simulate((10, 24, 24), seed=0).noisy
    training = TrainingConfig(max_steps=1, clip_frames=5, clip_size=16)
    denoiser = Denoiser("preview", device="cpu", start="fresh").fit(noisy, training=training)
    path = denoiser.save(tmp_path / "model.stbn")
    loaded = Denoiser.load(path, device="cpu")
    assert loaded.model is not None
    assert loaded.model.clip_frames == 5
    assert np.array_equal(loaded.denoise(noisy).denoised, denoiser.denoise(noisy).denoised)


@pytest.mark.slow
def test_long_still_movies_do_not_blow_up() -> None:
    """The recurrence of a fit to a still scene amplifies: beyond its clips it once went to 1e26."""
    from napari_stbn import Denoiser, simulate

    made = simulate((2, 64, 64), kind="nuclei", seed=1)
    clean = np.repeat(made.clean[:1], 96, 0)
    chance = np.random.default_rng(0)
    photons = chance.poisson((clean - made.offset) / made.gain)
    noisy = made.offset + made.gain * (photons + chance.normal(0, made.read_noise, clean.shape))
    denoised = Denoiser("preview", device="cpu").fit(noisy, max_steps=400).denoise(noisy).denoised
    error = ((denoised - clean) ** 2).mean((1, 2)) / ((noisy - clean) ** 2).mean()
    assert error.max() < 0.05
    assert error[40:60].mean() < 1.5 * error[:8].mean()
