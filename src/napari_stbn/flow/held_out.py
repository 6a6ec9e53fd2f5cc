"""How well a flow explains pixels that it never saw: the measure by which flows are chosen.

Any flow between noisy frames explains *these* frames, also where nothing moves: it was led by their
noise. So one pixel of each cell of 4 x 4 is hidden before flow is estimated, its place filled from
its neighbours, and the flow is asked what stands there: a smoothed neighbouring frame, sampled
where the flow leads. The noise of a hidden pixel is independent of the answer, so that the mean
squared error is the variance of the noise plus the error of the answer, and flows can be compared.
Sampling is nearest neighbour as in the alignment: an interpolated answer has less noise of its own,
and a random flow of fractions of pixels would seem better than none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .estimators import Flow

__all__ = ["Comparison", "HeldOut", "compare"]

_CELL = 4  # px, side of a cell with one hidden pixel
_SMOOTH = 1.5  # px: less, and a flow gains by picking the answers' own noise
_FLOOR = 0.1  # of the range of the movie: noise that does not grow with the light
_RING = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]], np.float32)  # weights of a pixel's neighbours
_SAMPLED = 2**22  # pixels that the range of a movie is taken from, at most
Image = NDArray[np.float32]


class Comparison(NamedTuple):
    """One flow against another on the same hidden pixels.

    Attributes
    ----------
    gain : float
        Part of the other's error that this one avoids; negative where it is worse.
    sigmas : float
        The same in standard errors.
    """

    gain: float
    sigmas: float


@dataclass(frozen=True)
class HeldOut:
    """A movie with hidden pixels, and what stood there.

    Attributes
    ----------
    filled : ndarray, shape (T, Y, X), float32
        The movie to estimate flow from, or to denoise for that.
    rows, columns : ndarray of int, shape (T, Y / 4, X / 4)
        Where the hidden pixels lie.
    values : ndarray, shape (T, Y / 4, X / 4), float32
        What was measured there.
    weights : ndarray, shape (T, Y / 4, X / 4), float32
        One over the variance that the neighbours let expect, up to a factor; zero for pixels that
        were not measured.
    answers : ndarray, shape (T, Y, X), float32
        The frames that flow is asked for answers in.
    """

    filled: Image
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    values: Image
    weights: Image
    answers: Image

    @classmethod
    def of(
        cls, movie: NDArray[Any], *, valid: NDArray[np.bool_] | None = None, seed: int = 0
    ) -> HeldOut:
        """Hide pixels of a movie.

        Parameters
        ----------
        movie : ndarray, shape (T, Y, X)
            Noisy frames in any unit; not modified.
        valid : ndarray of bool, shape (T, Y, X), optional
            False for pixels that were not measured. Those that are not finite are not.
        seed : int
            Chooses the pixels; other ones in every frame.
        """
        import cv2

        t, h, w = movie.shape
        filled = np.array(movie, np.float32)
        known = np.isfinite(filled)
        if not known.all():
            filled[~known] = np.median(filled[known]) if known.any() else 0.0
        if valid is not None:
            known &= valid
        rng = np.random.default_rng(seed)
        cells = (t, -(-h // _CELL), -(-w // _CELL))
        corner_y, corner_x = (_CELL * np.arange(n) for n in cells[1:])
        rows = np.minimum(corner_y[:, None] + rng.integers(0, _CELL, cells), h - 1)
        columns = np.minimum(corner_x + rng.integers(0, _CELL, cells), w - 1)
        frame = np.arange(t)[:, None, None]
        values = filled[frame, rows, columns]
        for image, y, x in zip(filled, rows, columns, strict=True):
            shown = np.ones((h, w), np.float32)
            shown[y, x] = 0
            around = [cv2.filter2D(a, -1, _RING, borderType=cv2.BORDER_REFLECT_101)
                      for a in (image * shown, shown)]  # fmt: skip
            image[y, x] = around[0][y, x] / np.maximum(around[1][y, x], 1e-6)
        answers = np.stack([cv2.GaussianBlur(image, (0, 0), _SMOOTH) for image in filled])
        every = max(1, answers.size // _SAMPLED)
        low, high = np.percentile(answers.reshape(-1)[::every], [1.0, 99.8])
        light = np.maximum(answers[frame, rows, columns] - low, 0) + _FLOOR * (high - low)
        weights = np.where(known[frame, rows, columns], 1 / np.maximum(light, 1e-30), 0)
        if not high > low:
            weights = np.zeros_like(weights)
        return cls(filled, rows, columns, values, weights.astype(np.float32), answers)

    def asking(self, frames: NDArray[Any]) -> HeldOut:
        """The same hidden pixels, answers from other frames, such as denoised ones.

        Parameters
        ----------
        frames : ndarray, shape (T, Y, X)
            Made from `filled`, in the units of the movie.
        """
        if frames.shape != self.filled.shape:
            raise ValueError(
                f"frames must have shape {self.filled.shape} as the movie, got {frames.shape}"
            )
        return replace(self, answers=np.asarray(frames, np.float32))

    def missed_by(self, frames: NDArray[Any]) -> Image:
        """Weighted squared error of predicted frames where pixels are hidden.

        Parameters
        ----------
        frames : ndarray, shape (T, Y, X)
            Made from `filled`, in the units of the movie.

        Returns
        -------
        ndarray, shape (T, Y / 4, X / 4), float32
        """
        frame = np.arange(len(frames))[:, None, None]
        missed = self.values - frames[frame, self.rows, self.columns]
        return np.asarray(missed**2 * self.weights, np.float32)

    def errors(self, flow: Flow | None) -> Image:
        """Weighted squared error of the answers of a flow.

        Parameters
        ----------
        flow : Flow or None
            None stands still.

        Returns
        -------
        ndarray, shape (T - 1, 2, Y / 4, X / 4), float32
            Of each pair, along the flow to the previous frame and to the next.
        """
        pairs = len(self.filled) - 1
        errors = np.empty((pairs, 2, *self.values.shape[1:]), np.float32)
        for t in range(pairs):
            ways = (None, None) if flow is None else (flow.to_previous[t], flow.to_next[t])
            errors[t] = self.pair_errors(t, *ways)
        return errors

    def pair_errors(self, pair: int, to_previous: Image | None, to_next: Image | None) -> Image:
        """`errors` of one pair: (2, Y / 4, X / 4)."""
        ways = ((pair + 1, pair, to_previous), (pair, pair + 1, to_next))
        return np.stack([self._errors(*way) for way in ways])

    def _errors(self, frame: int, other: int, flow: Image | None) -> Image:
        """Weighted squared error at the hidden pixels of a frame."""
        height, width = self.filled.shape[1:]
        rows, columns = self.rows[frame], self.columns[frame]
        at_y, at_x = rows, columns
        if flow is not None:
            move = np.rint(np.nan_to_num(flow[:, rows, columns])).astype(np.intp)
            at_y = np.clip(rows + move[1], 0, height - 1)
            at_x = np.clip(columns + move[0], 0, width - 1)
        missed = self.values[frame] - self.answers[other][at_y, at_x]
        return np.asarray(missed**2 * self.weights[frame], np.float32)


def compare(errors: Image, other: Image) -> Comparison:
    """Say by how much one flow explains the hidden pixels better than another, and how surely.

    Parameters
    ----------
    errors, other : ndarray of equal shape
        From `HeldOut.errors`.
    """
    difference = other.astype(np.float64) - errors
    spread = float(np.sqrt(np.square(difference).sum()))
    total = float(other.sum(dtype=np.float64))
    better = float(difference.sum())
    return Comparison(better / total if total > 0 else 0.0, better / spread if spread > 0 else 0.0)
