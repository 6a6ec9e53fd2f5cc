"""Denoising with motion from several sources, all else fixed: part of ``flow.py denoise``."""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import napari_stbn as stbn
from _common import Format, Truth, markdown_table
from napari_stbn._fit_parts import Average
from napari_stbn._flow_updates import FlowUpdates, Form, follow_student
from napari_stbn._generators import last
from napari_stbn._hidden_pixels import predict_frames
from napari_stbn._refinement import reestimate_flow, refine_flow
from napari_stbn._start import pretrained_model
from napari_stbn.devices import free_memory
from napari_stbn.flow import Flow
from napari_stbn.flow.field import ALIGNMENTS, Alignment
from napari_stbn.inference import DenoisedWindow, denoise_frames, plan_inference
from napari_stbn.network import STBN
from napari_stbn.preparation import PreparedMovie, PreparedStack, prepare_stack
from napari_stbn.presets import PRESETS
from napari_stbn.samples import SimulatedMovie
from napari_stbn.samples.motion import simulate_motion
from napari_stbn.training import training_steps

Row = dict[str, Any]
MOVIES: dict[str, tuple[str, float, float]] = {  # motion, speed [px/frame], unevenness
    "slow": ("rotation", 1.0, 0.0),
    "fast": ("translation", 5.0, 0.0),
    "nonrigid": ("deformation", 3.0, 0.0),
    "static": ("static", 0.0, 0.0),
    "jerky": ("deformation", 3.0, 1.0),  # stops, starts and turns back
    "jolts": ("translation", 3.0, 1.0),
}
_SEED = 11


@dataclass
class Case:
    """One movie, ready for the network, and the network that every fit of it begins with."""

    simulated: SimulatedMovie
    prepared: PreparedStack
    model: STBN
    start: STBN  # motion is found with, as the package does
    warm: bool = True

    @property
    def movie(self) -> PreparedMovie:
        """The movie, with the flow that was set last."""
        return self.prepared.movies[0, 0]

    def set_flow(self, flow: Flow) -> None:
        """Use this flow from now on."""
        self.prepared.movies[0, 0] = replace(
            self.movie,
            flow_to_previous=torch.from_numpy(np.ascontiguousarray(flow.to_previous)).clone(),
            flow_to_next=torch.from_numpy(np.ascontiguousarray(flow.to_next)).clone(),
        )

    def estimated(self, method: Any) -> None:
        """Between the noisy frames."""
        self.set_flow(stbn.estimate_flow(self.simulated.noisy, method))

    def along_none(self) -> None:
        """Between frames that the model predicts along no motion."""
        self.estimated("none")
        frames = last(predict_frames(self.start, self.movie, "float32"))
        self.set_flow(stbn.estimate_flow(frames, "dis_fine"))

    def refined(self, method: Any) -> None:
        """As a fit does that begins with learnt weights."""
        self.estimated("none")
        for _ in refine_flow(self.start, self.prepared, method):
            pass

    def reestimated(self, rounds: int) -> None:
        """Again, on the prediction along that flow; the best of them, by hidden pixels."""
        self.refined("dis")
        for _ in range(rounds):
            last(reestimate_flow(self.model, self.movie, "dis"))

    def aligned(self, source: str, alignment: Alignment) -> None:
        """Another alignment than the model's own, along the flow of another source."""
        SOURCES[source](self)
        self.model.config = replace(self.model.config, alignment=alignment)

    def distilled(self) -> None:
        """The default, until a student has learnt in a fit."""
        self.refined("dis")


SOURCES: dict[str, Callable[[Case], None]] = {
    "none": lambda case: case.estimated("none"),
    "dis": lambda case: case.estimated("dis"),
    "dis_multi": lambda case: case.estimated("dis_multi"),
    "auto": lambda case: case.estimated("auto"),
    "along none": lambda case: case.along_none(),
    "default": lambda case: case.refined("dis"),
    "blend": lambda case: case.estimated("blend"),
    "default, blend": lambda case: case.refined("blend"),
    "default, auto": lambda case: case.refined("auto"),
    "reestimated": lambda case: case.reestimated(1),
    "distilled": lambda case: case.distilled(),
    "true": lambda case: case.set_flow(
        Flow(case.simulated.flow_to_previous, case.simulated.flow_to_next)
    ),
}
"""Where motion comes from, by name."""
for _name, _alignment in product(("none", "dis", "blend", "default", "true"), ALIGNMENTS):
    SOURCES[f"{_name}, {_alignment}"] = partial(Case.aligned, source=_name, alignment=_alignment)
_IN_THE_FIT: dict[str, Form] = {"reestimated": "reestimate", "distilled": "distill"}


def denoising_tables(options: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """PSNR for every movie, light, number of steps and source of motion."""
    names = options.sources or list(SOURCES)
    rows: list[Row] = []
    for kind in options.movies:
        for photons in options.photons:
            for seed in options.seeds:
                rows += _rows_of(kind, photons, seed, names, options)
    text = []
    for steps in options.steps:
        title = (
            f"after a fit of {steps} steps" if steps else "with the weights of the start, no fit"
        )
        text += [f"**PSNR [dB], {title}**", _table(rows, steps, names)]
    return rows, text


def _rows_of(
    kind: str, photons: float, seed: int, names: list[str], options: argparse.Namespace
) -> list[Row]:
    """One movie, all sources of motion."""
    shape = (options.frames, options.size, options.size)
    simulated = simulate_kind(kind, shape, photons, _SEED + seed)
    truth = Truth(simulated.clean, simulated.events)
    rows: list[Row] = []
    for name in names:
        case = known_case(simulated, options.start)
        started = time.perf_counter()
        SOURCES[name](case)
        for steps in options.steps:
            if not steps and name == "distilled":
                continue  # nothing is learnt without a fit
            if steps:
                _fit(case, steps, seed, name)
            row = {
                "movie": kind,
                "photons": photons,
                "seed": seed,
                "source": name,
                "steps": steps,
                "psnr": truth.psnr(denoised(case)),
                "route": route.sentence if (route := case.prepared.routes.get((0, 0))) else None,
                "seconds": time.perf_counter() - started,
            }
            rows.append(row)
            print(f"  {kind}, {photons:g}, {name}, {steps} steps: {row['psnr']:.2f} dB", flush=True)
    return rows


def simulate_kind(
    kind: str, shape: tuple[int, int, int], photons: float, seed: int
) -> SimulatedMovie:
    """One of `MOVIES`."""
    motion, speed, unsteady = MOVIES[kind]
    return simulate_motion(
        shape,
        motion=motion,
        speed=speed,
        photons=photons,
        read_noise=1.6,
        unsteady=unsteady,
        seed=seed,
    )


def prepare_known(simulated: SimulatedMovie) -> PreparedStack:
    """Ready for the network, its noise known, along no flow."""
    return last(
        prepare_stack(
            stbn.Stack(simulated.noisy, axes="TYX"),
            joint=False,
            noise=stbn.PoissonGaussianNoise(simulated.gain, simulated.offset, simulated.read_noise),
            flow="none",
            known_noise={},
            known_scaling={},
        )
    )


def known_case(simulated: SimulatedMovie, start: str = "pretrained") -> Case:
    """Noise known, no flow yet, the weights that come with the package or random ones."""
    config = PRESETS["balanced"].network
    model = STBN.seeded(config, 0) if start == "fresh" else pretrained_model(config)
    if model is None:
        raise RuntimeError("the package comes with no weights for this network")
    fitted, first = (copy.deepcopy(model).eval() for _ in range(2))
    return Case(simulated, prepare_known(simulated), fitted, first, warm=start != "fresh")


def _fit(case: Case, steps: int, seed: int, source: str) -> None:
    """Fit on, as the denoiser does."""
    plan = replace(PRESETS["balanced"].training, max_steps=steps, time_budget=None, checks=2)
    generator = torch.Generator().manual_seed(seed)
    average = Average(case.model, plan.averaging)
    form = _IN_THE_FIT.get(source)
    updates = None if form is None else FlowUpdates(form, "dis", "float32", seed)
    for step in training_steps(
        case.model, [case.movie], plan, generator=generator, warm=case.warm, average=average
    ):
        if updates is not None:
            last(updates.after(step.part, case.model, average, [case.movie]))
    case.model.eval()
    if updates is not None and updates.student is not None:
        last(follow_student(updates.student, case.prepared, "dis"))
    elif updates is not None:
        SOURCES[source](case)


def denoised(case: Case) -> NDArray[np.float32]:
    """Posterior mean [counts]."""
    budget = free_memory(torch.device("cpu")) // 2
    plan = plan_inference(case.model, case.movie.shape, budget)
    pieces = [
        window.mean[:, 0].numpy()
        for window in denoise_frames(case.model, case.movie, plan)
        if isinstance(window, DenoisedWindow)
    ]
    return np.concatenate(pieces)


def _table(rows: list[Row], steps: int, names: list[str]) -> str:
    """A row for each movie and light, a column for each source; the mean below."""
    here = [row for row in rows if row["steps"] == steps]
    names = [name for name in names if any(row["source"] == name for row in here)]
    columns: dict[str, tuple[str, Format]] = {"movie": ("movie", "s"), "photons": ("photons", "s")}
    columns |= {name: (name, ".2f") for name in names}
    table: list[Row] = []
    for movie, photons in dict.fromkeys((row["movie"], row["photons"]) for row in here):
        line: Row = {"movie": movie, "photons": f"{photons:g}"}
        for name in names:
            line[name] = float(
                np.mean(
                    [
                        row["psnr"]
                        for row in here
                        if (row["movie"], row["photons"], row["source"]) == (movie, photons, name)
                    ]
                )
            )
        table.append(line)
    mean: Row = {"movie": "mean", "photons": ""}
    mean |= {name: float(np.mean([line[name] for line in table])) for name in names}
    return markdown_table(columns, [*table, mean])
