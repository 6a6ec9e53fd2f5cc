"""What the fuzz suite shares: how many cases, what is allowed to happen, how a file is damaged."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# NAPARI_STBN_FUZZ=20 runs twenty times as many cases, new ones each time; =1 as many, but new ones.
NEW = "NAPARI_STBN_FUZZ" in os.environ
TIMES = int(os.environ.get("NAPARI_STBN_FUZZ", "1"))
REFUSALS = (ValueError, OSError, MemoryError)


def cases(count: int) -> settings:
    """Settings of a test of so many cases; the same ones each time, unless more are asked for."""
    return settings(
        max_examples=count * TIMES,
        derandomize=not NEW,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        report_multiple_bugs=False,
    )


def is_a_sentence(error: BaseException) -> None:
    """A person reads one line that says something, and no trace of a library."""
    said = str(error)
    assert " " in said.strip(), f"{type(error).__name__} says {said!r}"
    assert len(said) < 1500, said
    assert "Traceback" not in said
    assert "\n" not in said.strip(), said


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "float32", "cuda:99", "a" * 300]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """Plain values of which one part, at any depth, is missing, added or something else."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value, key=str)))
        rest = {name: part for name, part in value.items() if name != key}
        if draw(st.integers(0, 9)) == 0:
            return rest
        return {**rest, key: draw(changed(value[key]))}
    if isinstance(value, list) and value and draw(st.booleans()):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], draw(changed(value[place])), *value[place + 1 :]]
    return draw(JSON)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes of a file as crashes, cut copies and bad disks leave them."""
    how = draw(st.sampled_from(["cut", "flip", "zero", "swap", "insert", "tail", "repeat"]))
    size = len(content)
    # Headers are where a reader can be led astray: half of the damage is done there.
    where = draw(st.integers(0, min(size, 600)) | st.integers(0, size))
    if how == "cut":
        return content[:where]
    if how == "tail":
        return content + draw(st.binary(max_size=40))
    if how == "insert":
        return content[:where] + draw(st.binary(min_size=1, max_size=9)) + content[where:]
    if how == "repeat":
        return content[:where] + content[max(0, where - 16) :]
    changed_content = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        at = min(size - 1, max(0, where + draw(st.integers(-8, 8))))
        if how == "flip":
            changed_content[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "zero":
            changed_content[at : at + 4] = bytes(len(changed_content[at : at + 4]))
        else:
            changed_content[at] = draw(st.sampled_from([0, 1, 127, 128, 255]))
    return bytes(changed_content)


NUMBERS = ["u1", "<u2", ">u2", "<i2", ">i4", "<u4", "<i8", "<f2", "<f4", ">f4", "<f8", ">f8"]
OTHERS = ["?", "<c8", ">c16", "S3", "<U2", "<M8[s]", "<m8[ms]", "V4", "O"]


@st.composite
def pixels(draw: st.DrawFn, shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    """Values of a movie: noise, one value, saturated, huge, tiny, not finite, with strides."""
    kind = np.dtype(dtype)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    wide = tuple(2 * n for n in shape) if draw(st.integers(0, 4)) == 0 else shape
    if kind.kind not in "iuf":
        if kind.kind == "O":
            return np.full(shape, None, object)
        return np.zeros(shape, kind)
    texture = random.poisson(draw(st.sampled_from([0.1, 5.0, 100.0])), wide).astype(np.float64)
    look = draw(
        st.sampled_from(
            ["noise", "noise", "noise", "constant", "saturated", "huge", "tiny", "negative", "gaps"]
        )
    )
    values = texture
    if look == "constant":
        values = np.full(wide, draw(st.sampled_from([0.0, 1.0, 77.0])))
    elif look == "saturated":
        values = np.where(texture > texture.mean() if texture.size else False, 255.0, texture)
    elif look == "huge":
        values = texture * (1e30 if kind.kind == "f" and kind.itemsize > 2 else 1e4)
    elif look == "tiny":
        values = texture * 1e-30
    elif look == "negative":
        values = -texture
    if kind.kind == "f":
        if look == "gaps":
            bad = random.random(wide) < draw(st.sampled_from([0.01, 0.5, 0.98, 1.0]))
            values = np.where(bad, draw(st.sampled_from([np.nan, np.inf, -np.inf])), values)
        with np.errstate(over="ignore"):
            array = values.astype(kind)
    else:
        limits = np.iinfo(kind)
        array = np.clip(values, float(limits.min), float(limits.max) / 2).astype(kind)
    if wide != shape:
        array = array[tuple(slice(None, None, 2) for _ in shape)]
    if shape and draw(st.integers(0, 4)) == 0:
        array = array[::-1]
    if draw(st.integers(0, 4)) == 0:
        array = np.asfortranarray(array)
    return array
