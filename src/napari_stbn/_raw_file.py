"""An uncompressed array inside a file, read and written piece by piece.

Not mapped into memory: where a mapped file is cut off, or its drive goes or is full, the process is
killed; here that is an error like any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pathlib import Path

_SPAN_BYTES: Final = 2**24  # read at once, also where not all of it was asked for


@dataclass(frozen=True, eq=False)
class RawFile:
    """An array in C order that begins `offset` bytes into a file.

    Indexed with whole numbers and slices of positive step, as numpy would. The file is opened for
    each access and closed again.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, index: Any, /) -> npt.NDArray[Any]:
        """Read a part.

        Raises
        ------
        FileNotFoundError
            The file is gone.
        ValueError
            The file ends before this part does.
        """
        picks, dropped = _picks(index, self.shape)
        out = np.empty([len(pick) for pick in picks], self.dtype)
        if out.size:
            with self._open("rb") as file:
                self._read(file, 0, self.offset, picks, out)
        return out.reshape([len(p) for p, drop in zip(picks, dropped, strict=True) if not drop])

    def write(self, index: Any, values: npt.NDArray[Any]) -> None:
        """Write a part; the file is already there in its full size.

        Parameters
        ----------
        index : tuple of int and slice
        values : ndarray
            Of the shape that reading `index` gives.
        """
        picks, _ = _picks(index, self.shape)
        values = np.asarray(values, self.dtype).reshape([len(pick) for pick in picks])
        if values.size:
            with self._open("r+b") as file:
                self._write(file, 0, self.offset, picks, values)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Read everything."""
        return self[...].astype(dtype or self.dtype, copy=False)

    def _open(self, mode: str) -> BinaryIO:
        """The file, or a sentence."""
        try:
            return self.path.open(mode)  # type: ignore[return-value]
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.path} is no longer there; was it moved, or its drive taken away? Bring it "
                "back and start again."
            ) from error

    def _stride(self, axis: int) -> int:
        """Bytes from one position along an axis to the next."""
        return self.dtype.itemsize * math.prod(self.shape[axis + 1 :])

    def _at_once(self, axis: int, picks: tuple[range, ...]) -> bool:
        """Whether all that is picked from `axis` on lies in one piece, or nearly so."""
        pick = picks[axis]
        span = (pick[-1] - pick[0] + 1) * self._stride(axis)
        inner = zip(picks[axis + 1 :], self.shape[axis + 1 :], strict=True)
        whole = all(len(each) == length for each, length in inner) and pick.step == 1
        return whole or span <= _SPAN_BYTES

    def _span(self, file: BinaryIO, start: int, axis: int, pick: range) -> npt.NDArray[Any]:
        """All between the first and the last position of a pick along an axis."""
        shape = (pick[-1] - pick[0] + 1, *self.shape[axis + 1 :])
        span = np.empty(shape, self.dtype)
        file.seek(start + pick[0] * self._stride(axis))
        view = span.reshape(-1).view(np.uint8).data
        got = file.readinto(view)  # type: ignore[attr-defined]
        if got < len(view):
            raise ValueError(
                f"{self.path} ends before its pixels do; was it cut off, or is it still being "
                "written? Copy it again from its source."
            )
        return span

    def _read(
        self,
        file: BinaryIO,
        axis: int,
        start: int,
        picks: tuple[range, ...],
        out: npt.NDArray[Any],
    ) -> None:
        """Fill `out` with the picks from `axis` on, of the piece that begins at `start`."""
        pick = picks[axis]
        if axis == self.ndim - 1 or self._at_once(axis, picks):
            span = self._span(file, start, axis, pick)
            out[...] = span[_inside(picks[axis:])]
            return
        for number, position in enumerate(pick):
            self._read(file, axis + 1, start + position * self._stride(axis), picks, out[number])

    def _write(
        self,
        file: BinaryIO,
        axis: int,
        start: int,
        picks: tuple[range, ...],
        values: npt.NDArray[Any],
    ) -> None:
        """Put the picks from `axis` on into the piece that begins at `start`."""
        pick = picks[axis]
        if axis == self.ndim - 1 or self._at_once(axis, picks):
            span = np.ascontiguousarray(values)
            if span.shape != (pick[-1] - pick[0] + 1, *self.shape[axis + 1 :]):
                span = self._span(file, start, axis, pick)
                span[_inside(picks[axis:])] = values
            file.seek(start + pick[0] * self._stride(axis))
            file.write(span.reshape(-1).view(np.uint8).data)
            return
        for number, position in enumerate(pick):
            self._write(
                file, axis + 1, start + position * self._stride(axis), picks, values[number]
            )


def _picks(index: Any, shape: tuple[int, ...]) -> tuple[tuple[range, ...], tuple[bool, ...]]:
    """Positions along every axis, and which axes a whole number takes away."""
    given = list(index if isinstance(index, tuple) else (index,))
    if Ellipsis in given:
        at = given.index(Ellipsis)
        given[at : at + 1] = [slice(None)] * (len(shape) - len(given) + 1)
    given += [slice(None)] * (len(shape) - len(given))
    picks, dropped = [], []
    for wanted, length in zip(given, shape, strict=True):
        if isinstance(wanted, slice):
            if (wanted.step or 1) < 1:
                raise IndexError(f"slices must go forward, got {wanted}")
            picks.append(range(length)[wanted])
        else:
            position = range(length)[int(wanted)]
            picks.append(range(position, position + 1))
        dropped.append(not isinstance(wanted, slice))
    return tuple(picks), tuple(dropped)


def _inside(picks: tuple[range, ...]) -> tuple[slice, ...]:
    """The picks within a span that begins at the first position of the first pick."""
    first, *rest = picks
    inner = slice(0, first[-1] - first[0] + 1, first.step)
    return (inner, *(slice(p[0], p[-1] + 1, p.step) for p in rest))
