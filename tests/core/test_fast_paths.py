"""Claims of the fast paths: the numbers of the plain network, in fit and inference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from napari_stbn.network import STBN, STBNConfig, kernels
from napari_stbn.network.frozen import FrozenSTBN
from napari_stbn.network.kernels import Gradients, Layer, back, convolve
from napari_stbn.network.paired import paired_forward
from napari_stbn.network.stbn import Direction

Clip = tuple[Tensor, Tensor, Tensor]
SIZES = [
    STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1),
    STBNConfig(width=6, channels=2, expansion_groups=2, expansion_blocks=2, head_blocks=2),
    STBNConfig(width=8, noise_input=True, positive_factor=False),
    STBNConfig(width=40, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1),  # in groups
]
DIRECTIONS: tuple[Direction, ...] = ("from_past", "from_future")
BFLOAT16_ROUNDING = 0.03  # of the output's deviation; the plain network in bfloat16 has 0.014


def model_of(config: STBNConfig, device: torch.device) -> STBN:
    """A network whose every weight matters: biases too, and a last layer of ordinary size."""
    model = STBN.seeded(config, 0)
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=chance)
        list(model.parameters())[-1].mul_(10)
    return model.place(device)


def clip(config: STBNConfig, size: tuple[int, int], device: torch.device) -> Clip:
    """Frames and flows that lead inside and outside."""
    chance = torch.Generator().manual_seed(2)
    frames = torch.randn(2, 4, config.inputs, *size, generator=chance)
    flows = [4 * torch.randn(2, 3, 2, *size, generator=chance) for _ in range(2)]
    return frames.to(device), flows[0].to(device), flows[1].to(device)


def gradient(model: STBN, forward: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Output, and gradient of all weights for a random weighing of it."""
    model.zero_grad()
    out = forward()
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out.device)
    (out * weight).sum().backward()
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return out.detach(), torch.cat(grads)


def relative(got: Tensor, expected: Tensor) -> float:
    """Size of the difference over that of what is expected."""
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("config", SIZES)
@pytest.mark.parametrize("size", [(32, 32), (9, 14)])
def test_both_directions_in_one_pass_give_the_plain_numbers(
    config: STBNConfig, size: tuple[int, int], device: torch.device
) -> None:
    model, inputs = model_of(config, device), clip(config, size, device)
    expected, exact = gradient(model, lambda: model(*inputs))
    assert relative(paired_forward(model, *inputs).detach(), expected) < 1e-5
    low, low_gradient = gradient(
        model, lambda: paired_forward(model, *inputs, dtype=torch.bfloat16)
    )
    assert relative(low, expected) < BFLOAT16_ROUNDING
    # Rounding turns ReLUs on and off, which moves gradients more than outputs.
    assert relative(low_gradient, exact) < 0.3
    if device.type == "mps":  # has no float64
        return
    model.double()
    expected, exact = gradient(model, lambda: model(inputs[0].double(), *inputs[1:]))
    got, fast = gradient(model, lambda: paired_forward(model, *inputs, dtype=torch.float64))
    assert relative(got, expected) < 1e-12
    assert relative(fast, exact) < 1e-6  # summed in float32


@pytest.mark.parametrize("config", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_pixel_has_any_influence_on_its_own_output(
    config: STBNConfig, dtype: torch.dtype, device: torch.device
) -> None:
    model, (frames, *flows) = model_of(config, device), clip(config, (17, 22), device)
    with torch.no_grad():
        before = paired_forward(model, frames, flows[0], flows[1], dtype)
        for t, y, x in ((0, 0, 0), (1, 8, 9), (3, 16, 21), (2, 5, 0)):
            changed = frames.clone()
            changed[:, t, :, y, x] += 100
            difference = paired_forward(model, changed, flows[0], flows[1], dtype) - before
            assert not difference[:, t, :, y, x].any()
            assert difference.any()


def test_the_loss_can_be_measured_without_a_graph(device: torch.device) -> None:
    model, inputs = model_of(SIZES[0], device), clip(SIZES[0], (12, 12), device)
    with torch.no_grad():
        assert relative(paired_forward(model, *inputs), model(*inputs)) < 1e-5


def test_frames_of_another_size_than_the_flow_are_refused(device: torch.device) -> None:
    frames, to_previous, to_next = clip(SIZES[0], (12, 12), device)
    with pytest.raises(ValueError, match="flow_to_next must have shape"):
        paired_forward(model_of(SIZES[0], device), frames, to_previous, to_next[..., :8])


@pytest.mark.parametrize("config", SIZES)
def test_steps_with_fixed_weights_give_the_plain_numbers(
    config: STBNConfig, device: torch.device
) -> None:
    model = model_of(config, device)
    chance = torch.Generator().manual_seed(4)
    frame = torch.randn(2, config.inputs, 18, 23, generator=chance).to(device)
    past, future = (
        torch.randn(2, config.width, 18, 23, generator=chance).to(device) for _ in range(2)
    )
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, BFLOAT16_ROUNDING)):
        frozen = FrozenSTBN(model, dtype)
        with torch.no_grad():
            for direction in DIRECTIONS:
                began = frozen.begin(direction, frame)
                assert relative(began.float(), model.begin(direction, frame)) < bound
                advanced = frozen.advance(direction, frame, past)
                plain = model.advance(direction, frame, past)
                assert relative(advanced.float(), plain) < bound
            assert relative(frozen.predict(past, future), model.predict(past, future)) < bound
            shifted = [torch.nn.functional.pad(s, (2, 0, 0, 0)) for s in (past, future)]
            plain = model.predict(*shifted)[..., 2:]
            moved = frozen.predict(past, future, (0, 2))
            # The plain head sees what the expansion makes of the zeros beside the frame.
            inside = slice(2 * config.head_blocks, None)
            assert relative(moved[..., inside], plain[..., inside]) < bound


def test_a_frozen_network_keeps_its_weights(device: torch.device) -> None:
    model = model_of(SIZES[0], device)
    frame = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(5)).to(device)
    frozen = FrozenSTBN(model)
    before = frozen.begin("from_past", frame)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(frozen.begin("from_past", frame), before)


# ---------------------------------------------------------------- kernels


def layer_and_map(c: int, groups: int, dtype: torch.dtype) -> tuple[Layer, Tensor]:
    """A dilated layer and a map of 32 x 32 pixels, channels-last."""
    chance = torch.Generator().manual_seed(6)
    weight = torch.randn(c, c // groups, 3, 3, generator=chance) / (9 * c / groups) ** 0.5
    x = torch.randn(2, c, 32, 32, generator=chance)
    as_maps = [v.to(dtype).contiguous(memory_format=torch.channels_last) for v in (weight, x)]
    return Layer(as_maps[0], None, 2, groups, relu=True), as_maps[1]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("width", [4, 8, 12, 16, 20, 24, 32, 40, 48, 64])
def test_weight_gradients_are_right_at_every_width(width: int, groups: int) -> None:
    """torch 2.13 on CPUs with AVX512_BF16: noise or NaN at some widths, if taken as they come."""
    layer, x = layer_and_map(groups * width, groups, torch.bfloat16)
    upstream = convolve(x, replace(layer, relu=False)).flip(-1)
    sums = Gradients()
    back(upstream, x, layer, sums)
    exact = replace(layer, weight=layer.weight.float())
    expected = Gradients()
    back(upstream.float(), x.float(), exact, expected)
    assert relative(sums.of([layer])[0], expected.of([exact])[0]) < 0.02


def test_without_fused_convolutions_plain_ones_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = layer_and_map(16, 2, torch.float32)
    expected = convolve(x, layer, add=x)

    def lacks(*_: object) -> Tensor:
        raise AttributeError("'mkldnn' has no such operation in this version")

    monkeypatch.setattr(kernels, "_fused", lacks)
    kernels.fused.cache_clear()
    try:
        assert relative(convolve(x, layer, add=x), expected) < 1e-6
    finally:
        kernels.fused.cache_clear()


def test_fused_convolutions_that_err_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = layer_and_map(16, 2, torch.float32)
    expected = convolve(x, layer)
    monkeypatch.setattr(kernels, "_fused", lambda x, *_: torch.zeros_like(x))
    kernels.fused.cache_clear()
    try:
        assert relative(convolve(x, layer), expected) < 1e-6
    finally:
        kernels.fused.cache_clear()
