"""Train flow of our own on movies with exact flow, and measure it against dense inverse search.

``python benchmarks/train_flow.py train --state FOLDER --minutes 30`` can be stopped at any time and
called again: it goes on from the state in FOLDER. ``evaluate`` prints the end-point error on fresh
seeds by light; see docs/flow.md.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from _common import Format, machine, machine_line, markdown_table, use_threads
from _flow_data import exact_scenes, measured_scenes
from napari_stbn.flow import Flow, estimate_flow
from napari_stbn.flow.blend import BlendStream, FlowBlend, all_candidates, features
from napari_stbn.samples.motion import MOTIONS, STRUCTURES, simulate_motion
from napari_stbn.samples.simulation import KINDS, simulate

NAME = "net.safetensors"  # of the weights in the folder of the state
FIRST_SEED = 3_000_000  # of scenes to learn from; those of the evaluation are 7000 and more
LEVELS = (100.0, 30.0, 10.0, 3.0)
_SIZE, _FRAMES, _LIGHTS = 96, 6, 3
_CELLS = 16  # side of what a step looks at [cells]
_BATCH = 16
_RATE = 2e-3
_BACKGROUND = 0.1  # weight of cells where there is nothing to see
_FOREGROUND = 0.1  # of the 99.9th percentile
_SAVE_EVERY = 30.0  # s


def main() -> None:
    """Train, or evaluate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "evaluate"])
    parser.add_argument("--state", type=Path, required=True, help="folder of pool and weights")
    parser.add_argument("--minutes", type=float, default=30.0, help="train: how long from now on")
    parser.add_argument("--steps", type=int, default=20_000, help="train: until the rate is 0")
    parser.add_argument("--scenes", type=int, default=300, help="train: in the pool")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100], help="evaluate: fresh ones")
    parser.add_argument("--size", type=int, default=128, help="evaluate: side of a frame [px]")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(__file__).parents[1] / ".." / "shared" / "data" / "flow",
        help="evaluate: folder of pairs with measured flow",
    )
    options = parser.parse_args()
    use_threads(options.threads)
    options.state.mkdir(parents=True, exist_ok=True)
    if options.what == "train":
        train(options)
    else:
        evaluate(options)


def make_scene(seed: int) -> dict[str, Tensor]:
    """One scene at several levels of light: features, candidates, true flow and weights of cells.

    Three quarters have one even or uneven motion; the others are scenes as a microscope sees them,
    with objects that move by themselves, blink and bleach.
    """
    rng = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {"seen": [], "moves": [], "true": [], "weight": []}
    shape = (_FRAMES, _SIZE, _SIZE)
    # Speckle takes twenty times as long to draw as filaments do.
    structures = [s for s in STRUCTURES if s != "speckle" or seed % 4 == 0]
    if rng.random() < 0.75:
        movie = simulate_motion(
            shape,
            structure=str(rng.choice(structures)),
            motion=str(rng.choice(MOTIONS)),
            speed=float(np.exp(rng.uniform(np.log(0.3), np.log(10.0)))),
            unsteady=float(rng.choice([0.0, 0.3, 1.0])),
            photons=100.0,
            seed=seed,
        )
    else:
        movie = simulate(
            shape,
            kind=str(rng.choice(KINDS)),
            psf_sigma=float(rng.uniform(0.8, 2.0)),
            motion=float(np.exp(rng.uniform(np.log(0.3), np.log(2.5)))),
            bleaching=float(rng.choice([0.0, 0.3])),
            photons=100.0,
            seed=seed,
        )
    bright = movie.photons > _FOREGROUND * np.percentile(movie.photons, 99.9)
    for _ in range(_LIGHTS):
        light = np.exp(rng.uniform(np.log(2.0), np.log(200.0))) / 100.0
        read_noise = rng.uniform(0.5, 2.0)
        noisy = rng.poisson(movie.photons * light) + rng.normal(0, read_noise, shape)
        noisy = noisy.astype(np.float32)
        pair = int(rng.integers(_FRAMES - 1))
        flows = list(all_candidates(zip(*estimate_flow(noisy, "dis"), strict=True)))[pair]
        for way, seen in enumerate(features(noisy[pair], noisy[pair + 1], flows)):
            moves = np.stack([flow[way] for flow in flows])[:, :, 2::4, 2::4]
            true = (movie.flow_to_previous, movie.flow_to_next)[way][pair][:, 2::4, 2::4]
            weight = np.where(bright[pair + 1 - way], 1.0, _BACKGROUND)[2::4, 2::4]
            for name, value in zip(parts, (seen, moves, true, weight), strict=True):
                parts[name].append(value)
    return {
        k: torch.from_numpy(np.ascontiguousarray(np.stack(v), np.float16)).contiguous()
        for k, v in parts.items()
    }


def load_pool(state: Path, count: int) -> dict[str, Tensor]:
    """Scenes from the folder; those that are missing are made and kept."""
    scenes = []
    for number in range(count):
        path = state / f"scene{number:04d}.safetensors"
        if not path.exists():
            made = path.with_suffix(".part")
            save_file(make_scene(FIRST_SEED + number), made)
            made.rename(path)
            if number % 20 == 0:
                print(f"  scene {number} of {count}", flush=True)
        scenes.append(load_file(path))
    return {k: torch.cat([scene[k] for scene in scenes]) for k in scenes[0]}


def blend_loss(net: FlowBlend, seen: Tensor, moves: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """Robust end-point error of the blend: a few lost pixels must not decide."""
    flow = (net(seen)[:, :, None] * moves).sum(1)
    error = ((flow - true).square().sum(1) + 1e-2).pow(0.4)
    loss: Tensor = (error * weight).sum() / weight.sum()
    return loss


def train(options: argparse.Namespace) -> None:
    """Train from where the state is, for so many minutes."""
    started = time.perf_counter()
    pool = load_pool(options.state, options.scenes)
    torch.manual_seed(options.seed)
    net = FlowBlend()
    optimizer = torch.optim.Adam(net.parameters(), lr=_RATE)
    generator = torch.Generator().manual_seed(options.seed)
    path = options.state / "state.pt"
    step = 0
    if path.exists():
        kept = torch.load(path, weights_only=True)
        net.load_state_dict(kept["net"])
        optimizer.load_state_dict(kept["optimizer"])
        generator.set_state(kept["generator"])
        step = int(kept["step"])
    if not step:  # and the training goes on with those that it began with
        net.mean.copy_(pool["seen"].float().mean((0, 2, 3)))
        net.spread.copy_(pool["seen"].float().std((0, 2, 3)) + 1e-3)
    losses: list[float] = []
    saved = time.perf_counter()

    def keep() -> None:
        state = {
            "net": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "generator": generator.get_state(),
            "step": step,
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    net.train()
    while step < options.steps and time.perf_counter() - started < 60 * options.minutes:
        for group in optimizer.param_groups:
            group["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * step / options.steps))
        seen, moves, true, weight = draw(pool, generator)
        optimizer.zero_grad()
        loss = blend_loss(net, seen, moves, true, weight)
        loss.backward()
        optimizer.step()
        step += 1
        losses.append(float(loss.detach()))
        if step % 250 == 0:
            seconds = time.perf_counter() - started
            print(f"step {step}, loss {np.mean(losses):.4f}, {seconds:.0f} s", flush=True)
            losses.clear()
        if time.perf_counter() - saved > _SAVE_EVERY:
            keep()
            saved = time.perf_counter()
    keep()
    scales = ("mean", "spread")
    halved = {k: v if k in scales else v.half() for k, v in net.state_dict().items()}
    save_file(halved, options.state / NAME)
    print(f"{step} steps, {sum(p.numel() for p in net.parameters())} weights", flush=True)


def draw(pool: dict[str, Tensor], generator: torch.Generator) -> list[Tensor]:
    """Random parts of random pairs, turned and mirrored at random, all of a batch alike."""

    def below(n: int, *shape: int) -> Tensor:
        return torch.randint(n, shape, generator=generator)

    which = below(len(pool["seen"]), _BATCH)
    side = pool["seen"].shape[-1]
    y, x = (int(below(side - _CELLS + 1, 1)) for _ in range(2))
    quarter, mirror = int(below(4, 1)), bool(below(2, 1))
    out = []
    for name in ("seen", "moves", "true", "weight"):
        part = pool[name][which][..., y : y + _CELLS, x : x + _CELLS].float()
        if mirror:
            part = part.flip(-1)
        # Features are lengths and errors, no directions: the grid alone has to turn.
        out.append(part.rot90(quarter, (-2, -1)))
    return out


def load_net(path: Path) -> FlowBlend:
    """The trained network."""
    net = FlowBlend()
    net.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return net.eval()


def blended(net: FlowBlend, movie: np.ndarray) -> Flow:
    """Flow (T - 1 pairs) of a movie (T, Y, X) by a network."""
    stream = BlendStream(net)
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    plain = zip(*estimate_flow(movie, "dis"), strict=True)
    for this, other, pair in zip(movie, movie[1:], plain, strict=False):
        pairs += stream.add(this, other, pair)
    pairs += stream.finish()
    return Flow(*(np.stack(way) for way in zip(*pairs, strict=True)))


def evaluate(options: argparse.Namespace) -> None:
    """End-point error by light on fresh seeds: own, dense inverse search, what `auto` takes."""
    net = load_net(options.state / NAME)
    rows: dict[tuple[str, str, float], list[float]] = {}
    scenes = [*exact_scenes(options.seeds, LEVELS, options.size)]
    groups = [("exact", scene) for scene in scenes]
    groups += [(scene.motion, scene) for scene in measured_scenes(options.data, LEVELS)]
    for kind, scene in groups:
        flows = {
            "none": scene.estimated("none"),
            "dis": scene.estimated("dis"),
            "dis_multi": scene.estimated("dis_multi"),
            "auto": scene.estimated("auto"),
            "own": blended(net, scene.noisy),
        }
        for name, flow in flows.items():
            where = [kind] if kind != "exact" else [kind, scene.motion]
            for group in where:
                rows.setdefault((group, name, scene.photons), []).append(scene.error(flow))
    columns: dict[str, tuple[str, Format]] = {"group": ("movies", "s"), "name": ("method", "s")}
    columns |= {f"{p:g}": (f"{p:g} photons", ".3f") for p in LEVELS}
    table = [
        {
            "group": group,
            "name": name,
            **{f"{p:g}": float(np.mean(rows[group, name, p])) for p in LEVELS},
        }
        for group, name in dict.fromkeys((g, n) for g, n, _ in rows)
    ]
    print(markdown_table(columns, table))
    print(machine_line(machine(options.threads)))


if __name__ == "__main__":
    main()
