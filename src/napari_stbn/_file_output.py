"""Denoised frames that go into files as they are made."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .io import stream_to
from .stack import Stack, cast_like

__all__ = ["FileOutput"]


class FileOutput:
    """Writes denoised frames, and their uncertainty where it is asked for.

    A context: the files appear when it ends without an error, and not before.

    Parameters
    ----------
    stack : Stack
        That is denoised: shape, axes and scale.
    path : Path
    uncertainty : Path or None
    dtype : dtype-like
        Of the denoised file.
    overwrite : bool
    name : str
        Of the denoised image.

    Raises
    ------
    FileExistsError, FileNotFoundError, PermissionError, ValueError, OSError
        As `napari_stbn.io.stream_to`.
    """

    def __init__(
        self,
        stack: Stack,
        path: Path,
        uncertainty: Path | None,
        dtype: DTypeLike,
        *,
        overwrite: bool,
        name: str,
    ) -> None:
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        self._files = ExitStack()
        try:
            self._put = self._files.enter_context(
                stream_to(path, _outline(stack, self._dtype, name), overwrite=overwrite)
            )
            self._put_std = None
            if uncertainty is not None:
                spread = _outline(stack, np.dtype(np.float32), f"{stack.name} uncertainty".strip())
                self._put_std = self._files.enter_context(
                    stream_to(uncertainty, spread, overwrite=overwrite)
                )
        except BaseException as error:
            self._files.__exit__(type(error), error, error.__traceback__)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.__exit__(kind, error, trace)

    def __call__(
        self,
        channel: int,
        plane: int,
        start: int,
        mean: NDArray[np.float32],
        std: NDArray[np.float32] | None,
    ) -> None:
        """Write frames from `start` on."""
        self._put(channel, plane, start, cast_like(mean, self._dtype))
        if std is not None and self._put_std is not None:
            self._put_std(channel, plane, start, std)


def _outline(stack: Stack, dtype: np.dtype[Any], name: str) -> Stack:
    """A stack of another type and name that holds nothing."""
    return stack.like(np.broadcast_to(np.zeros((), dtype), stack.shape), name=name)
