"""The frame on the screen, as the fit sees it by now: a layer that follows the time slider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._own_layers import results_of
from ._placement import data_to_world
from ._run import Look, View
from ._screen import garbage_kept
from .layers import LayerStack, visible_region

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image
    from numpy.typing import NDArray

    from .job import DenoisingJob

__all__ = ["Preview"]


class Preview:
    """A preview layer above the source and its earlier results; removed when the job ends.

    Parameters
    ----------
    viewer : napari.Viewer or ViewerModel
    source : LayerStack
    job : DenoisingJob
        Told which frame is on the screen, and asked to look at it.
    """

    def __init__(self, viewer: ViewerModel, source: LayerStack, job: DenoisingJob) -> None:
        self.viewer, self.source, self.job = viewer, source, job
        self.layer: Image | None = None
        self._wanted = True  # until the user removes the layer
        for emitter in self._emitters():
            emitter.connect(self._moved)
        viewer.layers.events.removed.connect(self._removed)
        job.looked.connect(self._show)
        job.finished.connect(self.close)
        self._moved()
        if job.controls.view is not None:
            # Now: a new layer takes napari a tenth of a second, longer while the fit runs.
            self.layer = self._add(_nothing(job.controls.view))
            self.layer.opacity = 0.0

    def close(self, _state: str = "") -> None:
        """Remove the layer and forget the viewer."""
        for emitter in self._emitters():
            emitter.disconnect(self._moved)
        self.viewer.layers.events.removed.disconnect(self._removed)
        self.job.looked.disconnect(self._show)
        self.job.finished.disconnect(self.close)
        self.job.controls.view = None
        layer, self.layer = self.layer, None
        if layer is not None and layer in self.viewer.layers:
            with garbage_kept():
                self.viewer.layers.remove(layer)

    def _emitters(self) -> list[Any]:
        """What tells that something else is on the screen."""
        dims = self.viewer.dims.events
        return [dims.current_step, dims.order, dims.ndisplay, self.viewer.scene.camera.events]

    def _removed(self, event: Any) -> None:
        if self.layer is not None and event.value is self.layer:
            self.layer, self._wanted = None, False
            self.job.controls.view = None

    def _moved(self, _event: Any = None) -> None:
        """Tell the job what is on the screen now."""
        if not self._wanted:
            return
        view = self._view()
        before, self.job.controls.view = self.job.controls.view, view
        if self.layer is not None and _place(before) != _place(view):
            self.layer.opacity = 0.0  # a preview of another frame would lie

    def _view(self) -> View | None:
        """The part of the stack on the screen; None where it cannot be told, such as in 3D."""
        layer, axes = self.source.layer, self.source.axes
        if self.viewer.dims.ndisplay != 2 or layer.rgb or layer not in self.viewer.layers:
            return None
        if layer.ndim != len(axes):
            return None  # its data were replaced
        displayed = {a - self.viewer.dims.ndim + len(axes) for a in self.viewer.dims.displayed}
        if displayed != {axes.index("Y"), axes.index("X")}:
            return None
        point = layer.world_to_data(self.viewer.dims.point[-layer.ndim :])
        where = {}
        for axis, position, part in zip(axes, point, self.source.selection, strict=False):
            length = len(range(*part.indices(2**31)))
            index = round((float(position) - (part.start or 0)) / (part.step or 1))
            if axis in "TCZ" and not 0 <= index < length:
                return None  # a channel or plane that is not denoised
            where[axis] = index
        try:
            rows, columns = visible_region(self.viewer, layer, axes)
        except ValueError:
            return None  # nothing of the layer is in view
        spans = []
        for axis, seen in (("Y", rows), ("X", columns)):
            part = self.source.selection[axes.index(axis)]
            start = part.start or 0
            spans.append((max(0, seen.start - start), max(0, seen.stop - start)))
        return View(where.get("T", 0), where.get("C", 0), where.get("Z", 0), spans[0], spans[1])

    def _show(self, look: Look) -> None:
        now = self.job.controls.view
        if now is None or _place(look.view) != _place(now):
            return
        if self.layer is None:
            if not self._wanted:
                return
            self.layer = self._add(look)
        else:
            self.layer.data = self._data(look)
            self.layer.affine = self._affine(look.view)  # anew: the user may have moved the source
            if self.layer.units != self.source.layer.units:
                self.layer.units = self.source.layer.units
            self.layer.opacity = 1.0

    def _data(self, look: Look) -> NDArray[np.float32]:
        """The image with the axes of the source, those besides Y and X of length 1."""
        axes = self.source.axes
        image = look.image if axes.index("Y") < axes.index("X") else look.image.T
        return np.expand_dims(image, [at for at, axis in enumerate(axes) if axis not in "YX"])

    def _affine(self, view: View) -> NDArray[np.float64]:
        """Where the preview lies in the world, with all that moves, turns or shears the source."""
        starts = {"T": view.frame, "C": view.channel, "Z": view.plane}
        starts |= {"Y": view.rows[0], "X": view.columns[0]}
        # A step is that of planes or channels; Y and X have none.
        corner = [
            (part.start or 0) + starts.get(axis, 0) * (part.step or 1)
            for axis, part in zip(self.source.axes, self.source.selection, strict=True)
        ]
        matrix = data_to_world(self.source.layer)
        matrix[:-1, -1] += matrix[:-1, :-1] @ corner
        return matrix

    def _add(self, look: Look) -> Image:
        from napari.layers import Image

        layer = self.source.layer
        preview = Image(
            self._data(look),
            name=f"{layer.name} preview",
            rgb=False,
            affine=self._affine(look.view),
            units=layer.units,
            axis_labels=layer.axis_labels,
            colormap=layer.colormap,
            contrast_limits=layer.contrast_limits,
            gamma=layer.gamma,
            blending="opaque" if layer.blending == "opaque" else "translucent",
            metadata={"napari-stbn": {"kind": "preview", "source": layer.name}},
        )
        selected = set(self.viewer.layers.selection)
        below = [layer, *results_of(self.viewer.layers, layer)]  # an earlier result would hide it
        self.viewer.layers.insert(max(map(self.viewer.layers.index, below)) + 1, preview)
        # The user's choice stays, but for a layer of a comparison that ends now.
        self.viewer.layers.selection = selected & set(self.viewer.layers)
        return preview


def _place(view: View | None) -> tuple[int, int, int] | None:
    """Which frame of which plane and channel."""
    return None if view is None else (view.frame, view.plane, view.channel)


def _nothing(view: View) -> Look:
    """A look before the first one."""
    height, width = (max(1, stop - start) for start, stop in (view.rows, view.columns))
    return Look(view, np.zeros((height, width), np.float32))
