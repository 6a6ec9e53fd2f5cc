"""Tells when a person gives a layer other data, or draws in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari.layers import Layer

__all__ = ["DataWatch"]


class DataWatch:
    """Watches the data of some layers.

    Parameters
    ----------
    tell : callable
        Called without arguments when the data of one of them change.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self._layers: list[Layer] = []

    def watch(self, *choices: Any) -> None:
        """Watch these and no others; what is no layer is left out."""
        layers = [choice for choice in choices if isinstance(choice, Layer)]
        for layer in set(self._layers) - set(layers):
            layer.events.data.disconnect(self._changed)
        for layer in set(layers) - set(self._layers):
            layer.events.data.connect(self._changed)
        self._layers = layers

    def _changed(self, _event: object = None) -> None:
        self._tell()
