"""Read checkpoints of PWC-Net that a user has: the layouts of names in circulation.

Such weights are not ours, and most are not free: the notice below is logged whenever some are read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .pwcnet import PWCNet, PWCNetConfig

__all__ = ["LICENCE_NOTICE", "load_published", "translate_names"]

LICENCE_NOTICE = (
    "These weights are not part of napari-stbn. Published weights of PWC-Net are licensed for "
    "non-commercial use only (NVIDIA: CC BY-NC-SA 4.0; the common PyTorch port: GPL-3.0 code with "
    "the same weights); whether yours may be used, and results published, is yours to check."
)
_logger = logging.getLogger(__name__)
_ORDER = ("One", "Two", "Thr", "Fou", "Fiv", "Six")
_NUMBER = {word: i + 1 for i, word in enumerate(_ORDER)}
_PREFIX = r"(?:module|net)"  # both are in circulation


def load_published(path: str | PathLike[str]) -> PWCNet:
    """Make a PWC-Net from a checkpoint on disk.

    Parameters
    ----------
    path : path
        ``.safetensors``, or a file of `torch.save`, of which only tensors are read: nothing in it
        is executed.

    Returns
    -------
    PWCNet
        In evaluation mode, on the CPU; its size is read off the weights.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no PWC-Net.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        state = _read(path)
    except Exception as error:  # the readers raise many kinds for a damaged or foreign file
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{path.name} cannot be read as plain weights: {said}") from error
    _logger.warning("%s: %s", path.name, LICENCE_NOTICE)
    try:
        names = translate_names(state)
        model = PWCNet(_config(names))
        model.load_state_dict(names)
    except (KeyError, RuntimeError, IndexError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{path.name} holds no PWC-Net of a known layout: {said}") from error
    return model.eval()


def _read(path: Path) -> Mapping[str, Tensor]:
    """Tensors of a file by name; unwraps the customary dictionaries."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state: Any = torch.load(path, map_location="cpu", weights_only=True)
    while isinstance(state, Mapping) and len(state) and "state_dict" in state:
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError("expected a dictionary of tensors")
    return state


def translate_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring the names of a checkpoint to ours.

    Parameters
    ----------
    state : mapping of str to Tensor
        Names like ``moduleExtractor.moduleOne.0.weight`` or ``netExtractor.netOne.0.weight``,
        behind ``module.`` or ``pwcnet.`` or not, as in a released STBN; or our own.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    KeyError
        If a name fits no layout.
    """
    wrapped = any(".pwcnet." in f".{name}" for name in state)
    out = {}
    for name, value in state.items():
        if wrapped and ".pwcnet." not in f".{name}":
            continue  # the denoising network around it
        short = name.rpartition("pwcnet.")[2] if wrapped else re.sub(r"^module\.", "", name)
        out[_ours(short)] = value.float()
    return out


def _ours(name: str) -> str:
    """Our name of a weight."""
    if name.split(".", maxsplit=1)[0] in ("pyramid", "decoders", "context"):
        return name
    word = f"{_PREFIX}({'|'.join(_ORDER)})"
    if found := re.fullmatch(rf"{_PREFIX}Extractor\.{word}\.(\d+)\.(weight|bias)", name):
        return f"pyramid.{_NUMBER[found[1]] - 1}.{found[2]}.{found[3]}"
    if found := re.fullmatch(rf"{_PREFIX}Refiner\.{_PREFIX}Main\.(\d+)\.(weight|bias)", name):
        return f"context.{found[1]}.{found[2]}"
    if found := re.fullmatch(rf"{word}\.{_PREFIX}Up(flow|feat)\.(weight|bias)", name):
        up = "up_flow" if found[2] == "flow" else "up_features"
        return f"decoders.{_NUMBER[found[1]]}.{up}.{found[3]}"
    if found := re.fullmatch(rf"{word}\.{word}\.0\.(weight|bias)", name):
        layer = _NUMBER[found[2]] - 1
        # Five dense layers, and a sixth that predicts.
        place = "predict" if layer == len(_ORDER) - 1 else f"layers.{layer}.0"
        return f"decoders.{_NUMBER[found[1]]}.{place}.{found[3]}"
    raise KeyError(f"unknown weight {name!r}")


def _config(state: Mapping[str, Tensor]) -> PWCNetConfig:
    """Size of a network, read off its weights by our names."""
    pyramid: list[int] = []
    decoder: list[int] = []
    context: list[int] = []
    while (weight := state.get(f"pyramid.{len(pyramid)}.0.weight")) is not None:
        pyramid.append(weight.shape[0])
    levels = {int(n.split(".")[1]) for n in state if n.startswith("decoders.")}
    coarsest = f"decoders.{max(levels, default=0)}"
    while (weight := state.get(f"{coarsest}.layers.{len(decoder)}.0.weight")) is not None:
        decoder.append(weight.shape[0])
    while (weight := state.get(f"context.{2 * len(context)}.weight")) is not None:
        context.append(weight.shape[0])
    volume = state[f"{coarsest}.layers.0.0.weight"].shape[1]
    return PWCNetConfig(
        channels=state["pyramid.0.0.weight"].shape[1],
        pyramid=tuple(pyramid),
        finest=min(levels),
        search=(round(volume**0.5) - 1) // 2,
        decoder=tuple(decoder),
        context=tuple(context[:-1]),
    )
