"""TIFF in its dialects: OME-TIFF, ImageJ hyperstacks, BigTIFF and plain stacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import tifffile

from napari_stbn._blocks import pages
from napari_stbn._raw_file import RawFile
from napari_stbn._scenes import SceneError, add_to_guess, scene_number, scenes_note
from napari_stbn._tiff_check import check_complete
from napari_stbn._tiff_scale import imagej_metadata, imagej_resolution, ome_metadata, scale_of
from napari_stbn._words import counted
from napari_stbn.stack import Stack

if TYPE_CHECKING:
    from pathlib import Path

_CLASSIC_LIMIT: Final = 2**32 - 2**25  # bytes; what 32-bit offsets reach, with room for the tags
_IMAGEJ_TYPES: Final = ("uint8", "uint16", "int16", "float32")
_OME_TYPES: Final = (
    *("int8", "int16", "int32", "uint8", "uint16", "uint32"),
    *("float32", "float64", "complex64", "complex128"),
)


@dataclass(frozen=True, eq=False)
class TiffArray:
    """The image of a TIFF file that does not lie there in one piece, read where it is indexed.

    The file is opened for each access and closed again: no handle stays open, and the array can
    be sent to another process.
    """

    path: Path
    series: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, index: Any, /) -> npt.NDArray[Any]:
        """Read a part, as numpy would index it with numbers and slices."""
        import zarr

        try:
            with (
                tifffile.TiffFile(self.path) as tif,
                tif.series[self.series].aszarr(chunkmode="page") as store,
            ):
                array = zarr.open_array(store, mode="r")
                return np.asarray(array[index])
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.path} is no longer there; was it moved, or its drive taken away? Bring it "
                "back and start again."
            ) from error
        except Exception as error:  # decoders raise a type each
            raise ValueError(
                f"{self.path} cannot be decoded ({_one_line(error)}); it may be damaged: copy it "
                "again, or save it without compression."
            ) from error

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Read everything."""
        return self[...].astype(dtype or self.dtype, copy=False)


def read_tiff(path: Path, axes: str | None, name: str, scene: int | None = None) -> Stack:
    """Open a TIFF file as a lazy stack; see `napari_stbn.io.read`."""
    try:
        check_complete(path)
        with tifffile.TiffFile(path) as tif:
            if not tif.series:
                raise ValueError("it holds no image")
            count = len(tif.series)
            largest = max(range(count), key=lambda n: int(tif.series[n].size))  # no thumbnail
            number = scene_number(path, scene, count, largest)
            series = tif.series[number]
            hint, shape, dtype = series.axes, series.shape, series.dtype
            scale = scale_of(tif, series, number)
            missing = sum(page is None for page in series.pages)
            offset, order = series.dataoffset, tif.byteorder
            if offset is not None and offset + series.nbytes > path.stat().st_size:
                raise ValueError("it ends before its pixels do")
    except (OSError, MemoryError, SceneError):
        raise
    except Exception as error:  # tifffile, struct, XML and decoders raise a type each
        raise ValueError(
            f"{path} cannot be read as TIFF: {_one_line(error)}. Is it truncated or another "
            "format? Copy or export it again."
        ) from error
    if dtype is None:
        raise ValueError(f"{path} holds no pixels; export it again from its source.")
    array: TiffArray | RawFile
    if offset is None:
        array = TiffArray(path, number, tuple(shape), dtype)
    else:
        array = RawFile(path, offset, tuple(shape), dtype.newbyteorder(order))
    stack = Stack(
        array,
        axes,
        pixel_size=scale.pixel_size,
        unit=scale.unit,
        frame_interval=scale.frame_interval,
        name=name,
        hint=hint,
    )
    are = "is" if missing == 1 else "are"
    lacks = f"{counted(missing, 'frame')} {are} not in the file: zeros stand there." * bool(missing)
    return add_to_guess(stack, scenes_note(scene, count, number, "largest"), lacks)


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


def _layout(stack: Stack, ome: bool) -> tuple[str, dict[str, Any]]:
    """Axes of a file, and what tifffile needs to know to write it."""
    imagej = not ome and stack.dtype.name in _IMAGEJ_TYPES and stack.nbytes < _CLASSIC_LIMIT
    if imagej and "S" in stack.axes:
        imagej = stack.dtype == np.uint8 and stack.size("S") in (3, 4)
    if not imagej and stack.dtype.name not in _OME_TYPES:
        raise ValueError(
            f"TIFF cannot hold {stack.dtype}; convert it first, for example to float32, or write "
            ".npy or .zarr."
        )
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


def _one_line(error: BaseException) -> str:
    """Message of an error without line breaks and full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
