"""Rows of `authors.py` that are ours: the paper's network and the small ones, on any device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from _authors_code import count, made_movie
from _plain_reading import network_flow
from _rows import Row, Sizes, movie_row, rows_of, step_row, tried, work_of
from engine import peak_rate
from napari_stbn._fit_parts import Adam, Average
from napari_stbn._fit_path import FitPath
from napari_stbn._start import pretrained_model
from napari_stbn.clips import Clip, ClipSampler
from napari_stbn.devices import free_memory
from napari_stbn.flow import estimate_flow
from napari_stbn.flow.pwcnet import PWCNet
from napari_stbn.inference import PATCH_ORIGINS, denoise_frames, plan_inference
from napari_stbn.network import STBN, STBNConfig
from napari_stbn.precision import Precision, choose_precision
from napari_stbn.preparation import PreparedMovie
from napari_stbn.presets import PRESETS, PresetName
from napari_stbn.training import TrainingConfig

AS_PRODUCT, FLOW_EACH, EXACT = "ours, flow given", "ours, PWC-Net each step", "ours, float32"


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


def our_steps(device: torch.device, sizes: Sizes, notes: list[str]) -> Iterator[Row]:
    """Rows of the paper's size: as the product runs it, in float32, and with PWC-Net each step."""
    config = STBNConfig.paper(3)
    chosen = tried("choice of the precision", lambda: choose_precision(config, device))
    best: Precision = chosen or "float32"
    training = replace(
        PRESETS["paper"].training,
        clip_frames=sizes.frames, clip_size=sizes.side, batch=sizes.batch,
    )  # fmt: skip
    work, peak = work_of(config, training), peak_rate(device, best)
    notes.append(
        f"A large matrix product in {best}: {peak / 1e12:.1f} TFLOP/s. A step counts as "
        f"{work / 1e12:.2f} TFLOP, three times the plain network's forward pass."
    )

    def row(precision: Precision, finds_flow: bool) -> Row:
        model = STBN.seeded(config, 0)
        fit = OurFit(model, training, device, precision, finds_flow=finds_flow)
        found = step_row(fit, device, sizes)
        rate = work / found["ms"] * 1e3
        share = rate / peak if precision == best and not finds_flow else None
        return {**found, "computed in": fit.way(), "TFLOP/s": rate / 1e12, "of the peak": share}

    notes.append(f"Ours: {count(STBN(config)):,} parameters; PWC-Net: {count(PWCNet()):,}.")
    yield from rows_of(
        {
            AS_PRODUCT: lambda: row(best, False),
            EXACT: lambda: row("float32", False),
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


def our_inference(device: torch.device, sizes: Sizes) -> Iterator[Row]:
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
        return movie_row(lambda: run(movie), device, sizes.movie[0])

    def ours(precision: Precision, origins: int, net: PWCNet | None = None) -> Callable[..., None]:
        return lambda m: _denoise(model, m, precision, origins, net)

    clip = min(PRESETS["paper"].training.clip_frames, sizes.movie[0])
    yield from rows_of(
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


def small_networks(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """Rows of the presets of a CPU."""

    def row(name: PresetName) -> Row:
        network, training = PRESETS[name].network, PRESETS[name].training
        model = pretrained_model(network) or STBN.seeded(network, 0)
        learnt = model.clip_frames
        precision = choose_precision(model.config, device)
        fit = OurFit(model, training, device, precision)
        found = step_row(fit, device, sizes)
        clips = (training.batch, training.clip_frames, training.clip_size, training.clip_size)
        movie = made_movie(*sizes.movie, 1)
        model.clip_frames = learnt  # as the product: results look as far as the clips did
        _denoise(model, movie.crop(slice(0, 64), slice(0, 64)), precision, 4)
        whole = movie_row(lambda: _denoise(model, movie, precision, 4), device, movie.shape[0])
        return {
            "clips": " x ".join(map(str, clips)),
            "ms": found["ms"],
            "computed in": fit.way(),
            "TFLOP/s": work_of(model.config, training) / found["ms"] / 1e9,
            "frames/s": whole["frames/s"],
            "peak [GB]": whole["peak [GB]"],
        }

    yield from rows_of({name: partial(row, name) for name in ("balanced", "best")}, "preset")
