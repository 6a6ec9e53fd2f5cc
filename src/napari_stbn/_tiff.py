"""TIFF in its dialects: OME-TIFF, ImageJ hyperstacks, BigTIFF and plain stacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tifffile

from napari_stbn._blocks import pages
from napari_stbn._described import described_stack
from napari_stbn._ome_xml import ome_metadata
from napari_stbn._raw_file import RawFile
from napari_stbn._scenes import SceneError
from napari_stbn._tiff_check import CutOffError, check_complete
from napari_stbn._tiff_image import find_image
from napari_stbn._tiff_pages import one_line
from napari_stbn._tiff_scale import imagej_metadata, imagej_resolution

if TYPE_CHECKING:
    from pathlib import Path

    from napari_stbn.stack import Stack

_CLASSIC_LIMIT: Final = 2**32 - 2**25  # bytes; what 32-bit offsets reach, with room for the tags
_IMAGEJ_TYPES: Final = ("uint8", "uint16", "int16", "float32")
_OME_TYPES: Final = (
    *("int8", "int16", "int32", "uint8", "uint16", "uint32"),
    *("float32", "float64", "complex64", "complex128"),
)


def read_tiff(path: Path, axes: str | None, name: str, scene: int | None = None) -> Stack:
    """Open a TIFF file as a lazy stack; see `napari_stbn.io.read`."""
    try:
        check_complete(path)
        found = find_image(path, scene)
    except (OSError, MemoryError, SceneError, CutOffError):
        raise
    except Exception as error:  # tifffile, struct, XML and decoders raise a type each
        raise ValueError(
            f"{path} cannot be read as TIFF: {one_line(error)}. Is it truncated or another "
            "format? Copy or export it again."
        ) from error
    return described_stack(
        found.array, axes, found.said, name=name, hint=found.hint, notes=found.notes
    )


def write_tiff(path: Path, stack: Stack, *, ome: bool) -> None:
    """Write a stack as an ImageJ hyperstack where that can hold it, else as OME-TIFF."""
    axes, options = _layout(stack, ome)
    tifffile.imwrite(path, pages(stack, axes), **options)


def create_tiff(path: Path, outline: Stack, *, ome: bool) -> tuple[RawFile, str]:
    """A file as `write_tiff` writes it, to be filled; its array, and the axes of that."""
    axes, options = _layout(outline, ome)
    tifffile.imwrite(path, None, **options)
    with tifffile.TiffFile(path) as tif:
        series = tif.series[0]
        if series.dataoffset is None:
            raise ValueError(f"the frames of {outline.title} do not lie together in a TIFF file")
        dtype = outline.dtype.newbyteorder(tif.byteorder)
        return RawFile(path, series.dataoffset, options["shape"], dtype), axes


def check_tiff_type(dtype: np.dtype[Any]) -> None:
    """Raise unless a TIFF file can hold numbers of this type."""
    if dtype.name not in _OME_TYPES:
        raise ValueError(
            f"TIFF cannot hold {dtype}; convert it first, for example to float32, or write .npy or "
            ".zarr."
        )


def _layout(stack: Stack, ome: bool) -> tuple[str, dict[str, Any]]:
    """Axes of a file, and what tifffile needs to know to write it."""
    imagej = not ome and stack.dtype.name in _IMAGEJ_TYPES and stack.nbytes < _CLASSIC_LIMIT
    if imagej and "S" in stack.axes:
        imagej = stack.dtype == np.uint8 and stack.size("S") in (3, 4)
    check_tiff_type(stack.dtype)
    leading = "TZC" if imagej else stack.axes
    axes = "".join(a for a in leading if a in stack.axes and a in "TZC")
    axes += "YXS" if "S" in stack.axes else "YX"
    shape = tuple(stack.size(axis) for axis in axes)
    described = imagej_metadata(stack) if imagej else ome_metadata(stack)
    return axes, {
        "shape": shape,
        "dtype": stack.dtype,
        "imagej": imagej,
        "ome": not imagej,
        "bigtiff": not imagej and stack.nbytes > _CLASSIC_LIMIT,
        "photometric": "rgb" if "S" in axes and shape[-1] in (3, 4) else "minisblack",
        "planarconfig": "contig" if "S" in axes else None,
        "resolution": imagej_resolution(stack) if imagej else None,
        "metadata": {"axes": axes, **described},
    }
