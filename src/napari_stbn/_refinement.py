"""Flow from denoised frames: the model's own blind prediction takes the noisy frames' place."""

from __future__ import annotations

from collections.abc import Generator, MutableMapping
from dataclasses import replace
from functools import partial
from typing import Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ._flow_routes import choose_route, with_flow
from ._generators import relay
from ._hidden_pixels import hide_pixels, predict_frames
from ._motion_image import motion_image
from ._wrong_pixels import WrongPixels
from .flow import (
    ROUTES,
    Comparison,
    Flow,
    FlowMethod,
    HeldOut,
    PairMethod,
    RouteChoice,
    choose_flow,
    route_flow,
    still_flow,
    whole_flow,
)
from .network import STBN
from .precision import Precision
from .preparation import PreparedMovie, PreparedStack, prepare_movie, read_filled

__all__ = [
    "DENSE_METHODS",
    "dense_method",
    "fixed_route",
    "keep_better",
    "noisy_method",
    "predicted_method",
    "reestimate_flow",
    "refine_flow",
]

Image = NDArray[np.float32]
_Method = TypeVar("_Method", FlowMethod, PairMethod)
DENSE_METHODS: tuple[FlowMethod, ...] = (
    "dis", "dis_fine", "dis_multi", "blend", "ilk", "tvl1", "auto",
)  # fmt: skip
"""Methods that follow the noise of single pixels where there is much of it."""
_SURE = 2.0  # standard errors by which flow between noisy frames has to be better


def dense_method(method: FlowMethod) -> PairMethod:
    """Dense flow of single pairs, by what was asked for."""
    dense = ("dis", "dis_fine", "ilk", "tvl1")
    return cast("PairMethod", method) if method in dense else "dis"


def noisy_method(method: FlowMethod) -> PairMethod:
    """How flow between noisy frames is estimated, for a first prediction to go along."""
    return method if method in ("blend", "translation") else dense_method(method)


def fixed_route(method: FlowMethod) -> RouteChoice | None:
    """For methods that see too little to follow noise: nothing is to be chosen.

    A translation is found anew between predicted frames, which cosmic rays do not mislead.
    """
    if method not in ("none", "translation"):
        return None
    gains = dict.fromkeys(ROUTES, Comparison(0.0, 0.0))
    moves = method == "translation"
    return RouteChoice("noisy" if moves else "still", gains, again=moves)


def predicted_method(method: _Method) -> _Method | Literal["dis_fine"]:
    """How flow between predicted frames is estimated.

    They have hardly any noise that a search down to single pixels would follow, and a blend of
    coarser searches would keep out.
    """
    return "dis_fine" if method in ("dis", "blend") else method


def refine_flow(
    model: STBN,
    prepared: PreparedStack,
    method: FlowMethod,
    precision: Precision = "float32",
    known: MutableMapping[str, RouteChoice] | None = None,
) -> Generator[float, None, None]:
    """Estimate the flow of every movie on its blind prediction, in place; take out wrong pixels.

    Parameters
    ----------
    model : STBN
        That already denoises, on the device to use.
    prepared : PreparedStack
        Whatever its flow is now, the prediction goes along the one that predicts best
        (`napari_stbn._flow_routes.choose_route`), which is noted in its `routes`.
    method : str
        Of `napari_stbn.flow.estimate_flow`. "auto" chooses by noisy pixels that were hidden from
        the prediction; with "none" the prediction serves to find wrong pixels alone.
    precision : {"float32", "bfloat16"}, default "float32"
    known : dict of str to RouteChoice, optional
        What was chosen before for the same movies; more is added.

    Yields
    ------
    float
        Part of the work that is done, 0 to 1.

    Notes
    -----
    Flow between noisy frames follows the noise: it leads a pixel to where the neighbouring frame
    resembles it, its noise included, and so tells the network of it. A prediction along zero flow
    holds nothing of the pixel's own noise. The paper refines its flow for the same reason. But what
    moves by more than its own size is lost in such a prediction.
    """
    noisy, dense = noisy_method(method), predicted_method(dense_method(method))
    routes: dict[int, RouteChoice] = {}
    fixed = fixed_route(method)
    for number, (key, movie) in enumerate(prepared.movies.items()):
        share = partial(_share, number, len(prepared.movies))
        if movie.wrong:  # found by an earlier model; this one judges anew
            movie = _as_recorded(prepared, key, movie)
        wrong = WrongPixels([prepared.correlation.get(key[0] + c) for c in range(len(movie.units))])
        if (first := prepared.leader(key)) is not None:
            # What moves in one moves in the other: only wrong pixels are left to be found.
            to_previous, to_next = first.flow_to_previous, first.flow_to_next
            movie = replace(movie, flow_to_previous=to_previous, flow_to_next=to_next)
            yield from relay(
                predict_frames(model, movie, precision, wrong), partial(share, 0.0, 1.0)
            )
            prepared.movies[key] = replace(movie, wrong=wrong.count)
            _take_out(prepared.movies[key], wrong)
            continue
        choice = fixed or (routes.get(key[0]) if len(key) > 2 else None)
        if choice is None:
            # Parts of the movies of a channel go one way: each alone is too little to be sure.
            together = [p for k, p in prepared.movies.items() if len(k) > 2 and k[0] == key[0]]
            choice = yield from relay(
                choose_route(model, together or [movie], noisy, dense, precision, known),
                partial(share, 0.0, 0.3),
            )
        if not fixed:
            prepared.routes[key] = routes[key[0]] = choice
        held, seen = hide_pixels(movie) if method == "auto" else (None, movie)
        image = held.filled if held else motion_image(movie.intensities, movie.units).numpy()
        flow = yield from relay(_along(choice, image, noisy), partial(share, 0.3, 0.1))
        frames = yield from relay(
            predict_frames(model, with_flow(seen, _as_kept(flow, model)), precision, wrong),
            partial(share, 0.4, 0.5),
        )
        if held is not None:
            flow, taken = yield from relay(choose_flow(held, frames), partial(share, 0.9, 0.1))
            prepared.choices[key] = taken
        elif choice.again:
            found = yield from relay(
                whole_flow(frames, predicted_method(method)), partial(share, 0.9, 0.1)
            )
            flow = choice.improved(found)
        prepared.movies[key] = replace(with_flow(movie, flow), wrong=wrong.count)
        _take_out(prepared.movies[key], wrong)


def _along(choice: RouteChoice, image: Image, method: PairMethod) -> Generator[float, None, Flow]:
    """The flow of a route, for a whole movie (T, Y, X)."""
    if choice.route == "still":
        return still_flow(len(image) - 1, *image.shape[1:])
    noisy = yield from relay(whole_flow(image, method), float)
    return route_flow(choice.route, noisy)


def _as_kept(flow: Flow, model: STBN) -> Flow:
    """The flow as a stream keeps it on disk, so that both predict the same.

    Bilinear alignment takes it so anyway.
    """
    if model.config.alignment == "bilinear" or not flow.to_next.flags.writeable:
        return flow
    return Flow(*(np.rint(d) for d in flow))


def _take_out(movie: PreparedMovie, wrong: WrongPixels) -> None:
    """Take the wrong pixels out of a movie, in place."""
    for t, (noisy, valid) in enumerate(zip(movie.intensities, movie.valid, strict=True)):
        if wrong.take_out(t, noisy, valid):
            for c, unit in enumerate(movie.units):
                movie.inputs[t, c] = unit.to_network(noisy[c])


def _as_recorded(
    prepared: PreparedStack, key: tuple[int, ...], movie: PreparedMovie
) -> PreparedMovie:
    """A movie as it was before wrong pixels were taken out, with the flow that it has."""
    if len(key) != 2:
        raise ValueError(f"parts of a movie are prepared once, got {key}")
    members = [(key[0] + c, key[1]) for c in range(len(movie.units))]
    filled, valid = read_filled(replace(prepared, notes=[]), members)
    noise, scalings = [u.noise for u in movie.units], [u.scaling for u in movie.units]
    flow = Flow(movie.flow_to_previous.numpy(), movie.flow_to_next.numpy())
    return prepare_movie(filled, valid, noise, scalings, flow)


def reestimate_flow(
    model: STBN, movie: PreparedMovie, method: FlowMethod, precision: Precision = "float32"
) -> Generator[float, None, float]:
    """Estimate flow anew on the prediction along the flow so far; keep what is better, in place.

    Parameters
    ----------
    model : STBN
    movie : PreparedMovie
        Its flow is overwritten where the new one explains noisy pixels better that were hidden from
        the prediction, pair by pair.
    method : str
        Of the flow between predicted frames.
    precision : {"float32", "bfloat16"}, default "float32"

    Yields
    ------
    float
        Part of the work that is done, 0 to 1.

    Returns
    -------
    float
        Part of the pairs whose flow was replaced.
    """
    held, hidden = hide_pixels(movie)
    frames = yield from relay(
        predict_frames(model, hidden, precision), partial(_share, 0, 1, 0.0, 0.8)
    )
    dense = dense_method(method)
    judge = held.asking(frames)
    flow = Flow(movie.flow_to_previous.numpy(), movie.flow_to_next.numpy())
    before = flow.to_next.copy()
    # The first prediction, along zero flow, loses what moves fast; noisy frames may show it better.
    sources = ((frames, predicted_method(dense), 0.0), (held.filled, dense, _SURE))
    for number, (source, by, sure) in enumerate(sources):
        found = yield from relay(
            whole_flow(source, by), partial(_share, 0, 1, 0.8 + 0.1 * number, 0.1)
        )
        keep_better(flow, found, judge, sure=sure)
    return float((flow.to_next != before).any((1, 2, 3)).mean())


def keep_better(flow: Flow, found: Flow, held: HeldOut, *, sure: float = 0.0) -> float:
    """Replace the flow of each pair, in place, where another explains hidden pixels better.

    Parameters
    ----------
    flow, found : Flow
        The one to change, and the other.
    held : HeldOut
        Asked for answers in the frames that both are judged by.
    sure : float
        Standard errors by which the other has to be better.

    Returns
    -------
    float
        Part of the pairs that was replaced.
    """
    gain = held.errors(flow).astype(np.float64) - held.errors(found)
    better = gain.sum((1, 2, 3)) > sure * np.sqrt(np.square(gain).sum((1, 2, 3)))
    for direction, new in zip(flow, found, strict=True):
        direction[better] = new[better]
    return float(better.mean())


def _share(number: int, count: int, before: float, part: float, done: float) -> float:
    """Part of the whole work when a part of one movie's work is done."""
    return (number + before + part * done) / count
