"""Claims of the trials: a fast path is taken only where it is right, and where it gains."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from napari_stbn import precision as precision_module
from napari_stbn.network import STBNConfig
from napari_stbn.precision import Precision, Trial, choose_precision, paired_is_right, try_step

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """What was chosen is remembered from test to test."""
    choose_precision.cache_clear()
    paired_is_right.cache_clear()
    yield
    choose_precision.cache_clear()
    paired_is_right.cache_clear()


def play(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, float | None], seconds: dict[str, float]
) -> None:
    """Steps on a device that is played: factors of their gradients (None: refused), and times.

    Keys are "float32" and "bfloat16", with "paired " before them for that path.
    """

    def played(
        _: STBNConfig, __: torch.device, precision: Precision, *, paired: bool
    ) -> Trial | None:
        name = f"paired {precision}" if paired else precision
        factor = wrong.get(name, 1.0)
        gradient = torch.arange(1.0, 9.0)
        return None if factor is None else Trial(gradient * factor, seconds.get(name, 1.0))

    monkeypatch.setattr(precision_module, "try_step", played)


@pytest.mark.parametrize(
    ("native", "wrong", "expected"),
    [
        (True, {}, "bfloat16"),
        (True, {"bfloat16": 1.5, "paired bfloat16": 1.5}, "float32"),  # gradients disagree
        (True, {"bfloat16": math.nan, "paired bfloat16": math.nan}, "float32"),
        (True, {"bfloat16": math.nan}, "bfloat16"),  # the path that the fit takes is right
        (True, {"bfloat16": None, "paired bfloat16": None}, "float32"),
        (False, {}, "float32"),
    ],
)
def test_bfloat16_is_taken_only_where_a_cpu_has_it_and_it_is_right(
    monkeypatch: pytest.MonkeyPatch,
    native: bool,
    wrong: dict[str, float | None],
    expected: str,
) -> None:
    play(monkeypatch, wrong, {"bfloat16": 9.0})  # how busy a CPU is does not count
    monkeypatch.setattr(precision_module, "_computes_bfloat16", lambda _: native)
    assert choose_precision(TINY, CPU) == expected


@pytest.mark.parametrize(("low", "expected"), [(0.5, "bfloat16"), (0.95, "float32")])
def test_a_gpu_of_another_kind_is_timed(
    monkeypatch: pytest.MonkeyPatch, low: float, expected: str
) -> None:
    play(monkeypatch, {}, {"bfloat16": low})
    assert choose_precision(TINY, MPS) == expected


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]
)
def test_a_cuda_gpu_is_asked(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str
) -> None:
    """So few pixels would say nothing of its speed."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    play(monkeypatch, {}, {"bfloat16": 9.0})
    assert choose_precision(TINY, CUDA) == expected


@pytest.mark.parametrize(
    ("device", "wrong", "seconds", "expected"),
    [
        (CPU, 1.0, 9.0, True),  # not timed
        (CPU, 1.5, 0.1, False),
        (CPU, math.nan, 0.1, False),
        (CPU, None, 0.1, False),
        (CUDA, 1.0, 9.0, True),
        (CUDA, 1.5, 0.1, False),
        (MPS, 1.0, 0.5, True),
        (MPS, 1.0, 0.95, False),
    ],
)
def test_both_directions_in_one_pass_only_where_right(
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device,
    wrong: float | None,
    seconds: float,
    expected: bool,
) -> None:
    play(monkeypatch, {"paired bfloat16": wrong}, {"paired bfloat16": seconds})
    assert paired_is_right(TINY, device, "bfloat16") is expected


def test_a_device_without_the_format_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise RuntimeError("BFloat16 is not supported on this device")

    monkeypatch.setattr(precision_module, "autocast", refuses)
    assert try_step(TINY, CPU, "bfloat16", paired=False) is None


@pytest.mark.parametrize("paired", [True, False])
def test_a_trial_gives_the_gradient_of_the_network(device: torch.device, paired: bool) -> None:
    trial = try_step(TINY, device, "float32", paired=paired)
    exact = try_step(TINY, torch.device("cpu"), "float32", paired=False)
    assert trial is not None
    assert exact is not None
    assert trial.agrees(exact)
    assert not Trial(-trial.gradient, 0.0).agrees(exact)


def test_trials_leave_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    choose_precision(TINY, CPU)
    assert torch.equal(torch.get_rng_state(), state)
