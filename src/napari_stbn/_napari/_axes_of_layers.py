"""Which axis of a layer is which, from its labels and its shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from napari.layers import Image

from napari_stbn.stack import guess_axes

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["as_image", "check_layer_axes", "data_shape", "guess_layer_axes"]

_WORDS: Final = {
    **dict.fromkeys(("t", "time", "frame", "frames", "timepoint"), "T"),
    **dict.fromkeys(("c", "ch", "channel", "channels"), "C"),
    **dict.fromkeys(("z", "plane", "planes", "slice", "slices", "depth"), "Z"),
    **dict.fromkeys(("y", "row", "rows"), "Y"),
    **dict.fromkeys(("x", "column", "columns"), "X"),
    **dict.fromkeys(("s", "sample", "samples", "rgb"), "S"),
}


def guess_layer_axes(layer: Layer) -> tuple[str, str]:
    """Name the axes of a layer's data from its axis labels, and guess what they leave open.

    Parameters
    ----------
    layer : Layer
        An Image layer.

    Returns
    -------
    axes : str
        A letter out of T, C, Z, Y, X and S for each dimension of the data; RGB layers end in S.
    sentence : str
        What was guessed, from what, and how to overrule it; empty where the layer said everything.

    Raises
    ------
    ValueError
        Not an Image layer, or more dimensions than can be named.

    Notes
    -----
    Planes without time are taken for time, as in `napari_stbn.stack.guess_axes`, and the sentence
    says so.
    """
    image = as_image(layer)
    shape = data_shape(image)[: image.ndim]
    tail = "S" if image.rgb else ""
    named = _labelled(image)
    said = _completed(named)
    # A hint keeps the guess from taking a last axis of 3 for colours beside those of RGB.
    hint = "".join(said) if {"Y", "X"} <= set(said) else "?" * (len(shape) - 2) + "YX"
    known = any(letter != "?" for letter in said)
    axes, _ = guess_axes(shape, image.dtype, hint if known or image.rgb else None)
    if axes == "".join(named):
        return axes + tail, ""
    if "Z" in said and axes[said.index("Z")] == "T":
        planes = shape[said.index("Z")]
        return axes + tail, (
            f"The layer names {planes} planes (Z) and no time; Z was taken for time, axes "
            f'{axes + tail}; set "axes" if this is wrong.'
        )
    origin = "labels, units and the shape" if known else "shape"
    return axes + tail, (
        f"Axes guessed as {axes + tail} from the layer's {origin} {data_shape(image)}; "
        'set "axes" if this is wrong.'
    )


def as_image(layer: Layer) -> Image:
    """Return the layer, or raise the sentence that says that it is not an image."""
    if not isinstance(layer, Image):
        kind = type(layer).__name__
        raise ValueError(
            f'"{getattr(layer, "name", layer)}" is a {kind} layer; denoising needs an Image layer: '
            "select the movie itself."
        )
    return layer


def data_shape(layer: Image) -> tuple[int, ...]:
    """Shape of the layer's data at full resolution, with the colours of RGB."""
    data = layer.data[0] if layer.multiscale else layer.data
    return tuple(int(length) for length in data.shape)


def check_layer_axes(layer: Image, axes: str) -> str:
    """Return the letters in capitals, or raise where RGB does not end in S."""
    letters = axes.strip().upper()
    if layer.rgb and not letters.endswith("S"):
        raise ValueError(
            f'"{layer.name}" is an RGB layer, so its axes must end in S (colours), got "{axes}"; '
            "set for example TYXS."
        )
    return letters


def _labelled(layer: Image) -> list[str]:
    """Letter of each dimension that the layer's labels or units name, ``?`` elsewhere."""
    letters = [_WORDS.get(label.strip().lower(), "?") for label in layer.axis_labels]
    times = [i for i, unit in enumerate(layer.units) if unit.is_compatible_with("second")]
    if "T" not in letters and len(times) == 1 and letters[times[0]] == "?":
        letters[times[0]] = "T"
    taken = "S" if layer.rgb else ""
    return [
        letter if letters.count(letter) == 1 and letter not in taken else "?" for letter in letters
    ]


def _completed(letters: list[str]) -> list[str]:
    """Name the last axes Y and X where something else is named; all ``?`` where that fails."""
    letters = list(letters)
    nothing = ["?"] * len(letters)
    if letters == nothing:
        return nothing
    for letter in "XY":
        free = [i for i, known in enumerate(letters) if known == "?"]
        if letter not in letters and free:
            letters[free[-1]] = letter
    return letters if {"Y", "X"} <= set(letters) else nothing
