"""Swipe: denoised left of a line, original right of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.components.overlays import TextOverlay
from napari.experimental import layers_linked
from napari.layers import Image, Layer

from ._comparison import METADATA, Comparison, connect, set_until

__all__ = ["Swipe"]

_GRAB = 6.0  # screen px from the line within which the mouse takes hold of it
_LINE = "#ffd400"  # seen on gray, green and magenta alike
_GEOMETRY = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
_LOOK = ("colormap", "contrast_limits", "gamma", "interpolation2d", "opacity")


class Swipe(Comparison):
    """Denoised left of a line, original right of it; the line follows the mouse.

    Parameters
    ----------
    viewer : ViewerModel
    original, denoised : Image
        Both take the contrast of the original, and share it while shown. The denoised one may
        cover a part of the original.
    position : float
        Of the line, from 0 (all original) to 1 (all denoised), across the denoised layer.
    on_move : callable, optional
        Told the position whenever it changes, such as to move a slider along.

    Notes
    -----
    In 2D napari does not clip images. What lies left of the line is therefore a layer of its own,
    a view of the denoised layer's array up to the line: it copies nothing, and napari slices it
    along with the other layers. It hides in 3D.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        original: Image,
        denoised: Image,
        *,
        position: float = 0.5,
        on_move: Callable[[float], object] | None = None,
    ) -> None:
        super().__init__(viewer, original, denoised)
        self.strip: Image | None = None
        self._position = min(max(float(position), 0.0), 1.0)
        self._on_move = on_move
        self._style_before: Any = None  # of the cursor; not None while near the line

    @property
    def position(self) -> float:
        """Of the line, from 0 at the left edge of the image to 1 at the right."""
        return self._position

    @position.setter
    def position(self, value: float) -> None:
        value = min(max(float(value), 0.0), 1.0)
        if value == self._position:
            return
        self._position = value
        self.refresh()
        if self._on_move is not None:
            self._on_move(value)

    def refresh(self) -> None:
        """Show the denoised layer's values anew, after they were changed in place."""
        if self.strip is None:
            return
        axis, columns = self._axis(), self._columns()
        self.strip.visible = axis is not None and columns > 0
        if self.strip.visible:
            self.strip.data = self._left(axis or 0, columns)

    def _begin(self, undo: ExitStack) -> None:
        layers, denoised = self.viewer.layers, self.denoised
        if denoised.multiscale:
            raise ValueError(
                f'"{denoised.name}" is multiscale and cannot be swiped; use side by side instead'
            )
        self._show_only(undo, (self.original,), Image)
        self._same_contrast(undo)
        if self.viewer.canvas.grid.enabled:  # it would tear strip and original apart
            set_until(undo, self.viewer.canvas.grid, enabled=False)
        self.strip = strip = self._make_strip()
        undo.callback(self._remove_strip)
        chosen, active = set(layers.selection), layers.selection.active
        layers.insert(max(layers.index(self.original), layers.index(denoised)) + 1, strip)
        layers.selection.clear()  # napari selects what is added; keep the user's choice
        layers.selection.update(chosen)
        layers.selection.active = active
        shared = ("contrast_limits", "gamma", "colormap", "interpolation2d")
        undo.enter_context(layers_linked([denoised, strip], shared))
        for name, word in (("left", "denoised"), ("right", "original")):
            self._write(undo, f"top_{name}", word)
        dims = self.viewer.dims.events
        for emitter in (dims.order, dims.ndisplay, dims.ndim, denoised.events.data):
            connect(undo, emitter, self._on_dims)
        for callbacks, callback in (
            (self.viewer.mouse_drag_callbacks, self._drag),
            (self.viewer.mouse_move_callbacks, self._hover),
        ):
            callbacks.append(callback)
            undo.callback(callbacks.remove, callback)
        undo.callback(self._leave)
        self.refresh()

    def _make_strip(self) -> Image:
        """The layer left of the line, which looks like the denoised layer, opaque and framed."""
        like = self.denoised
        strip = Image(
            self._left(self._axis() or 0, max(1, self._columns())),
            name=f"swipe: {like.name}",
            rgb=like.rgb,
            **{name: getattr(like, name) for name in _GEOMETRY + _LOOK},
            blending="opaque",
            metadata={METADATA: {"kind": "swipe", "source": like.name}},
        )
        box = strip.bounding_box  # its right edge is the line; it is as thin at any zoom
        box.points, box.line_color, box.line_thickness, box.visible = False, _LINE, 1.5, True
        return strip

    def _remove_strip(self) -> None:
        strip, self.strip = self.strip, None
        if strip in self.viewer.layers:
            self.viewer.layers.remove(strip)

    def _needs(self, layer: Layer) -> bool:
        return super()._needs(layer) or layer is self.strip

    def _write(self, undo: ExitStack, corner: str, text: str) -> None:
        """Write into a corner of the canvas, beside whatever the user has written there."""
        overlays, name = self.viewer.canvas.overlays, f"{METADATA} {text}"
        overlays[name] = TextOverlay(text=text, position=corner, visible=True)
        undo.callback(overlays.pop, name)

    def _axis(self) -> int | None:
        """Axis of the layer that runs from left to right on the screen."""
        dims = self.viewer.dims
        axis = dims.displayed[-1] - (dims.ndim - self.denoised.ndim)
        return axis if dims.ndisplay == 2 and axis >= 0 else None

    def _width(self) -> int:
        axis = self._axis()
        return 1 if axis is None else int(self.denoised.data.shape[axis])

    def _columns(self) -> int:
        """Columns left of the line."""
        return round(self._position * self._width())

    def _left(self, axis: int, columns: int) -> Any:
        return self.denoised.data[(slice(None),) * axis + (slice(columns),)]

    def _on_dims(self) -> None:
        self.refresh()

    def _column(self, position: tuple[float, ...]) -> float:
        """Column of a point of the world, 0 at the left edge of the image."""
        axis = self._axis()
        return np.nan if axis is None else float(self.denoised.world_to_data(position)[axis]) + 0.5

    def _near(self, position: tuple[float, ...]) -> bool:
        """Whether the mouse is close enough to the line to take hold of it."""
        axis, camera = self._axis(), self.viewer.scene.camera
        if axis is None or not camera.mouse_pan:  # in 3D, or while the user draws
            return False
        pixel = abs(float(self.denoised.scale[axis])) * camera.zoom
        return bool(abs(self._column(position) - self._columns()) * pixel <= _GRAB)

    def _drag(self, _viewer: ViewerModel, event: Any) -> Iterator[None]:
        """Move the line with the mouse; the camera stays meanwhile."""
        if event.button != 1 or not self._near(event.position):
            return
        camera = self.viewer.scene.camera
        camera.mouse_pan = False
        try:
            yield
            while event.type == "mouse_move":
                # Never quite out of the image, where it could not be caught again.
                column = min(max(self._column(event.position), 1.0), self._width() - 1.0)
                self.position = column / self._width()
                yield
        finally:
            camera.mouse_pan = True

    def _hover(self, _viewer: ViewerModel, event: Any) -> None:
        """Show a hand near the line."""
        if not self._near(event.position):
            self._leave()
        elif self._style_before is None:
            self._style_before = self.viewer.cursor.style
            self.viewer.cursor.style = "pointing"

    def _leave(self) -> None:
        if self._style_before is not None:
            self.viewer.cursor.style, self._style_before = self._style_before, None
