"""Rows of a table that are measured one by one: time of a call, memory of device and process.

A row that fails says why, and the others are still measured.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

import torch

from _authors_code import Shape
from _memory import Peak
from engine import forward_flops
from napari_stbn.network import STBNConfig
from napari_stbn.training import TrainingConfig

Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Sizes:
    """What is measured: clips of the fit, the movie of inference, how often."""

    batch: int = 4
    frames: int = 8
    side: int = 96
    movie: tuple[int, int] = (100, 512)  # frames, side
    repeats: int = 15

    @property
    def shape(self) -> Shape:
        """Clips, frames and side of a step."""
        return self.batch, self.frames, self.side


def tried(name: str, function: Callable[[], T]) -> T | None:
    """What a function returns; where it fails, None, and why on the screen."""
    started = time.perf_counter()
    try:
        return function()
    except Exception:  # noqa: BLE001  # the other rows still run
        print(f"FAILED: {name}\n{traceback.format_exc()}", flush=True)
        return None
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(f"[{time.perf_counter() - started:.1f} s] {name}", flush=True)


def rows_of(named: dict[str, Callable[[], Row]], title: str) -> Iterator[Row]:
    """Rows of those functions that do not fail, printed as they come."""
    for name, function in named.items():
        row = tried(name, function)
        if row is not None:
            print(f"  {row}", flush=True)
            yield {title: name, **row}


def step_row(step: Callable[[], Any], device: torch.device, sizes: Sizes) -> Row:
    """Median milliseconds of a step after warming up, and the peak of the device's memory."""
    for _ in range(1 if device.type == "cpu" else 5):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = [seconds_of(step, device) for _ in range(sizes.repeats)]
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    return {"ms": 1e3 * median(times), "slowest": 1e3 * max(times), "peak [GB]": peak}


def seconds_of(function: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, by the device's own clock where it is a GPU."""
    if device.type != "cuda":
        started = time.perf_counter()
        function()
        return time.perf_counter() - started
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    function()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def movie_row(function: Callable[[], Any], device: torch.device, frames: int) -> Row:
    """Seconds of one call, peak of the device's memory, growth of this process's."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with Peak() as taken:
        seconds = seconds_of(function, device)
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    host = taken.bytes / 1e9
    return {"s": seconds, "frames/s": frames / seconds, "peak [GB]": peak, "host [GB]": host}


def work_of(config: STBNConfig, training: TrainingConfig) -> float:
    """Floating-point operations of a step: three times the plain network's forward pass."""
    shape = (1, training.clip_frames, training.clip_size, training.clip_size)
    return 3 * training.batch * forward_flops(config, shape)
