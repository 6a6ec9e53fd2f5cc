"""What each part of the method adds once it is learnt: one training for each variant.

``python benchmarks/ablation_trained.py --cache POOL`` trains the network of every variant from
random weights, with the same steps on the same simulated scenes (those of `pretrain.py`), and
scores each on movies that none of them saw, with no fit. It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from _batches import ScenePool
from _common import Truth, machine, machine_line, use_threads, write_results
from _flow_denoising import MOVIES, prepare_known, simulate_kind
from _pool import FIRST_TRAINING_SEED, Scene, load_or_make
from ablation import NoExpansion, Row, ablation_table, whole_mean, whole_prior
from napari_stbn._fit_path import FitPath
from napari_stbn._flow_routes import with_flow
from napari_stbn.flow import Flow, estimate_flow
from napari_stbn.flow.field import Alignment
from napari_stbn.network import STBN
from napari_stbn.prior import prior_mean
from napari_stbn.samples import SimulatedMovie
from pretrain import SIZES, Trainer

_FIRST_SEED = 1700  # of no other benchmark
_STAGES = ((0.0, 4, 16, 32),)


@dataclass(frozen=True)
class Network:
    """What is trained."""

    aligned: bool = True
    expansion: bool = True
    alignment: Alignment = "bilinear"


NETWORKS: dict[str, Network] = {
    "propagation": Network(aligned=False, expansion=False),
    "aligned": Network(expansion=False),
    "whole": Network(),
    "nearest": Network(alignment="nearest"),
}
# Column: the network, and what its flow is estimated between.
COLUMNS: dict[str, tuple[str, str]] = {
    "propagation": ("propagation", "none"),
    "+ alignment": ("aligned", "noisy"),
    "+ expansion": ("whole", "noisy"),
    "+ refined flow": ("whole", "predicted"),
    "the same, nearest": ("nearest", "predicted"),
    "true flow": ("whole", "true"),
    "true, nearest": ("nearest", "true"),
}


def main() -> None:
    """Train what is not trained yet, score, print and write."""
    options = _options()
    use_threads(options.threads)
    if options.quick:
        options.steps, options.scenes, options.frames, options.size = 3, 2, 6, 32
        options.movies, options.photons = ["slow"], [20.0]
    cache: Path = options.cache
    scenes = [load_or_make(FIRST_TRAINING_SEED + n, cache) for n in range(options.scenes)]
    models = {name: _trained(name, scenes, options) for name in NETWORKS}
    rows: list[Row] = []
    for number, kind in enumerate(options.movies):
        for photons in options.photons:
            shape = (options.frames, options.size, options.size)
            made = simulate_kind(kind, shape, photons, _FIRST_SEED + number)
            rows += [
                {"movie": kind, "photons": photons, "variant": column, "psnr": psnr}
                for column, psnr in _scores(made, models).items()
            ]
    report = f"{ablation_table(rows)}\n\n{machine_line(machine(options.threads))}"
    print(f"\n{report}")
    if options.output is not None:
        content = {"machine": machine(options.threads), "steps": options.steps, "rows": rows}
        write_results(options.output, content, report)


def _options() -> argparse.Namespace:
    """Command line; what `Trainer` asks for, too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder of scenes and states")
    parser.add_argument("--steps", type=int, default=4000, help="of each training")
    parser.add_argument("--scenes", type=int, default=480, help="movies that are simulated")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--movies", nargs="+", choices=MOVIES, default=list(MOVIES))
    parser.add_argument("--photons", type=float, nargs="+", default=[5.0, 20.0, 100.0])
    parser.add_argument("--size", type=int, default=80, help="side of a frame [px]")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="tiny: does it run?")
    parser.add_argument("--output", type=Path, help="write OUTPUT.json and OUTPUT.md too")
    parser.set_defaults(
        hours=None, minutes=0.0, start=None, times=1, stop_after=None, validate_every=0.0
    )
    return parser.parse_args()


def _trained(name: str, scenes: list[Scene], options: argparse.Namespace) -> STBN:
    """One network after its training, with averaged weights."""
    network = NETWORKS[name]
    model = _network(network, options.seed)
    if not network.aligned:
        scenes = [_still(scene) for scene in scenes]
    trainer = Trainer(
        model,
        ScenePool(scenes, torch.device("cpu")),
        options,
        "bfloat16",
        None,
        name=f"ablation_{name}_{options.steps}",
        stages=_STAGES,
    )
    trainer.paired = trainer.paired and network.expansion  # which knows the whole network alone
    trainer.run()
    print(
        f"{name}: {trainer.step} steps in {trainer.elapsed:.0f} s, loss {trainer.recent:.4f}",
        flush=True,
    )
    return model.eval()


def _network(network: Network, seed: int) -> STBN:
    """With random weights."""
    config = replace(SIZES["small"], alignment=network.alignment)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = STBN(config)
        if not network.expansion:
            model.expand = NoExpansion(config.width)  # type: ignore[assignment]
    model.place(torch.device("cpu"))
    return model


def _still(scene: Scene) -> Scene:
    """The same movie along no motion."""
    none = torch.zeros_like(scene.flow_to_previous)
    return replace(
        scene,
        flow_to_previous=none,
        flow_to_next=none,
        clean_to_previous=none,
        clean_to_next=none,
    )


def _scores(made: SimulatedMovie, models: dict[str, STBN]) -> dict[str, float]:
    """PSNR [dB] of the posterior mean of one movie, for each column."""
    still = prepare_known(made).movies[0, 0]
    noisy = with_flow(still, estimate_flow(made.noisy.astype(np.float32), "dis"))
    truth = Truth(made.clean, made.events)
    scores = {}
    for column, (name, source) in COLUMNS.items():
        path = FitPath(models[name], "float32")
        path.paired = False
        movie = still
        if source == "noisy":
            movie = noisy
        elif source == "true":
            movie = with_flow(still, Flow(made.flow_to_previous, made.flow_to_next))
        elif source == "predicted":
            first = prior_mean(whole_prior(path, still), still.units)[0, :, 0].numpy()
            movie = with_flow(still, estimate_flow(first, "dis_fine"))
        scores[column] = truth.psnr(whole_mean(path, movie))
    print("; ".join(f"{column} {psnr:.2f}" for column, psnr in scores.items()), flush=True)
    return scores


if __name__ == "__main__":
    main()
