"""Steps that denoise a movie: states, predictions, results, in tiles that give the whole frame."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ._doubt import doubt
from ._inference_plan import SMALLEST_TILE, InferencePlan
from .devices import is_out_of_memory, release_cached
from .flow.field import align
from .network import STBN, STBNConfig
from .network.frozen import FrozenSTBN
from .network.nearby import REACH
from .network.stbn import Direction, head_radius, state_radius
from .precision import DTYPES, Precision
from .preparation import PreparedMovie
from .prior import Units, network_input, posterior, prior_mean, prior_std

__all__ = ["DenoisedWindow", "Runner", "Shift", "shown_prior"]

_logger = logging.getLogger(__name__)
Shift = tuple[int, int]
# Of the noise's standard deviation. Hardly anything was learnt about narrower predictions. With it
# the truth lies within one deviation about as often at 4 photoelectrons as at 100 (69 to 73 % of
# the pixels, `benchmarks/warm_start.py`).
_LEAST_WIDTH = 0.02


@dataclass(frozen=True)
class DenoisedWindow:
    """Some consecutive frames of the result.

    Attributes
    ----------
    start
        First frame.
    mean : Tensor, shape (T', C, Y, X), float32 [user's units]
        Posterior mean; the prior mean without a noise model and where a pixel was not measured or
        is wrong beyond doubt (`napari_stbn._doubt`).
    std : Tensor, shape (T', C, Y, X), float32 [user's units], or None
        Posterior standard deviation, the prior's where a pixel was not measured, with the width
        that is shown (`shown_prior`); None without a noise model.
    prior : Tensor, shape (T', C, Y, X), float32 [user's units]
        Prior mean: the prediction that never saw the pixel.
    fraction
        Part of the work that is done, 0 to 1.
    wrong : Tensor, shape (T', C, Y, X), bool, or None
        Pixels that were measured and are wrong beyond doubt; None without a noise model.
    """

    start: int
    mean: Tensor
    std: Tensor | None
    prior: Tensor
    fraction: float
    wrong: Tensor | None = None


class Runner:
    """The steps of inference on one movie, in tiles.

    Each is a generator that yields after every tile and returns the whole.
    """

    def __init__(
        self,
        model: STBN,
        movie: PreparedMovie,
        plan: InferencePlan,
        precision: Precision,
        origins: Sequence[Shift],
    ) -> None:
        self.model, self.movie = model, movie
        self.network = FrozenSTBN(model, DTYPES[precision])
        self.origins = tuple(origins)
        self.tile = plan.tile
        self.device = next(model.parameters()).device
        self.frames, self.height, self.width = movie.shape
        self._kept: dict[int, Tensor] = {}

    def step(
        self, direction: Direction, t: int, neighbour: Tensor | None
    ) -> Generator[None, None, Tensor]:
        """State (1, width, Y, X) at frame t from the neighbouring frame's state.

        Or from nothing at the end of the movie.
        """
        frame = self._frame(t)
        if neighbour is None:
            return self._tiled(
                lambda f: self.network.begin(direction, f), [frame], state_radius(self.model.config)
            )
        flow = (
            self.movie.flow_to_previous[t - 1]
            if direction == "from_past"
            else self.movie.flow_to_next[t]
        )
        aligned = align(neighbour, flow[None].to(self.device), self.model.config.alignment)
        return self._tiled(
            lambda f, a: self.network.advance(direction, f, a),
            [frame, aligned],
            state_radius(self.model.config),
        )

    def predict(
        self, t: int, past: Tensor, future: Tensor, *, seen: range | None = None
    ) -> Generator[None, None, Tensor]:
        """Prior (1, K, Y, X) of frame t from both states, averaged over the patches' origins.

        Where a result depends on some frames only, those are `seen`.
        """
        priors = []
        for origin in self.origins:
            prior = yield from self._tiled(
                partial(self.network.predict, origin=origin),
                [past, future],
                head_radius(self.model.config),
            )
            priors.append(prior)
        seen = seen or range(self.frames)
        prior = torch.stack(priors).mean(0)
        return self.network.near.of_frame(prior, t, self._raw_frame, seen.start, seen.stop)

    def window(self, start: int, stop: int) -> DenoisedWindow:
        """Room for the result of some frames."""
        mean, blind = (
            torch.empty(stop - start, len(self.movie.units), self.height, self.width)
            for _ in range(2)
        )
        fuses = self.network.config.covariance and all(
            u.noise is not None for u in self.movie.units
        )
        if not fuses:
            return DenoisedWindow(start, blind, None, blind, 0.0)
        wrong = torch.zeros_like(mean, dtype=torch.bool)
        return DenoisedWindow(start, mean, torch.empty_like(mean), blind, 0.0, wrong)

    @torch.no_grad()
    def finish(self, t: int, prior: Tensor, window: DenoisedWindow) -> None:
        """Turn the prior (1, K, Y, X) of a frame into intensities, and put them into its window."""
        movie, units, place = self.movie, self.movie.units, t - window.start
        prior = prior[:, None]
        expected = prior_mean(prior, units)[0, 0]
        blind = expected.cpu()
        window.prior[place] = blind
        if window.std is None:
            return
        shown = shown_prior(prior[:, 0], self.network.config, units)[:, None]
        noisy = movie.intensities[t : t + 1].to(self.device)[None]
        mean = posterior(prior, noisy, units)[0][0, 0].cpu()
        std = posterior(shown, noisy, units)[1][0, 0].cpu()
        blind_std = prior_std(shown, units)[0, 0].cpu()
        doubted = doubt(noisy[0, 0], expected, prior_std(prior, units)[0, 0], units).cpu()
        valid = movie.valid[t : t + 1][0].cpu()
        if window.wrong is not None:
            window.wrong[place] = valid & (doubted == 1)
        trust = torch.where(valid, 1 - doubted, 0.0)
        window.mean[place] = torch.where(trust > 0, torch.lerp(blind, mean, trust), blind)
        window.std[place] = torch.where(trust > 0, torch.lerp(blind_std, std, trust), blind_std)

    def _raw_frame(self, t: int) -> Tensor:
        """Frame t (1, C, Y, X) in network units; those around the one before are kept."""
        if t not in self._kept:
            self._kept[t] = self.movie.inputs[t][None].to(self.device)
            for other in [s for s in self._kept if abs(s - t) > 2 * REACH]:
                del self._kept[other]
        return self._kept[t]

    def _frame(self, t: int) -> Tensor:
        """Network input (1, C', Y, X) at frame t."""
        frame = self.movie.inputs[t][None].to(self.device)
        frame = network_input(frame, self.movie.units, self.model.config)
        return frame.contiguous(memory_format=torch.channels_last)

    def _tiled(
        self, function: Callable[..., Tensor], inputs: list[Tensor], radius: int
    ) -> Generator[None, None, Tensor]:
        """Apply a convolutional function of finite reach in tiles.

        Smaller tiles when memory runs out.
        """
        while True:
            try:
                return (yield from self._apply(function, inputs, 4 * math.ceil(radius / 4)))
            except RuntimeError as error:
                if not is_out_of_memory(error) or self.tile // 2 < SMALLEST_TILE:
                    raise
                self.tile = 4 * math.ceil(self.tile / 8)
                release_cached(self.device)
                _logger.warning(
                    "out of memory on %s; going on with tiles of %d pixels", self.device, self.tile
                )

    def _apply(
        self, function: Callable[..., Tensor], inputs: list[Tensor], halo: int
    ) -> Generator[None, None, Tensor]:
        """One pass over the tiles.

        Their origins are multiples of 4, as patches of the spatial expansion are.
        """
        out = inputs[0].new_empty(0)
        for rows in _spans(self.height, self.tile, halo):
            for columns in _spans(self.width, self.tile, halo):
                piece = function(*(x[:, :, rows.outer, columns.outer] for x in inputs))
                if piece.shape[-2:] == (self.height, self.width):
                    out = piece
                else:
                    if out.numel() == 0:
                        out = piece.new_empty(*piece.shape[:2], self.height, self.width)
                        out = out.contiguous(memory_format=torch.channels_last)
                    out[:, :, rows.inner, columns.inner] = piece[:, :, rows.local, columns.local]
                yield
        return out


def shown_prior(prior: Tensor, config: STBNConfig, units: Sequence[Units]) -> Tensor:
    """The prior (1, K, Y, X) whose standard deviation is shown; its mean is that of `prior`.

    Every place in a patch of the spatial expansion has weights of its own, which leaves a faint
    pattern of two pixels' period in the width: the covariance factor is averaged over 3 x 3 pixels,
    binomially. And no width is below `_LEAST_WIDTH` of the noise, added in quadrature. The
    posterior mean is fused with the width as it was predicted, since an average over neighbours is
    not blind. A factor that may take either sign stays as it is: its average says too little.
    """
    if not (config.covariance and config.positive_factor):
        return prior
    c = config.channels
    factor = prior[:, c:]
    for axis in (-2, -1):
        at = torch.arange(factor.shape[axis], device=prior.device)
        before, after = ((at + by).clamp(0, len(at) - 1) for by in (-1, 1))
        around = factor.index_select(axis, before) + factor.index_select(axis, after)
        factor = factor / 2 + around / 4
    parts = [prior[:, :c], *factor.split(1, 1)]
    for pivot, channel in zip(config.pivots, reversed(units), strict=True):
        place = pivot - c + 1
        parts[place] = torch.hypot(
            parts[place], parts[place].new_tensor(_LEAST_WIDTH / channel.scaling.scale)
        )
    return torch.cat(parts, 1)


@dataclass(frozen=True)
class _Span:
    """One tile along one axis: what it reads, what it writes.

    And where that lies in what it read.
    """

    outer: slice
    inner: slice
    local: slice


def _spans(length: int, tile: int, halo: int) -> Iterator[_Span]:
    """Cut an axis into tiles with halos."""
    for start in range(0, length, tile):
        stop = min(start + tile, length)
        first, last = max(0, start - halo), min(length, stop + halo)
        yield _Span(slice(first, last), slice(start, stop), slice(start - first, stop - first))
