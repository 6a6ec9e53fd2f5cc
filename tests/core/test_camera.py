"""Claims of camera maps: pixels become alike, units stay, hot pixels go, files are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_stbn import Denoiser, RunSettings, Stack, read, simulate, write
from napari_stbn.batch import BatchOptions, denoise_many
from napari_stbn.camera import CameraMaps
from napari_stbn.cli import main


def scmos(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64], CameraMaps]:
    """Truth [counts], movie of a camera whose pixels differ, and its maps."""
    rng = np.random.default_rng(seed)
    movie = simulate((16, 48, 64), kind="nuclei", photons=30, seed=5)
    offset = rng.normal(100, 6, (48, 64))
    gain = rng.normal(2.0, 0.1, (48, 64)).clip(1.5)
    variance = np.exp(rng.normal(np.log(6.0), 0.3, (48, 64)))
    variance[rng.random((48, 64)) < 0.01] = 900.0
    electrons = rng.poisson(movie.photons)
    noisy = offset + gain * electrons + rng.normal(0, 1, electrons.shape) * np.sqrt(variance)
    maps = CameraMaps(
        offset.astype(np.float32), gain.astype(np.float32), variance.astype(np.float32)
    )
    clean = np.median(offset) + np.median(gain) * movie.photons.astype(np.float64)
    return clean, noisy, maps


def test_maps_make_pixels_alike_in_the_same_units() -> None:
    clean, noisy, maps = scmos()
    corrected = maps.correct(Stack(noisy, axes="TYX")).movie()
    usable = maps.usable
    assert 0.97 < usable.mean() < 1
    assert np.isnan(corrected[:, ~usable]).all()
    error = (corrected - clean)[:, usable]
    assert abs(error.mean()) < 0.1
    # What is left of the fixed pattern is the noise of a mean over 16 frames.
    assert error.mean(0).std() < 1.1 * error.std() / 4


@pytest.mark.parametrize("axes", ["TYX", "YXT", "XTY", "CTXY"])
def test_any_order_of_axes(axes: str) -> None:
    _, noisy, maps = scmos()
    letters = "TYX"
    moved = noisy.transpose([letters.index(axis) for axis in axes if axis != "C"])
    stack = Stack(moved[None] if "C" in axes else moved, axes=axes)
    expected = maps.correct(Stack(noisy, axes="TYX")).movie()
    assert np.array_equal(maps.correct(stack).movie(), expected, equal_nan=True)
    part = maps.correct(stack).movie(frames=slice(2, 5), rows=slice(3, 9), columns=slice(1, 30, 2))
    assert np.array_equal(part, expected[2:5, 3:9, 1:30:2], equal_nan=True)


def test_a_corrected_movie_is_denoised_better() -> None:
    clean, noisy, maps = scmos()
    errors = []
    for stack in (Stack(noisy, axes="TYX"), maps.correct(Stack(noisy, axes="TYX"))):
        denoiser = Denoiser("preview", device="cpu", flow="none").fit(stack, max_steps=2)
        errors.append(float(np.square(denoiser.denoise(stack).denoised - clean).mean()))
    assert errors[1] < 0.5 * errors[0]


def test_dark_frames_are_maps_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    offset = rng.normal(100, 5, (24, 32))
    dark = (offset + rng.normal(0, 2, (300, 24, 32))).astype(np.float32)
    path = write(tmp_path / "dark.tif", Stack(dark, axes="TYX"))
    maps = CameraMaps.read([path])
    assert np.abs(maps.offset - offset).max() < 1
    assert maps.variance is not None
    assert abs(float(np.median(maps.variance)) - 4) < 0.2


def test_pixels_that_one_map_does_not_know_are_left_out_alone() -> None:
    _, noisy, maps = scmos()
    assert maps.gain is not None
    assert maps.variance is not None
    holed = CameraMaps(*(np.array(m) for m in (maps.offset, maps.gain, maps.variance)))
    for place, image in enumerate((holed.offset, holed.gain, holed.variance)):
        assert image is not None
        image[place, 7] = np.nan
    lost = maps.usable & ~holed.usable
    assert set(zip(*np.nonzero(lost), strict=True)) <= {(0, 7), (1, 7), (2, 7)}
    whole, corrected = (m.correct(Stack(noisy, "TYX")).movie() for m in (maps, holed))
    np.testing.assert_allclose(corrected[:, holed.usable], whole[:, holed.usable], rtol=1e-3)
    with pytest.raises(ValueError, match="offset must hold numbers"):
        CameraMaps(np.full((8, 8), np.nan, np.float32))


def test_a_dark_frame_of_one_count_does_not_make_other_pixels_noisy() -> None:
    dark = np.full((200, 16, 16), 100, np.uint8)
    dark[np.random.default_rng(0).random(dark.shape) < 0.001] = 101
    dark[::2, 3, 4] = 140
    usable = CameraMaps.of_dark_frames(dark).usable
    assert np.argwhere(~usable).tolist() == [[3, 4]]


def test_maps_are_read_from_files(tmp_path: Path) -> None:
    _, _, maps = scmos()
    paths = []
    for name in ("offset", "gain", "variance"):
        np.save(tmp_path / f"{name}.npy", getattr(maps, name))
        paths.append(tmp_path / f"{name}.npy")
    again = CameraMaps.read(paths)
    assert maps.gain is not None
    assert again.gain is not None
    assert np.array_equal(again.gain, maps.gain)


def test_the_command_line_takes_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean, noisy, maps = scmos()
    for name in ("offset", "gain", "variance"):
        np.save(tmp_path / f"{name}.npy", getattr(maps, name))
    write(tmp_path / "movie.tif", Stack(noisy.astype(np.float32), axes="TYX"))
    files = [str(tmp_path / f"{name}.npy") for name in ("offset", "gain", "variance")]
    output = tmp_path / "denoised.tif"
    arguments = ["denoise", str(tmp_path / "movie.tif"), "-o", str(output), "--device", "cpu"]
    assert main([*arguments, "--preset", "preview", "--max-steps", "2", "--camera", *files]) == 0
    said = capsys.readouterr().out
    assert f"{int((~maps.usable).sum())} pixels left out, of too much read noise" in said
    assert np.square(read(output).movie() - clean).mean() < 0.2 * np.square(noisy - clean).mean()


def test_maps_that_do_not_fit_are_refused() -> None:
    flat = np.full((8, 8), 2.0)
    with pytest.raises(ValueError, match="as large as the offset"):
        CameraMaps(flat, np.ones((8, 9)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gain must be positive"):
        CameraMaps(flat, flat - 2)
    with pytest.raises(ValueError, match="as large as the frames"):
        CameraMaps(flat).correct(Stack(np.zeros((3, 9, 9)), axes="TYX"))
    with pytest.raises(ValueError, match="one to three files"):
        CameraMaps.read([])
    with pytest.raises(ValueError, match="dark frames must have"):
        CameraMaps.of_dark_frames(flat)


def test_a_batch_corrects_all_movies(tmp_path: Path) -> None:
    """Also the blocks of a large one, also what the shared model is fitted to."""
    clean, noisy, maps = scmos()
    for name in ("offset", "gain"):
        np.save(tmp_path / f"{name}.npy", getattr(maps, name))
    camera = [tmp_path / "offset.npy", tmp_path / "gain.npy"]
    recorded = Stack(noisy.round().clip(0, 65535).astype(np.uint16), axes="TYX")
    source = write(tmp_path / "movie.tif", recorded)
    training = {"clip_size": 12, "clip_frames": 2, "batch": 1}
    settings = RunSettings(preset="preview", device="cpu", max_steps=1, training=training)
    chosen = BatchOptions(
        settings=settings,
        workers=0,
        shared_model=True,
        blocks=2,
        keep_dtype=True,
        camera=camera,
    )
    (done,) = denoise_many(source, tmp_path / "out", chosen)
    assert done.error == ""
    result = read(done.output)
    assert result.dtype == np.uint16
    assert np.square(result.movie() - clean).mean() < 0.5 * np.square(noisy - clean).mean()
    (again,) = denoise_many(source, tmp_path / "out", chosen)
    assert again.status == "skipped"
    np.save(camera[1], 2 * np.load(camera[1]))
    with pytest.raises(FileExistsError, match="fitted with other settings"):
        denoise_many(source, tmp_path / "out", chosen)
    with pytest.raises(ValueError, match="one to three files"):
        denoise_many(source, tmp_path / "other", replace(chosen, camera=4 * camera))
