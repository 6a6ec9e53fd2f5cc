"""Claims of `benchmarks/train_flow.py`: a blend of known flows, and a run that can be cut off."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from napari_stbn.flow import estimate_flow
from napari_stbn.flow.blend import FlowBlend, all_candidates
from napari_stbn.samples.motion import simulate_motion

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("train_flow", BENCHMARKS / "train_flow.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        patch.setattr(module, "_SIZE", 64)
        yield module


def run(script: ModuleType, state: Path, minutes: float, steps: int) -> torch.Tensor:
    options = argparse.Namespace(state=state, minutes=minutes, steps=steps, scenes=2, seed=0)
    state.mkdir(exist_ok=True)
    script.train(options)
    weights: torch.Tensor = torch.load(state / "state.pt", weights_only=True)["net"][
        "layers.0.weight"
    ]
    return weights


def test_an_untrained_network_takes_the_mean_of_what_it_is_given(script: ModuleType) -> None:
    movie = simulate_motion((4, 50, 62), motion="translation", speed=2, photons=20, seed=1).noisy
    net = FlowBlend()
    net.layers[-1].bias.data.zero_()  # type: ignore[operator]
    flow = script.blended(net, movie)
    every = all_candidates(zip(*estimate_flow(movie, "dis"), strict=True))
    for found, flows in zip(flow.to_next, every, strict=True):
        mean = np.mean([to_next for _, to_next in flows], 0)
        np.testing.assert_allclose(found, mean, atol=1e-4)


def test_a_training_goes_on_to_the_same_numbers(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(script, tmp_path, 1.0, 4)
    (tmp_path / "state.pt").unlink()
    clock = iter(np.arange(0.0, 1e4, 10.0))
    with monkeypatch.context() as patch:
        patch.setattr(script.time, "perf_counter", lambda: float(next(clock)))
        run(script, tmp_path, 1.0, 4)  # the time is up before the steps are
    kept = torch.load(tmp_path / "state.pt", weights_only=True)["step"]
    assert 0 < kept < 4
    assert torch.equal(run(script, tmp_path, 1.0, 4), whole)
    net = script.load_net(tmp_path / script.NAME)
    seen = torch.zeros(1, len(net.mean), 4, 4)
    torch.testing.assert_close(net(seen).sum(1), torch.ones(1, 4, 4))
