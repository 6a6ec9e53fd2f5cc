"""Textured bodies (nuclei with their cytoplasm, blinking cells) carried by exact motions."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter

from napari_stbn.samples._canvas import Array, Box, Canvas


def wander(rng: np.random.Generator, times: Array, speed: float, reach: float) -> Array:
    """Smooth bounded walk, shape (T, 2) [px]: a few slow sinusoids, zero at time 0."""
    path = np.zeros((len(times), 2))
    for share in (0.7, 0.3):
        size = reach * share * rng.uniform(0.6, 1.0, 2)
        rate = speed * np.sqrt(share) / size * rng.uniform(0.5, 1.0, 2)
        phase = rng.uniform(0.0, 2.0 * np.pi, 2)
        path += size * (np.sin(rate * times[:, None] + phase) - np.sin(phase))
    return path


def wave(rng: np.random.Generator, times: Array, size: float, period: float) -> Array:
    """Sinusoid over time of about the given size and period [frames], shape (T,)."""
    rate = 2.0 * np.pi / (period * rng.uniform(0.8, 1.4))
    return np.asarray(size * rng.uniform(0.5, 1.0) * np.sin(rate * times + rng.uniform(0, 6.28)))


@dataclass(frozen=True)
class Motion:
    """Area-preserving motion of a body: two bending shears, a stretch, a turn and a shift.

    Every step has an exact inverse, so the pixel a piece of matter is seen at, the matter seen
    at a pixel, and the flow between any two frames are all exact; areas are kept, so brightness
    is too.

    Parameters
    ----------
    centre : ndarray, shape (T, 2) [px], ordered (x, y)
    angle : ndarray, shape (T,) [rad]
    stretch : ndarray, shape (T,)
        Logarithm of the elongation along the body's first axis.
    bends : ndarray, shape (T, 2) [px]
        Size of the two shears.
    waves : ndarray, shape (2, 2)
        Wave number [rad/px] and phase [rad] of each shear.
    """

    centre: Array
    angle: Array
    stretch: Array
    bends: Array
    waves: Array

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        times: Array,
        centre: Array,
        radius: float,
        *,
        speed: float,
        reach: float,
        deformation: float,
    ) -> Motion:
        """Random motion of a body of the given radius [px]; speed in px/frame."""
        turn = rng.uniform(0, 2 * np.pi) + rng.choice([-1.0, 1.0]) * rng.uniform(0.4, 1.0) * (
            0.03 * speed * times
        )
        number = rng.uniform(0.8, 1.3, 2) * np.pi / (2.0 * radius)
        size = deformation * 0.15 * radius
        return cls(
            centre=centre + wander(rng, times, speed, reach),
            angle=turn + deformation * wave(rng, times, 0.15, 24.0),
            stretch=deformation * wave(rng, times, 0.12, 22.0),
            bends=np.stack([wave(rng, times, size, 18.0) for _ in range(2)], axis=1),
            waves=np.stack([number, rng.uniform(0, 2 * np.pi, 2)], axis=1),
        )

    def place(self, u: Array, v: Array, t: int) -> tuple[Array, Array]:
        """Pixel position (x, y) in frame t of the matter (u, v)."""
        (k0, p0), (k1, p1) = self.waves
        u = u + self.bends[t, 0] * np.sin(k0 * v + p0)
        v = v + self.bends[t, 1] * np.sin(k1 * u + p1)
        u, v = u * np.exp(self.stretch[t]), v * np.exp(-self.stretch[t])
        cos, sin = np.cos(self.angle[t]), np.sin(self.angle[t])
        return self.centre[t, 0] + cos * u - sin * v, self.centre[t, 1] + sin * u + cos * v

    def matter(self, x: Array, y: Array, t: int) -> tuple[Array, Array]:
        """Matter (u, v) seen at the pixel position (x, y) of frame t: inverse of ``place``."""
        (k0, p0), (k1, p1) = self.waves
        x, y = x - self.centre[t, 0], y - self.centre[t, 1]
        cos, sin = np.cos(self.angle[t]), np.sin(self.angle[t])
        u, v = cos * x + sin * y, -sin * x + cos * y
        u, v = u * np.exp(-self.stretch[t]), v * np.exp(self.stretch[t])
        v = v - self.bends[t, 1] * np.sin(k1 * u + p1)
        u = u - self.bends[t, 0] * np.sin(k0 * v + p0)
        return u, v


@dataclass(frozen=True)
class Texture:
    """Random smooth field of unit variance: a sum of plane waves."""

    numbers: Array  # (n, 2) [rad/px]
    phases: Array  # (n,)

    @classmethod
    def draw(cls, rng: np.random.Generator, shortest: float, longest: float, n: int) -> Texture:
        """Waves with wavelengths between the two [px], in all directions."""
        number = 2 * np.pi / np.exp(rng.uniform(np.log(shortest), np.log(longest), n))
        direction = rng.uniform(0, 2 * np.pi, n)
        numbers = number[:, None] * np.stack([np.cos(direction), np.sin(direction)], axis=1)
        return cls(numbers, rng.uniform(0, 2 * np.pi, n))

    def __call__(self, u: Array, v: Array) -> Array:
        """Field at the points (u, v), of the same shape."""
        total = np.zeros_like(u)
        for (a, b), phase in zip(self.numbers, self.phases, strict=True):
            total += np.cos(a * u + b * v + phase)
        return np.asarray(total * np.sqrt(2.0 / len(self.phases)))


@dataclass(frozen=True)
class Body:
    """One cell: a textured core with soft irregular outline, in a wide haze.

    Parameters
    ----------
    motion : Motion
    radius : float [px]
    outline : ndarray, shape (n, 3)
        Angular number, size (fraction of the radius) and phase of the lobes of the outline.
    grain, clouds : Texture
        Texture of the core (chromatin) and of the haze (cytoplasm).
    contrast : float
        Strength of the core's texture.
    dome : float
        How much thinner, and so dimmer, the core is at its rim.
    spots : ndarray, shape (n, 4)
        Gaussian spots: u, v, radius [px], factor (negative: nucleoli, positive: dense foci).
    core, haze : float
        Brightness of both; ``width`` is the haze's radius over the core's.
    course : ndarray, shape (T,)
        Factor on the brightness in each frame.
    """

    motion: Motion
    radius: float
    outline: Array
    grain: Texture
    clouds: Texture
    contrast: float
    dome: float
    spots: Array
    core: float
    haze: float
    width: float
    course: Array
    onsets: tuple[int, ...] = field(default=())

    def density(self, u: Array, v: Array) -> Array:
        """Light of the matter (u, v) before the point-spread function."""
        theta = np.arctan2(v, u)
        lobes = 1.0 + sum(size * np.cos(k * theta + phase) for k, size, phase in self.outline)
        distance = np.hypot(u, v)
        rim = self.radius * lobes
        light = np.zeros_like(u)
        if self.haze > 0:
            far = distance / (self.width * rim)
            light += self.haze * np.exp(-1.2 * far**2) * (1 + 0.3 * np.tanh(self.clouds(u, v)))
        inside = distance < rim + 4.0
        iu, iv, away = u[inside], v[inside], (distance - rim)[inside]
        dome = 1.0 - self.dome * (1.0 - np.sqrt(np.clip(-away / self.radius, 0.0, 1.0)))
        core = dome * (1.0 + self.contrast * np.tanh(self.grain(iu, iv)))
        for su, sv, size, factor in self.spots:
            core *= 1.0 + factor * np.exp(-((iu - su) ** 2 + (iv - sv) ** 2) / (2 * size**2))
        light[inside] += self.core * core * 0.5 * (1.0 - np.tanh(away / 0.9))
        return light

    def render(self, canvas: Canvas) -> None:
        """Leave the body in every frame; the first two frames of each flash are events."""
        last = canvas.n_frames - 1
        reach = 2.0 * self.width * self.radius if self.haze > 0 else 1.6 * self.radius + 6.0
        for t in range(canvas.n_frames):
            centre = self.motion.centre[t]
            box = Box.around(centre, centre, reach)
            box = box.clipped(canvas.height, canvas.width, canvas.margin)
            if box.empty:
                continue
            x, y = box.grid()
            u, v = self.motion.matter(x, y, t)
            light = gaussian_filter(self.density(u, v), canvas.psf_sigma, mode="nearest")
            light *= self.course[t]
            flows = [
                np.stack([a - b for a, b in zip(self.motion.place(u, v, s), (x, y), strict=True)])
                for s in (min(t + 1, last), max(t - 1, 0))
            ]
            canvas.add(t, box, light, flows[0], flows[1])
            if any(t in (onset, onset + 1) for onset in self.onsets):
                part = box.clipped(canvas.height, canvas.width)
                if not part.empty:
                    rows = slice(part.y0 - box.y0, part.y1 - box.y0)
                    columns = slice(part.x0 - box.x0, part.x1 - box.x0)
                    seen = (light > 0.4 * light.max())[rows, columns]
                    canvas.events[t, part.y0 : part.y1, part.x0 : part.x1] |= seen


def draw_nucleus(
    rng: np.random.Generator, times: Array, centre: Array, radius: float, *, core: float
) -> Body:
    """Nucleus with chromatin, nucleoli and dense foci, in its cytoplasm."""
    spots = []
    for _ in range(int(rng.integers(1, 4))):  # nucleoli
        far, angle = rng.uniform(0.1, 0.55) * radius, rng.uniform(0, 2 * np.pi)
        size = rng.uniform(0.14, 0.22) * radius
        spots.append((far * np.cos(angle), far * np.sin(angle), size, -rng.uniform(0.55, 0.8)))
    for _ in range(int(rng.integers(4, 9))):  # chromocentres, rather at the rim
        far, angle = rng.uniform(0.45, 0.9) * radius, rng.uniform(0, 2 * np.pi)
        size = rng.uniform(0.06, 0.11) * radius
        spots.append((far * np.cos(angle), far * np.sin(angle), size, rng.uniform(0.3, 0.8)))
    lobes = [(2, rng.uniform(0.08, 0.2)), (3, rng.uniform(0.02, 0.07)), (5, 0.02)]
    motion = Motion.draw(rng, times, centre, radius, speed=0.7, reach=0.7 * radius, deformation=1.0)
    return Body(
        motion=motion,
        radius=radius,
        outline=np.array([(k, size, rng.uniform(0, 6.28)) for k, size in lobes]),
        grain=Texture.draw(rng, 0.4 * radius, 1.1 * radius, 28),
        clouds=Texture.draw(rng, 0.6 * radius, 2.0 * radius, 12),
        contrast=0.45,
        dome=0.3,
        spots=np.array(spots),
        core=core,
        haze=0.22 * core,
        width=rng.uniform(1.9, 2.4),
        course=np.ones(len(times)),
    )


def draw_blinking_cell(
    rng: np.random.Generator, times: Array, centre: Array, radius: float, *, flashing: bool
) -> Body:
    """Cell body that flashes: full in one frame, then an exponential decay."""
    n_frames = len(times)
    count = max(1, round(n_frames / 16))
    onsets = 1 + ((np.arange(count) + rng.uniform(0, 0.6, count)) * (n_frames - 1) / count).astype(
        int
    )
    decays, peaks = rng.uniform(3.5, 7.0, count), rng.uniform(0.96, 1.0, count)
    rest = rng.uniform(0.12, 0.2)
    course = np.full(n_frames, rest)
    if flashing:
        since = np.arange(n_frames) - onsets[:, None]  # (count, T)
        flash = np.where(since >= 0, np.exp(-since / decays[:, None]), 0.0) * peaks[:, None]
        course = rest + (1.0 - rest) * flash.max(axis=0)
    motion = Motion.draw(rng, times, centre, radius, speed=0.25, reach=2.0, deformation=0.5)
    return Body(
        motion=motion,
        radius=radius,
        outline=np.array([(2, rng.uniform(0.05, 0.15), 0.0), (3, 0.06, rng.uniform(0, 6.28))]),
        grain=Texture.draw(rng, 5.0, 10.0, 16),
        clouds=Texture.draw(rng, 8.0, 20.0, 8),
        contrast=0.06,
        dome=0.1,
        spots=np.array([(0.1 * radius, 0.0, 0.3 * radius, -rng.uniform(0.12, 0.28))]),
        core=1.0,
        haze=0.05,
        width=2.0,
        course=course,
        onsets=tuple(int(onset) for onset in onsets) if flashing else (),
    )
