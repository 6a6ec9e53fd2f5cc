"""What a run does to the process that it shares with the screen: imports, threads, memory."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module

__all__ = ["gpu_freed", "load_ahead", "threads", "threads_for"]


@cache
def load_ahead() -> None:
    """Import now what the first run would import in the middle of the fit.

    Hundreds of modules make many objects, and Python's search for garbage among all that there are
    holds every thread up, that of the screen as well (0.25 s and more). So it does not search
    meanwhile, and takes them for old ones after.
    """
    searched = gc.isenabled()
    gc.disable()
    try:
        for name in ("cv2", "skimage.filters", "pandas"):
            with suppress(ImportError):
                import_module(name)
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()  # all that lives is old now, without a search
        if searched:
            gc.enable()


def threads_for(count: int) -> int:
    """Threads that a run uses when it is asked to use `count`; 0 leaves one core to the screen."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # may be a list
    limit = int(asked) if asked.isdigit() and int(asked) else cores or 2
    return count or max(1, min(limit, (cores or 2) - 1))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Use so many threads in this thread's computations."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def gpu_freed() -> Iterator[None]:
    """Give back afterwards what torch keeps for the next fit."""
    import torch

    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
