"""Original and denoised compared: side by side, with a swipe, and at the press of a key."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Layer

from ._comparison import Comparison, bare, end_comparison, set_until
from ._origin import about, source_of
from ._swipe import Swipe

__all__ = ["KEY", "SideBySide", "Swipe", "Toggle", "find_pairs", "show_side_by_side"]

KEY = "Shift-D"
"""Toggles original and denoised; neither napari's menus nor its viewer or layers use it."""


def find_pairs(viewer: ViewerModel) -> list[tuple[Image, Image]]:
    """Find the layers that belong together.

    Parameters
    ----------
    viewer : ViewerModel

    Returns
    -------
    list of (original, denoised)
        From the lowest denoised layer to the topmost; those whose source is gone are left out.
    """
    layers = list(bare(viewer).layers)
    pairs = []
    for layer in layers:
        if isinstance(layer, Image) and about(layer).get("kind") == "denoised":
            original = source_of(layer, layers)
            if isinstance(original, Image):
                pairs.append((original, layer))
    return pairs


class SideBySide(Comparison):
    """Original left, denoised right, in the grid of the viewer.

    Parameters
    ----------
    viewer : ViewerModel
    original, denoised : Image
        Both take the contrast of the original, and share it while shown.
    """

    def _begin(self, undo: ExitStack) -> None:
        grid, layers = self.viewer.canvas.grid, self.viewer.layers
        self._show_only(undo, (self.original, self.denoised), Layer)
        for layer in (self.original, self.denoised):
            set_until(undo, layer.name_overlay, visible=True)
        self._same_contrast(undo)
        # The grid fills from the lowest layer on, or with a negative stride from the topmost.
        below = layers.index(self.original) < layers.index(self.denoised)
        seen = np.array(self.viewer.canvas.viewbox_size(layers)) / self.viewer.scene.camera.zoom
        set_until(undo, grid, stride=1 if below else -1, shape=(1, 2), spacing=4, enabled=True)
        if self.viewer.dims.ndisplay == 2:
            self._keep_in_view(undo, seen)

    def _is_covered_by(self, layer: Layer) -> bool:
        """Any layer that is shown takes a cell of the grid."""
        return bool(layer.visible)

    def _keep_in_view(self, undo: ExitStack, seen: np.ndarray[Any, Any]) -> None:
        """Zoom out so that the half of the canvas shows of the image what the whole one did."""
        camera, displayed = self.viewer.scene.camera, list(self.viewer.dims.displayed)
        size = np.ptp(self.viewer.layers.extent.world, axis=0)[displayed]
        half = np.array(self.viewer.canvas.viewbox_size(self.viewer.layers))
        before = camera.zoom
        camera.zoom = now = float(min(before, *(half / np.minimum(seen, 1.05 * size))))

        def restore() -> None:
            if camera.zoom == now:  # else the user has chosen another one
                camera.zoom = before

        undo.callback(restore)


_shown: WeakKeyDictionary[ViewerModel, SideBySide] = WeakKeyDictionary()


def show_side_by_side(viewer: ViewerModel, original: Image, denoised: Image, on: bool) -> None:
    """Show two layers side by side, or go back to how the viewer was before.

    Parameters
    ----------
    viewer : ViewerModel
    original, denoised : Image
    on : bool
        Show, or go back; going back where nothing is shown does nothing.

    Raises
    ------
    ValueError
        A layer is not in the viewer.
    """
    viewer = bare(viewer)
    before = _shown.pop(viewer, None)
    if before is not None:
        before.off()
    if on:
        comparison = SideBySide(viewer, original, denoised)
        comparison.on()
        _shown[viewer] = comparison


class Toggle:
    """A key that shows the original where the denoised layer is shown, and back.

    The pair is that of the selected layers, or the topmost of the viewer; other results of its
    movie are hidden. A comparison of another kind ends, since its labels would lie.
    """

    def __init__(self) -> None:
        self._bound: tuple[ViewerModel, str] | None = None
        self._before: Callable[..., Any] | None = None

    def bind(self, viewer: ViewerModel, key: str = KEY) -> None:
        """Take a key of the viewer.

        Parameters
        ----------
        viewer : ViewerModel
        key : str
            As napari writes keys, such as ``Shift-D``.
        """
        self.unbind()
        viewer = bare(viewer)
        self._before = viewer.bind_key(key, self.toggle, overwrite=True)
        self._bound = viewer, key

    def unbind(self) -> None:
        """Give the key back to whoever had it before."""
        if self._bound is None:
            return
        (viewer, key), self._bound = self._bound, None
        removed = viewer.bind_key(key, None)
        back = self._before if removed == self.toggle else removed  # else someone took it from us
        if back is not None:
            viewer.bind_key(key, back)
        self._before = None

    def toggle(self, viewer: ViewerModel) -> None:
        """Show the other of the two; the frame stays.

        Parameters
        ----------
        viewer : ViewerModel
        """
        viewer = bare(viewer)
        pairs = find_pairs(viewer)
        if not pairs:
            viewer.status = "There is no denoised layer to compare with its original."
            return
        end_comparison(viewer)
        # One result of each movie, the topmost of those that are meant: several hide each other.
        chosen = dict([p for p in pairs if viewer.layers.selection & set(p)] or pairs[-1:])
        show = not list(chosen.values())[-1].visible
        for original, denoised in pairs:
            if original in chosen:
                denoised.visible = show and chosen[original] is denoised
                original.visible = not show
        viewer.status = "denoised" if show else "original"
