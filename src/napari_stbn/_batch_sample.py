"""A sample of many movies as one stack, which one model for all of them is fitted to."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._lines import counted, in_words, shown
from .camera import read_corrected
from .stack import Stack

__all__ = ["sample"]

_logger = logging.getLogger(__name__)
_PIXELS = 2**25  # of all movies together
_FRAMES = 64


def sample(
    paths: Sequence[Path],
    axes: str | None,
    camera: Sequence[str] = (),
    scene: int | None = None,
) -> Stack:
    """Crops of many movies as planes of one stack, so that one fit serves all.

    Parameters
    ----------
    paths : sequence of Path
        Movies that cannot be read, have other channels than the first, or are smaller than most
        are left out.
    axes : str or None
        Overrules the files.
    camera : sequence of str
        Maps that correct them, see `napari_stbn.CameraMaps.read`.
    scene : int or None
        Which image of files that hold several.

    Returns
    -------
    Stack
        Axes T, Z, Y, X with C or S where the movies have it; the crops are from the middle of the
        movies and all of one size.

    Raises
    ------
    ValueError
        If no movie can be read.
    """
    stacks: list[Stack] = []
    refusal: Exception | None = None
    for path in paths:
        try:
            stack, _ = read_corrected(path, axes, camera, scene)
            stack.check()
        except (ValueError, OSError) as error:
            _logger.warning("%s is left out of the sample: %s", shown(path.name), in_words(error))
            refusal = error
            continue
        if stacks and _colours(stack) != _colours(stacks[0]):
            _logger.warning("%s is left out of the sample: it has other channels", shown(path.name))
            continue
        stacks.append(stack)
    if not stacks:
        raise ValueError(f"no movie could be read for the shared model: {refusal}")
    sizes = np.array([(s.n_frames, *s.frame_shape) for s in stacks])
    frames, height, width = (int(n) for n in np.percentile(sizes, 50, axis=0, method="lower"))
    frames = min(frames, _FRAMES)
    pixels = max(1, _PIXELS // (frames * stacks[0].n_channels * len(stacks)))
    shrink = min(1.0, (pixels / (height * width)) ** 0.5)
    height, width = (min(n, max(64, int(n * shrink))) for n in (height, width))
    size = {"T": frames, "Y": height, "X": width}
    own = "T" + "".join(a for a in "CS" if a in stacks[0].axes) + "YX"
    crops = [
        _middle(stack, size, own)
        for stack in stacks
        if all(stack.size(axis) >= length for axis, length in size.items())
    ]
    together = np.stack(crops, axis=1)
    return Stack(together, "TZ" + own[1:], name=f"a sample of {counted(len(crops), 'movie')}")


def _middle(stack: Stack, size: dict[str, int], own: str) -> Any:
    """A crop from the middle of a stack's middle plane, in the order of `own`."""
    index: list[int | slice] = []
    for axis in stack.axes:
        first = (stack.size(axis) - size.get(axis, 1)) // 2
        whole = slice(first, first + size[axis]) if axis in size else slice(None)
        index.append(first if axis == "Z" else whole)
    crop = np.asarray(stack.array[tuple(index)]).astype(stack.dtype, copy=False)
    kept = [axis for axis in stack.axes if axis != "Z"]
    return crop.transpose([kept.index(axis) for axis in own])


def _colours(stack: Stack) -> tuple[int, int]:
    """Channels and colour samples."""
    return stack.size("C"), stack.size("S")
