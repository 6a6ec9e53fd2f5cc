"""Claims of `benchmarks/pretrain.py`: the objective of a fit, and a run that can be cut off."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from napari_stbn._model_file import read_model_file
from napari_stbn.flow.field import warp
from napari_stbn.network import STBN, STBNConfig
from napari_stbn.prior import blind_loss, network_input

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
        some = pool.validation_scenes
        patch.setattr(module, "validation_scenes", lambda first: islice(some(first), 2))
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


def whole(scenes: Path, number: int = 0) -> tuple[Any, Any]:
    """A scene and all of it as a batch."""
    pool = sys.modules["_pool"]
    scene = pool.load_or_make(pool.FIRST_TRAINING_SEED + number, scenes)
    return scene, sys.modules["_batches"].ScenePool([scene], torch.device("cpu")).whole()


def test_its_loss_is_the_mean_of_the_blind_loss_over_the_noise_of_the_pixels(
    pretrain: ModuleType, scenes: Path
) -> None:
    """Whatever the prior, with the noise as estimated, which is not quite the true one."""
    scene, batch = whole(scenes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = torch.rand(1, 6, 2, 32, 32)
        camera, clean = scene.camera, scene.clean
        light = (clean - camera.offset) / camera.gain
        losses = []
        for _ in range(400):
            electrons = torch.poisson(light) + camera.read_noise * torch.randn(light.shape)
            noisy = (camera.offset + camera.gain * electrons).round()[None]
            losses.append(blind_loss(prior, noisy, (scene.units,), torch.ones_like(noisy)))
    expected = float(pretrain.expected_loss(prior, batch))
    values = torch.stack(losses)
    assert expected == pytest.approx(float(values.mean()), abs=4 * float(values.std()) / 20)


def test_a_batch_holds_what_a_fit_would_give_the_network(scenes: Path) -> None:
    scene, batch = whole(scenes)
    frames = network_input(scene.units.to_network(scene.noisy), (scene.units,), TINY)
    torch.testing.assert_close(batch.inputs[0], frames)
    torch.testing.assert_close(batch.true_variance[0], scene.true_variance(scene.clean))


def test_clips_keep_their_motion_however_they_are_turned(scenes: Path) -> None:
    """A pattern that drifts is found where its flow says, in each of many clips."""
    scene, _ = whole(scenes)
    still = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    clean = torch.stack([1000 + 500 * still.roll((t, 2 * t), (1, 2)) for t in range(6)])
    back = torch.tensor([-2.0, -1.0])[:, None, None].expand(5, 2, 32, 32).half()
    drifting = replace(
        scene,
        clean=clean,
        flow_to_previous=back,
        flow_to_next=-back,
        clean_to_previous=back,
        clean_to_next=-back,
    )
    pool = sys.modules["_batches"].ScenePool([drifting], torch.device("cpu"))
    batch = pool.draw(160, 3, 16, torch.Generator().manual_seed(0))
    frames = batch.clean.unbind(1)
    for t in (1, 2):
        for here, there, flow in (
            (frames[t], frames[t - 1], batch.flow_to_previous[:, t - 1]),
            (frames[t - 1], frames[t], batch.flow_to_next[:, t - 1]),
        ):
            moved = warp(there, flow)
            torch.testing.assert_close(moved[..., 2:-2, 2:-2], here[..., 2:-2, 2:-2])
    directions = {tuple(map(int, flow[0, :, 0, 0])) for flow in batch.flow_to_previous}
    assert len(directions) == 8  # four turns, mirrored or not; backwards gives no new ones
    noise = (batch.inputs[:, :, :1].flatten(1).std(1), batch.clean.flatten(1).std(1))
    assert all(bool((spread > 0).all()) for spread in noise)


def test_every_movie_weighs_the_same_whatever_its_brightness(
    pretrain: ModuleType, scenes: Path
) -> None:
    """With `beta` the weights are divided by their mean."""
    _, batch = whole(scenes, 1)
    even = torch.full((1, 6, 2, 32, 32), 0.3)
    one, other = (pretrain.expected_loss(even, batch, b) for b in (0.0, 1.0))
    torch.testing.assert_close(one, other)


def test_the_score_of_the_width_is_lowest_at_the_error(pretrain: ModuleType, scenes: Path) -> None:
    scene, batch = whole(scenes, 1)
    units = scene.units
    mean = torch.full((1, 6, 1, 32, 32), 0.2)
    error = scene.clean - units.to_intensity(mean)[0]
    noise = units.noise.variance(units.to_intensity(mean)[0])
    right = float((error.square() / noise).mean().sqrt()) / units.scaling.scale
    width = torch.tensor(right, requires_grad=True)
    prior = torch.cat([mean, width.expand_as(mean)], 2)
    (slope,) = torch.autograd.grad(pretrain.width_loss(prior, batch), width)
    assert float(slope) * right == pytest.approx(0, abs=1e-3)
    wide = torch.tensor(2 * right, requires_grad=True)
    prior = torch.cat([mean, wide.expand_as(mean)], 2)
    (slope,) = torch.autograd.grad(pretrain.width_loss(prior, batch), wide)
    assert float(slope) > 0


def test_training_begins_while_scenes_are_still_made(
    pretrain: ModuleType, scenes: Path, tmp_path: Path
) -> None:
    pool = sys.modules["_pool"]
    seeds = [pool.FIRST_TRAINING_SEED + number for number in range(2)]
    for name in (f"scene_{seeds[0]}.npz",):
        (tmp_path / name).write_bytes((scenes / name).read_bytes())
    arriving = sys.modules["_scene_files"].Arriving(seeds, tmp_path)
    held = sys.modules["_batches"].ScenePool(arriving.first(1), torch.device("cpu"), 2)
    assert list(arriving.here()) == []
    late = tmp_path / f"scene_{seeds[1]}.npz"
    late.with_suffix(".part").write_bytes((scenes / late.name).read_bytes())
    late.with_suffix(".part").replace(late)
    held.add(arriving.first(1)[0])
    assert held.count == 2


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


def test_the_width_is_learnt_from_errors_and_nothing_else_changes(
    pretrain: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, generator = sys.modules["_pretrain_width"], torch.Generator().manual_seed(0)
    model = STBN.seeded(TINY, 0)
    with torch.no_grad():
        features = torch.rand(60_000, model.last.in_channels, generator=generator)
        scale = torch.full((60_000,), 5.0)
        true = torch.nn.functional.softplus(features @ torch.linspace(-0.8, 0.4, 4)) * scale
        error = true * torch.randn(60_000, generator=generator)
    pixels = module.Pixels(features, error, scale)
    monkeypatch.setattr(module, "gather", lambda *_: pixels)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, last = module.learn_width(model, [], 2000, lambda _: None, 0)
    assert last < first
    width = torch.nn.functional.softplus(features @ model.last.weight[1].flatten()) * scale
    assert float((width / true).log().abs().mean().detach()) < 0.05
    after = model.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == 1
    assert torch.equal(before[changed[0]][0], after[changed[0]][0]), "the mean's row"
