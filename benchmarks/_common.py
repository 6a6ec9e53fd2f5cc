"""What the benchmarks share: the machine, measures against a known truth, tables, files."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
Format = str | Callable[[Any], str]

_SSIM_SIDE = 7  # px, the window that scikit-image takes by default


def machine(threads: int) -> dict[str, str | int]:
    """Where and with what the numbers were taken: plain values, ready for JSON."""
    import torch

    from napari_stbn import __version__

    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "threads": threads,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "napari_stbn": __version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _cpu_model() -> str:
    """Name of the processor as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def use_threads(threads: int) -> None:
    """Let every library of this process compute with this many threads."""
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


@dataclass(frozen=True)
class Truth:
    """What a denoised movie is compared with.

    Attributes
    ----------
    clean : ndarray, shape (T, Y, X) [counts]
    events : ndarray of bool, shape (T, Y, X)
        First frames of fast events.
    """

    clean: FloatArray
    events: NDArray[np.bool_]

    @property
    def span(self) -> float:
        """Largest minus smallest clean value [counts]: the data range of PSNR and SSIM."""
        return float(np.ptp(self.clean))

    def psnr(self, estimate: NDArray[Any], where: NDArray[np.bool_] | None = None) -> float:
        """Peak signal-to-noise ratio [dB], in all pixels or in those of a mask."""
        error = estimate.astype(np.float64) - self.clean
        chosen = error if where is None else error[where]
        if chosen.size == 0:
            return float("nan")
        return float(10 * np.log10(self.span**2 / np.mean(chosen**2)))

    def ssim(self, estimate: NDArray[Any]) -> float:
        """Structural similarity, scikit-image's, mean over frames."""
        from skimage.metrics import structural_similarity

        pairs = zip(estimate.astype(np.float64), self.clean.astype(np.float64), strict=True)
        return float(
            np.mean(
                [
                    structural_similarity(a, b, data_range=self.span, win_size=_SSIM_SIDE)
                    for a, b in pairs
                ]
            )
        )

    def measures(self, estimate: NDArray[Any]) -> dict[str, float]:
        """Every measure of an estimate; errors and biases in counts."""
        error = estimate.astype(np.float64) - self.clean
        return {
            "psnr": self.psnr(estimate),
            "ssim": self.ssim(estimate),
            "event_psnr": self.psnr(estimate, self.events),
            "bias": float(error.mean()),
            "event_bias": float(error[self.events].mean()) if self.events.any() else float("nan"),
        }


def markdown_table(
    columns: Mapping[str, tuple[str, Format]], rows: Sequence[Mapping[str, Any]]
) -> str:
    """Lay out rows as a markdown table.

    Parameters
    ----------
    columns : mapping of key to (title, format)
        Which values of a row to show, and how.
    rows : sequence of mapping
        A missing value, None or NaN stays empty.
    """

    def cell(row: Mapping[str, Any], key: str, style: Format) -> str:
        value = row.get(key)
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return ""
        return style(value) if callable(style) else format(value, style)

    lines = [
        "| " + " | ".join(title for title, _ in columns.values()) + " |",
        "|" + "|".join("---" if style == "s" else "--:" for _, style in columns.values()) + "|",
    ]
    for row in rows:
        cells = [cell(row, key, style) for key, (_, style) in columns.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine_line(described: Mapping[str, str | int]) -> str:
    """One sentence about the machine, for below a table."""
    gpu = "" if described["gpu"] == "none" else f", {described['gpu']}"
    return (
        f"{described['cpu']}, {described['cores']} cores, --threads {described['threads']}{gpu}; "
        f"torch {described['torch']}, napari-stbn {described['napari_stbn']}, {described['date']}."
    )


def write_results(stem: Path, results: Mapping[str, Any], text: str) -> None:
    """Write ``stem.json`` and ``stem.md``, replacing earlier ones."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(_without_nan(results), indent=1, ensure_ascii=False, allow_nan=False)
    stem.with_suffix(".json").write_text(content + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(text + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    """The same value with None for NaN and infinities, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
