"""Claims of the fit's path: fast while that is right, else safe; smaller when memory ends."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_stbn import _fit_path
from napari_stbn._fit_path import FitPath
from napari_stbn.clips import Clip, ClipSampler
from napari_stbn.flow import Flow
from napari_stbn.network import STBN, STBNConfig
from napari_stbn.network.paired import paired_forward
from napari_stbn.noise import PoissonGaussianNoise
from napari_stbn.preparation import PreparedMovie, prepare_movie
from napari_stbn.samples import simulate
from napari_stbn.training import TrainingConfig, training_steps

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
SHORT = TrainingConfig(max_steps=8, clip_frames=3, clip_size=16, batch=2, checks=2)


@pytest.fixture(scope="module")
def movie() -> PreparedMovie:
    made = simulate((6, 32, 32), kind="nuclei", seed=0)
    valid = np.ones(made.noisy.shape, bool)
    valid[2, :9] = False  # crops weigh differently
    return prepare_movie(
        [made.noisy.astype(np.float32)],
        valid,
        [PoissonGaussianNoise(made.gain, made.offset, made.read_noise)],
        None,
        Flow(made.flow_to_previous, made.flow_to_next),
    )


def clip_of(movie: PreparedMovie, batch: int) -> Clip:
    return ClipSampler([movie], 4, 24, batch, torch.Generator().manual_seed(0)).draw()


def model_on(device: torch.device) -> STBN:
    return STBN.seeded(TINY, 0).place(device)


def gradients(model: STBN) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def runs_out(limit: int, error: RuntimeError) -> Callable[..., Tensor]:
    """`paired_forward` on a device too small for more than `limit` crops."""
    original = paired_forward

    def forward(model: STBN, frames: Tensor, *rest: Any) -> Tensor:
        if frames.shape[0] > limit:
            raise error
        return original(model, frames, *rest)

    return forward


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_step_in_parts_is_the_same_step(
    movie: PreparedMovie,
    device: torch.device,
    limit: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clip, model = clip_of(movie, 5).to(device), model_on(device)
    expected_loss = FitPath(model, "float32").backward(clip)
    expected = gradients(model)
    model.zero_grad()
    error = torch.OutOfMemoryError("out of memory")
    monkeypatch.setattr(_fit_path, "paired_forward", runs_out(limit, error))
    path = FitPath(model, "float32")
    with caplog.at_level(logging.WARNING):
        loss = path.backward(clip)
    assert "out of memory; going on with the clips of a step in parts" in caplog.text
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
    assert (gradients(model) - expected).norm() < 1e-5 * expected.norm()
    before = path.parts
    path.backward(clip)  # what was learnt is kept
    assert path.parts == before


@pytest.mark.parametrize(
    ("error", "batch"), [(torch.OutOfMemoryError("full"), 1), (RuntimeError("a bug"), 4)]
)
def test_one_crop_that_does_not_fit_and_other_errors_are_raised(
    movie: PreparedMovie, monkeypatch: pytest.MonkeyPatch, error: RuntimeError, batch: int
) -> None:
    monkeypatch.setattr(_fit_path, "paired_forward", runs_out(0, error))
    path = FitPath(model_on(torch.device("cpu")), "float32")
    with pytest.raises(type(error), match=str(error)):
        path.backward(clip_of(movie, batch))


def spoilt(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The fast path on a device where it gives no numbers."""

    def forward(*arguments: Any) -> Tensor:
        return original(*arguments) * math.nan

    return forward


def test_gradients_that_are_not_finite_lead_to_the_safe_path(
    movie: PreparedMovie, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_fit_path, "paired_forward", spoilt(paired_forward))
    monkeypatch.setattr(_fit_path, "paired_is_right", lambda *_: True)
    model = model_on(torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with caplog.at_level(logging.WARNING):
        steps = list(
            training_steps(model, [movie], SHORT, generator=generator, precision="bfloat16")
        )
    assert [s.skipped for s in steps] == [1, 2, 3, 3, 3, 3, 3, 3]
    assert "gradients in bfloat16 are not finite; going on in float32" in caplog.text
    assert all(math.isfinite(s.loss) for s in steps[3:])


def test_a_fit_that_goes_on_stays_on_the_safe_path(
    movie: PreparedMovie, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from napari_stbn import _fit_parts

    monkeypatch.setattr(_fit_path, "paired_forward", spoilt(paired_forward))
    monkeypatch.setattr(_fit_path, "paired_is_right", lambda *_: True)
    monkeypatch.setattr(_fit_parts, "_SAVE_EVERY", 0.0)
    file = tmp_path / "fit"
    skipped = []
    for stop in (6, 100):
        model = model_on(torch.device("cpu"))
        generator = torch.Generator().manual_seed(0)
        steps = training_steps(model, [movie], SHORT, generator=generator, checkpoint=file)
        for step in steps:
            skipped.append(step.skipped)
            if step.step == stop:
                break
        steps.close()
    assert skipped == [1, 2, 3, 3, 3, 3, 3, 3, 3]  # the sixth step is done again
