"""Layers become stacks, and results become layers in the same place, shown in the same way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

napari = pytest.importorskip("napari", reason="napari is not installed")

import dask.array as da  # noqa: E402
import zarr  # noqa: E402
from napari.components import ViewerModel  # noqa: E402
from napari.layers import Image, Labels, Layer, Points, Shapes  # noqa: E402

from napari_stbn._napari.compare import find_pairs  # noqa: E402
from napari_stbn._napari.layers import (  # noqa: E402
    LayerStack,
    Region,
    guess_layer_axes,
    layer_stack,
    result_layers,
    shapes_region,
    visible_region,
)
from napari_stbn.result import DenoiseResult  # noqa: E402

SIZES = {"T": 5, "C": 2, "Z": 3, "Y": 24, "X": 20, "S": 3}
ORDERS = ["TYX", "ZTYX", "TZYX", "CTYX", "TCZYX", "CZTYX", "YXT", "TXY", "YTX"]


def array(axes: str, dtype: Any = np.uint16, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    shape = [SIZES[axis] for axis in axes]
    return generator.integers(0, 200, shape).astype(dtype)


def result_of(source: LayerStack, *, uncertainty: bool = True) -> DenoiseResult:
    """A result made by hand: the stack less 1, and no motion."""
    stack = source.stack
    noisy = np.asarray(stack.array).astype(np.float32)
    frames = (stack.n_frames - 1, 2, *stack.frame_shape)
    joint = "S" in stack.axes
    channels = 1 if joint else stack.n_channels
    single = channels * stack.n_planes == 1
    flow = np.zeros(frames if single else (channels, stack.n_planes, *frames), np.float32)
    return DenoiseResult(
        denoised=noisy - 1,
        uncertainty=np.full(stack.shape, 2, np.float32) if uncertainty else None,
        flow_to_previous=flow,
        flow_to_next=flow,
        noise={0: None},
        stack=stack.like(noisy - 1),
        report={"seed": np.int64(3), "noise": {0: None}, "seconds": np.float32(0.5)},
    )


# ---------------------------------------------------------------------------------------- axes


@pytest.mark.parametrize("axes", ORDERS)
def test_labels_that_say_everything_are_believed_in_silence(axes: str) -> None:
    words = {"T": "Time", "C": "channel", "Z": "plane", "Y": "y", "X": "X"}
    layer = Image(array(axes), axis_labels=[words[a] for a in axes], rgb=False)
    assert guess_layer_axes(layer) == (axes, "")


@pytest.mark.parametrize(
    ("shape", "axes"), [((9, 24, 20), "TYX"), ((2, 9, 24, 20), "CTYX"), ((9, 7, 24, 20), "TZYX")]
)
@pytest.mark.parametrize("labels", [None, "axis {}", ""])
def test_default_labels_mean_nothing(shape: tuple[int, ...], axes: str, labels: str | None) -> None:
    named = None if labels is None else [labels.format(i) for i in range(-len(shape), 0)]
    guess, sentence = guess_layer_axes(Image(np.zeros(shape), axis_labels=named))
    assert guess == axes
    assert axes in sentence
    assert 'set "axes"' in sentence


def test_some_labels_and_units_of_time_steer_the_guess() -> None:
    data = np.zeros((9, 7, 24, 20))
    assert guess_layer_axes(Image(data, axis_labels=("a", "time", "row?", "-1")))[0] == "ZTYX"
    by_unit, sentence = guess_layer_axes(Image(data, units=("um", "s", "um", "um")))
    assert by_unit == "ZTYX"
    assert "units" in sentence
    assert guess_layer_axes(Image(data, axis_labels=("y", "x", "t", "z")))[0] == "YXTZ"
    assert guess_layer_axes(Image(data, axis_labels=("t", "t", "y", "x")))[0] == "TZYX"


def test_planes_without_time_are_taken_for_time_and_it_is_said() -> None:
    axes, sentence = guess_layer_axes(Image(np.zeros((9, 24, 20)), axis_labels=("z", "y", "x")))
    assert axes == "TYX"
    assert "9 planes" in sentence


@pytest.mark.parametrize("n", [3, 4])
@pytest.mark.parametrize("labels", [None, ("t", "y", "x")])
def test_rgb_ends_in_colours(n: int, labels: tuple[str, ...] | None) -> None:
    layer = Image(np.zeros((5, 40, 36, n), np.uint8), rgb=True, axis_labels=labels)
    axes, sentence = guess_layer_axes(layer)
    assert axes == "TYXS"
    assert (sentence == "") is (labels is not None)
    # three columns beside the colours are columns
    narrow = Image(np.zeros((5, 40, 3, n), np.uint8), rgb=True)
    assert guess_layer_axes(narrow)[0] == "TYXS"


# ------------------------------------------------------------------------------- layer to stack


@pytest.mark.parametrize("axes", ORDERS)
def test_every_order_of_axes_and_back(axes: str) -> None:
    data = array(axes)
    source = layer_stack(Image(data.copy(), name="m", rgb=False), axes=axes.lower())
    assert source.axes == source.stack.axes == axes
    assert source.stack.name == "m"
    layers = result_layers(source, result_of(source), residual=True)
    assert [layer.name for layer in layers] == [
        f"m {kind}" for kind in ("denoised", "uncertainty", "flow", "flow colour", "residual")
    ]
    assert layers[0].data.shape == data.shape
    assert all(layer.ndim == data.ndim for layer in layers)
    np.testing.assert_array_equal(layers[0].data, data.astype(np.float32) - 1)
    np.testing.assert_array_equal(layers[4].data, 1)
    np.testing.assert_array_equal(source.layer.data, data)  # untouched


def test_refusals_are_one_sentence_with_a_remedy() -> None:
    movie = Image(array("TYX"), name="cells")

    def refused(match: str, layer: Layer = movie, **options: Any) -> None:
        with pytest.raises(ValueError, match=match) as caught:
            layer_stack(layer, **options)
        assert "\n" not in str(caught.value)

    refused("is a Labels layer; denoising needs an Image", Labels(array("TYX", np.int32)))
    refused("is a Points layer", Points(np.zeros((3, 2))))
    refused("is a Shapes layer", Shapes())
    refused("has 1 frame", Image(np.zeros((24, 20))))
    refused("has 1 frame", Image(np.zeros((1, 24, 20))))
    refused("has 1 frame.*axes", Image(array("TYX")), axes="ZYX")
    refused("one letter per dimension", axes="TZYX")
    refused("must contain Y and X", axes="TCZ")
    refused("must end in S", Image(np.zeros((5, 40, 36, 3), np.uint8)), axes="TCYX")
    refused("bool", Image(np.zeros((5, 24, 20), bool)))
    refused("has 1 channel, numbered.*no channel 1", channels=[1])
    refused("has 1 plane, .*no plane -1", planes=[0, -1])
    refused("No channel", channels=[])
    refused("7 x 20 pixels.*8 x 8", region=Region(slice(3, 10), slice(0, 99)))
    refused("0 x 20", region=Region(slice(40, 60), slice(0, 20)))
    refused("6 x 20", Image(np.zeros((5, 6, 20))))
    with pytest.raises(ValueError, match="evenly spaced"):
        layer_stack(Image(np.zeros((4, 5, 24, 20)), rgb=False), axes="CTYX", channels=[0, 1, 3])


@pytest.mark.parametrize(
    ("unit", "seconds"), [("s", 2.0), ("ms", 0.002), ("min", 120.0), ("hour", 7200.0)]
)
def test_units_become_pixel_size_and_interval(unit: str, seconds: float) -> None:
    layer = Image(array("TZYX"), scale=(2, 300, 0.1, 200), units=(unit, "nm", "um", "nm"))
    stack = layer_stack(layer, axes="TZYX").stack
    assert stack.frame_interval == pytest.approx(seconds)
    assert stack.unit == "µm"
    assert stack.pixel_size == pytest.approx({"Z": 0.3, "Y": 0.1, "X": 0.2})


def test_pixels_are_no_unit() -> None:
    stack = layer_stack(Image(array("TYX"), scale=(2, 0.5, 0.5))).stack
    assert stack.pixel_size == {}
    assert stack.frame_interval is None
    half = layer_stack(Image(array("TYX"), units=("pixel", "um", "um"))).stack
    assert half.pixel_size == {"Y": 1, "X": 1}
    assert half.frame_interval is None


def test_size_of_a_rotated_scaled_layer() -> None:
    layer = Image(
        array("TYX"), scale=(1, 0.5, 0.5), rotate=30, affine=np.diag([1, 2, 2, 1]), units="um"
    )
    assert layer_stack(layer).stack.pixel_size == pytest.approx({"Y": 1.0, "X": 1.0})


def counted(data: np.ndarray, reads: list[int]) -> da.Array:
    """One frame a block; each block that is computed is counted."""

    def read(block: np.ndarray) -> np.ndarray:
        if block.size:
            reads.append(1)
        return block

    lazy = da.from_array(data, chunks=(1, *data.shape[1:]))
    return lazy.map_blocks(read, dtype=data.dtype, meta=np.empty((0,) * data.ndim, data.dtype))


def test_dask_is_not_computed_to_be_looked_at() -> None:
    data, reads = array("TYX"), list[int]()
    layer = Image(counted(data, reads), contrast_limits=(0, 200), visible=False)
    reads.clear()
    source = layer_stack(layer, region=Region(slice(4, 20), slice(2, 14)))
    assert isinstance(source.stack.array, da.Array)
    assert not reads
    movie = source.stack.movie(frames=slice(1, 3))
    assert len(reads) == 2
    np.testing.assert_array_equal(movie, data[1:3, 4:20, 2:14])


def test_zarr_is_sliced_when_it_is_read(tmp_path: Path) -> None:
    data = array("TCYX")
    stored = zarr.create_array(tmp_path / "a.zarr", shape=data.shape, dtype=data.dtype)
    stored[:] = data
    layer = Image(stored, contrast_limits=(0, 200), rgb=False)
    source = layer_stack(
        layer, axes="TCYX", channels=[1], region=Region(slice(4, 20), slice(2, 14))
    )
    part = data[:, 1:2, 4:20, 2:14]
    assert not isinstance(source.stack.array, np.ndarray)
    assert source.stack.shape == part.shape
    np.testing.assert_array_equal(source.stack.movie(), part[:, 0])
    np.testing.assert_array_equal(np.asarray(source.stack.array), part)
    residual = result_layers(source, result_of(source), residual=True)[-1]
    np.testing.assert_array_equal(residual.data, 1)


def test_big_endian_and_a_read_only_map(tmp_path: Path) -> None:
    data = array("TYX")
    np.save(tmp_path / "a.npy", data.astype(">u2"))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    layer = Image(mapped, name="m")
    source = layer_stack(layer, region=Region(slice(0, 16), slice(0, 16)))
    assert isinstance(source.stack.array, np.memmap)
    assert source.stack.movie().dtype == np.uint16
    denoised = result_layers(source, result_of(source))[0]
    np.testing.assert_array_equal(denoised.data, data[:, :16, :16].astype(np.float32) - 1)


def test_results_know_their_source_by_more_than_its_name() -> None:
    layer = Image(array("TYX"), name="cells")
    source = layer_stack(layer)
    denoised = result_layers(source, result_of(source))[0]
    layer.name = "renamed"
    viewer = ViewerModel()
    viewer.layers.extend([layer, Image(array("TYX"), name="cells"), denoised])
    assert find_pairs(viewer) == [(layer, denoised)]


def test_multiscale_takes_the_full_resolution() -> None:
    data = array("TYX")
    layer = Image([data, data[:, ::2, ::2]], multiscale=True, scale=(1, 0.5, 0.5))
    source = layer_stack(layer)
    assert source.stack.shape == data.shape
    denoised = result_layers(source, result_of(source))[0]
    assert not denoised.multiscale
    np.testing.assert_allclose(denoised.extent.world, layer.extent.world)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("n", [3, 4])
def test_rgb_keeps_type_and_alpha(dtype: Any, n: int) -> None:
    generator = np.random.default_rng(0)
    data = generator.integers(2, 250, (5, 40, 36, n)).astype(dtype)
    layer = Image(data, rgb=True, scale=(2, 0.5, 0.5))
    source = layer_stack(layer, region=Region(slice(8, 24), slice(4, 20)))
    assert source.stack.shape == (5, 16, 16, 3)
    layers = result_layers(source, result_of(source), residual=True)
    denoised, uncertainty, _, colour, residual = layers
    assert denoised.rgb
    assert denoised.data.dtype == dtype
    part = data[:, 8:24, 4:20]
    np.testing.assert_array_equal(denoised.data[..., :3], part[..., :3] - 1)
    np.testing.assert_array_equal(denoised.data[..., 3:], part[..., 3:])
    for grey, value in ((uncertainty, 2), (residual, 1)):
        assert not grey.rgb
        np.testing.assert_allclose(grey.data, np.full(part.shape[:3], value))
    assert colour.data.shape == (*part.shape[:3], 3)
    assert all(each.ndim == 3 for each in layers)


# --------------------------------------------------------------------------------------- results


def test_shown_as_the_source_is_shown() -> None:
    layer = Image(
        array("TYX"),
        name="cells",
        colormap="green",
        gamma=0.7,
        contrast_limits=(20, 60),
        interpolation2d="linear",
        blending="additive",
        opacity=0.8,
        axis_labels=("t", "y", "x"),
        units=("s", "um", "um"),
    )
    source = layer_stack(layer)
    layers = result_layers(source, result_of(source), residual=True, metadata={"preset": "best"})
    denoised = layers[0]
    for name in ("gamma", "contrast_limits", "interpolation2d", "blending", "opacity"):
        assert getattr(denoised, name) == getattr(layer, name), name
    assert denoised.colormap.name == "green"
    assert denoised.contrast_limits_range == [-1, denoised.data.max()]
    for each in layers:
        assert each.axis_labels == layer.axis_labels
        assert each.units == layer.units
        about = each.metadata["napari-stbn"]
        assert json.loads(json.dumps(about)) == about
        assert each.name == f"cells {about['kind']}"
        assert about["source"] == "cells"
        assert about["preset"] == "best"
        assert about["seed"] == 3
    assert [each.visible for each in layers] == [True, False, True, False, False]
    low, high = layers[4].contrast_limits
    assert low == -high


def test_place_and_looks_are_those_of_the_beginning() -> None:
    layer = Image(array("TYX"), scale=(1, 2, 2), contrast_limits=(20, 60), colormap="green")
    source = layer_stack(layer)
    result = result_of(source)
    layer.data = array("TCYX")
    layer.contrast_limits = (1, 2)
    layer.scale = (1, 1, 3, 3)
    for each in result_layers(source, result, residual=True):
        assert each.ndim == 3
        np.testing.assert_array_equal(each.scale, (1, 2, 2))
    denoised = result_layers(source, result)[0]
    assert (denoised.contrast_limits, denoised.colormap.name) == ([20, 60], "green")


def test_layers_that_are_not_asked_for() -> None:
    source = layer_stack(Image(array("TYX"), name="m"))
    bare = result_layers(source, result_of(source, uncertainty=False), flow=False)
    assert [layer.name for layer in bare] == ["m denoised"]
    with pytest.raises(ValueError, match=r"shape \(5, 24, 20\)"):
        result_layers(source, result_of(layer_stack(Image(array("CTYX"), rgb=False), axes="CTYX")))


def test_uncertainty_with_nan_infinity_or_nothing_else() -> None:
    source = layer_stack(Image(array("TYX")))
    result = result_of(source)
    assert result.uncertainty is not None
    result.uncertainty[:] = np.linspace(1, 3, 20, dtype=np.float32)
    result.uncertainty[0] = np.nan
    result.uncertainty[1, 0, 0] = np.inf
    layer = result_layers(source, result)[1]
    assert layer.colormap.name == "magma"
    np.testing.assert_allclose(layer.contrast_limits, (1, 3), rtol=0.01)
    assert layer.contrast_limits_range == [0, 3]
    for useless in (np.nan, 0.0):
        result.uncertainty[:] = useless
        low, high = result_layers(source, result)[1].contrast_limits
        assert low < high


TRANSFORMS: list[dict[str, Any]] = [
    {},
    {"scale": (2, 0.5, 0.25), "translate": (7, -3, 11)},
    {"scale": (2, 0.5, -0.25), "translate": (7, -3, 11)},
    {"scale": (2, 0.5, 0.5), "rotate": 25, "translate": (1, 2, 3)},
    {"scale": (2, 0.5, -0.7), "rotate": 25},
    {"scale": (2, 0.5, 0.7), "shear": (0.1, 0.2, 0.3)},
    {"scale": (2, 3, 4), "rotate": (10, 20, 30), "affine": np.diag([1, 2, 0.5, 1])},
]


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")  # napari says so of the last one
@pytest.mark.parametrize("where", TRANSFORMS)
@pytest.mark.parametrize("axes", ["TYX", "YXT"])
def test_every_pixel_stays_where_it_is(where: dict[str, Any], axes: str) -> None:
    layer = Image(array(axes), **where)
    region = Region(slice(5, 21), slice(3, 15))
    source = layer_stack(layer, axes=axes, region=region)
    offset = np.array([{"T": 0, "Y": 5, "X": 3}[axis] for axis in axes])
    generator = np.random.default_rng(0)
    for result in result_layers(source, result_of(source), residual=True):
        for _ in range(5):
            position = generator.uniform(0, 12, 3)
            there = layer.data_to_world(position + offset)
            np.testing.assert_allclose(result.data_to_world(position), there, atol=1e-9)


def test_chosen_channels_and_planes_keep_their_place_on_the_sliders() -> None:
    data = array("TCZYX")
    layer = Image(data, rgb=False, scale=(1, 1, 0.3, 0.1, 0.1), units=("s", "pixel", *["um"] * 3))
    source = layer_stack(layer, axes="TCZYX", channels=[1], planes=[2, 0])
    assert source.selection[1:3] == (slice(1, 2, 1), slice(0, 3, 2))
    assert source.stack.pixel_size["Z"] == pytest.approx(0.6)
    np.testing.assert_array_equal(source.stack.movie(0, 1), data[:, 1, 2])
    for result in result_layers(source, result_of(source)):
        at = result.data_to_world((3, 0, 1, 5, 6))
        np.testing.assert_allclose(at, layer.data_to_world((3, 1, 2, 5, 6)))


@pytest.mark.parametrize("axes", [*ORDERS, "TYXS"])
def test_results_join_a_viewer_and_leave_its_sliders_alone(axes: str) -> None:
    viewer = ViewerModel()
    data = np.zeros((5, 40, 36, 3), np.uint8) if "S" in axes else array(axes)
    layer = viewer.add_image(
        data, name="m", rgb="S" in axes, scale=[0.5] * (data.ndim - ("S" in axes))
    )
    before = viewer.dims.range
    source = layer_stack(layer, axes=axes)
    for _ in range(2):
        for each in result_layers(source, result_of(source), residual=True):
            viewer.add_layer(each)
            each.visible = True
    assert viewer.dims.range == before
    for axis in range(viewer.dims.ndim):
        viewer.dims.set_current_step(axis, 1)
    assert {"m denoised", "m denoised [1]"} <= {each.name for each in viewer.layers}


# --------------------------------------------------------------------------------------- regions


def test_what_is_visible() -> None:
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((5, 200, 300)), scale=(1, 0.5, 0.5), translate=(0, 10, 0))
    whole = Region(slice(0, 200), slice(0, 300))
    assert visible_region(viewer, layer, "TYX") == whole
    camera = viewer.scene.camera
    camera.center, camera.zoom = (0, 10 + 50 * 0.5, 100 * 0.5), 20  # (600, 800) / 20 / 0.5 px
    viewer.canvas.size = (600, 800)
    assert visible_region(viewer, layer, "TYX") == Region(slice(20, 81), slice(60, 141))
    camera.zoom = 2000
    seen = visible_region(viewer, layer, "TYX")
    assert [part.stop - part.start for part in seen] == [8, 8]
    assert seen.rows.start <= 50 < seen.rows.stop
    camera.center = (0, -500, 0)
    with pytest.raises(ValueError, match="in view"):
        visible_region(viewer, layer, "TYX")
    viewer.dims.ndisplay = 3
    assert visible_region(viewer, layer, "TYX") == whole


def test_visible_with_other_axes_on_the_screen() -> None:
    viewer = ViewerModel()
    viewer.canvas.size = (600, 800)
    layer = viewer.add_image(np.zeros((200, 300, 50)))  # the screen shows X and T
    viewer.scene.camera.center, viewer.scene.camera.zoom = (0, 150, 25), 10
    assert visible_region(viewer, layer, "YXT") == Region(slice(0, 200), slice(120, 181))
    viewer.dims.order = (2, 0, 1)
    viewer.scene.camera.center, viewer.scene.camera.zoom = (0, 100, 150), 10
    assert visible_region(viewer, layer, "YXT") == Region(slice(70, 131), slice(110, 191))


def test_visible_where_layers_have_different_units() -> None:
    viewer = ViewerModel()
    viewer.canvas.size = (600, 800)
    layer = viewer.add_image(np.zeros((5, 200, 300)), units=("s", "um", "um"))
    viewer.add_image(np.zeros((5, 200, 300)), units=("s", "nm", "nm"))
    viewer.scene.camera.center, viewer.scene.camera.zoom = (0, 50_000, 100_000), 0.02
    assert visible_region(viewer, layer, "TYX") == Region(slice(35, 66), slice(80, 121))


def test_visible_in_a_grid_and_of_a_pyramid() -> None:
    viewer = ViewerModel()
    data = np.zeros((5, 256, 256), np.uint8)
    layer = viewer.add_image([data, data[:, ::2, ::2]], multiscale=True)
    viewer.canvas.grid.enabled = True
    layer.data_level = 1
    layer.corner_pixels = np.array([[0, 10, 20], [0, 29, 59]])
    assert visible_region(viewer, layer, "TYX") == Region(slice(20, 60), slice(40, 120))


def test_what_was_drawn_around() -> None:
    layer = Image(array("TYX"), scale=(1, 0.5, 0.5), translate=(0, 10, 0), units=("s", "um", "um"))
    shapes = Shapes(name="box")
    with pytest.raises(ValueError, match="no shapes"):
        shapes_region(shapes, layer, "TYX")
    # the same places in nm, in a layer of two dimensions
    box = np.array([[2.5, 3.5], [2.5, 15.5], [12.5, 15.5], [12.5, 3.5]])
    shapes = Shapes(
        [box, box + 2], scale=(500, 500), translate=(10_000, 0), units=("nm", "nm"), name="box"
    )
    assert shapes_region(shapes, layer, "TYX") == Region(slice(3, 15), slice(4, 18))
    shapes.selected_data = {0}
    assert shapes_region(shapes, layer, "TYX") == Region(slice(3, 13), slice(4, 16))
    shapes.translate = (90_000, 0)
    with pytest.raises(ValueError, match="outside"):
        shapes_region(shapes, layer, "TYX")
    far = [[0, -9, -9], [0, -9, 99], [0, 99, 99], [0, 99, -9]]
    beyond = Shapes([far], shape_type="rectangle")
    assert shapes_region(beyond, Image(array("TYX")), "TYX") == Region(slice(0, 24), slice(0, 20))


def test_neither_a_screen_nor_torch_is_loaded() -> None:
    code = (
        "import sys, napari_stbn._napari.layers\n"
        "print([m for m in ('PyQt6', 'PySide6', 'torch', 'vispy.app') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
