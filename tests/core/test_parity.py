"""Our network is the released one: same numbers from the same weights, and files opened safely."""

from __future__ import annotations

import argparse
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_stbn.network import STBN, STBNConfig, read_released, stbn_from_released
from napari_stbn.network.paired import paired_forward

VARIANTS = ("srgb_nll", "gray_l2")
State = dict[str, Tensor]


class Reference(NamedTuple):
    """A small instance of the released modules: its weights, a clip, flows, and its output."""

    state: State
    frames: Tensor
    to_previous: Tensor
    to_next: Tensor
    output: Tensor


@pytest.fixture(params=VARIANTS)
def reference(request: pytest.FixtureRequest, shared_data: Path) -> Reference:
    return load(shared_data, request.param)


@pytest.fixture
def colour(shared_data: Path) -> Reference:
    return load(shared_data, "srgb_nll")


def load(folder: Path, name: str) -> Reference:
    with np.load(folder / "parity" / f"{name}.npz") as arrays:
        values = {key: torch.from_numpy(arrays[key]) for key in arrays}
    state = {key: value for key, value in values.items() if not key.startswith("__")}
    flows = [values[f"__flow_to_{direction}"][None] for direction in ("previous", "next")]
    return Reference(state, values["__input"], flows[0], flows[1], values["__output"])


def released_state(config: STBNConfig, seed: int = 0) -> State:
    """Random weights under released names for any size; the released order: frame, state, map."""
    w, k = config.width, config.outputs
    generator = torch.Generator().manual_seed(seed)
    state: State = {}

    def conv(name: str, out: int, into: int, size: int = 1, *, bias: bool = True) -> None:
        scale = 1 / math.sqrt(into * size**2)
        state[f"{name}.weight"] = scale * torch.randn(out, into, size, size, generator=generator)
        if bias:
            state[f"{name}.bias"] = 0.1 * torch.randn(out, generator=generator)

    def residual(name: str, width: int, groups: int = 1) -> None:
        conv(f"{name}.body.0", width, width // groups, 3)
        conv(f"{name}.body.2", width, width)

    for rnn in ("forward_rnn", "backward_rnn"):
        conv(f"{rnn}.head.0", w, config.channels + w + config.map_channels)
        body = f"{rnn}.branch1.body"
        conv(f"{body}.0", w, w, 3)
        state[f"{body}.0.mask"] = torch.ones(w, w, 3, 3)
        state[f"{body}.0.mask"][..., 1, 1] = 0
        conv(f"{body}.2", w, w)
        conv(f"{body}.4", w, w)
        for i in range(config.alignment_blocks):
            residual(f"{body}.{6 + i}", w)
        conv(f"{body}.{6 + config.alignment_blocks}", w, w)
        conv(f"{rnn}.tail.0", w // 2, w)
        conv(f"{rnn}.tail.2", w // 2, w // 2)
        conv(f"{rnn}.tail.4", w, w // 2)
    conv("concat.convs.0", 2 * w, 2 * w, bias=False)
    for i in range(config.fusion_blocks):
        residual(f"concat.convs.{1 + i}", 2 * w)
    conv(f"concat.convs.{1 + config.fusion_blocks}", w, 2 * w, bias=False)
    expansion = "d.encoder.interpolate"
    conv(f"{expansion}.headConv", 4 * w, 8 * w, 3)
    for g in range(config.expansion_groups):
        for i in range(config.expansion_blocks):
            residual(f"{expansion}.body.{g}.body.{i}.body", 4 * w, groups=2)
    for i, size in enumerate((3, 1, 1)):
        conv(f"{expansion}.tailConv.{i}", 4 * w, 4 * w, size)
    conv("d2.convs.0", w, w, bias=False)
    for i in range(config.head_blocks):
        residual(f"d2.convs.{1 + i}", w)
    conv(f"d2.convs.{1 + config.head_blocks}", k, w, bias=False)
    return state


@torch.no_grad()
def run(model: STBN, reference: Reference, frames: Tensor | None = None) -> Tensor:
    clip = reference.frames if frames is None else frames
    out: Tensor = model(clip, reference.to_previous, reference.to_next)
    return out


# ---------------------------------------------------------------- the same numbers


def test_output_is_that_of_the_released_modules(reference: Reference, device: torch.device) -> None:
    there = Reference(reference.state, *(x.to(device) for x in reference[1:]))
    model = stbn_from_released(reference.state).place(device)
    with torch.no_grad():
        fast = paired_forward(model, there.frames, there.to_previous, there.to_next)
    for output in (run(model, there), fast):
        difference = (output - there.output).abs().max() / there.output.std()
        assert difference < 1e-5


@pytest.mark.parametrize("missing", ["to_previous", "to_next"])
def test_parity_would_notice_a_flow_that_is_not_followed(
    reference: Reference, missing: str
) -> None:
    zero = torch.zeros_like(reference.to_next)
    still = reference._replace(to_next=zero)
    if missing == "to_previous":
        still = reference._replace(to_previous=zero)
    difference = run(stbn_from_released(reference.state), still) - reference.output
    assert difference.abs().max() / reference.output.std() > 1e-2


def test_prefix_and_flow_network_are_left_out(reference: Reference) -> None:
    wrapped = {f"module.{name}": value for name, value in reference.state.items()}
    wrapped["module.pwcnet.moduleExtractor.weight"] = torch.zeros(3)
    wrapped["pwcnet.bias"] = torch.zeros(3)
    plain, other = stbn_from_released(reference.state), stbn_from_released(wrapped)
    assert torch.equal(run(plain, reference), run(other, reference))


class WithMap(nn.Module):
    """The released inlet written out: frame and state through one convolution, the map added."""

    def __init__(self, inlet: nn.Conv2d, columns: Tensor, level: Tensor) -> None:
        super().__init__()
        self.inlet = inlet
        self.term = F.conv2d(level, columns)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inlet(x) + self.term
        return out


@pytest.mark.parametrize("maps", [1, 3])
def test_noise_map_is_read_from_behind_the_state(colour: Reference, maps: int) -> None:
    """Released order frame, state, map; ours frame, map, state. The map varies over the frame."""
    generator = torch.Generator().manual_seed(1)
    level = torch.rand(1, maps, *colour.frames.shape[3:], generator=generator).double()
    state, columns = dict(colour.state), {}
    for rnn, direction in (("forward_rnn", "from_past"), ("backward_rnn", "from_future")):
        weight = state[f"{rnn}.head.0.weight"]
        columns[direction] = torch.randn(weight.shape[0], maps, 1, 1, generator=generator)
        state[f"{rnn}.head.0.weight"] = torch.cat([weight, columns[direction]], 1)
    model = stbn_from_released(state).double()
    assert (model.config.channels, model.config.map_channels) == (3, maps)

    colour = colour._replace(frames=colour.frames.double())
    expected = stbn_from_released(colour.state).double()
    for direction, block in expected.align.items():
        inlet = block.inlet
        assert isinstance(inlet, nn.Conv2d)
        block.inlet = WithMap(inlet, columns[direction].double(), level)
    whole = level[:, None].expand(-1, colour.frames.shape[1], -1, -1, -1)
    given = run(model, colour, torch.cat([colour.frames, whole], 2))
    torch.testing.assert_close(given, run(expected, colour), rtol=0, atol=1e-9)
    assert (given - colour.output).abs().max() > 0.1 * colour.output.std(), "the map had no effect"


# ---------------------------------------------------------------- sizes read off the weights

SMALL: dict[str, Any] = {
    "width": 4,
    "alignment_blocks": 1,
    "fusion_blocks": 1,
    "expansion_blocks": 1,
    "positive_factor": False,  # the released factor may take either sign
    "alignment": "nearest",
}


@pytest.mark.parametrize(
    "config",
    [
        STBNConfig(**SMALL),
        STBNConfig(**SMALL, map_channels=1),  # two inputs, two outputs: gray with its map
        STBNConfig(**SMALL, covariance=False),
        STBNConfig(**SMALL, covariance=False, channels=4),
        STBNConfig(**SMALL, channels=3, map_channels=1),
        STBNConfig(**SMALL, channels=3, map_channels=3),
        STBNConfig(**SMALL, channels=3, covariance=False, map_channels=1),
        STBNConfig(
            channels=2,
            width=6,
            alignment_blocks=3,
            fusion_blocks=2,
            expansion_groups=3,
            expansion_blocks=2,
            head_blocks=3,
            positive_factor=False,
            alignment="nearest",
        ),
    ],
    ids=str,
)
def test_sizes_are_read_off_the_weights(config: STBNConfig) -> None:
    model = stbn_from_released(released_state(config))
    assert model.config == config
    assert not model.training
    inputs = config.channels + config.map_channels
    flow = torch.zeros(1, 1, 2, 9, 8)
    with torch.no_grad():
        assert model(torch.rand(1, 2, inputs, 9, 8), flow, flow).shape[2] == config.outputs


def test_released_size() -> None:
    """REFERENCE: 9,137,728 parameters without the flow network."""
    with torch.device("meta"):
        model = STBN(STBNConfig.paper())
    assert sum(p.numel() for p in model.parameters()) == 9_137_728


# ---------------------------------------------------------------- files


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.target,)


def test_checkpoint_as_the_authors_saved_it(colour: Reference, tmp_path: Path) -> None:
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(3))], lr=3e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4, 6, 8], 0.5)
    content = {
        "args": argparse.Namespace(lr=3e-4, model="stbn", milestones=[2, 4, 6, 8], resume=None),
        "state_dict": {f"module.{name}": value for name, value in colour.state.items()},
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }
    torch.save(content, tmp_path / "stbn.pth")
    torch.save(colour.state, tmp_path / "bare.pth")
    for name in ("stbn.pth", "bare.pth"):
        output = run(read_released(tmp_path / name), colour)
        assert (output - colour.output).abs().max() / colour.output.std() < 1e-5


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle", "in args"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    trap, path = tmp_path / "executed", tmp_path / "model.pth"
    if how == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": Malicious(trap)}))
    elif how == "in args":
        torch.save({"args": argparse.Namespace(x=Malicious(trap)), "state_dict": {}}, path)
    else:
        torch.save(Malicious(trap), path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(ValueError, match=r"model\.pth is not a checkpoint that can be opened"):
        read_released(path)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"fc.weight": torch.zeros(3, 3)}, "these are not the weights of a released STBN"),
        ({"state_dict": {"epoch": 3}}, "holds no state dictionary of tensors"),
        ([torch.zeros(3)], "holds no state dictionary of tensors"),
        ({}, "these are not the weights of a released STBN"),
    ],
)
def test_foreign_content_is_said(content: Any, sentence: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=sentence):
        read_released(tmp_path / "model.pth")


def test_missing_and_damaged_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_released(tmp_path / "no.pth")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "cut.pth")
    whole = (tmp_path / "cut.pth").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"II*\0 this is a picture"):
        (tmp_path / "cut.pth").write_bytes(content)
        with pytest.raises(ValueError, match=r"cut\.pth is not a checkpoint"):
            read_released(tmp_path / "cut.pth")


def drop(state: Mapping[str, Tensor], *names: str) -> State:
    return {name: value for name, value in state.items() if name not in names}


def test_incomplete_or_misshapen_weights_are_said() -> None:
    state = released_state(STBNConfig(**SMALL))
    wrong = [
        drop(state, "backward_rnn.tail.2.weight"),
        drop(state, "forward_rnn.head.0.weight"),
        state | {"d2.convs.0.weight": torch.zeros(4, 5, 1, 1)},
        state | {"forward_rnn.extra.weight": torch.zeros(3)},
        state | {"d2.convs.2.weight": torch.zeros(7, 4, 1, 1)},  # more outputs than inputs explain
        state | {"forward_rnn.head.0.weight": torch.zeros(4)},
    ]
    for weights in wrong:
        with pytest.raises(ValueError, match="these are not the weights of a released STBN"):
            stbn_from_released(weights)
