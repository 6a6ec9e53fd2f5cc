"""Reader of `.stbn` models: a model dropped on the viewer goes to the denoise widget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from napari.viewer import Viewer

__all__ = ["get_reader", "open_widget"]

_PLUGIN, _WIDGET = "napari-stbn", "Denoise time-lapse"
_LONGEST_HEADER = 100_000_000  # bytes; what safetensors itself accepts

OnePath = str | PathLike[str]
NullLayer = list[tuple[None]]


class LoadsModel(Protocol):
    """The one method of the denoise widget that the reader needs."""

    def load_model(self, path: OnePath) -> object:
        """Take the model of this file; a `ValueError` says why not."""
        ...


def get_reader(path: OnePath | Sequence[OnePath]) -> Callable[[OnePath], NullLayer] | None:
    """Reader of a model file, as npe2 asks for it.

    Parameters
    ----------
    path : path or list of paths
        A list (files to be stacked) is read where it holds one file: models cannot be stacked.

    Returns
    -------
    callable or None
        None for what is not one file that is called ``*.stbn``. A file with that name is taken
        whatever it holds: where a reader refuses, napari says at length that the file is not
        associated with this plugin, which is not what is wrong with it.
    """
    one = _one(path)
    return read_model if one is not None and one.suffix.lower() == ".stbn" else None


def read_model(path: OnePath | Sequence[OnePath]) -> NullLayer:
    """Hand a model to the denoise widget, which is opened if need be; adds no layer.

    What is wrong with the file is shown as one notification. It is not raised: napari would put
    its own explanation and a traceback around the sentence.

    Parameters
    ----------
    path : path
        The model.

    Returns
    -------
    list
        ``[(None,)]``: napari's sign for "read, nothing to add".

    Raises
    ------
    RuntimeError
        There is no viewer whose widget could take the model.
    """
    from napari.utils.notifications import show_error

    from napari import current_viewer

    one = _one(path)
    if one is None:
        raise ValueError(f"a model is one file, got {path!r}")
    viewer = current_viewer()
    if viewer is None:
        raise RuntimeError(
            f"{one.name} is a model, which has no layers to show: open a napari viewer first, or "
            f'use it from a script with napari_stbn.Denoiser.load("{one.name}").'
        )
    if not _starts_like_a_model(one):  # no need to open the widget and load torch for it
        show_error(f"{one.name} is not an STBN model, or is damaged: it does not begin like one.")
        return [(None,)]
    try:
        open_widget(viewer).load_model(one)
    except (ValueError, OSError) as error:
        show_error(str(error))
    return [(None,)]


def open_widget(viewer: Viewer) -> LoadsModel:
    """Open the denoise widget, or bring the open one to the front.

    Parameters
    ----------
    viewer : napari.Viewer

    Returns
    -------
    widget
        The one with `load_model`.
    """
    dock, widget = viewer.window.add_plugin_dock_widget(_PLUGIN, _WIDGET)
    dock.show()  # an open one may have been hidden
    dock.raise_()  # or lie behind another tab
    return cast("LoadsModel", widget)


def _one(path: OnePath | Sequence[OnePath]) -> Path | None:
    """The one file meant."""
    if not isinstance(path, (str, PathLike)):
        if len(path) != 1:
            return None
        path = path[0]
    found = Path(path)
    return found if found.is_file() else None


def _starts_like_a_model(path: Path) -> bool:
    """Whether a file begins as safetensors do: length of the header, and a JSON object."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
        size = path.stat().st_size
    except OSError:
        return True  # let the widget say what the matter is
    length = int.from_bytes(start[:8], "little")
    return len(start) == 9 and start[8:] == b"{" and 2 <= length <= min(size - 8, _LONGEST_HEADER)
