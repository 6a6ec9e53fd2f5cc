"""Comparisons show what they say, follow the time slider, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

from napari.components import ViewerModel
from napari.layers import Image
from napari.layers.utils._link_layers import layer_is_linked
from napari.utils.key_bindings import KeymapHandler, coerce_keybinding
from napari.utils.shortcuts import default_shortcuts

from napari_stbn._napari._origin import remember_source
from napari_stbn._napari.compare import (
    KEY,
    SideBySide,
    Swipe,
    Toggle,
    find_pairs,
    show_side_by_side,
)


def _fill(viewer: Any, shape: tuple[int, ...] = (5, 32, 40)) -> tuple[Any, Any]:
    """A pair, with labels above and another image beside."""
    rng = np.random.default_rng(0)
    place: dict[str, Any] = {"scale": (1.0, 0.5, 0.5), "translate": (0.0, 10.0, 20.0)}
    viewer.add_image(rng.random(shape).astype(np.float32), name="other", **place)
    noisy = rng.integers(0, 100, shape).astype(np.uint16)
    original = viewer.add_image(noisy, name="cells", contrast_limits=(0, 100), **place)
    made = {"napari-stbn": {"kind": "denoised", "source": "cells"}}
    denoised = viewer.add_image(
        np.full(shape, 200, np.float32) + np.arange(shape[0], dtype=np.float32)[:, None, None],
        name="cells denoised",
        contrast_limits=(0, 100),
        metadata=made,
        **place,
    )
    viewer.add_labels(np.zeros(shape, np.int32), name="labels", **place)
    viewer.layers.selection.active = original
    return original, denoised


def _state(viewer: ViewerModel) -> dict[str, Any]:
    """All of a viewer that a comparison touches."""
    viewer = getattr(viewer, "__wrapped__", viewer)
    grid = viewer.canvas.grid
    return {
        "layers": [
            (layer.name, layer.visible, layer.name_overlay.visible) for layer in viewer.layers
        ],
        "linked": [layer_is_linked(layer) for layer in viewer.layers],
        "selection": set(viewer.layers.selection),
        "active": viewer.layers.selection.active,
        "grid": (grid.enabled, grid.stride, grid.shape, grid.spacing),
        "overlays": sorted(viewer.canvas.overlays),
        "mouse": (len(viewer.mouse_drag_callbacks), len(viewer.mouse_move_callbacks)),
        "keys": dict(viewer.keymap),
        "callbacks": [
            {name: len(emitter.callbacks) for name, emitter in events.emitters.items()}
            for events in (viewer.layers.events, viewer.dims.events)
        ],
        "of layers": [
            {name: len(emitter.callbacks) for name, emitter in layer.events.emitters.items()}
            for layer in viewer.layers
        ],
        "camera": (viewer.scene.camera.zoom, viewer.scene.camera.mouse_pan),
        "cursor": viewer.cursor.style,
        "step": viewer.dims.current_step,
    }


@pytest.fixture(params=["model", "viewer"])
def viewer(request: pytest.FixtureRequest) -> Any:
    if request.param == "model":
        return ViewerModel()
    return request.getfixturevalue("make_napari_viewer_proxy")()


def test_pairs_are_found_by_their_metadata() -> None:
    viewer = ViewerModel()
    original, denoised = _fill(viewer)
    assert find_pairs(viewer) == [(original, denoised)]
    viewer.layers.remove(original)
    assert find_pairs(viewer) == []


@pytest.mark.parametrize("denoised_below", [False, True])
def test_side_by_side_shows_the_pair_and_goes_back(viewer: Any, denoised_below: bool) -> None:
    original, denoised = _fill(viewer)
    if denoised_below:
        viewer.layers.move(viewer.layers.index(denoised), 0)
    # napari draws the names with visuals that it makes when first needed and then keeps.
    show_side_by_side(viewer, original, denoised, True)
    show_side_by_side(viewer, original, denoised, False)
    before = _state(viewer)
    show_side_by_side(viewer, original, denoised, True)
    grid = viewer.canvas.grid
    assert [layer.name for layer in viewer.layers if layer.visible] == [
        layer.name for layer in viewer.layers if layer.name in ("cells", "cells denoised")
    ]
    layers = list(viewer.layers)
    assert grid.actual_shape(layers) == (1, 2)
    assert grid.position(layers.index(original), layers) == (0, 0)
    assert grid.position(layers.index(denoised), layers) == (0, 1)
    original.contrast_limits = (10, 50)
    assert tuple(denoised.contrast_limits) == (10, 50)
    show_side_by_side(viewer, original, denoised, True)  # again: still goes back to the start
    show_side_by_side(viewer, original, denoised, False)
    assert _state(viewer) == before
    show_side_by_side(viewer, original, denoised, False)
    original.contrast_limits = (0, 90)
    assert tuple(denoised.contrast_limits) == (10, 50)


def test_side_by_side_keeps_the_zoom_that_the_user_chose_meanwhile() -> None:
    viewer = ViewerModel()
    comparison = SideBySide(viewer, *_fill(viewer))
    comparison.on()
    viewer.scene.camera.zoom = 3.25
    comparison.off()
    assert viewer.scene.camera.zoom == 3.25


def test_swipe_shows_denoised_left_of_the_line_in_every_frame(viewer: Any) -> None:
    original, denoised = _fill(viewer)
    before = _state(viewer)
    swipe = Swipe(viewer, original, denoised, position=0.25)
    swipe.on()
    assert [layer.name for layer in viewer.layers if layer.visible] == [
        "cells",
        "swipe: cells denoised",
        "labels",
    ]
    assert viewer.layers.selection.active == original
    strip = viewer.layers["swipe: cells denoised"]
    assert np.shares_memory(strip.data, denoised.data)
    for frame in (0, 3):
        viewer.dims.set_current_step(0, frame)
        shown = strip.get_value((frame, 12.0, 20.0), world=True)
        assert shown == 200 + frame
    np.testing.assert_allclose(strip.extent.world[:, 2], [20.0, 24.5])  # centres of 10 columns
    swipe.position = 1.0
    assert strip.data.shape == denoised.data.shape
    swipe.position = 0.0
    assert not strip.visible
    swipe.position = 7.0
    assert swipe.position == 1.0
    viewer.dims.set_current_step(0, before["step"][0])
    swipe.off()
    assert _state(viewer) == before


def test_swipe_follows_the_contrast_and_the_values() -> None:
    viewer = ViewerModel()
    original, denoised = _fill(viewer)
    swipe = Swipe(viewer, original, denoised)
    swipe.on()
    strip = swipe.strip
    assert strip is not None
    original.contrast_limits = (5, 60)
    assert tuple(strip.contrast_limits) == (5, 60)
    denoised.colormap = "magenta"
    assert strip.colormap.name == "magenta"
    denoised.data = denoised.data + 1000  # replaced
    assert strip.data[0, 0, 0] == 1200
    denoised.data[:] = 7  # written in place, as the live preview does
    swipe.refresh()
    assert strip.get_value((viewer.dims.current_step[0], 12.0, 20.0), world=True) == 7


def test_swipe_hides_in_3d_and_follows_the_order_of_axes() -> None:
    viewer = ViewerModel()
    original, denoised = _fill(viewer)
    swipe = Swipe(viewer, original, denoised)
    swipe.on()
    strip = swipe.strip
    assert strip is not None
    viewer.dims.ndisplay = 3
    assert not strip.visible
    viewer.dims.ndisplay = 2
    assert strip.visible
    viewer.dims.order = (0, 2, 1)
    assert strip.data.shape == (5, 16, 40)
    swipe.off()


def _mouse(kind: str, column: float, button: int = 1) -> Any:
    """An event over a column of the pair; 0 is its left edge."""
    x = 20.0 + (column - 0.5) * 0.5
    return SimpleNamespace(type=kind, position=(0.0, 12.0, x), button=button)


def test_the_line_follows_the_mouse_and_stays_within_reach() -> None:
    viewer = ViewerModel()
    moved: list[float] = []
    swipe = Swipe(viewer, *_fill(viewer), on_move=moved.append)
    swipe.on()
    camera = viewer.scene.camera
    camera.zoom = 10.0  # 5 screen px to a column
    drag, hover = viewer.mouse_drag_callbacks[-1], viewer.mouse_move_callbacks[-1]
    assert list(drag(viewer, _mouse("mouse_press", 25))) == []
    assert list(drag(viewer, _mouse("mouse_press", 20, button=2))) == []
    assert camera.mouse_pan

    hover(viewer, _mouse("mouse_move", 20.5))
    assert viewer.cursor.style == "pointing"
    hover(viewer, _mouse("mouse_move", 30))
    assert viewer.cursor.style == "standard"

    event = _mouse("mouse_press", 20.5)
    dragging = drag(viewer, event)
    next(dragging)
    assert not camera.mouse_pan
    for column, expected in ((30, 0.75), (-50, 1 / 40), (500, 39 / 40)):
        event.__dict__.update(_mouse("mouse_move", column).__dict__)
        next(dragging)
        assert swipe.position == pytest.approx(expected)
    event.type = "mouse_release"
    assert list(dragging) == []
    assert camera.mouse_pan
    assert moved == pytest.approx([0.75, 1 / 40, 39 / 40])


@pytest.mark.parametrize("kind", [SideBySide, Swipe])
@pytest.mark.parametrize("which", ["original", "denoised", "all", "selected"])
def test_removing_layers_ends_the_comparison(
    viewer: Any, kind: Callable[..., Any], which: str
) -> None:
    original, denoised = _fill(viewer)
    mice = len(viewer.mouse_drag_callbacks)
    comparison = kind(viewer, original, denoised)
    comparison.on()
    if which == "all":
        viewer.layers.clear()
    elif which == "selected":
        viewer.layers.selection.update(viewer.layers)
        viewer.layers.remove_selected()
    else:
        viewer.layers.remove(original if which == "original" else denoised)
    assert not comparison.is_on
    assert not [layer for layer in viewer.layers if layer.name.startswith("swipe")]
    assert len(viewer.mouse_drag_callbacks) == mice
    assert not viewer.canvas.grid.enabled
    assert which in ("all", "selected") or viewer.layers["other"].visible


def test_deleting_the_strip_ends_the_swipe(viewer: Any) -> None:
    original, denoised = _fill(viewer)
    before = _state(viewer)
    swipe = Swipe(viewer, original, denoised)
    swipe.on()
    viewer.layers.remove("swipe: cells denoised")
    assert not swipe.is_on
    assert _state(viewer) == before


def test_what_cannot_be_compared_is_refused_without_a_trace() -> None:
    viewer = ViewerModel()
    original, denoised = _fill(viewer)
    pyramid = [np.zeros((4, 64, 64), np.float32), np.zeros((4, 32, 32), np.float32)]
    coarse = viewer.add_image(pyramid, multiscale=True, name="pyramid")
    before = _state(viewer)
    swipe = Swipe(viewer, original, coarse)
    with pytest.raises(ValueError, match="use side by side instead"):
        swipe.on()
    assert not swipe.is_on
    assert _state(viewer) == before
    viewer.layers.remove(original)
    with pytest.raises(ValueError, match="not in the viewer any more"):
        SideBySide(viewer, original, denoised).on()


def test_a_window_closes_with_a_comparison_on(make_napari_viewer_proxy: Any) -> None:
    viewer = make_napari_viewer_proxy()
    Swipe(viewer, *_fill(viewer)).on()
    other = make_napari_viewer_proxy()
    show_side_by_side(other, *_fill(other), True)


def test_the_picture_is_denoised_left_and_original_right(make_napari_viewer_proxy: Any) -> None:
    viewer = make_napari_viewer_proxy(show=True)
    original, denoised = _fill(viewer)
    original.data = np.zeros_like(original.data)
    swipe = Swipe(viewer, original, denoised)
    swipe.on()
    for zoom in (1.0, 4.0):
        viewer.scene.camera.zoom *= zoom
        picture = viewer.screenshot(flash=False)[..., :3].astype(int)
        middle = picture[picture.shape[0] // 2]
        centre = middle.shape[0] // 2
        assert middle[centre - 12].tolist() == [255, 255, 255]
        assert middle[centre + 12].tolist() == [0, 0, 0]
    swipe.off()


@pytest.mark.quiet
def test_a_frame_of_a_large_movie_costs_little() -> None:
    from time import perf_counter

    viewer = ViewerModel()
    swipe = Swipe(viewer, *_fill(viewer, (4, 1024, 1024)))
    swipe.on()
    best = 1.0
    for step in range(6):
        start = perf_counter()
        swipe.position = 0.3 + 0.1 * step
        viewer.dims.set_current_step(0, step % 4)
        best = min(best, perf_counter() - start)
    assert best < 0.1  # s


def test_the_key_is_free_in_napari(make_napari_viewer_proxy: Any) -> None:
    key = coerce_keybinding(KEY)
    assert not [name for name, keys in default_shortcuts.items() if key in keys]
    viewer = make_napari_viewer_proxy()
    viewer.add_image(np.zeros((8, 8)))
    assert key not in viewer.keymap
    for holder in (ViewerModel, Image):
        assert key not in holder.class_keymap


def test_the_key_toggles_and_is_given_back(viewer: Any) -> None:
    original, denoised = _fill(viewer)
    before = _state(viewer)
    toggle = Toggle()
    toggle.bind(viewer)
    handler = KeymapHandler()
    handler.keymap_providers = [getattr(viewer, "__wrapped__", viewer)]
    assert handler.press_key(KEY)
    assert (original.visible, denoised.visible) == (True, False)
    handler.press_key(KEY)
    assert (original.visible, denoised.visible) == (False, True)
    assert viewer.dims.current_step == before["step"]
    original.visible = True
    toggle.unbind()
    toggle.unbind()
    assert _state(viewer) == before
    assert not handler.press_key(KEY)


def test_a_key_of_someone_else_comes_back() -> None:
    viewer = ViewerModel()

    def theirs(_viewer: ViewerModel) -> None: ...

    viewer.bind_key(KEY, theirs)
    toggle = Toggle()
    toggle.bind(viewer)
    toggle.unbind()
    assert list(viewer.keymap.values()) == [theirs]
    toggle.bind(viewer)
    viewer.bind_key(KEY, lambda _viewer: None, overwrite=True)
    later = list(viewer.keymap.values())
    toggle.unbind()
    assert list(viewer.keymap.values()) == later


def test_the_pair_of_the_selected_layer_is_toggled() -> None:
    viewer = ViewerModel()
    toggle = Toggle()
    toggle.toggle(viewer)
    assert "no denoised layer" in str(viewer.status)
    first = _fill(viewer)
    made = {"napari-stbn": {"kind": "denoised", "source": "other"}}
    second = viewer.add_image(np.zeros((5, 32, 40)), name="other denoised", metadata=made)
    viewer.layers.selection.active = first[0]
    toggle.toggle(viewer)
    assert (first[0].visible, first[1].visible, second.visible) == (True, False, True)
    viewer.layers.selection.active = viewer.layers["labels"]
    toggle.toggle(viewer)
    assert (viewer.layers["other"].visible, second.visible) == (True, False)


def test_of_several_results_one_is_shown_and_the_original_without_any() -> None:
    viewer = ViewerModel()
    original, older = _fill(viewer)
    newer = viewer.add_image(np.zeros((5, 32, 40)), metadata=older.metadata)
    toggle = Toggle()
    viewer.layers.selection.active = original
    toggle.toggle(viewer)
    assert [layer.visible for layer in (original, older, newer)] == [True, False, False]
    toggle.toggle(viewer)
    assert [layer.visible for layer in (original, older, newer)] == [False, False, True]
    viewer.layers.selection.active = older
    toggle.toggle(viewer)
    assert [layer.visible for layer in (original, older, newer)] == [False, True, False]


@pytest.mark.parametrize("kind", [SideBySide, Swipe])
def test_another_image_ends_the_comparison(viewer: Any, kind: Callable[..., Any]) -> None:
    original, denoised = _fill(viewer)
    before = _state(viewer)
    comparison = kind(viewer, original, denoised)
    comparison.on()
    hidden = viewer.add_image(np.zeros((5, 32, 40)), visible=False)
    assert comparison.is_on
    viewer.layers.remove(hidden)
    preview = Image(np.ones((32, 40)), name="cells preview")
    viewer.layers.insert(viewer.layers.index(original) + 1, preview)
    assert not comparison.is_on
    assert (original.visible, denoised.visible, preview.visible) == (True, True, True)
    viewer.layers.remove(preview)
    after = _state(viewer)
    assert [after[key] for key in ("layers", "linked", "grid", "overlays", "mouse")] == [
        before[key] for key in ("layers", "linked", "grid", "overlays", "mouse")
    ]


def test_drawing_does_not_end_a_swipe(viewer: Any) -> None:
    swipe = Swipe(viewer, *_fill(viewer))
    swipe.on()
    viewer.add_shapes()
    assert swipe.is_on
    swipe.off()


@pytest.mark.parametrize("kind", [SideBySide, Swipe])
def test_the_key_ends_the_comparison(viewer: Any, kind: Callable[..., Any]) -> None:
    original, denoised = _fill(viewer)
    comparison = kind(viewer, original, denoised)
    comparison.on()
    Toggle().toggle(viewer)
    assert not comparison.is_on
    assert (original.visible, denoised.visible) == (True, False)
    assert not viewer.canvas.overlays.keys() & {"napari-stbn denoised", "napari-stbn original"}


def test_the_grid_ends_a_swipe_and_stays(viewer: Any) -> None:
    original, denoised = _fill(viewer)
    swipe = Swipe(viewer, original, denoised)
    swipe.on()
    viewer.canvas.grid.enabled = True
    assert not swipe.is_on
    assert viewer.canvas.grid.enabled
    swipe.on()
    assert not viewer.canvas.grid.enabled
    swipe.off()
    assert viewer.canvas.grid.enabled


def test_one_comparison_ends_the_other(viewer: Any) -> None:
    original, denoised = _fill(viewer)
    swipe = Swipe(viewer, original, denoised)
    swipe.on()
    show_side_by_side(viewer, original, denoised, True)
    assert not swipe.is_on
    assert viewer.canvas.grid.enabled
    viewer.canvas.grid.enabled = False
    assert viewer.layers["other"].visible


def test_a_pair_survives_new_names() -> None:
    viewer = ViewerModel()
    original, denoised = _fill(viewer)
    remember_source(denoised, original)
    original.name = "renamed"
    viewer.add_image(np.zeros((5, 32, 40)), name="cells")
    assert find_pairs(viewer) == [(original, denoised)]
    viewer.layers.remove(original)
    assert find_pairs(viewer) == []
