"""What the network sees, and what comes back to a pixel through the estimated flow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import napari_stbn as stbn
from napari_stbn.diagnostics import blind_spot_leak, receptive_field
from napari_stbn.network.blindspot import BlindSpotConv2d

TINY = stbn.STBNConfig(width=6, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)


@pytest.fixture(scope="module")
def fitted() -> tuple[stbn.Denoiser, np.ndarray]:
    movie = stbn.simulate((6, 64, 72), seed=3).noisy
    denoiser = stbn.Denoiser(device="cpu", network=TINY, precision="float32")
    return denoiser.fit(movie, axes="TYX", max_steps=15), movie


def test_the_frame_itself_is_seen_at_all_offsets_but_even_ones() -> None:
    seen = receptive_field(TINY, frames=3, size=25)
    y, x = np.indices(seen.shape[1:]) - 12
    even = (y % 2 == 0) & (x % 2 == 0)
    near = (abs(y) < 6) & (abs(x) < 6)
    assert not seen[1][even].any()
    assert seen[1][near & ~even].all()
    # 75 % of the pixels within reach, as measured on the released network
    assert seen[1][near][:-1].mean() == pytest.approx(0.75, abs=0.06)


def test_the_neighbouring_frames_are_seen_whole() -> None:
    seen = receptive_field(TINY, frames=3, size=17)
    assert seen[0, 8, 8]
    assert seen[2, 8, 8]
    assert seen[0, 4:13, 4:13].all()


def test_a_mask_broken_on_purpose_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_eyed(self: BlindSpotConv2d, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(x, self.weight, self.bias, padding=1)

    monkeypatch.setattr(BlindSpotConv2d, "forward", open_eyed)
    assert receptive_field(TINY, frames=3, size=17)[1, 8, 8]


@pytest.mark.parametrize(("frames", "size"), [(2, 33), (1, 33), (3, 32), (3, 7)])
def test_even_sizes_have_no_centre(frames: int, size: int) -> None:
    with pytest.raises(ValueError, match="must be odd"):
        receptive_field(TINY, frames=frames, size=size)


def test_nothing_leaks_given_the_flow_and_little_through_it(
    fitted: tuple[stbn.Denoiser, np.ndarray],
) -> None:
    denoiser, movie = fitted
    before = movie.copy()
    leak = blind_spot_leak(denoiser, movie)
    assert leak.worst_given_flow == 0
    assert leak.pixels == 6
    # one standard deviation of the noise at the median intensity
    noise = denoiser.channel_noise[0]
    assert noise is not None
    assert leak.perturbation == pytest.approx(float(noise.variance(np.median(movie))) ** 0.5)
    assert leak.share < 0.5
    np.testing.assert_array_equal(movie, before)


def test_without_flow_nothing_leaks_at_all(fitted: tuple[stbn.Denoiser, np.ndarray]) -> None:
    _, movie = fitted
    still = stbn.Denoiser(device="cpu", network=TINY, flow="none", precision="float32")
    leak = blind_spot_leak(still.fit(movie, axes="TYX", max_steps=2), movie, perturbation=50.0)
    assert leak.rms == leak.worst == 0
    assert leak.perturbation == 50


def test_what_cannot_be_measured_is_said(fitted: tuple[stbn.Denoiser, np.ndarray]) -> None:
    _, movie = fitted
    with pytest.raises(RuntimeError, match="no model yet"):
        blind_spot_leak(stbn.Denoiser(device="cpu"), movie)
    blind = stbn.Denoiser(device="cpu", network=TINY, noise=None, precision="float32")
    with pytest.raises(ValueError, match="perturbation must be given"):
        blind_spot_leak(blind.fit(movie, axes="TYX", max_steps=1), movie)
