"""A movie ten times as large as the memory is fitted and denoised under a limit of the system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from napari_stbn import Stack, read, simulate, write
from napari_stbn.denoiser import Denoiser
from napari_stbn.devices import free_memory, resolve_device

PLANES, FRAMES, SIDE = 160, 20, 64
LIMIT = 10  # MB: for what is read and computed of the movie
ALLOWED = 150  # MB: that, and what libraries take to work; the run in memory takes 650 MB
RUN = """
import resource, sys
from dataclasses import replace
import psutil, torch
from napari_stbn import _inference_plan
from napari_stbn.cli import main
from napari_stbn.network import STBNConfig
from napari_stbn.presets import PRESETS
torch.set_num_threads(1)
# It is part of what the address space may grow by, and so small a net takes less.
_inference_plan._SCRATCH = 0
tiny = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
PRESETS["preview"] = replace(PRESETS["preview"], network=tiny)
small, out, allowed, *rest = sys.argv[1:]
fit = ["--preset", "preview", "--start", "fresh", "--device", "cpu", "--precision", "float32",
       "--max-steps", "10", "--clip-frames", "4", "--clip-size", "16"]
# All libraries are loaded by a small run; from there on the address space may grow by so much.
assert main(["denoise", small, "-o", out, *fit]) == 0
limit = psutil.Process().memory_info().vms + int(allowed) * 10**6
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(["denoise", *rest, *fit]))
"""


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """An OME-Zarr-like movie ZTYX of 105 MB, float64."""
    path = tmp_path / "large.zarr"
    array = zarr.create_array(
        path,
        shape=(PLANES, FRAMES, SIDE, SIDE),
        chunks=(1, 5, SIDE, SIDE),
        dtype=np.float64,
        dimension_names=["z", "t", "y", "x"],
    )
    movie = simulate((FRAMES, SIDE, SIDE), seed=0).noisy
    for plane in range(PLANES):
        array[plane] = np.roll(movie, 2 * plane, 2)
    return path


def run(folder: Path, large: Path, allowed: int, *options: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, whose memory may grow by `allowed` MB."""
    write(folder / "small.tif", Stack(simulate((8, 32, 32), seed=0).noisy, "TYX"), overwrite=True)
    arguments = [str(folder / "small.tif"), str(folder / f"small{allowed}.zarr"), str(allowed)]
    arguments += [str(large), "-o", str(folder / "out.zarr"), *options]
    return subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)},
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
def test_a_movie_ten_times_as_large_as_the_memory(tmp_path: Path, large: Path) -> None:
    size = PLANES * FRAMES * SIDE**2 * 8
    assert size > 10 * LIMIT * 10**6
    model = tmp_path / "model.stbn"
    limit = str(LIMIT / 1000)
    done = run(tmp_path, large, ALLOWED, "--memory-limit", limit, "--save-model", str(model))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "read and written piece by piece" in done.stdout
    out = read(tmp_path / "out.zarr")
    assert out.axes == "TZYX"
    assert out.shape == (FRAMES, PLANES, SIDE, SIDE)
    denoiser = Denoiser.load(model, device="cpu")
    for plane in (0, PLANES - 1):
        stack = read(large)
        whole = denoiser.denoise(Stack(stack.movie(0, plane), "TYX"))
        noise = float(np.median(np.asarray(whole.uncertainty)))
        assert np.isfinite(whole.denoised).all()
        difference = out.movie(0, plane) - whole.denoised
        assert np.sqrt(np.mean(difference**2)) < 1e-3 * noise
    # The limit is real: without pieces the same run does not end well.
    done = run(tmp_path, large, ALLOWED, "--memory-limit", "100", "--force", "--model", str(model))
    assert done.returncode != 0


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
def test_what_the_system_leaves_to_a_process_is_seen() -> None:
    code = (
        "import psutil, resource, torch; from napari_stbn.devices import free_memory; "
        "limit = psutil.Process().memory_info().vms + 3 * 10**8; "
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit)); "
        "print(free_memory(torch.device('cpu')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1e8 < int(done.stdout) < 3.1e8
    assert free_memory(resolve_device("cpu")) > int(done.stdout)
