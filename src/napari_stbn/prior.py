"""From the network's output to intensities: prior of a pixel, blind loss, posterior.

The network works on *network units*: intensities whose variance was stabilised by the noise model
and brought to mean 0 and standard deviation 1 (`Units`). Its loss is nevertheless evaluated on the
user's linear intensities, because noise is only unbiased there: with prior mean ``m`` and prior
covariance ``V`` of the clean pixel, a noisy pixel has mean ``m`` and covariance ``V + s(m)^2``
exactly (law of total variance), whatever the shape of the noise. A loss in the stabilised domain
would need an inverse that is unbiased only where the prior is sharp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ._intensity import IntensityScaling
from ._small_matrices import half_form, solve
from .network import STBNConfig
from .noise import NoiseModel

__all__ = [
    "Units",
    "blind_loss",
    "network_input",
    "noise_in_network_units",
    "pixel_loss",
    "pixel_residual",
    "posterior",
    "prior_mean",
    "prior_std",
    "square_error",
]


@dataclass(frozen=True)
class Units:
    """Conversion of one channel between the user's intensities and network units.

    Attributes
    ----------
    noise : NoiseModel or None
        Stabilises the variance; None leaves intensities linear.
    scaling : IntensityScaling
        Robust offset and scale of the stabilised movie, one for the whole movie.
    """

    noise: NoiseModel | None
    scaling: IntensityScaling

    def to_network(self, intensities: Tensor) -> Tensor:
        """Map intensities [user's units] to network units."""
        stable = intensities if self.noise is None else self.noise.stabilize(intensities)
        return (stable - self.scaling.offset) / self.scaling.scale

    def to_intensity(self, values: Tensor) -> Tensor:
        """Map network units to intensities [user's units]; the exact inverse of `to_network`."""
        stable = values * self.scaling.scale + self.scaling.offset
        return stable if self.noise is None else self.noise.unstabilize(stable)

    @property
    def noise_level(self) -> tuple[float, float]:
        """What a network is told of the noise, both of order one; zeros without a noise model.

        The logarithm of the noise's standard deviation in network units, and by how much that
        deviation grows over its own length at the middle intensity: the bend of the stabilising
        transform, by which the mean of transformed values misses the transformed mean.
        """
        if self.noise is None:
            return 0.0, 0.0
        middle = self.to_intensity(torch.zeros(1, dtype=torch.float64))
        std = self.noise.variance(middle).sqrt()
        growth = self.noise.variance(middle + std).sqrt() - self.noise.variance(middle - std).sqrt()
        level = 1.0 - math.log(self.scaling.scale)  # stabilised noise has unit variance
        return min(max(level, -4.0), 4.0), float(2 * growth / std)


def network_input(inputs: Tensor, units: Sequence[Units], config: STBNConfig) -> Tensor:
    """Put what a network is told of the noise behind the channels of a frame or clip.

    Parameters
    ----------
    inputs : Tensor, shape (..., C + map_channels, H, W) [network units]
    units : sequence of Units, length C
    config : STBNConfig
        Without `STBNConfig.noise_input` the inputs are returned as they are.

    Returns
    -------
    Tensor, shape (..., `config.inputs`, H, W)
    """
    if not config.noise_input:
        return inputs
    levels = inputs.new_tensor([value for unit in units for value in unit.noise_level])
    *before, _, h, w = inputs.shape
    return torch.cat([inputs, levels[:, None, None].expand(*before, -1, h, w)], -3)


def prior_mean(prior: Tensor, units: Sequence[Units]) -> Tensor:
    """Prior mean in the user's intensities.

    Parameters
    ----------
    prior : Tensor, shape (N, T, K, H, W), float32
        Output of `napari_stbn.network.STBN`.
    units : sequence of Units, length C
        One for each channel.

    Returns
    -------
    Tensor, shape (N, T, C, H, W) [user's units]
    """
    means = [unit.to_intensity(prior[:, :, c]) for c, unit in enumerate(units)]
    return torch.stack(means, 2)


def prior_std(prior: Tensor, units: Sequence[Units]) -> Tensor:
    """Prior standard deviation in the user's intensities.

    Parameters
    ----------
    prior : Tensor, shape (N, T, K, H, W), float32
        Output of a network with covariance.
    units : sequence of Units, length C
        All with a noise model.

    Returns
    -------
    Tensor, shape (N, T, C, H, W) [user's units]
    """
    noise_std = _noise_std(prior_mean(prior, units), units)
    matrix = _total_covariance(prior, units)
    spread = [(matrix[i][i] - 1).clamp(min=0).sqrt() for i in range(len(units))]
    return noise_std * torch.stack(spread, 2)


def blind_loss(
    prior: Tensor,
    noisy: Tensor,
    units: Sequence[Units],
    weight: Tensor,
    *,
    beta: float | Tensor = 0.0,
) -> Tensor:
    """Self-supervised loss of a clip: how badly the blind prior explains the noisy pixels.

    Parameters
    ----------
    prior : Tensor, shape (N, T, K, H, W), float32
        Output of the network; K = C (means) or C + C (C + 1) / 2.
    noisy : Tensor, shape (N, T, C, H, W) [user's units]
        The noisy pixels themselves.
    units : sequence of Units, length C
        With a noise model: Gaussian likelihood. Without: squared error in network units.
    weight : Tensor, shape (N, T, 1, H, W)
        Zero for pixels that do not count (held out, dead, not finite), else one.
    beta : float or Tensor, default 0
        Weigh each pixel by its total variance to this power, without gradient. At 0 a network that
        is still unsure of a pixel hardly learns its mean there, which at the start is everywhere;
        at 1 means are learnt as under a squared error.

    Returns
    -------
    Tensor, scalar
        Mean negative log-likelihood of a pixel [nats], up to the logarithm of the noise level; or
        half the mean squared error.

    Notes
    -----
    Paper, "Implementation Details": negative log-likelihood for synthetic noise, L2 for real noise.
    Deviation: the noise variance is that of the signal, ``s(m)^2``, taken at the predicted mean
    without gradient, so that the mean is not pulled towards intensities whose noise is large.
    Residuals and covariance are in units of the noise's standard deviation. `beta` is that of
    Seitzer et al. (ICLR 2022); any weight that depends on the prior alone leaves the best mean what
    it is, the expectation of the clean pixel.
    """
    loss = pixel_loss(prior, noisy, units, beta=beta)
    return (loss * weight).sum() / weight.sum().clamp(min=1)


def pixel_loss(
    prior: Tensor, noisy: Tensor, units: Sequence[Units], *, beta: float | Tensor = 0.0
) -> Tensor:
    """Blind loss (N, T, 1, H, W) of each pixel; parameters and meaning as in `blind_loss`."""
    c = len(units)
    if any(unit.noise is None for unit in units):
        target = torch.stack([unit.to_network(noisy[:, :, i]) for i, unit in enumerate(units)], 2)
        return 0.5 * (prior[:, :, :c] - target).square().mean(2, keepdim=True)
    residual, _ = _standard_residual(prior, noisy, units)
    matrix = _total_covariance(prior, units)
    half = half_form(matrix, residual)
    if isinstance(beta, Tensor) or beta:
        trace = sum((matrix[i][i] for i in range(len(units))), start=torch.zeros(())) / len(units)
        half = half * trace.detach() ** beta
    return half[:, :, None]


def pixel_residual(
    prior: Tensor, noisy: Tensor, units: Sequence[Units], channel: int
) -> tuple[Tensor, Tensor]:
    """What the prior mean misses of the noisy pixels, in units of its stated deviation.

    Parameters
    ----------
    prior : Tensor, shape (N, T, K, H, W), float32
    noisy : Tensor, shape (N, T, C, H, W) [user's units]
    units : sequence of Units, length C
    channel : int

    Returns
    -------
    residual, slope : Tensor, shape (N, T, H, W)
        The residual, and by how much it falls for each network unit that is added to the mean.
        Without a noise model or a covariance deviations count as one network unit.
    """
    unit, c = units[channel], len(units)
    if any(u.noise is None for u in units) or prior.shape[2] == c:
        residual = unit.to_network(noisy[:, :, channel]) - prior[:, :, channel]
        return residual, torch.ones_like(residual)
    residuals, _ = _standard_residual(prior, noisy, units)
    # A step in stabilised values is one in units of the noise.
    deviation = _total_covariance(prior, units)[channel][channel].sqrt()
    return residuals[channel] / deviation, unit.scaling.scale / deviation


def noise_in_network_units(units: Sequence[Units]) -> Tensor:
    """Variance of each channel's noise, shape (C,) [network units]; 1 where it is not known."""
    known = [1.0 if unit.noise is None else unit.scaling.scale**-2 for unit in units]
    return torch.tensor(known)


def square_error(prior: Tensor, noisy: Tensor, units: Sequence[Units], weight: Tensor) -> Tensor:
    """Squared error (N, T, 1, H, W) of the prior mean against the noisy pixel, mean over channels.

    In units of the noise; in network units without a noise model. Unlike `pixel_loss` it does not
    depend on how sure the network is, nor on which network it is: the variance of the noise is that
    at the brightness around. Taken at the prior mean instead, it would make a prediction that errs
    towards stronger noise the better one. Pixels whose weight (N, T, 1, H, W) is zero may hold
    anything.
    """
    c = len(units)
    if any(unit.noise is None for unit in units):
        return 2 * pixel_loss(prior[:, :, :c], noisy, units)
    difference = (prior_mean(prior, units) - noisy).square()
    variance = [
        unit.noise.variance(_mean_around(noisy[:, :, i], weight[:, :, 0] > 0))
        for i, unit in enumerate(units)
        if unit.noise is not None
    ]
    return (difference / torch.stack(variance, 2)).mean(2, keepdim=True)


def _mean_around(noisy: Tensor, known: Tensor) -> Tensor:
    """Mean of the known pixels around each of (N, T, H, W), without it.

    Of the nearest eight, and of the clip with a third of their weight: where hardly a photon comes,
    eight pixels can hold none at all.
    """
    counts = torch.stack([known.to(noisy.dtype), torch.where(known, noisy, 0.0)])
    padded = F.pad(counts.flatten(0, 1), (1, 1, 1, 1))
    near = (9 * F.avg_pool2d(padded, 3, stride=1)).view_as(counts) - counts
    clip = counts.sum((2, 3, 4), keepdim=True)
    number, total = near + 8 / 3 * clip / clip[0].clamp(min=1)
    mean: Tensor = total / number.clamp(min=1e-6)
    return mean


def posterior(prior: Tensor, noisy: Tensor, units: Sequence[Units]) -> tuple[Tensor, Tensor]:
    """Fuse the blind prior with the noisy pixel itself.

    Parameters
    ----------
    prior : Tensor, shape (N, T, K, H, W), float32
        Output of a network with covariance.
    noisy : Tensor, shape (N, T, C, H, W) [user's units]
        The noisy pixels.
    units : sequence of Units, length C
        All with a noise model.

    Returns
    -------
    mean, std : Tensor, shape (N, T, C, H, W) [user's units]
        Posterior mean and posterior standard deviation.

    Notes
    -----
    The linear estimator of least mean square error, ``m + V (V + S)^-1 (y - m)``: exact to second
    moments for any noise whose variance is S, Gaussian or not. For Gaussian noise it is the
    posterior of the paper (after Laine et al. 2019).
    """
    residual, (mean, std) = _standard_residual(prior, noisy, units)
    solved, diagonal = solve(_total_covariance(prior, units), residual)
    # With noise of unit variance the prior covariance is M - I, so V M^-1 r = r - M^-1 r and the
    # posterior covariance is I - M^-1.
    fused = mean + std * torch.stack([r - w for r, w in zip(residual, solved, strict=True)], 2)
    spread = std * torch.stack([(1 - d).clamp(min=0).sqrt() for d in diagonal], 2)
    return fused, spread


def _noise_std(mean: Tensor, units: Sequence[Units]) -> Tensor:
    """Standard deviation of the noise at a prior mean (N, T, C, H, W), without gradient."""
    stds = []
    for i, unit in enumerate(units):
        if unit.noise is None:
            raise ValueError("a posterior needs a noise model for every channel, got None")
        stds.append(unit.noise.variance(mean[:, :, i].detach()).sqrt())
    return torch.stack(stds, 2)


def _standard_residual(
    prior: Tensor, noisy: Tensor, units: Sequence[Units]
) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """Residuals (N, T, H, W) of each channel over the noise's std; prior mean and noise std (N.

    T, C, H, W).
    """
    mean = prior_mean(prior, units)
    std = _noise_std(mean, units)
    return list(((noisy - mean) / std).unbind(2)), (mean, std)


def _total_covariance(prior: Tensor, units: Sequence[Units]) -> list[list[Tensor]]:
    """Lower triangle of V + I, in units of the noise, entries (N, T, H, W)."""
    c = len(units)
    entries = iter(prior[:, :, c:].unbind(2))
    if prior.shape[2] != c + c * (c + 1) // 2:
        raise ValueError(
            f"prior must have {c + c * (c + 1) // 2} channels for {c} image channels, "
            f"got {prior.shape[2]}"
        )
    # Row i of the factor holds C - i entries in its first columns: the layout of the released
    # models.
    factor = [[next(entries) * units[j].scaling.scale for j in range(c - i)] for i in range(c)]
    return [
        [
            sum((factor[k][i] * factor[k][j] for k in range(c - i)), start=torch.zeros(()))
            + (i == j)
            for j in range(i + 1)
        ]
        for i in range(c)
    ]
