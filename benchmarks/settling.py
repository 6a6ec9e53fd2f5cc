"""How far a fit from learnt weights should be followed, and how far it is.

``./dev bench settling`` fits to simulated movies and denoises along the same motion with weights at
several parts of the way from start to fit, and with those that the package takes. See
docs/method.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

import napari_stbn as stbn
from _common import Format, Truth, machine, machine_line, markdown_table, use_threads, write_results
from _flow_denoising import MOVIES, denoised, known_case, simulate_kind
from napari_stbn import _fit, training
from napari_stbn._generators import last
from napari_stbn._settling import Settled, settle
from napari_stbn.presets import PRESETS
from napari_stbn.samples import SimulatedMovie

PARTS = (0.25, 0.5, 0.75, 1.0)
SCENES = (
    ("slow", 5.0), ("fast", 20.0), ("jerky", 20.0), ("nuclei", 10.0), ("blinking", 5.0),
    ("mixed", 20.0), ("membranes", 5.0), ("static", 20.0), ("filaments", 60.0), ("puncta", 4.0),
)  # fmt: skip
_FIRST_SEED = 700


def main() -> None:
    """Fit, denoise, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="side of a frame [px]")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--steps", type=int, nargs="+", default=[60, 200])
    parser.add_argument("--seeds", type=int, default=1, help="movies of each kind")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON and table")
    options = parser.parse_args()
    use_threads(options.threads)
    shape = options.frames, options.size, options.size
    rows = []
    for number, (kind, photons) in enumerate(SCENES):
        for repeat in range(options.seeds):
            seed = _FIRST_SEED + 100 * repeat + number
            made = (
                simulate_kind(kind, shape, photons, seed)
                if kind in MOVIES
                else stbn.simulate(shape, kind=kind, photons=photons, seed=seed)
            )
            for steps in options.steps:
                row = {"movie": kind, "photons": photons, "seed": seed, **fitted(made, steps)}
                rows.append(row)
                print("  ", {k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()})
    report = f"{_table(rows)}\n\n{machine_line(machine(options.threads))}"
    print(report)
    if options.output is not None:
        write_results(options.output, {"rows": rows}, report)


def fitted(made: SimulatedMovie, steps: int) -> dict[str, Any]:
    """PSNR [dB] of the start, of parts of the way, and of what is taken; the part."""
    truth, case = Truth(made.clean, made.events), known_case(made)
    case.refined("dis")
    parameters = list(case.model.parameters())
    ends: list[list[Tensor]] = [_copied(parameters)]
    out: dict[str, Any] = {"steps": steps, "start": truth.psnr(denoised(case))}

    def watched(*arguments: Any) -> Settled:
        ends.append(_copied(parameters))
        out["passes"] = arguments[3]
        settled = settle(*arguments)
        out["part"] = settled.part
        return settled

    plan = replace(PRESETS["balanced"].training, max_steps=steps, time_budget=None, checks=2)
    generator = torch.Generator().manual_seed(0)
    with patch.object(_fit, "settle", watched):
        last(
            training.training_steps(case.model, [case.movie], plan, generator=generator, warm=True)
        )
    case.model.eval()
    out["taken"] = truth.psnr(denoised(case))
    case.model.near.clear()  # parts of the way end without the last step
    for part in PARTS:
        with torch.no_grad():
            for parameter, begin, end in zip(parameters, *ends, strict=True):
                parameter.copy_(begin.lerp(end, part))
        out[f"{part:g}"] = truth.psnr(denoised(case))
    return out


def _copied(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Values as they are now."""
    return [p.detach().clone() for p in parameters]


def _table(rows: list[dict[str, Any]]) -> str:
    """Gains over the start, and their means for each number of steps."""
    gains = ("taken", *(f"{part:g}" for part in PARTS))
    lines = [
        {**row, "photons": f"{row['photons']:g}", **{g: row[g] - row["start"] for g in gains}}
        for row in rows
    ]
    for steps in dict.fromkeys(row["steps"] for row in rows):
        here = [line for line in lines if line["steps"] == steps and line["movie"] != "mean"]
        numbers = ("passes", "start", "part", *gains)
        mean = {name: float(np.mean([line[name] for line in here])) for name in numbers}
        lines.append({"movie": "mean", "photons": "", "steps": steps, **mean})
    columns: dict[str, tuple[str, Format]] = {
        "movie": ("movie", "s"),
        "photons": ("photons", "s"),
        "steps": ("steps", "d"),
        "passes": ("times each pixel was seen", ".1f"),
        "start": ("start [dB]", ".2f"),
        "part": ("part taken", ".2f"),
        "taken": ("gain of it", "+.2f"),
    }
    columns |= {f"{part:g}": (f"of {part:g}", "+.2f") for part in PARTS}
    return markdown_table(columns, lines)


if __name__ == "__main__":
    main()
