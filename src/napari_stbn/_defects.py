"""What a camera or a file does to a movie besides noise: found, counted, and said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_stbn._words import counted

if TYPE_CHECKING:
    from napari_stbn._lazy import MovieView

BoolArray = npt.NDArray[np.bool_]

MIN_SIDE: Final = 8
"""Smallest height and width of a frame [px] that the network takes."""

_LARGEST: Final = 1e15  # of either sign; float32 cannot hold the squares of much larger values
_LARGEST_DEAD_GROUP: Final = 4  # px; more constant pixels side by side are padding or a mask
_FEWEST_FRAMES_FOR_DEAD: Final = 4
_AROUND: Final = 7  # px; width of the square whose pixels say how often healthy ones change
_FEWEST_SATURATED: Final = 10  # pixels at the highest value before a pile-up is believed
_PILE_UP: Final = 5.0  # times as many pixels at the highest value as at the next lower one


@dataclass(frozen=True, eq=False)
class MovieDefects:
    """Defects of one movie of shape (T, Y, X).

    Attributes
    ----------
    nonfinite : ndarray of bool, shape (T, Y, X), or None
        Where the movie is NaN or infinite; None where it is finite throughout.
    dead : ndarray of bool, shape (Y, X), or None
        Isolated pixels that never change although their neighbours do; None where there are none.
    constant_frames : tuple of int
        Frames whose finite pixels all have one value (dropped frames), and frames without any
        finite pixel.
    saturated_fraction : float, 0 to 1
        Fraction of all pixels at `saturation_level`.
    saturation_level : float or None [counts]
        Intensity at which the detector clipped; None where the highest values do not pile up.
    missing : int
        Pixels that are NaN or infinite, also where no mask of them is kept.
    repeated : tuple of int
        Frames that are copies of the one before (dropped ones that a camera filled in); none where
        they are half of the movie.
    """

    nonfinite: BoolArray | None
    dead: BoolArray | None
    constant_frames: tuple[int, ...]
    saturated_fraction: float
    saturation_level: float | None
    missing: int = 0
    repeated: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is any defect."""
        return bool(self.sentences())

    def sentences(self) -> list[str]:
        """Say each defect in one sentence, for a person to read."""
        said = []
        if self.missing:
            verb = "is" if self.missing == 1 else "are"
            said.append(f"{counted(self.missing, 'pixel')} {verb} NaN or infinite.")
        if self.dead is not None:
            count = int(self.dead.sum())
            verb = "changes" if count == 1 else "change"
            said.append(f"{counted(count, 'camera pixel')} never {verb} (dead or stuck).")
        if self.constant_frames:
            count, listed = len(self.constant_frames), _listed(self.constant_frames)
            verb = "is" if count == 1 else "are"
            said.append(f"{counted(count, 'frame')} {verb} blank: {listed}.")
        if self.repeated:
            count, listed = len(self.repeated), _listed(self.repeated)
            said.append(
                f"{count} frames are copies of those before, as where a camera dropped some: "
                f"{listed}. There the result comes from the frames around."
                if count > 1
                else f"Frame {listed} is a copy of the one before, as where a camera dropped one. "
                "There the result comes from the frames around."
            )
        if self.saturation_level is not None:
            shown = f"{self.saturated_fraction:.2%}"
            part = f"Less than {0.0001:.2%}" if shown == f"{0:.2%}" else shown
            said.append(f"{part} of the pixels are saturated at {self.saturation_level:g} counts.")
        return said


def validate_movie(movie: npt.NDArray[Any] | MovieView, *, what: str = "This layer") -> None:
    """Raise the one sentence that says why a movie cannot be denoised.

    Parameters
    ----------
    movie : ndarray or MovieView, shape (T, Y, X)
        Any integer or floating type; read frame by frame, until one has a contrast.
    what : str
        How the sentence begins: what a person would call this movie.

    Raises
    ------
    ValueError
        Not three-dimensional, empty, of another type, fewer than 2 frames, frames smaller than
        8 x 8, values beyond 1e15, no finite pixel, or nothing but constant frames.
    """
    if movie.ndim != 3:
        raise ValueError(f"movie must have shape (T, Y, X), got {movie.shape}.")
    check_dtype(movie.dtype, what)
    if movie.size == 0:
        raise ValueError(
            f"{what} is empty, its shape is {movie.shape}; was it cropped to nothing or only "
            "partly saved?"
        )
    if len(movie) < 2:
        raise ValueError(one_frame(what, 1))
    check_frame_size(movie.shape[1:], what)
    finite_seen = False
    for frame in movie:
        low, high = _finite_range(frame)
        finite_seen = finite_seen or high >= low
        if high > low:
            return
    if not finite_seen:
        raise ValueError(
            f"{what} has no finite pixel (all are NaN or infinite); export it again from its "
            "source."
        )
    raise ValueError(
        f"{what} has one value in every frame, so there is nothing to denoise; is this the right "
        "channel?"
    )


def check_dtype(dtype: np.dtype[Any], what: str) -> None:
    """Raise unless `dtype` is an integer or floating type."""
    if dtype.kind not in "iuf":
        raise ValueError(
            f"{what} is of type {dtype}; denoising needs integers or floating numbers: convert it "
            "first, for example to float32."
        )


def check_frame_size(frame_shape: tuple[int, ...], what: str) -> None:
    """Raise unless a frame is at least 8 pixels high and wide."""
    height, width = frame_shape
    if height < MIN_SIDE or width < MIN_SIDE:
        raise ValueError(
            f"{what} has frames of {height} x {width} pixels; denoising needs at least "
            f'{MIN_SIDE} x {MIN_SIDE}. Are Y and X named rightly? Set "axes".'
        )


def one_frame(what: str, n_frames: int) -> str:
    """Sentence for a movie that is none."""
    return (
        f"{what} has {counted(n_frames, 'frame')}; denoising a movie needs at least 2. Is T the "
        'first axis? Set "axes".'
    )


def inspect_movie(movie: npt.NDArray[Any]) -> MovieDefects:
    """Find non-finite and dead pixels, blank frames and saturation.

    Parameters
    ----------
    movie : ndarray, shape (T, Y, X) [counts]
        Not modified.

    Returns
    -------
    MovieDefects

    Raises
    ------
    ValueError
        `movie` is not three-dimensional.

    Notes
    -----
    A pixel counts as dead when it has one value in all frames that are not blank, when it stands
    in a group of at most 4 such pixels (more are padding or a mask), and when the pixels around it
    change so often that less than one such pixel is expected in the movie by chance. A dim or
    coarsely quantised background, where a healthy pixel may well repeat its value, has none.
    """
    if movie.ndim != 3:
        raise ValueError(f"movie must have shape (T, Y, X), got {movie.shape}.")
    nonfinite: BoolArray | None = None
    if movie.dtype.kind == "f":
        nonfinite = ~np.isfinite(movie)
        nonfinite = nonfinite if nonfinite.any() else None
    scan = DefectScan()
    scan.add(movie)
    return scan.defects(nonfinite)


class DefectScan:
    """Defects of a movie that is read piece by piece; `inspect_movie` says what counts as one.

    Attributes
    ----------
    frames : int
        Seen so far.
    missing : int
        Pixels that are NaN or infinite.
    blank : list of int
        Frames whose finite pixels all have one value.
    """

    def __init__(self) -> None:
        self.frames = self.missing = 0
        self._size = 0
        self._integer: np.dtype[Any] | None = None
        self.blank: list[int] = []
        self._repeated: list[int] = []
        self._range: tuple[Any, Any] | None = None  # of all finite values
        self._highest: dict[Any, int] = {}  # the two highest values, and the pixels that have them
        self._last: npt.NDArray[Any] | None = None  # that was not blank
        self._changes: npt.NDArray[np.int64] | None = None

    def add(self, block: npt.NDArray[Any]) -> None:
        """Look at the next frames, (T', Y, X)."""
        self._integer = block.dtype if block.dtype.kind in "iu" else None
        for frame in block:
            if frame.dtype.kind == "f":
                self.missing += int(frame.size - np.count_nonzero(np.isfinite(frame)))
            low, high = _finite_range(frame)
            if high >= low:
                least, most = self._range or (low, high)
                self._range = min(least, low), max(most, high)
                self._count_highest(frame, high)
            if high <= low:
                self.blank.append(self.frames)
            else:
                if self._last is None or self._changes is None:
                    self._changes = np.zeros(frame.shape, np.int64)
                else:
                    changed = frame != self._last
                    self._changes += changed
                    nan = int(np.count_nonzero(frame != frame)) if frame.dtype.kind == "f" else 0
                    if int(np.count_nonzero(changed)) == nan:  # which differs from itself
                        self._repeated.append(self.frames)
                self._last = frame.copy()
            self.frames += 1
            self._size += frame.size

    def defects(self, nonfinite: BoolArray | None = None) -> MovieDefects:
        """What was found, with the mask that was made elsewhere."""
        if self._range is None or self._range[0] == self._range[1]:
            return MovieDefects(nonfinite, None, (), 0.0, None, self.missing)
        level, fraction = self._saturation()
        dead = None
        if self._changes is not None:
            dead = _dead_pixels(self._changes, self.frames - len(self.blank))
        few = 2 * len(self._repeated) < self.frames - len(self.blank) - 1
        repeated = tuple(self._repeated) if few else ()
        return MovieDefects(
            nonfinite, dead, tuple(self.blank), fraction, level, self.missing, repeated
        )

    def _count_highest(self, frame: npt.NDArray[Any], high: Any) -> None:
        """Keep the two highest values of all frames, and how many pixels have them."""
        values = {high: int(np.count_nonzero(frame == high))}
        lower = frame[frame < high]
        if lower.dtype.kind == "f":
            lower = lower[np.isfinite(lower)]
        if lower.size:
            following = lower.max()
            values[following] = int(np.count_nonzero(lower == following))
        for value, count in values.items():
            self._highest[value] = self._highest.get(value, 0) + count
        kept = sorted(self._highest, reverse=True)[:2]
        self._highest = {value: self._highest[value] for value in kept}

    def _saturation(self) -> tuple[float | None, float]:
        """Level at which the movie clips and the fraction of pixels there, or (None, 0)."""
        if len(self._highest) < 2:
            return None, 0.0
        highest, (top, below) = max(self._highest), self._highest.values()
        full_scale = self._integer is not None and highest == np.iinfo(self._integer).max
        if not full_scale and (top < _FEWEST_SATURATED or top <= _PILE_UP * below):
            return None, 0.0
        return float(highest), top / self._size


def _listed(frames: tuple[int, ...]) -> str:
    """The first of some frames."""
    return ", ".join(map(str, frames[:5])) + (", …" if len(frames) > 5 else "")


def is_blank(frame: npt.NDArray[Any]) -> bool:
    """Whether the finite pixels of a frame, if there are any, all have one value."""
    low, high = _finite_range(frame)
    return bool(high <= low)


def _finite_range(frame: npt.NDArray[Any]) -> tuple[Any, Any]:
    """Lowest and highest finite value of a frame; (1, 0) where there is none."""
    low, high = frame.min(), frame.max()
    if frame.dtype.kind == "f" and not (np.isfinite(low) and np.isfinite(high)):
        finite = frame[np.isfinite(frame)]
        if not finite.size:
            return 1, 0
        low, high = finite.min(), finite.max()
    largest = max(-float(low), float(high))
    if largest > _LARGEST:
        raise ValueError(
            f"This movie holds values up to {largest:.3g}, and denoising reckons with at most "
            f"{_LARGEST:g}; divide it, or set values that are no measurement to NaN."
        )
    return low, high


def _dead_pixels(changes: npt.NDArray[np.int64], n_frames: int) -> BoolArray | None:
    """Isolated pixels that never change although their neighbours do, (Y, X), or None."""
    if n_frames < _FEWEST_FRAMES_FOR_DEAD:
        return None
    constant = changes == 0
    groups, _ = ndimage.label(constant, structure=np.ones((3, 3)))
    small = np.bincount(groups.ravel()) <= _LARGEST_DEAD_GROUP
    candidates = constant & small[groups]
    if not candidates.any():
        return None
    by_chance = _still_by_chance(changes, ~constant, n_frames) * constant.size
    dead: BoolArray = candidates & (by_chance < 1)
    return dead if dead.any() else None


def _still_by_chance(
    changes: npt.NDArray[np.int64], alive: BoolArray, n_frames: int
) -> npt.NDArray[np.float64]:
    """Chance that a healthy pixel repeats one value in all frames, from what is around it."""
    steps = n_frames - 1
    counted = np.stack([alive, changes]).astype(np.float64)
    around = ndimage.uniform_filter(counted, size=(0, _AROUND, _AROUND), mode="constant")
    seen = np.maximum(around[0] * _AROUND**2 * steps, 1.0)
    changing = np.clip(around[1] * _AROUND**2 / seen, 0.0, 1 - 1 / seen)
    # Two standard errors on the safe side
    changing -= 2 * np.sqrt(changing * (1 - changing) / seen)
    equal = 1 - np.maximum(changing, 0.0)  # two frames agree: the sum of p_i^2 over values i
    # All n agree: the sum of p_i^n, (sqrt(2) equal)^(n - 1) / sqrt(n) for a bell-shaped p
    bell = (np.sqrt(2.0) * equal) ** steps / np.sqrt(n_frames)
    probability: npt.NDArray[np.float64] = np.minimum(bell, 1.0)
    return probability
