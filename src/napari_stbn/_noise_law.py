"""What all noise models share: likelihood and posterior, for numpy arrays and torch tensors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, TypeVar

import numpy as np

ArrayT = TypeVar("ArrayT")


class Fusion(ABC):
    """Likelihood and posterior shared by all models; both need the variance law alone."""

    @abstractmethod
    def variance(self, mean: ArrayT) -> ArrayT:
        """Variance of the noise at a mean [counts^2]."""

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
        y_, mean, spread = floating(y), floating(prior_mean), floating(prior_variance)
        total = spread + self.variance(mean)
        distance = (y_ - mean) ** 2 / total
        return -0.5 * (log(2.0 * math.pi * total) + distance)  # type: ignore[no-any-return]

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
        y_, mean, spread = floating(y), floating(prior_mean), floating(prior_variance)
        noise = self.variance(mean)
        trust = spread / (spread + noise)
        return mean + trust * (y_ - mean), sqrt(trust * noise)


def _is_tensor(x: object) -> bool:
    """Whether x is a torch Tensor, found out without importing torch."""
    return type(x).__module__.split(".")[0] == "torch"


def floating(x: Any) -> Any:
    """Return x as an array or Tensor of floats; float types are kept."""
    if _is_tensor(x):
        return x if x.is_floating_point() else x.float()
    array = np.asarray(x)
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def clip_below(x: Any) -> Any:
    """Return max(x, 0)."""
    return x.clamp(min=0.0) if _is_tensor(x) else np.maximum(x, 0.0)


def sqrt(x: Any) -> Any:
    """Return the square root."""
    return x.sqrt() if _is_tensor(x) else np.sqrt(x)


def log(x: Any) -> Any:
    """Return the natural logarithm."""
    return x.log() if _is_tensor(x) else np.log(x)
