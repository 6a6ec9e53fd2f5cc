"""What a stack takes for its array: as it is where it can be, else as numpy has it."""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np

__all__ = ["ArrayLike", "as_array"]


class ArrayLike(Protocol):
    """What a stack needs of an array: numpy, memmap, dask and zarr arrays all have it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        ...

    @property
    def dtype(self) -> Any:
        """Type of the values."""
        ...

    def __getitem__(self, index: Any, /) -> Any: ...


def as_array(given: Any) -> ArrayLike:
    """An array of numpy's number types, without a mask.

    Parameters
    ----------
    given : array-like, sequence or tensor
        Not modified; handed on as it is where nothing is to be changed.

    Returns
    -------
    array-like
        Masked pixels are NaN, which needs floating numbers; tensors of other libraries are seen
        through numpy.

    Raises
    ------
    ValueError
        If numpy cannot see a tensor, as on a graphics card.
    """
    if isinstance(given, np.ma.MaskedArray):
        if not np.ma.is_masked(given):
            return given.data
        floating = given.data.astype(np.result_type(given.dtype, np.float32))
        floating[np.ma.getmaskarray(given)] = np.nan
        return floating
    if not (hasattr(given, "shape") and hasattr(given, "dtype")):
        return np.asarray(given)
    try:
        np.dtype(given.dtype)
    except TypeError:  # a type of another library
        return _seen_by_numpy(given)
    return cast("ArrayLike", given)


def _seen_by_numpy(tensor: Any) -> ArrayLike:
    """A tensor as an array, in the same memory where that can be."""
    try:
        return np.asarray(tensor)
    except (TypeError, RuntimeError) as error:
        kind = type(tensor)
        raise ValueError(
            f"a movie must be an array that numpy can read, got a {kind.__module__}."
            f"{kind.__qualname__} that it cannot: {error} Convert it to a numpy array first."
        ) from error
