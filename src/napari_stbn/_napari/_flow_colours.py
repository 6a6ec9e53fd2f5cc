"""Flow as colours: hue is direction, brightness is speed."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from napari_stbn._napari._flow_cells import (
    CELL,
    STILL,
    FlowCells,
    displayed_axes,
    flow_cells,
    flow_movies,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_stbn._napari.layers import LayerStack

__all__ = ["flow_colour_image"]

_COLOURS_IN_MEMORY: Final = 2**26  # bytes; painting more takes seconds, for a hidden layer
_HUES, _SHADES = 192, 64  # colours of the wheel: steps too fine to see


def flow_colour_image(
    flow_to_next: npt.NDArray[np.float32],
    source: LayerStack,
    *,
    cells: FlowCells | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Paint the motion from each frame to the next: hue is direction, brightness is speed.

    Parameters
    ----------
    flow_to_next : ndarray, shape (T - 1, 2, Y, X) or (channels, planes, T - 1, 2, Y, X) [px]
        Ordered (dx, dy).
    source : LayerStack
    cells : FlowCells, optional
        The same flow in small, where it was made already.

    Returns
    -------
    colours : ndarray or dask array of uint8, shape (..., Y, X, 3) in the layer's axes order
        Red moves right, lime down, cyan left, violet up; black stands still. The last frame
        repeats the last pair. Beyond 64 MB it is painted frame by frame when looked at, from means
        over 4 x 4 pixels, so that a long movie costs neither memory nor time.
    arguments : dict
        For `napari.layers.Image`: hidden, added to what is beneath.

    Raises
    ------
    ValueError
        The flow is not that of the source.
    """
    stack, axes = source.stack, displayed_axes(source)
    shape = tuple(stack.size(axis) for axis in axes)
    full = _full_speed(flow_to_next)
    colours: Any
    if 3 * math.prod(shape) > _COLOURS_IN_MEMORY:
        colours = _lazy_colours(cells or flow_cells(flow_to_next, source), shape, full)
    else:
        colours = np.empty((*shape, 3), np.uint8)
        for position, movie in flow_movies(flow_to_next, source):
            for t in range(stack.n_frames):
                frame = _wheel(movie[min(t, len(movie) - 1)], full)
                where = {**position, "T": t}
                colours[tuple(where.get(axis, slice(None)) for axis in axes)] = (
                    frame if axes.index("Y") < axes.index("X") else frame.swapaxes(0, 1)
                )
    return colours, {
        "rgb": True,
        "blending": "additive",
        "visible": False,
        "metadata": {"napari-stbn": {"full_colour": full, "full_colour_unit": "px/frame"}},
        **source.place,
    }


def _full_speed(flow: npt.NDArray[Any]) -> float:
    """Speed [px/frame] of the brightest colour: that of the fastest percent of what moves."""
    dx, dy = (np.moveaxis(flow, -3, 0)[i][..., ::CELL, ::CELL] for i in (0, 1))
    speed = np.hypot(dx, dy).astype(np.float32)
    moving = speed[np.isfinite(speed) & (speed > STILL)]
    return max(1.0, float(np.quantile(moving, 0.99))) if moving.size else 1.0


def _wheel(flow: npt.NDArray[Any], full: float) -> npt.NDArray[np.uint8]:
    """Colours (Y, X, 3) of a flow (2, Y, X): the hue wheel, as bright as it is fast."""
    dx, dy = np.nan_to_num(flow, nan=0.0, posinf=0.0, neginf=0.0)
    # rows grow downwards, so a growing angle turns from right to down
    hue = np.rint(np.arctan2(dy, dx) * (_HUES / (2 * np.pi))).astype(np.int16) % _HUES
    shade = np.rint(np.minimum(np.hypot(dx, dy) / full, 1.0) * (_SHADES - 1)).astype(np.int16)
    colours: npt.NDArray[np.uint8] = _palette()[hue * np.int16(_SHADES) + shade]
    return colours


@cache
def _palette() -> npt.NDArray[np.uint8]:
    """All colours, (hues x shades, 3): red, lime, cyan, violet in equal steps."""
    sixths = np.arange(_HUES)[:, None] * (6 / _HUES) + np.array([0, 4, 2])
    hues = np.clip(np.abs(sixths % 6 - 3) - 1, 0, 1)[:, None]
    shades = np.linspace(0, 1, _SHADES)[:, None]
    colours: npt.NDArray[np.uint8] = np.rint(hues * shades * 255).astype(np.uint8).reshape(-1, 3)
    return colours


def _lazy_colours(cells: FlowCells, shape: Sequence[int], full: float) -> Any:
    """Paint from the cells when a frame is looked at: a dask array of one block a frame."""
    import dask.array as da

    height, width = cells.frame_shape
    movies = {tuple(sorted(position.items())): movie for position, movie in cells.cells}

    def paint(block_info: Any = None) -> npt.NDArray[np.uint8]:
        place = dict(zip(cells.axes, block_info[None]["chunk-location"], strict=False))
        t = place.pop("T")
        movie = movies[tuple(sorted((a, i) for a, i in place.items() if a not in "YX"))]
        small = movie[min(t, len(movie) - 1)].astype(np.float32)
        frame = _wheel(small, full).repeat(CELL, 0)[:height].repeat(CELL, 1)[:, :width]
        if cells.axes.index("X") < cells.axes.index("Y"):
            frame = frame.swapaxes(0, 1)
        block = [n if a in "YX" else 1 for a, n in zip(cells.axes, shape, strict=True)]
        return frame.reshape(*block, 3)

    chunks = [(n,) if a in "YX" else (1,) * n for a, n in zip(cells.axes, shape, strict=True)]
    meta = np.empty((0,) * (len(shape) + 1), np.uint8)
    return da.map_blocks(paint, chunks=(*chunks, (3,)), dtype=np.uint8, meta=meta)
