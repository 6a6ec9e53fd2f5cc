"""Claims of the precision probe: bfloat16 where it is fast and right, float32 elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from napari_stbn import precision as precision_module
from napari_stbn.network import STBNConfig
from napari_stbn.precision import Precision, choose_precision

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)


@pytest.mark.parametrize(
    ("native", "wrong", "expected"),
    [
        (True, None, "bfloat16"),
        (True, 1.5, "float32"),  # fast, but its gradients disagree
        (True, math.nan, "float32"),
        (False, None, "float32"),
    ],
)
@pytest.mark.parametrize("slow", ["float32", "bfloat16"])
def test_bfloat16_is_taken_only_where_a_cpu_has_it_and_it_is_right(
    monkeypatch: pytest.MonkeyPatch, native: bool, wrong: float | None, expected: str, slow: str
) -> None:
    """The CPU is played: bfloat16 multiplies features by `wrong`; how busy it is does not count."""

    @contextmanager
    def played(device: torch.device, precision: Precision) -> Iterator[None]:
        if precision == slow:
            time.sleep(0.05)
        if wrong is None or precision == "float32":
            yield
            return
        hook = torch.nn.modules.module.register_module_forward_hook(lambda _m, _i, out: out * wrong)
        yield
        hook.remove()

    monkeypatch.setattr(precision_module, "autocast", played)
    monkeypatch.setattr(precision_module, "_computes_bfloat16", lambda: native)
    choose_precision.cache_clear()
    try:
        assert choose_precision(TINY, torch.device("cpu")) == expected
    finally:
        choose_precision.cache_clear()


def test_a_device_without_bfloat16_takes_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(device: torch.device, precision: Precision) -> Any:
        if precision == "bfloat16":
            raise RuntimeError("BFloat16 is not supported on this device")
        return torch.autocast("cpu", enabled=False)

    monkeypatch.setattr(precision_module, "autocast", refuses)
    choose_precision.cache_clear()
    try:
        assert choose_precision(TINY, torch.device("cpu")) == "float32"
    finally:
        choose_precision.cache_clear()


def test_the_probe_leaves_random_numbers_alone() -> None:
    choose_precision.cache_clear()
    state = torch.get_rng_state()
    choose_precision(TINY, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)
