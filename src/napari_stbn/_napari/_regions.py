"""Which pixels of a movie: what is visible on the canvas, or what a person drew around."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_stbn._napari._placement import unit_factors
from napari_stbn.stack import MIN_SIDE

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer, Shapes

__all__ = ["Region", "shapes_region", "visible_region"]


class Region(NamedTuple):
    """Pixels of a layer's data along Y and X, within the frame.

    Attributes
    ----------
    rows, columns : slice
        With start < stop, both numbers.
    """

    rows: slice
    columns: slice


def visible_region(viewer: ViewerModel, layer: Image, axes: str) -> Region:
    """What of a layer's frames is visible on the canvas now.

    Parameters
    ----------
    viewer : napari.Viewer or ViewerModel
    layer : Image
    axes : str
        Of the layer's data.

    Returns
    -------
    Region
        At least 8 x 8 pixels where the frame has as many; the whole frame in 3D, and the whole
        length of Y or X where that axis is not on the screen.

    Raises
    ------
    ValueError
        The view shows nothing of the layer.
    """
    sizes = _frame_shape(layer, axes)
    whole = Region(slice(0, sizes[0]), slice(0, sizes[1]))
    if viewer.dims.ndisplay != 2:
        return whole
    offset = viewer.dims.ndim - layer.ndim
    shown = [axis - offset for axis in viewer.dims.displayed]
    seen = _seen_in_grid(layer) if viewer.canvas.grid.enabled else _seen_by_camera(viewer, layer)
    parts = []
    for letter, size in zip("YX", sizes, strict=True):
        axis = axes.index(letter)
        if axis not in shown or not np.isfinite(seen[:, axis]).all():
            parts.append(slice(0, size))
            continue
        part = _pixels(seen[0, axis], seen[1, axis], size)
        if part.start >= part.stop:
            raise ValueError(
                f'Nothing of "{layer.name}" is in view; move it into view (Home key) or choose '
                "the whole frame."
            )
        parts.append(_at_least(part, MIN_SIDE, size))
    return Region(*parts)


def shapes_region(shapes: Shapes, layer: Image, axes: str) -> Region:
    """Bounding box of what a person drew, in pixels of a layer.

    Parameters
    ----------
    shapes : Shapes
        Its selected shapes, or all where none is selected.
    layer : Image
    axes : str
        Of the layer's data.

    Returns
    -------
    Region

    Raises
    ------
    ValueError
        There are no shapes, or they are outside of the frame.
    """
    if not len(shapes.data):
        raise ValueError(
            f'"{shapes.name}" has no shapes; draw a rectangle around the part to denoise, or '
            "choose the whole frame."
        )
    chosen = sorted(shapes.selected_data) or range(len(shapes.data))
    vertices = np.concatenate([np.asarray(shapes.data[i], float) for i in chosen])
    factors = unit_factors(shapes.units, layer.units)
    corners = np.array([_to_data(layer, shapes.data_to_world(v), factors) for v in vertices])
    parts = []
    for letter, size in zip("YX", _frame_shape(layer, axes), strict=True):
        along = corners[:, axes.index(letter)]
        part = _pixels(along.min(), along.max(), size)
        if part.start >= part.stop:
            raise ValueError(
                f'The shapes of "{shapes.name}" are outside of "{layer.name}"; draw them on the '
                "movie, or choose the whole frame."
            )
        parts.append(part)
    return Region(*parts)


def _frame_shape(layer: Image, axes: str) -> tuple[int, int]:
    """Height and width of the layer's frames at full resolution."""
    shape = layer.data[0].shape if layer.multiscale else layer.data.shape
    return int(shape[axes.index("Y")]), int(shape[axes.index("X")])


def _seen_by_camera(viewer: ViewerModel, layer: Layer) -> npt.NDArray[np.float64]:
    """Lowest and highest visible data coordinates, (2, layer dimensions)."""
    camera = viewer.scene.camera
    factors = unit_factors(viewer.layers.units, layer.units)
    half = np.array(viewer.canvas.size, float) / (2 * camera.zoom)
    corners = []
    for signs in itertools.product((-1, 1), repeat=2):
        world = np.array(viewer.dims.point, float)
        displayed = list(viewer.dims.displayed)
        world[displayed] = np.array(camera.center[-2:]) + np.array(signs) * half
        corners.append(_to_data(layer, world, factors))
    return np.array([np.min(corners, axis=0), np.max(corners, axis=0)])


def _seen_in_grid(layer: Image) -> npt.NDArray[np.float64]:
    """Do the same from what napari drew last: in a grid each cell is a smaller canvas."""
    low, high = np.array(layer.corner_pixels, float)
    level = layer.downsample_factors[layer.data_level] if layer.multiscale else 1.0
    return np.array([low * level - 0.5, (high + 1) * level - 0.5])


def _to_data(layer: Layer, world: npt.ArrayLike, factors: list[float]) -> npt.NDArray[np.float64]:
    """Data coordinates of a world position that is in other units."""
    position = np.zeros(len(factors))
    given = np.asarray(world, float)[-len(factors) :]
    position[-len(given) :] = given
    return np.asarray(layer.world_to_data(position * factors), float)


def _pixels(low: float, high: float, size: int) -> slice:
    """Pixels touched by the interval; pixel i reaches from i - 0.5 to i + 0.5."""
    # Rounded, so that an edge that lies on a pixel's edge does not touch the neighbour.
    start, stop = np.floor(np.round(low + 0.5, 6)), np.ceil(np.round(high + 0.5, 6))
    return slice(int(np.clip(start, 0, size)), int(np.clip(stop, 0, size)))


def _at_least(part: slice, length: int, size: int) -> slice:
    """Widen on both sides to this length, within the frame."""
    missing = min(length, size) - (part.stop - part.start)
    if missing <= 0:
        return part
    start = int(np.clip(part.start - missing // 2, 0, size - min(length, size)))
    return slice(start, start + min(length, size))
