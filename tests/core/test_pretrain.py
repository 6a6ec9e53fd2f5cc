"""Claims of `benchmarks/pretrain.py`: the objective of a fit, and a run that can be cut off."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from napari_stbn._model_file import read_model_file
from napari_stbn.network import STBN, STBNConfig
from napari_stbn.prior import blind_loss

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = STBNConfig(
    width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1, noise_input=True
)


@pytest.fixture(scope="module")
def pretrain() -> Iterator[ModuleType]:
    """The script as a module, its tiny scenes instead of the large ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("pretrain", BENCHMARKS / "pretrain.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        pool = sys.modules["_pool"]
        patch.setattr(pool.make_scene, "__defaults__", ((6, 32, 32), None))
        patch.setattr(module, "SIZES", {"small": TINY})
        patch.setattr(module, "STAGES", ((0.0, 2, 4, 16), (0.7, 1, 6, 24)))
        yield module


@pytest.fixture(scope="module")
def scenes(pretrain: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    pool = sys.modules["_pool"]
    for number in range(2):
        pool.load_or_make(pool.FIRST_TRAINING_SEED + number, folder, None)
    return folder


def train(pretrain: ModuleType, folder: Path, *options: str) -> dict[str, torch.Tensor]:
    """Weights after twelve steps in all."""
    output = folder / "weights.stbn"
    arguments = ["--scenes", "2", "--validate-every", "0", "--precision", "float32"]
    arguments += ["--cache", str(folder), "--output", str(output), "--steps", "12", *options]
    arguments += ["--width-scenes", "1", "--width-steps", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pretrain.py", *arguments])
        pretrain.main()
    return dict(read_model_file(output).weights)


def test_training_that_was_cut_off_goes_on_to_the_same_numbers(
    pretrain: ModuleType, scenes: Path
) -> None:
    whole = train(pretrain, scenes)
    (scenes / "state_small_0.stbn").unlink()
    partly = train(pretrain, scenes, "--stop-after", "7")
    rest = train(pretrain, scenes)
    assert all(torch.equal(whole[name], rest[name]) for name in whole)
    assert any(not torch.equal(whole[name], partly[name]) for name in whole)
    assert all(value.dtype == torch.float16 for value in whole.values())


def test_its_loss_is_the_mean_of_the_blind_loss_over_the_noise_of_the_pixels(
    pretrain: ModuleType, scenes: Path
) -> None:
    """Whatever the prior, with the noise as estimated, which is not quite the true one."""
    pool = sys.modules["_pool"]
    scene = pool.load_or_make(pool.FIRST_TRAINING_SEED, scenes)
    sample = pool.draw_sample([scene], 4, 16, torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = torch.rand(1, 4, 2, 16, 16)
        camera, clean = scene.camera, sample.clean
        light = (clean - camera.offset) / camera.gain
        losses = []
        for _ in range(400):
            electrons = torch.poisson(light) + camera.read_noise * torch.randn(light.shape)
            noisy = (camera.offset + camera.gain * electrons).round()[None]
            losses.append(blind_loss(prior, noisy, (scene.units,), torch.ones_like(noisy)))
    expected = float(pretrain.expected_loss(prior, sample))
    values = torch.stack(losses)
    assert expected == pytest.approx(float(values.mean()), abs=4 * float(values.std()) / 20)


def test_crops_run_backwards_have_their_flows_exchanged(pretrain: ModuleType, scenes: Path) -> None:
    """The reversed crop's flow to the previous frame leads to what follows in the original."""
    pool = sys.modules["_pool"]
    scene = pool.load_or_make(pool.FIRST_TRAINING_SEED, scenes)
    sample = pool.draw_sample([scene], 5, 16, torch.Generator().manual_seed(1))
    back = pool.reversed_in_time(sample)
    for t in range(4):
        # Frame t + 1 of the reversed crop is frame 3 - t of the original, whose successor is 4 - t.
        assert torch.equal(back.flow_to_previous[t], sample.flow_to_next[3 - t])
        assert torch.equal(back.clean[t], sample.clean[4 - t])
    again = pool.reversed_in_time(back)
    assert torch.equal(again.flow_to_next, sample.flow_to_next)


def test_every_movie_weighs_the_same_whatever_its_brightness(
    pretrain: ModuleType, scenes: Path
) -> None:
    """With `beta` the weights are divided by their mean."""
    pool = sys.modules["_pool"]
    scene = pool.load_or_make(pool.FIRST_TRAINING_SEED + 1, scenes)
    sample = pool.draw_sample([scene], 4, 16, torch.Generator().manual_seed(0))
    even = torch.full((1, 4, 2, 16, 16), 0.3)
    one, other = (pretrain.expected_loss(even, sample, beta=b) for b in (0.0, 1.0))
    torch.testing.assert_close(one, other)


def test_the_score_of_the_width_is_lowest_at_the_error(pretrain: ModuleType, scenes: Path) -> None:
    pool = sys.modules["_pool"]
    scene = pool.load_or_make(pool.FIRST_TRAINING_SEED + 1, scenes)
    sample = pool.draw_sample([scene], 4, 16, torch.Generator().manual_seed(0))
    units = scene.units
    mean = torch.full((1, 4, 1, 16, 16), 0.2)
    error = sample.clean - units.to_intensity(mean)[0]
    noise = units.noise.variance(units.to_intensity(mean)[0])
    right = float((error.square() / noise).mean().sqrt()) / units.scaling.scale
    width = torch.tensor(right, requires_grad=True)
    prior = torch.cat([mean, width.expand_as(mean)], 2)
    (slope,) = torch.autograd.grad(pretrain.width_loss(prior, sample), width)
    assert float(slope) * right == pytest.approx(0, abs=1e-3)
    wide = torch.tensor(2 * right, requires_grad=True)
    prior = torch.cat([mean, wide.expand_as(mean)], 2)
    (slope,) = torch.autograd.grad(pretrain.width_loss(prior, sample), wide)
    assert float(slope) > 0


@pytest.mark.parametrize(
    "size",
    [
        {"width": 6},
        {"head_blocks": 3, "fusion_blocks": 2},
        {"width": 10, "alignment_blocks": 2, "expansion_blocks": 3},
    ],
    ids=str,
)
def test_a_larger_network_begins_where_the_smaller_one_is(
    pretrain: ModuleType, size: dict[str, Any]
) -> None:
    """The same output, and no weight that gets no gradient for ever."""
    small = STBN.seeded(TINY, 0)
    config = replace(TINY, **size)
    large = pretrain.widened(small, config, seed=1)
    frames = torch.randn(1, 4, TINY.inputs, 16, 20)
    flow = torch.randn(2, 1, 3, 2, 16, 20)
    torch.testing.assert_close(large(frames, *flow), small(frames, *flow))

    optimizer = torch.optim.SGD(large.parameters(), lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        large(frames, *flow).square().mean().backward()
        optimizer.step()
    fresh = pretrain.widened(small, config, seed=1)
    for (name, weight), before in zip(large.named_parameters(), fresh.parameters(), strict=True):
        assert not torch.equal(weight, before), name

    with pytest.raises(ValueError, match="must hold"):
        pretrain.widened(large, TINY, seed=1)
