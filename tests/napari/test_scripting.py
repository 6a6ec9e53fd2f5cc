"""The scripted door: real fits of layers of all kinds, with and without a screen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

import dask.array as da
import torch
from napari.components import ViewerModel
from napari.layers import Image, Labels, Points, Vectors

import napari_stbn as stbn
from napari_stbn._napari.job import running_job
from napari_stbn._napari.layers import Region

TINY: dict[str, Any] = {
    "preset": "preview",
    "max_steps": 2,
    "device": "cpu",
    "training": {"clip_frames": 4, "clip_size": 16, "batch": 1, "checks": 2},
}
MOVIE = stbn.simulate((6, 32, 40), seed=0).noisy


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Of this thread, as the job has it: numba, which napari loads for labels, changes it."""
    torch.set_num_threads(1)


@pytest.fixture(params=["model", "window"])
def viewer(request: pytest.FixtureRequest) -> Any:
    """A viewer without Qt, and one with."""
    if request.param == "model":
        return ViewerModel()
    return request.getfixturevalue("make_napari_viewer")()


@pytest.fixture(scope="module")
def model() -> stbn.Denoiser:
    settings = stbn.RunSettings(**TINY)
    denoiser = settings.denoiser()
    for _ in settings.fit_steps(denoiser, stbn.Stack(MOVIE, "TYX")):
        pass
    return denoiser


def cells(data: Any = MOVIE, **options: Any) -> tuple[ViewerModel, Any]:
    """A viewer without Qt, with a movie."""
    viewer = ViewerModel()
    layer = viewer.add_image(data, name="cells", **{"rgb": False, **options})
    return viewer, layer


# ---------------------------------------------------------------- both viewers


def test_denoise_layer_adds_the_layers_and_selects_the_denoised_one(viewer: Any) -> None:
    source = viewer.add_image(MOVIE, name="cells")
    layers = stbn.denoise_layer(viewer, "cells", residual=True, **TINY)
    kinds = ["denoised", "uncertainty", "flow", "flow colour", "residual"]
    assert [layer.name for layer in layers] == [f"cells {kind}" for kind in kinds]
    assert [type(layer) for layer in layers] == [Image, Image, Vectors, Image, Image]
    assert [layer.visible for layer in layers] == [True, False, True, False, False]
    assert list(viewer.layers) == [source, *layers]
    assert set(viewer.layers.selection) == {layers[0]}
    denoised, uncertainty, residual = (layers[i].data for i in (0, 1, 4))
    assert denoised.shape == uncertainty.shape == residual.shape == MOVIE.shape
    assert denoised.dtype == np.float32
    assert np.isfinite(denoised).all()
    assert (uncertainty > 0).all()
    np.testing.assert_array_equal(residual, (MOVIE - denoised.astype(np.float64)).astype("f4"))
    assert residual.std() > 0


def test_start_denoising_returns_before_the_end_and_wait_gives_the_layers(viewer: Any) -> None:
    viewer.add_image(MOVIE, name="cells")
    job = stbn.start_denoising(viewer, "cells", **TINY)
    assert job.is_running
    assert len(viewer.layers) == 1
    states: list[str] = []
    job.finished.connect(states.append)
    layers = job.wait(timeout=60)
    assert states == ["done"]
    assert job.state == "done"
    assert job.layers == layers == list(viewer.layers)[1:]
    assert job.report["steps"] == 2
    assert job.wait() == layers, "a second wait must give the same again"


@pytest.mark.parametrize("by", ["name", "layer", "selected"])
def test_the_layer_is_named_given_or_selected(by: str, model: stbn.Denoiser) -> None:
    viewer, other = cells(MOVIE + 1000)
    other.name = "other"
    layer = viewer.add_image(MOVIE, name="cells")
    viewer.layers.selection = {layer}
    which = {"name": "cells", "layer": layer, "selected": None}[by]
    denoised = stbn.denoise_layer(viewer, which, model=model)[0]
    assert denoised.name == "cells denoised"
    assert abs(denoised.data.mean() - MOVIE.mean()) < 100


def test_results_of_earlier_runs_stay(model: stbn.Denoiser) -> None:
    viewer, _ = cells()
    first = stbn.denoise_layer(viewer, model=model, flow=False, uncertainty=False)
    viewer.layers.selection = {viewer.layers["cells"]}
    second = stbn.denoise_layer(viewer, model=model, flow=False, uncertainty=False)
    assert list(viewer.layers)[1:] == [*first, *second]
    assert first[0].name != second[0].name
    assert not first[0].visible  # else it would lie under the new one, and over a preview
    assert second[0].visible


def test_results_of_other_pixels_stay_in_sight(model: stbn.Denoiser) -> None:
    viewer, _ = cells()
    left, right = (Region(slice(0, 32), slice(at, at + 16)) for at in (0, 16))
    wanted: dict[str, Any] = {"layer": "cells", "model": model, "flow": False}
    first = stbn.denoise_layer(viewer, region=left, **wanted)
    second = stbn.denoise_layer(viewer, region=right, **wanted)
    assert first[0].visible
    whole = stbn.denoise_layer(viewer, **wanted)
    assert [layer.visible for layer in (first[0], second[0], whole[0])] == [False, False, True]


# ---------------------------------------------------------------- choices


@pytest.mark.parametrize(
    ("layer", "choices", "sentence"),
    [
        ("missing", {}, "there is no layer 'missing'; layers are cells"),
        ("cells", {"colour": "red"}, "start_denoising has no colour; choose from preset"),
        ("cells", {"preset": "huge"}, "preset"),
        ("cells", {"flow": "guess"}, "flow"),
        ("cells", {"device": "tpu"}, 'device must be "auto"'),
        ("cells", {"precision": "half"}, "precision"),
        ("cells", {"noise": "white"}, "noise"),
        ("cells", {"channels": [3]}, '"cells" has 1 channel, numbered from 0 to 0; there is no'),
        ("cells", {"region": "middle"}, "region must be"),
        ("cells", {"axes": "TYXC"}, "axes"),
        ("cells", {"axes": "ZYX"}, "1 frame"),
        ("cells", {"axes": "YXT", "region": Region(slice(0, 4), slice(0, 4))}, "at least 8 x 8"),
        ("cells", {"model": "missing.stbn"}, "missing.stbn"),
        ("cells", {"training": {"depth": 2}}, "training has no depth"),
        ("cells", {"threads": -3}, "threads must be 0 (one core is left to the screen) or more"),
        ("cells", {"flow_density": 0}, "flow_density must be a distance above 0 px, got 0"),
    ],
)
def test_a_wrong_choice_is_one_sentence_at_once(
    layer: str, choices: dict[str, Any], sentence: str
) -> None:
    viewer, _ = cells()
    with pytest.raises((ValueError, FileNotFoundError), match=r".") as caught:
        stbn.start_denoising(viewer, layer, **{**TINY, **choices})
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(viewer.layers) == 1
    assert running_job() is None, "nothing may be in the way of the next run"


def test_a_model_to_start_from_that_is_not_there_is_one_sentence() -> None:
    viewer, _ = cells()
    with pytest.raises((ValueError, FileNotFoundError), match=r"missing\.stbn"):
        stbn.denoise_layer(viewer, "cells", start="missing.stbn", **TINY)
    assert len(viewer.layers) == 1
    assert running_job() is None


def test_without_a_selected_layer_a_sentence_asks_for_one() -> None:
    viewer, _ = cells()
    viewer.layers.selection.clear()
    with pytest.raises(ValueError, match="no layer is selected; select an image layer"):
        stbn.denoise_layer(viewer, **TINY)
    with pytest.raises(ValueError, match="layers are none"):
        stbn.denoise_layer(ViewerModel(), "cells", **TINY)


def test_settings_may_be_given_whole_and_changed_by_name() -> None:
    viewer, _ = cells()
    settings = stbn.RunSettings(**{**TINY, "max_steps": 5, "seed": 3})
    job = stbn.start_denoising(viewer, settings=settings, max_steps=2, flow="none")
    job.wait()
    assert (job.report["steps"], job.report["seed"], job.report["flow"]) == (2, 3, "none")
    assert len(job.layers) == 4, "a method of flow is a setting; the layers are still wanted"


def test_layers_that_are_not_wanted_are_not_made(model: stbn.Denoiser) -> None:
    viewer, _ = cells()
    layers = stbn.denoise_layer(viewer, model=model, uncertainty=False, flow=False)
    assert [layer.name for layer in layers] == ["cells denoised"]
    layers = stbn.denoise_layer(viewer, "cells", noise=None, flow=False, **TINY)
    assert len(layers) == 1, "without a noise model there is no uncertainty"


def test_the_same_seed_gives_the_same_numbers_and_another_does_not() -> None:
    viewer, _ = cells()

    def run(seed: int) -> np.ndarray:
        choices = {**TINY, "start": "fresh", "seed": seed, "flow": False, "uncertainty": False}
        data: np.ndarray = stbn.denoise_layer(viewer, "cells", **choices)[0].data
        return data

    first = run(1)
    np.testing.assert_array_equal(first, run(1))
    assert not np.array_equal(first, run(2))


def test_a_run_equals_that_of_the_library() -> None:
    viewer, _ = cells()
    shown = stbn.denoise_layer(viewer, "cells", **TINY)[0]
    settings = stbn.RunSettings(**TINY)
    denoiser, stack = settings.denoiser(), stbn.Stack(MOVIE, "TYX")
    for _ in settings.fit_steps(denoiser, stack):
        pass
    np.testing.assert_array_equal(shown.data, denoiser.denoise(stack).denoised)


# ---------------------------------------------------------------- models


@pytest.mark.parametrize("given", ["denoiser", "path", "text"])
def test_a_model_denoises_without_a_fit(given: str, model: stbn.Denoiser, tmp_path: Path) -> None:
    path = model.save(tmp_path / "cells.stbn")
    viewer, _ = cells()
    which = {"denoiser": model, "path": path, "text": str(path)}[given]
    shown = stbn.denoise_layer(viewer, model=which, device="cpu")[0]
    expected = stbn.Denoiser.load(path, device="cpu").denoise(stbn.Stack(MOVIE, "TYX"))
    np.testing.assert_array_equal(shown.data, expected.denoised)


def test_a_fit_starts_from_a_model(model: stbn.Denoiser, tmp_path: Path) -> None:
    path = model.save(tmp_path / "cells.stbn")
    viewer, _ = cells()
    fresh = stbn.start_denoising(viewer, "cells", start="fresh", **TINY)
    fresh.wait()
    warm = stbn.start_denoising(viewer, "cells", start=str(path), **TINY)
    warm.wait()
    assert warm.report["start"] != fresh.report["start"] == "fresh"
    assert not np.array_equal(warm.layers[0].data, fresh.layers[0].data)


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize("region", ["given", "drawn"])
def test_a_region_is_denoised_and_lies_where_it_was(region: str, model: stbn.Denoiser) -> None:
    viewer, layer = cells(scale=(2.0, 0.5, 0.25), translate=(1.0, 10.0, 20.0))
    where: Any = Region(slice(4, 20), slice(10, 34))
    if region == "drawn":
        edges = [(3.6, 9.6), (3.6, 33.4), (19.4, 33.4), (19.4, 9.6)]  # of pixels 4-19 and 10-33
        box = [[1.0, y * 0.5 + 10, x * 0.25 + 20] for y, x in edges]
        where = viewer.add_shapes([np.array(box)], shape_type="rectangle", ndim=3)
    denoised = stbn.denoise_layer(viewer, layer, region=where, model=model)[0]
    assert denoised.data.shape == (6, 16, 24)
    np.testing.assert_allclose(denoised.data_to_world((3, 0, 0)), layer.data_to_world((3, 4, 10)))
    expected = model.denoise(stbn.Stack(MOVIE[:, 4:20, 10:34], "TYX"))
    np.testing.assert_array_equal(denoised.data, expected.denoised)
    made = denoised.metadata["napari-stbn"]
    assert made["selection"] == {"T": [0, 6, 1], "Y": [4, 20, 1], "X": [10, 34, 1]}


def test_what_is_visible_is_denoised(model: stbn.Denoiser) -> None:
    viewer, layer = cells(np.tile(MOVIE, (1, 4, 4)))
    viewer.canvas.size = (600, 800)
    viewer.scene.camera.center = (0, 64, 80)
    viewer.scene.camera.zoom = 600 / 32
    denoised = stbn.denoise_layer(viewer, layer, region="visible", model=model)[0]
    rows, columns = (denoised.metadata["napari-stbn"]["selection"][axis] for axis in "YX")
    assert 30 <= denoised.data.shape[1] <= 36
    assert rows[0] <= 48 < 80 <= rows[1]
    np.testing.assert_allclose(
        denoised.data_to_world((0, 0, 0)), layer.data_to_world((0, rows[0], columns[0]))
    )


def test_some_channels_and_planes_of_five_axes(model: stbn.Denoiser) -> None:
    data = np.stack([np.stack([MOVIE + 100 * (3 * c + z) for z in range(4)], 1) for c in (0, 1)], 1)
    data = np.ascontiguousarray(data.transpose(0, 2, 1, 3, 4))  # T Z C Y X
    assert data.shape == (6, 4, 2, 32, 40)
    labels = ("t", "z", "c", "y", "x")
    viewer, layer = cells(data, axis_labels=labels, scale=(1, 3, 1, 0.5, 0.5))
    layers = stbn.denoise_layer(viewer, layer, channels=[1], planes=[1, 3], model=model)
    denoised = layers[0]
    assert denoised.data.shape == (6, 2, 1, 32, 40)
    for plane, place in enumerate((1, 3)):
        np.testing.assert_allclose(
            denoised.data_to_world((2, plane, 0, 5, 5)), layer.data_to_world((2, place, 1, 5, 5))
        )
        level = data[:, place, 1].mean()
        assert abs(denoised.data[:, plane, 0].mean() - level) < 50
    assert denoised.metadata["napari-stbn"]["selection"]["Z"] == [1, 4, 2]


def test_all_channels_and_planes_of_a_fit_are_kept() -> None:
    data = np.stack([np.stack([MOVIE[:4], MOVIE[1:5]], 1)] * 2, 1)  # T C Z Y X
    viewer, layer = cells(data, axis_labels=("t", "c", "z", "y", "x"))
    layers = stbn.denoise_layer(viewer, layer, **TINY)
    assert [made.data.shape for made in layers[:2]] == [data.shape] * 2
    assert set(layers[0].metadata["napari-stbn"]["noise"]) == {"0", "1"}


# ---------------------------------------------------------------- place and provenance


def test_results_stand_where_the_source_stands_in_its_units() -> None:
    viewer, layer = cells(
        scale=(2.0, 0.5, 0.25),
        translate=(4.0, 10.0, 20.0),
        units=("s", "µm", "µm"),
        axis_labels=("t", "y", "x"),
        colormap="viridis",
        contrast_limits=(90, 400),
        gamma=0.7,
    )
    layers = stbn.denoise_layer(viewer, layer, **TINY)
    for made in layers[:2]:
        np.testing.assert_array_equal(made.scale, layer.scale)
        np.testing.assert_array_equal(made.translate, layer.translate)
        assert made.units == layer.units
        assert made.axis_labels == layer.axis_labels
        for point in ((0, 0, 0), (5, 31, 39), (2, 7, 3)):
            np.testing.assert_array_equal(made.data_to_world(point), layer.data_to_world(point))
    denoised, _, arrows, colours = layers
    assert denoised.colormap.name == "viridis"
    assert tuple(denoised.contrast_limits) == (90, 400)
    assert denoised.gamma == 0.7
    for made in (arrows, colours):
        assert made.units == layer.units
        low, high = made.extent.world[:, -2:]
        assert (low >= np.array([10, 20]) - 1).all()
        assert (high <= np.array([26, 30]) + 1).all()


def test_provenance_is_plain_and_tells_the_whole_run() -> None:
    viewer, layer = cells()
    denoised = stbn.denoise_layer(viewer, layer, **TINY, seed=5)[0]
    made = denoised.metadata["napari-stbn"]
    assert json.loads(json.dumps(made)) == made
    assert made["napari_stbn"] == stbn.__version__
    assert made["source"] == "cells"
    assert made["kind"] == "denoised"
    assert (made["seed"], made["steps"], made["preset"]) == (5, 2, "preview")
    assert made["noise"]["0"]["gain"] > 0
    settings = stbn.RunSettings.from_json(made["settings"])
    assert settings == stbn.RunSettings(**TINY, seed=5)


# ---------------------------------------------------------------- kinds of layers


def _memmap(folder: Path) -> Any:
    np.save(folder / "cells.npy", MOVIE)
    return np.load(folder / "cells.npy", mmap_mode="r")


def _floats(dtype: Any) -> Any:
    return ((MOVIE - 100) / 100).astype(dtype)


KINDS: dict[str, Callable[[Path], Any]] = {
    "dask": lambda _: da.from_array(MOVIE, chunks=(1, 16, 40)),
    "big-endian": lambda _: MOVIE.astype(">u2"),
    "big-endian floats": lambda _: _floats(">f4"),
    "read-only map": _memmap,
    "float16": lambda _: _floats(np.float16),
    "int8": lambda _: (np.clip(MOVIE // 2, 0, 255).astype(int) - 128).astype(np.int8),
    "uint8": lambda _: np.clip(MOVIE // 2, 0, 255).astype(np.uint8),
    "uint64": lambda _: MOVIE.astype(np.uint64),
    "strided": lambda _: np.repeat(MOVIE, 2, axis=2)[:, ::-1, ::2],
    "two frames": lambda _: MOVIE[:2].copy(),
    "with NaN": lambda _: np.where(np.arange(40) == 7, np.nan, MOVIE).astype(np.float32),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_of_any_type_is_fitted_and_left_alone(kind: str, tmp_path: Path) -> None:
    data = KINDS[kind](tmp_path)
    viewer, layer = cells(data)
    before, flags = np.asarray(data).tobytes(), getattr(data, "flags", None)
    writable = flags.writeable if flags is not None else None
    layers = stbn.denoise_layer(viewer, layer, residual=True, **TINY)
    assert layer.data is data
    assert np.asarray(data).tobytes() == before, "the source was changed"
    assert writable == (flags.writeable if flags is not None else None)
    denoised = layers[0].data
    assert denoised.shape == data.shape
    assert denoised.dtype == np.float32
    assert np.isfinite(denoised).all()
    values = np.asarray(data).astype(np.float64)
    spread = np.nanstd(values)
    assert abs(denoised.mean() - np.nanmean(values)) < spread


def test_a_pyramid_is_denoised_at_full_resolution() -> None:
    levels = [MOVIE, MOVIE[:, ::2, ::2]]
    viewer, layer = cells(levels, multiscale=True)
    before = [level.tobytes() for level in levels]
    denoised = stbn.denoise_layer(viewer, layer, **TINY)[0]
    assert denoised.data.shape == MOVIE.shape
    assert [level.tobytes() for level in levels] == before
    plain, other = cells()
    np.testing.assert_array_equal(denoised.data, stbn.denoise_layer(plain, other, **TINY)[0].data)


@pytest.mark.parametrize("samples", [3, 4])
def test_colours_are_denoised_and_alpha_is_kept(samples: int) -> None:
    colours = np.stack([np.clip(MOVIE // 8 + 10 * c, 0, 255) for c in range(samples)], -1)
    data = colours.astype(np.uint8)
    data.flags.writeable = False
    viewer, layer = cells(data, rgb=True)
    layers = stbn.denoise_layer(viewer, layer, residual=True, **TINY)
    denoised = layers[0]
    assert denoised.rgb
    assert denoised.data.shape == data.shape
    assert denoised.data.dtype == np.uint8
    assert not np.array_equal(denoised.data[..., :3], data[..., :3])
    np.testing.assert_array_equal(denoised.data[..., 3:], data[..., 3:])
    assert [made.data.shape for made in (layers[1], layers[-1])] == [MOVIE.shape] * 2


@pytest.mark.parametrize(
    ("data", "options", "sentence"),
    [
        (MOVIE[:1], {}, '"cells" has 1 frame'),
        (MOVIE[0], {}, "1 frame"),
        (MOVIE > 300, {}, "bool"),
        (MOVIE[:, :6], {}, "8 x 8"),
        (np.full((6, 32, 32), 7, np.uint16), {}, "one value"),
        (np.full((6, 32, 32), np.nan, np.float32), {}, "finite"),
        (MOVIE, {"axes": "CYX"}, "1 frame"),
        (MOVIE, {"axes": "TYXS"}, "axes"),
        (np.stack([MOVIE] * 3, -1).astype(np.uint8), {"rgb": True, "axes": "TCYX"}, "end in S"),
    ],
)
def test_what_cannot_be_denoised_is_refused_with_one_sentence(
    data: np.ndarray, options: dict[str, Any], sentence: str
) -> None:
    axes = options.get("axes")
    viewer, layer = cells(data, rgb=options.get("rgb", False), contrast_limits=(0, 1))
    with pytest.raises(ValueError, match=r".") as caught:
        stbn.denoise_layer(viewer, layer, axes=axes, **TINY)
    said = str(caught.value)
    assert sentence in said
    assert "\n" not in said
    assert len(viewer.layers) == 1


@pytest.mark.parametrize("kind", [Labels, Points])
def test_layers_that_are_no_images_are_refused(kind: Any) -> None:
    viewer = ViewerModel()
    data = MOVIE.astype(np.int32) if kind is Labels else np.zeros((2, 3))
    layer = viewer.add_layer(kind(data, name="cells"))
    with pytest.raises(ValueError, match=f'"cells" is a {kind.__name__} layer.*Image layer'):
        stbn.denoise_layer(viewer, layer, **TINY)
