"""The claim the method stands on: given the flow, no output knows the pixel it predicts.

Checked by autograd and by perturbation, since each alone can be blind: nearest sampling passes no
gradient to the flow, and a small influence drowns in rounding. In float64 with the flow held, "no
influence" means the same bits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from napari_stbn.network import STBN, STBNConfig, stbn
from napari_stbn.network.blindspot import (
    BlindSpotConv2d,
)

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
SIDES = st.integers(8, 21)


@dataclass(frozen=True)
class Scene:
    """A network and a clip with random flows, all in float64."""

    model: STBN
    frames: Tensor  # (1, T, C', H, W)
    to_previous: Tensor  # (1, T - 1, 2, H, W)
    to_next: Tensor

    @classmethod
    def make(
        cls, config: STBNConfig, size: tuple[int, int, int], seed: int, *, every_path: bool = True
    ) -> Scene:
        """Random weights and frames.

        With `every_path` all numbers are positive: no ReLU closes a path and nothing cancels, so
        what can be seen is seen. Otherwise weights are those that a fit starts from.
        """
        t, h, w = size
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = STBN(config).double()
            frames = torch.randn(1, t, config.inputs, h, w).double()
            flows = 3 * torch.randn(2, 1, t - 1, 2, h, w).double()
            if every_path:
                frames = frames.abs()
                for parameter in model.parameters():
                    nn.init.uniform_(parameter, 0.5, 1.5)
                    if parameter.ndim > 1:
                        parameter.data /= parameter[0].numel()  # features stay of size one
        return cls(model.eval(), frames, flows[0], flows[1])

    def run(self, frames: Tensor) -> Tensor:
        """Prior of these frames along the flows that are held."""
        out: Tensor = self.model(frames, self.to_previous, self.to_next)
        return out


def influence_by_gradient(scene: Scene, t: int, y: int, x: int) -> tuple[float, float]:
    """Largest derivative of the outputs of a pixel by the pixel itself, and by all others."""
    frames = scene.frames.clone().requires_grad_()
    prior = scene.run(frames)
    weights = torch.linspace(0.5, 1.5, prior.shape[2], dtype=prior.dtype)  # no chance cancelling
    (gradient,) = torch.autograd.grad((prior[0, t, :, y, x] * weights).sum(), frames)
    own = float(gradient[0, t, :, y, x].abs().max())
    gradient[0, t, :, y, x] = 0
    return own, float(gradient.abs().max())


def influence_by_perturbation(
    scene: Scene, t: int, y: int, x: int, by: float
) -> tuple[float, float]:
    """Largest change of the outputs of a pixel when the pixel changes, and of all others."""
    with torch.no_grad():
        before = scene.run(scene.frames)
        changed = scene.frames.clone()
        changed[0, t, :, y, x] += by
        difference = (scene.run(changed) - before).abs()[0]
    own = float(difference[t, :, y, x].max())
    difference[t, :, y, x] = 0
    return own, float(difference.max())


def sees_itself(scene: Scene, t: int, y: int, x: int) -> bool:
    """Whether either way finds any influence of a pixel on its own outputs."""
    return (
        influence_by_gradient(scene, t, y, x)[0] > 0
        or influence_by_perturbation(scene, t, y, x, 1e3)[0] > 0
    )


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Scene, int, int, int]:
    """A random network and clip, and a random pixel of it; borders and corners as often as not."""
    config = STBNConfig(
        channels=draw(st.integers(1, 3)),
        map_channels=draw(st.integers(0, 2)),
        width=draw(st.sampled_from([2, 4, 6])),
        alignment_blocks=draw(st.integers(1, 3)),
        fusion_blocks=draw(st.integers(1, 3)),
        expansion_groups=draw(st.integers(1, 2)),
        expansion_blocks=draw(st.integers(1, 3)),
        head_blocks=draw(st.integers(1, 3)),
        covariance=draw(st.booleans()),
        noise_input=draw(st.booleans()),
    )
    t, h, w = draw(st.integers(2, 5)), draw(SIDES), draw(SIDES)
    frame = draw(st.integers(0, t - 1))
    y = draw(st.one_of(st.sampled_from([0, 1, h - 2, h - 1]), st.integers(0, h - 1)))
    x = draw(st.one_of(st.sampled_from([0, 1, w - 2, w - 1]), st.integers(0, w - 1)))
    seed, every_path = draw(st.integers(0, 2**31 - 1)), draw(st.booleans())
    scene = Scene.make(config, (t, h, w), seed, every_path=every_path)
    if draw(st.booleans()):  # with a filter over nearby pixels, as after a fit
        near = scene.model.near
        near.set(0.1 + torch.rand(near.weight.shape), torch.ones_like(near.noise))
    return scene, frame, y, x


@settings(deadline=None, max_examples=60)
@given(drawn=scenes(), by=st.sampled_from([-1e3, 1e3]))
def test_no_pixel_has_any_influence_on_its_own_output(
    drawn: tuple[Scene, int, int, int], by: float
) -> None:
    scene, t, y, x = drawn
    assert influence_by_gradient(scene, t, y, x)[0] == 0
    assert influence_by_perturbation(scene, t, y, x, by)[0] == 0


@settings(deadline=None, max_examples=30)
@given(drawn=scenes())
def test_other_pixels_do_have_influence(drawn: tuple[Scene, int, int, int]) -> None:
    """A network that sees nothing would pass the test above."""
    scene, t, y, x = drawn
    scene = Scene.make(scene.model.config, (scene.frames.shape[1], *scene.frames.shape[3:]), 0)
    assert influence_by_gradient(scene, t, y, x)[1] > 1e-6
    assert influence_by_perturbation(scene, t, y, x, 1e3)[1] > 1e-6


@pytest.mark.parametrize("method", ["zero", "whole", "far"])
def test_blind_for_flows_that_lead_a_pixel_back_to_itself(method: str) -> None:
    """A path over the neighbouring frame returns to the pixel only through another frame's masked
    convolution, so there-and-back flows must not open a way either.
    """
    scene = Scene.make(STBNConfig(width=4), (4, 12, 12), 3)
    flow = {"zero": 0.0, "whole": 1.0, "far": 20.0}[method]
    scene = Scene(
        scene.model,
        scene.frames,
        torch.full_like(scene.to_previous, flow),
        torch.full_like(scene.to_next, -flow),
    )
    for t in range(4):
        for y, x in ((0, 0), (5, 6), (11, 11)):
            assert not sees_itself(scene, t, y, x)


# ---------------------------------------------------------------- broken on purpose


def unmask(model: STBN) -> None:
    """The masked convolutions see their centre."""
    for module in model.modules():
        if isinstance(module, BlindSpotConv2d):
            module.mask.fill_(1)


def unmask_a_little(model: STBN) -> None:
    """One of 64 weights at the centre of one mask leaks, by a millionth."""
    block = model.align["from_future"]
    assert isinstance(block, stbn.AlignmentBlock)
    block.blind.mask = block.blind.mask.repeat(*block.blind.weight.shape[:2], 1, 1)
    block.blind.mask[0, 0, 1, 1] = 1e-6


def undilate(name: str) -> Callable[[STBN], None]:
    """One convolution moves by odd offsets."""

    def change(model: STBN) -> None:
        convolution = model.get_submodule(name)
        assert isinstance(convolution, nn.Conv2d)
        convolution.dilation, convolution.padding = (1, 1), (1, 1)

    return change


DILATED = ("align.from_past.blocks.0.spread", "fuse.1.spread", "expand.inlet", "head.1.spread")


@pytest.mark.parametrize(
    "breakage",
    [unmask, unmask_a_little, *map(undilate, DILATED)],
)
def test_a_broken_network_is_caught(breakage: Callable[[STBN], None]) -> None:
    scene = Scene.make(TINY, (3, 12, 12), 0)
    assert not sees_itself(scene, 1, 5, 6)
    breakage(scene.model)
    by_gradient, _ = influence_by_gradient(scene, 1, 5, 6)
    by_perturbation, _ = influence_by_perturbation(scene, 1, 5, 6, 1e3)
    assert by_gradient > 0
    assert by_perturbation > 0


def test_pixel_unshuffle_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Space to depth as torch does it mixes parities, as REFERENCE says of the released network."""
    scene = Scene.make(TINY, (3, 12, 12), 0)
    monkeypatch.setattr(stbn, "patch_unshuffle", lambda x: F.pixel_unshuffle(x, 2))
    monkeypatch.setattr(stbn, "patch_shuffle", lambda x: F.pixel_shuffle(x, 2))
    assert influence_by_gradient(scene, 1, 5, 6)[0] > 0
    assert influence_by_perturbation(scene, 1, 5, 6, 1e3)[0] > 0


# ---------------------------------------------------------------- what the network does see


def test_receptive_field_in_the_frame_is_all_but_even_offsets() -> None:
    """Three quarters of the pixels around: (even, even) offsets alone are missing."""
    scene = Scene.make(STBNConfig(width=4, alignment_blocks=2, fusion_blocks=2), (3, 17, 17), 1)
    still = torch.full_like(scene.to_next, 1e6)  # nothing arrives through other frames
    scene = Scene(scene.model, scene.frames, still, still)
    frames = scene.frames.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(scene.run(frames)[0, 1, :, 8, 8].sum(), frames)
    seen = gradient[0, 1, 0] != 0
    offset = torch.arange(17) - 8
    even = (offset % 2 == 0)[:, None] & (offset % 2 == 0)
    assert not seen[even].any()
    assert seen[~even].all()


def test_other_frames_are_seen_whole_at_every_distance() -> None:
    scene = Scene.make(STBNConfig(width=4), (5, 16, 16), 2)
    still = torch.zeros_like(scene.to_next)
    scene = Scene(scene.model, scene.frames, still, still)
    frames = scene.frames.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(scene.run(frames)[0, 2, :, 8, 8].sum(), frames)
    near = (gradient[0, :, 0, 5:12, 5:12] != 0).flatten(1).float().mean(1)
    assert (near[[0, 1, 3, 4]] == 1).all()
    assert near[2] < 1


def reverse_time(model: STBN) -> STBN:
    """The same network with the weights of its two directions exchanged."""
    reversed_ = copy.deepcopy(model)
    for direction, other in (("from_past", "from_future"), ("from_future", "from_past")):
        reversed_.align[direction].load_state_dict(model.align[other].state_dict())
    # Expansion takes both states side by side: its first convolution swaps its input halves.
    weight = model.expand.inlet.weight
    half = weight.shape[1] // 2
    with torch.no_grad():
        reversed_.expand.inlet.weight.copy_(torch.cat([weight[:, half:], weight[:, :half]], 1))
    return reversed_


@settings(deadline=None, max_examples=15)
@given(t=st.integers(2, 5), h=SIDES, w=SIDES, seed=st.integers(0, 1000))
def test_reversing_time_exchanges_the_directions(t: int, h: int, w: int, seed: int) -> None:
    scene = Scene.make(TINY, (t, h, w), seed)
    with torch.no_grad():
        forward = scene.run(scene.frames)
        backward = reverse_time(scene.model)(
            scene.frames.flip(1), scene.to_next.flip(1), scene.to_previous.flip(1)
        )
    torch.testing.assert_close(backward.flip(1), forward, rtol=1e-5, atol=1e-5)
