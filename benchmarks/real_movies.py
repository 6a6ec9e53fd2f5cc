"""Real movies through the command line: time, memory, numbers without a truth, pictures to look at.

``python benchmarks/real_movies.py --seconds 120`` writes pictures and numbers to a folder; the
movies are not part of the repository. See README.md here for how to read what it makes.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

import napari_stbn as stbn
from _common import Format, machine, machine_line, markdown_table, use_threads, write_results
from _residual import measures, standardise
from napari_stbn.noise import noise_from_dict
from napari_stbn.pictures import Panel, side_by_side, write_picture

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
MOVIES: dict[str, list[str]] = {  # file -> further options of the command line
    "ecoli_ctzyx.tif": [],
    "cho_tzyx.tif": [],
    "twophoton_tyx.tif": ["--frames", "0:200"],
    "nuclei_tyx.tif": [],
}
COST: dict[str, tuple[str, Format]] = {
    "movie": ("movie", "s"),
    "shape": ("shape", "s"),
    "steps": ("steps", "d"),
    "fit_seconds": ("fit [s]", ".0f"),
    "denoise_seconds": ("denoising [s]", ".1f"),
    "wall_seconds": ("whole command [s]", ".0f"),
    "peak_gb": ("peak memory [GB]", ".2f"),
}
RESIDUAL: dict[str, tuple[str, Format]] = {
    "movie": ("movie", "s"),
    "std": ("residual std", ".3f"),
    "std_expected": ("expected", ".3f"),
    "x": ("corr. x", "+.3f"),
    "y": ("corr. y", "+.3f"),
    "t": ("corr. t", "+.3f"),
    "low_pass": ("low-passed", ".2f"),
    "border": ("border / centre", ".3f"),
    "first_frame": ("first frame", ".3f"),
    "middle_frames": ("middle", ".3f"),
    "last_frame": ("last", ".3f"),
}
IMAGE: dict[str, tuple[str, Format]] = {
    "movie": ("movie", "s"),
    "brightness_first": ("brightness, first frame", ".4f"),
    "brightness_last": ("last", ".4f"),
    "brightness_worst": ("worst", ".4f"),
    "period_2": ("2 px lattice", ".2f"),
    "period_2_uncertainty": ("in uncertainty", ".2f"),
    "period_2_noisy": ("in noisy", ".2f"),
    "period_4": ("4 px lattice", ".2f"),
    "period_4_uncertainty": ("in uncertainty", ".2f"),
    "period_4_noisy": ("in noisy", ".2f"),
}
_CROP = 64  # px
_WIDE = 480  # px that a frame should at least take up in a picture
_POLL = 0.05  # s between looks at the memory


def main() -> None:
    """Denoise each movie, measure, draw."""
    options, further = _options()
    use_threads(options.threads)
    folder = options.output or Path(tempfile.mkdtemp(prefix="stbn-real-movies-"))
    folder.mkdir(parents=True, exist_ok=True)
    costs: list[Row] = []
    rows: list[Row] = []
    for name in options.movies or MOVIES:
        path = options.data / name
        if not path.exists():
            print(f"{name} is left out: there is no {path}; name its folder with --data.")
            continue
        cost, of_movie = _run(path, folder, options, further)
        costs.append(cost)
        rows += of_movie
    if not costs:
        return
    here = machine(options.threads)
    text = "\n\n".join(
        [
            markdown_table(COST, costs),
            markdown_table(RESIDUAL, rows),
            markdown_table(IMAGE, rows),
            machine_line(here),
        ]
    )
    print(f"\n{text}\n\npictures: {folder}")
    write_results(folder / "real_movies", {"machine": here, "cost": costs, "rows": rows}, text)


def _options() -> tuple[argparse.Namespace, list[str]]:
    """Command line; what it does not know goes to ``napari-stbn denoise``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        default=ROOT.parent / "shared" / "data" / "movies",
        help="folder of the movies",
    )
    parser.add_argument("--movies", nargs="+", help="files in that folder, or paths")
    parser.add_argument("--seconds", type=float, default=120.0, help="budget of each fit")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "-o", "--output", type=Path, help="folder for pictures and numbers; a temporary one if not"
    )
    return parser.parse_known_args()


def _run(
    path: Path, folder: Path, options: argparse.Namespace, further: list[str]
) -> tuple[Row, list[Row]]:
    """Denoise one movie by the command line, then look at what it wrote."""
    extra = MOVIES.get(path.name, [])
    denoised, uncertainty, report = (
        folder / f"{path.stem} {what}"
        for what in ("denoised.tif", "uncertainty.tif", "report.json")
    )
    files = [path, "-o", denoised, "--uncertainty", uncertainty, "--report", report]
    command = ["denoise", *map(str, files), "--force", "--time-budget", str(options.seconds)]
    command += [*extra, *further]
    print(f"\n$ napari-stbn {shlex.join(command)}", flush=True)
    wall, peak = _measured(command, options.threads)
    said = json.loads(report.read_text(encoding="utf-8"))
    noisy = stbn.read(path, axes=said["axes"])
    results = [stbn.read(file) for file in (denoised, uncertainty)]  # an order of axes of their own
    cost = {
        "movie": path.stem,
        "shape": " x ".join(f"{a} {n}" for a, n in zip(said["axes"], said["shape"], strict=True)),
        "steps": said["steps"],
        "fit_seconds": said["fit_seconds"],
        "denoise_seconds": said["denoise_seconds"],
        "wall_seconds": wall,
        "peak_gb": peak / 1e9,
        "noise": said["noise"],
        "notes": said["notes"],
    }
    frames = slice(*_first_and_end([*extra, *further]))
    rows = []
    for channel in range(noisy.n_channels):
        model = noise_from_dict(said["noise"][str(channel)])
        for plane in sorted({0, noisy.n_planes // 2, noisy.n_planes - 1}):
            where = path.stem
            if len(noisy.indices()) > 1:
                where += f" c{channel} z{plane}"
            movies = [noisy.movie(channel, plane, frames=frames)]
            movies += [result.movie(channel, plane) for result in results]
            rows.append({"movie": where, **measures(movies[0], movies[1], movies[2], model)})
            residual, _ = standardise(movies[0], movies[1], movies[2], model)
            picture = _picture(movies, residual)
            write_picture(folder / f"{where}.png", picture)
    return cost, rows


def _measured(arguments: Sequence[str], threads: int) -> tuple[float, int]:
    """Run the command line; seconds it took, and its largest memory [bytes].

    The memory is that of the process and its children, looked at again and again.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT / "src")}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "napari_stbn.cli", *arguments], env=environment
    )
    watched = psutil.Process(process.pid)
    peak = 0
    while process.poll() is None:
        try:
            family = [watched, *watched.children(recursive=True)]
            peak = max(peak, sum(member.memory_info().rss for member in family))
        except psutil.NoSuchProcess:
            continue  # one of them ended while it was looked at
        time.sleep(_POLL)
    if process.returncode:
        raise SystemExit(f"napari-stbn denoise ended with exit status {process.returncode}")
    return time.perf_counter() - started, peak


def _first_and_end(arguments: Sequence[str]) -> tuple[int | None, int | None]:
    """Frames that ``--frames FIRST:END`` asks for; all without it."""
    if "--frames" not in arguments:
        return None, None
    last = len(arguments) - 1 - list(arguments)[::-1].index("--frames")
    first, end = (int(part) if part else None for part in arguments[last + 1].split(":"))
    return first, end


def _picture(movies: Sequence[NDArray[Any]], residual: NDArray[np.float64]) -> NDArray[np.uint8]:
    """First, middle and last frame, each below as its busiest crop enlarged."""
    noisy, denoised, uncertainty = movies
    low, high = (float(q) for q in np.nanquantile(denoised, [0.001, 0.9995]))
    margin = 0.05 * (high - low)
    doubt = float(np.nanquantile(uncertainty, 0.999))
    height, width = denoised.shape[1:]
    zoom = max(1, round(_WIDE / max(height, width)))
    pictures = []
    for t in (0, len(noisy) // 2, len(noisy) - 1):
        frame = [
            Panel(f"noisy, frame {t}", noisy[t], low - margin, high + margin),
            Panel("denoised", denoised[t], low - margin, high + margin),
            Panel(f"uncertainty, 0 to {doubt:.3g}", uncertainty[t], 0.0, doubt),
            Panel("residual / noise std, -4 to 4", residual[t], -4.0, 4.0),
        ]
        pictures.append(side_by_side([frame], zoom))
        box = _busiest(denoised[t])
        crops = [Panel("", panel.image[box], panel.low, panel.high) for panel in frame]
        pictures.append(side_by_side([crops], max(1, zoom * width // crops[0].image.shape[1])))
    widest = max(picture.shape[1] for picture in pictures)
    return np.concatenate(
        [np.pad(p, ((0, 0), (0, widest - p.shape[1])), constant_values=24) for p in pictures]
    )


def _busiest(frame: NDArray[Any]) -> tuple[slice, slice]:
    """The square of a frame whose values vary most."""
    height, width = (min(_CROP, n) for n in frame.shape)
    corners = [
        (y, x)
        for y in {*range(0, frame.shape[0] - height + 1, 16), frame.shape[0] - height}
        for x in {*range(0, frame.shape[1] - width + 1, 16), frame.shape[1] - width}
    ]
    boxes = [(slice(y, y + height), slice(x, x + width)) for y, x in sorted(corners)]
    return max(boxes, key=lambda box: float(np.nanstd(frame[box])))


if __name__ == "__main__":
    main()
