"""TIFF files as microscopes and other programs leave them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from napari_stbn.io import read

SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def numbered(shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Values that all differ."""
    return np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)


def positions(folder: Path, frames: int = 4) -> list[npt.NDArray[Any]]:
    """A set of OME-TIFF files, a position in each, which all describe all positions."""
    images = ""
    for position in range(2):
        images += (
            f'<Image ID="Image:{position}"><Pixels ID="Pixels:{position}" DimensionOrder="XYZCT" '
            f'Type="uint16" SizeX="9" SizeY="8" SizeZ="1" SizeC="1" SizeT="{frames}" '
            f'PhysicalSizeX="{position + 1}" PhysicalSizeY="{position + 1}">'
        )
        for t in range(frames):
            images += (
                f'<TiffData FirstT="{t}" IFD="{t}" PlaneCount="1">'
                f'<UUID FileName="pos{position}.ome.tif">urn:uuid:{position}</UUID></TiffData>'
            )
        images += "</Pixels></Image>"
    movies = [numbered((frames, 8, 9)) + 1000 * position for position in range(2)]
    for position, movie in enumerate(movies):
        xml = f'<OME xmlns="{SCHEMA}" UUID="urn:uuid:{position}">{images}</OME>'
        path = folder / f"pos{position}.ome.tif"
        tifffile.imwrite(path, movie, description=xml, metadata=None, photometric="minisblack")
    return movies


@pytest.mark.parametrize("position", [0, 1])
def test_of_a_set_the_image_of_this_file_is_read(tmp_path: Path, position: int) -> None:
    movies = positions(tmp_path)
    stack = read(tmp_path / f"pos{position}.ome.tif")
    np.testing.assert_array_equal(stack.movie(), movies[position])
    assert stack.pixel_size == {"Y": position + 1, "X": position + 1}
    assert stack.guess == (
        "The file holds 2 images; the one whose pixels lie in this file was read "
        f"(scene {position})."
    )
    other = read(tmp_path / f"pos{position}.ome.tif", scene=1 - position)
    np.testing.assert_array_equal(other.movie(), movies[1 - position])
    assert other.pixel_size == {"Y": 2 - position, "X": 2 - position}
    assert other.guess == ""


def test_another_file_of_a_set_that_is_cut_off_is_told(tmp_path: Path) -> None:
    positions(tmp_path)
    other = tmp_path / "pos1.ome.tif"
    other.write_bytes(other.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=r"pos1\.ome\.tif, a file of the same set, is damaged: it ends"
    ):
        read(tmp_path / "pos0.ome.tif")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_pyramid_is_read_at_full_resolution(tmp_path: Path, compression: str | None) -> None:
    movie, path = numbered((3, 64, 64)), tmp_path / "pyramid.ome.tif"
    options: dict[str, Any] = {"tile": (32, 32), "compression": compression}
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(movie, subifds=1, metadata={"axes": "TYX"}, **options)
        tif.write(movie[:, ::2, ::2], subfiletype=1, **options)
    stack = read(path)
    np.testing.assert_array_equal(stack.movie(), movie)
    assert stack.guess == ""


def test_each_image_of_a_file_in_pieces_can_be_read(tmp_path: Path) -> None:
    """tifffile finds wrong pages for the last image where all of its pixels lie together."""
    movies = [numbered((6, 32 // n, 32 // n)) for n in (1, 2, 4)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(movies[0], tile=(16, 16), photometric="minisblack", metadata={"axes": "TYX"})
        for movie in movies[1:]:
            tif.write(movie, photometric="minisblack", metadata={"axes": "TYX"})
    for number, movie in enumerate(movies):
        np.testing.assert_array_equal(read(tmp_path / "a.tif", scene=number).movie(), movie)


def test_a_file_that_is_gone_is_not_called_damaged_nor_the_reverse(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbered((5, 32, 32)), compression="zlib", metadata={"axes": "TYX"})
    stack = read(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no longer there"):
        stack.movie()


@pytest.mark.parametrize(
    ("unit", "size"),
    [
        ("micrometers", 0.1),
        ("microns", 0.1),
        ("\\u03BCm", 0.1),
        ("\\u00b5m", 0.1),
        ("nm", 1e-4),
        ("inch", None),
        ("pixels", None),
    ],
)
def test_units_of_imagej(tmp_path: Path, unit: str, size: float | None) -> None:
    path = tmp_path / "a.tif"
    described = {"axes": "TYX", "unit": unit, "finterval": 2.0, "tunit": "frames"}
    tifffile.imwrite(
        path, numbered((4, 8, 9)), imagej=True, resolution=(10, 10), metadata=described
    )
    stack = read(path)
    assert stack.pixel_size == ({} if size is None else pytest.approx({"Y": size, "X": size}))
    assert stack.unit == "µm"
    assert stack.frame_interval is None  # "frames" are no time


def test_what_tifffile_says_is_kept_from_the_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    positions(tmp_path)
    (tmp_path / "pos1.ome.tif").unlink()
    with caplog.at_level(logging.WARNING):
        stack = read(tmp_path / "pos0.ome.tif")
        stack.movie()
    assert not [record for record in caplog.records if record.name == "tifffile"]
    assert not logging.getLogger("tifffile").filters
