"""Orthonormal bases of colour samples: what they share in one component, differences in others.

Noise that grows with brightness would not be even in the differences, which do not know it. Such
samples are brought to unit noise variance first.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._lazy import MovieView
from ._prepared import NoiseChoice
from .noise import (
    GaussianNoise,
    MeasuredNoise,
    PoissonGaussianNoise,
    estimate_noise,
    noise_from_dict,
)
from .stack import Stack

__all__ = ["ColourBasis", "Law", "measure_bases", "stabilized"]

Law = PoissonGaussianNoise | MeasuredNoise
_PIXELS = 2**21  # of each sample that a basis is measured on, at most
_WORTH = 0.3  # nats a pixel that components have to take less than samples, to be taken instead
_FLOOR = 0.01  # of the mean variance of the samples: weaker components cost no less
_EVEN = 1.2  # times the variance of noise in dark pixels, in bright ones: no more
_STILL = 1e-3  # of the strongest component's standard deviation: less is not worth denoising


@dataclass(frozen=True)
class ColourBasis:
    """Orthonormal basis of the colour samples of one channel.

    Parameters
    ----------
    rows : tuple of S tuples of S float
        Weights of the samples in each component; brightness comes first.
    kept : tuple of int
        Components that are denoised, the others hold next to nothing and stay as they are.
    levels : tuple of S float [user's units]
        Mean of each component.
    laws : tuple of S noise models or None
        By which a sample is brought to unit noise variance before it is mixed with others; None of
        all where the noise is even.
    limits : tuple of S (low, high) [user's units]
        Least and greatest value of each sample.

    Raises
    ------
    ValueError
        If the rows are not orthonormal, nothing is kept, or lengths differ.
    """

    rows: tuple[tuple[float, ...], ...]
    kept: tuple[int, ...]
    levels: tuple[float, ...]
    laws: tuple[Law | None, ...]
    limits: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        matrix = self.matrix
        square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
        if not square or not np.allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-5):
            raise ValueError("a basis of colours must be orthonormal")
        if not self.kept or not set(self.kept) <= set(range(len(matrix))):
            raise ValueError(f"components from 0 to {len(matrix) - 1} are kept, got {self.kept}")
        for name in ("levels", "laws", "limits"):
            if len(getattr(self, name)) != len(matrix):
                raise ValueError(f"{name} of {len(matrix)} samples were expected, got {self}")

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The rows, shape (S, S)."""
        return np.array(self.rows, np.float64)

    @property
    def apart(self) -> bool:
        """Whether the components are the samples themselves: they show different things."""
        return np.array_equal(self.matrix, np.eye(len(self.rows)))

    @classmethod
    def measured(
        cls,
        pixels: NDArray[np.float64],
        beside: NDArray[np.float64],
        laws: Sequence[Law | None] | None = None,
    ) -> ColourBasis:
        """Principal components of the signal, or the samples where they have little in common.

        Parameters
        ----------
        pixels : ndarray, shape (S, N) [user's units]
        beside : ndarray, shape (S, N) [user's units]
            A neighbour of each pixel. Its noise is another one, so that the covariance of both is
            that of the signal.
        laws : sequence of S noise models or None, optional
        """
        laws = laws or [None] * len(pixels)
        limits = [(float(p.min()), float(p.max())) for p in pixels]
        pixels, beside = (
            np.stack([stabilized(p, law) for p, law in zip(both, laws, strict=True)])
            for both in (pixels, beside)
        )
        size = len(pixels)
        both = pixels - pixels.mean(1, keepdims=True), beside - beside.mean(1, keepdims=True)
        shared = both[0] @ both[1].T / max(1, pixels.shape[1])
        signal = (shared + shared.T) / 2
        strength, vectors = np.linalg.eigh(signal)
        floor = _FLOOR * max(float(np.trace(signal)), 0.0) / size + 1e-12
        of_samples = np.log(np.maximum(np.diag(signal), 0) + floor).sum()
        of_components = np.log(np.maximum(strength, 0) + floor).sum()
        matrix = np.eye(size)
        if of_samples - of_components > 2 * _WORTH:
            matrix = vectors.T[::-1]
            largest = np.abs(matrix).argmax(1)
            sums, heads = matrix.sum(1), matrix[np.arange(size), largest]
            # Light is to be bright in them, as in the movies that the weights were learnt on.
            matrix *= np.sign(np.where(np.abs(sums) > 0.1, sums, heads))[:, None]
        spread = (matrix @ both[0]).std(1)
        kept = np.flatnonzero(spread > _STILL * spread.max()) if spread.max() > 0 else range(size)
        levels = matrix @ pixels.mean(1)
        return cls(
            tuple(map(tuple, matrix.tolist())),
            tuple(int(k) for k in kept),
            tuple(levels.tolist()),
            tuple(laws),
            tuple(limits),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "rows": [list(row) for row in self.rows],
            "kept": list(self.kept),
            "levels": list(self.levels),
            "laws": [None if law is None else law.to_dict() for law in self.laws],
            "limits": [list(limits) for limits in self.limits],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ColourBasis:
        """Read what `to_dict` gave."""
        rows = tuple(tuple(float(value) for value in row) for row in values["rows"])
        kept = tuple(int(k) for k in values["kept"])
        return cls(
            rows,
            kept,
            tuple(float(level) for level in values["levels"]),
            tuple(_law(law) for law in values["laws"]),
            tuple((float(low), float(high)) for low, high in values["limits"]),
        )


def stabilized(values: NDArray[Any], law: Law | None) -> NDArray[Any]:
    """Values of a sample with unit noise variance; as they are without a law."""
    return values if law is None else np.asarray(law.stabilize(values))


def measure_bases(
    stack: Stack, noise: NoiseChoice = "estimate"
) -> Generator[float, None, tuple[ColourBasis, ...]]:
    """Measure the basis of each channel of a stack with colour samples, on a part of it.

    Parameters
    ----------
    stack : Stack
    noise : {"estimate", "gaussian"} or noise model or None
        As in `napari_stbn.Denoiser`: a law that is known, or to be measured.

    Yields
    ------
    float
        Part of the work that is done, 0 to 1.

    Returns
    -------
    tuple of ColourBasis
    """
    samples, (height, width) = stack.size("S"), stack.frame_shape
    each = height * width
    frames = slice(0, None, max(1, -(-stack.n_frames * each // _PIXELS)))
    rows = slice(0, None, max(1, -(-each // _PIXELS)))
    plane = stack.n_planes // 2
    bases = []
    for colour in range(stack.size("C")):
        views = [MovieView(stack, colour * samples + s, plane) for s in range(samples)]
        values = np.stack([view[frames, rows].astype(np.float64) for view in views])
        here, beside = (values[..., part].reshape(samples, -1) for part in (np.s_[:-1], np.s_[1:]))
        finite = np.isfinite(here).all(0) & np.isfinite(beside).all(0)
        if not finite.any():
            raise ValueError(f"{stack.title} holds no pixel that was measured in all its colours")
        here, beside = here[:, finite], beside[:, finite]
        laws = []
        for view, seen in zip(views, here, strict=True):
            laws.append(_law_of(view, seen, noise))
            yield (colour * samples + len(laws)) / stack.n_channels
        uneven = any(_is_uneven(law, seen) for law, seen in zip(laws, here, strict=True))
        bases.append(ColourBasis.measured(here, beside, laws if uneven else None))
    return tuple(bases)


def _law_of(view: MovieView, seen: NDArray[np.float64], noise: NoiseChoice) -> Law | None:
    """How the noise of a sample grows, where that is known or can be measured."""
    if isinstance(noise, PoissonGaussianNoise | MeasuredNoise):
        return noise
    if noise != "estimate" or np.ptp(seen) == 0:
        return None
    return estimate_noise(view).best


def _is_uneven(law: Law | None, seen: NDArray[np.float64]) -> bool:
    """Whether noise differs between dark and bright pixels of a sample by more than it matters."""
    if law is None:
        return False
    dark, bright = law.variance(np.percentile(seen, (1, 99)))
    return not 1 / _EVEN < bright / dark < _EVEN


def _law(values: Any) -> Law | None:
    """Read the law of a sample."""
    if values is None:
        return None
    law = noise_from_dict(values)
    if isinstance(law, GaussianNoise):
        raise ValueError("noise that is even needs no law")
    return law
