"""Noise of a camera or detector: models, and their estimation from the movie itself.

Words and units: ``gain`` [counts / photoelectron], ``offset`` [counts], ``read_noise``
[photoelectrons rms]; ``Var[y] = gain * (E[y] - offset) + (gain * read_noise)**2``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np

from napari_stbn._noise_estimation import Line, correlation_excess, fit_line
from napari_stbn._noise_sampling import Sampling, check_movie, sample_movie

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

ArrayT = TypeVar("ArrayT")

_SMALLEST_READ_NOISE = 0.01  # photoelectrons rms; keeps every variance positive
_CORRELATED = 1.2  # variance of all scales over the finest that is believed to be noise


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


class _Fusion:
    """Likelihood and posterior shared by all models; both need the variance law alone."""

    def variance(self, mean: ArrayT) -> ArrayT:
        raise NotImplementedError

    def log_likelihood(self, y: ArrayT, prior_mean: ArrayT, prior_variance: ArrayT) -> ArrayT:
        """Return log N(y; prior_mean, prior_variance + variance(prior_mean)) for each pixel.

        Parameters
        ----------
        y, prior_mean : array or Tensor, any one shape [counts]
        prior_variance : array or Tensor, same shape [counts^2]

        Returns
        -------
        array or Tensor, same shape [nat]
        """
        y_, mean, spread = _floating(y), _floating(prior_mean), _floating(prior_variance)
        total = spread + self.variance(mean)
        distance = (y_ - mean) ** 2 / total
        return -0.5 * (_log(2.0 * math.pi * total) + distance)  # type: ignore[no-any-return]

    def posterior(
        self, y: ArrayT, prior_mean: ArrayT, prior_variance: ArrayT
    ) -> tuple[ArrayT, ArrayT]:
        """Return posterior mean and posterior standard deviation, both in counts.

        Parameters
        ----------
        y, prior_mean : array or Tensor, any one shape [counts]
        prior_variance : array or Tensor, same shape [counts^2]

        Returns
        -------
        mean, std : arrays or Tensors, same shape [counts]

        Notes
        -----
        The linear estimator of least squared error, ``m + V / (V + s2) * (y - m)`` with
        ``s2 = variance(m)``. ``E[variance(x)] = variance(E[x])`` because the law is linear, so
        first and second moments are all it needs: it is exact for Poisson noise, not only for
        Gaussian.
        """
        y_, mean, spread = _floating(y), _floating(prior_mean), _floating(prior_variance)
        noise = self.variance(mean)
        trust = spread / (spread + noise)
        return mean + trust * (y_ - mean), _sqrt(trust * noise)


@dataclass(frozen=True)
class PoissonGaussianNoise(_Fusion):
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
        movie: NDArray[Any],
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
        light = _clip_below(_floating(mean) - self.offset)
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
        e = (_floating(y) - self.offset) / self.gain
        s0 = self._s0
        dark, light = -_clip_below(-e), _clip_below(e)
        return 2.0 * light / (_sqrt(light + s0 * s0) + s0) + dark / s0  # type: ignore[no-any-return]

    def unstabilize(self, z: ArrayT) -> ArrayT:
        """Invert `stabilize` exactly: counts, same shape."""
        z_ = _floating(z)
        dark, light = -_clip_below(-z_), _clip_below(z_)
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
class GaussianNoise(_Fusion):
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
    def estimate(cls, movie: NDArray[Any]) -> Self:
        """Return the root mean square noise over all pixels of a (T, Y, X) movie."""
        fit = estimate_noise(movie)
        counts = fit.bin_counts
        return cls(math.sqrt(float(np.average(fit.model.variance(fit.bin_means), weights=counts))))

    def variance(self, mean: ArrayT) -> ArrayT:
        """Return sigma^2 [counts^2], in the shape of mean."""
        return _floating(mean) * 0.0 + self.sigma**2  # type: ignore[no-any-return]

    def stabilize(self, y: ArrayT) -> ArrayT:
        """Return y / sigma."""
        return _floating(y) / self.sigma  # type: ignore[no-any-return]

    def unstabilize(self, z: ArrayT) -> ArrayT:
        """Return z * sigma."""
        return _floating(z) * self.sigma  # type: ignore[no-any-return]

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
    correlation : float
        Variance of all spatial scales over that of the finest, where nothing moves: about 1 for
        noise that is independent from pixel to pixel. Above 1.2 the model is scaled by it, so
        that ``model.variance`` stays the variance of a pixel.
    uncertain : bool
        Whether the model should be shown to the user before it is trusted.
    note : str
        Sentences for the user; empty when nothing is worth saying.
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


def noise_from_dict(description: Mapping[str, Any]) -> PoissonGaussianNoise | GaussianNoise:
    """Return the model that ``to_dict`` described.

    Raises
    ------
    ValueError
        If the description is not one of a known noise model.
    """
    kinds = {"poisson_gaussian": PoissonGaussianNoise, "gaussian": GaussianNoise}
    kind = description.get("kind")
    values = {key: value for key, value in description.items() if key != "kind"}
    if kind not in kinds:
        raise ValueError(f"noise kind must be one of {', '.join(kinds)}; got {kind!r}")
    try:
        return kinds[kind](**values)  # type: ignore[no-any-return]
    except TypeError as error:
        raise ValueError(f"noise of kind {kind} cannot be read from {values}: {error}") from error


def estimate_noise(
    movie: NDArray[Any], *, offset: float | None = None, read_noise: float | None = None
) -> NoiseFit:
    """Estimate shot noise and read noise of a movie from the movie itself.

    Parameters
    ----------
    movie : ndarray, shape (T, Y, X) [counts]
        Any integer or float type and scale; NaN and infinite pixels are ignored.
    offset : float, optional [counts]
        Value of a pixel without light. Otherwise the darkest background level stands for it.
    read_noise : float, optional [photoelectrons rms]
        If given without an offset, the offset follows from the line.

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
    movie = np.asarray(movie)
    check_movie(movie)
    if read_noise is not None and not 0.0 <= read_noise < math.inf:
        raise ValueError(f"read_noise must be 0 or more, got {read_noise}")
    sampling = sample_movie(movie)
    line = fit_line(sampling.blocks)
    if line is None:
        return _crude_fit(sampling, offset)
    return _fit_model(sampling, line, offset, read_noise)


def _fit_model(
    sampling: Sampling, line: Line, offset: float | None, read_noise: float | None
) -> NoiseFit:
    """Turn a line in scaled units into a model in counts."""
    scale, centre = sampling.scale, sampling.centre
    correlation = correlation_excess(sampling.blocks, line)
    factor = correlation if correlation > _CORRELATED else 1.0
    x, v = line.means * scale + centre, np.maximum(line.variances, 0.0) * factor * scale**2
    w = line.weights / (factor * scale**2) ** 2
    slope = line.slope * factor * scale
    error = math.sqrt(max(float(line.covariance[0, 0]), 0.0)) * factor * scale
    intercept = line.intercept * factor * scale**2 - slope * centre
    dark = sampling.dark * scale + centre
    notes = []
    if factor > 1.0:
        notes.append(
            "Neighbouring pixels share noise: the variance of a pixel is "
            f"{factor:.1f} times that of the finest detail."
        )
    used = w > 0
    spread = float(np.ptp(x[used])) if used.any() else 0.0
    if not (slope > 2.0 * error and slope * spread > 0.0):
        notes.append("The noise does not grow with intensity: constant variance assumed.")
        model = _constant(float(np.average(v, weights=w)), offset, dark, float(x.max()))
    elif offset is None and read_noise is not None:
        model = PoissonGaussianNoise(
            slope, slope * read_noise**2 - intercept / slope, float(read_noise)
        )
    elif read_noise is not None and offset is not None:
        gain = _gain_through(x - offset, v, w, read_noise, slope)
        model = PoissonGaussianNoise(gain, float(offset), float(read_noise))
    else:
        level = dark if offset is None else float(offset)
        at_dark = slope * level + intercept
        if at_dark < 0.0 and offset is None:
            level, at_dark = min(-intercept / slope, float(x.min())), 0.0
        if at_dark < 0.0 or level * slope + intercept < -1e-9 * abs(intercept):
            slope, at_dark = _gain_through(x - level, v, w, 0.0, slope), 0.0
        model = PoissonGaussianNoise(slope, level, math.sqrt(max(at_dark, 0.0)) / slope)
    predicted = model.variance(x)
    off = np.abs(v / predicted - 1.0)
    if used.any() and float(np.average(off[used], weights=line.counts[used])) > 0.15:
        notes.append("The variance does not follow a straight line in the mean.")
    if slope > 2.0 * error > 0.2 * slope:
        notes.append(f"The gain is known to {100 * error / slope:.0f} % only.")
    if sampling.clipped > 0.2:
        notes.append(
            f"{100 * sampling.clipped:.0f} % of the pixels lie at the smallest or largest value, "
            "where clipping hides the noise."
        )
    if line.rejected > 0.2:
        notes.append(f"{100 * line.rejected:.0f} % of the movie was left out as too structured.")
    return NoiseFit(model, x, v, w, line.counts, error, correlation, bool(notes), " ".join(notes))


def _gain_through(
    light: NDArray[np.float64],
    v: NDArray[np.float64],
    w: NDArray[np.float64],
    read_noise: float,
    start: float,
) -> float:
    """Return the gain that fits v = gain * light + (gain * read_noise)^2 (Gauss-Newton)."""
    gain = start
    for _ in range(30):
        residual = v - gain * light - (gain * read_noise) ** 2
        jacobian = light + 2.0 * gain * read_noise**2
        norm = float(np.sum(w * jacobian**2))
        if norm <= 0.0:
            break
        gain = max(gain + float(np.sum(w * jacobian * residual)) / norm, 0.1 * gain)
    return gain


def _constant(
    variance: float, offset: float | None, dark: float, brightest: float
) -> PoissonGaussianNoise:
    """Return a valid model whose variance rises by 0.1 % at most from offset to the brightest."""
    level = dark if offset is None else float(offset)
    variance = max(variance, 1e-30)
    reach = max(brightest - level, math.sqrt(variance))
    gain = 1e-3 * variance / reach
    return PoissonGaussianNoise(gain, level, math.sqrt(variance) / gain)


def _crude_fit(sampling: Sampling, offset: float | None) -> NoiseFit:
    """Return a constant variance from plain frame differences, for frames too small to filter."""
    differences = np.concatenate([np.diff(b.frames, axis=0).ravel() for b in sampling.blocks])
    spread = float(np.median(np.abs(differences))) / 0.6745 or float(np.std(differences))
    variance = spread**2 / 2.0 * sampling.scale**2
    mean = float(np.mean([b.frames.mean() for b in sampling.blocks]))
    x = np.array([mean * sampling.scale + sampling.centre])
    dark = sampling.dark * sampling.scale + sampling.centre
    model = _constant(variance, offset, dark, float(x[0]))
    note = "Too few usable pixels to measure the gain: constant variance assumed."
    ones = np.ones(1)
    return NoiseFit(model, x, np.array([variance]), ones, ones, math.inf, uncertain=True, note=note)


def _is_tensor(x: object) -> bool:
    """Whether x is a torch Tensor, found out without importing torch."""
    return type(x).__module__.split(".")[0] == "torch"


def _floating(x: Any) -> Any:
    """Return x as an array or Tensor of floats; float types are kept."""
    if _is_tensor(x):
        return x if x.is_floating_point() else x.float()
    array = np.asarray(x)
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _clip_below(x: Any) -> Any:
    """Return max(x, 0)."""
    return x.clamp(min=0.0) if _is_tensor(x) else np.maximum(x, 0.0)


def _sqrt(x: Any) -> Any:
    return x.sqrt() if _is_tensor(x) else np.sqrt(x)


def _log(x: Any) -> Any:
    return x.log() if _is_tensor(x) else np.log(x)
