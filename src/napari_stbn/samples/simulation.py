"""Simulated time-lapse microscopy: scenes, camera, and the movie with its truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_stbn.samples._scene import BlinkEvent, Scene

if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS = ("mixed", "nuclei", "filaments", "puncta", "membranes", "blinking", "static")
"""Scenes that `simulate` knows."""

_COUNT = 65535
_FLOW_THRESHOLD = 0.01  # of the 99.9th percentile: dimmer light has no motion of its own


@dataclass(frozen=True, eq=False)
class SimulatedMovie:
    """A noisy movie with everything that is true of it.

    Parameters
    ----------
    noisy : ndarray of uint16, shape (T, Y, X) [counts]
        What the camera recorded.
    clean : ndarray of float32, shape (T, Y, X) [counts]
        Its expectation, ``offset + gain * photons``.
    photons : ndarray of float32, shape (T, Y, X) [photoelectrons]
        Expected photoelectrons.
    flow_to_previous : ndarray of float32, shape (T-1, 2, Y, X) [px], ordered (dx, dy)
        Entry t leads from frame t+1 to frame t: ``warp(clean[t], flow_to_previous[t])``
        resembles ``clean[t + 1]``, with ``warp(source, flow)[p] = source[p + flow[p]]``.
    flow_to_next : ndarray of float32, shape (T-1, 2, Y, X) [px], ordered (dx, dy)
        Entry t leads from frame t to frame t+1: ``warp(clean[t + 1], flow_to_next[t])``
        resembles ``clean[t]``.
    events : ndarray of bool, shape (T, Y, X)
        The flashing cells in the first two frames of each flash.
    event_list : tuple of BlinkEvent
        Every flash, in order of time.
    gain : float [counts/photoelectron]
    offset : float [counts]
    read_noise : float [photoelectrons rms]
    kind : str
    seed : int
    """

    noisy: npt.NDArray[np.uint16]
    clean: npt.NDArray[np.float32]
    photons: npt.NDArray[np.float32]
    flow_to_previous: npt.NDArray[np.float32]
    flow_to_next: npt.NDArray[np.float32]
    events: npt.NDArray[np.bool_]
    event_list: tuple[BlinkEvent, ...]
    gain: float
    offset: float
    read_noise: float
    kind: str
    seed: int


def simulate(
    shape: tuple[int, int, int] = (32, 128, 128),
    *,
    kind: str = "mixed",
    photons: float = 20.0,
    gain: float = 2.0,
    offset: float = 100.0,
    read_noise: float = 1.6,
    psf_sigma: float = 1.2,
    motion: float = 1.0,
    bleaching: float = 0.0,
    seed: int = 0,
) -> SimulatedMovie:
    """Simulate a fluorescence movie with its clean frames and its true flow.

    Parameters
    ----------
    shape : tuple of int, (T, Y, X)
        At least (2, 16, 16). The number of structures follows the area.
    kind : {"mixed", "nuclei", "filaments", "puncta", "membranes", "blinking", "static"}
        ``mixed``: deforming nuclei, drifting filaments, fast vesicles and blinking cells.
        ``static``: the same scene standing still, without flashes. The others show one
        structure each, on its cells' haze.
    photons : float [photoelectrons]
        99.9th percentile of the clean movie.
    gain : float [counts/photoelectron]
    offset : float [counts]
    read_noise : float [photoelectrons rms]
    psf_sigma : float [px]
        Standard deviation of the Gaussian point-spread function.
    motion : float
        Factor on every speed: 1 moves vesicles by 1-4 px and nuclei by up to about 1 px a frame,
        0 stops all motion (cells still blink).
    bleaching : float
        Fraction of the light lost, exponentially, between the first frame and the last, in [0, 1).
    seed : int
        Same seed and parameters, same movie.

    Returns
    -------
    SimulatedMovie

    Raises
    ------
    ValueError
        For a shape, kind or parameter outside of the ranges above.

    Notes
    -----
    Nothing is interpolated: emitters are moved and drawn anew, and the density of bodies is an
    analytic function of the matter that an exactly invertible, area-preserving motion brings to
    each pixel. The flow is that of the brightest structure at a pixel, and zero where no
    structure exceeds 1 % of ``photons``.

    The camera is ``round(offset + gain * (Poisson(photons) + Normal(0, read_noise)))``, clipped to
    16 bit (``clean`` is not clipped); the noise is independent from pixel to pixel and from frame
    to frame.

    Examples
    --------
    >>> movie = simulate((4, 32, 32), kind="puncta", seed=1)
    >>> movie.noisy.shape, movie.noisy.dtype.name, movie.flow_to_next.shape
    ((4, 32, 32), 'uint16', (3, 2, 32, 32))
    """
    shape = _checked_shape(shape)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    for name, value, good, range_ in (
        ("photons", photons, photons > 0, "above 0"),
        ("gain", gain, gain > 0, "above 0"),
        ("offset", offset, 0 <= offset < _COUNT, f"in [0, {_COUNT})"),
        ("read_noise", read_noise, read_noise >= 0, "at least 0"),
        ("psf_sigma", psf_sigma, psf_sigma > 0, "above 0"),
        ("motion", motion, motion >= 0, "at least 0"),
        ("seed", seed, seed >= 0, "at least 0"),
        ("bleaching", bleaching, 0 <= bleaching < 1, "in [0, 1)"),
    ):
        if not (good and np.isfinite(value)):
            raise ValueError(f"{name} must be {range_}, got {value}")

    scene = Scene(shape, psf_sigma, 0.0 if kind == "static" else motion, seed)
    scene.draw(kind)
    canvas = scene.canvas
    level = float(np.percentile(canvas.light, 99.9))
    to_previous, to_next = canvas.flows(_FLOW_THRESHOLD * level)
    light = canvas.light * (1.0 - bleaching) ** np.linspace(0.0, 1.0, shape[0])[:, None, None]
    light *= photons / np.percentile(light, 99.9)
    return record(
        light,
        (to_previous, to_next),
        rng=scene.stream("camera"),
        gain=gain,
        offset=offset,
        read_noise=read_noise,
        kind=kind,
        seed=seed,
        events=canvas.events,
        event_list=tuple(sorted(scene.event_list, key=lambda event: (event.frame, event.centre))),
    )


def record(
    light: npt.NDArray[np.float64],
    flows: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    *,
    rng: np.random.Generator,
    gain: float,
    offset: float,
    read_noise: float,
    kind: str,
    seed: int,
    events: npt.NDArray[np.bool_] | None = None,
    event_list: tuple[BlinkEvent, ...] = (),
) -> SimulatedMovie:
    """What the camera of `simulate` makes of expected photoelectrons, (T, Y, X).

    Parameters
    ----------
    light : ndarray, shape (T, Y, X) [photoelectrons]
    flows : (to_previous, to_next)
    rng : Generator
        Of the noise.
    gain, offset, read_noise, kind, seed, events, event_list
        As in `SimulatedMovie`.
    """
    electrons = rng.poisson(light) + rng.normal(0.0, read_noise, light.shape)
    counts = np.clip(np.round(offset + gain * electrons), 0, _COUNT)
    return SimulatedMovie(
        noisy=counts.astype(np.uint16),
        clean=(offset + gain * light).astype(np.float32),
        photons=light.astype(np.float32),
        flow_to_previous=flows[0],
        flow_to_next=flows[1],
        events=np.zeros(light.shape, bool) if events is None else events,
        event_list=event_list,
        gain=float(gain),
        offset=float(offset),
        read_noise=float(read_noise),
        kind=kind,
        seed=seed,
    )


def _checked_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Shape as three integers, or the reason why not."""
    sizes = tuple(int(size) for size in shape)
    if len(sizes) != 3 or sizes[0] < 2 or min(sizes[1:]) < 16:
        raise ValueError(f"shape must be (T, Y, X) of at least (2, 16, 16), got {tuple(shape)}")
    return sizes[0], sizes[1], sizes[2]
