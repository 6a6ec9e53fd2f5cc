"""Flow to look at: arrows in a Vectors layer, and the colours of `flow_colour_image`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from napari.layers import Vectors
from napari.utils.colormaps import Colormap, ensure_colormap

from napari_stbn._napari._flow_cells import CELL, STILL, FlowCells, flow_cells
from napari_stbn._napari._flow_colours import flow_colour_image

if TYPE_CHECKING:
    from napari_stbn._napari.layers import LayerStack

__all__ = ["FLOW_KEY", "flow_colour_image", "flow_vectors", "set_flow_density"]

FLOW_KEY: Final = "napari-stbn-flow"  # key of the flow in the layer's metadata
_SHARE: Final = 0.25  # of a cell's parts that must move for it to have an arrow
_REACH: Final = 0.85  # of the distance between arrows: length of a fast one on the screen
_GAINS: Final = (1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20)


class _Arrows(NamedTuple):
    """Arrows of one density, before their layer."""

    data: npt.NDArray[np.float32]  # (N, 2, D)
    features: dict[str, npt.NDArray[np.float32]]
    density: int
    gain: float
    fastest: float  # speed of the brightest colour


def flow_vectors(
    flow_to_next: npt.NDArray[np.float32],
    source: LayerStack,
    *,
    density: int = 16,
    threshold: float = STILL,
    max_arrows: int = 200_000,
) -> Vectors:
    """Draw the motion from each frame to the next as arrows coloured by speed.

    Parameters
    ----------
    flow_to_next : ndarray, shape (T - 1, 2, Y, X) or (channels, planes, T - 1, 2, Y, X) [px]
        Ordered (dx, dy); of a `DenoiseResult`.
    source : LayerStack
        What the flow was measured in.
    density : int [px]
        Distance of the arrows, in whole steps of 4 px.
    threshold : float [px]
        Slower is left out.
    max_arrows : int
        Where there would be more, the distance is doubled until there are not.

    Returns
    -------
    Vectors
        In the place of the denoised layer and with its dimensions; the last frame has no arrows.
        Features: speed [µm/s where scale and interval are known, else px/frame], dx, dy
        [px/frame]. Density, unit and gain of the display are in ``metadata["napari-stbn"]``.
        Without motion a layer without arrows.

    Raises
    ------
    ValueError
        The flow is not that of the source, or the density is not positive.
    """
    cells = flow_cells(flow_to_next, source)
    arrows = _arrows(cells, density, threshold, max_arrows)
    layer = Vectors(
        np.empty((0, 2, len(cells.axes)), np.float32),
        vector_style="arrow",
        opacity=1.0,
        edge_colormap=_bright_turbo(),
        blending="translucent",
        metadata={
            FLOW_KEY: cells,
            "napari-stbn": {"threshold": threshold, "max_arrows": max_arrows},
        },
        **source.place,
    )
    _fill(layer, cells, arrows)
    return layer


def set_flow_density(layer: Vectors, density: int) -> None:
    """Draw the arrows of a flow layer at another distance.

    Parameters
    ----------
    layer : Vectors
        Made by `flow_vectors`, also long ago: the flow is kept in its metadata.
    density : int [px]
        Distance of the arrows, in whole steps of 4 px.

    Raises
    ------
    ValueError
        Not such a layer, or the density is not positive.
    """
    cells = layer.metadata.get(FLOW_KEY)
    if not isinstance(cells, FlowCells):
        raise ValueError(
            f'"{layer.name}" is not a flow layer made by napari-stbn; select the one named '
            '"… flow".'
        )
    about = layer.metadata["napari-stbn"]
    arrows = _arrows(cells, density, about["threshold"], about["max_arrows"])
    _fill(layer, cells, arrows)


def _bright_turbo() -> Colormap:
    """Turbo without its dark ends, which are lost on a dark movie."""
    return Colormap(ensure_colormap("turbo").map(np.linspace(0.1, 0.92, 64)), name="turbo, bright")


def _fill(layer: Vectors, cells: FlowCells, arrows: _Arrows) -> None:
    """Put arrows into the layer; a length that a person has chosen stays."""
    about = layer.metadata["napari-stbn"]
    if layer.length == about.get("display_gain", layer.length):
        layer.length = arrows.gain
    layer.edge_width = arrows.density / 20
    layer.data = arrows.data
    layer.features = arrows.features
    if len(arrows.data):  # napari cannot colour by the values of no arrows
        layer.edge_color = "speed"
        layer.edge_contrast_limits = (0.0, arrows.fastest)
    layer.metadata["napari-stbn"] = {
        **about,
        "density": arrows.density,
        "density_unit": "px",
        "arrows": len(arrows.data),
        "display_gain": float(arrows.gain),
        "speed_unit": cells.unit,
        "dx_dy_unit": "px/frame",
        "note": "An arrow is display_gain times as long as the motion to the next frame, "
        "shorter where it would leave the frame; dx, dy and speed are the motion itself.",
    }


def _arrows(cells: FlowCells, density: int, threshold: float, max_arrows: int) -> _Arrows:
    """Compute arrows, farther apart where they would be too many."""
    if not density > 0:
        raise ValueError(f"density must be a positive distance in pixels, got {density}.")
    group = max(1, round(density / CELL))
    found = [_moving(movie, cells.frame_shape, group, threshold) for _, movie in cells.cells]
    while sum(len(part) for part in found) > max_arrows and group * CELL < max(cells.frame_shape):
        group *= 2
        found = [_moving(movie, cells.frame_shape, group, threshold) for _, movie in cells.cells]
    counts = [len(part) for part in found]
    table = np.concatenate(found)  # columns t, y, x, dy, dx
    dy, dx = table[:, 3], table[:, 4]
    pixels = np.hypot(dx, dy)
    speed = np.hypot(dx * cells.to_speed[0], dy * cells.to_speed[1])
    gain = 1.0
    if len(table):
        fast = float(np.quantile(pixels, 0.95))
        gain = max(float(g) for g in _GAINS if g == 1 or g * fast <= _REACH * group * CELL)
    data = np.zeros((len(table), 2, len(cells.axes)), np.float32)
    for column, axis in enumerate("TYX"):
        data[:, 0, cells.axes.index(axis)] = table[:, column]
    for axis in set(cells.axes) - set("TYX"):
        at = [position[axis] for position, _ in cells.cells]
        data[:, 0, cells.axes.index(axis)] = np.repeat(at, counts)
    short = _shortening(table, cells.frame_shape, gain)
    data[:, 1, cells.axes.index("Y")] = dy * short
    data[:, 1, cells.axes.index("X")] = dx * short
    fastest = float(np.quantile(speed, 0.99)) if len(table) else 1.0
    return _Arrows(data, {"speed": speed, "dx": dx, "dy": dy}, group * CELL, gain, fastest)


def _moving(
    movie: npt.NDArray[np.float16], frame_shape: tuple[int, int], group: int, threshold: float
) -> npt.NDArray[np.float32]:
    """Rows (t, y, x, dy, dx) of the squares of `group` x `group` cells that move.

    The motion is the median over the cells that move, not over all: a vesicle before a still
    background keeps its speed.
    """
    starts, extents = [], []
    for length in frame_shape:
        edges = np.append(np.arange(0, length, group * CELL), length)
        starts.append((edges[:-1] + edges[1:] - 1) / 2)  # centres, in pixel coordinates
        extents.append(len(edges) - 1)
    rows = []
    for t, pair in enumerate(movie.astype(np.float32)):
        pad = [(0, n * group - have) for n, have in zip(extents, pair.shape[1:], strict=True)]
        padded = np.pad(pair, [(0, 0), *pad], constant_values=np.nan)
        parts = padded.reshape(2, extents[0], group, extents[1], group)
        parts = parts.transpose(0, 1, 3, 2, 4).reshape(2, -1, group * group)
        moves = np.hypot(parts[0], parts[1]) > threshold  # NaN is not
        count, inside = moves.sum(1), np.isfinite(parts[0]).sum(1)
        chosen = np.flatnonzero((count > 0) & (count >= _SHARE * inside))
        if not len(chosen):
            continue
        ordered = np.sort(np.where(moves, parts, np.inf)[:, chosen], axis=2)
        middle = count[chosen]
        pick = np.arange(len(chosen))
        dx, dy = (ordered[:, pick, (middle - 1) // 2] + ordered[:, pick, middle // 2]) / 2
        y, x = np.unravel_index(chosen, (extents[0], extents[1]))
        row = np.stack([np.full(len(chosen), t), starts[0][y], starts[1][x], dy, dx], axis=1)
        rows.append(row[np.hypot(dx, dy) > threshold].astype(np.float32))
    return np.concatenate(rows) if rows else np.empty((0, 5), np.float32)


def _shortening(
    table: npt.NDArray[np.float32], frame_shape: tuple[int, int], gain: float
) -> npt.NDArray[np.float32]:
    """Factor that keeps each drawn arrow in the frame: else the layer would widen the view."""
    factor = np.ones(len(table), np.float32)
    for start, step, length in zip(table.T[1:3], table.T[3:5], frame_shape, strict=True):
        room = np.where(step > 0, length - 1 - start, start)
        reach = np.abs(step) * gain
        np.minimum(factor, room / np.maximum(reach, 1e-6), out=factor)
    return factor
