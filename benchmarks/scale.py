"""Time and memory of long movies, throughput of workers, faults survived, bad inputs tried.

``./dev bench scale`` prints the tables of docs/scale.md and docs/batch.md; parts alone with their
names. Each row of time and memory runs in a process of its own: simulate a movie into a Zarr, fit
ten steps to it, denoise it into another Zarr under a memory limit, motion and all. The network is
very small (its weights are not what is measured), so that all rows take minutes. What was measured
is kept in a JSON file; a second call goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from _common import machine, machine_line, markdown_table, use_threads
from _memory import Peak

FRAMES = (50, 100, 200, 500, 1000, 2000)  # of 128 x 128 pixels
SIDES = (128, 256, 512, 1024)  # px, of 50 frames
SIDE, FEW = 128, 50
LIMITS = {SIDE: 0.25}  # GB: of all but the first of these, the whole would take more
LIMIT = 2.0  # GB, where frames are larger
PARTS = ("sizes", "kills", "throughput", "faults", "inputs")
TESTS = Path(__file__).parent.parent / "tests" / "core"
OVERLAPS = (0, 4, 8, 16, 32, 48)  # frames before a cut that are computed and thrown away
Row = dict[str, Any]


def main() -> None:
    """Measure what is missing, then print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join((*PARTS, 'fade'))}; all but fade")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/scale.json"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kills", type=int, default=10, help="processes that are killed")
    parser.add_argument("--quick", action="store_true", help="small sizes: does everything run?")
    parser.add_argument("--row", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        frames, side = options.row
        print(json.dumps(measure(frames, side, options.threads)))
        return
    unknown = set(options.parts) - {*PARTS, "fade"}
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    if options.quick:
        options.kills = min(2, options.kills)
        options.output = options.output.with_name(f"quick-{options.output.name}")
    kept: Row = json.loads(options.output.read_text()) if options.output.exists() else {}
    options.output.parent.mkdir(parents=True, exist_ok=True)

    def keep(name: str, value: Any) -> None:
        kept.update({name: value, "machine": machine(options.threads)})
        options.output.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")

    for part in options.parts or PARTS:
        started = time.perf_counter()
        if part == "sizes":
            for frames, side in sizes(options.quick):
                rows = kept.get("rows", {})
                key = f"{frames} x {side} x {side}"
                if key not in rows:
                    keep("rows", {**rows, key: in_own_process(frames, side, options)})
        elif part not in kept:
            keep(part, _PARTS[part](options))
        seconds = time.perf_counter() - started
        print(f"{part}: {seconds:.0f} s", file=sys.stderr, flush=True)
    report(kept)


def sizes(quick: bool) -> list[tuple[int, int]]:
    """Frames and side of the movies whose time and memory are measured."""
    if quick:
        return [(20, 64), (40, 64), (20, 128)]
    return [(t, SIDE) for t in FRAMES] + [(FEW, side) for side in SIDES[1:]]


def in_own_process(frames: int, side: int, options: argparse.Namespace) -> Row:
    """One row."""
    command = [sys.executable, __file__, "--row", str(frames), str(side)]
    command += ["--threads", str(options.threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    print(row, flush=True)
    return row


def measure(frames: int, side: int, threads: int) -> Row:
    """Seconds of fit and of denoising, and the largest resident memory beside the libraries."""
    from napari_stbn import Denoiser, read
    from napari_stbn.network import STBNConfig
    from napari_stbn.training import TrainingConfig

    use_threads(threads)
    limit = LIMITS.get(side, LIMIT)
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
                streams = denoiser.streams(stack)
                denoiser.release()  # so that every row finds the motion of all its frames
                denoiser.denoise_to(stack, folder / f"out-{warm}.zarr")
                ended = time.perf_counter()
    return {
        "frames": frames,
        "side": side,
        "fit_seconds": round(fitted - started, 2),
        "denoise_seconds": round(ended - fitted, 2),
        "peak_mb": round(peak.bytes / 1e6),
        "movie_mb": round(frames * side * side * 2 / 1e6, 1),
        "limit_gb": limit,
        "fit_to": "parts" if streams else "all",
    }


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


def fade(options: argparse.Namespace) -> list[Row]:
    """What a cut changes in the first frame behind it, in units of the noise.

    With a model that sees whole movies, as released checkpoints do.
    """
    from napari_stbn import Denoiser, simulate

    use_threads(options.threads)
    found = []
    for kind in ("mixed", "static"):
        noisy = simulate((2 * OVERLAPS[-1], 96, 96), seed=5, kind=kind).noisy
        denoiser = Denoiser("preview", device="cpu", precision="float32")
        denoiser.fit(noisy, axes="TYX", max_steps=60)
        if denoiser.model is None:
            raise RuntimeError("the fit left no model")
        denoiser.model.clip_frames = None
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


def kill(options: argparse.Namespace) -> Row:
    """Kill a run at random moments until so many were killed; compare with one that was not."""
    from napari_stbn import read

    times = options.kills
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


# ---------------------------------------------------------------- batch


def throughput(options: argparse.Namespace) -> Row:
    """Movies an hour without workers, and on one and two that share the cores of this machine."""
    import scale_batch

    movies, steps, side = (2, 5, 64) if options.quick else (6, 60, 128)
    rows = scale_batch.throughput(movies, steps, (32, side, side))
    return {"movies": movies, "shape": [32, side, side], "steps": steps, "rows": rows}


def faults(options: argparse.Namespace) -> Row:
    """Workers killed amid good and bad movies."""
    import scale_batch

    return scale_batch.faults(2 if options.quick else 4, 30)


# ---------------------------------------------------------------- bad inputs


def inputs(options: argparse.Namespace) -> Row:
    """Run the fuzz suite on new cases, and count them."""
    chosen = ["-k", "settings or anything"] if options.quick else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header"]
    command += ["--hypothesis-show-statistics", *chosen]
    done = subprocess.run(
        [*command, *(str(TESTS / f"test_fuzz_{word}.py") for word in ("files", "movies"))],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=TESTS.parent.parent,
        env={**os.environ, "NAPARI_STBN_FUZZ": "1"},
    )
    count = {
        word: sum(map(int, re.findall(rf"(\d+) {word}\b", done.stdout)))
        for word in ("passing", "failing")
    }
    if not count["passing"]:
        raise RuntimeError(f"the fuzz suite told of no case: {done.stdout[-500:]}")
    return {"tried": sum(count.values()), "failing": count["failing"], "exit": done.returncode}


_PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "kills": kill,
    "throughput": throughput,
    "faults": faults,
    "inputs": inputs,
    "fade": fade,
}

# ---------------------------------------------------------------- tables


def exponent(rows: Sequence[Row], size: str) -> float:
    """Slope of the time of denoising against a size, both as logarithms."""
    sizes = [np.prod([row[part] for part in size.split()], dtype=float) for row in rows]
    seconds = [row["denoise_seconds"] for row in rows]
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def exponents(rows: Sequence[Row], size: str) -> str:
    """That of all rows and, as constants weigh less there, of the larger half of them."""
    rows = sorted(rows, key=lambda row: float(np.prod([row[part] for part in size.split()])))
    half = rows[-max(2, len(rows) // 2) :]
    return f"{exponent(rows, size):.2f} ({exponent(half, size):.2f} in the larger half)"


def report(kept: Row) -> None:
    """Print the tables of docs/scale.md and docs/batch.md."""
    print(f"\n{machine_line(kept['machine'])}\n")
    rows: list[Row] = list(kept.get("rows", {}).values())
    if rows:
        columns = {
            "frames": ("frames", "d"),
            "side": ("side [px]", "d"),
            "movie_mb": ("movie [MB]", "g"),
            "limit_gb": ("limit [GB]", "g"),
            "fit_to": ("fit to", "s"),
            "fit_seconds": ("fit [s]", ".1f"),
            "denoise_seconds": ("denoise [s]", ".1f"),
            "peak_mb": ("memory at the peak [MB]", "d"),
        }
        print(markdown_table(columns, sorted(rows, key=lambda row: (row["side"], row["frames"]))))
    along = [row for row in rows if row["side"] == SIDE]
    across = [row for row in rows if row["frames"] == FEW]
    if len(along) > 2 and len(across) > 2:
        print(
            f"\nexponent of the time of denoising: {exponents(along, 'frames')} in frames, ", end=""
        )
        print(f"{exponents(across, 'side side')} in pixels of a frame")
    for kind in ("mixed", "static") if "fade" in kept else ():
        steps = [f"{r['overlap']}: {r['rms']}" for r in kept["fade"] if r["kind"] == kind]
        print(f"\noverlap of a cut, {kind} scene, change in units of the noise: {', '.join(steps)}")
    if "throughput" in kept:
        done = kept["throughput"]
        print(f"\n{done['movies']} movies of {done['shape']}, {done['steps']} steps each\n")
        columns = {
            "workers": ("workers", "s"),
            "threads": ("threads of each", "d"),
            "seconds": ("seconds", ".0f"),
            "an_hour": ("movies an hour", ".0f"),
        }
        print(markdown_table(columns, done["rows"]))
    print("\n| what was done | how often | what came of it |\n|---|--:|---|")
    if "kills" in kept:
        kills = kept["kills"]
        print(
            f"| fits killed (SIGKILL) at random moments | {kills['processes']} | "
            f"{kills['finished']} runs finished from what they left, {kills['equal']} with the "
            "numbers of an undisturbed one |"
        )
    if "faults" in kept:
        batch = kept["faults"]
        print(
            f"| workers of a batch killed | {batch['killed']} | {batch['whole']} of "
            f"{batch['movies']} results whole; a second run skipped {batch['skipped']} |\n"
            f"| movies among them that are none | {batch['bad']} | {batch['refused']} refused in a "
            "sentence |"
        )
    if "inputs" in kept:
        tried = kept["inputs"]
        print(
            f"| bad and odd inputs (fuzz suite, new cases) | {tried['tried']} | "
            f"{tried['failing']} without a sentence or with a wrong shape |"
        )


if __name__ == "__main__":
    main()
