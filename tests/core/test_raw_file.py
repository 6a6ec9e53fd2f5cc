"""An array in a file is indexed as numpy would, and what goes wrong with the file is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_stbn import _raw_file
from napari_stbn._raw_file import RawFile

SHAPE = (4, 3, 5, 6)


def in_file(path: Path, array: npt.NDArray[Any], offset: int = 7) -> RawFile:
    path.write_bytes(b"#" * offset + array.tobytes())
    return RawFile(path, offset, array.shape, array.dtype)


def one_index(length: int) -> st.SearchStrategy[int | slice]:
    place = st.integers(-length - 1, length + 1) | st.none()
    step = st.integers(1, 3) | st.none()
    return st.integers(-length, length - 1) | st.builds(slice, place, place, step)


INDICES = st.tuples(*map(one_index, SHAPE))


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(INDICES, st.sampled_from([1, 50, 2**24]), st.sampled_from(["<u2", ">u2", "<f8", "i1"]))
def test_reads_and_writes_what_numpy_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: Any, span: int, dtype: str
) -> None:
    monkeypatch.setattr(_raw_file, "_SPAN_BYTES", span)
    truth = (np.arange(np.prod(SHAPE)) % 100).reshape(SHAPE).astype(dtype)
    raw = in_file(tmp_path / "a", truth)
    assert raw[index].shape == truth[index].shape
    np.testing.assert_array_equal(raw[index], truth[index])
    truth[index] = 101
    raw.write(index, truth[index])
    np.testing.assert_array_equal(np.asarray(raw), truth)
    assert (tmp_path / "a").read_bytes()[:7] == b"#" * 7


def test_few_numbers_mean_the_first_axes(tmp_path: Path) -> None:
    truth = np.arange(24).reshape(2, 3, 4)
    raw = in_file(tmp_path / "a", truth)
    np.testing.assert_array_equal(raw[1], truth[1])
    np.testing.assert_array_equal(raw[..., 1:3], truth[..., 1:3])
    assert raw.ndim == 3
    with pytest.raises(IndexError):
        raw[2]
    with pytest.raises(IndexError, match="forward"):
        raw[::-1]


def test_a_file_that_was_cut_off_or_is_gone_is_said(tmp_path: Path) -> None:
    """The process would be killed if the file were mapped into memory."""
    path = tmp_path / "a"
    raw = in_file(path, np.arange(1000))
    path.write_bytes(path.read_bytes()[:-10])
    np.testing.assert_array_equal(raw[:900], np.arange(900))
    with pytest.raises(ValueError, match=r"a ends before its pixels do.*copy it again|Copy"):
        raw[900:]
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no longer there"):
        raw[:10]
