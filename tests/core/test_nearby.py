"""Claims of the filter over nearby pixels: blind, the same in all directions and in pieces."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from napari_stbn.network import STBN, STBNConfig
from napari_stbn.network.nearby import REACH, NearbyPixels

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
COLOURS = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1, channels=2)


def filtering(config: STBNConfig = TINY, seed: int = 0) -> NearbyPixels:
    near = NearbyPixels(config)
    chance = torch.Generator().manual_seed(seed)
    weight = 0.1 * torch.randn(near.weight.shape, generator=chance)
    near.set(weight, torch.linspace(0.5, 1.5, config.channels))
    return near


def movie(
    config: STBNConfig = TINY, shape: tuple[int, ...] = (1, 9, 12, 10)
) -> tuple[Tensor, Tensor]:
    """A prior and frames, random."""
    n, t, h, w = shape
    chance = torch.Generator().manual_seed(1)
    prior = torch.randn(n, t, config.outputs, h, w, generator=chance)
    return prior, torch.randn(n, t, config.inputs, h, w, generator=chance)


def by_hand(near: NearbyPixels, prior: Tensor, frames: Tensor, at: tuple[int, int, int]) -> float:
    """The mean of one pixel of the only channel, pixel by pixel."""
    places = [
        (t, a, b)
        for t, a, b in itertools.product(range(REACH + 1), repeat=3)
        if a <= b and b >= (1 if t else 2)
    ]
    t, y, x = at
    mean, factor = float(prior[0, t, 0, y, x]), float(prior[0, t, 1, y, x])
    doubt = factor**2 / (factor**2 + float(near.noise[0]))
    total = mean
    for s, v, u in itertools.product(range(-REACH, REACH + 1), repeat=3):
        place = (abs(s), *sorted((abs(v), abs(u))))
        inside = 0 <= t + s < frames.shape[1] and 0 <= y + v < frames.shape[3]
        if place in places and inside and 0 <= x + u < frames.shape[4]:
            plain, doubted = near.weight[0, :, places.index(place)].tolist()
            twice = 1 if 0 <= t - s < frames.shape[1] else 2  # for what the movie does not have
            difference = float(frames[0, t + s, 0, y + v, x + u]) - mean
            total += twice * (plain + doubt * doubted) * difference
    return total


@pytest.mark.parametrize("at", [(4, 5, 5), (0, 0, 0), (8, 11, 9), (1, 6, 0)])
def test_it_is_what_one_would_add_up_by_hand(at: tuple[int, int, int]) -> None:
    near = filtering()
    prior, frames = movie()
    out = near(prior, frames)
    assert float(out[0, at[0], 0, at[1], at[2]]) == pytest.approx(
        by_hand(near, prior, frames, at), abs=1e-5
    )
    assert torch.equal(out[:, :, 1:], prior[:, :, 1:]), "the width is left alone"


@pytest.mark.parametrize("config", [TINY, COLOURS])
def test_it_sees_neither_the_pixel_nor_its_fixed_pattern(config: STBNConfig) -> None:
    near = filtering(config)
    prior, frames = movie(config)
    y, x = 6, 4
    changed = frames.clone()
    changed[..., y, x] += 5  # in all frames
    difference = (near(prior, changed) - near(prior, frames)).abs()
    assert difference[..., y, x].max() < 1e-5
    assert difference.max() > 0.1
    changed = frames.clone()
    changed[:, 4, :, y, x] += 5
    difference = (near(prior, changed) - near(prior, frames)).abs()[:, 4]
    for by in ((0, 1), (1, 0), (-1, 0), (0, -1)):  # shares noise with the pixel first
        there = difference[:, : config.channels, y + by[0], x + by[1]]
        assert (there.max() < 1e-5) == (sorted(map(abs, by)) == [0, 1])
    assert difference[:, : config.channels, y + 1, x + 1].max() < 1e-5
    assert difference[:, : config.channels, y + 2, x].max() > 1e-3


def test_turns_mirrors_and_time_change_nothing() -> None:
    near = filtering()
    prior, frames = movie()
    out = near(prior, frames)
    for axes in ((3,), (4,), (1,), (1, 3, 4)):
        turned = near(prior.flip(axes), frames.flip(axes)).flip(axes)
        torch.testing.assert_close(turned, out, atol=1e-5, rtol=1e-5)
    quarter = near(prior.rot90(1, (3, 4)), frames.rot90(1, (3, 4))).rot90(-1, (3, 4))
    torch.testing.assert_close(quarter, out, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [TINY, COLOURS])
def test_frame_by_frame_it_is_the_same(config: STBNConfig) -> None:
    near = filtering(config)
    prior, frames = movie(config)
    whole = near(prior, frames)
    for t in range(9):
        one = near.of_frame(prior[:, t], t, lambda s: frames[:, s], 0, 9)
        torch.testing.assert_close(one, whole[:, t], atol=1e-5, rtol=1e-5)
    part = near(prior[:, 2:7], frames[:, 2:7])
    for t in range(2, 7):
        one = near.of_frame(prior[:, t], t, lambda s: frames[:, s], 2, 7)
        torch.testing.assert_close(one, part[:, t - 2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [TINY, COLOURS])
def test_its_differences_are_what_the_weights_belong_to(config: STBNConfig) -> None:
    near = filtering(config)
    prior, frames = movie(config)
    differences = near.differences(prior, frames)
    doubt = near.doubt(prior, near.noise)
    plain, doubted = near.weight.unbind(1)
    added = torch.einsum("ntcpyx,cp->ntcyx", differences, plain)
    added += doubt * torch.einsum("ntcpyx,cp->ntcyx", differences, doubted)
    c = config.channels
    torch.testing.assert_close(
        near(prior, frames)[:, :, :c], prior[:, :, :c] + added, atol=1e-5, rtol=1e-5
    )
    flat = torch.zeros_like(prior)
    there = near(flat, torch.ones_like(frames))[0, 4, :c, 5, 5]
    torch.testing.assert_close(there, near.totals[:, 0], atol=1e-5, rtol=1e-5)


def test_a_network_has_it_do_nothing_until_it_is_set_and_keeps_it() -> None:
    model = STBN.seeded(TINY, 0)
    prior, frames = movie()
    assert model.near(prior, frames) is prior
    older = {name: v for name, v in model.state_dict().items() if not name.startswith("near.")}
    near = filtering()
    model.near.set(near.weight, near.noise)
    assert model.near.active
    again = STBN.seeded(TINY, 1)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.near(prior, frames), near(prior, frames))
    again.load_state_dict(older)  # of a version before there was such a filter
    assert again.near(prior, frames) is prior
    model.near.clear()
    assert model.near(prior, frames) is prior
