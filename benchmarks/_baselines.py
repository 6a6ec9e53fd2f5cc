"""Classical denoisers, each at its best: whatever it can be tuned by is chosen with the truth.

No real movie comes with that choice, so these rows are upper bounds of the methods.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

from _common import Truth
from napari_stbn import PoissonGaussianNoise

Movie = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """A denoised movie, the setting that made it, the seconds of that one run."""

    method: str
    setting: str
    denoised: Movie
    seconds: float


def baselines(
    noisy: NDArray[Any], noise: PoissonGaussianNoise, truth: Truth, *, quick: bool
) -> Iterator[Outcome]:
    """Yield each baseline at its best setting.

    Parameters
    ----------
    noisy : ndarray, shape (T, Y, X) [counts]
    noise : PoissonGaussianNoise
        The true one.
    truth : Truth
        Chooses each method's setting, by PSNR.
    quick : bool
        Try few settings, to see that it runs.
    """
    movie = noisy.astype(np.float64)
    widths = (0.8, 1.2) if quick else (0.5, 0.65, 0.8, 0.95, 1.1, 1.3, 1.6)
    durations = (0.0, 0.7) if quick else (0.0, 0.35, 0.5, 0.65, 0.8, 1.0, 1.3)
    yield _best(
        "Gaussian, space and time",
        truth,
        {
            f"{t:g} frames, {s:g} px": _gaussian(movie, t, s)
            for t, s in itertools.product(durations, widths)
        },
    )
    lengths = (3,) if quick else (3, 5, 7, 9, 11, 15, 21)
    yield _best("temporal mean", truth, {f"{n} frames": _temporal_mean(movie, n) for n in lengths})
    stable = _Stabilised(movie, noise)
    strengths = (0.8,) if quick else (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.95, 1.1)
    patches = (5,) if quick else (5, 7, 9)
    cube_strengths = (0.8,) if quick else (0.2, 0.3, 0.4, 0.5, 0.6)
    cubes = (5,) if quick else (3, 5, 7)
    yield _best(
        "VST + non-local means, frame by frame",
        truth,
        {
            f"h {h:g}, patch {p}": stable.run(_frames(h, p))
            for h, p in itertools.product(strengths, patches)
        },
    )
    yield _best(
        "VST + non-local means, space and time",
        truth,
        {
            f"h {h:g}, patch {p}": stable.run(_volume(h, p, 2 if quick else 4))
            for h, p in itertools.product(cube_strengths, cubes)
        },
    )
    if importlib.util.find_spec("bm4d"):
        bm4d = importlib.import_module("bm4d").bm4d
        yield _best("VST + BM4D", truth, {"its defaults": stable.run(lambda z: bm4d(z, 1.0))})


def _best(method: str, truth: Truth, candidates: dict[str, Callable[[], Movie]]) -> Outcome:
    """Run all settings, keep the one of highest PSNR."""
    best: tuple[float, Outcome] | None = None
    for setting, run in candidates.items():
        started = time.perf_counter()
        denoised = run()
        outcome = Outcome(method, setting, denoised, time.perf_counter() - started)
        score = truth.psnr(denoised)
        if best is None or score > best[0]:
            best = score, outcome
    if best is None:
        raise ValueError(f"{method} needs at least one setting")
    return best[1]


def _gaussian(movie: Movie, frames: float, pixels: float) -> Callable[[], Movie]:
    return lambda: np.asarray(ndimage.gaussian_filter(movie, (frames, pixels, pixels)))


def _temporal_mean(movie: Movie, frames: int) -> Callable[[], Movie]:
    return lambda: np.asarray(ndimage.uniform_filter1d(movie, frames, axis=0))


def _frames(h: float, patch: int) -> Callable[[Movie], Movie]:
    """Non-local means of each frame by itself."""
    from skimage.restoration import denoise_nl_means

    def run(stable: Movie) -> Movie:
        return np.stack(
            [
                denoise_nl_means(f, patch_size=patch, patch_distance=11, h=h, sigma=1.0)
                for f in stable
            ]
        )

    return run


def _volume(h: float, patch: int, reach: int) -> Callable[[Movie], Movie]:
    """Non-local means with time as depth: patches and search are cubes."""
    from skimage.restoration import denoise_nl_means

    return lambda stable: np.asarray(
        denoise_nl_means(stable, patch_size=patch, patch_distance=reach, h=h, sigma=1.0)
    )


class _Stabilised:
    """A movie with noise of unit variance (generalised Anscombe transform), and the way back."""

    def __init__(self, movie: Movie, noise: PoissonGaussianNoise) -> None:
        self._noise = noise
        self._movie = np.asarray(noise.stabilize(movie))
        brightest = (float(movie.max()) - noise.offset) / noise.gain
        self._photons, self._expected = unbiased_inverse(noise, max(1.0, 1.5 * brightest))

    def run(self, denoise: Callable[[Movie], Movie]) -> Callable[[], Movie]:
        """Return a call that denoises the stabilised movie and returns counts."""

        def counts() -> Movie:
            photons = np.interp(denoise(self._movie), self._expected, self._photons)
            return np.asarray(photons * self._noise.gain + self._noise.offset)

        return counts


def unbiased_inverse(noise: PoissonGaussianNoise, brightest: float) -> tuple[Movie, Movie]:
    """Tabulate the expectation of the stabilised pixel over its clean value.

    A denoiser that averages estimates the expectation of what it averages. Looking that up
    here, rather than inverting the transform itself, brings back the clean value without bias
    (the exact unbiased inverse of Mäkitalo and Foi, 2011 and 2013; here summed numerically).

    Parameters
    ----------
    noise : PoissonGaussianNoise
    brightest : float [photoelectrons]
        Where the table ends.

    Returns
    -------
    photons : ndarray, shape (n,) [photoelectrons]
        Clean values, from 0 upwards.
    expected : ndarray, shape (n,)
        Expectation of ``noise.stabilize`` there, strictly increasing.
    """
    photons = np.linspace(0.0, np.sqrt(brightest), 400) ** 2
    nodes, weights = np.polynomial.hermite_e.hermegauss(41)
    weights = weights / weights.sum()
    events = np.arange(int(brightest + 12 * np.sqrt(brightest) + 30))
    counts = noise.offset + noise.gain * (events[:, None] + noise.read_noise * nodes)
    given = np.asarray(noise.stabilize(counts)) @ weights  # expectation for a number of electrons
    chances = stats.poisson.pmf(events, photons[:, None])  # (n, events)
    return photons, np.asarray(chances @ given)
