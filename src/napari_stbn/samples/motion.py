"""Movies in which one known motion carries everything: exact flow, to measure estimators with.

`simulate` draws scenes as a microscope sees them; here the motion is the subject. Emitters are
moved along straight lines and drawn anew, so that nothing is interpolated and the flow is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from napari_stbn.samples._canvas import Array, Canvas
from napari_stbn.samples.simulation import SimulatedMovie, record

__all__ = ["MOTIONS", "STRUCTURES", "simulate_motion"]

STRUCTURES = ("puncta", "speckle", "filaments", "membranes", "nuclei", "mixed")
"""What `simulate_motion` can show."""
MOTIONS = ("static", "translation", "rotation", "deformation", "layers")
"""How `simulate_motion` can move it."""

_STEEPEST = 0.2  # of a displacement [px/px]: several frames of it still cannot fold the field
_SEEN = 0.01  # of the 99.9th percentile: dimmer light has no motion of its own
Displacement = Callable[[Array], Array]


def simulate_motion(
    shape: tuple[int, int, int] = (6, 160, 160),
    *,
    structure: str = "mixed",
    motion: str = "deformation",
    speed: float = 2.0,
    photons: float = 20.0,
    read_noise: float = 1.0,
    unsteady: float = 0.0,
    seed: int = 0,
) -> SimulatedMovie:
    """Simulate a movie whose true flow is known at every pixel.

    Parameters
    ----------
    shape : tuple of int, (T, Y, X)
    structure : {"puncta", "speckle", "filaments", "membranes", "nuclei", "mixed"}
    motion : {"static", "translation", "rotation", "deformation", "layers"}
        Nothing moves; all moves alike; rotation with zoom; a smooth field of random waves; two sets
        of structures that cross.
    speed : float [px/frame]
        Largest displacement. A deformation is slower where it would fold.
    photons : float [photoelectrons]
        99.9th percentile of the clean movie.
    read_noise : float [photoelectrons rms]
    unsteady : float
        Standard deviation of the speed from frame to frame, as a part of `speed`: 0 is even motion;
        from about 1 on it also turns back.
    seed : int
        Same seed and parameters, same movie.

    Returns
    -------
    SimulatedMovie
        Gain 2 counts a photoelectron, offset 100 counts. Of ``layers``, the flow is that of the
        brighter structure at a pixel and zero where there is none; of all others it is known
        everywhere.

    Raises
    ------
    ValueError
        For a structure or motion that does not exist.

    Examples
    --------
    >>> movie = simulate_motion((3, 32, 40), motion="translation", speed=1.5, seed=4)
    >>> movie.flow_to_next.shape, movie.kind
    ((2, 2, 32, 40), 'mixed, translation')
    """
    if structure not in STRUCTURES:
        raise ValueError(f"structure must be one of {', '.join(STRUCTURES)}, got {structure!r}")
    if motion not in MOTIONS:
        raise ValueError(f"motion must be one of {', '.join(MOTIONS)}, got {motion!r}")
    frames, height, width = shape
    scene, path, camera = (np.random.default_rng([seed, k]) for k in range(3))
    canvas = Canvas(frames, height, width, psf_sigma=1.2)
    size = np.array([width, height], float)
    fields = _fields(motion, speed, size, path)
    # How far along its way everything is at each frame, in frames of even motion.
    strides = 1 + unsteady * np.random.default_rng([seed, 3]).normal(size=frames - 1)
    times = np.concatenate([[0.0], strides.cumsum()])
    times -= (times.min() + times.max()) / 2
    # Structures outside of the frame move in.
    margin = 12.0 + speed * (np.ptp(times) + 1) / 2
    for number, (places, brightness, spread) in enumerate(_groups(structure, size, margin, scene)):
        move = fields[number % len(fields)](places)
        paths = places + times[:, None, None] * move
        canvas.add_emitters(paths, brightness, spread=spread)
    light = canvas.light + 0.04 * np.percentile(canvas.light, 99.9)
    level = float(np.percentile(light, 99.9))
    if motion == "layers":
        to_previous, to_next = canvas.flows(_SEEN * level)
    else:
        along = np.stack([_everywhere(fields[0], t, size) for t in times])
        step = strides.astype(np.float32)[:, None, None, None]
        to_next, to_previous = step * along[:-1], -step * along[1:]
    return record(
        light * (photons / level),
        (to_previous, to_next),
        rng=camera,
        gain=2.0,
        offset=100.0,
        read_noise=read_noise,
        kind=f"{structure}, {motion}",
        seed=seed,
    )


def _everywhere(field: Displacement, time: float, size: Array) -> np.ndarray:
    """Displacement of the matter at each pixel at a time, (2, Y, X) float32 [px]."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    grid = np.stack([x, y], -1).reshape(-1, 2)
    origin = grid.copy()
    for _ in range(40):  # contracts: the field is not steep
        origin = grid - time * field(origin)
    moved = field(origin).T.reshape(2, int(size[1]), int(size[0]))
    return np.asarray(moved, np.float32)


def _fields(motion: str, speed: float, size: Array, rng: np.random.Generator) -> list[Displacement]:
    """Displacement [px/frame] of places (n, 2) ordered (x, y); structures take them in turn."""
    angle = rng.uniform(0, 2 * np.pi)
    ahead = speed * np.array([np.cos(angle), np.sin(angle)])
    if motion == "static":
        return [np.zeros_like]
    if motion == "translation":
        return [lambda p: np.broadcast_to(ahead, p.shape)]
    if motion == "layers":
        across = speed * np.array([np.cos(angle + 2.0), np.sin(angle + 2.0)])
        return [
            lambda p: np.broadcast_to(ahead, p.shape),
            lambda p: np.broadcast_to(across, p.shape),
        ]
    if motion == "rotation":
        centre = size * rng.uniform(0.3, 0.7, 2)
        turn, zoom = np.sin(angle), np.cos(angle)
        matrix = np.array([[zoom, -turn], [turn, zoom]])
        steep = min(speed / float(np.hypot(*size) / 2), _STEEPEST)
        return [lambda p: steep * (p - centre) @ matrix.T]
    lengths = rng.uniform(0.7, 1.4, 3) * float(size.min())
    waves = (2 * np.pi / lengths)[:, None] * _directions(rng, 3)
    phases = rng.uniform(0, 2 * np.pi, 3)
    weights = rng.normal(size=(3, 2))
    weights /= np.abs(weights).sum(0).max()
    weights *= min(speed, _STEEPEST / np.abs(waves).sum(1).max())
    return [lambda p: np.sin(p @ waves.T + phases) @ weights]


def _directions(rng: np.random.Generator, count: int) -> Array:
    """Unit vectors (count, 2)."""
    angles = rng.uniform(0, 2 * np.pi, count)
    return np.stack([np.cos(angles), np.sin(angles)], -1)


def _groups(
    structure: str, size: Array, margin: float, rng: np.random.Generator
) -> Iterator[tuple[Array, Array, float]]:
    """Structure by structure: places (n, 2), brightness (n,), own radius of the emitters [px]."""
    wide = size + 2 * margin
    area = float(wide.prod()) / 128.0**2

    def anywhere(count: int) -> Array:
        return rng.uniform(0, 1, (count, 2)) * wide - margin

    def count(of_reference: float) -> int:
        return max(2, round(of_reference * area))

    if structure in ("puncta", "mixed"):
        for _ in range(2):  # so that layers have two
            n = count(30 if structure == "puncta" else 12)
            yield anywhere(n), np.exp(rng.uniform(-1.2, 0, n)), 0.4
    if structure == "speckle":
        for _ in range(2):
            n = count(700)
            yield anywhere(n), rng.exponential(0.3, n), 0.0
    if structure in ("filaments", "mixed"):
        for start in anywhere(count(14 if structure == "filaments" else 5)):
            along = np.arange(0, rng.uniform(40, 110), 0.8)
            heading = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.012) * along
            steps = 0.8 * np.stack([np.cos(heading), np.sin(heading)], -1)
            yield start + steps.cumsum(0), np.full(len(along), rng.uniform(0.1, 0.35)), 0.0
    if structure == "membranes":
        for centre in anywhere(count(9)):
            angle = np.arange(0, 2 * np.pi, 0.05)
            ring_radius = rng.uniform(12, 24) * (1 + 0.15 * np.sin(2 * angle + rng.uniform(0, 6)))
            ring = ring_radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
            yield centre + ring, rng.uniform(0.1, 0.3) * rng.uniform(0.6, 1.4, len(angle)), 0.2
    if structure in ("nuclei", "mixed"):
        for centre in anywhere(count(9 if structure == "nuclei" else 3)):
            radius = rng.uniform(9, 15)
            n = int(0.5 * np.pi * radius**2)
            out = radius * np.sqrt(rng.uniform(0, 1, n))[:, None] * _directions(rng, n)
            yield centre + out, rng.exponential(0.12, n), 0.8
