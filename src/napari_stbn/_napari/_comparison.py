"""What ways of comparing two layers share: all that they change is undone when they end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar
from weakref import WeakSet

from napari.components import ViewerModel
from napari.experimental import layers_linked
from napari.layers import Image, Layer

__all__ = ["METADATA", "Comparison", "bare", "connect", "end_comparison", "set_until"]

METADATA = "napari-stbn"
"""Key of our entry in the metadata of a layer."""

T = TypeVar("T")


class Comparison(ABC):
    """A way to look at two layers that leaves no trace when it is switched off.

    It ends by itself where it would not show any more what it says: when another image comes, such
    as the preview of a run, when a layer of it goes, when the grid is switched, and when another
    comparison of this viewer begins.
    """

    def __init__(self, viewer: ViewerModel, original: Image, denoised: Image) -> None:
        self.viewer = bare(viewer)
        self.original, self.denoised = bare(original), bare(denoised)
        self._undo: ExitStack | None = None
        self._in_batch = self._over = False

    @property
    def is_on(self) -> bool:
        """Whether the comparison is on the screen."""
        return self._undo is not None

    def on(self) -> None:
        """Show the comparison.

        Raises
        ------
        ValueError
            A layer is not in the viewer, or the layers cannot be compared.
        """
        if self.is_on:
            return
        for layer in (self.original, self.denoised):
            if layer not in self.viewer.layers:
                raise ValueError(f'"{layer.name}" is not in the viewer any more')
        end_comparison(self.viewer)
        self._in_batch = self._over = False
        with ExitStack() as undo:  # what was done is undone where a later step fails
            for event, callback in (
                ("removed", self._on_removed),
                ("begin_batch", self._on_batch),
                ("end_batch", self._on_batch_end),
            ):
                connect(undo, getattr(self.viewer.layers.events, event), callback)
            self._begin(undo)
            # Callbacks run in this order: napari knows a new layer before we remove one of ours.
            connect(undo, self.viewer.layers.events.inserted, self._on_inserted)
            connect(undo, self.viewer.canvas.grid.events.enabled, self.off)
            _running.add(self)
            undo.callback(_running.discard, self)
            self._undo = undo.pop_all()

    def off(self, _event: Any = None) -> None:
        """Put everything back as it was."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo.close()

    @abstractmethod
    def _begin(self, undo: ExitStack) -> None:
        """Change the viewer and say how to undo it."""

    def _needs(self, layer: Layer) -> bool:
        """Whether the comparison ends with this layer."""
        return layer in (self.original, self.denoised)

    def _is_covered_by(self, layer: Layer) -> bool:
        """Whether the comparison lies once this layer is in the viewer."""
        return isinstance(layer, Image) and layer.visible

    def _show_only(self, undo: ExitStack, shown: tuple[Layer, ...], among: type[Layer]) -> None:
        """Hide the other layers of this type, until undone."""
        layers = self.viewer.layers
        before = {layer: layer.visible for layer in layers if isinstance(layer, among)}

        def restore() -> None:
            for layer, visible in before.items():
                if layer in layers:
                    layer.visible = visible

        undo.callback(restore)
        for layer in before:
            layer.visible = layer in shown

    def _same_contrast(self, undo: ExitStack) -> None:
        """Give both the contrast of the original, and keep it so."""
        self.denoised.contrast_limits = self.original.contrast_limits
        pair = [self.original, self.denoised]
        undo.enter_context(layers_linked(pair, ("contrast_limits", "gamma")))

    def _on_removed(self, event: Any) -> None:
        if self._needs(event.value):
            self._over = True
            self._on_change()

    def _on_inserted(self, event: Any) -> None:
        if self._is_covered_by(event.value):
            self._over = True
            self._on_change()

    def _on_batch(self) -> None:
        self._in_batch = True

    def _on_batch_end(self) -> None:
        self._in_batch = False
        self._on_change()

    def _on_change(self) -> None:
        """End when it is over; not before napari has removed all that it is removing."""
        if self._over and not self._in_batch:
            self.off()


_running: WeakSet[Comparison] = WeakSet()


def end_comparison(viewer: ViewerModel) -> None:
    """End the comparison that a viewer shows, if any."""
    for comparison in list(_running):
        if comparison.viewer is viewer:
            comparison.off()


def bare(thing: T) -> T:
    """What a plugin widget gets wrapped in a proxy of napari's, itself: proxies are never `is`."""
    bare: T = getattr(thing, "__wrapped__", thing)
    return bare


def connect(undo: ExitStack, emitter: Any, callback: Callable[..., Any]) -> None:
    """Connect a callback, until undone."""
    emitter.connect(callback)
    undo.callback(emitter.disconnect, callback)


def set_until(undo: ExitStack, model: Any, **values: Any) -> None:
    """Set attributes in this order, until undone in the reverse order."""
    for name, value in values.items():
        undo.callback(setattr, model, name, getattr(model, name))
        setattr(model, name, value)
