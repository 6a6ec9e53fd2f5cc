"""Denoise a stack that is larger than the memory: piece by piece, into a file as it is made."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ._flow_routes import choose_route
from ._flow_scratch import FlowScratch
from ._generators import last, relay
from ._lazy import MovieView
from ._lazy_movie import LazyMovie
from ._motion_image import motion_image
from ._refinement import dense_method, fixed_route, noisy_method, predicted_method
from ._segments import denoise_segments, plan_segments
from ._stack_inference import Output, hand_out
from ._wrong_pixels import WrongPixels, wrong_pixels_note
from .devices import free_memory, size_in_words
from .flow import (
    ROUNDS,
    FlowMethod,
    FlowStream,
    PairMethod,
    RouteChoice,
    SteadyStream,
    choose_flow,
    pair_steps,
    steady_pairs,
)
from .flow.pwcnet import PWCNet
from .flow.student import brightness, normalise, student_pair
from .inference import PATCH_ORIGINS, DenoisedWindow, Shift
from .network import STBN
from .precision import Precision
from .preparation import Index, PreparedStack, movie_groups
from .prior import Units
from .stack import Stack

__all__ = [
    "Stream",
    "check_plan",
    "check_result",
    "denoise_stream",
    "exceeds",
    "memory_budget",
]

Image = NDArray[np.float32]
_FREE_SHARE = 0.6  # of what is free, where no limit is given
_BYTES_A_PIXEL = 50  # of a run in memory: prepared movie and flow, and the result
_GPU_SHARE = 0.6  # of what is free on a graphics card
_CACHE_SHARE = 8  # of the memory limit: one part in so many keeps frames that were read
_WORK_SHARE = 2  # and one in so many is the network's
_CHOSEN_BY = 8  # frames, where a stream has to choose how motion is estimated
# Parts of the work, roughly: finding defects; a first prediction; motion; denoising.
_SCAN, _FIRST, _FLOW, _DENOISE = 0.02, 0.35, 0.05, 0.6


def memory_budget(limit: float | None) -> int:
    """Bytes that a run may take: the limit [GB], or a part of what is free now."""
    if limit is not None:
        return int(limit * 1e9)
    return int(_FREE_SHARE * free_memory(torch.device("cpu")))


def exceeds(stack: Stack, memory: int) -> bool:
    """Whether a run on a stack in memory would take more than so many bytes."""
    return _BYTES_A_PIXEL * math.prod(stack.shape) > memory


def check_plan(model: STBN, stack: Stack, memory: int) -> None:
    """Raise `MemoryError` where a stack could not be denoised within so many bytes."""
    shape = (stack.n_frames, *stack.frame_shape)
    plan_segments(model, shape, _work_bytes(model, memory))


def check_result(stack: Stack, memory: int, uncertainty: bool) -> None:
    """Raise where a result would not fit into memory, though its stack can be read in pieces.

    Raises
    ------
    MemoryError
        With the way out.
    """
    need = math.prod(stack.shape) * (16 if uncertainty else 8)  # in movies, and put together
    if need > memory:
        raise MemoryError(
            f"the result takes about {size_in_words(need)}, the limit is {size_in_words(memory)}; "
            "write it to a file as it is made: Denoiser.denoise_to(stack, path), or "
            '"napari-stbn denoise" with -o NAME.zarr'
        )


def _work_bytes(model: STBN, memory: int) -> int:
    """Bytes that the network may take to denoise."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        return int(_GPU_SHARE * free_memory(device))
    return memory // _WORK_SHARE


@dataclass(frozen=True)
class Stream:
    """What denoising in a stream needs to know.

    Attributes
    ----------
    model : STBN
        Fitted, on the device to use.
    known : PreparedStack
        The stack, and noise and scaling of every channel.
    joint : bool
        Channels are denoised together.
    flow : str
        Method of `napari_stbn.flow.estimate_flow`.
    refined : bool
        Motion is estimated on predicted frames.
    precision : {"float32", "bfloat16"}
    memory : int [bytes]
        That may be taken on the side of the processor.
    scratch : Path
        Folder for the flow.
    turns : int
        Quarter turns of the movie that its result is averaged over.
    student : PWCNet or None
        That corrects the flow between noisy frames; then motion is not refined.
    routes : dict of str to RouteChoice
        As in `napari_stbn._flow_routes.choose_route`.
    flow_model : STBN or None
        Whose prediction motion is found on, if not the model's own.
    """

    model: STBN
    known: PreparedStack
    joint: bool
    flow: FlowMethod
    refined: bool
    precision: Precision
    memory: int
    scratch: Path
    turns: int = 1
    student: PWCNet | None = None
    routes: dict[str, RouteChoice] = field(default_factory=dict)
    flow_model: STBN | None = None

    def flow_scratch(self, movie: LazyMovie) -> FlowScratch:
        """Room on disk for the flow of a movie."""
        return FlowScratch(self.scratch, movie.shape[1:], self.model.config.alignment)


def denoise_stream(stream: Stream, output: Output) -> Generator[float, None, list[str]]:
    """Denoise every movie of a stack, reading and handing out a few frames at a time.

    Parameters
    ----------
    stream : Stream
    output : Output

    Yields
    ------
    float
        Part of the work that is done, 0 to 1.

    Returns
    -------
    list of str
        Sentences about defects.

    Raises
    ------
    ValueError
        If a movie cannot be denoised.
    MemoryError
        If even a few frames would not fit.
    """
    notes: list[str] = []
    wrong = pixels = 0
    known = stream.known
    groups = movie_groups(known.stack, stream.joint)
    with ExitStack() as flows:
        found: dict[Index, FlowScratch] = {}
        for number, (key, members) in enumerate(groups.items()):
            views = [MovieView(known.stack, channel, plane) for channel, plane in members]
            units = [Units(known.noise[c], known.scaling[c]) for c, _ in members]
            filters = [known.correlation.get(c) for c, _ in members]
            movie = LazyMovie(views, units, stream.memory // _CACHE_SHARE, filters)
            leader = known.stack.leader(key[0]), key[1]
            follows = leader in found
            if not follows:
                found[leader] = flows.enter_context(stream.flow_scratch(movie))
            yield from relay(
                _denoise_movie(stream, key, movie, output, found[leader], follows=follows),
                partial(_share, number, len(groups)),
            )
            if all(known.stack.leader(c) == c for c, _ in groups):
                found.pop(leader).close()  # no other movie goes along it
            notes += movie.notes
            wrong, pixels = wrong + movie.wrong, pixels + math.prod(movie.shape) * len(views)
    note = wrong_pixels_note(wrong, pixels)
    return [*notes, note] if note else notes


def _share(number: int, count: int, done: float) -> float:
    """Part of the whole work when a part of one movie's is done."""
    return (number + done) / count


def _denoise_movie(
    stream: Stream,
    key: Index,
    movie: LazyMovie,
    output: Output,
    flow: FlowScratch,
    *,
    follows: bool,
) -> Generator[float, None, None]:
    """Scan, estimate motion, denoise; yields the part that is done.

    The flow goes where it is kept, or is there already where this movie follows another one.
    """
    first = _FIRST if stream.refined else 0.0
    parts = np.cumsum([0.0, _SCAN, first + _FLOW, _DENOISE])
    parts /= parts[-1]

    def share(part: int, done: float) -> float:
        return float(parts[part] + (parts[part + 1] - parts[part]) * done)

    yield from relay(movie.scan(), partial(share, 0))
    method = "none" if follows else _method(stream, movie)
    if not follows and (method != "none" or stream.refined):
        yield from relay(_find_flow(stream, key, movie, flow, method), partial(share, 1))
    if method != "none" or (follows and len(flow)):
        movie.follow(flow)
    if follows and stream.refined:
        yield from relay(_find_wrong(stream, movie), partial(share, 1))
    for piece in _windows(stream, movie, PATCH_ORIGINS, stream.turns):
        if isinstance(piece, DenoisedWindow):
            hand_out(stream.known, key, movie, piece, output)
        else:
            yield share(2, piece)


def _method(stream: Stream, movie: LazyMovie) -> PairMethod:
    """Method of the flow; where it is to be chosen, by some frames from the middle."""
    if stream.flow != "auto":
        return stream.flow
    frames = movie.shape[0]
    first = max(0, (frames - _CHOSEN_BY) // 2)
    some = np.stack([movie.total(t) for t in range(first, min(frames, first + _CHOSEN_BY))])
    _, choice = last(choose_flow(some))
    movie.notes.append(choice.sentence)
    return choice.method


def _find_flow(
    stream: Stream, key: Index, movie: LazyMovie, flow: FlowScratch, method: PairMethod
) -> Generator[float, None, None]:
    """Flow of every pair of neighbours, between the frames or predictions; wrong pixels go."""
    if stream.student is not None:
        yield from _student_flow(stream.student, movie, flow, dense_method(stream.flow))
        return
    if not stream.refined:
        yield from _noisy_flow(movie, flow, method)
        return
    noisy, dense = noisy_method(stream.flow), predicted_method(dense_method(stream.flow))
    first_model = stream.flow_model or stream.model
    choice = fixed_route(stream.flow)
    if choice is None:
        choice = yield from relay(
            choose_route(first_model, [movie], noisy, dense, stream.precision, stream.routes),
            partial(_share, 0, 3),
        )
        stream.known.routes[key] = choice
    rounds = ROUNDS if choice.route == "steady" else 0
    wrong = WrongPixels(movie.filters)
    with stream.flow_scratch(movie) as first:
        if choice.route != "still":
            yield from relay(_noisy_flow(movie, first, noisy, rounds), partial(_share, 1, 3))
            movie.follow(first)
        pairs, steady = FlowStream(predicted_method(method)), SteadyStream()

        def keep(found: Iterable[tuple[Image, Image]]) -> None:
            for pair in found:
                for mean in steady.add(pair) if rounds else (pair,):
                    flow.append(*mean)

        for piece in _windows(replace(stream, model=first_model), movie, PATCH_ORIGINS[:1]):
            if not isinstance(piece, DenoisedWindow):
                yield _share(2, 3, piece)
                continue
            wrong.add(piece, movie.intensities[piece.start : piece.start + len(piece.mean)])
            for frame in motion_image(piece.prior, movie.units).numpy() if choice.again else ():
                keep(pairs.add(frame))
                yield _share(2, 3, piece.fraction)
        keep(pairs.finish())
        for mean in steady.finish():
            flow.append(*mean)
        if not choice.again:
            for pair in range(len(first)):
                flow.append(*(first.read(pair, way).numpy() for way in (0, 1)))
    _take_out(movie, wrong)


def _find_wrong(stream: Stream, movie: LazyMovie) -> Generator[float, None, None]:
    """Find wrong pixels by a first prediction along the flow that is there, and take them out."""
    wrong = WrongPixels(movie.filters)
    first = replace(stream, model=stream.flow_model or stream.model)
    for piece in _windows(first, movie, PATCH_ORIGINS[:1]):
        if isinstance(piece, DenoisedWindow):
            wrong.add(piece, movie.intensities[piece.start : piece.start + len(piece.mean)])
        else:
            yield piece
    _take_out(movie, wrong)


def _take_out(movie: LazyMovie, wrong: WrongPixels) -> None:
    """Take wrong pixels out of what is read from now on."""
    if wrong.count:
        movie.take_out(wrong)


def _noisy_flow(
    movie: LazyMovie, flow: FlowScratch, method: PairMethod, rounds: int = 0
) -> Generator[float, None, None]:
    """Flow of every pair of neighbours, between noisy frames; a mean over time where asked for."""
    frames = movie.shape[0]
    noisy = (movie.total(t) for t in range(frames))
    for pair in steady_pairs(pair_steps(noisy, method), rounds):
        flow.append(*pair)
        yield len(flow) / (frames - 1)


def _student_flow(
    student: PWCNet, movie: LazyMovie, flow: FlowScratch, method: PairMethod
) -> Generator[float, None, None]:
    """Flow of every pair of neighbours, between noisy frames, corrected by a student."""
    frames = movie.shape[0]
    scale = brightness(movie.total, frames)
    student.eval()
    given = pair_steps((movie.total(t) for t in range(frames)), method)
    for t, known in enumerate(given):
        pair = np.stack([movie.total(t), movie.total(t + 1)])
        flow.append(*student_pair(student, normalise(pair, scale), known))
        yield (t + 1) / (frames - 1)


def _windows(
    stream: Stream, movie: LazyMovie, origins: Sequence[Shift], turns: int = 1
) -> Generator[DenoisedWindow | float, None, None]:
    """Denoise a movie with what memory there is."""
    budget = _work_bytes(stream.model, stream.memory)
    segments = plan_segments(stream.model, movie.shape, budget, stream.precision)
    return denoise_segments(
        stream.model, movie, segments, precision=stream.precision, origins=origins, turns=turns
    )
