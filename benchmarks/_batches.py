"""Clips of many simulated movies at once, drawn where the network is trained.

A GPU takes a step of dozens of clips in the time that a processor needs to draw one, so the movies
lie on the device whole, and all clips of a step are cropped, given noise and turned together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from _pool import ROUNDING, WRONG, Scene
from napari_stbn.clips import turn
from napari_stbn.noise import PoissonGaussianNoise

_TURNED_ALIKE = 4  # clips of a large batch that are turned, mirrored and reversed alike
_COUNT = 65535
_LEAST_READ_NOISE = 0.01  # photoelectrons, as the noise model has it
_FLOWS = ("flow_to_previous", "flow_to_next", "clean_to_previous", "clean_to_next")


@dataclass(frozen=True)
class Camera:
    """Poisson-Gaussian noise of each clip of a batch; parameters of shape (B, 1, 1, 1, 1)."""

    gain: Tensor
    offset: Tensor
    read_noise: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Camera:
        """From rows of gain, offset and read noise."""
        return cls(*rows.T[..., None, None, None, None])

    def variance(self, mean: Tensor) -> Tensor:
        """As `PoissonGaussianNoise.variance`."""
        floor = (self.gain * self.read_noise.clamp(min=_LEAST_READ_NOISE)) ** 2
        return self.gain * (mean - self.offset).clamp(min=0) + floor

    def stabilize(self, noisy: Tensor) -> Tensor:
        """As `PoissonGaussianNoise.stabilize`."""
        e, s0 = (noisy - self.offset) / self.gain, self._root
        light = e.clamp(min=0)
        return 2 * light / ((light + s0**2).sqrt() + s0) + e.clamp(max=0) / s0

    def unstabilize(self, stable: Tensor) -> Tensor:
        """As `PoissonGaussianNoise.unstabilize`."""
        light, s0 = stable.clamp(min=0), self._root
        e = light * (0.25 * light + s0) + stable.clamp(max=0) * s0
        return e * self.gain + self.offset

    def simulate(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Noisy whole counts of clean ones."""
        light = ((clean - self.offset) / self.gain).clamp(min=0)
        electrons = torch.poisson(light, generator=generator)
        electrons += self.read_noise * _normal(light, generator)
        return (self.offset + self.gain * electrons).round().clamp(0, _COUNT)

    @property
    def _root(self) -> Tensor:
        return (self.read_noise**2 + 0.375).sqrt()


@dataclass(frozen=True)
class Batch:
    """Clips of a step.

    Attributes
    ----------
    inputs : Tensor, shape (B, T, 3, H, W)
        Frames in network units, and the two maps of `network_input`.
    clean : Tensor, shape (B, T, 1, H, W) [counts]
    flow_to_previous, flow_to_next : Tensor, shape (B, T - 1, 2, H, W) [px]
    about : Tensor, shape (B, 8)
        True noise (3), assumed noise (3), offset and scale of the network's units.
    """

    inputs: Tensor
    clean: Tensor
    flow_to_previous: Tensor
    flow_to_next: Tensor
    about: Tensor

    @property
    def units(self) -> tuple[Camera, Tensor, Tensor]:
        """Assumed noise, and offset and scale (B, 1, 1, 1, 1) of its stabilised values."""
        offset, scale = self.about[:, 6:].T[..., None, None, None, None]
        return Camera.of(self.about[:, 3:6]), offset, scale

    @property
    def true_variance(self) -> Tensor:
        """Variance of the noise [counts²] at the clean intensities, with that of rounding."""
        return Camera.of(self.about[:, :3]).variance(self.clean) + ROUNDING


class ScenePool:
    """Scenes of one size on a device; more can be added while clips are drawn.

    Parameters
    ----------
    scenes : iterable of Scene
    device : torch.device
    capacity : int, optional
        Scenes to make room for.
    """

    def __init__(
        self, scenes: Iterable[Scene], device: torch.device, capacity: int | None = None
    ) -> None:
        scenes = list(scenes)
        self.device, self.count = device, 0
        self.capacity = len(scenes) if capacity is None else capacity
        first = scenes[0]

        def room(like: Tensor) -> Tensor:
            return torch.empty(self.capacity, *like.shape, dtype=like.dtype, device=device)

        self._noisy, self._clean = room(first.noisy), room(first.clean)
        self._flows = {name: room(getattr(first, name)) for name in _FLOWS}
        self._about = torch.empty(self.capacity, 8, device=device)
        self._levels = torch.empty(self.capacity, 2, device=device)
        for scene in scenes:
            self.add(scene)

    def add(self, scene: Scene) -> None:
        """Put one more scene in.

        Raises
        ------
        TypeError
            If its noise is not assumed to be Poisson-Gaussian.
        """
        noise, i = scene.units.noise, self.count
        if not isinstance(noise, PoissonGaussianNoise):
            raise TypeError(f"the noise of a scene must be Poisson-Gaussian, got {noise!r}")
        self._noisy[i], self._clean[i] = scene.noisy, scene.clean
        for name in _FLOWS:
            self._flows[name][i] = getattr(scene, name)
        models = [
            value for m in (scene.camera, noise) for value in (m.gain, m.offset, m.read_noise)
        ]
        scaling = scene.units.scaling
        self._about[i] = torch.tensor([*models, scaling.offset, scaling.scale])
        self._levels[i] = torch.tensor(scene.units.noise_level)
        self.count += 1

    def whole(self) -> Batch:
        """All scenes as they are."""
        about, levels = self._about[: self.count], self._levels[: self.count]
        noisy, clean = self._noisy[: self.count], self._clean[: self.count]
        to_previous, to_next = (self._flows[name][: self.count].float() for name in _FLOWS[:2])
        return _batch(noisy, clean, to_previous, to_next, about, levels)

    def draw(self, clips: int, frames: int, size: int, chance: torch.Generator) -> Batch:
        """Crops of random scenes; turned, mirrored, reversed in time and given new noise at random.

        Half of them keep the noise that the flow was estimated from, as in a fit. Half of them
        hold wrong pixels. In half of them the flow, unless it is none, is brought nearer to that of
        the clean frames by a random part of the way: flow gets better with the light and from
        release to release, and a network that never met good flow does not rely on it.

        Parameters
        ----------
        clips, frames, size : int
            Clips, frames of each, and their side [px].
        chance : torch.Generator
            On the CPU.

        Returns
        -------
        Batch
        """
        alike = max(min(clips, _TURNED_ALIKE), clips // _TURNED_ALIKE)
        turns = torch.randint(16, (alike,), generator=chance).tolist()
        generator = torch.Generator(self.device)
        generator.manual_seed(int(torch.randint(2**62, (), generator=chance)))

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, device=self.device, generator=generator)

        def coin() -> Tensor:
            return uniform(clips, 1, 1, 1, 1) < 0.5

        which = (uniform(clips) * self.count).long()
        _, length, _, height, width = self._noisy.shape
        t, y, x = (
            (uniform(clips) * (n - extent + 1)).long()[:, None]
            + torch.arange(extent, device=self.device)
            for n, extent in ((length, frames), (height, size), (width, size))
        )

        def crop(maps: Tensor, times: Tensor) -> Tensor:
            channels = torch.arange(maps.shape[2], device=self.device)
            return maps[
                which[:, None, None, None, None],
                times[:, :, None, None, None],
                channels[:, None, None],
                y[:, None, None, :, None],
                x[:, None, None, None, :],
            ]

        clean, about = crop(self._clean, t), self._about[which]
        camera = Camera.of(about[:, :3])
        noisy = torch.where(coin(), camera.simulate(clean, generator), crop(self._noisy, t))
        noisy = torch.where(coin(), _with_wrong_pixels(noisy, uniform), noisy)
        estimated, better = (
            [crop(self._flows[name], t[:, :-1]).float() for name in names]
            for names in (_FLOWS[:2], _FLOWS[2:])
        )
        moving = sum(flow.abs().amax((1, 2, 3, 4), keepdim=True) for flow in estimated)
        nearer = uniform(clips, 1, 1, 1, 1) * (coin() & (moving > 0))
        flows = [flow.lerp(aim, nearer) for flow, aim in zip(estimated, better, strict=True)]
        parts = zip(turns, *(m.chunk(alike) for m in (noisy, clean, *flows)), strict=True)
        turned = zip(*(_turned(*part) for part in parts), strict=True)
        noisy, clean, to_previous, to_next = (torch.cat(maps) for maps in turned)
        return _batch(noisy, clean, to_previous, to_next, about, self._levels[which])


def _batch(
    noisy: Tensor,
    clean: Tensor,
    to_previous: Tensor,
    to_next: Tensor,
    about: Tensor,
    levels: Tensor,
) -> Batch:
    """Noisy counts in the units of the network, with what it is told of the noise."""
    batch = Batch(noisy, clean, to_previous, to_next, about)
    assumed, offset, scale = batch.units
    told = levels[:, None, :, None, None].expand(-1, noisy.shape[1], -1, *noisy.shape[-2:])
    inputs = (assumed.stabilize(noisy) - offset) / scale
    return replace(batch, inputs=torch.cat([inputs, told], 2))


def _turned(
    how: int, noisy: Tensor, clean: Tensor, to_previous: Tensor, to_next: Tensor
) -> tuple[Tensor, ...]:
    """Clips after quarter turns, a mirror, and backwards in time: `how` from 0 to 15."""
    quarter, mirror, backwards = how % 4, bool(how & 4), bool(how & 8)
    noisy, clean = (turn(x, quarter, mirror) for x in (noisy, clean))
    to_previous, to_next = (
        turn(flow, quarter, mirror, vectors=True) for flow in (to_previous, to_next)
    )
    if backwards:  # each direction of the flow takes the other's place
        noisy, clean = noisy.flip(1), clean.flip(1)
        to_previous, to_next = to_next.flip(1), to_previous.flip(1)
    return noisy, clean, to_previous, to_next


def _with_wrong_pixels(noisy: Tensor, uniform: Callable[..., Tensor]) -> Tensor:
    """Clips (B, T, 1, H, W) of which some single pixels say nothing of what was there.

    Half of them show a pixel close by, a quarter are too bright, as a cosmic ray leaves them, and a
    quarter are dark. The truth stays what it was: the network learns not to believe them.
    """
    clips, _, _, height, width = noisy.shape
    least, most = (10**power for power in WRONG)
    share = least * (most / least) ** uniform(clips, 1, 1, 1, 1)
    row, column = ((uniform(clips, 1) * 5).long() - 2 for _ in range(2))
    column = torch.where((row == 0) & (column == 0), 1, column)
    y = (torch.arange(height, device=noisy.device) + row) % height
    x = (torch.arange(width, device=noisy.device) + column) % width
    moved = noisy.take_along_dim(y[:, None, None, :, None], 3)
    close_by = moved.take_along_dim(x[:, None, None, None, :], 4)
    low, high = (f(noisy, (1, 2, 3, 4), keepdim=True) for f in (torch.amin, torch.amax))
    bright = noisy + (high - low) * uniform(*noisy.shape)
    which = uniform(*noisy.shape)
    wrong = torch.where(which < 0.5, close_by, torch.where(which < 0.75, bright, low))
    return torch.where(uniform(*noisy.shape) < share, wrong, noisy)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers in the shape of a tensor."""
    return torch.randn(like.shape, device=like.device, generator=generator)
