"""Movies and pairs with known flow, and what an estimate is worth on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_stbn._generators import last
from napari_stbn.flow import Flow, FlowMethod, choose_flow, estimate_flow
from napari_stbn.samples.motion import MOTIONS, STRUCTURES, simulate_motion

Image = NDArray[np.float32]
_FOREGROUND = 0.1  # of the 99.9th percentile
_READ_NOISE = 1.0  # photoelectrons


@dataclass
class Scene:
    """Frames with known flow.

    Attributes
    ----------
    name, motion : str
    photons : float
        99.9th percentile; 0 without noise.
    noisy, clean : ndarray, shape (T, Y, X)
    truth : Flow
        Of the pairs `at` only; NaN where it is not known.
    at : sequence of int
        Pairs that count. Of a pair without `to_previous`, one way counts.
    """

    name: str
    motion: str
    photons: float
    noisy: Image
    clean: Image
    truth: Flow
    at: Sequence[int]
    whole: bool = False
    picked: str = ""
    _known: dict[str, Flow] = field(default_factory=dict)

    def estimated(self, method: FlowMethod) -> Flow:
        """Flow between the noisy frames; estimated once."""
        if method not in self._known:
            if method == "auto":
                self._known[method], choice = last(choose_flow(self.noisy))
                self.picked = choice.method
            else:
                self._known[method] = estimate_flow(self.noisy, method)
        return self._known[method]

    def forget(self) -> None:
        """Estimate anew."""
        self._known.clear()

    def by_pair(self, estimate: Callable[[Image, Image], Image]) -> Flow:
        """Flow by a function of two frames."""
        pairs = list(zip(self.noisy[:-1], self.noisy[1:], strict=True))
        return Flow(
            np.stack([estimate(b, a) for a, b in pairs]),
            np.stack([estimate(a, b) for a, b in pairs]),
        )

    def error(self, flow: Flow) -> float:
        """Mean end-point error [px] over the foreground, or all of it."""
        values = []
        for t, back, ahead in zip(self.at, *self.truth, strict=True):
            for found, true, frame in (
                (flow.to_previous[t], back, t + 1),
                (flow.to_next[t], ahead, t),
            ):
                bright = self.clean[frame] > _FOREGROUND * np.percentile(self.clean, 99.9)
                counts = np.isfinite(true).all(0) & (self.whole | bright)
                if counts.any():
                    values.append(np.hypot(*(found - true))[counts].mean())
        return float(np.mean(values))

    def left(self, flow: Flow | None) -> float:
        """Mean squared difference of clean frames after alignment along a flow."""
        values = []
        h, w = self.clean.shape[1:]
        rows, columns = np.mgrid[:h, :w]
        for t in self.at:
            for way, this, other in ((0, t + 1, t), (1, t, t + 1)):
                y, x = rows, columns
                if flow is not None:
                    move = np.rint(flow[way][t]).astype(int)
                    y, x = np.clip(rows + move[1], 0, h - 1), np.clip(columns + move[0], 0, w - 1)
                values.append(np.square(self.clean[other][y, x] - self.clean[this]).mean())
        return float(np.mean(values))


def exact_scenes(
    seeds: Sequence[int],
    levels: Sequence[float],
    size: int,
    *,
    structures: Sequence[str] = STRUCTURES,
    motions: Sequence[str] = MOTIONS,
) -> Iterator[Scene]:
    """Movies of six frames whose middle pair counts."""
    for motion in motions:
        for structure in structures:
            for seed in seeds:
                names = STRUCTURES.index(structure), MOTIONS.index(motion)
                rng = np.random.default_rng([seed, *names])
                fast = 8.0 if motion in ("translation", "layers") else 4.0
                speed = float(np.exp(rng.uniform(np.log(0.7), np.log(fast))))
                for photons in levels:
                    movie = simulate_motion(
                        (6, size, size),
                        structure=structure,
                        motion=motion,
                        speed=speed,
                        photons=photons or 100.0,
                        read_noise=_READ_NOISE,
                        seed=7000 + seed,
                    )
                    yield Scene(
                        name=f"{structure}, {motion}, {speed:.1f} px",
                        motion=motion,
                        photons=photons,
                        noisy=movie.noisy.astype(np.float32) if photons else movie.clean,
                        clean=movie.photons,
                        truth=Flow(movie.flow_to_previous[2:3], movie.flow_to_next[2:3]),
                        at=[2],
                    )


def measured_scenes(folder: Path, levels: Sequence[float]) -> Iterator[Scene]:
    """Pairs of images with a ``.flo`` file beside them; none where the folder is missing."""
    import cv2

    for flo in sorted(folder.glob("*/*.flo")) if folder.is_dir() else []:
        stem = flo.name.removesuffix("_flow.flo")
        paths = [flo.parent / f"{stem}_img{n}.tif" for n in (1, 2)]
        if not paths[0].exists():
            paths = [flo.parent / f"frame{n}.png" for n in (10, 11)]
        images = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]
        pair = np.stack([np.asarray(image, np.float32) for image in images])
        header = np.fromfile(flo, np.int32, 3)
        values = np.fromfile(flo, np.float32)[3:].reshape(header[2], header[1], 2)
        true = np.moveaxis(values, -1, 0)[None].copy()
        true[np.abs(true) > 1e9] = np.nan
        pair *= 1 / np.percentile(pair, 99.9)
        for photons in levels:
            rng = np.random.default_rng([3, int(photons)])
            light = pair * (photons or 1.0)
            noisy = rng.poisson(light) + rng.normal(0, _READ_NOISE, light.shape)
            yield Scene(
                name=flo.stem,
                motion=flo.parent.name,
                photons=photons,
                noisy=noisy.astype(np.float32) if photons else light,
                clean=light,
                truth=Flow(np.full_like(true, np.nan), true),
                at=[0],
                whole=True,
            )
