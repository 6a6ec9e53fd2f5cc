"""Noise of a camera or detector: models, and their estimation from the movie itself.

Words and units: ``gain`` [counts / photoelectron], ``offset`` [counts], ``read_noise``
[photoelectrons rms]; ``Var[y] = gain * (E[y] - offset) + (gain * read_noise)**2``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from napari_stbn._lazy import MovieView
from napari_stbn._measured_noise import MeasuredNoise, monotone_law
from napari_stbn._noise_camera import crude_camera, fit_camera
from napari_stbn._noise_estimation import fit_line
from napari_stbn._noise_law import ArrayT, Fusion, clip_below, floating, sqrt
from napari_stbn._noise_sampling import check_movie, sample_movie

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "GaussianNoise",
    "MeasuredNoise",
    "NoiseFit",
    "NoiseModel",
    "PoissonGaussianNoise",
    "estimate_noise",
    "noise_from_dict",
]

# By what share of the variance, mean over pixels, a camera's line has to miss a law for that to be
# used. One that rises is nearly a line, and steep edges raise the measured variance of dark levels;
# one that falls is no camera's.
_MISFIT = {False: 0.35, True: 0.1}
_EVEN = 0.05  # by which noise may differ between dark and light and still be called the same
_SMALLEST_READ_NOISE = 0.01  # photoelectrons rms; keeps every variance positive


class NoiseModel(Protocol):
    """What the fit and the posterior need to know of the noise."""

    def variance(self, mean: ArrayT) -> ArrayT:
        """Return the noise variance [counts^2] of pixels with this mean [counts]."""

    def stabilize(self, y: ArrayT) -> ArrayT:
        """Map counts to values whose noise has a standard deviation of 1."""

    def unstabilize(self, z: ArrayT) -> ArrayT:
        """Invert ``stabilize`` exactly."""

    def log_likelihood(self, y: ArrayT, prior_mean: ArrayT, prior_variance: ArrayT) -> ArrayT:
        """Return the log density of noisy pixels under prior and noise."""

    def posterior(
        self, y: ArrayT, prior_mean: ArrayT, prior_variance: ArrayT
    ) -> tuple[ArrayT, ArrayT]:
        """Fuse prior and noisy pixel: (posterior mean, posterior standard deviation)."""

    def simulate(self, clean: ArrayLike, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return a noisy version of clean counts."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by ``noise_from_dict``."""


@dataclass(frozen=True)
class PoissonGaussianNoise(Fusion):
    """Photon shot noise plus Gaussian read noise.

    Parameters
    ----------
    gain : float [counts / photoelectron], > 0
    offset : float [counts]
        Value of a pixel without light.
    read_noise : float [photoelectrons rms], >= 0

    Raises
    ------
    ValueError
        If a parameter is not finite, gain is not positive or read_noise is negative.

    Examples
    --------
    >>> noise = PoissonGaussianNoise(gain=2.0, offset=100.0, read_noise=1.5)
    >>> noise.variance(np.array([100.0, 110.0]))
    array([ 9., 29.])
    """

    gain: float
    offset: float
    read_noise: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        if self.gain <= 0.0:
            raise ValueError(f"gain must be positive, got {self.gain}")
        if self.read_noise < 0.0:
            raise ValueError(f"read_noise must be 0 or more, got {self.read_noise}")

    @classmethod
    def estimate(
        cls,
        movie: NDArray[Any] | MovieView,
        *,
        offset: float | None = None,
        read_noise: float | None = None,
    ) -> Self:
        """Estimate the noise of a movie from the movie itself; see `estimate_noise`."""
        model = estimate_noise(movie, offset=offset, read_noise=read_noise).model
        return cls(model.gain, model.offset, model.read_noise)

    def variance(self, mean: ArrayT) -> ArrayT:
        """Return gain * max(mean - offset, 0) + (gain * read_noise)^2 [counts^2], same shape."""
        floor = (self.gain * max(self.read_noise, _SMALLEST_READ_NOISE)) ** 2
        light = clip_below(floating(mean) - self.offset)
        return self.gain * light + floor  # type: ignore[no-any-return]

    def stabilize(self, y: ArrayT) -> ArrayT:
        """Map counts to values with unit noise variance, same shape.

        Notes
        -----
        With ``e = (y - offset) / gain`` and ``s0 = sqrt(read_noise**2 + 3/8)``:
        ``z = 2 sqrt(e + s0**2) - 2 s0`` for ``e >= 0`` (Anscombe's transform, generalised to read
        noise, shifted to 0 at 0) and ``z = e / s0`` below, where the root would end. Value and
        slope agree at 0, so z is smooth, strictly increasing on all reals and exactly invertible.
        It is computed as ``2 e / (sqrt(e + s0**2) + s0)``, in which nothing cancels.
        No unbiased inverse is needed: likelihood and posterior are evaluated in counts.
        """
        e = (floating(y) - self.offset) / self.gain
        s0 = self._s0
        dark, light = -clip_below(-e), clip_below(e)
        return 2.0 * light / (sqrt(light + s0 * s0) + s0) + dark / s0  # type: ignore[no-any-return]

    def unstabilize(self, z: ArrayT) -> ArrayT:
        """Invert `stabilize` exactly: counts, same shape."""
        z_ = floating(z)
        dark, light = -clip_below(-z_), clip_below(z_)
        e = light * (0.25 * light + self._s0) + dark * self._s0
        return e * self.gain + self.offset  # type: ignore[no-any-return]

    def simulate(self, clean: ArrayLike, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return noisy counts for clean counts of any shape, not rounded.

        Where clean is below the offset there is no light: only read noise is added.
        """
        mean = np.asarray(clean, dtype=np.float64)
        light = np.maximum(mean - self.offset, 0.0) / self.gain
        electrons = rng.poisson(light) - light + rng.normal(0.0, self.read_noise, mean.shape)
        return np.asarray(mean + self.gain * electrons)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `noise_from_dict`."""
        return {"kind": "poisson_gaussian"} | {k: float(v) for k, v in asdict(self).items()}

    @property
    def _s0(self) -> float:
        return math.sqrt(self.read_noise**2 + 0.375)


@dataclass(frozen=True)
class GaussianNoise(Fusion):
    """Gaussian noise of one standard deviation everywhere.

    Parameters
    ----------
    sigma : float [counts], > 0

    Raises
    ------
    ValueError
        If sigma is not finite or not positive.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.sigma) or self.sigma <= 0.0:
            raise ValueError(f"sigma must be positive and finite, got {self.sigma}")

    @classmethod
    def estimate(cls, movie: NDArray[Any] | MovieView) -> Self:
        """Return the root mean square noise over all pixels of a (T, Y, X) movie."""
        fit = estimate_noise(movie)
        counts = fit.bin_counts
        return cls(math.sqrt(float(np.average(fit.model.variance(fit.bin_means), weights=counts))))

    def variance(self, mean: ArrayT) -> ArrayT:
        """Return sigma^2 [counts^2], in the shape of mean."""
        return floating(mean) * 0.0 + self.sigma**2  # type: ignore[no-any-return]

    def stabilize(self, y: ArrayT) -> ArrayT:
        """Return y / sigma."""
        return floating(y) / self.sigma  # type: ignore[no-any-return]

    def unstabilize(self, z: ArrayT) -> ArrayT:
        """Return z * sigma."""
        return floating(z) * self.sigma  # type: ignore[no-any-return]

    def simulate(self, clean: ArrayLike, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return noisy counts for clean counts of any shape."""
        mean = np.asarray(clean, dtype=np.float64)
        return np.asarray(mean + rng.normal(0.0, self.sigma, mean.shape))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `noise_from_dict`."""
        return {"kind": "gaussian", "sigma": float(self.sigma)}


@dataclass(frozen=True, eq=False)
class NoiseFit:
    """A noise model with the photon-transfer curve it was fitted to.

    Attributes
    ----------
    model : PoissonGaussianNoise
    bin_means, bin_variances : ndarray, shape (bins,) [counts], [counts^2]
    bin_weights : ndarray, shape (bins,)
        Weight in the fit [1 / counts^4]; 0 for bins left out (clipped, truncated).
    bin_counts : ndarray, shape (bins,) [pixels]
    gain_std_error : float [counts / photoelectron]
        Includes what the choice of filters costs. Above 10 % of the gain the fit is uncertain.
    correlation : float
        Variance of all spatial scales over that of the finest, where nothing moves: about 1 for
        noise that is independent from pixel to pixel. Above 1.2 the model is scaled by it, so
        that ``model.variance`` stays the variance of a pixel.
    uncertain : bool
        Whether the model should be shown to the user before it is trusted.
    note : str
        Sentences for the user; empty when nothing is worth saying.
    law : MeasuredNoise or None
        Where the variance does not follow a straight line: the monotone law that it does follow.
    shared : str
        The beginning of `note` that tells of noise that neighbouring pixels share, if it does.
    """

    model: PoissonGaussianNoise
    bin_means: NDArray[np.float64]
    bin_variances: NDArray[np.float64]
    bin_weights: NDArray[np.float64]
    bin_counts: NDArray[np.float64]
    gain_std_error: float
    correlation: float = 1.0
    uncertain: bool = False
    note: str = field(default="")
    law: MeasuredNoise | None = None
    shared: str = ""

    @property
    def best(self) -> PoissonGaussianNoise | MeasuredNoise:
        """What describes the movie best: the law where there is one, else the model."""
        return self.model if self.law is None else self.law

    @property
    def sentence(self) -> str:
        """How strong the noise of a pixel is, for the user; gain and read noise do not show it.

        Its standard deviation, in the units of the movie.
        """
        means = self.bin_means[self.bin_counts > 0]
        if not means.size:
            return ""
        dark, light = np.sqrt(self.best.variance(np.array([means.min(), means.max()])))
        if abs(light / dark - 1) < _EVEN:
            return f"Noise of a pixel: {_rounded((dark + light) / 2)}, whatever its brightness."
        return (
            f"Noise of a pixel: {_rounded(dark)} where it is dark, "
            f"{_rounded(light)} where it is bright."
        )


def _rounded(value: float) -> str:
    """Three digits, and no power of ten where whole numbers do."""
    return f"{value:.0f}" if 100 <= value < 1e7 else f"{value:.3g}"


def noise_from_dict(
    description: Mapping[str, Any],
) -> PoissonGaussianNoise | GaussianNoise | MeasuredNoise:
    """Return the model that ``to_dict`` described.

    Raises
    ------
    ValueError
        If the description is not one of a known noise model.
    """
    kinds = {"poisson_gaussian": PoissonGaussianNoise, "gaussian": GaussianNoise}
    kind = description.get("kind")
    values = {key: value for key, value in description.items() if key != "kind"}
    if kind not in (*kinds, "measured"):
        raise ValueError(f"noise kind must be one of {', '.join(kinds)}, measured; got {kind!r}")
    try:
        if kind == "measured":
            return MeasuredNoise(**values)
        numbers = {key: float(value) for key, value in values.items()}  # true and false too
        return kinds[kind](**numbers)  # type: ignore[no-any-return]
    except (TypeError, OverflowError) as error:
        raise ValueError(f"noise of kind {kind} cannot be read from {values}: {error}") from error


def estimate_noise(
    movie: NDArray[Any] | MovieView,
    *,
    offset: float | None = None,
    read_noise: float | None = None,
    white: bool = False,
) -> NoiseFit:
    """Estimate shot noise and read noise of a movie from the movie itself.

    Parameters
    ----------
    movie : ndarray or MovieView, shape (T, Y, X) [counts]
        Any integer or float type and scale; NaN and infinite pixels are ignored. Of a large movie
        a few windows are read.
    offset : float, optional [counts]
        Value of a pixel without light. Otherwise the darkest background level stands for it.
    read_noise : float, optional [photoelectrons rms]
        If given without an offset, the offset follows from the line.
    white : bool, default False
        The noise of neighbouring pixels is known to be independent
        (`napari_stbn.correlation.CorrelationFit.white`). Otherwise what details of every size hold
        more than the finest ones, where least moves, counts as noise that is shared.

    Returns
    -------
    NoiseFit

    Raises
    ------
    ValueError
        If movie is not (T, Y, X) with at least 2 frames of real numbers, has no finite pixel or
        is constant, or read_noise is negative.

    Notes
    -----
    A movie identifies only the line ``variance = gain * (mean - offset) + (gain * read_noise)**2``:
    its slope is the gain, but offset and read noise share one number. With neither given, the
    variance of every pixel is right although the split between the two may be off: light in the
    darkest background counts as read noise then. Without a significant slope the variance is
    taken as constant, with a gain too small to matter.
    """
    if not isinstance(movie, MovieView):
        movie = np.asarray(movie)
    check_movie(movie)
    if read_noise is not None and not 0.0 <= read_noise < math.inf:
        raise ValueError(f"read_noise must be 0 or more, got {read_noise}")
    sampling = sample_movie(movie)
    line = fit_line(sampling.blocks)
    if line is None:
        camera = crude_camera(sampling, offset)
    else:
        camera = fit_camera(sampling, line, offset, read_noise, white=white)
    model = PoissonGaussianNoise(camera.gain, camera.offset, camera.read_noise)
    curve = camera.means, camera.variances, camera.weights, camera.counts
    law, missed = monotone_law(*curve), _misfit(model, *curve)
    given = offset is not None or read_noise is not None
    note = list(camera.notes)
    if law is None or given or not missed > max(_MISFIT[law.falls], 2 * _misfit(law, *curve)):
        law = None
    else:
        note.append("The variance is taken from the movie level by level instead.")
    return NoiseFit(
        model,
        camera.means,
        camera.variances,
        camera.weights,
        camera.counts,
        camera.gain_error,
        camera.correlation,
        uncertain=bool(camera.notes),
        note=" ".join(note),
        law=law,
        shared=camera.shared,
    )


def _misfit(
    model: PoissonGaussianNoise | MeasuredNoise,
    means: NDArray[np.float64],
    variances: NDArray[np.float64],
    weights: NDArray[np.float64],
    counts: NDArray[np.float64],
) -> float:
    """By what share measured variances miss a model, mean over pixels; 0 where there are none."""
    used = (weights > 0) & (variances > 0)
    if not counts[used].sum() > 0:
        return 0.0
    off = np.abs(np.log(variances[used] / model.variance(means[used])))
    return float(np.average(off, weights=counts[used]))
