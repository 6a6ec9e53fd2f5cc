"""Claims about long use: memory, threads and files stay as they were, whatever is cancelled."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from napari_stbn import Denoiser, Stack, STBNConfig, TrainingConfig, read, simulate, write

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
TRAINING = TrainingConfig(max_steps=4, clip_frames=2, clip_size=12, batch=1, checks=2)
MOVIE = simulate((6, 40, 40), seed=0).noisy
MANY = pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])
OPTIONS = ["--preset", "preview", "--device", "cpu", "--clip-size", "12", "--clip-frames", "2"]


def denoiser() -> Denoiser:
    return Denoiser("preview", device="cpu", network=TINY, start="fresh", precision="float32")


def whole_run() -> NDArray[np.float32]:
    return denoiser().fit(MOVIE, axes="TYX", training=TRAINING).denoise(MOVIE, axes="TYX").denoised


class Held:
    """What this process holds now."""

    def __init__(self) -> None:
        gc.collect()
        process = psutil.Process()
        self.memory = process.memory_info().rss
        self.threads = sorted(thread.name for thread in threading.enumerate())
        self.system_threads = process.num_threads()
        self.files = sorted(file.path for file in process.open_files())
        self.children = len(process.children())

    def is_no_more_than(self, before: Held) -> None:
        assert self.memory <= 1.05 * before.memory, (self.memory, before.memory)
        assert self.threads == before.threads
        assert self.system_threads <= before.system_threads
        assert self.files == before.files
        assert self.children == before.children


@pytest.mark.parametrize("fits", [12, MANY])
def test_many_fits_in_one_process_hold_nothing(fits: int, tmp_path: Path) -> None:
    path = write(tmp_path / "in.tif", Stack(MOVIE, "TYX"))

    def once() -> NDArray[np.float32]:
        stack = read(path)
        fitted = denoiser().fit(stack, training=TRAINING, checkpoint=tmp_path / "fit")
        saved = fitted.save(tmp_path / "model.stbn", overwrite=True)
        result = Denoiser.load(saved, device="cpu").denoise(stack)
        write(tmp_path / "out.tif", result.stack, overwrite=True)
        return result.denoised

    first = once()
    for _ in range(3):
        once()
    before = Held()
    for _ in range(fits):
        np.testing.assert_array_equal(once(), first)
    Held().is_no_more_than(before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", "model.stbn", "out.tif"]


@pytest.mark.parametrize("times", [12, MANY])
def test_cancelled_anywhere_nothing_stays_and_the_next_run_is_as_ever(times: int) -> None:
    expected = whole_run()
    chance = random.Random(0)
    total = sum(1 for _ in denoiser().fit_steps(MOVIE, axes="TYX", training=TRAINING))
    fitted = denoiser().fit(MOVIE, axes="TYX", training=TRAINING)
    pieces = sum(1 for _ in fitted.denoise_steps(MOVIE, axes="TYX"))
    before = Held()
    for _ in range(times):
        one = denoiser()
        cancel(one.fit_steps(MOVIE, axes="TYX", training=TRAINING), chance.randrange(total))
        cancel(fitted.denoise_steps(MOVIE, axes="TYX"), chance.randrange(pieces))
    Held().is_no_more_than(before)
    np.testing.assert_array_equal(whole_run(), expected)
    np.testing.assert_array_equal(fitted.denoise(MOVIE, axes="TYX").denoised, expected)


def cancel(steps: Any, after: int) -> None:
    """Ask a generator so many times, then no more."""
    for number in count():
        if number == after:
            break
        next(steps)
    steps.close()


# ---------------------------------------------------------------- processes


def command(*arguments: Any) -> subprocess.Popen[str]:
    """`napari-stbn` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "napari_stbn.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def test_two_processes_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = write(tmp_path / "in.tif", Stack(MOVIE, "TYX"))
    outputs = [tmp_path / "a.tif", tmp_path / "b.tif"]
    runs = [
        command(
            "denoise", path, "-o", out, "--max-steps", 3, "--checkpoint", f"{out}.fit", *OPTIONS
        )
        for out in outputs
    ]
    assert [finish(run)[0] for run in runs] == [0, 0]
    one, two = (read(out).movie() for out in outputs)
    np.testing.assert_array_equal(one, two)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "b.tif", "in.tif"]


def test_two_processes_and_one_output_one_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "in.tif", Stack(MOVIE, "TYX"))
    arguments = ["denoise", path, "-o", tmp_path / "out.tif", "--max-steps", 3, *OPTIONS]
    ends = [finish(run) for run in [command(*arguments), command(*arguments)]]
    codes = sorted(code for code, _ in ends)
    # Both may be at the last check at the same moment: then the later result replaces an equal one.
    assert codes in ([0, 2], [0, 0])
    if codes == [0, 2]:
        said = next(said for code, said in ends if code == 2)
        # At the end, or as soon as it finds what the other keeps beside the output.
        assert "exists; choose another name" in said or "or one that goes on now" in said
    assert read(tmp_path / "out.tif").shape == MOVIE.shape
    # Who is refused at the very end keeps what it has fitted, for --resume under another name.
    assert {p.name for p in tmp_path.iterdir()} - {"out.tif.fit"} == {"in.tif", "out.tif"}


@pytest.mark.skipif(sys.platform == "win32", reason="signals are not like that on Windows")
@pytest.mark.parametrize("times", [3, pytest.param(40, marks=MANY.marks)])
def test_killed_at_any_moment_an_earlier_result_stays_whole(times: int, tmp_path: Path) -> None:
    """SIGINT and SIGKILL in turn; the output is the earlier file, or the new one, and whole."""
    path = write(tmp_path / "in.tif", Stack(MOVIE, "TYX"))
    out = write(tmp_path / "out.tif", Stack(MOVIE, "TYX"))
    chance = random.Random(1)
    for number in range(times):
        run = command("denoise", path, "-o", out, "--force", "--max-steps", 20, *OPTIONS)
        started = time.monotonic()
        wait = chance.uniform(0.0, 12.0)
        while time.monotonic() - started < wait and run.poll() is None:
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL if number % 2 else signal.SIGINT)
        finish(run)
        stack = read(out)
        assert stack.shape == MOVIE.shape
        assert np.isfinite(stack.movie()).all()
    left = {p.name for p in tmp_path.iterdir() if not p.name.startswith(".stbn-")}
    assert left - {"out.tif.fit"} == {"in.tif", "out.tif"}, "and what --resume goes on from"
