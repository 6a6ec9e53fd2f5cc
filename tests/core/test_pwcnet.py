"""Claims of PWC-Net, of reading a user's checkpoint, and of distillation."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from napari_stbn._generators import last
from napari_stbn.flow import Flow, estimate_flow
from napari_stbn.flow.distillation import (
    Distillation,
    DistillationConfig,
    distillation_loss,
)
from napari_stbn.flow.published import LICENCE_NOTICE, load_published
from napari_stbn.flow.pwcnet import PWCNet, PWCNetConfig, correlation, sample
from napari_stbn.flow.student import brightness, normalise, student_flow
from napari_stbn.samples.motion import simulate_motion

SMALL = PWCNetConfig(channels=1, pyramid=(4, 6, 8), search=2, decoder=(8, 4), context=(6, 4))
WORDS = ("One", "Two", "Thr", "Fou", "Fiv", "Six")


def published(prefix: str) -> dict[str, Tensor]:
    """Names and shapes of the weights in circulation, with small random values."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}

    def add(name: str, *shape: int) -> None:
        state[f"{name}.weight"] = 0.02 * torch.randn(shape, generator=generator)
        # of a transposed convolution the outputs come second
        count = shape[1] if "Up" in name else shape[0]
        state[f"{name}.bias"] = torch.zeros(count)

    inputs = 3
    pyramid = (16, 32, 64, 96, 128, 196)
    for word, features in zip(WORDS, pyramid, strict=True):
        for index in (0, 2, 4):
            add(f"{prefix}Extractor.{prefix}{word}.{index}", features, inputs, 3, 3)
            inputs = features
    dense = (128, 128, 96, 64, 32)
    before = 0
    for level in (6, 5, 4, 3, 2):
        name = f"{prefix}{WORDS[level - 1]}"
        current = 81
        if level < 6:
            add(f"{name}.{prefix}Upflow", 2, 2, 4, 4)
            add(f"{name}.{prefix}Upfeat", before, 2, 4, 4)
            current += pyramid[level - 1] + 4
        for word, features in zip(WORDS, (*dense, 2), strict=True):
            add(f"{name}.{prefix}{word}.0", features, current, 3, 3)
            current += features if word != "Six" else 0
        before = current
    for index, features in zip(range(0, 14, 2), (128, 128, 128, 96, 64, 32, 2), strict=True):
        add(f"{prefix}Refiner.{prefix}Main.{index}", features, before, 3, 3)
        before = features
    return state


def test_the_cost_volume_compares_every_displacement() -> None:
    a, b = torch.randn(2, 2, 3, 7, 6)
    volume = correlation(a, b, 2)
    assert volume.shape == (2, 25, 7, 6)
    dx, dy = -1, 2
    expected = (a[:, :, :5, 1:] * b[:, :, 2:, :5]).mean(1)
    torch.testing.assert_close(volume[:, (dy + 2) * 5 + dx + 2, :5, 1:], expected)
    assert not volume[:, (dy + 2) * 5 + dx + 2, 5:].any()  # looks out of the frame


def test_sampling_agrees_with_the_convention() -> None:
    source = torch.randn(1, 2, 6, 8)
    flow = torch.zeros(1, 2, 6, 8)
    torch.testing.assert_close(sample(source, flow), source)
    flow[:, 0], flow[:, 1] = 2, -1
    torch.testing.assert_close(sample(source, flow)[..., 1:, :6], source[..., :5, 2:])


@pytest.mark.parametrize("size", [(8, 8), (33, 50), (64, 20)])
@pytest.mark.parametrize("config", [SMALL, PWCNetConfig.student()])
def test_any_size_of_frame(size: tuple[int, int], config: PWCNetConfig) -> None:
    torch.manual_seed(0)
    net = PWCNet(config)
    frames = torch.rand(2, 2, 1, *size)
    given = torch.randn(2, 2, *size) if config.correct else None
    flow = net(frames[0], frames[1], given)
    assert flow.shape == (2, 2, *size)
    assert torch.isfinite(flow).all()
    if given is not None:
        torch.testing.assert_close(flow, given)  # nothing learnt yet


def test_what_does_not_fit_is_refused() -> None:
    net = PWCNet(SMALL)
    frame = torch.zeros(1, 1, 16, 16)
    with pytest.raises(ValueError, match=r"frames must both have shape \(N, 1, H, W\)"):
        net(frame, torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="takes no flow"):
        net(frame, frame, torch.zeros(1, 2, 16, 16))
    with pytest.raises(ValueError, match="give one"):
        PWCNet(PWCNetConfig.student())(frame, frame)
    with pytest.raises(ValueError, match="finest must be a level from 1 to 3"):
        PWCNetConfig(pyramid=(4, 4, 4), finest=4)


def test_it_learns_a_shift() -> None:
    """Also the direction: a frame that moved to the right by 3 px has a flow of +3 in x."""
    torch.manual_seed(1)
    net = PWCNet(SMALL)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    movie = simulate_motion(
        (2, 64, 64), structure="speckle", motion="translation", speed=3, photons=200, seed=0
    )
    frames = normalise(movie.clean, brightness(lambda t: movie.clean[t], 2))
    target = torch.from_numpy(movie.flow_to_next[:1])
    errors = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (net(frames[:1], frames[1:]) - target).abs().mean()
        loss.backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.3 * errors[0]


@pytest.mark.parametrize("prefix", ["module", "net"])
@pytest.mark.parametrize("form", ["plain", "wrapped", "safetensors"])
def test_checkpoints_of_both_layouts_are_read(
    prefix: str, form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = published(prefix)
    path = tmp_path / f"weights.{'safetensors' if form == 'safetensors' else 'pytorch'}"
    if form == "safetensors":
        save_file(state, path)
    elif form == "wrapped":  # as in a released STBN, beside the denoiser
        inside = {f"module.pwcnet.{name}": value for name, value in state.items()}
        torch.save({"state_dict": {**inside, "module.head.weight": torch.zeros(1)}}, path)
    else:
        torch.save(state, path)
    with caplog.at_level(logging.WARNING):
        net = load_published(path)
    assert LICENCE_NOTICE in caplog.text
    assert net.config == PWCNetConfig()
    assert sum(p.numel() for p in net.parameters()) == sum(v.numel() for v in state.values())
    ours = net.state_dict()
    for own, theirs in (
        ("decoders.2.predict.weight", f"{prefix}Two.{prefix}Six.0.weight"),
        ("pyramid.3.2.weight", f"{prefix}Extractor.{prefix}Fou.2.weight"),
    ):
        torch.testing.assert_close(ours[own], state[theirs])


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_published(tmp_path / "missing.pth")
    garbage = tmp_path / "garbage.pth"
    garbage.write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match=r"garbage.pth cannot be read as plain weights"):
        load_published(garbage)
    executes = tmp_path / "executes.pth"
    torch.save({"state_dict": torch.nn.Linear(1, 1)}, executes)  # a pickled object
    with pytest.raises(ValueError, match="cannot be read as plain weights"):
        load_published(executes)
    for name, state in (
        ("foreign", {"conv.weight": torch.zeros(1)}),
        ("partial", {k: v for k, v in published("net").items() if "Refiner" not in k}),
    ):
        torch.save(state, tmp_path / name)
        with pytest.raises(ValueError, match="holds no PWC-Net of a known layout"):
            load_published(tmp_path / name)


def test_no_gradient_reaches_the_teacher() -> None:
    student = PWCNet(PWCNetConfig.student())
    frames = torch.rand(2, 1, 1, 32, 32)
    target = torch.ones(1, 2, 32, 32, requires_grad=True)
    given = torch.zeros(1, 2, 32, 32)
    loss = distillation_loss(
        student, frames[0], frames[1], (target, target), (given, given), regularisation=0.0
    )
    assert float(loss.detach()) == pytest.approx(2)  # 1 px off both ways
    loss.backward()
    assert target.grad is None
    heavier = distillation_loss(
        student, frames[0], frames[1], (target, target), (given, given), regularisation=0.1
    )
    norms = sum(float(p.detach().norm()) for p in student.parameters())
    assert float(heavier.detach()) == pytest.approx(2 + 0.1 * norms, rel=1e-4)


def test_a_student_comes_closer_to_its_teacher() -> None:
    movie = simulate_motion(
        (4, 64, 64), structure="speckle", motion="translation", speed=1.5, photons=200, seed=0
    )
    teacher = estimate_flow(movie.clean)
    given = Flow(*(np.zeros_like(d) for d in teacher))  # as if nothing had been seen
    torch.manual_seed(0)
    student = PWCNet(PWCNetConfig.student())
    config = DistillationConfig(crop=64)
    training = Distillation(student, config, torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match=r"call learn\(\) first"):
        training.step()
    training.learn(0, movie.noisy, teacher, given)
    for _ in range(60):
        training.step()
    learnt = last(student_flow(student, movie.noisy, given))

    def apart(flow: Flow) -> float:
        return float(np.mean([np.abs(a - b).mean() for a, b in zip(flow, teacher, strict=True)]))

    assert apart(learnt) < 0.3 * apart(given)
