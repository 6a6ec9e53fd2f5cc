"""What drawing costs here: without a GPU every change of the window is drawn by the CPU."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

__all__ = ["calm_spinners", "draws_in_software", "garbage_kept"]

_SOFTWARE = (
    "llvmpipe",
    "softpipe",
    "swrast",
    "swiftshader",
    "software",
    "gdi generic",
    "basic render",
)
_CALM = 3  # per cent of the speed of napari's spinner: about one picture a second


@cache
def draws_in_software() -> bool:
    """Whether OpenGL is computed on the CPU, such as on a virtual machine or in a remote session.

    Then each change of any widget makes Qt draw the whole window again, and what is drawn often
    takes the processor away from the fit.
    """
    from qtpy.QtGui import QOffscreenSurface, QOpenGLContext
    from vispy.gloo import gl

    before = QOpenGLContext.currentContext()
    surface_before = before.surface() if before is not None else None
    context, surface = QOpenGLContext(), QOffscreenSurface()
    surface.create()
    if not (context.create() and context.makeCurrent(surface)):
        return False  # nothing is known; napari would not draw either
    try:
        renderer = str(gl.glGetParameter(gl.GL_RENDERER)).lower()
    finally:
        context.doneCurrent()
        if before is not None and surface_before is not None:
            before.makeCurrent(surface_before)
        surface.destroy()
    return any(word in renderer for word in _SOFTWARE)


def calm_spinners() -> None:
    """Slow napari's animated spinners down where each of their pictures costs a whole window."""
    from qtpy.QtWidgets import QApplication, QLabel

    for window in QApplication.topLevelWidgets():
        for label in window.findChildren(QLabel):
            movie = label.movie()
            if movie is not None:
                movie.setSpeed(_CALM)


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Keep Python from looking through all objects for garbage; they are looked at again after.

    napari has it look whenever a layer is removed, which holds the screen up for 0.25 s and more.
    """
    ours = not gc.get_freeze_count()
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()
