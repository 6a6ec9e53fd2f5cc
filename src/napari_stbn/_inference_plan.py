"""How a movie is cut into windows in time and tiles in space, so that it fits into memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .devices import size_in_words
from .network import STBN
from .network.stbn import head_radius
from .precision import Precision

__all__ = ["SMALLEST_TILE", "InferencePlan", "block_frames", "plan_inference"]

SMALLEST_TILE = 32  # px
_SCRATCH = 3 * 10**7  # bytes that convolutions take for themselves
# Side of a tile times width of the network. A person who cancels waits for one tile at most.
_CPU_TILE_WIDTH = 512 * 16


@dataclass(frozen=True)
class InferencePlan:
    """Pieces in which a movie is denoised; they change memory and time, not the result.

    Attributes
    ----------
    window
        Frames whose states are kept at once.
    tile
        Side of the tiles that the convolutions run in [px], a multiple of 4.
    bytes
        Memory expected at the peak, beside the movie itself.
    clip_frames
        Frames that a result depends on, None for all. This does change the result.
    """

    window: int
    tile: int
    bytes: int
    clip_frames: int | None = None


def plan_inference(
    model: STBN, shape: tuple[int, int, int], budget: int, precision: Precision = "float32"
) -> InferencePlan:
    """Choose window and tile so that the peak stays within a budget.

    Parameters
    ----------
    model : STBN
        Where it is known how many frames its clips had, results depend on as many.
    shape : (frames, height, width)
    budget : int [bytes]
        Memory that may be taken, beside the movie.
    precision : {"float32", "bfloat16"}

    Returns
    -------
    InferencePlan

    Raises
    ------
    MemoryError
        If even single frames in the smallest tiles do not fit.
    """
    frames, height, width = shape
    config = model.config
    # The factors were set to the peak resident memory of networks of width 16, 32 and 64 on the
    # CPU, whole frames of 256 to 1024 px and tiles of 128 px: it stayed within a seventh above.
    state = config.width * height * width * (4 if precision == "float32" else 2)
    results = 12 * config.channels * height * width  # mean, deviation, prior mean

    def peak(window: int, tile: int) -> int:
        halo = 2 * (head_radius(config) + 4)
        share = 1.0
        if tile < max(height, width):
            sides = (min(tile, side) + halo for side in (height, width))
            share = min(1.0, math.prod(sides) / (height * width))
        # Backward states at the starts of windows wait for their turn.
        whole = model.clip_frames is None
        kept = math.ceil(frames / window) * state if whole and window < frames else 0
        return int(kept + window * (state + results) + (12 + 30 * share) * state + _SCRATCH)

    largest = 4 * math.ceil(max(height, width) / 4)
    if next(model.parameters()).device.type == "cpu":  # keep the time between two yields short
        largest = min(largest, max(SMALLEST_TILE, 4 * (_CPU_TILE_WIDTH // config.width // 4)))
    tiles = [largest]
    while tiles[-1] > SMALLEST_TILE:
        tiles.append(max(SMALLEST_TILE, 4 * math.ceil(tiles[-1] / 8)))
    windows = sorted(
        {min(frames, w) for w in (64, 48, 32, 24, 16, 12, 8, 6, 4, 2, 1)}, reverse=True
    )
    clip = model.clip_frames
    if clip is not None and clip < frames:
        windows = [block_frames(clip)]
    for tile in tiles:  # large tiles first: halos cost time, windows cost nearly nothing
        for window in windows:
            if peak(window, tile) <= budget:
                return InferencePlan(window, tile, peak(window, tile), clip)
    least = min(peak(window, tiles[-1]) for window in windows)
    raise MemoryError(
        f"denoising frames of {height} x {width} needs {size_in_words(least)}, "
        f"{size_in_words(budget)} are free; "
        "close other programs, crop the movie, or choose a smaller preset"
    )


def block_frames(clip_frames: int) -> int:
    """Frames in the middle of a clip that are kept of it."""
    return max(1, clip_frames // 2)
