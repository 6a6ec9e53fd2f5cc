"""Claims of the flow convention: where a warp takes its values from, and what an error means."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from napari_stbn.flow import end_point_error, field, warp
from napari_stbn.flow.field import (
    ALIGNMENTS,
    BILINEAR_STEPS,
    Alignment,
    align,
    align_index,
    gather,
    gather_rows,
    scatter_rows,
    warp_index,
)
from napari_stbn.network import STBN, STBNConfig

SIZES = st.integers(1, 13)
SEEDS = st.integers(0, 2**31 - 1)


def numbers(shape: tuple[int, ...], seed: int) -> Tensor:
    """Distinct values, so that a copy can be traced back to its source."""
    generator = torch.Generator().manual_seed(seed)
    count = math.prod(shape)
    return (torch.randperm(count, generator=generator).float() + 1).view(shape)


def constant_flow(shape: torch.Size, dx: float, dy: float) -> Tensor:
    """The same displacement everywhere, for a source of this shape."""
    vector = torch.tensor([dx, dy]).view(1, 2, 1, 1)
    return vector.expand(shape[0], 2, shape[2], shape[3])


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 3), c=st.integers(1, 4), h=SIZES, w=SIZES, seed=SEEDS)
def test_warp_by_zero_is_the_identity(n: int, c: int, h: int, w: int, seed: int) -> None:
    source = numbers((n, c, h, w), seed)
    assert torch.equal(warp(source, torch.zeros(n, 2, h, w)), source)


@settings(deadline=None, max_examples=60)
@given(h=SIZES, w=SIZES, dx=st.integers(-15, 15), dy=st.integers(-15, 15), seed=SEEDS)
def test_warp_by_whole_pixels_is_a_shift_with_zeros_moving_in(
    h: int, w: int, dx: int, dy: int, seed: int
) -> None:
    source = numbers((2, 3, h, w), seed)
    expected = torch.zeros_like(source)
    for y in range(h):
        for x in range(w):
            if 0 <= y + dy < h and 0 <= x + dx < w:
                expected[:, :, y, x] = source[:, :, y + dy, x + dx]
    assert torch.equal(warp(source, constant_flow(source.shape, dx, dy)), expected)


@settings(deadline=None, max_examples=60)
@given(h=SIZES, w=SIZES, reach=st.floats(0.1, 40), seed=SEEDS)
def test_every_warped_value_is_a_value_of_the_same_frame_and_channel_or_zero(
    h: int, w: int, reach: float, seed: int
) -> None:
    """Nothing is mixed: noise that was independent stays so, the ground of the blind spot."""
    source = numbers((2, 2, h, w), seed)
    flow = reach * torch.randn(2, 2, h, w, generator=torch.Generator().manual_seed(seed))
    moved = warp(source, flow)
    for n in range(2):
        for c in range(2):
            allowed = {0.0, *source[n, c].flatten().tolist()}
            assert set(moved[n, c].flatten().tolist()) <= allowed


@settings(deadline=None, max_examples=60)
@given(h=st.integers(2, 13), w=st.integers(2, 13), reach=st.floats(0.1, 10), seed=SEEDS)
def test_warp_is_torch_grid_sample_nearest(h: int, w: int, reach: float, seed: int) -> None:
    """As in the paper's code. Within 1e-3 px of a half-way case the two may round differently."""
    source = numbers((2, 3, h, w), seed)
    flow = reach * torch.randn(2, 2, h, w, generator=torch.Generator().manual_seed(seed))
    place = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy")) + flow
    tie = ((place - place.floor() - 0.5).abs() < 1e-3).any(1, keepdim=True)
    grid = 2 * place / torch.tensor([w - 1.0, h - 1.0]).view(1, 2, 1, 1) - 1
    sampled = F.grid_sample(
        source, grid.permute(0, 2, 3, 1), mode="nearest", padding_mode="zeros", align_corners=True
    )
    assert torch.equal(warp(source, flow).masked_fill(tie, 0), sampled.masked_fill(tie, 0))


def test_first_channel_of_a_flow_is_x() -> None:
    source = torch.zeros(1, 1, 5, 7)
    source[0, 0, 2, 3] = 1.0
    moved = warp(source, constant_flow(source.shape, dx=2.0, dy=-1.0))
    # the output at p copies source[p + flow], so the spot appears at (3 - 2, 2 + 1)
    assert moved.nonzero().tolist() == [[0, 0, 3, 1]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30, -1e10])
def test_flow_that_is_not_finite_or_huge_points_outside(bad: float) -> None:
    source = torch.ones(1, 1, 4, 4)
    for channel in (0, 1):
        flow = torch.zeros(1, 2, 4, 4)
        flow[0, channel, 1, 2] = bad
        moved = warp(source, flow)
        assert moved[0, 0, 1, 2] == 0
        assert moved.sum() == 15


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_warp_keeps_the_type_and_every_bit_of_the_values(dtype: torch.dtype) -> None:
    source = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    moved = warp(source, constant_flow(source.shape, 1, 0))
    assert moved.dtype == dtype
    assert torch.equal(moved[..., :-1], source[..., 1:])


def test_gradient_reaches_the_source_and_never_the_flow() -> None:
    source = torch.randn(1, 2, 5, 5, requires_grad=True)
    flow = torch.ones(1, 2, 5, 5, requires_grad=True)
    warp(source, flow).sum().backward()
    assert flow.grad is None
    assert source.grad is not None
    copied = torch.zeros(5, 5)
    copied[1:, 1:] = 1  # the first row and column are copied by nobody
    assert torch.equal(source.grad, copied.expand(1, 2, 5, 5))


def test_a_resolved_flow_can_be_used_again() -> None:
    source = numbers((2, 3, 6, 8), 0)
    flow = 3 * torch.randn(2, 2, 6, 8, generator=torch.Generator().manual_seed(1))
    index = warp_index(flow)
    for memory in (torch.contiguous_format, torch.channels_last):
        x = source.contiguous(memory_format=memory)
        assert torch.equal(gather(x, index), warp(source, flow))


@pytest.mark.parametrize(
    ("source", "flow", "sentence"),
    [
        (
            (4, 3, 64, 64),
            (4, 64, 64, 2),
            "flow must have shape (4, 2, 64, 64) to match source, got (4, 64, 64, 2)",
        ),
        (
            (4, 3, 8, 9),
            (4, 2, 9, 8),
            "flow must have shape (4, 2, 8, 9) to match source, got (4, 2, 9, 8)",
        ),
        ((3, 8, 9), (1, 2, 8, 9), "source must have shape (N, C, H, W), got (3, 8, 9)"),
    ],
)
def test_wrong_shapes_are_said(
    source: tuple[int, ...], flow: tuple[int, ...], sentence: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        warp(torch.zeros(source), torch.zeros(flow))


def test_wrong_flow_shape_is_said_when_a_flow_is_resolved() -> None:
    with pytest.raises(ValueError, match=re.escape("(N, 2, H, W), got (3, 5, 5)")):
        warp_index(torch.zeros(3, 5, 5))


# ---------------------------------------------------------------- end-point error


def test_end_point_error_is_the_mean_length_of_the_difference() -> None:
    truth = torch.zeros(2, 4, 4)
    flow = torch.zeros(2, 4, 4)
    flow[:, 0, 0] = torch.tensor([3.0, 4.0])
    assert end_point_error(flow, truth) == pytest.approx(5 / 16)
    where = torch.zeros(4, 4, dtype=torch.bool)
    where[0, :2] = True
    assert end_point_error(flow, truth, where) == pytest.approx(2.5)


def test_unknown_flow_is_left_out() -> None:
    truth, flow = torch.zeros(2, 3, 3), torch.ones(2, 3, 3)
    truth[0, 0, 0] = 1.7e9  # the mark in .flo files
    flow[1, 2, 2] = math.nan
    assert end_point_error(flow, truth) == pytest.approx(math.sqrt(2))
    truth[:] = 2e9
    assert math.isnan(end_point_error(flow, truth))


def test_end_point_error_says_which_shapes_differ() -> None:
    with pytest.raises(ValueError, match=re.escape("got (2, 4, 4) and (2, 4, 5)")):
        end_point_error(torch.zeros(2, 4, 4), torch.zeros(2, 4, 5))
    with pytest.raises(ValueError, match=re.escape("(..., 2, H, W)")):
        end_point_error(torch.zeros(3, 4, 4), torch.zeros(3, 4, 4))


@settings(deadline=None, max_examples=30)
@given(h=st.integers(2, 13), w=st.integers(2, 13), reach=st.floats(0.1, 10), seed=SEEDS)
def test_bilinear_alignment_is_torch_grid_sample(h: int, w: int, reach: float, seed: int) -> None:
    """In steps of a sixteenth of a pixel, and as far as alignment to the nearest pixel goes."""
    source = numbers((2, 3, h, w), seed) / (2 * 3 * h * w)
    flow = reach * torch.randn(2, 2, h, w, generator=torch.Generator().manual_seed(seed))
    flow = (flow * BILINEAR_STEPS).round() / BILINEAR_STEPS
    place = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy")) + flow
    grid = 2 * place / torch.tensor([w - 1.0, h - 1.0]).view(1, 2, 1, 1) - 1
    sampled = F.grid_sample(
        source, grid.permute(0, 2, 3, 1), mode="bilinear", padding_mode="border", align_corners=True
    )
    inside = warp(torch.ones(2, 1, h, w), flow)
    blended = gather(source, align_index(flow, "bilinear"))
    torch.testing.assert_close(blended, sampled * inside, atol=1e-4, rtol=0)
    nudged = flow + 0.49 / BILINEAR_STEPS
    torch.testing.assert_close(gather(source, align_index(nudged, "bilinear")), blended)
    flow[0, :, 0, 0] = math.nan
    assert not gather(source, align_index(flow, "bilinear"))[0, :, 0, 0].any()


@settings(deadline=None, max_examples=30)
@given(h=st.integers(1, 9), w=st.integers(1, 9), reach=st.floats(0.1, 10), seed=SEEDS)
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_scatter_is_the_gradient_of_gather(
    alignment: Alignment, h: int, w: int, reach: float, seed: int
) -> None:
    chance = torch.Generator().manual_seed(seed)
    flow = reach * torch.randn(2, 2, h, w, generator=chance)
    flow[0, 0, 0, 0] = math.inf
    index = align_index(flow, alignment)
    rows = torch.randn(2 * h * w, 3, generator=chance).requires_grad_()
    gradient = torch.randn(2 * h * w, 3, generator=chance)
    moved = gather_rows(rows, index)
    with torch.no_grad():
        torch.testing.assert_close(gather_rows(rows, index), moved)  # another way, the same sum
    (found,) = torch.autograd.grad(moved, rows, gradient)
    torch.testing.assert_close(scatter_rows(gradient, index), found, atol=1e-5, rtol=1e-5)
    with pytest.MonkeyPatch.context() as other:  # as on a GPU
        other.setattr(field, "_has_bags", lambda _: False)
        torch.testing.assert_close(scatter_rows(gradient, index), found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_strips_are_the_whole(alignment: Alignment, monkeypatch: pytest.MonkeyPatch) -> None:
    source = numbers((2, 3, 11, 7), 0)
    flow = 3 * torch.randn(2, 2, 11, 7, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(field, "_STRIP", 2 * 7 * 4)  # of four rows, and one of three
    torch.testing.assert_close(
        align(source, flow, alignment), gather(source, align_index(flow, alignment))
    )


def test_weights_of_bilinear_alignment_are_exact_in_bfloat16() -> None:
    flow = torch.randn(1, 2, 40, 40, generator=torch.Generator().manual_seed(0))
    weights = align_index(flow, "bilinear").weights
    torch.testing.assert_close(weights.bfloat16().float(), weights, atol=0, rtol=0)
    assert set(weights.sum(1).tolist()) == {0.0, 1.0}


def test_bilinear_alignment_equals_nearest_on_whole_pixels() -> None:
    model, nearest = (
        STBN.seeded(STBNConfig(width=4, alignment=alignment), 0) for alignment in ALIGNMENTS[::-1]
    )
    clip = torch.randn(1, 3, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    half = torch.full((1, 2, 2, 16, 16), 0.5)
    whole = torch.ones_like(half)
    with torch.no_grad():
        assert not torch.allclose(nearest(clip, half, -half), model(clip, half, -half))
        torch.testing.assert_close(nearest(clip, whole, -whole), model(clip, whole, -whole))
    with pytest.raises(ValueError, match="alignment must be nearest or bilinear, got 'cubic'"):
        STBNConfig(alignment="cubic")  # type: ignore[arg-type]


def test_bilinear_alignment_is_as_blind_as_that_to_the_nearest_pixel() -> None:
    """What is blended comes from other frames: along a given flow, no pixel reaches itself."""
    model = STBN.seeded(STBNConfig(width=8, alignment="bilinear"), 0).double()
    chance = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.15 * torch.randn(parameter.shape, generator=chance).double()
    frames = torch.rand(1, 5, 1, 14, 14, generator=chance).double().requires_grad_()
    flows = (1.3 * torch.randn(1, 4, 2, 14, 14, generator=chance).double() for _ in range(2))
    prior = model(frames, *flows)
    for t, y, x in ((0, 5, 6), (2, 3, 9), (4, 8, 4)):
        (found,) = torch.autograd.grad(prior[0, t, :, y, x].sum(), frames, retain_graph=True)
        assert found.abs().sum() > 0
        assert found[0, t, 0, y, x] == 0
