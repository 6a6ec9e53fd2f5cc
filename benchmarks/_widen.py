"""A larger network that computes what a smaller one does: where its training can go on from."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from napari_stbn.network import STBN, STBNConfig

__all__ = ["widened"]


@torch.no_grad()
def widened(small: STBN, config: STBNConfig, seed: int) -> STBN:
    """A network of a larger size whose output is that of a smaller one.

    Old channels get nothing from new ones, and new blocks change nothing: their last weights are
    zero. What is within new channels is random, so that zeros do not stay zeros.

    Parameters
    ----------
    small : STBN
    config : STBNConfig
        At least as wide, with at least as many blocks in each part; else the same.
    seed : int
        Of the random weights.

    Raises
    ------
    ValueError
        If the network cannot hold the smaller one.
    """
    sizes = ("width", "alignment_blocks", "fusion_blocks", "expansion_blocks", "head_blocks")
    same = {name: getattr(config, name) for name in sizes}
    grows = all(getattr(config, name) >= getattr(small.config, name) for name in sizes)
    if not grows or replace(small.config, alignment=config.alignment, **same) != config:
        raise ValueError(f"the network must hold {small.config}, got {config}")
    large = STBN.seeded(config, seed)
    old = dict(small.named_parameters())
    for name, weight in large.named_parameters():
        source, is_new = _source(name, small.config, config)
        if is_new:
            if name.rpartition(".")[0].endswith(".mix"):
                weight.zero_()  # a residual block that adds nothing
            continue
        _embed(weight, old[source], *_places(source, small.config, config.width))
    return large


def _source(name: str, small: STBNConfig, large: STBNConfig) -> tuple[str, bool]:
    """The parameter of the smaller network that takes this one's place, or that there is none."""
    parts = name.split(".")
    if parts[0] in ("head", "fuse"):
        blocks = {"head": "head_blocks", "fuse": "fusion_blocks"}[parts[0]]
        before, after = getattr(small, blocks), getattr(large, blocks)
        number = int(parts[1])
        if number == after + 1:
            parts[1] = str(before + 1)
        elif number > before:
            return name, True
    elif parts[0] == "align" and parts[2] == "blocks":
        return name, int(parts[3]) >= small.alignment_blocks
    elif parts[0] == "expand" and parts[1] == "groups":
        return name, int(parts[3]) >= small.expansion_blocks
    return ".".join(parts), False


def _places(name: str, config: STBNConfig, after: int) -> tuple[list[int], list[int]]:
    """Rows and columns of the larger network's weight that hold one of the smaller network."""
    before = config.width

    def halves(length: int) -> list[int]:
        """Of two halves side by side, each with new channels at its end."""
        half, wide = length // 2, length // 2 * after // before
        return [*range(half), *range(wide, wide + half)]

    plain = list(range(16 * max(before, config.inputs)))
    both, patches = halves(2 * before), halves(4 * before)
    match name.split("."):
        case ["fuse", number, *_]:
            return (plain if int(number) > config.fusion_blocks else both), both
        case ["expand", "inlet", _]:
            return patches, halves(8 * before)
        case ["expand", "groups", _, _, "spread", _]:
            return patches, plain  # two groups of channels: columns are those of one
        case ["expand", "groups", *_]:
            return patches, patches
        case ["expand", "outlet", "0", _]:
            return plain, patches
    return plain, plain


def _embed(weight: Tensor, old: Tensor, rows: list[int], columns: list[int]) -> None:
    """Put the weights of old channels into their places; nothing reaches them from new ones."""
    rows = rows[: old.shape[0]]
    if old.ndim == 1:
        weight[rows] = old
        return
    columns = columns[: old.shape[1]]
    weight[rows] = 0
    weight[torch.tensor(rows)[:, None], torch.tensor(columns)] = old
