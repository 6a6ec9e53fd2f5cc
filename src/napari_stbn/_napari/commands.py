"""What the entries of the menu Layers > Filter do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error

if TYPE_CHECKING:
    import napari

    from .job import DenoisingJob

__all__ = ["denoise_with_last_settings", "open_widget"]


def open_widget(viewer: "napari.viewer.Viewer") -> None:  # noqa: UP037  # napari fills it in
    """Open the denoise widget with the selected layer."""
    _widget(viewer)


def denoise_with_last_settings(viewer: "napari.viewer.Viewer") -> None:  # noqa: UP037
    """Fit and denoise the selected layer at once, with the settings of the last run."""
    try:
        _start(viewer)
    except (ValueError, RuntimeError, MemoryError, OSError) as error:
        show_error(str(error))


def _start(viewer: napari.viewer.Viewer) -> DenoisingJob:
    job: DenoisingJob = _widget(viewer).fit()
    return job


def _widget(viewer: napari.viewer.Viewer) -> Any:
    """The denoise widget, opened if need be, with the selected layer."""
    _, widget = viewer.window.add_plugin_dock_widget("napari-stbn", "Denoise time-lapse")
    active = viewer.layers.selection.active
    widget.reset_choices()
    if active in widget.layer.choices:
        widget.layer.value = active
    return widget
