"""Speed and memory of the engine, beside a plain reading of the paper in the same run.

``python benchmarks/engine.py --threads 2`` prints markdown tables; docs/engine.md says what the
rows mean. The plain reading (`_plain_reading.py`) computes the same function of the same weights.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import napari_stbn as stbn
from _common import Format, machine, machine_line, markdown_table, use_threads, write_results
from _memory import Peak
from _plain_reading import clip_flow, network_flow, plain_model, plain_states, plain_step
from napari_stbn._fit_parts import Adam
from napari_stbn._fit_path import FitPath
from napari_stbn._generators import last
from napari_stbn._start import WEIGHTS
from napari_stbn.clips import ClipSampler
from napari_stbn.devices import resolve_device
from napari_stbn.flow.pwcnet import PWCNet, PWCNetConfig
from napari_stbn.inference import (
    PATCH_ORIGINS,
    DenoisedWindow,
    InferencePlan,
    denoise_frames,
    plan_inference,
)
from napari_stbn.network import STBN, STBNConfig
from napari_stbn.precision import choose_precision
from napari_stbn.preparation import PreparedMovie, prepare_stack
from napari_stbn.prior import network_input, posterior

Row = dict[str, Any]
# width, clips, frames and side of a clip: the default fit, the prototype's, the preset "best"
STEPS = ((16, 2, 8, 32), (24, 4, 8, 48), (32, 4, 8, 32))
MEMORY_MOVIE = (200, 256, 256)
PLAIN_WITH_FLOW = "plain reading, finding the motion by PWC-Net"
IMPORTS = ("napari_stbn", "napari_stbn.denoiser")


def main() -> None:
    """Measure, print and write."""
    options = _options()
    use_threads(options.threads)
    if options.memory_of:
        _memory_of(options.memory_of)
        return
    here = machine(options.threads)
    device = resolve_device(options.device)
    movie = _movie((16, 128, 128))
    text = [
        "## Step of a fit\n",
        _table(list(_steps(movie, device, options.repeats))),
        "\n## Inference, a frame of a movie of 12\n",
        _table(list(_inference(device, options.side, options.repeats))),
    ]
    if not options.quick:
        text += ["\n## Memory\n", _table(list(_memory(options.threads)))]
    text += ["\n## Start\n", _table(list(_imports()))]
    report = "\n".join([*text, f"\n{machine_line(here)}"])
    print(report)
    if options.output is not None:
        write_results(options.output, {"machine": here}, report)


def _movie(shape: tuple[int, int, int]) -> PreparedMovie:
    """A simulated movie, ready for the network."""
    made = stbn.simulate(shape, photons=20.0, seed=0)
    steps = prepare_stack(
        stbn.Stack(made.noisy, "TYX"),
        joint=False,
        noise="estimate",
        flow="dis",
        known_noise={},
        known_scaling={},
    )
    return next(iter(last(steps).movies.values()))


def _timed(function: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, with all that it leaves a GPU to do."""
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


# ---------------------------------------------------------------- fit


def _steps(movie: PreparedMovie, device: torch.device, repeats: int) -> Iterator[Row]:
    """A row for each size: the plain reading, ours, its parts."""
    pwcnet = PWCNet(PWCNetConfig()).eval()  # the paper's size; weights do not change its time
    for width, batch, frames, size in STEPS:
        config = STBNConfig(width=width, alignment="nearest")  # as the paper has it
        sampler = ClipSampler([movie], frames, size, batch, torch.Generator().manual_seed(0))
        plain = plain_model(config).to(device)
        plain_optimizer = torch.optim.Adam(plain.parameters(), lr=1e-4)
        ours = OurStep(config, sampler, device)
        times: dict[str, list[float]] = {}
        for _ in range(repeats + 1):  # the first is not counted
            clip = sampler.draw()
            if device.type == "cpu":
                parts: dict[str, Callable[[], Any]] = {
                    "flow": partial(clip_flow, clip),
                    "pwcnet": partial(network_flow, pwcnet, clip.inputs),
                    "plain": partial(plain_step, plain, clip, plain_optimizer),
                }
                for name, function in parts.items():
                    times.setdefault(name, []).append(_timed(function, device))
            for name, seconds in ours.parts().items():
                times.setdefault(name, []).append(seconds)
        middle = {name: median(values[1:]) for name, values in times.items()}
        total = sum(middle[name] for name in ours.NAMES)
        work = 3 * forward_flops(config, (batch, frames, size, size))
        yield {
            "step": f"width {width}, {batch} clips of {frames} x {size} x {size}",
            "plain reading [ms]": 1e3 * middle.get("plain", math.nan),
            "of it flow": 1e3 * middle.get("flow", math.nan),
            "ours [ms]": 1e3 * total,
            "ratio": middle.get("plain", math.nan) / total,
            "PWC-Net instead of its flow [ms]": 1e3 * middle.get("pwcnet", math.nan),
            "ratio with it": (
                middle.get("plain", math.nan)
                + middle.get("pwcnet", math.nan)
                - middle.get("flow", math.nan)
            )
            / total,
            **{f"{name} [ms]": 1e3 * middle[name] for name in ours.NAMES},
            "GFLOP/s": work / total / 1e9,
            "of the peak": work / total / peak_rate(device, ours.path.precision),
        }


class OurStep:
    """A step of our fit, timed part by part."""

    NAMES = ("sampling", "forward and loss", "backward", "optimiser")

    def __init__(self, config: STBNConfig, sampler: ClipSampler, device: torch.device) -> None:
        self.model = STBN.seeded(config, 0).place(device)
        self.path = FitPath(self.model, choose_precision(config, device))
        self.optimizer = Adam(self.model.parameters(), lr=1e-4, betas=(0.9, 0.99), fused=True)
        self.sampler, self.device = sampler, device

    def parts(self) -> dict[str, float]:
        """Seconds of each part of one step."""
        found: dict[str, Any] = {}

        def sample() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            found["clip"] = self.sampler.draw().to(self.device)

        def forward() -> None:
            found["loss"] = self.path.loss(found["clip"])

        def backward() -> None:
            found["loss"].backward()

        def optimise() -> None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()

        parts = (sample, forward, backward, optimise)
        return {n: _timed(f, self.device) for n, f in zip(self.NAMES, parts, strict=True)}


def forward_flops(config: STBNConfig, shape: tuple[int, int, int, int]) -> float:
    """Floating-point operations of the plain network on a clip (N, T, H, W)."""
    n, t, h, w = shape
    model = STBN.seeded(config, 0)
    flow = torch.zeros(n, t - 1, 2, h, w)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(n, t, config.inputs, h, w), flow, flow)
    return float(counter.get_total_flops())


def peak_rate(device: torch.device, precision: str) -> float:
    """Operations a second of a large matrix product in the format of the fit."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    side = 2048 if device.type == "cpu" else 8192
    a = torch.randn(side, side, device=device).to(dtype)
    seconds = [_timed(lambda: a @ a, device) for _ in range(5)]
    return 2 * side**3 / min(seconds)


# ---------------------------------------------------------------- inference


def _inference(device: torch.device, side: int, repeats: int) -> Iterator[Row]:
    """A row for the plain reading, ours with one and with four origins of patches."""
    config = STBNConfig(alignment="nearest")  # as the paper has it
    movie = _movie((12, side, side))
    model = STBN.seeded(config, 0).place(device)
    plain = plain_model(config).to(device)
    precision = choose_precision(config, device)
    plan = plan_inference(model, movie.shape, 10**10, precision)

    def ours(origins: int) -> None:
        for _ in denoise_frames(
            model, movie, plan, precision=precision, origins=PATCH_ORIGINS[:origins]
        ):
            pass

    rows: list[tuple[str, Callable[[], None]]] = [
        ("plain reading", lambda: _plain_inference(plain, movie)),
        ("ours, one origin of patches as the plain reading", lambda: ours(1)),
        ("ours, mean over four origins", lambda: ours(len(PATCH_ORIGINS))),
    ]
    if device.type == "cpu":
        pwcnet = PWCNet(PWCNetConfig()).eval()
        whole = partial(_found_and_denoised, movie)
        rows += [
            (PLAIN_WITH_FLOW, lambda: _plain_inference(plain, movie, pwcnet)),
            ("ours, finding noise and motion too, four turns", whole),
        ]
    times: dict[str, list[float]] = {name: [] for name, _ in rows}
    for _ in range(repeats + 1):
        for name, function in rows:
            times[name].append(_timed(function, device))
    frames = movie.shape[0]
    slowest = median(times["plain reading"][1:])
    for name, _ in rows:
        seconds = median(times[name][1:])
        if name == PLAIN_WITH_FLOW:
            slowest = seconds
        yield {
            f"inference, {side} x {side}": name,
            "ms a frame": 1e3 * seconds / frames,
            "µs a pixel": 1e6 * seconds / frames / side**2,
            "ratio": slowest / seconds,
        }


def _found_and_denoised(movie: PreparedMovie) -> None:
    """What a run does but for the fit: noise, motion, four turns, with the package's weights."""
    denoiser = stbn.Denoiser.load(WEIGHTS[0], device="cpu")
    denoiser.turns = 4
    denoiser.denoise(stbn.Stack(movie.intensities[:, 0].numpy(), "TYX"))


@torch.no_grad()
def _plain_inference(model: STBN, movie: PreparedMovie, net: PWCNet | None = None) -> None:
    """All states of both directions, then frame by frame the prediction and the posterior.

    With a network for the flow, that is found pair by pair first.
    """
    device = next(model.parameters()).device
    if net is not None:
        for pair in zip(movie.inputs, movie.inputs[1:], strict=False):
            network_flow(net, torch.stack(pair)[None])
    frames = [network_input(f[None].to(device), movie.units, model.config) for f in movie.inputs]
    to_previous = [f[None].to(device) for f in movie.flow_to_previous]
    to_next = [f[None].to(device) for f in movie.flow_to_next]
    past = plain_states(model, frames, to_previous, "from_past")
    future = plain_states(model, frames[::-1], to_next[::-1], "from_future")[::-1]
    for t, (a, b) in enumerate(zip(past, future, strict=True)):
        noisy = movie.intensities[t : t + 1].to(device)[None]
        posterior(model.predict(a, b)[:, None], noisy, movie.units)


# ---------------------------------------------------------------- memory and start


def _memory(threads: int) -> Iterator[Row]:
    """Peak memory of inference in a process of its own, beside what the movie itself takes."""
    shape = " x ".join(map(str, MEMORY_MOVIE))
    plain = None
    for name in ("plain", "ours"):
        command = [sys.executable, __file__, "--memory-of", name, "--threads", str(threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        used, planned = map(float, done.stdout.split())
        plain = plain or used
        yield {
            f"inference of {shape}": name,
            "peak [MB]": used / 1e6,
            "planned [MB]": planned / 1e6 if planned else math.nan,
            "of the plain reading": used / plain,
        }


def _memory_of(name: str) -> None:
    """Denoise; print the growth of the largest resident size, and what was planned."""
    t, h, w = MEMORY_MOVIE
    small, chance = _movie((4, 64, 64)), torch.Generator().manual_seed(0)
    frames = torch.randn(t, 1, h, w, generator=chance)
    still = torch.zeros(t - 1, 2, h, w)
    movie = PreparedMovie(
        small.units[0].to_intensity(frames), frames, torch.ones(t, 1, h, w) > 0, still, still,
        small.units,
    )  # fmt: skip
    config, device = STBNConfig(alignment="nearest"), torch.device("cpu")
    model = (
        plain_model(config) if name == "plain" else STBN.seeded(config, 0).place(device)
    ).eval()
    precision = choose_precision(config, device)
    plan = plan_inference(model, movie.shape, 10**10, precision)

    def denoise(movie: PreparedMovie, plan: InferencePlan) -> None:
        if name == "plain":
            _plain_inference(model, movie)
            return
        for piece in denoise_frames(model, movie, plan, precision=precision):
            if isinstance(piece, DenoisedWindow):
                np.asarray(piece.mean)  # a reader would write it to a file

    denoise(small, plan)  # what libraries take for themselves comes before
    with Peak(every=0.005) as peak:
        denoise(movie, plan)
    print(peak.bytes, 0 if name == "plain" else plan.bytes)


def _imports() -> Iterator[Row]:
    """Seconds of an import in a new process, less those of an empty one."""
    for name in IMPORTS:
        seconds = []
        for code in ("pass", f"import {name}") * 5:
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            seconds.append(time.perf_counter() - started)
        yield {
            "import": name,
            "ms": 1e3 * (median(seconds[1::2]) - median(seconds[0::2])),
        }


def _table(rows: list[Row]) -> str:
    """Rows as markdown: the first column as text, times with one digit, ratios with two."""
    columns: dict[str, tuple[str, Format]] = {}
    for number, name in enumerate(rows[0]):
        fine = name in (
            "ratio",
            "ratio with it",
            "of the peak",
            "of the plain reading",
            "µs a pixel",
        )
        columns[name] = (name, "s" if number == 0 else ".2f" if fine else ".1f")
    return markdown_table(columns, rows)


def _options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--side", type=int, default=256, help="of the frames of inference [px]")
    parser.add_argument("--quick", action="store_true", help="without the memory of 200 frames")
    parser.add_argument("-o", "--output", type=Path, help="files to write, without ending")
    parser.add_argument("--memory-of", choices=["plain", "ours"], help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
