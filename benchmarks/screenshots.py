"""Pictures of the plugin in the real napari, for README and documentation.

Run with a display, or ``xvfb-run -a -s "-screen 0 1600x1000x24 +extension GLX" ./dev run python
benchmarks/screenshots.py``. Takes about four minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

# As a new user sees it: settings of earlier sessions are left alone. Before napari is imported.
os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")

from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QMainWindow

import napari

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
SIZE = (1400, 900)  # px


def settle(seconds: float) -> None:
    """Let napari work for a while."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def open_viewer(theme: str, width: int) -> tuple[napari.Viewer, Any]:
    """A viewer with the simulated cells and the denoise widget, as a new user opens them."""
    viewer = napari.Viewer(show=True)
    viewer.theme = theme
    viewer.window.resize(*SIZE)
    viewer.open_sample("napari-stbn", "simulated_cells")
    dock, widget = viewer.window.add_plugin_dock_widget("napari-stbn", "Denoise time-lapse")
    settle(0.5)
    window = dock.parentWidget()
    if isinstance(window, QMainWindow):
        window.resizeDocks([dock], [width], Qt.Orientation.Horizontal)
    settle(3)
    viewer.reset_view()
    settle(0.5)
    return viewer, widget


def shoot(viewer: napari.Viewer, folder: Path, name: str) -> None:
    """Save the whole window."""
    settle(0.5)
    path = folder / f"napari_{name}.png"
    viewer.screenshot(str(path), canvas_only=False, flash=False)
    print(path)


def wait_for(job: Any, part: float) -> None:
    """Let a job get to this part of its fit."""
    done: list[float] = []
    job.progressed.connect(lambda p: done.append(p.fraction if p.phase == "fit" else 0.0))
    while job.is_running and (not done or done[-1] < part):
        settle(0.2)


def psnr(image: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    """Peak signal-to-noise ratio [dB]."""
    error = np.mean((image.astype(float) - truth) ** 2)
    return float(10 * np.log10(np.ptp(truth) ** 2 / error))


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=100.0, help="time budget of the fits")
    parser.add_argument("-o", "--output", type=Path, default=IMAGES)
    options = parser.parse_args()
    notification_manager.notification_ready.connect(lambda note: print("napari:", note.message))

    viewer, widget = open_viewer("dark", 330)
    shoot(viewer, options.output, "before")
    widget.time_budget.value = options.seconds
    job = widget.fit()
    wait_for(job, 0.7)
    settle(3)
    shoot(viewer, options.output, "during")
    layers = job.wait()
    truth = viewer.layers["simulated cells truth"].data
    noisy = viewer.layers["simulated cells"].data
    print(f"PSNR noisy {psnr(noisy, truth):.2f}, denoised {psnr(layers[0].data, truth):.2f} dB")
    shoot(viewer, options.output, "after")
    viewer.layers["simulated cells flow"].visible = False
    widget.side_by_side()
    shoot(viewer, options.output, "side_by_side")
    widget.side_by_side()
    widget.swipe()
    shoot(viewer, options.output, "swipe")
    widget.swipe()
    model = widget.denoiser
    viewer.close()

    viewer, widget = open_viewer("light", 300)
    widget.more.value = True
    widget.denoiser = model
    widget.apply().wait()
    shoot(viewer, options.output, "light")
    viewer.close()


if __name__ == "__main__":
    main()
