"""Files of microscope makers (nd2, czi, lif, …), read through bioio where the user has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from napari_stbn._described import Description, described_stack
from napari_stbn._scenes import SceneError, scene_number, scenes_note

if TYPE_CHECKING:
    from pathlib import Path

    from napari_stbn.stack import Stack

__all__ = ["FOREIGN", "read_bioio"]

FOREIGN: Final = {
    ".nd2": "bioio-nd2",
    ".czi": "bioio-czi",
    ".lif": "bioio-lif",
    ".dv": "bioio-dv",
    ".sldy": "bioio-sldy",
    ".oib": "bioio-bioformats",
    ".oif": "bioio-bioformats",
    ".oir": "bioio-bioformats",
    ".ims": "bioio-bioformats",
    ".vsi": "bioio-bioformats",
}
"""Endings that `read` hands to bioio, and the plugin of bioio that reads them."""


class _Pixels:
    """The lazy array of a file, read where it is indexed, with errors in a sentence."""

    def __init__(self, array: Any, path: Path, kept: tuple[bool, ...]) -> None:
        self.path, self._array = path, array[tuple(slice(None) if k else 0 for k in kept)]
        self.shape: tuple[int, ...] = tuple(self._array.shape)
        self.dtype: np.dtype[Any] = np.dtype(self._array.dtype)

    def __getitem__(self, index: Any, /) -> npt.NDArray[Any]:
        """Read a part."""
        try:
            return np.asarray(self._array[index])
        except (OSError, IndexError, MemoryError):
            raise
        except Exception as error:  # each plugin raises types of its own
            raise ValueError(
                f"{self.path} cannot be decoded ({_said(error)}); it may be damaged: copy it again."
            ) from error


def read_bioio(path: Path, axes: str | None, name: str, scene: int | None = None) -> Stack:
    """Open a file through bioio as a lazy stack; see `napari_stbn.io.read`.

    Axes of length 1 are left out, as for TIFF; of several scenes the first is read where
    none is asked for.

    Raises
    ------
    ValueError
        bioio or its plugin for this format is not installed, or cannot read the file.
    """
    ending = path.suffix.lower()
    plugin = FOREIGN.get(ending, "its plugin")
    install = f"pip install 'napari-stbn[formats]' {plugin}"
    try:
        from bioio import BioImage
    except ImportError as error:
        raise ValueError(
            f"{path} is a {ending} file, which bioio reads and which is not installed: {install}; "
            "or export the movie as OME-TIFF."
        ) from error
    try:
        image = BioImage(path)
        scenes = len(image.scenes)
        if (number := scene_number(path, scene, scenes)) > 0:
            image.set_scene(number)
        letters = str(image.dims.order)
        array = image.dask_data
        sizes = image.physical_pixel_sizes
        interval = _seconds(getattr(image, "time_interval", None))
        channels = getattr(image, "channel_names", None) or ()
    except (OSError, MemoryError, SceneError):
        raise
    except Exception as error:  # no plugin, or one that cannot read this file: each has its own
        raise ValueError(
            f"{path} cannot be read by bioio: {_said(error)}. Is its plugin there ({install})? Or "
            "export the movie as OME-TIFF."
        ) from error
    kept = tuple(
        length > 1 or letter in "YX" for letter, length in zip(letters, array.shape, strict=True)
    )
    known = {axis: getattr(sizes, axis, None) for axis in "ZYX"}
    said = Description(
        {axis: float(size) for axis, size in known.items() if size and size > 0},
        frame_interval=interval,
        channels=[str(channel) for channel in channels],
    )
    hint = "".join(letter for letter, keep in zip(letters, kept, strict=True) if keep)
    note = scenes_note(scene, scenes, number, "first")
    pixels = _Pixels(array, path, kept)
    return described_stack(pixels, axes, said, name=name, hint=hint, notes=[note])


def _seconds(interval: Any) -> float | None:
    """A frame interval as bioio gives it (a time span or seconds), None where it is not known."""
    seconds = getattr(interval, "total_seconds", lambda: interval)()
    return float(seconds) if seconds and seconds > 0 else None


def _said(error: BaseException) -> str:
    """Message of an error on one line, not longer than a person reads."""
    return (" ".join(str(error).split()).rstrip(".") or type(error).__name__)[:300]
