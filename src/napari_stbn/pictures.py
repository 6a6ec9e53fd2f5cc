"""Pictures for people: frames of a result side by side, as one image file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Panel", "side_by_side", "write_picture"]

_GAP = 6  # px between panels
_LABEL = 22  # px above each panel


@dataclass(frozen=True)
class Panel:
    """One image with its title and intensity range.

    Attributes
    ----------
    title : str
    image : ndarray, shape (Y, X)
    low, high : float
        Intensities shown black and white.
    """

    title: str
    image: NDArray[Any]
    low: float
    high: float


def side_by_side(rows: Sequence[Sequence[Panel]], zoom: int = 1) -> NDArray[np.uint8]:
    """Compose panels to one gray picture.

    Parameters
    ----------
    rows : sequence of rows of Panel
        All of one size.
    zoom : int, default 1
        Each pixel becomes `zoom` x `zoom` pixels.

    Returns
    -------
    ndarray, shape (height, width), uint8
    """
    import cv2

    lines = []
    for row in rows:
        cells = []
        for panel in row:
            span = max(panel.high - panel.low, 1e-12)
            finite = np.nan_to_num(panel.image.astype(np.float64), nan=panel.low)
            gray = np.clip((finite - panel.low) / span * 255, 0, 255).astype(np.uint8)
            gray = gray.repeat(zoom, 0).repeat(zoom, 1)
            cell = np.full((gray.shape[0] + _LABEL, gray.shape[1] + _GAP), 24, np.uint8)
            cell[_LABEL:, : gray.shape[1]] = gray
            cv2.putText(
                cell, panel.title, (2, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, 235, 1, cv2.LINE_AA
            )
            cells.append(cell)
        lines.append(np.concatenate(cells, 1))
    width = max(line.shape[1] for line in lines)
    padded = [
        np.pad(line, ((0, 0), (0, width - line.shape[1])), constant_values=24) for line in lines
    ]
    return np.concatenate(padded)


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture; the suffix (.png, .jpg) chooses the format.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    import cv2

    good, encoded = cv2.imencode(path.suffix, picture)
    if not good:
        raise OSError(f"cannot write a picture as {path.suffix}; use .png")
    path.write_bytes(encoded.tobytes())
