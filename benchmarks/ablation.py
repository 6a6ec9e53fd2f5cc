"""What each part of the method adds: fits from random weights with parts taken out.

``python benchmarks/ablation.py`` fits every variant to the same simulated movies with the same
steps, in the plain network, and scores the posterior mean against the truth. Rows as in the paper's
table 3, and the two ways to align.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from _common import Format, Truth, machine, machine_line, markdown_table, use_threads, write_results
from _flow_denoising import MOVIES, prepare_known, simulate_kind
from napari_stbn._fit_parts import Average, Schedule
from napari_stbn._fit_path import FitPath
from napari_stbn._flow_routes import with_flow
from napari_stbn.clips import Clip, ClipSampler
from napari_stbn.flow import estimate_flow
from napari_stbn.flow.field import Alignment
from napari_stbn.network import STBN
from napari_stbn.preparation import PreparedMovie
from napari_stbn.presets import PRESETS
from napari_stbn.prior import posterior, prior_mean
from napari_stbn.training import TrainingConfig

Row = dict[str, Any]
_FIRST_SEED = 900  # of no other benchmark
_ANEW = (0.25, 0.5)  # parts of a fit after which flow is estimated anew, on what is predicted then


@dataclass(frozen=True)
class Variant:
    """What a fit has."""

    aligned: bool = True  # along flow; else states stay where they are
    expansion: bool = True
    refined: bool = True  # flow between predicted frames, from a quarter of the fit on
    alignment: Alignment = "bilinear"


VARIANTS: dict[str, Variant] = {
    "propagation": Variant(aligned=False, expansion=False, refined=False),
    "+ alignment": Variant(expansion=False, refined=False),
    "+ expansion": Variant(refined=False),
    "+ refined flow": Variant(),
    "the same, nearest": Variant(alignment="nearest"),
}


class NoExpansion(nn.Module):
    """Both states of a frame joined pixel by pixel, instead of `SpatialExpansion`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2 * width, width, 1)

    def forward(self, past: Tensor, future: Tensor) -> Tensor:
        """Fuse two states (N, width, H, W)."""
        out: Tensor = self.mix(torch.cat([past, future], 1))
        return out


def main() -> None:
    """Fit every variant to every movie, print and write."""
    options = _options()
    use_threads(options.threads)
    if options.quick:
        options.movies, options.steps, options.size, options.frames = ["slow"], 4, 32, 6
    rows: list[Row] = []
    for kind in options.movies:
        for photons in options.photons:
            rows += _rows(kind, photons, options)
    report = f"{ablation_table(rows)}\n\n{machine_line(machine(options.threads))}"
    print(f"\n{report}")
    if options.output is not None:
        content = {"machine": machine(options.threads), "rows": rows}
        write_results(options.output, content, report)


def _options() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--movies", nargs="+", choices=MOVIES, default=["slow", "fast", "nonrigid", "static"]
    )
    parser.add_argument("--photons", type=float, nargs="+", default=[20.0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--size", type=int, default=64, help="side of a frame [px]")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="tiny: does it run?")
    parser.add_argument("--output", type=Path, help="write OUTPUT.json and OUTPUT.md too")
    return parser.parse_args()


def _rows(kind: str, photons: float, options: argparse.Namespace) -> list[Row]:
    """One movie, all variants."""
    shape = (options.frames, options.size, options.size)
    made = simulate_kind(kind, shape, photons, _FIRST_SEED + list(MOVIES).index(kind))
    still = prepare_known(made).movies[0, 0]
    moving = with_flow(still, estimate_flow(made.noisy.astype(np.float32), "dis"))
    truth = Truth(made.clean, made.events)
    rows: list[Row] = []
    for name in options.variants:
        variant = VARIANTS[name]
        movie = copy.deepcopy(moving if variant.aligned else still)
        denoised = _fit(variant, movie, options.steps)
        rows.append(
            {"movie": kind, "photons": photons, "variant": name, "psnr": truth.psnr(denoised)}
        )
        print(f"{kind}, {photons:g} photons, {name}: {rows[-1]['psnr']:.2f} dB", flush=True)
    return rows


def _fit(variant: Variant, movie: PreparedMovie, steps: int) -> NDArray[np.float32]:
    """Posterior mean [counts] after a fit from random weights."""
    preset = PRESETS["balanced"]
    config = replace(preset.network, alignment=variant.alignment)
    model = STBN.seeded(config, 0)
    if not variant.expansion:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model.expand = NoExpansion(config.width)  # type: ignore[assignment]
    model.place(torch.device("cpu"))
    training: TrainingConfig = replace(preset.training, max_steps=steps, time_budget=None)
    generator = torch.Generator().manual_seed(0)
    sampler = ClipSampler(
        [movie], training.clip_frames, training.clip_size, training.batch, generator
    )
    path = FitPath(model, "float32")
    path.paired = False  # which knows the whole network alone
    optimizer = torch.optim.Adam(
        model.parameters(), lr=training.learning_rate, betas=(0.9, 0.99), fused=True
    )
    schedule, average = Schedule(training), Average(model, training.averaging)
    anew = [int(part * steps) for part in _ANEW] if variant.refined else []
    for step in range(steps):
        if step in anew:
            average.swap()
            predicted = prior_mean(whole_prior(path, movie), movie.units)[0, :, 0].numpy()
            average.swap()
            found = estimate_flow(predicted, "dis")
            movie.flow_to_previous.copy_(torch.from_numpy(found.to_previous))
            movie.flow_to_next.copy_(torch.from_numpy(found.to_next))
        fraction = schedule.fraction(step)
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(step, fraction)
        optimizer.zero_grad(set_to_none=True)
        path.backward(sampler.draw(), training.beta * schedule.decay(fraction))
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.gradient_norm)
        optimizer.step()
        average.update(step + 1)
    average.swap()
    return whole_mean(path, movie)


def whole_mean(path: FitPath, movie: PreparedMovie) -> NDArray[np.float32]:
    """Posterior mean [counts] of the whole movie."""
    mean, _ = posterior(whole_prior(path, movie), movie.intensities[None], movie.units)
    result: NDArray[np.float32] = mean[0, :, 0].numpy()
    return result


@torch.no_grad()
def whole_prior(path: FitPath, movie: PreparedMovie) -> Tensor:
    """Prior (1, T, K, Y, X) of the whole movie."""
    whole = (
        movie.inputs,
        movie.intensities,
        movie.valid.float(),
        movie.flow_to_previous,
        movie.flow_to_next,
    )
    return path.prior(Clip.of([x[None] for x in whole], movie.units))


def ablation_table(rows: list[Row]) -> str:
    """A row for each movie and light, a column for each variant; the mean below."""
    names = list(dict.fromkeys(row["variant"] for row in rows))
    cells = {(row["movie"], row["photons"], row["variant"]): row["psnr"] for row in rows}
    columns: dict[str, tuple[str, Format]] = {"movie": ("movie", "s"), "photons": ("photons", "s")}
    columns |= {name: (name, ".2f") for name in names}
    table: list[Row] = [
        {"movie": movie, "photons": f"{photons:g}"}
        | {name: cells[movie, photons, name] for name in names}
        for movie, photons in dict.fromkeys((row["movie"], row["photons"]) for row in rows)
    ]
    mean: Row = {"movie": "mean", "photons": ""}
    mean |= {name: float(np.mean([line[name] for line in table])) for name in names}
    return markdown_table(columns, [*table, mean])


if __name__ == "__main__":
    main()
