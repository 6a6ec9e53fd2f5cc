"""Stack: axes, movies and back, intensities, defects and the sentences of each."""

from __future__ import annotations

import pickle
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_stbn.stack import (
    Stack,
)

DTYPES = ("uint8", "uint16", "int16", "int32", "float32", "float64")


@st.composite
def layouts(draw: st.DrawFn) -> tuple[str, tuple[int, ...]]:
    """Axes in any order with Y, X and T, and a small shape for them."""
    extra = draw(st.sets(st.sampled_from("CZS")))
    axes = draw(st.permutations(["T", "Y", "X", *sorted(extra)]))
    lengths = {"T": (2, 4), "C": (1, 3), "Z": (1, 3), "S": (1, 4), "Y": (1, 6), "X": (1, 6)}
    shape = tuple(draw(st.integers(*lengths[axis])) for axis in axes)
    return "".join(axes), shape


def numbered(shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Array whose values all differ as far as `dtype` allows."""
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)


@settings(deadline=None)
@given(
    layout=layouts(),
    dtype=st.sampled_from(DTYPES),
    order=st.sampled_from(["<", ">"]),
    form=st.sampled_from(["plain", "read-only", "strided", "reversed", "fortran"]),
)
def test_movies_put_together_again_are_the_stack(
    layout: tuple[str, tuple[int, ...]], dtype: str, order: Literal["<", ">"], form: str
) -> None:
    axes, shape = layout
    truth = numbered(shape, dtype)
    array = truth.astype(np.dtype(dtype).newbyteorder(order))
    if form == "read-only":
        array.flags.writeable = False
    elif form == "strided":
        wide = np.zeros((*shape[:-1], shape[-1] * 2), array.dtype)
        wide[..., ::2] = array
        array = wide[..., ::2]
    elif form == "reversed":
        array = np.flip(np.flip(array).copy())
    elif form == "fortran":
        array = np.asfortranarray(array)
    stack = Stack(array, axes)
    movies = {index: stack.movie(*index) for index in stack.indices()}
    for (channel, plane), movie in movies.items():
        assert movie.shape == (stack.n_frames, *stack.frame_shape)
        assert movie.dtype == np.dtype(dtype)
        assert movie.dtype.isnative
        assert movie.flags.c_contiguous
        colour, sample = divmod(channel, stack.size("S"))
        at = {"C": colour, "S": sample, "Z": plane}
        here = truth[tuple(at.get(axis, slice(None)) for axis in axes)]
        kept = [axis for axis in axes if axis in "TYX"]
        np.testing.assert_array_equal(movie, here.transpose([kept.index(a) for a in "TYX"]))
    whole = stack.assemble(movies)
    assert whole.dtype == np.dtype(dtype)
    assert whole.dtype.isnative
    np.testing.assert_array_equal(whole, truth)
    for movie in movies.values():
        movie[...] = 0  # a movie is the caller's own
    np.testing.assert_array_equal(array, truth)
    np.testing.assert_array_equal(stack.assemble(movies), np.zeros(shape))


def test_part_of_a_movie_can_be_read() -> None:
    stack = Stack(numbered((2, 9, 8, 8), "uint16"), "CTYX")
    np.testing.assert_array_equal(
        stack.movie(1, frames=slice(2, 8, 3)), stack.movie(1)[2:8:3], strict=True
    )


def test_assembled_integers_are_rounded_and_clipped() -> None:
    stack = Stack(np.zeros((2, 1, 2), np.uint8), "TYX")
    movie = np.array([[[-3.0, 254.6]], [[1.4, 1e9]]])
    np.testing.assert_array_equal(
        stack.assemble({(0, 0): movie}, np.uint8),
        np.array([[[0, 255]], [[1, 255]]], np.uint8),
        strict=True,
    )


def test_assemble_wants_every_movie_in_its_shape() -> None:
    stack = Stack(np.zeros((2, 3, 8, 9), np.uint8), "CTYX")
    movie = stack.movie()
    with pytest.raises(ValueError, match=r"missing \[\(1, 0\)\], unknown \[\(2, 0\)\]"):
        stack.assemble({(0, 0): movie, (2, 0): movie})
    with pytest.raises(ValueError, match=r"must have shape \(3, 8, 9\), got \(3, 9, 8\)"):
        stack.assemble({(0, 0): movie, (1, 0): movie.transpose(0, 2, 1)})
    with pytest.raises(IndexError, match="channel must be from 0 to 1, got 2"):
        stack.movie(2)
    with pytest.raises(IndexError, match="plane must be from 0 to 0, got -1"):
        stack.movie(0, -1)


def test_colour_samples_are_channels() -> None:
    rgb = numbered((5, 16, 17, 3), "uint8")
    stack = Stack(rgb)
    assert stack.axes == "TYXS"
    assert stack.n_channels == 3
    np.testing.assert_array_equal(stack.movie(2), rgb[..., 2])


class Watched:
    """An array that counts how much of it is read, as a lazy one would have to compute."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, 0

    def __getitem__(self, index: Any, /) -> npt.NDArray[Any]:
        part: npt.NDArray[Any] = self.array[index]
        self.read += part.size
        return part


def test_only_the_movie_asked_for_is_read() -> None:
    array = Watched(numbered((3, 4, 2, 8, 8), "uint16"))
    stack = Stack(array, "CTZYX")
    _ = (stack.n_frames, stack.nbytes, stack.indices(), repr(stack), stack.like(array))
    stack.check()
    assert array.read == 0
    np.testing.assert_array_equal(stack.movie(2, 1), array.array[2, :, 1])
    assert array.read == 4 * 8 * 8


def test_dask_arrays_stay_lazy() -> None:
    dask_array = pytest.importorskip("dask.array")
    truth = numbered((3, 4, 9, 8), "uint16")
    computed = []

    def load(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        computed.append(block.shape)
        return block

    lazy = dask_array.from_array(truth, chunks=(1, 2, 9, 8)).map_blocks(
        load, dtype=truth.dtype, meta=np.empty((0,) * 4, truth.dtype)
    )
    stack = Stack(lazy, "CTYX")
    assert computed == []
    np.testing.assert_array_equal(stack.movie(1), truth[1], strict=True)
    assert len(computed) == 2
    np.testing.assert_array_equal(
        stack.assemble({i: stack.movie(*i) for i in stack.indices()}), truth
    )


def test_zarr_arrays_are_read_where_asked() -> None:
    import zarr

    truth = numbered((4, 3, 9, 8), ">u2")
    array = zarr.create_array({}, shape=truth.shape, chunks=(2, 1, 9, 8), dtype="uint16")
    array[...] = truth
    np.testing.assert_array_equal(Stack(array, "TCYX").movie(2), truth[:, 2])


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ("TYQ", "different letters out of T, C, Z, Y, X and S"),
        ("TYY", "different letters"),
        ("TCZ", "must contain Y and X"),
        ("TCYX", "each of the 3 dimensions"),
        ("YX", "each of the 3 dimensions"),
    ],
)
def test_axes_that_do_not_fit_are_refused(axes: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Stack(np.zeros((2, 8, 8)), axes)


@pytest.mark.parametrize(
    ("shape", "axes"), [((8, 8), None), ((5, 8, 8), "ZYX"), ((5, 8, 8), "CYX"), ((1, 8, 8), "TYX")]
)
def test_one_frame_gets_its_sentence(shape: tuple[int, ...], axes: str | None) -> None:
    stack = Stack(np.zeros(shape, np.uint8), axes)
    sentence = (
        "This layer has 1 frame; denoising a movie needs at least 2. "
        'Is T the first axis? Set "axes".'
    )
    for ask in (stack.movie, stack.check):
        with pytest.raises(ValueError) as error:  # noqa: PT011 - compared whole below
            ask()
        assert str(error.value) == sentence


def test_the_name_begins_the_sentence() -> None:
    with pytest.raises(ValueError, match=r'^"cells" has 1 frame'):
        Stack(np.zeros((8, 8)), name="cells").movie()


@pytest.mark.parametrize(
    ("given_size", "unit", "expected", "kept_unit"),
    [
        (0.1, "µm", {"Y": 0.1, "X": 0.1}, "µm"),
        ((0.2, 0.1), "\u03bcm", {"Y": 0.2, "X": 0.1}, "µm"),
        ((300, 200, 100), "nm", {"Z": 0.3, "Y": 0.2, "X": 0.1}, "µm"),
        ({"x": 1e-4}, "mm", {"X": 0.1}, "µm"),
        (2.0, "pixel", {"Y": 2.0, "X": 2.0}, "pixel"),
        (None, "µm", {}, "µm"),
    ],
)
def test_pixel_size_in_any_form(
    given_size: Any, unit: str, expected: dict[str, float], kept_unit: str
) -> None:
    stack = Stack(np.zeros((2, 3, 8, 8)), "TZYX", pixel_size=given_size, unit=unit)
    assert stack.pixel_size == pytest.approx(expected)
    assert stack.unit == kept_unit


def test_pixel_size_along_an_axis_that_is_not_there_is_left_out() -> None:
    assert Stack(np.zeros((2, 8, 8)), "TYX", pixel_size=(3, 2, 1)).pixel_size == {"Y": 2, "X": 1}


@pytest.mark.parametrize("wrong", [0, -1, np.nan, (1, 2, 3, 4), {"T": 1}])
def test_wrong_scale_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="pixel_size must be"):
        Stack(np.zeros((2, 8, 8)), pixel_size=wrong)
    with pytest.raises(ValueError, match="frame_interval must be a positive time"):
        Stack(np.zeros((2, 8, 8)), frame_interval=0)


def test_like_keeps_axes_and_scale_and_a_stack_pickles() -> None:
    stack = Stack(
        np.zeros((2, 3, 8, 8), np.uint16), "CTYX", pixel_size=0.1, frame_interval=2, name="cells"
    )
    for other in (stack.like(np.ones((2, 3, 8, 8), np.float32)), pickle.loads(pickle.dumps(stack))):  # noqa: S301
        assert (other.axes, other.pixel_size, other.frame_interval, other.name) == (
            "CTYX",
            {"Y": 0.1, "X": 0.1},
            2.0,
            "cells",
        )
    assert stack.like(np.ones((2, 3, 8, 8)), name="clean").name == "clean"
    assert repr(stack) == "<Stack 'cells' CTYX (2, 3, 8, 8) uint16, YX 0.1 x 0.1 µm, 2 s per frame>"


@pytest.mark.parametrize("dtype", ["uint16", "float32", "int32"])
def test_masked_pixels_count_as_not_recorded(dtype: str) -> None:
    data = np.ma.masked_array(numbered((3, 9, 8), dtype), mask=False)
    assert Stack(data, "TYX").dtype == dtype
    data[1, 2:4, 5] = np.ma.masked
    stack = Stack(data, "TYX")
    movie = stack.movie()
    np.testing.assert_array_equal(np.isnan(movie), data.mask)
    np.testing.assert_array_equal(movie[~data.mask], data.data[~data.mask])
    assert not np.isnan(data.data.astype(float)).any()


def test_tensors_are_seen_through_numpy() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(3.0 * 72).reshape(3, 9, 8)
    assert Stack(tensor, "TYX").dtype == np.float32
    np.testing.assert_array_equal(Stack(tensor, "TYX").movie(), tensor.numpy())
    with pytest.raises(ValueError, match=r"got a torch\.Tensor that .* Convert it"):
        Stack(tensor.to(torch.bfloat16), "TYX")
