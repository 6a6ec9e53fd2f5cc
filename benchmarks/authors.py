"""The authors' released code beside ours on a GPU, in one run: a fit's step, inference, memory.

``python benchmarks/authors.py --authors FOLDER``, a checkout of github.com/ZKCCZ/STBN (MIT). It is
imported as it is; `_authors_code.py` stands in for what a current machine lacks.
"""

from __future__ import annotations

import argparse
import gc
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar
from unittest.mock import patch

import psutil
import torch
from torch import Tensor, nn

from _authors_code import (
    SIGMA,
    Code,
    Shape,
    TheirFit,
    authors_code,
    count,
    given_flow,
    made_movie,
    same_function,
)  # fmt: skip
from _common import Format, machine, machine_line, markdown_table, use_threads, write_results
from _plain_reading import network_flow
from engine import _forward_flops, _peak
from napari_stbn._fit_parts import Adam, Average
from napari_stbn._fit_path import FitPath
from napari_stbn._start import pretrained_model
from napari_stbn.clips import Clip, ClipSampler
from napari_stbn.devices import free_memory, resolve_device
from napari_stbn.flow import estimate_flow
from napari_stbn.flow.pwcnet import PWCNet
from napari_stbn.inference import PATCH_ORIGINS, denoise_frames, plan_inference
from napari_stbn.network import STBN, STBNConfig
from napari_stbn.precision import Precision, choose_precision
from napari_stbn.preparation import PreparedMovie
from napari_stbn.presets import PRESETS, PresetName
from napari_stbn.training import TrainingConfig

Row = dict[str, Any]
T = TypeVar("T")
LONGEST = 60.0  # seconds of the authors' inference; beyond, a fifth of the frames is scaled up
AS_PRODUCT, FLOW_EACH, OURS_EXACT = "ours, flow given", "ours, PWC-Net each step", "ours, float32"
THEIRS, THEIRS_EACH = "authors, bdc_flow as it is", "authors, bdc_2_unify as it is"
THEIRS_GIVEN = "authors, bdc_2_unify, flow given"
RATIOS = (
    ("as each runs", THEIRS, AS_PRODUCT),
    ("flow each step, no distillation", THEIRS_EACH, FLOW_EACH),
    ("flow given", THEIRS_GIVEN, AS_PRODUCT),
    ("flow given, ours in float32 too", THEIRS_GIVEN, OURS_EXACT),
)
FINE = ("ratio", "peak [GB]", "host [GB]", "of the peak", "authors / ours")


@dataclass(frozen=True)
class Sizes:
    """What is measured: clips of the fit, the movie of inference, how often."""

    batch: int = 4
    frames: int = 8
    side: int = 96
    movie: tuple[int, int] = (100, 512)  # frames, side
    repeats: int = 15

    @property
    def shape(self) -> Shape:
        """Clips, frames and side of a step."""
        return self.batch, self.frames, self.side


QUICK = Sizes(1, 3, 32, (6, 64), 2)


def main() -> None:
    """Measure, print and write; a row that fails prints why, and the others still run."""
    options = _options()
    use_threads(options.threads)
    device, sizes = resolve_device(options.device), QUICK if options.quick else Sizes()
    here, text = machine(options.threads), []
    notes: list[str] = []
    # Ours first: the authors' modules put a network on the GPU as they are imported.
    steps: list[Row] = []
    frames: list[Row] = []
    small: list[Row] = []
    _tried("our steps", lambda: steps.extend(_our_steps(device, sizes, notes)))
    _tried("our inference", lambda: frames.extend(_our_inference(device, sizes)))
    _tried("small networks", lambda: small.extend(_small_networks(device, sizes)))
    code = _tried("authors' code", lambda: authors_code(options.authors, device, notes))
    if code is not None:
        _tried("comparison", lambda: notes.append(same_function(code, sizes.shape, device)))
        _tried("their steps", lambda: steps.extend(_their_steps(code, device, sizes)))
        _tried("theirs", lambda: frames.extend(_their_inference(code, device, sizes, notes)))
    found = {row["step"]: row["ms"] for row in steps}
    ratios = [
        {"fit": name, "authors / ours": found[theirs] / found[ours]}
        for name, theirs, ours in RATIOS
        if theirs in found and ours in found
    ]
    whole = next((row["s"] for row in frames if row["inference"].startswith("authors")), None)
    for row in frames:
        row["ratio"] = None if whole is None else whole / row["s"]
    clips = f"{sizes.batch} clips of {sizes.frames} x {sizes.side} x {sizes.side}, RGB"
    movie = f"{sizes.movie[0]} frames of {sizes.movie[1]} x {sizes.movie[1]}"
    for title, rows in (
        (f"Step of a fit, {clips}", steps),
        ("Ratios", ratios),
        (f"Inference, {movie}, RGB", frames),
        (f"Networks that are default on the CPU; inference of {movie}, one channel", small),
    ):
        text += [f"\n## {title}\n", _table(rows) if rows else "nothing measured"]
    text += ["", *(f"- {note}" for note in notes), f"\n{machine_line(here)}"]
    report = "\n".join(text)
    print(report)
    if options.output is not None:
        results = {"machine": here, "steps": steps, "inference": frames, "small": small}
        write_results(options.output, {**results, "notes": notes}, report)


def _tried(name: str, function: Callable[[], T]) -> T | None:
    """What a function returns; where it fails, None, and why on the screen."""
    started = time.perf_counter()
    try:
        return function()
    except Exception:  # noqa: BLE001  # the other rows still run
        print(f"FAILED: {name}\n{traceback.format_exc()}", flush=True)
        return None
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(f"[{time.perf_counter() - started:.1f} s] {name}", flush=True)


def _rows(named: dict[str, Callable[[], Row]], title: str) -> Iterator[Row]:
    """Rows of those functions that do not fail, printed as they come."""
    for name, function in named.items():
        row = _tried(name, function)
        if row is not None:
            print(f"  {row}", flush=True)
            yield {title: name, **row}


def _table(rows: list[Row]) -> str:
    """Rows as markdown: the first column as text, times with one digit, ratios with two."""
    columns: dict[str, tuple[str, Format]] = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        texts = any(isinstance(row.get(name), str) for row in rows)
        columns[name] = (name, "s" if texts else ".2f" if name in FINE else ".1f")
    return markdown_table(columns, rows)


# ---------------------------------------------------------------- measuring


def _step_row(step: Callable[[], Any], device: torch.device, sizes: Sizes) -> Row:
    """Median milliseconds of a step after warming up, and the peak of the device's memory."""
    for _ in range(1 if device.type == "cpu" else 5):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = [_seconds(step, device) for _ in range(sizes.repeats)]
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    return {"ms": 1e3 * median(times), "slowest": 1e3 * max(times), "peak [GB]": peak}


def _seconds(function: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, by the device's own clock where it is a GPU."""
    if device.type != "cuda":
        started = time.perf_counter()
        function()
        return time.perf_counter() - started
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    function()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _movie_row(function: Callable[[], Any], device: torch.device, frames: int) -> Row:
    """Seconds of one call, peak of the device's memory, growth of this process's."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    process, done = psutil.Process(), threading.Event()
    before = largest = process.memory_info().rss

    def watch() -> None:
        nonlocal largest
        while not done.wait(0.02):
            largest = max(largest, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        seconds = _seconds(function, device)
    finally:
        done.set()
        watcher.join()
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    host = (largest - before) / 1e9
    return {"s": seconds, "frames/s": frames / seconds, "peak [GB]": peak, "host [GB]": host}


def _work(config: STBNConfig, training: TrainingConfig) -> float:
    """Floating-point operations of a step: three times the plain network's forward pass."""
    shape = (1, training.clip_frames, training.clip_size, training.clip_size)
    return 3 * training.batch * _forward_flops(config, shape)


# ---------------------------------------------------------------- ours


class OurFit:
    """Steps of a fit as `napari_stbn.training` does them, on flow that is given or found anew."""

    def __init__(
        self,
        model: STBN,
        training: TrainingConfig,
        device: torch.device,
        precision: Precision,
        *,
        finds_flow: bool = False,
    ) -> None:
        config, size = model.config, training.clip_size
        self.model, self.training, self.device = model.place(device), training, device
        movie = made_movie(2 * training.clip_frames, 2 * size, config.channels)
        chance = torch.Generator().manual_seed(0)
        self.sampler = ClipSampler([movie], training.clip_frames, size, training.batch, chance)
        self.path = FitPath(self.model, precision)
        parameters, rate = model.parameters(), training.learning_rate
        self.optimizer = Adam(parameters, lr=rate, betas=(0.9, 0.99), fused=True)
        self.average, self.step = Average(model, training.averaging), 0
        self.pwcnet = PWCNet().eval().to(device) if finds_flow else None

    def __call__(self) -> None:
        """One step."""
        self.optimizer.zero_grad(set_to_none=True)
        clip: Clip = self.sampler.draw().to(self.device)
        if self.pwcnet is not None:
            previous, following = network_flow(self.pwcnet, clip.intensities)
            clip = replace(clip, flow_to_previous=previous, flow_to_next=following)
        loss = self.path.backward(clip, self.training.beta)
        limit = self.training.gradient_norm
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.step += 1
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
            self.average.update(self.step)
        float(loss)  # it is shown

    def way(self) -> str:
        """How the network is computed."""
        return f"{self.path.precision}, {'paired' if self.path.paired else 'plain network'}"


def _our_steps(device: torch.device, sizes: Sizes, notes: list[str]) -> Iterator[Row]:
    """Rows of the paper's size: as the product runs it, in float32, and with PWC-Net each step."""
    config = STBNConfig.paper(3)
    chosen = _tried("choice of the precision", lambda: choose_precision(config, device))
    best: Precision = chosen or "float32"
    training = replace(
        PRESETS["paper"].training,
        clip_frames=sizes.frames, clip_size=sizes.side, batch=sizes.batch,
    )  # fmt: skip
    work, peak = _work(config, training), _peak(device, best)
    notes.append(
        f"A large matrix product in {best}: {peak / 1e12:.1f} TFLOP/s. A step counts as "
        f"{work / 1e12:.2f} TFLOP, three times the plain network's forward pass."
    )

    def row(precision: Precision, finds_flow: bool) -> Row:
        model = STBN.seeded(config, 0)
        fit = OurFit(model, training, device, precision, finds_flow=finds_flow)
        found = _step_row(fit, device, sizes)
        rate = work / found["ms"] * 1e3
        share = rate / peak if precision == best and not finds_flow else None
        return {**found, "computed in": fit.way(), "TFLOP/s": rate / 1e12, "of the peak": share}

    notes.append(f"Ours: {count(STBN(config)):,} parameters; PWC-Net: {count(PWCNet()):,}.")
    yield from _rows(
        {
            AS_PRODUCT: lambda: row(best, False),
            OURS_EXACT: lambda: row("float32", False),
            FLOW_EACH: lambda: row(best, True),
        },
        "step",
    )


def _denoise(
    model: STBN, movie: PreparedMovie, precision: Precision, origins: int, net: PWCNet | None = None
) -> None:
    """Denoise a movie as the product does; with a network, find its motion first."""
    device = next(model.parameters()).device
    if net is not None:
        pairs = zip(movie.intensities, movie.intensities[1:], strict=False)
        found = [network_flow(net, torch.stack(pair)[None].to(device)) for pair in pairs]
        previous, following = (torch.cat([f[0] for f in way]).cpu() for way in zip(*found))  # noqa: B905
        movie = replace(movie, flow_to_previous=previous, flow_to_next=following)
    plan = plan_inference(model, movie.shape, int(0.6 * free_memory(device)), precision)
    for _ in denoise_frames(
        model, movie, plan, precision=precision, origins=PATCH_ORIGINS[:origins]
    ):
        pass


def _our_inference(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """Rows of the paper's size, flow given, found by PWC-Net, found by DIS."""
    config = STBNConfig.paper(3)
    movie, few = (made_movie(n, sizes.movie[1], 3) for n in (sizes.movie[0], 3))
    model = STBN.seeded(config, 0).place(device)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.7)  # or states of random weights grow over 100 frames to 1e11
    net = PWCNet().eval().to(device)
    best = choose_precision(config, device)

    def dis(movie: PreparedMovie) -> None:
        estimate_flow(movie.intensities.mean(1).numpy())
        _denoise(model, movie, best, 1)

    def row(run: Callable[[PreparedMovie], Any], clip_frames: int | None = None) -> Row:
        model.clip_frames = None
        run(few)  # what libraries take for themselves and choose comes before
        model.clip_frames = clip_frames
        return _movie_row(lambda: run(movie), device, sizes.movie[0])

    def ours(precision: Precision, origins: int, net: PWCNet | None = None) -> Callable[..., None]:
        return lambda m: _denoise(model, m, precision, origins, net)

    clip = min(PRESETS["paper"].training.clip_frames, sizes.movie[0])
    yield from _rows(
        {
            f"ours, {best}, flow given, one origin of patches": lambda: row(ours(best, 1)),
            f"ours, {best}, flow given, four origins": lambda: row(ours(best, 4)),
            f"the same, clip by clip of {clip}": lambda: row(ours(best, 4), clip),
            "ours, float32, flow given, one origin": lambda: row(ours("float32", 1)),
            f"ours, {best}, PWC-Net, one origin": lambda: row(ours(best, 1, net)),
            f"ours, {best}, DIS on the CPU, one origin": lambda: row(dis),
        },
        "inference",
    )


def _small_networks(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """Rows of the presets of a CPU."""

    def row(name: PresetName) -> Row:
        network, training = PRESETS[name].network, PRESETS[name].training
        model = pretrained_model(network) or STBN.seeded(network, 0)
        learnt = model.clip_frames
        precision = choose_precision(model.config, device)
        fit = OurFit(model, training, device, precision)
        found = _step_row(fit, device, sizes)
        clips = (training.batch, training.clip_frames, training.clip_size, training.clip_size)
        movie = made_movie(*sizes.movie, 1)
        model.clip_frames = learnt  # as the product: results look as far as the clips did
        _denoise(model, movie.crop(slice(0, 64), slice(0, 64)), precision, 4)
        whole = _movie_row(lambda: _denoise(model, movie, precision, 4), device, movie.shape[0])
        return {
            "clips": " x ".join(map(str, clips)),
            "ms": found["ms"],
            "computed in": fit.way(),
            "TFLOP/s": _work(model.config, training) / found["ms"] / 1e9,
            "frames/s": whole["frames/s"],
            "peak [GB]": whole["peak [GB]"],
        }

    yield from _rows({name: partial(row, name) for name in ("balanced", "best")}, "preset")


# ---------------------------------------------------------------- theirs


def _their_steps(code: Code, device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """Rows of the authors' training."""
    flows = given_flow(sizes.shape, device)

    def row(kind: str) -> Row:
        torch.backends.cudnn.benchmark = True  # as their scripts of training
        try:
            found = _step_row(TheirFit(code, kind, sizes.shape, device), device, sizes)
        finally:
            torch.backends.cudnn.benchmark = False
        return {**found, "computed in": "float32, as their script"}

    def given() -> Row:
        with patch.object(code["bdc_2_unify"], "get_flow_2frames", lambda *_: flows):
            return row("bdc_2_unify")

    named = {THEIRS: partial(row, "bdc_flow"), THEIRS_EACH: partial(row, "bdc_2_unify")}
    yield from _rows({**named, THEIRS_GIVEN: given}, "step")


def _their_inference(
    code: Code, device: torch.device, sizes: Sizes, notes: list[str]
) -> Iterator[Row]:
    """Rows of the authors' test script, without its reading and writing of pictures."""
    model = nn.DataParallel(code["bdc_flow"].bdc_flow(3, 5)).to(device).eval()
    frames, side = sizes.movie
    movie, level = made_movie(frames, side, 3).intensities.to(device), torch.tensor([SIGMA])

    @torch.no_grad()
    def denoise(noisy: Tensor, fuse: bool = True) -> None:
        noise_map = level.expand(noisy.shape).to(device)
        out, _ = model(noisy[None], noise_map[None])
        if fuse:
            process = code["post_processing"].post_process_batch
            torch.clamp(process(out, noisy[None], sigma=level.squeeze())[0][0], 0.0, 1.0)

    def row(fuse: bool) -> Row:
        denoise(movie[:3], fuse)
        pilot = _seconds(lambda: denoise(movie[:6], fuse), device) / min(6, frames)
        part = frames if pilot * frames < LONGEST else max(frames // 5, 2)
        found = _movie_row(lambda: denoise(movie[:part], fuse), device, part)
        if part < frames:
            notes.append(f"The authors' inference is that of {part} frames; its time is scaled up.")
        return {**found, "s": found["s"] * frames / part}

    whole = list(_rows({"authors, bdc_flow, PWC-Net": lambda: row(True)}, "inference"))
    less = {"authors, the same without the posterior": lambda: row(False)}  # where that fails
    yield from whole or _rows(less, "inference")


def _options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--authors", type=Path, default=Path(__file__).parents[1] / ".authors")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("-o", "--output", type=Path, help="files to write, without ending")
    return parser.parse_args()


if __name__ == "__main__":
    main()
