"""Load the checkpoints that the authors of STBN released into our network.

The mapping of names was worked out from the released state dictionaries alone; width, depth and
channels are read off the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import STBNConfig
from .stbn import STBN

__all__ = ["read_released", "stbn_from_released"]

_DIRECTION = {"forward": "from_past", "backward": "from_future"}
_RESIDUAL = {"body.0": "spread", "body.2": "mix"}
_RESIDUAL_NESTED = {"body.body.0": "spread", "body.body.2": "mix"}


def _rename(name: str, depth: STBNConfig) -> str:
    """Our name of a released weight, without its last part (weight or bias)."""
    if match := re.fullmatch(r"(forward|backward)_rnn\.(.+)", name):
        return f"align.{_DIRECTION[match[1]]}.{_rename_alignment(match[2], depth)}"
    if match := re.fullmatch(r"concat\.convs\.(\d+)(?:\.(body\.\d))?", name):
        return ".".join(filter(None, ["fuse", match[1], _RESIDUAL[match[2]] if match[2] else ""]))
    if match := re.fullmatch(r"d2\.convs\.(\d+)(?:\.(body\.\d))?", name):
        return ".".join(filter(None, ["head", match[1], _RESIDUAL[match[2]] if match[2] else ""]))
    if match := re.fullmatch(r"d\.encoder\.interpolate\.(.+)", name):
        inner = match[1]
        if inner == "headConv":
            return "expand.inlet"
        if part := re.fullmatch(r"tailConv\.(\d)", inner):
            return f"expand.outlet.{part[1]}"
        if part := re.fullmatch(r"body\.(\d+)\.body\.(\d+)\.(body\.body\.\d)", inner):
            return f"expand.groups.{part[1]}.{part[2]}.{_RESIDUAL_NESTED[part[3]]}"
    raise KeyError(name)


def _rename_alignment(name: str, depth: STBNConfig) -> str:
    """Our name of a weight inside a released recurrent branch."""
    fixed = {
        "head.0": "inlet",
        "branch1.body.0": "blind",
        "branch1.body.2": "mix.0",
        "branch1.body.4": "mix.2",
        f"branch1.body.{6 + depth.alignment_blocks}": "outlet",
    }
    if name in fixed:
        return fixed[name]
    if match := re.fullmatch(r"tail\.(\d)", name):
        return f"tail.{match[1]}"
    if match := re.fullmatch(r"branch1\.body\.(\d+)\.(body\.\d)", name):
        return f"blocks.{int(match[1]) - 6}.{_RESIDUAL[match[2]]}"
    raise KeyError(name)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Number of distinct first groups of a pattern among the names."""
    return len({m[1] for name in state if (m := re.match(pattern, name))})


def _config(state: Mapping[str, Tensor]) -> STBNConfig:
    """Sizes, read off the shapes."""
    width, inputs = state["forward_rnn.head.0.weight"].shape[:2]
    last = max(int(m[1]) for name in state if (m := re.match(r"d2\.convs\.(\d+)\.", name)))
    outputs = state[f"d2.convs.{last}.weight"].shape[0]
    image_inputs = inputs - width
    # K = C + C (C + 1) / 2 with covariance, C without. Released maps are one for the frame or one
    # for each channel, which settles the cases that the numbers alone leave open (two outputs from
    # two inputs are one channel with its map).
    channels, covariance = outputs, False
    for c in range(1, image_inputs + 1):
        if outputs == c + c * (c + 1) // 2 and image_inputs - c in (0, 1, c):
            channels, covariance = c, True
    if channels > image_inputs:
        raise ValueError(
            f"a head with {outputs} outputs does not fit {image_inputs} input channels"
        )
    return STBNConfig(
        channels=channels,
        map_channels=image_inputs - channels,
        width=width,
        alignment_blocks=_count(state, r"forward_rnn\.branch1\.body\.(\d+)\.body\.0\.weight"),
        fusion_blocks=_count(state, r"concat\.convs\.(\d+)\.body\.0\.weight"),
        expansion_groups=_count(state, r"d\.encoder\.interpolate\.body\.(\d+)\."),
        expansion_blocks=_count(state, r"d\.encoder\.interpolate\.body\.0\.body\.(\d+)\."),
        head_blocks=_count(state, r"d2\.convs\.(\d+)\.body\.0\.weight"),
        covariance=covariance,
        positive_factor=False,
        alignment="nearest",
    )


def stbn_from_released(state_dict: Mapping[str, Tensor]) -> STBN:
    """Build our network with the weights of a released one.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        Weights under their released names, with or without the ``module.`` prefix. The flow network
        (``pwcnet.``) is left out. All three variants: Gaussian likelihood, the same with
        noise-level maps, and mean only.

    Returns
    -------
    STBN
        In evaluation mode. A noise-level map is given to the model after the frame's channels.

    Raises
    ------
    ValueError
        If these are not the weights of a released STBN.
    """
    state = {name.removeprefix("module."): value for name, value in state_dict.items()}
    state = {
        n: v for n, v in state.items() if not n.startswith("pwcnet") and not n.endswith(".mask")
    }
    try:
        config = _config(state)
        ours = {}
        for name, value in state.items():
            stem, _, kind = name.rpartition(".")
            ours[f"{_rename(stem, config)}.{kind}"] = value
    except (KeyError, ValueError) as error:
        raise ValueError(f"these are not the weights of a released STBN: {error}") from error
    if config.map_channels:
        # The released inlet takes frame, state, map; ours takes frame, map, state.
        c, w = config.channels, config.width
        for direction in _DIRECTION.values():
            weight = ours[f"align.{direction}.inlet.weight"]
            frame, state_part, maps = weight.split([c, w, config.map_channels], 1)
            ours[f"align.{direction}.inlet.weight"] = torch.cat([frame, maps, state_part], 1)
    model = STBN(config)
    try:
        model.load_state_dict(ours)
    except RuntimeError as error:
        raise ValueError(f"these are not the weights of a released STBN: {error}") from error
    return model.eval()


def read_released(path: str | PathLike[str]) -> STBN:
    """Read a checkpoint file of the authors without executing anything in it.

    Parameters
    ----------
    path : path
        A ``torch.save`` dictionary with the key ``state_dict``, or a bare state dictionary.

    Returns
    -------
    STBN
        See `stbn_from_released`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a released checkpoint, or holds more than tensors and plain containers.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        # argparse.Namespace is what the authors keep under "args"; it is a plain record, nothing
        # else is let through.
        from argparse import Namespace

        with torch.serialization.safe_globals([Namespace]):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # torch raises many types for foreign files; all mean the same to the user
        raise ValueError(
            f"{path.name} is not a checkpoint that can be opened safely: {error}"
        ) from error
    if isinstance(content, Mapping) and "state_dict" in content:
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path.name} holds no state dictionary of tensors")
    return stbn_from_released(content)
