"""Time and memory of long movies, and what a killed process loses.

Each row runs in a process of its own: simulate a movie into a Zarr, fit ten steps to it, denoise it
into another Zarr under a memory limit. The network is very small and its memory is damped (its
weights are not what is measured), so that all rows take minutes. Rows are kept in a JSON file as
they are measured; a second call goes on from there.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import zarr

from _common import machine, use_threads

FRAMES = (50, 100, 200, 500, 1000, 2000)  # of 128 x 128 pixels
SIDES = (128, 256, 512, 1024)  # px, of 50 frames
SIDE, FEW = 128, 50
OVERLAPS = (0, 4, 8, 16, 32, 48)  # frames before a cut that are computed and thrown away
Row = dict[str, Any]


def main() -> None:
    """Measure the rows that are missing, then print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/scale.json"))
    parser.add_argument("--limit", type=float, default=2.0, help="memory limit in GB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kills", type=int, default=10, help="processes that are killed")
    parser.add_argument("--quick", action="store_true", help="three small rows and two kills")
    parser.add_argument("--row", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        frames, side = options.row
        print(json.dumps(measure(frames, side, options.limit, options.threads)))
        return
    wanted = [(t, SIDE) for t in FRAMES] + [(FEW, side) for side in SIDES[1:]]
    kills = options.kills
    if options.quick:
        wanted, kills = [(20, 64), (40, 64), (20, 128)], min(2, kills)
        options.output = options.output.with_name(f"quick-{options.output.name}")
    kept = json.loads(options.output.read_text()) if options.output.exists() else {}
    rows: dict[str, Row] = kept.get("rows", {})
    options.output.parent.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        content = {**kept, "machine": machine(options.threads), "rows": rows}
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    for frames, side in wanted:
        key = f"{frames} x {side} x {side}, limit {options.limit:g} GB"
        if key not in rows:
            rows[key] = in_own_process(frames, side, options)
            keep()
    if kept.get("kills") is None or kept["kills"]["processes"] < kills:
        kept["kills"] = kill(kills)
        keep()
    if not options.quick and "fade" not in kept:
        kept["fade"] = fade(options.threads)
        keep()
    report(list(rows.values()), kept, options)


def in_own_process(frames: int, side: int, options: argparse.Namespace) -> Row:
    """One row."""
    command = [sys.executable, __file__, "--row", str(frames), str(side)]
    command += ["--limit", str(options.limit), "--threads", str(options.threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    print(row, flush=True)
    return row


def measure(frames: int, side: int, limit: float, threads: int) -> Row:
    """Seconds of fit and of denoising, and the largest resident memory beside the libraries."""
    import torch

    from napari_stbn import Denoiser, read
    from napari_stbn.network import STBNConfig
    from napari_stbn.training import TrainingConfig

    use_threads(threads)
    tiny = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
    plan = TrainingConfig(max_steps=10)
    denoiser = Denoiser(
        device="cpu", network=tiny, start="fresh", precision="float32", memory_limit=limit
    )
    with tempfile.TemporaryDirectory(prefix="stbn-scale-") as name:
        folder = Path(name)
        for shape, warm in (((8, 32, 32), True), ((frames, side, side), False)):
            movie = folder / f"{shape[0]}-{shape[1]}.zarr"
            simulate_into(movie, shape)
            stack = read(movie)
            with Peak() as peak:
                started = time.perf_counter()
                denoiser.fit(stack, training=plan)
                fitted = time.perf_counter()
                if denoiser.model is None:
                    raise RuntimeError("the fit left no model")
                with torch.no_grad():
                    for parameter in denoiser.model.parameters():
                        parameter.mul_(0.7)
                denoiser.denoise_to(stack, folder / f"out-{warm}.zarr")
                ended = time.perf_counter()
    return {
        "frames": frames,
        "side": side,
        "fit_seconds": round(fitted - started, 2),
        "denoise_seconds": round(ended - fitted, 2),
        "peak_mb": round(peak.bytes / 1e6),
        "movie_mb": round(frames * side * side * 2 / 1e6, 1),
    }


class Peak:
    """Largest growth of this process's resident memory [bytes], looked at fifty times a second."""

    def __enter__(self) -> Self:
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss
        self.bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.bytes = max(self.bytes, self._process.memory_info().rss - self._before)


def simulate_into(path: Path, shape: tuple[int, int, int]) -> None:
    """A noisy movie in a Zarr, uint16: a short simulated one, repeated with fresh noise."""
    from napari_stbn.noise import PoissonGaussianNoise
    from napari_stbn.samples import simulate

    clean = simulate((8, 128, 128), seed=0).clean
    noise, rng = PoissonGaussianNoise(2.0, 100.0, 1.5), np.random.default_rng(0)
    frames, height, width = shape
    across = -(-height // 128)
    array = zarr.create_array(
        path,
        shape=shape,
        chunks=(1, min(height, 256), min(width, 256)),
        dtype=np.uint16,
        dimension_names=["t", "y", "x"],
    )
    for t in range(frames):
        back_and_forth = min(t % 14, 14 - t % 14)
        frame = np.tile(clean[back_and_forth], (across, across))[:height, :width]
        array[t] = np.clip(np.rint(noise.simulate(frame, rng)), 0, 65535).astype(np.uint16)


# ---------------------------------------------------------------- cuts in time


def fade(threads: int) -> list[Row]:
    """What a cut changes in the first frame behind it, in units of the noise."""
    from napari_stbn import Denoiser, simulate

    use_threads(threads)
    found = []
    for kind in ("mixed", "static"):
        noisy = simulate((2 * OVERLAPS[-1], 96, 96), seed=5, kind=kind).noisy
        denoiser = Denoiser("preview", device="cpu", precision="float32")
        denoiser.fit(noisy, axes="TYX", max_steps=60)
        middle = len(noisy) // 2
        whole = denoiser.denoise(noisy, axes="TYX").denoised[middle].astype(np.float64)
        model = denoiser.channel_noise[0]
        if model is None:
            raise RuntimeError("the fit left no noise model")
        sigma = np.sqrt(model.variance(whole))
        for overlap in OVERLAPS:
            part = denoiser.denoise(noisy[middle - overlap :], axes="TYX").denoised[overlap]
            rms = float(np.sqrt(np.mean(((part - whole) / sigma) ** 2)))
            found.append({"kind": kind, "overlap": overlap, "rms": round(rms, 5)})
            print(found[-1], flush=True)
    return found


# ---------------------------------------------------------------- killed processes

COMMAND = """
import sys, torch
from dataclasses import replace
from napari_stbn import _fit_parts
from napari_stbn.cli import main
from napari_stbn.network import STBNConfig
from napari_stbn.presets import PRESETS
torch.set_num_threads(1)
_fit_parts._SAVE_EVERY = 0.2
tiny = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
PRESETS["preview"] = replace(PRESETS["preview"], network=tiny)
sys.exit(main(sys.argv[1:]))
"""


def kill(times: int) -> Row:
    """Kill a run at random moments until so many were killed; compare with one that was not."""
    from napari_stbn import read

    chance = random.Random()
    killed, runs, equal = 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="stbn-scale-") as name:
        folder = Path(name)
        simulate_into(folder / "in.zarr", (24, 64, 64))
        started = time.perf_counter()
        if begin(folder, "whole.tif").wait() != 0:
            raise RuntimeError("the run that nobody disturbed failed")
        length = time.perf_counter() - started
        truth = np.asarray(read(folder / "whole.tif").array)
        while killed < times:
            process = begin(folder, "out.tif", "--resume")
            try:
                process.wait(chance.uniform(0.3, 1.0) * length)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
                continue
            runs += 1
            equal += bool(np.array_equal(np.asarray(read(folder / "out.tif").array), truth))
            (folder / "out.tif").unlink()
        if begin(folder, "out.tif", "--resume").wait() == 0:
            runs += 1
            equal += bool(np.array_equal(np.asarray(read(folder / "out.tif").array), truth))
    return {"processes": killed, "finished": runs, "equal": equal}


def begin(folder: Path, name: str, *options: str) -> subprocess.Popen[bytes]:
    """The command line in another process."""
    fit = ["--preset", "preview", "--start", "fresh", "--device", "cpu", "--precision", "float32"]
    fit += ["--max-steps", "150", "--patience", "0", "--checks", "50", *options]
    return subprocess.Popen(
        [
            *(sys.executable, "-c", COMMAND, "denoise", str(folder / "in.zarr")),
            *("-o", str(folder / name), *fit),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


# ---------------------------------------------------------------- tables


def exponent(rows: Sequence[Row], size: str) -> float:
    """Slope of the time of denoising against a size, both as logarithms."""
    sizes = [np.prod([row[part] for part in size.split()], dtype=float) for row in rows]
    seconds = [row["denoise_seconds"] for row in rows]
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def report(rows: Sequence[Row], kept: Row, options: argparse.Namespace) -> None:
    """Print the tables of docs/scale.md."""
    facts = ", ".join(f"{name} {value}" for name, value in machine(options.threads).items())
    print(f"\n{facts}, memory limit {options.limit:g} GB\n")
    print("| frames | side [px] | movie [MB] | fit [s] | denoise [s] | memory at the peak [MB] |")
    print("|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["side"], row["frames"])):
        print(
            f"| {row['frames']} | {row['side']} | {row['movie_mb']} | {row['fit_seconds']} | "
            f"{row['denoise_seconds']} | {row['peak_mb']} |"
        )
    for kind in ("mixed", "static") if "fade" in kept else ():
        steps = [f"{r['overlap']}: {r['rms']}" for r in kept["fade"] if r["kind"] == kind]
        print(f"\noverlap of a cut, {kind} scene, change in units of the noise: {', '.join(steps)}")
    along = [row for row in rows if row["side"] == SIDE]
    across = [row for row in rows if row["frames"] == FEW]
    if len(along) > 2 and len(across) > 2:
        print(f"\nexponent of time: {exponent(along, 'frames'):.2f} in frames, ", end="")
        print(f"{exponent(across, 'side side'):.2f} in pixels of a frame")
    kills = kept["kills"]
    print(
        f"\n{kills['processes']} processes killed at random moments; {kills['finished']} runs "
        f"finished from what they left, {kills['equal']} with the numbers of an undisturbed one"
    )


if __name__ == "__main__":
    main()
