"""Many movies and large ones: throughput of workers, the seam of blocks, faults survived.

``./dev bench scale_batch`` prints the tables of docs/batch.md; each part alone with its name.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from _common import machine, use_threads
from napari_stbn import Denoiser, RunSettings, Stack, read, simulate, write
from napari_stbn._batch_blocks import Block, cut
from napari_stbn._batch_manifest import FILE_NAME, Manifest
from napari_stbn.batch import BatchOptions, denoise_many

_FRAMES = (0, 2, 4, 8, 12, 16)
_PIXELS = (0, 16, 32)


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["throughput", "seam", "faults"])
    parser.add_argument("--movies", type=int, default=6)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--shape", type=int, nargs=3, default=(32, 128, 128))
    options = parser.parse_args()
    print(machine(len(os.sched_getaffinity(0))))
    for part in options.parts:
        {"throughput": throughput, "seam": seam, "faults": faults}[part](options)


def settings(steps: int, **more: Any) -> RunSettings:
    """A fit of so many steps on the CPU."""
    return RunSettings(preset="preview", device="cpu", max_steps=steps, **more)


def make_movies(folder: Path, count: int, shape: tuple[int, int, int]) -> None:
    """Write simulated movies."""
    folder.mkdir()
    for number in range(count):
        movie = simulate(shape, seed=number)
        write(folder / f"movie{number}.tif", Stack(movie.noisy, "TYX"))


def throughput(options: argparse.Namespace) -> None:
    """Movies an hour on one and two workers that share the cores of this machine."""
    shape = tuple(options.shape)
    use_threads(len(os.sched_getaffinity(0)))
    print(f"\nthroughput: {options.movies} movies of {shape}, {options.steps} steps each")
    print("| workers | threads of each | seconds | movies an hour |\n|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as place:
        make_movies(Path(place, "in"), options.movies, shape)
        for workers in (0, 1, 2):
            started = time.perf_counter()
            outcomes = denoise_many(
                Path(place, "in"),
                Path(place, f"out{workers}"),
                BatchOptions(settings=settings(options.steps), workers=workers),
            )
            seconds = time.perf_counter() - started
            assert all(outcome.status == "done" for outcome in outcomes)  # noqa: S101
            threads = len(os.sched_getaffinity(0)) // max(1, workers)
            name = workers or "none, in this process"
            print(
                f"| {name} | {threads} | {seconds:.0f} | {3600 * len(outcomes) / seconds:.0f} |",
                flush=True,
            )


def seam(options: argparse.Namespace) -> None:
    """How far a block is from the whole movie, against its margin."""
    use_threads(len(os.sched_getaffinity(0)))
    data = simulate((72, 64, 64), seed=3).noisy
    stack = Stack(data, "TYX")
    for flow in ("dis", "none"):
        chosen = settings(options.steps, flow=flow, precision="float32")
        denoiser = chosen.denoiser()
        for _ in chosen.fit_steps(denoiser, stack):
            pass
        with tempfile.TemporaryDirectory() as place:
            path = denoiser.save(Path(place, "m.stbn"))
            whole = Denoiser.load(path, device="cpu").denoise(stack)
            print(f"\nseam in time, flow {flow}: difference / posterior standard deviation")
            print("| margin [frames] | rms in the first frame | rms of all | 99.9 % below |")
            print("|--:|--:|--:|--:|")
            for margin in _FRAMES:
                core, outer = ((36, 72), (0, 64), (0, 64)), ((36 - margin, 72), (0, 64), (0, 64))
                print(_row(path, stack, Block(core, outer), whole, margin, axis=0), flush=True)
            print(f"\nseam in space, flow {flow}")
            print("| margin [px] | rms in the first column | rms of all | 99.9 % below |")
            print("|--:|--:|--:|--:|")
            for margin in _PIXELS:
                core, outer = ((0, 72), (0, 64), (32, 64)), ((0, 72), (0, 64), (32 - margin, 64))
                print(_row(path, stack, Block(core, outer), whole, margin, axis=2), flush=True)


def _row(path: Path, stack: Stack, block: Block, whole: Any, margin: int, *, axis: int) -> str:
    """A line of the table: one block, denoised alone, beside the same part of the whole."""
    part = Denoiser.load(path, device="cpu").denoise(cut(stack, block)).denoised[block.local("TYX")]
    where = block.index("TYX")
    apart = np.abs(part - whole.denoised[where]) / whole.uncertainty[where]
    first = np.take(apart, 0, axis)
    rms = [float(np.sqrt((values**2).mean())) for values in (first, apart)]
    return f"| {margin} | {rms[0]:.4f} | {rms[1]:.4f} | {np.quantile(apart, 0.999):.3f} |"


def faults(options: argparse.Namespace) -> None:
    """Kill workers while two of them go through good and bad movies; count what was lost."""
    shape = (16, 64, 64)
    with tempfile.TemporaryDirectory() as place:
        source, target = Path(place, "in"), Path(place, "out")
        make_movies(source, options.movies, shape)
        whole = (source / "movie0.tif").read_bytes()
        (source / "bad0.tif").write_bytes(whole[: len(whole) // 2])
        (source / "bad1.tif").write_bytes(b"no TIFF")
        np.save(source / "bad2.npy", np.zeros((1, 32, 32)))
        np.save(source / "bad3.npy", np.full((5, 32, 32), np.nan))
        killed: list[int] = []
        done = threading.Event()

        def kill() -> None:
            while not done.wait(6.0) and len(killed) < 3:
                workers = [
                    child
                    for child in psutil.Process().children(recursive=True)
                    if "spawn_main" in " ".join(child.cmdline()) and child.cpu_times().user > 2
                ]
                if workers:
                    os.kill(workers[0].pid, signal.SIGKILL)
                    killed.append(workers[0].pid)

        thread = threading.Thread(target=kill)
        thread.start()
        started = time.perf_counter()
        outcomes = denoise_many(
            source, target, BatchOptions(settings=settings(options.steps), workers=2)
        )
        done.set()
        thread.join()
        count = {word: sum(o.status == word for o in outcomes) for word in ("done", "failed")}
        readable = sum(
            bool(np.isfinite(read(target / f"movie{n}.tif").movie()).all())
            for n in range(options.movies)
        )
        again = denoise_many(
            source, target, BatchOptions(settings=settings(options.steps), workers=2)
        )
        skipped = sum(outcome.status == "skipped" for outcome in again)
        print(
            f"\nfaults: {len(killed)} workers killed, {len(outcomes)} movies of which 4 bad, "
            f"{time.perf_counter() - started:.0f} s\n"
            f"done {count['done']}, refused in a sentence {count['failed']}, results whole "
            f"{readable} of {options.movies}, skipped by the second run {skipped}, "
            f"lines of the manifest {len(Manifest(target / FILE_NAME).read())}"
        )


if __name__ == "__main__":
    main()
