"""Claims of loss and posterior: the right formulas, the right limits, and an unbiased mean."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal

from napari_stbn.network import STBN, STBNConfig
from napari_stbn.noise import GaussianNoise, NoiseModel, PoissonGaussianNoise
from napari_stbn.prior import (
    Units,
    blind_loss,
    network_input,
    posterior,
    prior_mean,
    square_error,
)
from napari_stbn.stack import IntensityScaling

SHAPE = (2, 3, 4, 5)  # N, T, H, W
MODELS: list[NoiseModel] = [
    PoissonGaussianNoise(2.0, 100.0, 1.6),
    GaussianNoise(3.5),
    PoissonGaussianNoise(0.3, 20.0, 0.2),
]


def units_of(channels: int) -> list[Units]:
    """A different noise and scaling for each channel."""
    return [Units(MODELS[c], IntensityScaling(2.0 + c, 1.5 + c)) for c in range(channels)]


def example(channels: int, seed: int = 0) -> tuple[Tensor, Tensor, list[Units]]:
    """Prior (N, T, K, H, W), noisy intensities (N, T, C, H, W), units; float64."""
    n, t, h, w = SHAPE
    generator = torch.Generator().manual_seed(seed)
    outputs = channels + channels * (channels + 1) // 2
    prior = torch.randn(n, t, outputs, h, w, generator=generator, dtype=torch.float64)
    units = units_of(channels)
    mean = prior_mean(prior, units)
    noisy = mean + 5 * torch.randn(mean.shape, generator=generator, dtype=torch.float64)
    return prior, noisy, units


def ones() -> Tensor:
    n, t, h, w = SHAPE
    return torch.ones(n, t, 1, h, w, dtype=torch.float64)


def full_matrices(prior: Tensor, units: list[Units]) -> tuple[Tensor, Tensor, Tensor]:
    """Prior mean (..., C), prior covariance (..., C, C), noise std (..., C), pixels first.

    The factor's entries follow the means row by row; row i has C - i entries, from the first
    column on; the covariance in units of the noise is A^T A.
    """
    c = len(units)
    values = prior.movedim(2, -1)  # (N, T, H, W, K)
    factor = torch.zeros(*values.shape[:-1], c, c, dtype=values.dtype)
    position = c
    for row in range(c):
        for column in range(c - row):
            factor[..., row, column] = values[..., position] * units[column].scaling.scale
            position += 1
    assert position == values.shape[-1]
    mean = prior_mean(prior, units).movedim(2, -1)
    noises = [unit.noise for unit in units]
    std = torch.stack(
        [n.variance(mean[..., i]).sqrt() for i, n in enumerate(noises) if n is not None], -1
    )
    covariance = std[..., :, None] * (factor.mT @ factor) * std[..., None, :]
    return mean, covariance, std


# ---------------------------------------------------------------- formulas


def test_one_channel_is_the_closed_form() -> None:
    prior, noisy, units = example(1)
    noise = MODELS[0]
    m = units[0].to_intensity(prior[:, :, 0])
    s2 = noise.variance(m)
    v = (prior[:, :, 1] * units[0].scaling.scale) ** 2 * s2
    y = noisy[:, :, 0]
    loss = 0.5 * ((y - m) ** 2 / (v + s2) + torch.log((v + s2) / s2)).mean()
    assert float(blind_loss(prior, noisy, units, ones())) == pytest.approx(float(loss), rel=1e-9)
    mean, std = posterior(prior, noisy, units)
    torch.testing.assert_close(mean[:, :, 0], m + v / (v + s2) * (y - m))
    torch.testing.assert_close(std[:, :, 0], (v * s2 / (v + s2)).sqrt())


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_loss_is_the_likelihood_under_the_full_covariance(channels: int) -> None:
    prior, noisy, units = example(channels)
    mean, covariance, std = full_matrices(prior, units)
    total = covariance + torch.diag_embed(std**2)
    logarithm = MultivariateNormal(mean, total).log_prob(noisy.movedim(2, -1))
    constant = 0.5 * channels * math.log(2 * math.pi) + std.log().sum(-1)
    expected = float((-logarithm - constant).mean())
    assert float(blind_loss(prior, noisy, units, ones())) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_posterior_is_that_of_the_full_covariance(channels: int) -> None:
    """(V^-1 + S^-1)^-1 (V^-1 m + S^-1 y), as the paper writes it."""
    prior, noisy, units = example(channels)
    mean, v, std = full_matrices(prior, units)
    s_inverse = torch.diag_embed(std**-2)
    covariance = torch.linalg.inv(torch.linalg.inv(v) + s_inverse)
    right = torch.linalg.solve(v, mean[..., None]) + s_inverse @ noisy.movedim(2, -1)[..., None]
    got_mean, got_std = posterior(prior, noisy, units)
    expected = (covariance @ right)[..., 0]
    torch.testing.assert_close(got_mean.movedim(2, -1), expected, rtol=1e-6, atol=1e-6)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(got_std.movedim(2, -1), variance.sqrt(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_float32_is_good_enough(channels: int) -> None:
    prior, noisy, units = example(channels)
    for wide, narrow in zip(
        posterior(prior, noisy, units), posterior(prior.float(), noisy.float(), units), strict=True
    ):
        torch.testing.assert_close(narrow.double(), wide, rtol=1e-4, atol=1e-3)


def test_without_a_noise_model_the_loss_is_half_the_squared_error_in_network_units() -> None:
    units = [Units(None, IntensityScaling(10.0, 4.0)), Units(None, IntensityScaling(-1.0, 2.0))]
    prior, noisy = torch.zeros(1, 2, 2, 3, 3), torch.zeros(1, 2, 2, 3, 3)
    noisy[:, :, 0], noisy[:, :, 1] = 18.0, -5.0  # 2 and -2 in network units
    assert float(blind_loss(prior, noisy, units, torch.ones(1, 2, 1, 3, 3))) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="a posterior needs a noise model for every channel"):
        posterior(prior, noisy, units)


def test_only_pixels_with_weight_count() -> None:
    prior, noisy, units = example(2)
    weight = ones()
    weight[:, :, :, 2:] = 0
    part = blind_loss(prior[..., :2, :], noisy[..., :2, :], units, ones()[..., :2, :])
    assert float(blind_loss(prior, noisy, units, weight)) == pytest.approx(float(part))
    assert float(blind_loss(prior, noisy, units, 0 * weight)) == 0


def test_a_prediction_gains_nothing_by_erring_towards_stronger_noise() -> None:
    """The squared error is judged by one variance, whichever way the prediction errs."""
    chance = torch.Generator().manual_seed(0)
    noise = PoissonGaussianNoise(gain=2.0, offset=100.0, read_noise=1.0)
    unit = Units(noise, IntensityScaling(0.0, 1.0))
    light = torch.full((1, 4, 1, 200, 200), 8.0)
    noisy = 100 + 2 * (torch.poisson(light, chance) + torch.randn(light.shape, generator=chance))
    weight = torch.ones_like(noisy)

    def score(mean: float) -> float:
        level = torch.full_like(noisy, float(noise.stabilize(torch.tensor(mean))))
        prior = torch.cat([level, torch.full_like(level, 0.1)], 2)
        return float(square_error(prior, noisy, [unit], weight).mean())

    true, low, high = score(116.0), score(115.0), score(117.0)
    assert true == pytest.approx(1, abs=0.02)
    assert low - true == pytest.approx(1 / 36, rel=0.15)  # one count, squared, over the variance
    assert high - true == pytest.approx(1 / 36, rel=0.15)


def test_a_head_of_another_size_is_said() -> None:
    prior, noisy, units = example(2)
    with pytest.raises(ValueError, match="prior must have 5 channels for 2 image channels, got 4"):
        blind_loss(prior[:, :, :4], noisy, units, ones())


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_positive_factor_is_never_singular(channels: int) -> None:
    """The determinant of the prior covariance is the squared product of the pivots, and the
    network's default head keeps those from passing through zero.
    """
    config = STBNConfig(channels=channels, width=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = STBN(config).double()
        frames = 20 * torch.randn(1, 3, channels, 16, 16).double()
    flow = torch.zeros(1, 2, 2, 16, 16)
    units = [Units(GaussianNoise(1.0), IntensityScaling(0.0, 1.0))] * channels
    for positive in (True, False):
        model.config = replace(config, positive_factor=positive)
        with torch.no_grad():
            prior = model(frames, flow, flow)
        pivots = prior[:, :, list(config.pivots)]
        assert bool((pivots > 0).all()) is positive
        _, covariance, _ = full_matrices(prior, units)
        torch.testing.assert_close(
            torch.linalg.det(covariance), pivots.prod(2).square(), rtol=1e-3, atol=1e-9
        )


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("sigma", [1e5, 1e-4])
def test_posterior_goes_to_the_prior_as_noise_grows_and_to_the_pixel_as_it_vanishes(
    channels: int, sigma: float
) -> None:
    prior, _, _ = example(channels)
    # An affine scaling whose prior is the same in intensities whatever sigma is.
    units = [Units(GaussianNoise(sigma), IntensityScaling(100 / sigma, 8 / sigma))] * channels
    mean = prior_mean(prior, units)
    torch.testing.assert_close(mean, 100 + 8 * prior[:, :, :channels])
    noisy = mean + 10
    fused, std = posterior(prior, noisy, units)
    if sigma > 1:
        _, covariance, _ = full_matrices(prior, units)
        torch.testing.assert_close(fused, mean, atol=1e-3, rtol=0)
        prior_std = covariance.diagonal(dim1=-2, dim2=-1).sqrt().movedim(-1, 2)
        torch.testing.assert_close(std, prior_std, atol=1e-3, rtol=1e-3)
    else:
        sure = (std < 1e-2).all(2, keepdim=True)  # all but pixels whose prior is as sharp
        assert sure.double().mean() > 0.9
        error = (fused - noisy).abs().amax(2, keepdim=True)[sure]
        assert float(error.quantile(0.99)) < 1e-2


@settings(deadline=None, max_examples=30)
@given(channels=st.integers(1, 3), seed=st.integers(0, 10_000))
def test_posterior_is_never_less_sure_than_prior_or_pixel(channels: int, seed: int) -> None:
    prior, noisy, units = example(channels, seed)
    _, covariance, noise = full_matrices(prior, units)
    _, std = posterior(prior, noisy, units)
    prior_std = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert (std.movedim(2, -1) <= torch.minimum(prior_std, noise) * (1 + 1e-6) + 1e-9).all()


# ---------------------------------------------------------------- gradients


def gradient(prior: Tensor, noisy: Tensor, units: list[Units], beta: float) -> Tensor:
    leaf = prior.clone().requires_grad_()
    (out,) = torch.autograd.grad(blind_loss(leaf, noisy, units, ones(), beta=beta), leaf)
    return out


def test_beta_one_teaches_means_as_a_squared_error_does() -> None:
    """The gradient of the mean no longer depends on how sure the network is."""
    prior, noisy, units = example(1)
    unsure = prior.clone()
    unsure[:, :, 1] *= 7
    for beta, same in ((1.0, True), (0.0, False)):
        a, b = (gradient(p, noisy, units, beta)[:, :, 0] for p in (prior, unsure))
        assert torch.allclose(a, b, rtol=1e-9) is same


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_beta_moves_no_optimum(beta: float) -> None:
    """Of the covariance neither: where V + S is the square of the residual, both are at rest."""
    prior, _, units = example(1)
    mean = prior_mean(prior, units)
    m = (prior[:, :, 1] * units[0].scaling.scale) ** 2 + 1
    noise = MODELS[0].variance(mean[:, :, 0])
    distance = (m * noise).sqrt()[:, :, None]
    both = gradient(prior, mean + distance, units, beta) + gradient(
        prior, mean - distance, units, beta
    )
    assert both.abs().max() < 1e-12


@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_mean_is_unbiased_for_photon_noise(spread: float) -> None:
    """At 3 photons, where a squared error after stabilisation would find a darker pixel."""
    noise = PoissonGaussianNoise(gain=2.0, offset=100.0, read_noise=0.5)
    unit = Units(noise, IntensityScaling(1.0, 2.0))
    generator = torch.Generator().manual_seed(0)
    photons = torch.poisson(torch.full((400_000,), 3.0, dtype=torch.float64), generator=generator)
    read = 0.5 * torch.randn(photons.shape, generator=generator, dtype=torch.float64)
    noisy = (100 + 2 * (photons + read)).view(-1, 1, 1, 1, 1)

    def slope(level: float) -> tuple[float, float]:
        """Expected derivative of the loss by the mean where it is `level`, and its error."""
        mean = unit.to_network(torch.tensor(100 + 2 * level, dtype=torch.float64))
        prior = torch.stack([mean, torch.tensor(spread, dtype=torch.float64)])
        leaf = prior.view(1, 1, 2, 1, 1).repeat(len(noisy), 1, 1, 1, 1).requires_grad_()
        loss = blind_loss(leaf, noisy, [unit], torch.ones(noisy.shape, dtype=torch.float64))
        (each,) = torch.autograd.grad(loss * len(noisy), leaf)
        each = each[:, 0, 0, 0, 0]
        return float(each.mean()), float(each.std()) / math.sqrt(len(each))

    at_truth, error = slope(3.0)
    assert abs(at_truth) < 4 * error
    assert slope(2.9)[0] < -5 * error
    assert slope(3.1)[0] > 5 * error
    stabilised = noise.unstabilize(noise.stabilize(noisy).mean())
    assert float(stabilised) < 106 - 0.3, "this loss was meant to be needed"


# ---------------------------------------------------------------- units


@settings(deadline=None, max_examples=60)
@given(
    model=st.sampled_from([None, *MODELS]),
    offset=st.floats(-50, 50),
    scale=st.floats(0.05, 50),
    seed=st.integers(0, 1000),
)
def test_units_are_inverted(model: Any, offset: float, scale: float, seed: int) -> None:
    """Also below the offset and far above it."""
    unit = Units(model, IntensityScaling(offset, scale))
    generator = torch.Generator().manual_seed(seed)
    y = torch.empty(100, dtype=torch.float64).uniform_(-500, 65535, generator=generator)
    torch.testing.assert_close(unit.to_intensity(unit.to_network(y)), y, rtol=1e-9, atol=1e-6)
    z = torch.empty(100, dtype=torch.float64).uniform_(-5, 5, generator=generator)
    torch.testing.assert_close(unit.to_network(unit.to_intensity(z)), z, rtol=1e-6, atol=1e-6)


def test_the_noise_a_network_is_told_of_is_that_of_its_inputs() -> None:
    """The first number is the logarithm of the standard deviation that noise has there."""
    generator = torch.Generator().manual_seed(0)
    for photons, read_noise in ((3.0, 1.6), (50.0, 1.6), (200.0, 0.2)):
        noise = PoissonGaussianNoise(2.0, 100.0, read_noise)
        light = torch.poisson(torch.full((200_000,), photons), generator=generator)
        light += read_noise * torch.randn(light.shape, generator=generator)
        stable = noise.stabilize(100 + 2 * light)
        units = Units(noise, IntensityScaling(float(stable.mean()), 4.0))
        level, _ = units.noise_level
        assert math.exp(level - 1) == pytest.approx(float((stable / 4).std()), rel=0.1)


def test_the_bend_of_the_noise_is_that_of_the_transform() -> None:
    """Gaussian noise has none; with shot noise it is larger, the fewer the photons."""
    assert Units(GaussianNoise(3.0), IntensityScaling(0.0, 1.0)).noise_level[1] == 0
    bends = []
    for photons in (2.0, 20.0, 200.0):
        noise = PoissonGaussianNoise(2.0, 100.0, 1.0)
        middle = float(noise.stabilize(torch.tensor(100 + 2 * photons)))
        bends.append(Units(noise, IntensityScaling(middle, 1.0)).noise_level[1])
        if photons > 2:  # below, the noise reaches the dark end
            assert bends[-1] == pytest.approx(2 / math.sqrt(photons + 1), rel=0.05)
    assert bends == sorted(bends, reverse=True)
    assert 0 < bends[-1] < bends[0] < 4


@pytest.mark.parametrize("channels", [1, 2])
def test_noise_maps_follow_the_channels_of_a_frame(channels: int) -> None:
    inputs = torch.randn(2, 3, channels, 8, 9)
    units = units_of(channels)
    config = STBNConfig(channels=channels, noise_input=True)
    told = network_input(inputs, units, config)
    assert told.shape[2] == config.inputs == 3 * channels
    assert torch.equal(told[:, :, :channels], inputs)
    for i, value in enumerate(v for unit in units for v in unit.noise_level):
        torch.testing.assert_close(
            told[:, :, channels + i], torch.full_like(told[:, :, 0], value), rtol=1e-6, atol=1e-6
        )
    assert network_input(inputs, units, replace(config, noise_input=False)) is inputs
    assert Units(None, IntensityScaling(0.0, 1.0)).noise_level == (0.0, 0.0)


def test_noise_maps_add_nothing_before_the_first_step() -> None:
    """Fresh fits start from the same sort of network, told of the noise or not."""
    model = STBN(STBNConfig(width=4, noise_input=True))
    frames = torch.randn(1, 3, 3, 8, 8)
    flow = torch.zeros(1, 2, 2, 8, 8)
    told = frames.clone()
    told[:, :, 1:] = 7
    assert torch.equal(model(frames, flow, flow), model(told, flow, flow))
