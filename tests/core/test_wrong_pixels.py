"""Claims of taking wrong pixels out: no trace in result or fit, everywhere alike, light kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_stbn import Denoiser, PoissonGaussianNoise, simulate
from napari_stbn._doubt import doubt
from napari_stbn._inference_steps import DenoisedWindow
from napari_stbn._wrong_pixels import WrongPixels
from napari_stbn.correlation import NoiseCorrelation
from napari_stbn.flow import FlowMethod
from napari_stbn.prior import Units
from napari_stbn.stack import IntensityScaling

FILTER = NoiseCorrelation((1.2, -0.3, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))


def spoilt_movie(share: float = 3e-4) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Truth, and the noisy movie with cosmic rays."""
    movie = simulate((12, 64, 64), kind="nuclei", photons=50, seed=6)
    rng = np.random.default_rng(1)
    spoilt = movie.noisy.copy()
    hit = rng.random(spoilt.shape) < share
    spoilt[hit] = rng.integers(2000, 6000, int(hit.sum()))
    return movie.clean, spoilt


def psnr(estimate: NDArray[np.float32], clean: NDArray[np.float32]) -> float:
    """PSNR [dB] over the range of the truth."""
    return float(20 * np.log10(np.ptp(clean) / np.sqrt(np.mean((estimate - clean) ** 2))))


def window(mean: torch.Tensor, wrong: torch.Tensor) -> DenoisedWindow:
    """A result of frames (T, C, Y, X) from frame 3 on."""
    return DenoisedWindow(3, mean, torch.ones_like(mean), mean, 1.0, wrong)


@pytest.mark.parametrize("flow", ["dis", "none", "translation"])
def test_cosmic_rays_hardly_cost_anything_and_are_told_of(flow: FlowMethod) -> None:
    clean, spoilt = spoilt_movie()
    before = spoilt.copy()
    plain = simulate((12, 64, 64), kind="nuclei", photons=50, seed=6).noisy
    results = [
        Denoiser("preview", device="cpu", flow=flow)
        .fit(m, axes="TYX", max_steps=3)
        .denoise(m, axes="TYX")
        for m in (plain, spoilt)
    ]
    assert results[1].report["refined_flow"] is (flow == "dis")
    good, bad = (psnr(result.denoised, clean) for result in results)
    assert bad > good - 0.6  # .47 to .55 dB after 1 to 40 steps
    assert np.array_equal(spoilt, before)
    said = [[n for n in result.report["notes"] if "cosmic rays" in n] for result in results]
    assert len(said[0]) == 0
    assert len(said[1]) == 1


def test_a_saved_model_takes_out_what_the_fit_took_out(tmp_path: Path) -> None:
    _, spoilt = spoilt_movie()
    denoiser = Denoiser("preview", device="cpu").fit(spoilt, axes="TYX", max_steps=2)
    first = denoiser.denoise(spoilt, axes="TYX")
    again = denoiser.denoise(spoilt, axes="TYX")
    loaded = Denoiser.load(denoiser.save(tmp_path / "model.stbn"), device="cpu")
    assert np.array_equal(again.denoised, first.denoised)
    assert np.array_equal(loaded.denoise(spoilt, axes="TYX").denoised, first.denoised)


@pytest.mark.parametrize("flow", ["dis", "none", "translation"])
def test_a_stream_takes_them_out_too(flow: FlowMethod, tmp_path: Path) -> None:
    _, spoilt = spoilt_movie()
    fitted = Denoiser("preview", device="cpu", flow=flow).fit(spoilt, axes="TYX", max_steps=2)
    whole = fitted.denoise(spoilt, axes="TYX").denoised
    # What was just loaded has no movie at hand, and goes piece by piece.
    streaming = Denoiser.load(fitted.save(tmp_path / "model.stbn"), device="cpu")
    streamed = streaming.denoise_to(spoilt, tmp_path / "denoised.npy", axes="TYX")
    # A stream keeps flow in whole pixels, so that half a pixel may go to the other side.
    assert np.allclose(np.load(streamed.path), whole, atol=3e-3 * np.ptp(whole))
    assert any("cosmic rays" in note for note in streamed.report["notes"])


def test_a_stream_counts_them_in_all_movies_together(tmp_path: Path) -> None:
    _, spoilt = spoilt_movie()
    two = np.stack([spoilt[:, :40, :40], spoilt[:, 24:, 24:]])
    fitted = Denoiser("preview", device="cpu", flow="none", turns=1)
    whole = fitted.fit(two, axes="CTYX", max_steps=1).denoise(two, axes="CTYX")
    fitted.release()
    streamed = fitted.denoise_to(two, tmp_path / "denoised.npy", axes="CTYX")
    said, again = (
        [note for note in report["notes"] if "cosmic rays" in note]
        for report in (whole.report, streamed.report)
    )
    assert len(said) == 1
    assert again == said


@pytest.mark.parametrize("correlation", [None, FILTER])
def test_what_a_wrong_pixel_did_to_its_neighbours_is_undone(
    correlation: NoiseCorrelation | None,
) -> None:
    rng = np.random.default_rng(0)
    recorded = rng.normal(100, 5, (1, 32, 32)).astype(np.float32)
    hit = recorded.copy()
    hit[0, 10, 12] += 300
    if correlation is not None:
        recorded, hit = correlation.whiten(recorded), correlation.whiten(hit)
    wrong = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    wrong[0, 0, 10, 12] = True
    found = WrongPixels([correlation])
    # A prediction that is right.
    found.add(window(torch.from_numpy(recorded)[None], wrong), torch.from_numpy(hit)[None])
    mended, valid = torch.from_numpy(hit.copy()), torch.ones(1, 32, 32, dtype=torch.bool)
    assert found.count == 1
    assert not found.take_out(2, mended, valid)
    assert found.take_out(3, mended, valid)
    assert np.allclose(mended, recorded, atol=0.05)
    assert int((~valid).sum()) == 1
    assert not valid[0, 10, 12]


def test_where_much_seems_wrong_the_prediction_is() -> None:
    frames = torch.zeros(2, 1, 16, 16)
    wrong = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.2
    wrong[1] = False
    wrong[1, 0, 3, 3] = True
    found = WrongPixels([None])
    found.add(window(frames, wrong), frames + 1)
    assert found.count == 1


def test_single_photons_in_the_dark_are_light() -> None:
    # A pixel sees two photons in a hundred frames; each is seven standard deviations of what is
    # there on average, and all of the light.
    rng = np.random.default_rng(0)
    noise = PoissonGaussianNoise(gain=10.0, offset=100.0, read_noise=0.05)
    noisy = 100 + 10 * (rng.poisson(0.02, (256, 256)) + rng.normal(0, 0.05, (256, 256)))
    unit = Units(noise, IntensityScaling(100.0, 10.0))
    mean, std = torch.full((1, 256, 256), 100.2), torch.full((1, 256, 256), 0.1)
    found = doubt(torch.from_numpy(noisy).float()[None], mean, std, (unit,))
    deviation = (noisy - 100.2) / float(noise.variance(torch.tensor(100.2))) ** 0.5
    assert (deviation > 5).sum() > 500
    assert not found.any()
