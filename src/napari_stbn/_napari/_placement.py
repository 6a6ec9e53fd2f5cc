"""Where a layer's pixels are in the world: physical scale, units, and results in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pint
from napari.utils.transforms import Affine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.layers import Layer

__all__ = ["data_to_world", "physical_scale", "placement", "unit_factors"]

_TOLERANCE = 1e-9  # relative; below it a matrix was put together again exactly


def physical_scale(layer: Layer, axes: str) -> tuple[dict[str, float], float | None]:
    """Pixel size and frame interval, as far as the layer's units are lengths and times.

    Parameters
    ----------
    layer : Layer
        napari's default unit, the pixel, means that the size is not known.
    axes : str
        A letter for each of the layer's dimensions; letters beyond (S of an RGB layer) are ignored.

    Returns
    -------
    pixel_size : dict of str to float [µm]
        Of Z, Y and X where known.
    frame_interval : float or None [s]
    """
    linear = data_to_world(layer)[:-1, :-1]
    # The length of a column is the size of a pixel also where the layer is rotated.
    sizes = np.sqrt((linear**2).sum(0))
    pixel_size: dict[str, float] = {}
    interval = None
    for letter, size, unit in zip(axes, sizes, layer.units, strict=False):
        if letter in "ZYX":
            micrometres = float(size) * (_factor(unit, "micrometer") or 0.0)
            if 0 < micrometres < np.inf:
                pixel_size[letter] = micrometres
        elif letter == "T":
            seconds = float(size) * (_factor(unit, "second") or 0.0)
            interval = seconds if 0 < seconds < np.inf else None
    return pixel_size, interval


def placement(layer: Layer, selection: Sequence[slice]) -> dict[str, Any]:
    """Keyword arguments that put a part of a layer's data where it is in the layer.

    Parameters
    ----------
    layer : Layer
    selection : sequence of slice
        What of each dimension; start and stop are numbers. Further ones (S of RGB) are ignored.

    Returns
    -------
    dict
        scale, translate, rotate, shear, affine, units and axis_labels for a new layer.
    """
    steps = [float(part.step or 1) for part in selection[: layer.ndim]]
    starts = [float(part.start or 0) for part in selection[: layer.ndim]]
    affine = np.array(layer.affine.affine_matrix)
    # Not rotate and scale as the layer tells them: their signs disagree for mirrored layers.
    inner = np.linalg.solve(affine, data_to_world(layer))
    linear, translate = inner[:-1, :-1], inner[:-1, -1]
    translate = translate + linear @ starts
    common = {
        "translate": translate,
        "affine": affine,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }
    if np.array_equal(linear, np.diag(np.diag(linear))):
        return {**common, "scale": np.diag(linear) * steps}
    linear = linear * steps
    parts = Affine(linear_matrix=linear, translate=translate)
    shape = {"scale": parts.scale, "rotate": parts.rotate, "shear": parts.shear}
    again = Affine(**shape, translate=translate).linear_matrix
    if np.abs(again - linear).max() <= _TOLERANCE * np.abs(linear).max():
        return {**common, **shape}
    whole = np.eye(len(affine))
    whole[:-1, :-1], whole[:-1, -1] = linear, translate
    return {**common, "translate": np.zeros_like(translate), "affine": affine @ whole}


def unit_factors(have: Sequence[pint.Unit] | None, want: Sequence[pint.Unit]) -> list[float]:
    """Factors from world coordinates in units `have` to those in `want`, aligned at the end.

    1 where the units are unknown or of another kind, as napari does it.
    """
    units = list(have or ())[-len(want) :]
    factors = [1.0] * len(want)
    for axis, unit in enumerate(units, start=len(want) - len(units)):
        factors[axis] = _factor(unit, want[axis]) or 1.0
    return factors


def _factor(unit: pint.Unit, goal: pint.Unit | str) -> float | None:
    """How many `goal` one `unit` is; None where they measure different things."""
    try:
        quantity = pint.get_application_registry().Quantity(1.0, unit)
        return float(quantity.to(goal).magnitude)
    except pint.DimensionalityError:
        return None


def data_to_world(layer: Layer) -> npt.NDArray[np.float64]:
    """Matrix from data to world coordinates, (ndim + 1, ndim + 1), with all transforms."""
    ndim = layer.ndim
    matrix = np.eye(ndim + 1)
    origin = np.asarray(layer.data_to_world(np.zeros(ndim)))
    matrix[:-1, -1] = origin
    for axis, unit in enumerate(np.eye(ndim)):
        matrix[:-1, axis] = np.asarray(layer.data_to_world(unit)) - origin
    return matrix
