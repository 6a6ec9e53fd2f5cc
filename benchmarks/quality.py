"""How well a simulated movie with known truth is denoised, beside classical methods.

``python benchmarks/quality.py --seconds 60 300`` prints a markdown table; see README.md here.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import napari_stbn as stbn
from _baselines import baselines
from _common import (
    Format,
    Truth,
    machine,
    machine_line,
    markdown_table,
    use_threads,
    write_results,
)
from napari_stbn._refinement import refine_flow
from napari_stbn.devices import free_memory
from napari_stbn.inference import DenoisedWindow, denoise_frames, plan_inference
from napari_stbn.preparation import PreparedStack, prepare_stack
from napari_stbn.presets import PRESETS
from napari_stbn.samples import KINDS, SimulatedMovie

Row = dict[str, Any]
COLUMNS: dict[str, tuple[str, Format]] = {
    "method": ("method", "s"),
    "psnr": ("PSNR [dB]", ".2f"),
    "ssim": ("SSIM", ".3f"),
    "event_psnr": ("event PSNR [dB]", ".2f"),
    "bias": ("bias [counts]", "+.2f"),
    "event_bias": ("event bias [counts]", "+.2f"),
    "seconds": ("time [s]", ".1f"),
}
OURS: dict[str, tuple[str, Format]] = {
    "method": ("fit", "s"),
    "steps": ("steps", "d"),
    "prior_psnr": ("PSNR of the prior mean [dB]", ".2f"),
    "within_1": ("truth within 1 std", ".1%"),
    "within_2": ("within 2 std", ".1%"),
    "held_out": ("held-out loss", ".4f"),
    "noise": ("noise as estimated", "s"),
}


def main() -> None:
    """Simulate, denoise by every method, print and write."""
    options = _options()
    use_threads(options.threads)
    if options.quick:
        options.shape, options.seconds = (8, 48, 48), [3.0]
    here = machine(options.threads)
    rows: list[Row] = []
    text: list[str] = []
    for kind in options.kinds:
        for seed in options.seeds:
            movie = stbn.simulate(
                tuple(options.shape), kind=kind, photons=options.photons, seed=seed
            )
            title = _title(movie)
            print(f"\n{title}", flush=True)
            of_movie = []
            for row in _rows(movie, options):
                of_movie.append({"kind": kind, "seed": seed, **row})
                print(
                    f"  {row['method']}: {row['psnr']:.2f} dB in {row['seconds']:.1f} s", flush=True
                )
            rows += of_movie
            text += [f"**{title}**", _tables(of_movie)]
    if len(options.kinds) * len(options.seeds) > 1:
        text = [f"**Mean of {len(text) // 2} movies**", _tables(_means(rows)), *text]
    text.append(machine_line(here))
    report = "\n\n".join(text)
    print(f"\n{report}")
    if options.output is not None:
        settings = {
            "shape": list(options.shape),
            "photons": options.photons,
            "seconds": options.seconds,
            "preset": options.preset,
        }
        write_results(options.output, {"machine": here, "settings": settings, "rows": rows}, report)


def _options() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[60.0, 300.0], help="budgets of the fit"
    )
    parser.add_argument(
        "--start", nargs="+", default=["pretrained"], help="pretrained, fresh, or saved models"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one movie for each")
    parser.add_argument("--kinds", nargs="+", default=["mixed"], choices=KINDS)
    parser.add_argument("--shape", type=int, nargs=3, default=(32, 128, 128), metavar="N")
    parser.add_argument(
        "--photons", type=float, default=20.0, help="99.9th percentile of the clean movie"
    )
    parser.add_argument("--preset", default="auto", choices=["auto", *PRESETS])
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--threads", type=int, default=2, help="of every method")
    parser.add_argument(
        "--output", type=Path, help="write OUTPUT.json and OUTPUT.md besides printing"
    )
    parser.add_argument("--ours-only", action="store_true", help="leave the baselines out")
    parser.add_argument(
        "--quick", action="store_true", help="tiny movie, 3 s, few settings: does it run?"
    )
    return parser.parse_args()


def _rows(movie: SimulatedMovie, options: argparse.Namespace) -> Iterator[Row]:
    """One row for each method, on one movie."""
    truth = Truth(movie.clean, movie.events)
    noise = stbn.PoissonGaussianNoise(movie.gain, movie.offset, movie.read_noise)
    yield {"method": "noisy", **truth.measures(movie.noisy), "seconds": 0.0}
    outcomes = baselines(movie.noisy, noise, truth, quick=options.quick)
    for outcome in () if options.ours_only else outcomes:
        yield {
            "method": f"{outcome.method} ({outcome.setting})",
            "family": outcome.method,
            **truth.measures(outcome.denoised),
            "seconds": outcome.seconds,
        }
    for start in options.start:
        for seconds in options.seconds:
            yield _ours(movie, truth, start, seconds, options)


def _ours(
    movie: SimulatedMovie, truth: Truth, start: str, seconds: float, options: argparse.Namespace
) -> Row:
    """Fit for some seconds and denoise; the noise is estimated, nothing is given."""
    stack = stbn.Stack(movie.noisy, axes="TYX")
    denoiser = stbn.Denoiser(options.preset, device=options.device, seed=0, start=start)
    started = time.perf_counter()
    denoiser.fit(stack, time_budget=seconds)
    result = denoiser.denoise(stack)
    elapsed = time.perf_counter() - started
    if result.uncertainty is None:
        raise RuntimeError("a fit with a noise model must come with its uncertainty")
    off = np.abs(result.denoised - truth.clean)
    held_out = result.report["held_out_loss"]
    noise = result.noise[0]
    return {
        "method": f"napari-stbn, {Path(start).stem}, {seconds:g} s",
        **truth.measures(result.denoised),
        "seconds": elapsed,
        "steps": result.report["steps"],
        "prior_psnr": truth.psnr(_prior_mean(denoiser, stack, result.report["refined_flow"])),
        "within_1": float(np.mean(off <= result.uncertainty)),
        "within_2": float(np.mean(off <= 2 * result.uncertainty)),
        "held_out": float(held_out[-1]) if held_out else None,
        "noise": "" if noise is None else _numbers(noise.to_dict()),
    }


def _prior_mean(denoiser: stbn.Denoiser, stack: stbn.Stack, refined: bool) -> NDArray[np.float32]:
    """The blind prediction, before it is fused with the pixel itself, (T, Y, X) [counts]."""
    if denoiser.model is None:
        raise RuntimeError("fit first")
    steps = prepare_stack(
        stack,
        joint=False,
        noise="estimate",
        flow="none" if refined else denoiser.flow,
        known_noise=denoiser.channel_noise,
        known_scaling=denoiser.channel_scaling,
    )
    prepared: PreparedStack | None = None
    while prepared is None:
        try:
            next(steps)
        except StopIteration as stop:
            prepared = stop.value
    if refined:
        for _ in refine_flow(denoiser.model, prepared, denoiser.flow):
            pass
    movie = prepared.movies[0, 0]
    plan = plan_inference(denoiser.model, movie.shape, free_memory(denoiser.device) // 2)
    windows = denoise_frames(denoiser.model, movie, plan)
    pieces = [w.prior[:, 0].cpu().numpy() for w in windows if isinstance(w, DenoisedWindow)]
    return np.concatenate(pieces)


def _title(movie: SimulatedMovie) -> str:
    """What the movie is, in one line."""
    t, y, x = movie.noisy.shape
    brightest = float(np.percentile(movie.photons, 99.9))
    return (
        f"{movie.kind} movie, seed {movie.seed}: {t} x {y} x {x}, mean {movie.photons.mean():.2f} "
        f"and 99.9th percentile {brightest:.0f} photoelectrons, gain {movie.gain:g}, "
        f"read noise {movie.read_noise:g}, offset {movie.offset:g}"
    )


def _tables(rows: list[Row]) -> str:
    """Every method, then what only ours has."""
    ours = [row for row in rows if "prior_psnr" in row]
    return f"{markdown_table(COLUMNS, rows)}\n\n{markdown_table(OURS, ours)}"


def _means(rows: list[Row]) -> list[Row]:
    """Average over movies, method by method; settings chosen on each movie are left out."""
    names = dict.fromkeys(row.get("family", row["method"]) for row in rows)
    out: list[Row] = []
    for name in names:
        same = [row for row in rows if row.get("family", row["method"]) == name]
        mean: Row = {"method": name}
        for key, value in same[0].items():
            if isinstance(value, int | float) and key != "seed":
                values = [row[key] for row in same if row[key] is not None]
                kind = int if key == "steps" else float
                mean[key] = kind(np.nanmean(values)) if np.isfinite(values).any() else None
        out.append(mean)
    return out


def _numbers(described: dict[str, Any]) -> str:
    """Parameters of a noise model in a few characters."""
    return ", ".join(f"{k} {v:.3g}" for k, v in described.items() if k != "kind")


if __name__ == "__main__":
    main()
