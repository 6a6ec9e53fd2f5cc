"""Layers that this plugin has added, and the movies that they were made from."""

from __future__ import annotations

from collections.abc import Iterable

from napari.layers import Image, Layer

from ._origin import about, source_of

__all__ = ["movie_of", "movies", "results_of"]

_RESULTS = ("denoised", "uncertainty", "flow", "flow colour", "residual")
# Not "simulated" and "sample": those are movies to denoise.
_OWN = (*_RESULTS, "truth", "preview", "swipe")


def movies(layers: Iterable[Layer]) -> list[Image]:
    """Image layers that one may want to denoise: ours only where there are no others."""
    images = [layer for layer in layers if isinstance(layer, Image)]
    return [layer for layer in images if about(layer).get("kind") not in _OWN] or images


def movie_of(layers: Iterable[Layer], layer: Layer | None) -> Image | None:
    """The movie that a layer stands for: itself, or what it was made from; None if that is gone."""
    offered = movies(layers)
    if layer is None or layer in offered:
        return layer
    source = source_of(layer, offered)
    return source if isinstance(source, Image) else None


def results_of(layers: Iterable[Layer], movie: Layer) -> list[Layer]:
    """What runs have made of a movie, from the lowest layer to the topmost."""
    layers = list(layers)
    return [
        layer
        for layer in layers
        if about(layer).get("kind") in _RESULTS and source_of(layer, layers) is movie
    ]
