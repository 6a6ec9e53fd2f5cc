"""An Image layer becomes a stack, and a result becomes layers in the same place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_stbn._lazy import lazy_part
from napari_stbn._napari._axes_of_layers import (
    as_image,
    check_layer_axes,
    data_shape,
    guess_layer_axes,
)
from napari_stbn._napari._placement import physical_scale, placement
from napari_stbn._napari._regions import Region, shapes_region, visible_region
from napari_stbn._napari._result_layers import appearance, result_layers
from napari_stbn.stack import MIN_SIDE, Stack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.layers import Image, Layer

__all__ = [
    "LayerStack",
    "Region",
    "guess_layer_axes",
    "layer_stack",
    "result_layers",
    "shapes_region",
    "visible_region",
]


@dataclass(frozen=True, eq=False)
class LayerStack:
    """A layer, and what of it is denoised.

    Attributes
    ----------
    layer : Image
    stack : Stack
        What is denoised, named after the layer, with its scale where its units say so.
    axes : str
        Of the layer's data.
    selection : tuple of slice
        What of each dimension of the layer's data is in `stack`, with start and stop.
    region : Region or None
        The pixels of a frame; None for whole frames.
    data : array
        Of the layer, at full resolution.
    place, shown : dict
        Keyword arguments that put a new layer where `stack` is in the layer, and show it alike.

    Notes
    -----
    All but `layer` is what the layer was when it was asked: a person may give it other data, even
    of other dimensions, before there is a result.
    """

    layer: Image
    stack: Stack
    axes: str
    selection: tuple[slice, ...]
    region: Region | None
    data: Any
    place: dict[str, Any]
    shown: dict[str, Any]


def layer_stack(
    layer: Layer,
    *,
    axes: str | None = None,
    region: Region | None = None,
    channels: Sequence[int] | None = None,
    planes: Sequence[int] | None = None,
) -> LayerStack:
    """See an Image layer, or a part of it, as a stack; no pixel is read.

    Parameters
    ----------
    layer : Layer
        An Image layer; of a multiscale one the full resolution is taken. The alpha of RGBA is
        left out.
    axes : str, optional
        A letter for each dimension of the layer's data; guessed where left out.
    region : Region, optional
        Pixels of a frame; clipped to it.
    channels, planes : sequence of int, optional
        Which ones, from 0, evenly spaced; all where left out.

    Returns
    -------
    LayerStack

    Raises
    ------
    ValueError
        Not an Image layer, axes that do not fit, fewer than 2 frames, no such channel or plane,
        values that are not real numbers, or frames smaller than 8 x 8 pixels.
    """
    image = as_image(layer)
    shape = data_shape(image)
    letters = guess_layer_axes(image)[0] if axes is None else check_layer_axes(image, axes)
    data = image.data[0] if image.multiscale else image.data
    # Checks letters against the shape, and the whole layer before any part of it.
    whole = Stack(data, letters, name=image.name)
    whole.check()
    parts = {letter: slice(0, n) for letter, n in zip(letters, shape, strict=True)}
    if region is not None:
        parts["Y"], parts["X"] = region = _clipped(region, whole)
    colour = "C" if "C" in letters or image.rgb else "S"  # colours of RGB stay together
    for axis, word, chosen in ((colour, "channel", channels), ("Z", "plane", planes)):
        if chosen is not None:
            part = _evenly(chosen, whole.size(axis) if axis in letters else 1, word, whole.title)
            if axis in letters:
                parts[axis] = part
    if image.rgb:
        parts["S"] = slice(0, 3)
    selection = tuple(parts[letter] for letter in letters)
    pixel_size, interval = physical_scale(image, letters)
    steps = {letter: part.step or 1 for letter, part in parts.items()}
    stack = Stack(
        lazy_part(data, selection),
        letters,
        pixel_size={axis: size * steps[axis] for axis, size in pixel_size.items()},
        frame_interval=interval,
        name=image.name,
    )
    place, shown = placement(image, selection), appearance(image)
    return LayerStack(image, stack, letters, selection, region, data, place, shown)


def _clipped(region: Region, whole: Stack) -> Region:
    """Clip a region to the frame, or raise where too little remains."""
    height, width = whole.frame_shape
    parts = Region(
        slice(*region.rows.indices(height)[:2]), slice(*region.columns.indices(width)[:2])
    )
    rows, columns = (max(part.stop - part.start, 0) for part in parts)
    if min(rows, columns) < MIN_SIDE:
        raise ValueError(
            f"The region has {rows} x {columns} pixels of {whole.title}; denoising needs at least "
            f"{MIN_SIDE} x {MIN_SIDE}: choose a larger one."
        )
    return parts


def _evenly(chosen: Sequence[int], count: int, word: str, title: str) -> slice:
    """Turn positions into a slice, so that results keep their place on the sliders."""
    positions = sorted({int(position) for position in chosen})
    if not positions:
        raise ValueError(f"No {word} of {title} was chosen; choose at least one of {count}.")
    wrong = [position for position in positions if not 0 <= position < count]
    if wrong:
        raise ValueError(
            f"{title} has {count} {word}{'s' * (count != 1)}, numbered from 0 to {count - 1}; "
            f"there is no {word} {wrong[0]}."
        )
    gaps = set(np.diff(positions).tolist()) or {1}
    if len(gaps) > 1:
        raise ValueError(
            f"The {word}s must be evenly spaced to keep their place on the slider, got "
            f"{', '.join(map(str, positions))}; denoise the others in a second run."
        )
    return slice(positions[0], positions[-1] + 1, gaps.pop())
