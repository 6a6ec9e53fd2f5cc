"""The preview lies over the pixels that it shows, and shows nothing where it would lie."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

from napari.components import ViewerModel
from psygnal import Signal

from napari_stbn._napari._run import Look, View
from napari_stbn._napari.layers import layer_stack
from napari_stbn._napari.preview import Preview

SIZES = {"T": 6, "C": 2, "Z": 3, "Y": 32, "X": 40}


class Job:
    """A job whose looks the test makes."""

    looked = Signal(object)
    finished = Signal(str)

    def __init__(self) -> None:
        self.controls = SimpleNamespace(view=None)

    def look(self, source: Any) -> View:
        """Look at what is on the screen: the source's own pixels."""
        view: View = self.controls.view
        rows, columns = slice(*view.rows), slice(*view.columns)
        at = {"T": view.frame, "C": view.channel, "Z": view.plane, "Y": rows, "X": columns}
        stack = source.stack
        image = np.asarray(stack.array[tuple(at[axis] for axis in stack.axes)])
        if stack.axes.index("Y") > stack.axes.index("X"):
            image = image.T
        shown = View(
            view.frame,
            view.channel,
            view.plane,
            rows.indices(image.shape[0])[:2],
            (columns.indices(image.shape[1])[:2]),
        )
        self.looked.emit(Look(shown, image.astype(np.float32)))
        return shown


def _preview(axes: str = "TYX", **layer: Any) -> tuple[ViewerModel, Any, Job, Preview]:
    """A preview of a movie whose pixels all differ."""
    viewer = ViewerModel()
    shape = [SIZES[axis] for axis in axes]
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    image = viewer.add_image(data, name="cells", rgb=False, **layer)
    others = [at for at, axis in enumerate(axes) if axis not in "YX"]
    viewer.dims.order = (*others, axes.index("Y"), axes.index("X"))
    source = layer_stack(image, axes=axes)
    job = Job()
    preview = Preview(viewer, source, job)  # type: ignore[arg-type]
    return viewer, source, job, preview


def _check(viewer: ViewerModel, source: Any, layer: Any) -> None:
    """Wherever the preview shows a value, the source has the same."""
    assert layer.opacity == 1.0
    for y, x in ((3, 4), (20, 30)):
        inside = [y if a == "Y" else x if a == "X" else 0 for a in source.axes]
        shown = layer.data[tuple(inside)]
        world = layer.data_to_world(inside)
        assert source.layer.get_value(world, world=True) == shown
    point = np.array(viewer.dims.point)
    for axis in viewer.dims.not_displayed:
        assert np.isclose(world[axis], point[axis])  # in the slice on the screen


PLACES: dict[str, dict[str, Any]] = {
    "plain": {"scale": (3.0, 0.5, 0.5), "translate": (5.0, -10.0, 20.0)},
    "turned": {"scale": (1.0, 2.0, 2.0), "rotate": 30},
    "sheared": {"shear": [0.0, 0.0, 0.3]},
    "affine": {"affine": [[1, 0, 0, 0], [0, 1, 0.3, 4], [0, 0.1, 2, 5], [0, 0, 0, 1]]},
    "mirrored": {"scale": (1.0, -2.0, 1.0)},
}


@pytest.mark.parametrize("place", PLACES)
def test_the_preview_lies_over_what_it_shows(place: str) -> None:
    viewer, source, job, preview = _preview(**PLACES[place])
    viewer.dims.set_current_step(0, 2)
    job.look(source)
    _check(viewer, source, preview.layer)
    preview.close()
    assert list(viewer.layers) == [source.layer]


def test_the_preview_lies_over_earlier_results() -> None:
    viewer, source, job, preview = _preview()
    preview.close()
    made = {"napari-stbn": {"kind": "denoised", "source": "cells"}}
    viewer.add_image(source.layer.data + 1, name="cells denoised", metadata=made)
    viewer.add_labels(np.zeros(source.stack.shape, np.int32), name="labels")
    preview = Preview(viewer, source, job)  # type: ignore[arg-type]
    names = [layer.name for layer in viewer.layers]
    assert names == ["cells", "cells denoised", "cells preview", "labels"]
    preview.close()


@pytest.mark.parametrize("axes", ["YXT", "TXY", "YTX", "TCZYX", "CZTYX"])
def test_the_preview_has_the_axes_of_the_source(axes: str) -> None:
    viewer, source, job, preview = _preview(axes)
    for letter in set(axes) - set("YX"):
        viewer.dims.set_current_step(axes.index(letter), 1)
    job.look(source)
    _check(viewer, source, preview.layer)


@pytest.mark.parametrize("change", ["rolled", "3D"])
def test_the_preview_hides_where_it_is_not_over_the_frame(change: str) -> None:
    viewer, source, job, preview = _preview()
    job.look(source)
    assert preview.layer is not None
    assert preview.layer.opacity == 1.0
    if change == "rolled":
        viewer.dims.order = (1, 0, 2)
    else:
        viewer.dims.ndisplay = 3
    assert preview.layer.opacity == 0.0
    assert job.controls.view is None
    viewer.dims.order, viewer.dims.ndisplay = (0, 1, 2), 2
    job.look(source)
    _check(viewer, source, preview.layer)


def test_the_preview_follows_a_source_that_is_moved() -> None:
    viewer, source, job, preview = _preview()
    job.look(source)
    source.layer.scale, source.layer.translate = (1, 3, 3), (0, 10, 10)
    source.layer.units = ("s", "um", "um")
    job.look(source)
    _check(viewer, source, preview.layer)
    assert preview.layer is not None
    assert preview.layer.units == source.layer.units


def test_data_of_other_dimensions_hide_the_preview() -> None:
    viewer, source, job, preview = _preview()
    job.look(source)
    source.layer.data = np.zeros((32, 40), np.float32)
    viewer.scene.camera.zoom *= 1.5
    assert job.controls.view is None
    assert preview.layer is not None
    assert preview.layer.opacity == 0.0
