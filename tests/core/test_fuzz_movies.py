"""Any array and any axes: a movie of the right shape, or one sentence; never a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import NUMBERS, OTHERS, REFUSALS, cases, is_a_sentence, pixels
from hypothesis import given
from hypothesis import strategies as st

from napari_stbn import Denoiser, Stack, STBNConfig, TrainingConfig, read, write
from napari_stbn._generators import last
from napari_stbn.preparation import prepare_stack
from napari_stbn.stack import inspect_movie, validate_movie

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
ONE_STEP = TrainingConfig(max_steps=1, clip_frames=2, clip_size=8, batch=1, checks=2)
AXES = st.none() | st.text("TCZYXSQ", max_size=6) | st.permutations("TCZYX").map("".join)


@st.composite
def anything(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Arrays of any number of dimensions, empty ones too, and of any type."""
    shape = tuple(draw(st.lists(st.integers(0, 12), max_size=6)))
    return draw(pixels(shape, draw(st.sampled_from(NUMBERS + OTHERS))))


@st.composite
def movies(draw: st.DrawFn, *, largest: int = 14) -> Stack:
    """Stacks that have time and space: most can be denoised."""
    axes = draw(
        st.sampled_from(["TYX", "TYX", "TYX", "TCYX", "ZTYX", "YXT", "CTYX", "TYXS", "TZCYX"])
    )
    small = st.integers(1, 2)
    size = {
        "T": draw(st.sampled_from([0, 1, 2, 2, 3, 4, 5])),
        "Y": draw(st.integers(7, largest)),
        "X": draw(st.integers(7, largest)),
        "C": draw(small),
        "Z": draw(small),
        "S": 3,
    }
    shape = tuple(size[axis] for axis in axes)
    return Stack(draw(pixels(shape, draw(st.sampled_from(NUMBERS)))), axes)


def kept(stack: Stack) -> bytes:
    """The pixels of a stack as bytes, to see that nobody writes to them."""
    return np.asarray(stack.array).tobytes()


@cases(700)
@given(anything(), AXES)
def test_any_array_is_a_stack_of_movies_or_a_sentence(
    array: np.ndarray[Any, Any], axes: str | None
) -> None:
    try:
        stack = Stack(array, axes)
        stack.check()
    except ValueError as error:
        is_a_sentence(error)
        return
    assert stack.shape == array.shape
    movie_shape = (stack.n_frames, *stack.frame_shape)
    every = {index: stack.movie(*index) for index in stack.indices()}
    for movie in every.values():
        assert movie.shape == movie_shape
        assert movie.dtype.isnative
        assert movie.flags.owndata
    np.testing.assert_array_equal(stack.assemble(every), array)


@cases(400)
@given(movies())
def test_any_movie_is_prepared_or_a_sentence(stack: Stack) -> None:
    before = kept(stack)
    try:
        prepared = last(
            prepare_stack(
                stack, joint=False, noise="estimate", flow="none", known_noise={}, known_scaling={}
            )
        )
    except ValueError as error:
        is_a_sentence(error)
        return
    finally:
        assert kept(stack) == before
    for movie in prepared.movies.values():
        assert movie.shape == (stack.n_frames, *stack.frame_shape)
        assert bool(movie.inputs.isfinite().all()), "the network takes finite numbers"
        assert bool(movie.intensities.isfinite().all())
    for note in prepared.notes:
        assert note.endswith(".")


@cases(250)
@given(movies(largest=20))
def test_defects_are_said_or_refused(stack: Stack) -> None:
    for index in stack.indices():
        try:
            movie = stack.movie(*index)
            validate_movie(movie)
        except ValueError as error:
            is_a_sentence(error)
            continue
        for sentence in inspect_movie(movie).sentences():
            assert sentence.endswith(".")


@cases(220)
@given(
    movies(),
    st.sampled_from(["dis", "none", "translation"]),
    st.sampled_from(["estimate", "gaussian", None]),
    st.sampled_from(["separate", "joint", "auto"]),
)
def test_any_movie_is_denoised_or_a_sentence(
    stack: Stack, flow: Any, noise: Any, channels: Any
) -> None:
    before = kept(stack)
    denoiser = Denoiser(
        "preview",
        device="cpu",
        network=TINY,
        flow=flow,
        noise=noise,
        channels=channels,
        start="fresh",
        precision="float32",
    )
    try:
        result = denoiser.fit(stack, training=ONE_STEP).denoise(stack)
    except (ValueError, FloatingPointError) as error:
        is_a_sentence(error)
        return
    finally:
        assert kept(stack) == before
    assert result.denoised.shape == stack.shape
    assert result.denoised.dtype == np.float32
    blank = any(inspect_movie(stack.movie(*index)).constant_frames for index in stack.indices())
    if not blank:
        assert np.isfinite(result.denoised).all()
    if result.uncertainty is not None:
        assert result.uncertainty.shape == stack.shape
        if not blank:
            assert (result.uncertainty >= 0).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters='/\\:*?"<>|', exclude_categories=["Cc", "Cs"]),
    min_size=1,
    max_size=20,
)


@cases(200)
@given(
    stack=movies(),
    name=NAMES,
    ending=st.sampled_from([".tif", ".ome.tif", ".ome.zarr", ".npy"]),
    size=st.none() | st.floats(1e-3, 1e3),
    interval=st.none() | st.floats(1e-3, 1e5),
)
def test_what_is_written_is_read_again(
    folder: Path, stack: Stack, name: str, ending: str, size: float | None, interval: float | None
) -> None:
    stack = Stack(stack.array, stack.axes, pixel_size=size, frame_interval=interval, name=name)
    path = folder / f"{name}{ending}"
    try:
        write(path, stack, overwrite=True)
    except REFUSALS as error:
        is_a_sentence(error)
        return
    again = read(path, axes=stack.axes if ending == ".npy" else None)
    sizes = dict(zip(stack.axes, stack.shape, strict=True))
    long = {axis: length for axis, length in sizes.items() if length > 1}
    if ending == ".ome.zarr":
        long = {"C" if axis == "S" else axis: length for axis, length in long.items()}
    if stack.n_frames == 1 and "Z was taken for time" in again.guess:  # a z-stack, and it is said
        long["T"] = long.pop("Z")
    assert {a: n for a, n in zip(again.axes, again.shape, strict=True) if n > 1} == long
    if stack.n_frames > 1:
        for index in stack.indices():
            np.testing.assert_array_equal(again.movie(*index), stack.movie(*index))
    if ending in (".ome.tif", ".ome.zarr") and size is not None and size != 1:
        assert again.pixel_size["X"] == pytest.approx(size, rel=1e-3)
