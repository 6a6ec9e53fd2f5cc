"""What every test shares: one thread for the numbers, and where the real movies are."""

from __future__ import annotations

import os
from pathlib import Path

# Before numpy or torch start their pools: sums in one order give the same golden numbers on every
# machine, and two test runs side by side do not fight over the cores. Subprocesses inherit it.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import pytest  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real movies and parity arrays: beside the checkout, or NAPARI_STBN_SHARED."""
    named = os.environ.get("NAPARI_STBN_SHARED")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set NAPARI_STBN_SHARED to the folder that has it")
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--device cuda`` runs the tests of the core that take a device on a GPU."""
    parser.addoption("--device", default="cpu", help="device of the core's tests: cpu, cuda, mps")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests have time to end on a slow machine; all others must end in five minutes."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where the tests of the core compute; an error, not a skip, where there is no such device."""
    from napari_stbn.devices import resolve_device

    torch.backends.cudnn.allow_tf32 = False  # or float32 convolutions have ten bits on a GPU
    return resolve_device(request.config.getoption("--device"))
