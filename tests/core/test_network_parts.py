"""The parts of the network, its shapes, and golden numbers that notice any change."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from napari_stbn.network import STBN, STBNConfig
from napari_stbn.network.blindspot import (
    BlindSpotConv2d,
    DilatedResidual,
    patch_shuffle,
    patch_unshuffle,
)

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)


# ---------------------------------------------------------------- the parts


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 2), c=st.integers(1, 3), h=st.integers(1, 5), w=st.integers(1, 5))
def test_patch_shuffle_inverts_patch_unshuffle(n: int, c: int, h: int, w: int) -> None:
    x = torch.arange(float(n * c * 16 * h * w)).view(n, c, 4 * h, 4 * w)
    small = patch_unshuffle(x)
    assert small.shape == (n, 4 * c, 2 * h, 2 * w)
    assert torch.equal(patch_shuffle(small), x)
    y = torch.arange(float(n * 4 * c * 4 * h * w)).view(n, 4 * c, 2 * h, 2 * w)
    assert torch.equal(patch_unshuffle(patch_shuffle(y)), y)


def test_patch_unshuffle_keeps_parity_and_orders_channels() -> None:
    x = torch.arange(64.0).view(1, 1, 8, 8)
    small = patch_unshuffle(x)
    for y in range(8):
        for c in range(8):
            row, column = 2 * (y // 4) + y % 2, 2 * (c // 4) + c % 2
            channel = 2 * (y % 4 // 2) + c % 4 // 2
            assert small[0, channel, row, column] == x[0, 0, y, c]


def test_parts_say_which_sizes_they_take() -> None:
    with pytest.raises(ValueError, match="multiples of 4, got 8 x 6"):
        patch_unshuffle(torch.zeros(1, 1, 8, 6))
    with pytest.raises(ValueError, match=re.escape("got 6 channels of 4 x 4")):
        patch_shuffle(torch.zeros(1, 6, 4, 4))
    with pytest.raises(ValueError, match=re.escape("got 4 channels of 4 x 3")):
        patch_shuffle(torch.zeros(1, 4, 4, 3))


def test_masked_centre_gets_no_gradient_and_saves_no_mask() -> None:
    conv = BlindSpotConv2d(3, 5)
    conv(torch.randn(1, 3, 8, 8)).sum().backward()
    assert conv.weight.grad is not None
    assert not conv.weight.grad[..., 1, 1].any()
    assert conv.weight.grad[..., 0, 1].any()
    assert set(conv.state_dict()) == {"weight", "bias"}


def test_dilated_residual_moves_by_even_offsets_alone() -> None:
    block = DilatedResidual(4).double()
    x = torch.randn(1, 4, 9, 9, dtype=torch.double, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x)[0, :, 4, 4].sum(), x)
    rows, columns = gradient[0].abs().sum(0).nonzero().unbind(1)
    assert set(rows.tolist()) | set(columns.tolist()) <= {2, 4, 6}


@pytest.mark.parametrize(
    ("frames", "flow", "sentence"),
    [
        ((1, 2, 2, 8, 8), (1, 1, 2, 8, 8), "frames must have shape (N, T, 1, H, W)"),
        ((1, 1, 1, 8, 8), (1, 0, 2, 8, 8), "a clip needs at least 2 frames, got 1"),
        ((1, 2, 1, 7, 8), (1, 1, 2, 7, 8), "frames must be at least 8 x 8 pixels, got 7 x 8"),
        ((1, 3, 1, 8, 8), (1, 3, 2, 8, 8), "must have shape (1, 2, 2, 8, 8) to match frames"),
    ],
)
def test_wrong_shapes_are_said(
    frames: tuple[int, ...], flow: tuple[int, ...], sentence: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        STBN(TINY)(torch.zeros(frames), torch.zeros(flow), torch.zeros(flow))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"width": 5}, "width must be an even number of at least 2, got 5"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"map_channels": -1}, "map_channels must not be negative, got -1"),
        ({"head_blocks": 0}, "head_blocks must be at least 1, got 0"),
    ],
)
def test_sizes_that_no_network_has_are_said(change: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        STBNConfig(**change)  # type: ignore[arg-type]


# ---------------------------------------------------------------- golden numbers

GOLDEN = (-0.0870858490703, 1.4401279761749, -0.1989355359616, 2.1225198216156, 1.5108782207734)


def test_golden_forward() -> None:
    """Mean, spread and three values of a fixed forward pass.

    Weights, frames and flows are cosines, not random numbers, and all is float64: sums in another
    order differ by 1e-14, so 1e-9 holds on every machine and any change of the network shows.
    """
    config = STBNConfig(
        channels=2, map_channels=1, width=4, positive_factor=False, alignment="nearest"
    )
    model = STBN(config).double().eval()
    for n, parameter in enumerate(model.parameters()):
        numbers = torch.arange(parameter.numel(), dtype=torch.float64)
        fan = parameter[0].numel() if parameter.ndim > 1 else 100
        parameter.data = (torch.cos(1.3 * numbers + n) * math.sqrt(3 / fan)).view(parameter.shape)
    frames = torch.cos(0.7 * torch.arange(1 * 3 * 3 * 9 * 11.0, dtype=torch.float64))
    flows = 4 * torch.cos(0.31 * torch.arange(2 * 1 * 2 * 2 * 9 * 11.0, dtype=torch.float64))
    to_previous, to_next = flows.view(2, 1, 2, 2, 9, 11)
    with torch.no_grad():
        out = model(frames.view(1, 3, 3, 9, 11), to_previous, to_next)
    some = [out.mean(), out.std(), out[0, 0, 0, 0, 0], out[0, 1, 4, 4, 5], out[0, 2, 2, 8, 10]]
    assert out.shape == (1, 3, 5, 9, 11)
    assert [float(x) for x in some] == pytest.approx(GOLDEN, rel=1e-9)
    model.config = replace(config, positive_factor=True)
    with torch.no_grad():
        positive = model(frames.view(1, 3, 3, 9, 11), to_previous, to_next)
    expected = out.clone()
    for last in (3, 4):  # means 0 and 1, rows of the factor (2, 3) and (4): the last of each
        expected[:, :, last] = F.softplus(out[:, :, last])
    torch.testing.assert_close(positive, expected)
