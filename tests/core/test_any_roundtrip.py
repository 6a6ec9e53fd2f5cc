"""Whatever a stack is, each format gives back all of it that it can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_stbn.io import check_writable, read, stream_to, write
from napari_stbn.stack import Stack

TYPES = [
    *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64"),
]
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)


@st.composite
def stacks(draw: st.DrawFn) -> Stack:
    """A small stack of any axes, type, byte order, memory order, scale and names."""
    more = draw(st.sets(st.sampled_from("CZ")))
    axes = "".join(draw(st.permutations(["T", "Y", "X", *sorted(more)])))
    axes += "S" if draw(st.booleans()) else ""
    # At least 2 along each axis: TIFF leaves out axes of length 1.
    shape = [3 if axis == "S" else draw(st.integers(2, 5)) for axis in axes]
    dtype = np.dtype(draw(st.sampled_from(TYPES))).newbyteorder(draw(st.sampled_from("<>")))
    values = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    sizes = draw(st.sets(st.sampled_from("ZYX")).filter(lambda s: ("Y" in s) == ("X" in s)))
    size = st.floats(1e-3, 50)
    return Stack(
        np.asfortranarray(values) if draw(st.booleans()) else values,
        axes,
        pixel_size={axis: draw(size) for axis in sorted(sizes)},
        unit=draw(st.sampled_from(["µm", "nm", "pixel"])),
        frame_interval=draw(st.none() | st.floats(1e-4, 1e5)),
        channel_names=draw(st.just(()) | st.tuples(*[WORDS] * shape[axes.index("C")]))
        if "C" in axes
        else (),
    )


@settings(deadline=None, max_examples=50)
@given(
    stack=stacks(),
    ending=st.sampled_from([".tif", ".ome.tif", ".btf", ".zarr", ".npy"]),
    in_pieces=st.booleans(),
)
def test_all_that_a_format_holds_comes_back(
    tmp_path_factory: pytest.TempPathFactory, stack: Stack, ending: str, in_pieces: bool
) -> None:
    path = tmp_path_factory.mktemp("any") / f"a{ending}"
    if (said := refusal(path, stack)) is not None:
        with pytest.raises(ValueError, match=r"cannot hold|one channel axis") as error:
            write(path, stack)
        assert str(error.value) == said
        return
    if in_pieces:
        with stream_to(path, stack) as put:
            for channel, plane in stack.indices():
                for start in (1, 0):
                    frames = slice(start, None if start else 1)
                    put(channel, plane, start, stack.movie(channel, plane, frames=frames))
    else:
        write(path, stack)
    back = read(path, axes=stack.axes if ending == ".npy" else None)
    assert back.dtype == stack.dtype
    assert back.guess == ""
    assert back.indices() == stack.indices()
    for index in stack.indices():
        np.testing.assert_array_equal(back.movie(*index), stack.movie(*index), strict=True)
    if ending != ".npy":
        holds(back, stack, imagej=ending in (".tif", ".btf") and not said_by_ome(path))


def refusal(path: Path, stack: Stack) -> str | None:
    """What is said before the work where a format cannot hold a stack."""
    try:
        check_writable(path, dtype=stack.dtype, axes=stack.axes)
    except ValueError as error:
        return str(error)
    return None


def said_by_ome(path: Path) -> bool:
    """Whether a TIFF file was written as OME-TIFF."""
    return b"<OME" in path.read_bytes()


def holds(back: Stack, stack: Stack, *, imagej: bool) -> None:
    """Scale and names are those of the stack, as far as the format has a place for them."""
    expected: dict[str, Any] = dict(stack.pixel_size)
    if imagej and (stack.unit == "pixel" or "X" not in expected):
        expected = {}  # ImageJ says "pixel" of images without a scale, and has no Z without X
    assert back.pixel_size == pytest.approx(expected, rel=1e-6)
    assert not expected or back.unit == stack.unit
    interval = stack.frame_interval
    assert back.frame_interval == (None if interval is None else pytest.approx(interval, rel=1e-6))
    assert back.channel_names == stack.channel_names
