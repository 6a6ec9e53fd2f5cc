"""The flow of a result in small: means over cells of 4 x 4 pixels, and what they are in µm/s."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from napari_stbn._napari.layers import LayerStack

__all__ = ["CELL", "STILL", "FlowCells", "displayed_axes", "flow_cells", "flow_movies"]

CELL: Final = 4  # px; small vesicles keep their own motion, and 32 times less memory is held
STILL: Final = 0.25  # px/frame; slower is noise of the estimate as often as motion

Position = dict[str, int]


@dataclass(frozen=True, eq=False)
class FlowCells:
    """What arrows are made of: it stays with the layer when the movie is gone.

    Attributes
    ----------
    cells : list of (dict, ndarray of float16, shape (T - 1, 2, ceil(Y / 4), ceil(X / 4)) [px])
        Position along C, Z (and S), and the mean displacement (dx, dy) of each cell.
    axes : str
        Of the layer's dimensions, without the colours of RGB.
    frame_shape : tuple of int, (Y, X) [px]
    to_speed : tuple of float, (x, y) [`unit` per px/frame]
        Factors to the unit of the speed.
    unit : str
        µm/s where scale and interval are known, else px/frame.
    """

    cells: list[tuple[Position, npt.NDArray[np.float16]]]
    axes: str
    frame_shape: tuple[int, int]
    to_speed: tuple[float, float]
    unit: str


def flow_cells(flow_to_next: npt.NDArray[np.float32], source: LayerStack) -> FlowCells:
    """Shrink the flow of a result.

    Parameters
    ----------
    flow_to_next : ndarray, shape (T - 1, 2, Y, X) or (channels, planes, T - 1, 2, Y, X) [px]
    source : LayerStack

    Returns
    -------
    FlowCells

    Raises
    ------
    ValueError
        The flow is not that of the source.
    """
    stack = source.stack
    size, interval = stack.pixel_size, stack.frame_interval
    physical = {"X", "Y"} <= set(size) and interval is not None and stack.unit == "µm"
    shared = flow_to_next.ndim != 6 or len(flow_to_next) == 1
    small: dict[int, npt.NDArray[np.float16]] = {}
    cells = []
    for number, (position, movie) in enumerate(flow_movies(flow_to_next, source)):
        # Channels denoised together share the flow of a plane: it is shrunk and held once.
        key = position.get("Z", 0) if shared else number
        if key not in small:
            small[key] = np.stack([_cell_means(pair) for pair in movie])
        cells.append((position, small[key]))
    return FlowCells(
        cells=cells,
        axes=displayed_axes(source),
        frame_shape=stack.frame_shape,
        to_speed=(size["X"] / interval, size["Y"] / interval)
        if physical and interval
        else (1.0, 1.0),
        unit="µm/s" if physical else "px/frame",
    )


def displayed_axes(source: LayerStack) -> str:
    """Axes of the layer's dimensions as napari counts them: without the colours of RGB."""
    return source.axes[:-1] if source.layer.rgb else source.axes


def flow_movies(
    flow_to_next: npt.NDArray[Any], source: LayerStack
) -> Iterator[tuple[Position, npt.NDArray[Any]]]:
    """Give the flow of each position along C, Z (and S): a dict and (T - 1, 2, Y, X).

    Raises
    ------
    ValueError
        The flow is not that of the source.
    """
    stack = source.stack
    frames = (stack.n_frames - 1, 2, *stack.frame_shape)
    flow = flow_to_next if flow_to_next.ndim == 6 else flow_to_next[None, None]
    if flow.shape not in {(n, stack.n_planes, *frames) for n in (1, stack.n_channels)}:
        raise ValueError(
            f"flow_to_next must have shape {frames}, after channels and planes where there are "
            f"several, got {flow_to_next.shape}."
        )
    axes = displayed_axes(source)
    counts = [range(stack.size(axis)) if axis in axes else range(1) for axis in "CSZ"]
    for c, s, z in itertools.product(*counts):
        if len(flow) == 1:
            movie = flow[0, z]
        elif source.layer.rgb and stack.size("S") > 1:  # one flow for the colours of one pixel
            first = c * stack.size("S")
            movie = flow[first : first + stack.size("S"), z].mean(axis=0)
        else:
            movie = flow[c * stack.size("S") + s, z]
        position = dict(zip("CSZ", (c, s, z), strict=True))
        yield {axis: at for axis, at in position.items() if axis in axes}, movie


def _cell_means(pair: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """Mean over cells of 4 x 4 px, smaller ones at the ends; unknown flow counts as none."""
    height, width = pair.shape[-2:]
    rows, columns = np.arange(0, height, CELL), np.arange(0, width, CELL)
    if not np.isfinite(pair.sum()):  # seldom: the copy is made only then
        pair = np.nan_to_num(pair, nan=0.0, posinf=0.0, neginf=0.0)
    if height % CELL or width % CELL:
        pair = np.pad(pair, [(0, 0), (0, -height % CELL), (0, -width % CELL)])
    # Strided sums: ten times as fast as numpy's sums over axes this short
    tall = sum((pair[:, i::CELL] for i in range(1, CELL)), pair[:, ::CELL])
    sums = sum((tall[:, :, i::CELL] for i in range(1, CELL)), tall[:, :, ::CELL])
    counts = np.outer(np.minimum(height - rows, CELL), np.minimum(width - columns, CELL))
    return np.asarray(sums / counts, np.float16)
