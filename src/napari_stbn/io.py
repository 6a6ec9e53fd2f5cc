"""Read and write movies: TIFF in its dialects, OME-Zarr and ``.npy``."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from napari_stbn._blocks import blocks
from napari_stbn.stack import Stack

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

__all__ = ["READABLE", "WRITABLE", "check_writable", "read", "write"]

_TIFF: Final = (".tif", ".tiff", ".btf", ".tf8")
READABLE: Final = (*_TIFF, ".npy", ".zarr")
"""Endings of files that `read` opens; a Zarr folder may have any name."""
WRITABLE: Final = READABLE
"""Endings of files that `write` makes."""
_OME_TIFF: Final = tuple(f".ome{ending}" for ending in _TIFF)


def read(path: str | os.PathLike[str], *, axes: str | None = None) -> Stack:
    """Open a movie.

    Parameters
    ----------
    path : path
        TIFF (OME-TIFF, ImageJ, BigTIFF, plain), ``.npy``, or an OME-Zarr folder (0.4 and 0.5);
        nd2, czi, lif and others where bioio and its plugin for them are installed.
    axes : str, optional
        Overrules the file: one letter out of T, C, Z, Y, X and S for each of its axes.

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
    ValueError
        The format is unknown, the file is truncated, damaged or foreign, or `axes` do not fit it.

    Notes
    -----
    The largest image of a TIFF file and the first image and level of an OME-Zarr are read.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the spelling and the folder.")
    ending, name = _ending(path), _title(path)
    if path.is_dir():
        from napari_stbn._ome_zarr import is_zarr, read_ome_zarr

        if ending != ".zarr" and not is_zarr(path):
            raise IsADirectoryError(
                f"{path} is a folder; give a file ({', '.join(READABLE)}) or an OME-Zarr folder."
            )
        return read_ome_zarr(path, axes, name)
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); copy it again from its source.")
    if ending in _TIFF:
        from napari_stbn._tiff import read_tiff

        return read_tiff(path, axes, name)
    if ending == ".npy":
        return _read_npy(path, axes, name)
    from napari_stbn._bioio import FOREIGN, read_bioio

    if ending in FOREIGN:
        return read_bioio(path, axes, path.stem)
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
        Replace what is there. The earlier file stays until the new one is complete.

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
    ValueError
        The ending is unknown, or the format cannot hold the data.

    Notes
    -----
    An ImageJ hyperstack has its axes in the order T, Z, C, Y, X; OME-TIFF keeps the order of
    T, C and Z, with Y, X and S at the end; OME-Zarr has T, C, Z, Y, X, and colour samples
    become channels. ``.npy`` keeps any order, but neither axes nor scale.
    """
    path = Path(path)
    check_writable(path, overwrite=overwrite)
    if 0 in stack.shape:
        raise ValueError(f"a stack of shape {stack.shape} holds no pixels; nothing was written.")
    writer = _writer(path)
    partial = path.with_name(f".stbn-{uuid.uuid4().hex}.partial")
    try:
        writer(partial, stack)
        if not overwrite:
            check_writable(path, overwrite=False)  # someone else may have written meanwhile
        _replace(partial, path)
    finally:
        _remove(partial)
    return path


def check_writable(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise what `write` would raise about this path, before any work is done.

    Parameters
    ----------
    path : path
        Where `write` shall write to.
    overwrite : bool
        Whether something there may be replaced.

    Raises
    ------
    FileExistsError, FileNotFoundError, ValueError
        As `write` does.
    """
    path = Path(path)
    ending = _ending(path)
    if ending not in WRITABLE:
        raise ValueError(
            f"{path} has the unknown ending {ending or 'of no kind'}; choose one of "
            f"{', '.join(WRITABLE)}."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist; make it first.")
    if not path.exists():
        return
    if not overwrite:
        raise FileExistsError(
            f"{path} exists; choose another name or pass --force / overwrite=True."
        )
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
        return _write_npy
    if ending == ".zarr":
        from napari_stbn._ome_zarr import write_ome_zarr

        return lambda partial, stack: write_ome_zarr(partial, stack, name=_title(path))
    from napari_stbn._tiff import write_tiff

    ome = path.name.lower().endswith(_OME_TIFF)
    return lambda partial, stack: write_tiff(partial, stack, ome=ome)


def _replace(partial: Path, path: Path) -> None:
    """Put the finished file or folder in the place of whatever is there."""
    if not path.is_dir() and not partial.is_dir():
        partial.replace(path)
        return
    # A folder cannot be replaced in one step: the earlier one steps aside and comes back on error.
    aside = partial.with_suffix(".earlier")
    if path.exists():
        path.replace(aside)
    try:
        partial.replace(path)
    except BaseException:
        if aside.exists():
            aside.replace(path)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    """Remove a file or folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read_npy(path: Path, axes: str | None, name: str) -> Stack:
    """Map a ``.npy`` file into memory."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, MemoryError):
        raise
    except Exception as error:  # numpy parses the header as Python and lets its errors through
        raise ValueError(
            f"{path} cannot be read as .npy: {' '.join(str(error).split()).rstrip('.')}. Is it "
            "truncated, another format, or an array of objects? Save it again with numpy.save."
        ) from error
    return Stack(array, axes, name=name)


def _write_npy(path: Path, stack: Stack) -> None:
    """Write the bare array, block by block."""
    header = {
        "descr": np.lib.format.dtype_to_descr(stack.dtype),
        "fortran_order": False,
        "shape": stack.shape,
    }
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _, block in blocks(stack, stack.axes):
            file.write(block.data)


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
