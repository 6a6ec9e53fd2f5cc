"""Scenes: which structures a simulated movie shows, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from napari_stbn.samples._bodies import Texture, draw_blinking_cell, draw_nucleus
from napari_stbn.samples._canvas import Array, Canvas
from napari_stbn.samples._emitters import add_filament, add_membrane, add_vesicles

REFERENCE_AREA = 128.0 * 128.0
"""Frame area [px²] that the numbers of structures are given for."""


@dataclass(frozen=True)
class BlinkEvent:
    """One flash: the frame it starts in, and the cell's centre (y, x) [px] in that frame."""

    frame: int
    centre: tuple[float, float]


class Scene:
    """Places the structures of one movie; every sort of structure has its own random stream."""

    STREAMS = ("background", "nuclei", "filaments", "vesicles", "membranes", "blinking", "camera")

    def __init__(
        self, shape: tuple[int, int, int], psf_sigma: float, motion: float, seed: int
    ) -> None:
        self.n_frames, self.height, self.width = shape
        self.canvas = Canvas(*shape, psf_sigma)
        self.motion = motion
        self.seed = seed
        self.times: Array = motion * np.arange(self.n_frames, dtype=np.float64)
        self.scale = float(np.clip(min(self.height, self.width) / 96.0, 0.4, 1.0))
        self.places: list[tuple[Array, float]] = []
        self.obstacles: list[tuple[Array, float]] = []
        self.event_list: list[BlinkEvent] = []

    def stream(self, name: str) -> np.random.Generator:
        """Return the generator of one sort of structure."""
        return np.random.default_rng([self.seed, self.STREAMS.index(name)])

    def draw(self, kind: str) -> None:
        """Draw the scene of that kind."""
        if kind in ("mixed", "static"):
            self.background(0.058)
            self.nuclei(5, 0.22, 0.34)
            self.blinking(4, flashing=kind == "mixed")
            self.filaments(6, 0.14, 0.24)
            self.vesicles(28, 0.26, 0.52)
        elif kind == "nuclei":
            self.background(0.05)
            self.nuclei(9, 0.5, 1.0)
        elif kind == "filaments":
            self.background(0.07)
            self.nuclei(2, 0.10, 0.14)
            self.filaments(26, 0.2, 0.8)
        elif kind == "puncta":
            self.background(0.06)
            self.nuclei(3, 0.08, 0.12)
            self.vesicles(45, 0.3, 1.0)
        elif kind == "membranes":
            self.background(0.08)
            self.membranes(8, 0.5, 0.9)
        else:
            self.background(0.06, grain=0.25)
            self.filaments(14, 0.04, 0.10, pace=0.25)
            self.blinking(9, flashing=True)

    def number(self, per_reference_area: int) -> int:
        """Return the number of structures for this frame size, at least 1."""
        return max(1, round(per_reference_area * self.height * self.width / REFERENCE_AREA))

    def place(self, rng: np.random.Generator, radius: float, inset: float = 0.6) -> Array:
        """Centre (x, y) for a body, as free of the bodies placed before as 60 tries allow."""
        size = np.array([self.width, self.height], dtype=np.float64)
        edge = np.minimum(inset * radius, 0.4 * size)
        best, best_room = size / 2, -np.inf
        for candidate in edge + rng.uniform(0, 1, (60, 2)) * (size - 2 * edge):
            gaps = [np.hypot(*(candidate - c)) - r - radius for c, r in self.places]
            room = float(min(gaps, default=np.inf))
            if room > best_room:
                best, best_room = candidate, room
            if room > 7.0:
                break
        self.places.append((best, radius))
        return np.asarray(best)

    def background(self, level: float, *, grain: float = 0.08) -> None:
        """Standing uneven haze: camera-wide glow, out-of-focus blobs, fine unevenness."""
        rng = self.stream("background")
        y, x = np.mgrid[: self.height, : self.width].astype(np.float64)
        reach = max(self.height, self.width)
        glow = np.hypot(x - rng.uniform(0, self.width), y - rng.uniform(0, self.height)) / reach
        haze = 0.6 + 0.7 * np.exp(-2.0 * glow**2)
        for _ in range(self.number(5)):
            far = np.hypot(x - rng.uniform(0, self.width), y - rng.uniform(0, self.height))
            size = rng.uniform(8.0, 20.0) * self.scale
            haze += rng.uniform(0.2, 0.9) * np.exp(-(far**2) / (2 * size**2))
        haze *= np.maximum(1.0 + grain * Texture.draw(rng, 5.0, 40.0, 40)(x, y), 0.2)
        self.canvas.light += level * gaussian_filter(haze, self.canvas.psf_sigma, mode="nearest")

    def nuclei(self, count: int, low: float, high: float) -> None:
        """Nuclei in their cytoplasm, with brightness between the two."""
        rng = self.stream("nuclei")
        for _ in range(self.number(count)):
            radius = rng.uniform(10.5, 15.0) * self.scale
            centre = self.place(rng, radius)
            core = rng.uniform(low, high)
            draw_nucleus(rng, self.times, centre, radius, core=core).render(self.canvas)

    def blinking(self, count: int, *, flashing: bool) -> None:
        """Cell bodies that flash; vesicles stay out of them."""
        rng = self.stream("blinking")
        for _ in range(self.number(count)):
            radius = rng.uniform(6.0, 8.0) * max(self.scale, 0.5)
            centre = self.place(rng, radius + 3.0, inset=1.0)
            cell = draw_blinking_cell(rng, self.times, centre, radius, flashing=flashing)
            cell.render(self.canvas)
            self.obstacles.append((centre, radius + 5.0))
            for onset in cell.onsets:
                x, y = cell.motion.centre[onset]
                self.event_list.append(BlinkEvent(onset, (float(y), float(x))))

    def filaments(self, count: int, low: float, high: float, *, pace: float = 1.0) -> None:
        """Filaments: where there are many, half radiate from an organising centre."""
        rng = self.stream("filaments")
        size = np.array([self.width, self.height], dtype=np.float64)
        hub = size * rng.uniform(0.3, 0.7, 2)
        number = self.number(count)
        for i in range(number):
            free = i >= number // 2 or count < 20
            length = rng.uniform(40.0, 110.0) * self.scale
            heading = rng.uniform(0, 2 * np.pi)
            away = rng.uniform(3.0, 12.0) * np.array([np.cos(heading), np.sin(heading)])
            start = hub + away * self.scale
            if free:
                start, heading = self.lie(rng, length)
            brightness = low * (high / low) ** rng.uniform()
            times = pace * self.times
            add_filament(self.canvas, rng, times, start, heading, length, brightness, centred=free)

    def lie(self, rng: np.random.Generator, length: float) -> tuple[Array, float]:
        """Middle (x, y) and heading of a free filament, the first of 20 clear of blinking cells."""
        size = np.array([self.width, self.height], dtype=np.float64)
        middles = size * rng.uniform(0.05, 0.95, (20, 2))
        headings = rng.uniform(0, 2 * np.pi, 20)
        ahead = np.stack([np.cos(headings), np.sin(headings)], axis=1)
        along = np.linspace(-0.5, 0.5, 9)[:, None, None] * length
        points = middles + along * ahead  # (9, 20, 2)
        room = [np.hypot(*(points - c).T).min(axis=1) - r for c, r in self.obstacles]
        best = int(np.argmax(np.minimum(np.min(room, axis=0), 9.0))) if room else 0
        return middles[best], float(headings[best])

    def vesicles(self, count: int, low: float, high: float) -> None:
        """Fast vesicles that keep out of the blinking cells."""
        add_vesicles(
            self.canvas,
            self.stream("vesicles"),
            self.number(count),
            motion=self.motion,
            brightness=(low, high),
            obstacles=self.obstacles,
        )

    def membranes(self, count: int, low: float, high: float) -> None:
        """Draw the closed contours of neighbouring cells."""
        rng = self.stream("membranes")
        for _ in range(self.number(count)):
            radius = rng.uniform(14.0, 22.0) * self.scale
            centre = self.place(rng, radius, inset=0.3)
            add_membrane(
                self.canvas, rng, self.times, centre, radius, float(rng.uniform(low, high))
            )
