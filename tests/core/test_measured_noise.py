"""Claims of a measured law: exact inverse, unit variance, log data denoised, lines left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from napari_stbn import Denoiser, MeasuredNoise, Stack, simulate
from napari_stbn.noise import estimate_noise, noise_from_dict
from napari_stbn.report import write_report

LAW = MeasuredNoise((0.0, 1.0, 3.0, 10.0), (4.0, 1.0, 0.25, 0.25))


def log_movie() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logarithm of a truth, and of its noisy movie."""
    movie = simulate((16, 64, 64), kind="nuclei", photons=80, seed=123)
    return (
        np.log(movie.clean - 90).astype(np.float32),
        np.log(np.clip(movie.noisy - 90.0, 1, None)).astype(np.float32),
    )


def test_stabilised_values_go_back_exactly() -> None:
    y = np.linspace(-5, 15, 401)
    assert np.allclose(LAW.unstabilize(LAW.stabilize(y)), y, atol=1e-12)
    assert (np.diff(LAW.stabilize(y)) > 0).all()
    tensor = torch.from_numpy(y).float()
    assert torch.allclose(LAW.unstabilize(LAW.stabilize(tensor)), tensor, atol=1e-5)
    assert np.allclose(LAW.stabilize(tensor).numpy(), LAW.stabilize(y), atol=1e-5)


def test_slope_of_the_transform_is_one_over_the_noise() -> None:
    y = np.linspace(-2, 12, 57)[:-1] + 0.01
    slope = (LAW.stabilize(y + 1e-6) - LAW.stabilize(y)) / 1e-6
    assert np.allclose(slope, 1 / np.sqrt(LAW.variance(y)), rtol=1e-4)


def test_the_noise_of_a_logarithm_is_measured() -> None:
    clean, noisy = log_movie()
    fit = estimate_noise(noisy)
    assert fit.law is not None
    assert fit.best is fit.law
    assert fit.law.falls
    assert "level by level" in fit.note
    for level in np.percentile(clean, (20, 50, 80, 95)):
        near = np.abs(clean - level) < 0.05
        true = float(np.mean((noisy - clean)[near] ** 2))
        assert abs(float(fit.law.variance(np.array(level))) / true - 1) < 0.25


@pytest.mark.parametrize("photons", [5, 80])
def test_a_camera_keeps_its_line(photons: float) -> None:
    movie = simulate((16, 64, 64), kind="membranes", photons=photons, seed=2)
    assert estimate_noise(movie.noisy).law is None


def test_a_logarithm_is_denoised(tmp_path: Path) -> None:
    clean, noisy = log_movie()

    def error(estimate: NDArray[np.float32]) -> float:
        return float(np.square(estimate - clean).mean())

    smooth = min(
        error(gaussian_filter(noisy, (t, s, s))) for t in (0.5, 0.8, 1.2) for s in (0.8, 1.1, 1.6)
    )
    denoiser = Denoiser("preview", device="cpu", flow="none", turns=1)
    denoiser.fit(noisy, axes="TYX", max_steps=10)
    result = denoiser.denoise(noisy, axes="TYX")
    assert isinstance(result.noise[0], MeasuredNoise)
    assert error(result.denoised) < 0.8 * smooth
    page = write_report(tmp_path / "report.html", result, Stack(noisy, axes="TYX"))
    assert "level by level" in page.read_text(encoding="utf-8")
    loaded = Denoiser.load(denoiser.save(tmp_path / "model.stbn"), device="cpu")
    assert np.array_equal(loaded.denoise(noisy, axes="TYX").denoised, result.denoised)


def test_a_description_is_read_back() -> None:
    assert noise_from_dict(LAW.to_dict()) == LAW


@pytest.mark.parametrize(
    ("levels", "variances"),
    [
        ((0.0,), (1.0,)),
        ((0.0, 0.0), (1.0, 1.0)),
        ((0.0, 1.0), (1.0, 0.0)),
        ((0.0, 1.0), (1.0, float("nan"))),
        ((0.0, 1.0), (1.0, 1.0, 1.0)),
        (("a", "b"), (1.0, 1.0)),
        (3, 4),
    ],
)
def test_what_is_no_law_is_refused(levels: object, variances: object) -> None:
    with pytest.raises(ValueError, match="must"):
        noise_from_dict({"kind": "measured", "levels": levels, "variances": variances})
