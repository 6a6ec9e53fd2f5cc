"""Simulated movies of every kind and noise level for `pretrain.py`, each prepared as a fit does.

Seeds from 2,000,000 are for training, from 2,100,000 for the width of the prior, from 900,000 for
validation; tests and the other benchmarks stay far below both. (The first training, of 2026-11-22,
took seeds from 1,000,000; see docs/warm_start.md.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from _leaves import moving_leaves
from napari_stbn.flow import estimate_flow
from napari_stbn.network import STBN
from napari_stbn.noise import PoissonGaussianNoise, estimate_noise
from napari_stbn.preparation import network_scaling
from napari_stbn.prior import Units, network_input, prior_mean
from napari_stbn.samples import KINDS, simulate
from napari_stbn.stack import IntensityScaling

FIRST_TRAINING_SEED = 2_000_000
FIRST_VALIDATION_SEED = 900_000
VALIDATION_PHOTONS = (4.0, 20.0, 100.0)
_SHAPE = (32, 80, 80)
_COUNT = 65535
LEAVES = "leaves"
_FRACTIONS = (0.2, 0.25, 0.55)  # of the movies with no flow, of noisy frames, of a first model's
_CLEAN_FLOW = ("clean_to_previous", "clean_to_next")  # in the file of a scene
WRONG = -3.5, -1.5  # powers of ten: the least and the largest share of wrong pixels in a clip
ROUNDING = 1 / 12  # variance [counts²] that rounding to whole counts adds


@dataclass(frozen=True)
class Scene:
    """One simulated movie with its truth and with what a fit would have measured of it.

    Attributes
    ----------
    noisy, clean : Tensor, shape (T, 1, Y, X) [counts]
    flow_to_previous, flow_to_next : Tensor, shape (T - 1, 2, Y, X), float16 [px], ordered (dx, dy)
        As estimated from the noisy movie, or zero.
    clean_to_previous, clean_to_next : Tensor, likewise
        Of the clean frames.
    camera : PoissonGaussianNoise
        The true noise.
    units : Units
        With the noise and the scaling that were estimated, or given.
    """

    noisy: Tensor
    clean: Tensor
    flow_to_previous: Tensor
    flow_to_next: Tensor
    clean_to_previous: Tensor
    clean_to_next: Tensor
    camera: PoissonGaussianNoise
    units: Units

    def true_variance(self, clean: Tensor) -> Tensor:
        """Variance of the noise at clean intensities [counts²], with that of rounding."""
        return self.camera.variance(clean) + ROUNDING


@dataclass(frozen=True)
class Settings:
    """What one training movie is simulated with; see `napari_stbn.samples.simulate`."""

    kind: str  # one of `KINDS`, or "leaves" (`_leaves.moving_leaves`)
    photons: float
    gain: float
    offset: float
    read_noise: float
    psf_sigma: float
    motion: float
    bleaching: float
    drift: float  # px a frame that the whole field moves
    known_noise: bool
    flow: str  # "none", "dis" (of the noisy frames) or "refined" (of a first model's prediction)
    sharpening: float = 0.0  # as the filter against shared noise sharpens

    @classmethod
    def draw(cls, seed: int) -> Settings:
        """Settings of a seed."""
        rng = np.random.default_rng([seed, 1])
        kind = LEAVES if rng.random() < 0.3 else str(rng.choice(KINDS))
        # Of the brightest pixels; a bright field has hardly any dark ones, and much light.
        most = 2000 if kind == LEAVES else 200
        photons = float(np.exp(rng.uniform(np.log(2), np.log(most))))
        read_noise = float(np.exp(rng.uniform(np.log(0.4), np.log(4))))
        if rng.random() < 0.15:  # hardly any shot noise, as after background subtraction
            read_noise, photons = photons * rng.uniform(0.03, 0.2), 4 * photons
        gain = float(np.exp(rng.uniform(np.log(0.7), np.log(8))))
        return cls(
            kind=kind,
            photons=photons,
            gain=gain,
            offset=float(rng.uniform(5, 12)) * gain * read_noise + float(rng.uniform(0, 400)),
            read_noise=read_noise,
            psf_sigma=float(rng.uniform(0.4, 1.6) if kind == LEAVES else rng.uniform(0.8, 2.0)),
            motion=0.0
            if rng.random() < 0.1
            else float(np.exp(rng.uniform(np.log(0.1), np.log(2.5)))),
            bleaching=float(rng.uniform(0, 0.6)) if rng.random() < 0.3 else 0.0,
            drift=float(rng.uniform(0.2, 3)) if rng.random() < 0.25 else 0.0,
            known_noise=bool(rng.random() < 0.15),
            flow=str(rng.choice(["none", "dis", "refined"], p=_FRACTIONS)),
            sharpening=float(rng.uniform(0.3, 1.5)) if rng.random() < 0.1 else 0.0,
        )


def make_scene(
    seed: int,
    settings: Settings,
    shape: tuple[int, int, int] = _SHAPE,
    first: STBN | None = None,
) -> Scene:
    """Simulate a movie and measure its noise and flow as a fit does.

    `first` predicts the frames that "refined" flow is estimated on.
    """
    frames, height, width = shape
    rng = np.random.default_rng([seed, 2])
    margin = int(np.ceil(settings.drift * frames / 2)) + 2 if settings.drift else 0
    large = (frames, height + 2 * margin, width + 2 * margin)
    angle = rng.uniform(0, 2 * np.pi)
    speed = settings.drift * np.array([np.sin(angle), np.cos(angle)])
    path = np.rint(margin + speed * (np.arange(frames)[:, None] - (frames - 1) / 2)).astype(int)
    light = np.stack(
        [
            frame[y : y + height, x : x + width]
            for frame, (y, x) in zip(_light(seed, settings, large, rng), path, strict=True)
        ]
    )
    if settings.sharpening:
        blurred = gaussian_filter(light, (0, 0.7, 0.7), mode="nearest")
        sharp = light + settings.sharpening * (light - blurred)
        light = np.maximum(sharp, 0.02 * light.max())
    camera = PoissonGaussianNoise(settings.gain, settings.offset, settings.read_noise)
    clean = settings.offset + settings.gain * light
    electrons = rng.poisson(light) + rng.normal(0, settings.read_noise, light.shape)
    noisy = np.clip(np.round(settings.offset + settings.gain * electrons), 0, _COUNT)
    noisy = noisy.astype(np.float32)
    noise = camera if settings.known_noise else estimate_noise(noisy).model
    units = Units(noise, network_scaling(noise.stabilize(noisy)))
    seen = torch.from_numpy(noisy)[:, None]
    if settings.flow == "refined" and first is not None:
        flow = estimate_flow(_prediction(first, seen, units), "dis")
    else:
        flow = estimate_flow(noisy, "none" if settings.flow == "none" else "dis")
    clean = clean.astype(np.float32)
    better = estimate_flow(clean, "dis_fine")
    return Scene(
        noisy=seen,
        clean=torch.from_numpy(clean)[:, None],
        flow_to_previous=torch.from_numpy(flow.to_previous).half(),
        flow_to_next=torch.from_numpy(flow.to_next).half(),
        clean_to_previous=torch.from_numpy(better.to_previous).half(),
        clean_to_next=torch.from_numpy(better.to_next).half(),
        camera=camera,
        units=units,
    )


def _light(
    seed: int, settings: Settings, shape: tuple[int, int, int], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Photoelectrons (T, Y, X) that are expected."""
    if settings.kind != LEAVES:
        movie = simulate(
            shape,
            kind=settings.kind,
            photons=settings.photons,
            psf_sigma=settings.psf_sigma,
            motion=settings.motion,
            bleaching=settings.bleaching,
            seed=seed,
        )
        return movie.photons.astype(np.float64)
    light = moving_leaves(shape, rng, psf_sigma=settings.psf_sigma, motion=settings.motion)
    light *= (1 - settings.bleaching) ** np.linspace(0, 1, shape[0])[:, None, None]
    return np.asarray(light * settings.photons / np.percentile(light, 99.9))


@torch.no_grad()
def _prediction(first: STBN, noisy: Tensor, units: Units) -> NDArray[np.float32]:
    """Blind prediction (T, Y, X) of a first model along zero flow, as a fit's first flow has it."""
    inputs = network_input(units.to_network(noisy)[None], (units,), first.config)
    still = noisy.new_zeros(1, len(noisy) - 1, 2, *noisy.shape[-2:])
    return np.asarray(prior_mean(first(inputs, still, still), (units,))[0, :, 0].numpy())


def validation_scenes(first: STBN | None) -> Iterator[tuple[str, float, Scene]]:
    """Kind, photons and scene of movies that no training sees, with the defaults of `simulate`."""
    for number, kind in enumerate((*(k for k in KINDS if k != "static"), "static", LEAVES)):
        for level, photons in enumerate(VALIDATION_PHOTONS):
            seed = FIRST_VALIDATION_SEED + 10 * number + level
            settings = Settings(
                kind=kind,
                photons=photons,
                gain=2.0,
                offset=100.0,
                read_noise=1.6,
                psf_sigma=1.2,
                motion=1.0,
                bleaching=0.0,
                drift=0.0,
                known_noise=False,
                flow="refined",
            )
            yield kind, photons, make_scene(seed, settings, (24, 80, 80), first)


def load_or_make(seed: int, folder: Path, first: STBN | None = None) -> Scene:
    """Training scene of a seed, from its file where there is one."""
    path = folder / f"scene_{seed}.npz"
    if path.exists():
        with np.load(path) as file:
            arrays = dict(file)
        if arrays.keys() >= set(_CLEAN_FLOW):
            return _unpacked(arrays)
        better = estimate_flow(arrays["clean"][:, 0], "dis_fine")  # a file of an earlier training
        for name, flow in zip(_CLEAN_FLOW, better, strict=True):
            arrays[name] = flow.astype(np.float16)
        scene = _unpacked(arrays)
    else:
        scene = make_scene(seed, Settings.draw(seed), first=first)
        folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with partial.open("wb") as out:
        np.savez(out, **_packed(scene))  # type: ignore[arg-type]  # numpy's stub
    partial.replace(path)
    return scene


def _packed(scene: Scene) -> dict[str, NDArray[Any]]:
    """A scene as plain arrays."""
    noise = scene.units.noise
    if not isinstance(noise, PoissonGaussianNoise):
        raise TypeError(f"the noise of a scene must be Poisson-Gaussian, got {noise!r}")
    return {
        "noisy": scene.noisy.numpy().astype(np.uint16),
        "clean": scene.clean.numpy(),
        "flow_to_previous": scene.flow_to_previous.numpy(),
        "flow_to_next": scene.flow_to_next.numpy(),
        "clean_to_previous": scene.clean_to_previous.numpy(),
        "clean_to_next": scene.clean_to_next.numpy(),
        "camera": np.array(list(asdict(scene.camera).values())),
        "noise": np.array([noise.gain, noise.offset, noise.read_noise]),
        "scaling": np.array(list(asdict(scene.units.scaling).values())),
    }


def _unpacked(arrays: dict[str, NDArray[Any]]) -> Scene:
    """The inverse of `_packed`."""
    noise = PoissonGaussianNoise(*map(float, arrays["noise"]))
    return Scene(
        noisy=torch.from_numpy(arrays["noisy"].astype(np.float32)),
        clean=torch.from_numpy(arrays["clean"]),
        flow_to_previous=torch.from_numpy(arrays["flow_to_previous"]),
        flow_to_next=torch.from_numpy(arrays["flow_to_next"]),
        clean_to_previous=torch.from_numpy(arrays["clean_to_previous"]),
        clean_to_next=torch.from_numpy(arrays["clean_to_next"]),
        camera=PoissonGaussianNoise(*map(float, arrays["camera"])),
        units=Units(noise, IntensityScaling(*map(float, arrays["scaling"]))),
    )
