"""What the entries of the menu Layers > Filter do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error

from ._own_layers import movie_of

if TYPE_CHECKING:
    import napari

    from .job import DenoisingJob

__all__ = ["denoise_with_last_settings", "open_widget"]


def open_widget(viewer: "napari.viewer.Viewer") -> None:  # noqa: UP037  # napari fills it in
    """Open the denoise widget with the selected layer."""
    _widget(viewer)


def denoise_with_last_settings(viewer: "napari.viewer.Viewer") -> None:  # noqa: UP037
    """Fit and denoise the selected layer at once, with the settings of the last run.

    Of a layer that a run has added, the movie is denoised that it was made from.
    """
    try:
        _start(viewer)
    except (ValueError, RuntimeError, MemoryError, OSError) as error:
        show_error(str(error))


def _start(viewer: napari.viewer.Viewer) -> DenoisingJob:
    widget, active = _widget(viewer), viewer.layers.selection.active
    if active is not None and movie_of(viewer.layers, active) is None:
        raise ValueError(
            f'"{active.name}" is not a movie, and what it was made from is not open; '
            "select the movie to denoise"
        )
    job: DenoisingJob = widget.fit()
    return job


def _widget(viewer: napari.viewer.Viewer) -> Any:
    """The denoise widget, opened if need be, with the selected layer or the movie behind it."""
    _, widget = viewer.window.add_plugin_dock_widget("napari-stbn", "Denoise time-lapse")
    widget.reset_choices()
    widget.choose_active()
    return widget
