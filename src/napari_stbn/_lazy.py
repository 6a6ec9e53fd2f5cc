"""Arrays that are read where they are indexed: a part of one, and one movie of a stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from napari_stbn.stack import ArrayLike, Stack

__all__ = ["LazyPart", "MovieView", "chunk_lengths", "lazy_part", "middle_of", "of_channels"]


Found = TypeVar("Found")


def lazy_part(array: ArrayLike, selection: tuple[slice, ...]) -> ArrayLike:
    """Select without reading: numpy and dask slice lazily, all else is wrapped.

    Parameters
    ----------
    array : array-like
    selection : tuple of slice
        One for each axis, forward.
    """
    taken = tuple(range(n)[part] for n, part in zip(array.shape, selection, strict=True))
    if all(len(positions) == n for positions, n in zip(taken, array.shape, strict=True)):
        return array
    if isinstance(array, np.ndarray) or hasattr(array, "__dask_graph__"):
        part: ArrayLike = array[selection]
        return part
    return LazyPart(array, taken)


class LazyPart:
    """Part of an array that reads as soon as it is sliced, as zarr and HDF5 do."""

    def __init__(self, array: ArrayLike, taken: tuple[range, ...]) -> None:
        self._array, self._taken = array, taken

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return tuple(len(positions) for positions in self._taken)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self._taken)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        dtype: np.dtype[Any] = np.dtype(self._array.dtype)
        return dtype

    def __getitem__(self, index: Any, /) -> npt.NDArray[Any]:
        """Read this part of the part; whole numbers and forward slices, as `Stack` uses them."""
        given = index if isinstance(index, tuple) else (index,)
        if len(given) > self.ndim:
            raise IndexError(f"expected at most {self.ndim} whole numbers and slices, got {index}")
        given = given + (slice(None),) * (self.ndim - len(given))
        inner = []
        for positions, wanted in zip(self._taken, given, strict=True):
            chosen = positions[wanted]
            if isinstance(chosen, range):
                chosen = slice(chosen.start, chosen.stop, chosen.step)
            inner.append(chosen)
        return np.asarray(self._array[tuple(inner)])

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Read it all."""
        return np.array(self[()], dtype=dtype)


@dataclass(frozen=True, eq=False)
class MovieView:
    """One movie (T, Y, X) of a stack, read where it is indexed.

    Attributes
    ----------
    stack : Stack
    channel, plane : int
    """

    stack: Stack
    channel: int = 0
    plane: int = 0

    @property
    def title(self) -> str:
        """What to call this movie in a sentence."""
        if len(self.stack.indices()) == 1:
            return self.stack.title
        channel = self.stack.channel_name(self.channel)
        return f"{self.stack.title}, {channel}, plane {self.plane},"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width."""
        return (self.stack.n_frames, *self.stack.frame_shape)

    @property
    def ndim(self) -> int:
        """Always 3."""
        return 3

    @property
    def size(self) -> int:
        """Pixels of all frames."""
        frames, height, width = self.shape
        return frames * height * width

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values in native byte order."""
        return self.stack.dtype

    def __len__(self) -> int:
        """Frames."""
        return self.shape[0]

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        """Read frame by frame, (Y, X)."""
        for t in range(len(self)):
            yield self[t : t + 1][0]

    def __getitem__(self, index: slice | tuple[slice, ...], /) -> npt.NDArray[Any]:
        """Read some frames, rows and columns, shape (T', Y', X')."""
        parts = index if isinstance(index, tuple) else (index,)
        frames, rows, columns = (*parts, *(slice(None),) * (3 - len(parts)))
        return self.stack.movie(self.channel, self.plane, frames=frames, rows=rows, columns=columns)


def of_channels(
    stack: Stack, measure: Callable[[MovieView], Found]
) -> Generator[float, None, dict[int, Found]]:
    """Measure the middle plane of every channel; yields the part that is done, 0 to 1."""
    found: dict[int, Found] = {}
    for channel in range(stack.n_channels):
        if channel:
            yield channel / stack.n_channels
        found[channel] = measure(MovieView(stack, channel, stack.n_planes // 2))
    return found


def middle_of(shape: tuple[int, ...], frames: int, side: int) -> tuple[slice, ...]:
    """Index of the middle of a movie (T, Y, X), of so many frames, rows and columns at most."""
    firsts = [max(0, (n - most) // 2) for n, most in zip(shape, (frames, side, side), strict=True)]
    return tuple(slice(f, f + most) for f, most in zip(firsts, (frames, side, side), strict=True))


def chunk_lengths(stack: Stack) -> dict[str, int]:
    """Lengths of the pieces in which a stack's array is stored, by axis; 1 where it has none."""
    chunks = getattr(stack.array, "chunksize", None) or getattr(stack.array, "chunks", None)
    if not chunks or len(chunks) != stack.ndim:
        return dict.fromkeys(stack.axes, 1)
    return {
        axis: max(1, min(int(length), stack.size(axis)))
        for axis, length in zip(stack.axes, chunks, strict=True)
    }
