"""What people do to movies before they denoise them: applied to a noisy movie and to its truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from imageio.v3 import imread, imwrite
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float64]
Process = Callable[[Array], Array]

__all__ = ["PROCESSES", "processed"]

_JITTER = 4.0  # px that a registration moves frames by at most


def processed(name: str, noisy: Array, clean: Array) -> tuple[Array, Array]:
    """A noisy movie (T, Y, X) and its truth, both processed; of blank and copied frames the latter.

    Raises
    ------
    KeyError
        If there is no such process.
    """
    truth = clean if name in _OF_THE_RECORDING else PROCESSES[name](clean)
    return PROCESSES[name](noisy), truth


def _running_mean(movie: Array) -> Array:
    """Each frame the mean of itself and the two before."""
    return np.stack([movie[max(0, t - 2) : t + 1].mean(0) for t in range(len(movie))])


def _recursive(movie: Array) -> Array:
    """Two fifths of each frame, the rest of what was shown before (a microscope's "Kalman")."""
    shown = [movie[0]]
    for frame in movie[1:]:
        shown.append(0.4 * frame + 0.6 * shown[-1])
    return np.stack(shown)


def _registered(movie: Array, order: int) -> Array:
    """Frames shifted, and padded with 0."""
    shifts = np.random.default_rng(5).uniform(-_JITTER, _JITTER, (len(movie), 2))
    shifts = shifts if order else shifts.round()
    pairs = zip(movie, shifts, strict=True)
    return np.stack([ndimage.shift(frame, shift, order=order, cval=0) for frame, shift in pairs])


def _dropped(movie: Array, copied: bool) -> Array:
    """Every eighth frame lost: blank, or a copy of the one before."""
    result = movie.copy()
    for t in range(5, len(movie), 8):
        result[t] = movie[t - 1] if copied else 0
    return result


def _jpeg(movie: Array) -> Array:
    """8 bits and the compression of a camera that makes films, frame by frame."""
    frames = []
    for frame in np.clip(movie, 0, 255).astype(np.uint8):
        file = imwrite("<bytes>", frame, extension=".jpg", quality=75)
        frames.append(np.asarray(imread(file, extension=".jpg"), np.float64))
    return np.stack(frames)


def _scanned(movie: Array) -> Array:
    """Every second row 2 px to the right: a scanner that records both ways, out of phase."""
    result = movie.copy()
    result[:, 1::2] = np.roll(movie[:, 1::2], 2, axis=2)
    return result


def _enlarged(movie: Array) -> Array:
    """A quarter of each frame, twice as large."""
    height, width = movie.shape[1:]
    return np.asarray(ndimage.zoom(movie[:, : height // 2, : width // 2], (1, 2, 2), order=3))


def _reconstructed(movie: Array) -> Array:
    """A Wiener filter against a Gaussian of 1.1 px, up to a cut-off of .35 cycles / px."""
    rows, columns = np.fft.fftfreq(movie.shape[1])[:, None], np.fft.rfftfreq(movie.shape[2])
    radius = np.hypot(rows, columns)
    optics = np.exp(-2 * (np.pi * 1.1 * radius) ** 2)
    gain = optics / (optics**2 + 0.05) * np.clip(1 - radius / 0.35, 0, None)
    filtered = np.fft.irfft2(np.fft.rfft2(movie) * gain / gain[0, 0], movie.shape[1:])
    return np.asarray(filtered)


PROCESSES: dict[str, Process] = {
    "running mean of 3": _running_mean,
    "recursive filter": _recursive,
    "every frame twice": lambda movie: np.repeat(movie, 2, 0),
    "median in time": lambda movie: ndimage.median_filter(movie, (3, 1, 1)),
    "blank frames": lambda movie: _dropped(movie, False),
    "copied frames": lambda movie: _dropped(movie, True),
    "registered, whole pixels": lambda movie: _registered(movie, 0),
    "registered, interpolated": lambda movie: _registered(movie, 1),
    "smoothed": lambda movie: ndimage.gaussian_filter(movie, (0, 0.7, 0.7)),
    "smoothed, 1.5 px": lambda movie: ndimage.gaussian_filter(movie, (0, 1.5, 1.5)),
    "mean of 3 x 3": lambda movie: ndimage.uniform_filter(movie, (1, 3, 3)),
    "enlarged, cubic": _enlarged,
    "reconstructed": _reconstructed,
    "binned": lambda movie: movie.reshape(len(movie), movie.shape[1] // 2, 2, -1, 2).mean((2, 4)),
    "scanned both ways": _scanned,
    "8 bit": lambda movie: np.rint(np.clip(movie, 0, 255)),
    "JPEG": _jpeg,
}
"""By name: each takes a movie (T, Y, X) and returns another one."""

_OF_THE_RECORDING = ("median in time", "blank frames", "copied frames")
