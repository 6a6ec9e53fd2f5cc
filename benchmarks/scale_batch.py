"""Many movies and large ones: throughput of workers, the seam of blocks, faults survived.

``./dev bench scale_batch`` prints what docs/batch.md says; each part alone with its name.
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
from napari_stbn._batch_blocks import Block, Pace, cut, plan_blocks
from napari_stbn._batch_manifest import FILE_NAME, Manifest
from napari_stbn.batch import BatchOptions, denoise_many
from napari_stbn.denoiser import DenoiseResult

_PIXELS = (0, 16, 32, 64)  # margins
Row = dict[str, Any]


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["throughput", "seam", "faults"])
    parser.add_argument("--movies", type=int, default=6)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--shape", type=int, nargs=3, default=(32, 128, 128))
    options = parser.parse_args()
    print(machine(len(os.sched_getaffinity(0))))
    for part in options.parts:
        if part == "seam":
            seam(options.steps)
        elif part == "throughput":
            print(throughput(options.movies, options.steps, tuple(options.shape)))
        elif part == "faults":
            print(faults(options.movies, options.steps))
        else:
            parser.error(f"there is no part {part}")


def settings(steps: int, **more: Any) -> RunSettings:
    """A fit of so many steps on the CPU."""
    return RunSettings(preset="preview", device="cpu", max_steps=steps, **more)


def make_movies(folder: Path, count: int, shape: tuple[int, int, int]) -> None:
    """Write simulated movies."""
    folder.mkdir()
    for number in range(count):
        movie = simulate(shape, seed=number)
        write(folder / f"movie{number}.tif", Stack(movie.noisy, "TYX"))


def throughput(movies: int, steps: int, shape: tuple[int, int, int]) -> list[Row]:
    """Movies an hour without workers, and on one and two that share the cores of this machine."""
    cores = len(os.sched_getaffinity(0))
    use_threads(cores)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        make_movies(Path(place, "in"), movies, shape)
        for workers in (0, 1, 2):
            started = time.perf_counter()
            outcomes = denoise_many(
                Path(place, "in"),
                Path(place, f"out{workers}"),
                BatchOptions(settings=settings(steps), workers=workers),
            )
            seconds = time.perf_counter() - started
            lost = [outcome.error for outcome in outcomes if outcome.status != "done"]
            if lost:
                raise RuntimeError(f"{len(lost)} movies were not done: {lost[0]}")
            rows.append(
                {
                    "workers": str(workers or "none, in this process"),
                    "threads": max(1, cores // max(1, workers)),
                    "seconds": round(seconds, 1),
                    "an_hour": round(3600 * len(outcomes) / seconds),
                }
            )
            print(rows[-1], flush=True)
    return rows


def seam(steps: int) -> None:
    """How far a block is from the whole movie, at cuts in time and in space."""
    use_threads(len(os.sched_getaffinity(0)))
    for flow in ("dis", "none"):
        print(f"\nflow {flow}: difference / posterior standard deviation")
        print("| cut in | margin | rms beside the cut | rms of all | 99.9 % below | largest |")
        print("|---|--:|--:|--:|--:|--:|")
        chosen = settings(steps, flow=flow, precision="float32")
        with tempfile.TemporaryDirectory() as place:
            path, stack, whole = _fitted(chosen, (96, 64, 64), Path(place, "long.stbn"))
            pace = Pace.of(chosen.training_config().clip_frames)
            last = plan_blocks((96, 64, 64), 2, pace)[-1]
            print(_row("time", path, stack, last, whole, axis=0), flush=True)
            path, stack, whole = _fitted(chosen, (24, 64, 160), Path(place, "wide.stbn"))
            for margin in _PIXELS:
                core = ((0, 24), (0, 64), (96, 160))
                block = Block(core, (*core[:2], (96 - margin, 160)))
                print(_row("space", path, stack, block, whole, axis=2), flush=True)


def _fitted(
    chosen: RunSettings, shape: tuple[int, int, int], path: Path
) -> tuple[Path, Stack, DenoiseResult]:
    """A model of a simulated movie in a file, the movie, and the whole of it denoised."""
    stack = Stack(simulate(shape, seed=3).noisy, "TYX")
    denoiser = chosen.denoiser()
    for _ in chosen.fit_steps(denoiser, stack):
        pass
    denoiser.save(path)
    return path, stack, Denoiser.load(path, device="cpu").denoise(stack)


def _row(
    cut_in: str, path: Path, stack: Stack, block: Block, whole: DenoiseResult, *, axis: int
) -> str:
    """A line of the table: one block, denoised alone, beside the same part of the whole."""
    part = Denoiser.load(path, device="cpu").denoise(cut(stack, block)).denoised[block.local("TYX")]
    where = block.index("TYX")
    apart = np.abs(part - whole.denoised[where]) / np.asarray(whole.uncertainty)[where]
    first = np.take(apart, 0, axis)
    rms = [float(np.sqrt((values**2).mean())) for values in (first, apart)]
    margin = block.core[axis][0] - block.outer[axis][0]
    return (
        f"| {cut_in} | {margin} | {rms[0]:.5f} | {rms[1]:.5f} | {np.quantile(apart, 0.999):.4f} | "
        f"{apart.max():.4f} |"
    )


def faults(movies: int, steps: int) -> Row:
    """Kill workers while two of them go through good and bad movies; count what was lost."""
    shape = (16, 64, 64)
    with tempfile.TemporaryDirectory() as place:
        source, target = Path(place, "in"), Path(place, "out")
        make_movies(source, movies, shape)
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
        chosen = BatchOptions(settings=settings(steps), workers=2)
        outcomes = denoise_many(source, target, chosen)
        done.set()
        thread.join()
        whole_results = sum(
            bool(np.isfinite(read(target / f"movie{n}.tif").movie()).all()) for n in range(movies)
        )
        again = denoise_many(source, target, chosen)
        return {
            "killed": len(killed),
            "movies": movies,
            "bad": len(outcomes) - movies,
            "seconds": round(time.perf_counter() - started),
            "done": sum(outcome.status == "done" for outcome in outcomes),
            "refused": sum(outcome.status == "failed" for outcome in outcomes),
            "whole": whole_results,
            "skipped": sum(outcome.status == "skipped" for outcome in again),
            "lines": len(Manifest(target / FILE_NAME).read()),
        }


if __name__ == "__main__":
    main()
