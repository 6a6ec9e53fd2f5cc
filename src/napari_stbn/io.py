"""Read and write movies: TIFF in its dialects, OME-Zarr and ``.npy``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from napari_stbn._appearing import appearing, check_folder, check_free, through_links
from napari_stbn._npy import create_npy, read_npy, write_npy
from napari_stbn._raw_file import RawFile
from napari_stbn._scenes import scene_number
from napari_stbn.stack import Stack

__all__ = ["READABLE", "TIFF_ENDINGS", "WRITABLE", "check_writable", "read", "stream_to", "write"]

Put = Callable[[int, int, int, npt.NDArray[Any]], None]
TIFF_ENDINGS: Final = (".tif", ".tiff", ".btf", ".tf8")
"""Endings of TIFF files."""
READABLE: Final = (*TIFF_ENDINGS, ".npy", ".zarr")
"""Endings of files that `read` opens; a Zarr folder may have any name."""
WRITABLE: Final = READABLE
"""Endings of files that `write` makes."""
_OME_TIFF: Final = tuple(f".ome{ending}" for ending in TIFF_ENDINGS)


def read(
    path: str | os.PathLike[str], *, axes: str | None = None, scene: int | None = None
) -> Stack:
    """Open a movie.

    Parameters
    ----------
    path : path
        TIFF (OME-TIFF, ImageJ, BigTIFF, plain), ``.npy``, or an OME-Zarr folder (0.4 and 0.5);
        nd2, czi, lif and others where bioio and its plugin for them are installed.
    axes : str, optional
        Overrules the file: one letter out of T, C, Z, Y, X and S for each of its axes.
    scene : int, optional
        Which image, from 0, of a file that holds several: positions of a stage, series of a TIFF,
        images of an OME-Zarr collection or fields of a plate. The largest of a TIFF and the first
        of others when None.

    Returns
    -------
    Stack
        Lazy: the pixels are read where a movie is asked for. Axes, pixel size and frame interval
        come from the file; ``stack.guess`` says what had to be guessed. Axes of length 1 are left
        out by TIFF files.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    IsADirectoryError
        It is a folder, but no Zarr.
    PermissionError
        It is a folder that cannot be looked into.
    ValueError
        The format is unknown, the file is truncated, damaged or foreign, `axes` do not fit it, or
        there is no such scene.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the spelling and the folder.")
    ending, name = _ending(path), _title(path)
    if path.is_dir():
        from napari_stbn._ome_zarr import is_zarr, read_ome_zarr

        if not os.access(path, os.R_OK | os.X_OK):
            raise PermissionError(
                f"the folder {path} cannot be looked into; ask its owner, or choose another one."
            )
        if ending != ".zarr" and not is_zarr(path):
            raise IsADirectoryError(
                f"{path} is a folder; give a file ({', '.join(READABLE)}) or an OME-Zarr folder."
            )
        return read_ome_zarr(path, axes, name, scene)
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); copy it again from its source.")
    if ending in TIFF_ENDINGS:
        from napari_stbn._tiff import read_tiff

        return read_tiff(path, axes, name, scene)
    if ending == ".npy":
        scene_number(path, scene, 1)
        return read_npy(path, axes, name)
    from napari_stbn._bioio import FOREIGN, read_bioio

    if ending in FOREIGN:
        return read_bioio(path, axes, path.stem, scene)
    raise ValueError(
        f"{path} has the unknown ending {ending or 'of no kind'}; save it as one of "
        f"{', '.join(READABLE)}, for example with Fiji."
    )


def write(path: str | os.PathLike[str], stack: Stack, *, overwrite: bool = False) -> Path:
    """Write a stack; the file appears whole or not at all.

    Parameters
    ----------
    path : path
        Its ending chooses the format: ``.ome.tif`` is OME-TIFF; ``.tif`` is an ImageJ hyperstack
        where that can hold the data (uint8, uint16, int16 or float32 below 4 GB) and OME-TIFF
        where not; ``.zarr`` is OME-Zarr 0.5; ``.npy`` is the bare array.
    stack : Stack
        Written block by block: a lazy stack is never loaded as a whole.
    overwrite : bool
        Replace what is there. The earlier file stays until the new one is complete. Of a link, what
        it leads to is replaced, and the link stays.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    FileExistsError
        `path` exists and `overwrite` is not set, or it is a folder that is not a Zarr.
    FileNotFoundError
        The folder to write to does not exist.
    PermissionError
        Nothing can be written to that folder.
    OSError
        The drive is full.
    ValueError
        The ending is unknown, or the format cannot hold the data.

    Notes
    -----
    An ImageJ hyperstack has its axes in the order T, Z, C, Y, X; OME-TIFF keeps the order of
    T, C and Z, with Y, X and S at the end; OME-Zarr has T, C, Z, Y, X, and colour samples
    become channels. ``.npy`` keeps any order, but neither axes nor scale.
    """
    path = Path(path)
    still_free = partial(check_writable, path, overwrite=overwrite)
    still_free()
    if 0 in stack.shape:
        raise ValueError(f"a stack of shape {stack.shape} holds no pixels; nothing was written.")
    writer = _writer(path)
    with appearing(path, still_free) as unfinished:
        writer(unfinished, stack)
    return path


@contextmanager
def stream_to(
    path: str | os.PathLike[str], outline: Stack, *, overwrite: bool = False
) -> Iterator[Put]:
    """Write a stack piece by piece, in any order; the file appears when the block ends.

    Parameters
    ----------
    path, overwrite
        As in `write`.
    outline : Stack
        Shape, axes, type and scale of what will be written; its pixels are not read.

    Yields
    ------
    callable
        ``put(channel, plane, start, frames)`` writes frames (T', Y, X) of one movie from `start`
        on, of the type of `outline`.

    Raises
    ------
    FileExistsError, FileNotFoundError, PermissionError, ValueError
        As `write` does.
    OSError
        The drive is full.
    """
    path = Path(path)
    still_free = partial(check_writable, path, overwrite=overwrite)
    still_free()
    ending = _ending(path)
    with appearing(path, still_free) as unfinished:
        if ending == ".zarr":
            from napari_stbn._ome_zarr_writing import create_ome_zarr

            image = create_ome_zarr(unfinished, outline, name=_title(path))
            yield image.put
            image.finish()
        elif ending == ".npy":
            yield _putting(create_npy(unfinished, outline), outline)
        else:
            from napari_stbn._tiff import create_tiff

            file, axes = create_tiff(unfinished, outline, ome=path.name.lower().endswith(_OME_TIFF))
            yield _putting(file, Stack(file, axes))


def _putting(file: RawFile, outline: Stack) -> Put:
    """A function that writes frames to their place in an uncompressed array."""
    ordered = [letter for letter in outline.axes if letter in "TYX"]
    order = ["TYX".index(letter) for letter in ordered]

    def put(channel: int, plane: int, start: int, frames: npt.NDArray[Any]) -> None:
        where = outline.index(channel, plane, T=slice(start, start + len(frames)))
        file.write(where, frames.transpose(order))

    return put


def check_writable(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    dtype: npt.DTypeLike | None = None,
    axes: str = "",
) -> None:
    """Raise what `write` would raise about this path, before any work is done.

    Parameters
    ----------
    path : path
        Where `write` shall write to.
    overwrite : bool
        Whether something there may be replaced.
    dtype : dtype-like, optional
        Of the stack that will be written, where it is known.
    axes : str, optional
        Of the stack, where they are known.

    Raises
    ------
    FileExistsError, FileNotFoundError, PermissionError, ValueError
        As `write` does.
    """
    path = Path(path)
    ending = _ending(path)
    if ending not in WRITABLE:
        raise ValueError(
            f"{path} has the unknown ending {ending or 'of no kind'}; choose one of "
            f"{', '.join(WRITABLE)}."
        )
    if dtype is not None and ending in TIFF_ENDINGS:
        from napari_stbn._tiff import check_tiff_type

        check_tiff_type(np.dtype(dtype))
    if ending == ".zarr":
        from napari_stbn._ome_zarr_writing import check_zarr_axes

        check_zarr_axes(axes)
    check_folder(through_links(path).parent)
    check_free(path, overwrite=overwrite)
    if path.is_dir():
        from napari_stbn._ome_zarr import is_zarr

        if not is_zarr(path):
            raise FileExistsError(
                f"{path} is a folder and not a Zarr, so it is not replaced; choose another name."
            )


def _writer(path: Path) -> Callable[[Path, Stack], None]:
    """Choose the function that writes the format of this ending."""
    ending = _ending(path)
    if ending == ".npy":
        return write_npy
    if ending == ".zarr":
        from napari_stbn._ome_zarr_writing import write_ome_zarr

        return lambda to, stack: write_ome_zarr(to, stack, name=_title(path))
    from napari_stbn._tiff import write_tiff

    ome = path.name.lower().endswith(_OME_TIFF)
    return lambda to, stack: write_tiff(to, stack, ome=ome)


def _ending(path: Path) -> str:
    """Last ending of the name in small letters: ``.tif`` of ``cells.ome.TIF``."""
    return path.suffix.lower()


def _title(path: Path) -> str:
    """Name of the file without its endings for formats."""
    name = path.name
    for ending in (*READABLE, ".ome"):
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
    return name
