"""Along which flow the first prediction goes: none, that of the noisy frames, its mean over time.

Flow is best estimated between predicted frames, and a prediction needs a flow. Along none it holds
nothing of a pixel's own noise, but loses what moves by more than its own size; along flow of the
noisy frames it follows that, with its errors. Which of the two costs more is a matter of the movie,
and is measured on it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator, MutableMapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from ._generators import relay
from ._hidden_pixels import hide_pixels, predict_frames
from ._motion_image import motion_image
from ._prepared import PreparedMovie
from .flow import (
    ROUTES,
    Comparison,
    Flow,
    PairMethod,
    Route,
    RouteChoice,
    compare,
    route_flow,
    whole_flow,
)
from .network import STBN
from .precision import Precision

if TYPE_CHECKING:
    from ._lazy_movie import LazyMovie

__all__ = ["choice_pixels", "choose_route", "with_flow"]

Image = NDArray[np.float32]
_JUDGED = 2**18  # pixels of a movie that the choice is made on, at most
_FRAMES = 16  # of them, so many frames at most
_TOGETHER = 4  # movies that are judged together, at most
_REPEATS = 3  # times that other pixels of a small movie are hidden, while there is doubt
_SURE = 1.0  # standard errors by which motion has to predict better than none
_FAR = 3.0  # standard errors by which it is worse, or better, for sure
_WORST = 30.0  # times the median squared error, which is half of the mean
_COARSE = 4  # px: where there is much to see is looked for in steps of this


def choose_route(
    model: STBN,
    movies: Sequence[PreparedMovie | LazyMovie],
    noisy: PairMethod,
    method: PairMethod,
    precision: Precision = "float32",
    known: MutableMapping[str, RouteChoice] | None = None,
) -> Generator[float, None, RouteChoice]:
    """Predict parts of movies along each route, and take the one that predicts best.

    Parameters
    ----------
    model : STBN
        That already denoises, on the device to use.
    movies : sequence of PreparedMovie or LazyMovie
        One, or several of one size that go one way together: then four of them are judged. A
        quarter of a million pixels are looked at in all: sixteen frames of the middle, where there
        is most to see; all of a small movie, up to three times while there is doubt.
    noisy, method : str
        Of the flow between noisy frames, and between predicted ones.
    precision : {"float32", "bfloat16"}
    known : dict of str to RouteChoice, optional
        What was chosen before, by a digest of the pixels that it was chosen on: a movie is judged
        once in the life of a model. The choice is added.

    Yields
    ------
    float
        Part of the work that is done, 0 to 1.

    Returns
    -------
    RouteChoice

    Notes
    -----
    Judged by pixels that neither flow nor network saw: to any other, flow between noisy frames has
    told what is there.
    """
    some = movies[:: -(-len(movies) // _TOGETHER)]
    parts = [_part(movie, _JUDGED // len(some)) for movie in some]
    digest = hashlib.sha256(b"".join(p.intensities.numpy().tobytes() for p in parts)).hexdigest()
    if known is not None and digest in known:
        return known[digest]
    choice = yield from _choose(model, parts, noisy, method, precision)
    if known is not None:
        known[digest] = choice
    return choice


def _choose(
    model: STBN,
    parts: Sequence[PreparedMovie],
    noisy: PairMethod,
    method: PairMethod,
    precision: Precision,
) -> Generator[float, None, RouteChoice]:
    """`choose_route` for the parts of movies that are looked at."""
    repeats = _repeats(sum(math.prod(part.shape) for part in parts))
    trials = []
    share = partial(_share, repeats * len(parts))
    errors: dict[Route, list[Image]] = {route: [] for route in ROUTES}
    predicted: dict[Route, list[Image]] = {route: [] for route in ROUTES}
    moving: Route = "still"
    gains: dict[Route, Comparison] = {}
    for n, (seed, part) in enumerate(product(range(repeats), parts)):
        held, hidden = hide_pixels(part, seed)
        trials.append((held, hidden))
        between = yield from relay(whole_flow(held.filled, noisy), partial(share, 4 * n))
        for k, route in enumerate(ROUTES):
            frames = yield from relay(
                predict_frames(model, with_flow(hidden, route_flow(route, between)), precision),
                partial(share, 4 * n + k + 1),
            )
            predicted[route].append(frames)
            errors[route].append(held.missed_by(frames))
        if (n + 1) % len(parts):
            continue
        gains = {route: _compare(errors[route], errors["still"]) for route in ROUTES}
        moving = max(ROUTES[1:], key=lambda route: gains[route].gain)
        if abs(gains[moving].sigmas) > _FAR:  # no doubt: other pixels would say the same
            break
    if not gains[moving].sigmas > _SURE:
        return RouteChoice("still", gains)
    # Slow motion is seen better between frames that were predicted along none, though these are no
    # better themselves: what counts is the flow that is found in the end.
    finals: dict[Route, list[Image]] = {"still": [], moving: []}
    for n, (held, hidden) in enumerate(trials):
        for k, (route, errors_of) in enumerate(finals.items()):
            at = 4 * repeats * len(parts) + 4 * n + 2 * k
            found = yield from relay(whole_flow(predicted[route][n], method), partial(share, at))
            better = RouteChoice(route, gains).improved(found)
            frames = yield from relay(
                predict_frames(model, with_flow(hidden, better), precision), partial(share, at + 1)
            )
            errors_of.append(held.missed_by(frames))
    again = _compare(finals[moving], errors[moving]).gain > 0
    best = finals[moving] if again else errors[moving]
    # Where the prediction along none is far worse, what moves is lost in it: the doubt is its own.
    needed = _SURE if gains[moving].sigmas < _FAR else -_SURE
    if not _compare(best, finals["still"]).sigmas > needed:
        return RouteChoice("still", gains)
    return RouteChoice(moving, gains, again=again)


def choice_pixels(pixels: int) -> int:
    """Pixels that are predicted to choose the route of a movie with so many of them."""
    part = min(pixels, _JUDGED)
    return (len(ROUTES) + 2) * _repeats(part) * part


def _repeats(pixels: int) -> int:
    """Times that pixels are hidden in a part with so many of them."""
    return max(1, min(_REPEATS, _JUDGED // pixels))


def _compare(errors: list[Image], others: list[Image]) -> Comparison:
    """`compare` over all trials; a single wrong pixel counts no more than a very noisy one."""
    both = [np.stack(kind) for kind in (errors, others)]
    counted = both[1][both[1] > 0]
    most = _WORST * float(np.median(counted)) if counted.size else 0.0
    return compare(*(np.minimum(kind, most) for kind in both))


def with_flow(movie: PreparedMovie, flow: Flow) -> PreparedMovie:
    """The movie with another flow; nothing is copied."""
    to_previous, to_next = (
        torch.from_numpy(d) if d.flags.writeable else torch.zeros(1).expand(d.shape) for d in flow
    )
    return replace(movie, flow_to_previous=to_previous, flow_to_next=to_next)


def _part(movie: PreparedMovie | LazyMovie, pixels: int) -> PreparedMovie:
    """Frames of the middle, cropped to where there is most to see."""
    frames, height, width = movie.shape
    count = min(_FRAMES, frames)
    first = (frames - count) // 2
    side = math.isqrt(pixels // count)
    if height * width <= pixels // count:
        rows, columns = slice(0, height), slice(0, width)
    else:
        middle = motion_image(movie.intensities[frames // 2], movie.units).numpy()
        rows, columns = _busiest(middle, min(side, height), min(side, width))

    def read(name: str) -> torch.Tensor:
        along = getattr(movie, name)
        return torch.stack([along[t][..., rows, columns] for t in range(first, first + count)])

    intensities = read("intensities")
    none = torch.zeros(1).expand(count - 1, 2, *intensities.shape[2:])
    return PreparedMovie(intensities, read("inputs"), read("valid"), none, none, movie.units)


def _busiest(image: NDArray[np.float32], height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the part of an image with the largest spread of intensities."""
    coarse = np.nan_to_num(uniform_filter(image, _COARSE))[::_COARSE, ::_COARSE].astype(np.float64)
    window = max(1, height // _COARSE), max(1, width // _COARSE)
    spread = uniform_filter(np.square(coarse), window) - np.square(uniform_filter(coarse, window))
    inside = [
        slice(n // 2, max(n // 2 + 1, c - n // 2))
        for n, c in zip(window, coarse.shape, strict=True)
    ]
    best = np.unravel_index(spread[*inside].argmax(), spread[*inside].shape)
    out = []
    for at, cells, length, whole in zip(best, window, (height, width), image.shape, strict=True):
        middle = _COARSE * (int(at) + cells // 2)
        start = min(max(0, middle - length // 2), whole - length)
        out.append(slice(start, start + length))
    return out[0], out[1]


def _share(trials: int, piece: int, done: float) -> float:
    """Part of the choice that is done when a part of one of its pieces is."""
    return (piece + done) / (8 * trials)
