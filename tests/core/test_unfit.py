"""Movies that a fit would make worse, such as compressed ones: found, and not fitted to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from imageio.v3 import imread, imwrite
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import napari_stbn as stbn
from napari_stbn._compression import COMPRESSED, is_compressed
from napari_stbn._unfit import FILTERED
from napari_stbn.samples import KINDS

Movie = NDArray[Any]


def compressed(movie: Movie, quality: int = 75) -> Movie:
    """A movie as a film of JPEG frames."""
    frames = []
    for frame in np.clip(movie, 0, 255).astype(np.uint8):
        file = imwrite("<bytes>", frame, extension=".jpg", quality=quality)
        frames.append(np.asarray(imread(file, extension=".jpg"), np.float32))
    return np.stack(frames)


def noisy(kind: str = "nuclei", photons: float = 20.0) -> Movie:
    return stbn.simulate((12, 64, 72), kind=kind, photons=photons, seed=4).noisy


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("photons", [3.0, 20.0, 300.0])
def test_frames_as_recorded_have_no_blocks(kind: str, photons: float) -> None:
    assert not is_compressed(noisy(kind, photons))


@pytest.mark.parametrize("kind", ["nuclei", "mixed", "filaments"])
@pytest.mark.parametrize("shift", [0, 3])
def test_blocks_are_found_wherever_they_begin(kind: str, shift: int) -> None:
    assert is_compressed(compressed(noisy(kind))[:, shift:, shift:])


def test_columns_of_a_camera_and_pixels_that_are_no_numbers_are_no_blocks() -> None:
    movie = noisy().astype(np.float32)
    movie[:, :, ::8] += 30
    assert not is_compressed(movie)
    assert not is_compressed(np.full((4, 64, 64), np.nan))
    assert not is_compressed(movie[:, :16, :16])


def test_a_fit_keeps_its_start() -> None:
    stack = stbn.Stack(compressed(noisy()), axes="TYX")
    denoiser = stbn.Denoiser("preview", device="cpu", flow="none", turns=1)
    result = denoiser.fit(stack, time_budget=30).denoise(stack)
    assert len(denoiser.history) == 1
    assert COMPRESSED in result.report["notes"]
    denoiser.fit(stack, max_steps=3)  # asked for
    assert len(denoiser.history) == 3
    settings = stbn.RunSettings(preset="preview", device="cpu", flow="none", time_budget=30)
    for _ in settings.fit_steps(denoiser, stack):  # as the widget, the command line and batches do
        pass
    assert len(denoiser.history) == 1
    plain = stbn.Denoiser("preview", device="cpu", flow="none", correlation="off", turns=1)
    assert COMPRESSED not in plain.fit(stack, time_budget=1).denoise(stack).report["notes"]


def test_a_fit_to_much_filtered_noise_keeps_its_start() -> None:
    """After 40 s of fit such a movie had 26 dB instead of 34."""
    smooth = gaussian_filter(noisy().astype(np.float32), (0, 0.7, 0.7))
    stack = stbn.Stack(smooth, axes="TYX")
    denoiser = stbn.Denoiser("preview", device="cpu", flow="none", turns=1)
    result = denoiser.fit(stack, time_budget=30).denoise(stack)
    assert len(denoiser.history) == 1
    assert FILTERED in result.report["notes"]
    little = gaussian_filter(noisy().astype(np.float32), (0, 0.4, 0.4))
    again = denoiser.fit(little, axes="TYX", time_budget=1).denoise(little, axes="TYX")
    assert FILTERED not in again.report["notes"]
