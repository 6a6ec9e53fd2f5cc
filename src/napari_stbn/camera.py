"""Maps of a camera whose pixels differ, as sCMOS do: offset, gain and read noise of each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from .io import read
from .stack import ArrayLike, Stack

__all__ = ["CameraMaps", "read_corrected"]

_NOISY = 9.0  # times the median variance of read noise, from which a pixel is left out
FloatMap = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class CameraMaps:
    """Offset, gain and read noise of every pixel of a camera.

    Parameters
    ----------
    offset : array, shape (Y, X) [counts]
        Mean of a pixel in the dark.
    gain : array, shape (Y, X), optional [counts/photoelectron]
        Of one unit for all; only its ratio to the median matters.
    variance : array, shape (Y, X), optional [counts²]
        Of a pixel in the dark.

    Raises
    ------
    ValueError
        If the maps are not images of one shape, or a gain is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> dark = np.random.default_rng(0).normal(100, 2, (200, 16, 16))
    >>> maps = CameraMaps.of_dark_frames(dark)
    >>> corrected = maps.correct(Stack(dark[:5], axes="TYX"))
    >>> corrected.shape
    (5, 16, 16)
    """

    offset: FloatMap
    gain: FloatMap | None = None
    variance: FloatMap | None = None

    def __post_init__(self) -> None:
        for name in ("offset", "gain", "variance"):
            given = getattr(self, name)
            if given is None:
                continue
            given = np.asarray(given, np.float32)
            if given.ndim != 2 or given.shape != np.shape(self.offset):
                raise ValueError(
                    f"{name} must be one image as large as the offset, {np.shape(self.offset)}, "
                    f"got shape {given.shape}"
                )
            object.__setattr__(self, name, given)
        if self.gain is not None and not (self.gain > 0).all():
            raise ValueError("gain must be positive in every pixel; is it an offset map?")

    @classmethod
    def of_dark_frames(cls, frames: npt.ArrayLike) -> CameraMaps:
        """Offset and variance from frames without light; gains count as equal.

        Parameters
        ----------
        frames : array, shape (T, Y, X) [counts]
            Some hundred, at the exposure of the movie.

        Raises
        ------
        ValueError
            If there are not at least two frames.
        """
        dark = np.asarray(frames)
        if dark.ndim != 3 or len(dark) < 2:
            raise ValueError(f"dark frames must have shape (T, Y, X), T > 1, got {dark.shape}")
        return cls(
            dark.mean(0, dtype=np.float64).astype(np.float32),
            variance=dark.var(0, ddof=1, dtype=np.float64).astype(np.float32),
        )

    @classmethod
    def read(cls, paths: Sequence[str | PathLike[str]]) -> CameraMaps:
        """Read maps from files: offset, then gain and variance where there are any.

        A single file of several frames is a movie in the dark (`of_dark_frames`).

        Raises
        ------
        ValueError
            If there are none or more than three, or a file is no image.
        """
        if not 1 <= len(paths) <= 3:
            raise ValueError(
                f"give one to three files: offset, gain and variance; got {len(paths)}"
            )
        images = [np.squeeze(_all(read(path).array)) for path in paths]
        if len(images) == 1 and images[0].ndim == 3:
            return cls.of_dark_frames(images[0])
        return cls(*images)

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """Pixels (Y, X) whose read noise is no more than three times the usual one."""
        if self.variance is None:
            return np.ones(self.offset.shape, bool)
        return np.asarray(self.variance <= _NOISY * np.median(self.variance))

    def correct(self, stack: Stack) -> Stack:
        """Make all pixels of a stack alike.

        Parameters
        ----------
        stack : Stack
            Not modified; read where the result is read.

        Returns
        -------
        Stack
            float32, in counts of a pixel of median offset and gain. Pixels of far more read noise
            than the others are NaN: they count as not measured, and the prediction stands there.

        Raises
        ------
        ValueError
            If frames and maps are not of one size.
        """
        if stack.frame_shape != self.offset.shape:
            raise ValueError(
                f"maps must be as large as the frames, {stack.frame_shape}, got "
                f"{self.offset.shape}; crop the maps as the camera did"
            )
        level = float(np.median(self.offset))
        factor = np.ones_like(self.offset)
        if self.gain is not None:
            factor = float(np.median(self.gain)) / self.gain
        factor = np.where(self.usable, factor, np.float32(np.nan))
        return stack.like(_Corrected(stack, self.offset, factor, level))


def read_corrected(
    path: str | PathLike[str],
    axes: str | None,
    camera: Sequence[str | PathLike[str]] = (),
    scene: int | None = None,
) -> tuple[Stack, np.dtype[Any]]:
    """Read a movie, corrected by maps of its camera where there are any; and its number type.

    Parameters
    ----------
    path, axes, scene
        As `napari_stbn.read` takes them.
    camera : sequence of path
        As `CameraMaps.read` takes them; empty where nothing is to be corrected.
    """
    stack = read(path, axes=axes, scene=scene)
    recorded = np.dtype(stack.dtype)
    return (CameraMaps.read(camera).correct(stack) if camera else stack), recorded


class _Corrected:
    """An array that is corrected where it is read."""

    def __init__(self, stack: Stack, offset: FloatMap, factor: FloatMap, level: float) -> None:
        self._array, self._axes, self._level = stack.array, stack.axes, level
        swapped = stack.axes.index("X") < stack.axes.index("Y")
        self._offset, self._factor = (m.T if swapped else m for m in (offset, factor))

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return tuple(self._array.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self._axes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return np.dtype(np.float32)

    def __getitem__(self, index: Any, /) -> FloatMap:
        """Read and correct a part; whole numbers and forward slices, as `Stack` uses them."""
        given = index if isinstance(index, tuple) else (index,)
        given = given + (slice(None),) * (self.ndim - len(given))
        values = np.asarray(self._array[given], np.float32)
        where = dict(zip(self._axes, given, strict=True))
        first, second = (axis for axis in self._axes if axis in "YX")
        picked = where[first], where[second]
        left = [axis for axis in self._axes if isinstance(where[axis], slice)]
        shape = [n if axis in "YX" else 1 for axis, n in zip(left, values.shape, strict=True)]
        offset, factor = (m[picked].reshape(shape) for m in (self._offset, self._factor))
        return np.asarray((values - offset) * factor + self._level, np.float32)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Read it all."""
        return np.array(self[()], dtype=dtype)


def _all(array: ArrayLike) -> npt.NDArray[Any]:
    """A whole array."""
    return np.asarray(array[(slice(None),) * len(array.shape)])
