"""TIFF files opened without tifffile's words on the terminal, and pixels that lie in pieces."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

__all__ = ["TiffArray", "one_line", "opened"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TiffArray:
    """The image of a TIFF file that does not lie there in one piece, read where it is indexed.

    The file is opened for each access and closed again: no handle stays open, and the array can
    be sent to another process. `ome` as in `opened`.
    """

    path: Path
    series: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    ome: bool = True

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, index: Any, /) -> npt.NDArray[Any]:
        """Read a part, as numpy would index it with numbers and slices."""
        import zarr

        try:
            with (
                opened(self.path, ome=self.ome) as tif,
                tif.series[self.series].aszarr(level=0, chunkmode="page") as store,
            ):
                array = zarr.open_array(store, mode="r")
                return np.asarray(array[index])
        except Exception as error:  # decoders raise a type each
            gone = error.filename if isinstance(error, FileNotFoundError) else None
            if gone is None and self.path.exists():
                raise ValueError(
                    f"{self.path} cannot be decoded ({one_line(error)}); it may be damaged: copy "
                    "it again, or save it without compression."
                ) from error
            raise FileNotFoundError(
                f"{gone or self.path} is no longer there; was it moved, or its drive taken away? "
                "Bring it back and start again."
            ) from error

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Read everything."""
        return self[...].astype(dtype or self.dtype, copy=False)


@contextmanager
def opened(path: Path, *, ome: bool = True) -> Iterator[tifffile.TiffFile]:
    """A TIFF file.

    tifffile logs what it thinks of a file each time that it is opened; here that is for ``-v``.

    Parameters
    ----------
    path : Path
    ome : bool
        Without, its OME description is left aside and its pages are taken as they come.
    """
    logger, silence = logging.getLogger("tifffile"), _Silence()
    logger.addFilter(silence)
    try:
        with tifffile.TiffFile(path, is_ome=None if ome else False) as tif:
            yield tif
    finally:
        logger.removeFilter(silence)


class _Silence(logging.Filter):
    """Keeps back what is logged in this thread: other threads are other users of tifffile."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is let through."""
        if record.thread != self._thread:
            return True
        _logger.info("tifffile: %s", record.getMessage())
        return False


def pages_of(
    series: tifffile.TiffPageSeries,
) -> list[tifffile.TiffPage | tifffile.TiffFrame | None]:
    """Pages of an image, None for missing ones; the first where all pixels lie in one piece.

    There tifffile keeps no others, and finds wrong ones where further images follow.
    """
    together = series.dataoffset is not None and not series.is_multifile
    return [series[0]] if together else list(series)


def files_of(series: tifffile.TiffPageSeries) -> frozenset[Path]:
    """Real paths of the files that an image lies in: several of a set."""
    parents = {id(page.parent): page.parent for page in pages_of(series) if page is not None}
    return frozenset(Path(parent.filehandle.path).resolve() for parent in parents.values())


def one_line(error: BaseException) -> str:
    """Message of an error without line breaks and full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
