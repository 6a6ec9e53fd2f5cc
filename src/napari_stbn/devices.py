"""Compute devices: which there are, and how much memory is free on them."""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import torch

__all__ = [
    "available_devices",
    "free_memory",
    "is_out_of_memory",
    "keep_freed_memory",
    "limit_memory",
    "release_cached",
    "resolve_device",
    "size_in_words",
]

_GROUP = Path("/sys/fs/cgroup")
_CGROUPS = (  # version 2 and version 1: the limit, and what is taken
    (_GROUP / "memory.max", _GROUP / "memory.current"),
    (_GROUP / "memory/memory.limit_in_bytes", _GROUP / "memory/memory.usage_in_bytes"),
)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGEST_KEPT, _MOST_KEPT = 2**25, 2**27  # bytes of one piece (glibc takes no more), and at the end
_logger = logging.getLogger(__name__)
_limit: int | None = None  # bytes of main memory that this process may hold; None: whatever is free


def resolve_device(name: str = "auto") -> torch.device:
    """Turn a user's word into a device that works.

    Parameters
    ----------
    name : str, default "auto"
        ``"auto"`` takes a CUDA GPU, then Apple's GPU, then the CPU; otherwise a torch device name
        such as ``"cpu"`` or ``"cuda:1"``.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If the name is unknown or there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f'device must be "auto", "cpu", "cuda", "cuda:N" or "mps", got {name!r}'
        ) from error
    here = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not here.get(device.type, False):
        raise ValueError(f'there is no device {name!r} on this machine; use device="auto" or "cpu"')
    return device


def free_memory(device: torch.device) -> int:
    """Bytes that could be allocated on a device now.

    On the side of the processor, what the system (``ulimit -v``) or its container or batch job
    (cgroup) leaves to this process counts where that is less.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [psutil.virtual_memory().available, *_left_by_limits()]
    if _limit is not None:
        free.append(_limit - psutil.Process().memory_info().rss)
    return max(0, int(min(free)))


def _left_by_limits() -> Iterator[int]:
    """Bytes left under each limit that is set for this process."""
    if sys.platform == "linux":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit - psutil.Process().memory_info().vms
        for most, taken in _CGROUPS:
            with suppress(OSError, ValueError):  # no such group, or no limit ("max")
                yield int(most.read_text()) - int(taken.read_text()) + _cached(most.parent)


def _cached(group: Path) -> int:
    """Bytes of files that a cgroup's memory holds and would give back."""
    for line in (group / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next layer of a network.

    Memory that was given back to the system is cleared page by page when it is asked for again: of
    the time of a fit a tenth, and half on dask's workers, which give back every map at once
    (``MALLOC_TRIM_THRESHOLD_=65536``). What is set here glibc comes to by itself in the end, unless
    told otherwise. Elsewhere nothing is done.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        _logger.info("this C library has no mallopt; its allocator stays as it is")
        return
    for parameter, threshold in ((_MMAP_THRESHOLD, _LARGEST_KEPT), (_TRIM_THRESHOLD, _MOST_KEPT)):
        mallopt(parameter, threshold)


def limit_memory(limit: int | None) -> None:
    """Let this process plan with its share of main memory, beside others on the machine.

    Parameters
    ----------
    limit : int or None [bytes]
        Resident memory that the process may reach; None for whatever is free.
    """
    global _limit  # noqa: PLW0603
    _limit = limit


def available_devices() -> dict[str, str]:
    """Devices of this machine.

    Returns
    -------
    dict of str to str
        A name that `resolve_device` takes, and what a person calls it, with its memory.
    """
    free = size_in_words(free_memory(torch.device("cpu")))
    found = {}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        name = torch.cuda.get_device_name(index)
        left, total = map(size_in_words, torch.cuda.mem_get_info(index))
        found[f"cuda:{index}"] = f"GPU {index}: {name}, {left} of {total} free"
    if torch.backends.mps.is_available():
        found["mps"] = f"Apple GPU, {free} free"
    found["cpu"] = f"CPU, {psutil.cpu_count() or 1} threads, {free} free"
    return found


def size_in_words(size: float) -> str:
    """Bytes for a person: TB or GB with one digit, MB or kB where that would say nothing."""
    if size >= 1e12:
        return f"{size / 1e12:.1f} TB"
    if size >= 1e8:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a torch error says that memory ran out, on any device."""
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "not enough memory" in str(error)
        or "can't allocate" in str(error)
        or "MPS backend out of memory" in str(error)
    )


def release_cached(device: torch.device) -> None:
    """Give the memory that torch keeps for later back to a device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
