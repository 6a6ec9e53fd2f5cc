"""What a bug report needs to know of a machine; nothing of its user, names or files."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from ._info_command import info
from .devices import available_devices, free_memory, resolve_device

__all__ = ["info_or_system", "system_report"]

_PACKAGES = (
    *("napari-stbn", "torch", "numpy", "scipy", "scikit-image", "opencv-python-headless"),
    *("tifffile", "imagecodecs", "zarr", "safetensors", "psutil", "dask", "distributed"),
    *("napari", "magicgui", "qtpy", "PyQt6", "PyQt5", "PySide6", "vispy", "bioio"),
)
_FLAGS = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512", "amx", "neon", "asimd", "bf16")
_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES"),
    *("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ENABLE_MPS_FALLBACK", "SLURM_CPUS_PER_TASK"),
)


def info_or_system(options: argparse.Namespace) -> None:
    """`napari-stbn info`: of a movie, or of this machine with ``--system``."""
    if options.system:
        report = system_report()
        print(json.dumps(report, indent=1) if options.json else _text(report))
    elif options.json:
        raise ValueError("--json goes with --system; leave it out for a movie")
    elif options.input is None:
        raise ValueError("name a movie, or pass --system for what a bug report needs")
    if options.input is not None:
        info(options)


def system_report() -> dict[str, Any]:
    """Versions, devices, memory, threads and settings of this machine.

    Returns
    -------
    dict
        Plain values, ready for JSON.
    """
    import cv2
    import torch

    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    affinity: Any = getattr(os, "sched_getaffinity", None)
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "system": {"platform": platform.platform(), "machine": platform.machine()},
        "processor": {
            "name": _cpu()[0],
            "flags": _cpu()[1],
            "capability": torch.backends.cpu.get_cpu_capability(),
            "cores": psutil.cpu_count(logical=False),
            "threads": psutil.cpu_count(),
            "threads for this process": len(affinity(0)) if affinity is not None else None,
        },
        "threads": {
            "torch": torch.get_num_threads(),
            "torch between operations": torch.get_num_interop_threads(),
            "opencv": cv2.getNumThreads(),
        },
        "memory [GB]": {
            "total": round(memory.total / 1e9, 2),
            "free": round(free_memory(torch.device("cpu")) / 1e9, 2),
            "swap": round(swap.total / 1e9, 2),
            "temporary folder": round(shutil.disk_usage(tempfile.gettempdir()).free / 1e9, 2),
        },
        "devices": {"auto": str(resolve_device("auto")), **available_devices()},
        "gpu": _gpus(),
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "open files": _open_files(),
        "torch": [line.strip() for line in torch.__config__.show().splitlines() if line.strip()],
    }


def _versions() -> dict[str, str]:
    """Of the packages that matter, those that are installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> tuple[str, str]:
    """Name of the processor, and what of its abilities matters here."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return platform.processor() or platform.machine(), ""
    values: dict[str, str] = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        values.setdefault(name.strip().lower(), value.strip())
    words = (values.get("flags") or values.get("features") or "").split()
    flags = [word for word in words if any(word.startswith(flag) for flag in _FLAGS)]
    return values.get("model name") or platform.machine(), " ".join(flags)


def _gpus() -> dict[str, Any]:
    """Driver, CUDA and every GPU; empty without one."""
    import torch

    if not torch.cuda.is_available():
        return {}
    found: dict[str, Any] = {
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
        "driver": _driver(),
    }
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = (
            f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
            f"{properties.total_memory / 1e9:.1f} GB"
        )
    return found


def _driver() -> str:
    """Version of the NVIDIA driver as its own tool tells it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown"
    asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({type(error).__name__})"
    return done.stdout.splitlines()[0].strip() if done.stdout.strip() else "unknown"


def _open_files() -> dict[str, int | None]:
    """Files that this process may open."""
    if sys.platform == "win32":
        return {"limit": None}
    import resource

    return {"limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0]}


def _text(report: dict[str, Any]) -> str:
    """A report for people: a heading for each part, a line for each value."""
    lines: list[str] = []
    for heading, part in report.items():
        lines.append(heading)
        rows = part.items() if isinstance(part, dict) else (("", line) for line in part)
        lines += [f"  {name}{': ' if name else ''}{value}" for name, value in rows]
        if not part:
            lines.append("  none")
    return "\n".join(lines)
