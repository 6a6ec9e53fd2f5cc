"""Flow of a long movie on disk, as alignment takes it, for as long as it is denoised."""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .flow.field import BILINEAR_STEPS, Alignment

__all__ = ["FlowScratch"]

_OUTSIDE = np.iinfo(np.int16).max  # flow that is not finite, or longer: out of every frame
_FAST = 1  # zlib's level; flow is so smooth that more gains little


class FlowScratch:
    """Flow in both directions, appended pair by pair and read in any order.

    Parameters
    ----------
    folder : Path
        Where the file lies. It has no name where the system allows that, so that nothing is left
        of it, however the process ends.
    shape : (height, width)
    alignment : {"nearest", "bilinear"}
        Alignment to the nearest pixel needs whole pixels alone, and bilinear alignment takes the
        flow in steps of 1/16 px: features are warped to the same place as along the flow itself, in
        a fraction of the space.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], alignment: Alignment) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, prefix=".stbn-flow-")  # noqa: SIM115
        self._shape = (2, *shape)
        self._steps = BILINEAR_STEPS if alignment == "bilinear" else 1  # a pixel
        self._places: list[tuple[tuple[int, int], tuple[int, int]]] = []  # offset and bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Pairs."""
        return len(self._places)

    def append(self, to_previous: NDArray[np.float32], to_next: NDArray[np.float32]) -> None:
        """Keep the flow of the next pair, each (2, Y, X) [px], ordered (dx, dy)."""
        self._places.append((self._write(to_previous), self._write(to_next)))

    def read(self, pair: int, direction: int) -> Tensor:
        """Flow of a pair, to the previous frame (0) or to the next (1): (2, Y, X) float32 [px]."""
        offset, length = self._places[pair][direction]
        self._file.seek(offset)
        whole = np.frombuffer(zlib.decompress(self._file.read(length)), np.int16)
        steps = whole.reshape(self._shape).astype(np.float32)
        known = np.abs(steps) < _OUTSIDE
        return torch.from_numpy(np.where(known, steps / self._steps, np.float32(np.inf)))

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def _write(self, flow: NDArray[np.float32]) -> tuple[int, int]:
        """Append; where it lies."""
        steps = np.rint(flow * self._steps)
        known = np.nan_to_num(steps, nan=_OUTSIDE, posinf=_OUTSIDE, neginf=_OUTSIDE)
        packed = zlib.compress(np.clip(known, -_OUTSIDE, _OUTSIDE).astype(np.int16), _FAST)
        offset = self._file.seek(0, 2)
        self._file.write(packed)
        return offset, len(packed)
