"""What cannot be read or written is said in one sentence, and no file is left half done."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr

import napari_stbn._blocks
from napari_stbn.io import check_writable, read, write
from napari_stbn.stack import Stack

ENDINGS = (".tif", ".ome.tif", ".ome.zarr", ".npy")


def numbered(shape: tuple[int, ...], dtype: str = "uint16") -> npt.NDArray[Any]:
    """Array whose values differ as far as `dtype` allows."""
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)


def leftovers(folder: Path) -> list[str]:
    """Names in a folder, hidden ones too."""
    return sorted(os.listdir(folder))  # noqa: PTH208


def one_sentence(error: pytest.ExceptionInfo[Exception], path: Path) -> None:
    """A person reads what is wrong with which file, and no trace of a library."""
    said = str(error.value)
    assert str(path) in said
    assert "\n" not in said
    assert len(said) < 400 + len(str(path))


@pytest.mark.parametrize("ending", [".tif", ".npy", ".zarr", ".ome.tif"])
def test_missing(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"none{ending}"
    with pytest.raises(FileNotFoundError, match="does not exist") as error:
        read(path)
    one_sentence(error, path)


@pytest.mark.parametrize("ending", [".tif", ".npy", ".czi", ""])
def test_foreign(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"foreign{ending}"
    path.write_bytes(b"PK\x03\x04 not an image at all, but long enough to be one")
    with pytest.raises(
        ValueError, match=r"cannot be read|unknown ending|is not installed"
    ) as error:
        read(path)
    one_sentence(error, path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        read(path)


def test_folders_that_are_no_image(tmp_path: Path) -> None:
    for name, kind in (
        ("folder", IsADirectoryError),
        ("a.zarr", ValueError),
        ("a.tif", IsADirectoryError),
    ):
        (tmp_path / name).mkdir()
        with pytest.raises(kind, match=r"is a folder|no Zarr metadata") as error:
            read(tmp_path / name)
        one_sentence(error, tmp_path / name)
    zarr.create_group(tmp_path / "empty.zarr")
    with pytest.raises(ValueError, match="no multiscales metadata") as error:
        read(tmp_path / "empty.zarr")
    one_sentence(error, tmp_path / "empty.zarr")


WRITERS: dict[str, dict[str, Any]] = {
    "imagej": {"imagej": True},
    "shaped": {"metadata": {"axes": "TYX"}},
    "ome": {"ome": True, "metadata": {"axes": "TYX"}},
    "zlib": {"compression": "zlib"},
    "ome-zlib": {"ome": True, "compression": "zlib"},
    "pages": {"metadata": None},
    "pages-zlib": {"metadata": None, "compression": "zlib"},
    "big": {"bigtiff": True, "metadata": None},
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("part", [0.001, 0.05, 0.3, 0.6, 0.9, 0.999])
def test_truncated_tiff(tmp_path: Path, kind: str, part: float) -> None:
    path = tmp_path / "cut.tif"
    movie = np.random.default_rng(0).integers(0, 60000, (6, 40, 41)).astype(np.uint16)
    with tifffile.TiffWriter(
        path, **{k: v for k, v in WRITERS[kind].items() if k in ("imagej", "ome", "bigtiff")}
    ) as tif:
        options = {k: v for k, v in WRITERS[kind].items() if k in ("metadata", "compression")}
        if "pages" in kind:
            for frame in movie:
                tif.write(frame, **options, contiguous=False)
        else:
            tif.write(movie, **options)
    np.testing.assert_array_equal(read(path).array[...], movie)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ValueError, match=r"truncated|is empty") as error:
        read(path)
    one_sentence(error, path)


def test_damaged_compressed_pixels(tmp_path: Path) -> None:
    path = tmp_path / "bad.tif"
    tifffile.imwrite(path, numbered((4, 64, 64)), compression="zlib", photometric="minisblack")
    with tifffile.TiffFile(path) as tif:
        start, count = tif.pages[1].dataoffsets[0], tif.pages[1].databytecounts[0]
    content = bytearray(path.read_bytes())
    content[start : start + count] = b"\xff" * count
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be decoded") as error:
        read(path).movie()
    one_sentence(error, path)


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_truncated_npy_and_zarr(tmp_path: Path, part: float) -> None:
    npy = write(tmp_path / "a.npy", Stack(numbered((4, 9, 8)), "TYX"))
    folder = write(tmp_path / "a.zarr", Stack(numbered((4, 9, 8)), "TYX"))
    for file, path in (
        (npy, npy),
        (folder / "zarr.json", folder),
        (folder / "0/zarr.json", folder),
    ):
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * part)])
        with pytest.raises(ValueError, match="cannot be read") as error:
            read(path)
        one_sentence(error, path)
        file.write_bytes(content)
    np.testing.assert_array_equal(read(folder).movie(), numbered((4, 9, 8)))


def test_pickled_npy_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}, 1], object))
    with pytest.raises(ValueError, match="array of objects"):
        read(tmp_path / "a.npy")


def test_axes_override(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbered((6, 5, 9, 8)), metadata={"axes": "QQYX"})
    assert read(path).axes == "TZYX"
    assert read(path, axes="ZTYX").n_frames == 5
    with pytest.raises(ValueError, match="each of the 4 dimensions"):
        read(path, axes="TYX")


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_overwritten_unasked(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    first, second = Stack(numbered((4, 9, 8)), "TYX"), Stack(numbered((5, 8, 8)) + 7, "TYX")
    write(path, first)
    for refuse in (lambda: write(path, second), lambda: check_writable(path)):
        with pytest.raises(FileExistsError, match="exists; choose another name") as error:
            refuse()
        one_sentence(error, path)
    np.testing.assert_array_equal(read(path).array[...], first.array[...])
    write(path, second, overwrite=True)
    np.testing.assert_array_equal(read(path).array[...], second.array[...])
    assert leftovers(tmp_path) == [path.name]


class Failing:
    """A lazy array whose later frames cannot be read."""

    shape, dtype = (6, 9, 8), np.dtype("uint16")

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __getitem__(self, index: tuple[slice, ...], /) -> npt.NDArray[Any]:
        if index[0].stop > 3:
            raise self.error("the disk is gone")
        part: npt.NDArray[Any] = numbered(self.shape)[index]
        return part


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_failed_write_leaves_nothing_and_the_earlier_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, error: type[BaseException]
) -> None:
    monkeypatch.setattr(napari_stbn._blocks, "_BLOCK_BYTES", 9 * 8 * 2)
    monkeypatch.setattr("napari_stbn._ome_zarr_writing._CHUNK_BYTES", 9 * 8 * 2)
    path = tmp_path / f"out{ending}"
    broken = Stack(Failing(error), "TYX")
    with pytest.raises(error):
        write(path, broken)
    assert leftovers(tmp_path) == []
    earlier = Stack(numbered((4, 9, 8)), "TYX")
    write(path, earlier)
    with pytest.raises(error):
        write(path, broken, overwrite=True)
    assert leftovers(tmp_path) == [path.name]
    np.testing.assert_array_equal(read(path).array[...], earlier.array[...])


def test_a_folder_that_cannot_be_moved_in_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.zarr"
    write(path, Stack(numbered((4, 9, 8)), "TYX"))
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.name.startswith(".stbn-") and self.suffix == ".partial":
            raise PermissionError("not now")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        write(path, Stack(numbered((2, 9, 8)), "TYX"), overwrite=True)
    assert leftovers(tmp_path) == ["out.zarr"]
    assert read(path).n_frames == 4


def test_a_file_written_by_someone_else_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"

    class Slow:
        shape, dtype = (2, 8, 8), np.dtype("uint8")

        def __getitem__(self, index: Any, /) -> npt.NDArray[Any]:
            path.write_bytes(b"theirs")
            part: npt.NDArray[Any] = np.zeros((2, 8, 8), np.uint8)[index]
            return part

    with pytest.raises(FileExistsError):
        write(path, Stack(Slow(), "TYX"))
    assert path.read_bytes() == b"theirs"
    assert leftovers(tmp_path) == ["out.npy"]


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        ("out.png", ValueError, "unknown ending .png"),
        ("out", ValueError, "unknown ending"),
        ("no/out.tif", FileNotFoundError, "does not exist; make it first"),
    ],
)
def test_where_nothing_can_be_written(
    tmp_path: Path, name: str, kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        write(tmp_path / name, Stack(numbered((4, 9, 8)), "TYX"))
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", ["a.tif", "a.zarr"])
def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("years")
    with pytest.raises(FileExistsError, match="not a Zarr, so it is not replaced"):
        write(tmp_path / name, Stack(numbered((4, 9, 8)), "TYX"), overwrite=True)
    assert (tmp_path / name / "thesis.txt").read_text() == "years"


def test_what_a_format_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="TIFF cannot hold int64"):
        write(tmp_path / "a.tif", Stack(numbered((4, 9, 8), "int64"), "TYX"))
    with pytest.raises(ValueError, match="holds no pixels"):
        write(tmp_path / "a.tif", Stack(numbered((0, 9, 8)), "TYX"))
    with pytest.raises(ValueError, match="one channel axis"):
        write(tmp_path / "a.zarr", Stack(numbered((4, 2, 9, 8, 3)), "TCYXS"))
    assert leftovers(tmp_path) == []
    write(tmp_path / "a.npy", Stack(numbered((4, 9, 8), "int64"), "TYX"))


@pytest.mark.parametrize(
    ("name", "dtype", "axes", "said"),
    [
        ("a.tif", "float16", "TYX", "TIFF cannot hold float16"),
        ("a.ome.tif", ">i8", "TYX", "TIFF cannot hold"),
        ("a.zarr", "float32", "TCYXS", "one channel axis"),
    ],
)
def test_what_a_format_cannot_hold_is_known_before_the_pixels(
    tmp_path: Path, name: str, dtype: str, axes: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        check_writable(tmp_path / name, dtype=dtype, axes=axes)
    check_writable(tmp_path / "a.npy", dtype=dtype, axes=axes)
    check_writable(tmp_path / name, dtype="float32", axes="TCYX")
    check_writable(tmp_path / name)


def test_a_file_may_be_overwritten_by_what_was_made_from_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write(path, Stack(numbered((4, 9, 8)), "TYX"))
    stack = read(path)
    write(path, stack, overwrite=True)
    np.testing.assert_array_equal(read(path).array[...], numbered((4, 9, 8)))
