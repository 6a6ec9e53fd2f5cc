"""Claims of the recorder: the same numbers from a recording, and none where there can be none."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from napari_stbn import _recorded
from napari_stbn._fit_path import FitPath
from napari_stbn._recorded import Recorder
from napari_stbn.clips import Clip
from napari_stbn.network import STBN, STBNConfig
from napari_stbn.noise import PoissonGaussianNoise
from napari_stbn.prior import Units
from napari_stbn.stack import IntensityScaling

TINY = STBNConfig(
    width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1, noise_input=True
)
UNITS = (Units(PoissonGaussianNoise(2.0, 100.0, 1.5), IntensityScaling(3.0, 2.0)),)


def clip_on(device: torch.device, seed: int, frames: int = 3) -> Clip:
    chance = torch.Generator().manual_seed(seed)
    counts = 100 + 40 * torch.rand(2, frames, 1, 16, 16, generator=chance)
    flow = torch.randn(2, frames - 1, 2, 16, 16, generator=chance)
    weight = (torch.rand(counts.shape, generator=chance) > 0.1).float()
    return Clip(UNITS[0].to_network(counts), counts, weight, flow, -flow, UNITS).to(device)


def gradients(model: STBN) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_a_recorded_step_has_the_loss_and_the_gradients_of_its_own_clip(
    device: torch.device,
) -> None:
    """Clip after clip, shape after shape, with weights that change in between."""
    model = STBN.seeded(TINY, 0).place(device)
    recorded, plain = FitPath(model, "float32"), FitPath(model, "float32")
    plain._recorder.refused = "for this test"
    for seed, frames, beta in ((0, 3, 0.5), (1, 3, 0.25), (2, 4, 0.5), (3, 3, 0.0), (4, 3, 0.5)):
        clip = clip_on(device, seed, frames)
        losses, found = [], []
        for path in (recorded, plain):
            model.zero_grad(set_to_none=True)
            losses.append(float(path.backward(clip, beta)))
            found.append(gradients(model).clone())
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.01)
    if device.type == "cuda":
        assert recorded._recorder.refused is None
        assert len(recorded._recorder._recordings) == 3  # shapes, and one without beta


def test_what_can_not_be_recorded_runs_as_it_is(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(_recorded, "_record", fails)
    recorder, calls = Recorder(), []

    def double(x: Tensor) -> Sequence[Tensor]:
        calls.append(1)
        return [2 * x]

    for value in (1.0, 2.0):
        (result,) = recorder("key", double, [torch.full((3,), value, device=device)])
        assert result.tolist() == [2 * value] * 3
    assert len(calls) == 2
    if device.type == "cuda":
        assert recorder.refused == "operation not permitted when stream is capturing"
