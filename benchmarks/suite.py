"""Many movies, many methods: simulated ones with truth, real ones by pixels that were held out.

``python benchmarks/suite.py --seconds 60`` simulates every kind at three light levels;
``--elsewhere all`` adds scenes drawn by other means than the simulator's; ``--processed all`` what
people do to movies before they denoise them; ``--data FOLDER`` adds the real movies of a folder.
There a random 2 % of the pixels are replaced by a neighbour before any method sees the movie, and
predictions are scored on what was measured there: the same test for every method, whose
expectation is the true error plus that of the noise. It punishes a method for what it believes of
the pixel itself, the more the less noise a movie has. ``--added 10`` takes real movies for the
truth instead, with light and noise of a camera of ours: so many photons at their brightest.
``--natural FOLDER`` takes the video clips of a folder (a folder of frames each, in colour), with
Gaussian noise as in the paper. Peers, which know one channel, denoise the orthonormal opponent
colours of such a clip one by one, which suits them best.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.io import imread

import napari_stbn as stbn
from _common import (
    Format,
    Truth,
    machine,
    machine_line,
    markdown_table,
    use_threads,
    write_results,
)
from _elsewhere import SCENES, scene
from _peers import Peer, peers
from _processed import PROCESSES, processed
from napari_stbn.noise import estimate_noise
from napari_stbn.samples import KINDS

Row = dict[str, Any]
FIRST_SEED = 300_000  # of no training, validation, test or other benchmark
PHOTONS = (5.0, 20.0, 80.0)
HELD_OUT = 0.02
_WIDTHS = [(t, s) for t in (0.0, 0.5, 0.8, 1.2, 2.0) for s in (0.5, 0.8, 1.1, 1.6)]
GAUSSIAN = "Gaussian, best width"
_OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])


@dataclass(frozen=True)
class Movie:
    """One movie to denoise, with its way to score a result.

    Attributes
    ----------
    name : str
    noisy : ndarray, shape (T, Y, X), or (T, Y, X, 3) of a clip in colour
        What every method gets.
    noise : PoissonGaussianNoise or GaussianNoise
        What those that take one are told: the true one, or ours of a real movie.
    score : callable
        Of a denoised movie; higher is better [dB].
    truth : Truth or None
    """

    name: str
    noisy: NDArray[np.float32]
    noise: stbn.PoissonGaussianNoise | stbn.GaussianNoise
    score: Callable[[NDArray[Any]], float]
    truth: Truth | None


def main() -> None:
    """Denoise every movie by every method, print and write."""
    options = _options()
    use_threads(options.threads)
    if options.quick:
        options.shape, options.seconds = (8, 48, 48), [2.0]
        options.kinds, options.photons = ["mixed"], [20.0]
    here = machine(options.threads)
    rows: list[Row] = []
    for movie in _movies(options):
        row: Row = {"movie": movie.name, "noisy": movie.score(movie.noisy)}
        for name, denoised, seconds in _denoised(movie, options):
            row[name] = movie.score(denoised)
            row[f"seconds, {name}"] = seconds
            if movie.truth is not None and movie.truth.events.any():
                row[f"event, {name}"] = movie.truth.psnr(denoised, movie.truth.events)
            if movie.truth is not None:
                error = float(np.mean(denoised - movie.truth.clean))
                row[f"bias, {name}"] = 100 * error / movie.truth.span
            print(f"{movie.name}: {name} {row[name]:.2f} dB in {seconds:.0f} s", flush=True)
        rows.append(row)
    report = "\n\n".join([*_tables(rows), machine_line(here)])
    print(f"\n{report}")
    if options.output is not None:
        write_results(options.output, {"machine": here, "rows": rows}, report)


def _options() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0])
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--photons", type=float, nargs="+", default=list(PHOTONS))
    parser.add_argument("--shape", type=int, nargs=3, default=(32, 96, 96), metavar="N")
    parser.add_argument(
        "--elsewhere", nargs="*", default=[], choices=[*SCENES, "all"], help="scenes of no training"
    )
    parser.add_argument(
        "--processed", nargs="*", default=[], choices=[*PROCESSES, "all"], help="movies that were"
    )
    parser.add_argument("--data", type=Path, help="folder of real movies (TIFF)")
    parser.add_argument(
        "--added", type=float, nargs="*", default=[], help="real movies with noise added: photons"
    )
    parser.add_argument("--natural", type=Path, help="folder of clips, a folder of frames each")
    parser.add_argument("--clips", nargs="*", help="of these; all when left out")
    parser.add_argument("--sigma", type=float, default=30.0, help="their noise, of 255")
    parser.add_argument("--side", type=int, default=128, help="real movies are cropped to this")
    parser.add_argument("--frames", type=int, default=32, help="and to so many frames")
    parser.add_argument("--start", default="pretrained")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument(
        "--learners", action="store_true", help="peers that train on the movie too, as long as ours"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="does it run?")
    parser.add_argument("--output", type=Path, help="write OUTPUT.json and OUTPUT.md too")
    options = parser.parse_args()
    if "all" in options.elsewhere:
        options.elsewhere = list(SCENES)
    if "all" in options.processed:
        options.processed = list(PROCESSES)
    return options


def _movies(options: argparse.Namespace) -> Iterator[Movie]:
    """Simulated movies, then real ones."""
    for number, kind in enumerate(options.kinds):
        for level, photons in enumerate(options.photons):
            made = stbn.simulate(
                tuple(options.shape),
                kind=kind,
                photons=photons,
                seed=FIRST_SEED + 10 * number + level,
            )
            truth = Truth(made.clean, made.events)
            yield Movie(
                f"{kind}, {photons:g} photons",
                made.noisy.astype(np.float32),
                stbn.PoissonGaussianNoise(made.gain, made.offset, made.read_noise),
                truth.psnr,
                truth,
            )
    for name in options.elsewhere:
        seed = FIRST_SEED + 500 + list(SCENES).index(name)
        light = scene(name, tuple(options.shape), seed)
        for photons in options.photons:
            yield recorded(name, light, photons)
    for name in options.processed:
        yield from _processed(name, options)
    for path in sorted(options.data.glob("*.tif*")) if options.data is not None else ():
        if not options.added:
            yield _real(path, options)
        for photons in options.added:
            yield _with_noise(path, photons, options)
    for path in sorted(options.natural.iterdir()) if options.natural is not None else ():
        if options.clips is None or path.name in options.clips:
            yield _natural(path, options)


def _processed(name: str, options: argparse.Namespace) -> Iterator[Movie]:
    """Simulated movies that were processed; peers are told the standard deviation of the error.

    Scores leave out a margin of 6 pixels, which a registration has padded.
    """
    for number, kind in enumerate(("mixed", "nuclei")):
        made = stbn.simulate(
            tuple(options.shape), kind=kind, photons=20, seed=FIRST_SEED + 900 + number
        )
        noisy, clean = processed(name, made.noisy.astype(np.float64), made.clean.astype(np.float64))
        inside = np.s_[:, 6:-6, 6:-6]
        recorded = noisy[inside].min((1, 2)) < noisy[inside].max((1, 2))
        truth = Truth(clean[inside][recorded], np.zeros(clean[inside][recorded].shape, bool))
        error = float(np.std((noisy - clean)[inside][recorded]))

        def score(
            denoised: NDArray[Any], truth: Truth = truth, recorded: NDArray[Any] = recorded
        ) -> float:
            return truth.psnr(denoised[:, 6:-6, 6:-6][recorded])

        yield Movie(
            f"{kind}, {name}", noisy.astype(np.float32), stbn.GaussianNoise(error), score, None
        )


def _real(path: Path, options: argparse.Namespace) -> Movie:
    """A crop of a real movie with held-out pixels."""
    measured = _crop(path, options)
    rng = np.random.default_rng(0)
    hidden = rng.random(measured.shape) < HELD_OUT
    seen = measured.copy()
    seen[hidden] = _neighbours(measured, rng)[hidden]
    target = measured[hidden].astype(np.float64)
    span = float(np.percentile(measured, 99.9) - np.percentile(measured, 0.1))
    noise = estimate_noise(measured).model

    def score(denoised: NDArray[Any]) -> float:
        error = denoised[hidden].astype(np.float64) - target
        return float(10 * np.log10(span**2 / np.mean(error**2)))

    return Movie(path.stem, seen, noise, score, None)


def _with_noise(path: Path, photons: float, options: argparse.Namespace) -> Movie:
    """A crop of a real movie as the truth, seen by a camera with little light.

    Its own noise is a part of that truth, and limits every method alike.
    """
    measured = _crop(path, options)
    low, high = (float(np.percentile(measured, p)) for p in (0.1, 99.9))
    light = np.clip((measured - low) / (high - low), 0, 1.5)
    return recorded(path.stem, light, photons)


def recorded(name: str, light: NDArray[Any], photons: float) -> Movie:
    """What our camera makes of light of which 1 is so many photons."""
    camera = stbn.PoissonGaussianNoise(gain=2.0, offset=100.0, read_noise=1.6)
    clean = camera.offset + camera.gain * photons * light
    rng = np.random.default_rng(1)
    noisy = np.clip(np.rint(camera.simulate(clean, rng)), 0, 65535).astype(np.float32)
    truth = Truth(clean.astype(np.float32), np.zeros(clean.shape, bool))
    return Movie(f"{name}, {photons:g} photons", noisy, camera, truth.psnr, truth)


def _natural(path: Path, options: argparse.Namespace) -> Movie:
    """The middle of the first frames of a clip in colour, with Gaussian noise, not rounded."""
    files = sorted(path.iterdir())[: options.frames]
    clean = np.stack([_middle(imread(file).astype(np.float32), options.side) for file in files])
    noise = stbn.GaussianNoise(options.sigma)
    noisy = noise.simulate(clean, np.random.default_rng(2)).astype(np.float32)

    def score(denoised: NDArray[Any]) -> float:
        error = np.clip(denoised, 0, 255).astype(np.float64) - clean
        return float(np.mean(10 * np.log10(255**2 / np.mean(error**2, axis=(1, 2, 3)))))

    return Movie(f"{path.name}, sigma {options.sigma:g}", noisy, noise, score, None)


def _middle(frame: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The middle of a frame (Y, X, 3)."""
    top, left = (max(0, (length - side) // 2) for length in frame.shape[:2])
    return frame[top : top + side, left : left + side]


def _crop(path: Path, options: argparse.Namespace) -> NDArray[np.float32]:
    """The middle of the first frames of a real movie."""
    measured = _first_movie(path)[: options.frames].astype(np.float32)
    _, y, x = measured.shape
    top, left = max(0, (y - options.side) // 2), max(0, (x - options.side) // 2)
    return measured[:, top : top + options.side, left : left + options.side]


def _first_movie(path: Path) -> NDArray[Any]:
    """First channel and middle plane of a file, (T, Y, X)."""
    stack = stbn.read(path)
    return stack.movie(plane=stack.n_planes // 2)


def _neighbours(movie: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """For every pixel the value of one of its eight neighbours in the frame."""
    steps = np.array([(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx])
    chosen = steps[rng.integers(len(steps), size=movie.shape)]
    t, y, x = np.indices(movie.shape)
    rows = np.abs(y + chosen[..., 0])
    columns = np.abs(x + chosen[..., 1])
    rows = np.where(rows >= movie.shape[1], movie.shape[1] - 2, rows)
    columns = np.where(columns >= movie.shape[2], movie.shape[2] - 2, columns)
    return np.asarray(movie[t, rows, columns])


def _denoised(
    movie: Movie, options: argparse.Namespace
) -> Iterator[tuple[str, NDArray[Any], float]]:
    """Name, result and seconds of every method."""
    if not options.ours_only:
        rest = (0.0,) * (movie.noisy.ndim - 3)
        smoothed = [ndimage.gaussian_filter(movie.noisy, (t, s, s, *rest)) for t, s in _WIDTHS]
        yield GAUSSIAN, max(smoothed, key=movie.score), 0.0
        learning = max(options.seconds) if options.learners else None
        for name, denoise in peers(movie.noise, options.threads, learning).items():
            started = time.perf_counter()
            try:
                result = _in_parts(denoise, movie.noisy.astype(np.float64))
            except ValueError as error:
                print(f"{movie.name}: {name} refused it: {error}", flush=True)
                continue
            yield name, result, time.perf_counter() - started
    stack = stbn.Stack(movie.noisy, axes="TYXS"[: movie.noisy.ndim])
    for seconds in options.seconds:
        started = time.perf_counter()
        denoiser = stbn.Denoiser(options.preset, device="cpu", seed=0, start=options.start)
        result = denoiser.fit(stack, time_budget=seconds).denoise(stack).denoised
        yield f"napari-stbn, {seconds:g} s", result, time.perf_counter() - started


def _in_parts(denoise: Peer, noisy: NDArray[np.float64]) -> NDArray[Any]:
    """A movie denoised by a peer; one in colour as its opponent colours, one by one."""
    if noisy.ndim == 3:
        return denoise(noisy)
    parts = np.moveaxis(noisy @ _OPPONENT.T, -1, 0)
    return np.stack([denoise(np.ascontiguousarray(part)) for part in parts], -1) @ _OPPONENT


def _tables(rows: list[Row]) -> list[str]:
    """Scores of all movies, and medians."""
    kept = ("movie", "seconds", "event", "bias")
    names = list(dict.fromkeys(k for row in rows for k in row if not k.startswith(kept)))
    names.sort(key=lambda name: name.startswith("napari-stbn"))
    columns: dict[str, tuple[str, Format]] = {"movie": ("movie", "s")}
    columns |= {name: (f"{name} [dB]", ".2f") for name in names}
    middle: Row = {"movie": "median"} | {
        n: median(row[n] for row in rows if n in row) for n in names
    }
    others = [n for n in names if n != "noisy" and not n.startswith("napari-stbn")]
    tables = [markdown_table(columns, [*rows, middle])]
    summary = []
    for name in (n for n in names if n.startswith("napari-stbn")):
        gains = [row[name] - max(row[o] for o in ["noisy", *others] if o in row) for row in rows]
        summary.append(
            {
                "method": name,
                "median": median(gains),
                "least": min(gains),
                "worst": rows[int(np.argmin(gains))]["movie"],
                "seconds": median(row[f"seconds, {name}"] for row in rows),
            }
        )
    tables.append(
        markdown_table(
            {
                "method": ("ours", "s"),
                "median": ("above the best other, median [dB]", "+.2f"),
                "least": ("least [dB]", "+.2f"),
                "worst": ("on", "s"),
                "seconds": ("time with denoising, median [s]", ".0f"),
            },
            summary,
        )
    )
    simulated = [row for row in rows if f"bias, {names[-1]}" in row]
    if simulated:
        methods = [n for n in names if n != "noisy"]
        tables.append(
            markdown_table(
                {
                    "method": ("method, movies with truth", "s"),
                    "event": ("event PSNR, median of movies with events [dB]", ".2f"),
                    "bias": ("largest bias [% of the range]", ".2f"),
                },
                [
                    {
                        "method": name,
                        "event": float(
                            np.nanmedian([row.get(f"event, {name}", np.nan) for row in simulated])
                        ),
                        "bias": max(abs(row.get(f"bias, {name}", 0.0)) for row in simulated),
                    }
                    for name, key in ((n, f"event, {n}") for n in methods)
                ],
            )
        )
    return tables


if __name__ == "__main__":
    main()
