"""Arrows and colours show the flow that was measured, where it was measured."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

napari = pytest.importorskip("napari", reason="napari is not installed")

import dask.array as da  # noqa: E402
from napari.components import ViewerModel  # noqa: E402
from napari.layers import Image, Vectors  # noqa: E402

from napari_stbn._napari import _flow_colours  # noqa: E402
from napari_stbn._napari.flow_layers import (  # noqa: E402
    flow_colour_image,
    flow_vectors,
    set_flow_density,
)
from napari_stbn._napari.layers import LayerStack, Region, layer_stack  # noqa: E402

T, Y, X = 4, 64, 48


def source_of(axes: str = "TYX", **options: Any) -> LayerStack:
    sizes = {"T": T, "C": 2, "Z": 3, "Y": Y, "X": X, "S": 3}
    data = np.zeros([sizes[axis] for axis in axes], np.uint8)
    return layer_stack(Image(data, name="m", rgb="S" in axes, **options), axes=axes)


def constant(dx: float, dy: float) -> np.ndarray:
    flow = np.empty((T - 1, 2, Y, X), np.float32)
    flow[:, 0], flow[:, 1] = dx, dy
    return flow


def rotation(angle: float = 0.1) -> np.ndarray:
    y, x = np.mgrid[:Y, :X] - np.array([[[(Y - 1) / 2]], [[(X - 1) / 2]]])
    return np.broadcast_to(np.stack([-angle * y, angle * x]), (T - 1, 2, Y, X)).astype(np.float32)


def about(layer: Any) -> dict[str, Any]:
    found: dict[str, Any] = layer.metadata["napari-stbn"]
    assert json.loads(json.dumps(found)) == found
    return found


def test_starts_directions_and_speeds_of_a_rotation() -> None:
    layer = flow_vectors(rotation(), source_of(), density=8)
    start, direction = layer.data[:, 0], layer.data[:, 1]
    assert set(start[:, 0]) == {0, 1, 2}  # the last frame has no next one
    assert set(start[:, 1]) == set(np.arange(3.5, Y, 8))
    assert set(start[:, 2]) == set(np.arange(3.5, X, 8))
    y, x = start[:, 1] - (Y - 1) / 2, start[:, 2] - (X - 1) / 2
    dx, dy = layer.features["dx"], layer.features["dy"]
    fast = np.hypot(x, y) > 8  # nearer to the centre part of a cell stands still
    np.testing.assert_allclose(dx[fast], -0.1 * y[fast], atol=0.01)
    np.testing.assert_allclose(dy[fast], 0.1 * x[fast], atol=0.01)
    np.testing.assert_allclose(layer.features["speed"], np.hypot(dx, dy), rtol=1e-6)
    assert not direction[:, 0].any()
    inside = (
        (start[:, 1] > 15) & (start[:, 1] < Y - 16) & (start[:, 2] > 15) & (start[:, 2] < X - 16)
    )
    np.testing.assert_allclose(direction[inside, 1], dy[inside], atol=1e-6)
    np.testing.assert_allclose(direction[inside, 2], dx[inside], atol=1e-6)
    # shortened at the border, never turned
    np.testing.assert_allclose(direction[:, 1] * dx, direction[:, 2] * dy, atol=1e-4)
    assert about(layer)["speed_unit"] == "px/frame"


def test_arrows_stay_in_the_frame() -> None:
    layer = flow_vectors(constant(3, -3), source_of())
    ends = layer.data[:, 0] + layer.length * layer.data[:, 1]
    assert ends[:, 1].min() >= 0
    assert ends[:, 2].max() <= X - 1
    assert about(layer)["display_gain"] == layer.length > 1


def test_a_small_fast_thing_keeps_its_speed() -> None:
    flow = constant(0, 0)
    flow[:, 0, 16:24, 16:24] = 3
    layer = flow_vectors(flow, source_of(), density=16)
    np.testing.assert_allclose(layer.data[:, 0], [[t, 23.5, 23.5] for t in range(T - 1)])
    np.testing.assert_allclose(layer.features["speed"], 3)


def test_speed_in_micrometres_per_second() -> None:
    source = source_of(scale=(500, 0.2, 0.1), units=("ms", "um", "um"))
    layer = flow_vectors(constant(3, 2), source)
    assert about(layer)["speed_unit"] == "µm/s"
    np.testing.assert_allclose(layer.features["speed"], np.hypot(3 * 0.1, 2 * 0.2) / 0.5, rtol=1e-3)
    np.testing.assert_allclose(layer.features["dx"], 3)
    np.testing.assert_allclose(layer.scale, source.layer.scale)
    assert layer.units == source.layer.units


@pytest.mark.parametrize("axes", ["YXT", "TXY", "ZTYX", "TCZYX", "CTYX", "TYXS"])
def test_any_order_of_axes(axes: str) -> None:
    source = source_of(axes)
    spatial = axes.rstrip("S")
    channels, planes = source.stack.size("C"), source.stack.n_planes
    flow = np.zeros((channels, planes, T - 1, 2, Y, X), np.float32)
    for c in range(channels):
        for z in range(planes):
            flow[c, z, :, 0] = 1 + c + 2 * z
    given = flow if channels * planes > 1 else flow[0, 0]
    layer = flow_vectors(given, source)
    assert layer.ndim == len(spatial)
    start = {axis: layer.data[:, 0, i] for i, axis in enumerate(spatial)}
    moved = {axis: layer.data[:, 1, i] for i, axis in enumerate(spatial)}
    assert len(layer.data) == channels * planes * (T - 1) * (Y // 16) * (X // 16)
    expected = 1 + start.get("C", 0 * start["T"]) + 2 * start.get("Z", 0 * start["T"])
    np.testing.assert_allclose(layer.features["dx"], expected)
    assert (moved["X"] > 0).all()
    assert not any(value.any() for axis, value in moved.items() if axis != "X")
    assert start["Y"].max() == Y - 8.5
    assert start["X"].max() == X - 8.5
    colours, arguments = flow_colour_image(given, source)
    assert colours.shape == (*(source.stack.size(axis) for axis in spatial), 3)
    image = Image(colours, **arguments)
    assert image.rgb
    assert image.ndim == len(spatial)


def test_channels_denoised_together_share_their_flow() -> None:
    source = source_of("CTYX")
    layer = flow_vectors(constant(2, 0)[None, None], source)
    assert set(layer.data[:, 0, 0]) == {0, 1}
    cells = layer.metadata["napari-stbn-flow"].cells
    assert cells[0][1] is cells[1][1]


def test_colours_of_rgb_denoised_one_by_one_have_one_arrow() -> None:
    flow = np.stack([constant(k, 0) for k in (1, 2, 3)])[:, None]
    layer = flow_vectors(flow, source_of("TYXS"))
    np.testing.assert_allclose(layer.features["dx"], 2)


def test_density_changes_long_after() -> None:
    flow = rotation()
    layer = flow_vectors(flow, source_of(), density=16)
    few = len(layer.data)
    del flow
    set_flow_density(layer, 8)
    assert len(layer.data) > 3 * few
    assert len(layer.features) == len(layer.edge_color) == len(layer.data) == about(layer)["arrows"]
    assert layer.edge_color_mode == "colormap"
    again = flow_vectors(rotation(), source_of(), density=8)
    np.testing.assert_array_equal(layer.data, again.data)
    np.testing.assert_allclose(layer.edge_color, again.edge_color)
    assert layer.length == again.length
    layer.length = 33
    set_flow_density(layer, 16)
    assert len(layer.data) == few
    assert layer.length == 33  # chosen by a person
    with pytest.raises(ValueError, match="not a flow layer"):
        set_flow_density(Vectors(ndim=3), 8)
    with pytest.raises(ValueError, match="positive"):
        set_flow_density(layer, 0)


def test_too_many_arrows_are_thinned_and_it_is_said() -> None:
    layer = flow_vectors(constant(1, 1), source_of(), density=4, max_arrows=200)
    assert len(layer.data) <= 200
    assert about(layer)["density"] == 8
    assert len(flow_vectors(constant(1, 1), source_of(), max_arrows=1).data) == T - 1


@pytest.mark.parametrize("axes", ["TYX", "TCZYX"])
def test_no_motion_is_an_empty_layer_that_napari_takes(axes: str) -> None:
    source = source_of(axes)
    flow = constant(0, 0)
    if axes != "TYX":
        flow = np.zeros((2, 3, *flow.shape), np.float32)
    viewer = ViewerModel()
    viewer.add_layer(source.layer)
    before = viewer.dims.range
    layer = viewer.add_layer(flow_vectors(flow, source))
    assert layer.data.shape == (0, 2, len(axes))
    assert viewer.dims.range == before
    viewer.dims.set_current_step(0, 2)
    set_flow_density(layer, 8)
    viewer.layers.remove(layer)


def test_motion_that_only_a_finer_grid_finds() -> None:
    flow = constant(0, 0)
    flow[:, 1, :4, :4] = 2
    layer = flow_vectors(flow, source_of(), density=16)
    assert not len(layer.data)
    set_flow_density(layer, 4)
    np.testing.assert_allclose(layer.data[:, 0, 1:], 1.5)
    assert layer.edge_color_mode == "colormap"
    set_flow_density(layer, 16)
    assert not len(layer.data)
    set_flow_density(layer, 8)
    assert len(layer.edge_color) == len(layer.data) == T - 1


def test_unknown_flow_is_no_motion_and_wrong_flow_is_refused() -> None:
    flow = constant(np.nan, np.inf)
    assert not len(flow_vectors(flow, source_of()).data)
    assert not flow_colour_image(flow, source_of())[0].any()
    with pytest.raises(ValueError, match=r"must have shape \(3, 2, 64, 48\)"):
        flow_vectors(flow[:, :, :-1], source_of())


def test_odd_frames_and_a_region_are_in_place() -> None:
    layer = Image(np.zeros((T, Y, X)), scale=(1, 0.5, 0.5), translate=(0, 3, 4))
    source = layer_stack(layer, region=Region(slice(5, 26), slice(7, 40)))  # 21 x 33
    arrows = flow_vectors(constant(1, 0)[:, :, 5:26, 7:40], source)
    assert set(arrows.data[:, 0, 1]) == {7.5, 18.0}  # 16 rows, and the 5 that remain
    np.testing.assert_allclose(arrows.features["dx"], 1)
    np.testing.assert_allclose(arrows.data_to_world((0, 0, 0)), layer.data_to_world((0, 5, 7)))


def test_the_wheel_and_its_scale() -> None:
    flow = constant(0, 0)
    flow[:, 0, :, :16] = 4
    flow[:, 0, :, 16:32] = -2
    flow[2, :, :, :16] = [[[0.0]], [[4.0]]]
    colours, arguments = flow_colour_image(flow, source_of())
    assert colours.dtype == np.uint8
    assert arguments["visible"] is False
    assert arguments["metadata"]["napari-stbn"]["full_colour"] == pytest.approx(4)
    np.testing.assert_array_equal(colours[0, 0, 0], (255, 0, 0))
    np.testing.assert_array_equal(colours[0, 0, 20], (0, 130, 130))
    np.testing.assert_array_equal(colours[0, 0, 40], (0, 0, 0))
    np.testing.assert_array_equal(colours[2, 0, 0], (128, 255, 0))
    np.testing.assert_array_equal(colours[3], colours[2])  # the last frame has no next one


@pytest.mark.parametrize("axes", ["TYX", "YXT", "CTXY"])
def test_large_movies_are_painted_when_looked_at(axes: str, monkeypatch: Any) -> None:
    source = source_of(axes)
    flow = constant(0, 1) + np.repeat(np.arange(Y // 8, dtype=np.float32), 8)[:, None]
    if "C" in axes:
        flow = np.stack([flow, -flow])[:, None]
    flow = flow.astype(np.float32)
    in_memory, _ = flow_colour_image(flow, source)
    monkeypatch.setattr(_flow_colours, "_COLOURS_IN_MEMORY", 1)
    lazy, arguments = flow_colour_image(flow, source)
    assert isinstance(lazy, da.Array)
    np.testing.assert_array_equal(np.asarray(lazy), in_memory)
    viewer = ViewerModel()
    viewer.add_layer(Image(lazy, **arguments)).visible = True
    viewer.dims.set_current_step(0, 1)
