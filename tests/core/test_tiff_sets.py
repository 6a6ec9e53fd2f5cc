"""OME-TIFF in several files, with levels, or with a description that does not fit; cut-off TIFF."""

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
    """Array whose values differ."""
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(np.uint16)


def pixels(number: int, frames: int, data: str, **more: str) -> str:
    """An image of OME-XML with frames of 9 x 8."""
    scale = "".join(f' {key}="{value}"' for key, value in more.items())
    return (
        f'<Image ID="Image:{number}"><Pixels ID="Pixels:{number}" DimensionOrder="XYZCT" '
        f'Type="uint16" SizeX="8" SizeY="9" SizeZ="1" SizeC="1" SizeT="{frames}"{scale}>'
        f"{data}</Pixels></Image>"
    )


def write_pages(path: Path, movie: npt.NDArray[Any], images: str, uuid: str = "") -> Path:
    """A TIFF file with this OME-XML, whatever it says."""
    own = f' UUID="{uuid}"' if uuid else ""
    xml = f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{SCHEMA}"{own}>{images}</OME>'
    tifffile.imwrite(path, movie, description=xml.encode(), metadata=None, photometric="minisblack")
    return path


def positions(folder: Path, count: int = 3) -> list[Path]:
    """A set of one file per position, each with the description of all: 3 frames, own scale."""
    data = (
        '<TiffData IFD="0" PlaneCount="3"><UUID FileName="pos{0}.ome.tif">urn:uuid:{0}</UUID>'
        "</TiffData>"
    )
    images = "".join(
        pixels(n, 3, data.format(n), PhysicalSizeX=f"0.{n + 1}", PhysicalSizeY=f"0.{n + 1}")
        for n in range(count)
    )
    return [
        write_pages(
            folder / f"pos{n}.ome.tif", numbered((3, 9, 8)) + 1000 * n, images, f"urn:uuid:{n}"
        )
        for n in range(count)
    ]


def test_each_file_of_a_set_of_positions_is_its_own(tmp_path: Path) -> None:
    for n, path in enumerate(positions(tmp_path)):
        stack = read(path)
        np.testing.assert_array_equal(stack.movie(), numbered((3, 9, 8)) + 1000 * n)
        assert stack.pixel_size == pytest.approx({"Y": (n + 1) / 10, "X": (n + 1) / 10})
        assert f"whose pixels lie in this file was read (scene {n})" in stack.guess
        for other in range(3):  # pixels and scale go together, wherever they lie
            asked = read(path, scene=other)
            assert asked.guess == ""
            np.testing.assert_array_equal(asked.movie(), numbered((3, 9, 8)) + 1000 * other)
            assert asked.pixel_size["X"] == pytest.approx((other + 1) / 10)


def test_a_position_that_was_copied_alone_keeps_its_scale(tmp_path: Path) -> None:
    first, *_, last = positions(tmp_path)
    first.unlink()
    stack = read(last)
    np.testing.assert_array_equal(stack.movie(), numbered((3, 9, 8)) + 2000)
    assert stack.pixel_size["X"] == pytest.approx(0.3)


def test_another_file_of_a_set_that_is_cut_off_is_told(tmp_path: Path) -> None:
    first, other, _ = positions(tmp_path)
    other.write_bytes(other.read_bytes()[:-100])
    said = r"pos1\.ome\.tif, a file of the same set, is damaged: it ends"
    with pytest.raises(ValueError, match=said):
        read(first)


def test_what_tifffile_says_is_kept_from_the_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, *others = positions(tmp_path)
    others[0].unlink()
    with caplog.at_level(logging.WARNING):
        read(first).movie()
    assert not [record for record in caplog.records if record.name == "tifffile"]
    assert not logging.getLogger("tifffile").filters


def test_frames_in_files_that_are_not_there_are_told_by_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = "".join(
        f'<TiffData FirstT="{n}" IFD="0" PlaneCount="1"><UUID FileName="t{n}.ome.tif">urn:uuid:{n}'
        "</UUID></TiffData>"
        for n in range(4)
    )
    files = [
        write_pages(
            tmp_path / f"t{n}.ome.tif", numbered((9, 8)) + n, pixels(0, 4, data), f"urn:uuid:{n}"
        )
        for n in range(4)
    ]
    assert read(files[0]).guess == ""
    lazy = read(files[0])
    files[2].unlink()
    stack = read(files[0])
    assert "1 frame is missing" in stack.guess
    assert "t2.ome.tif is not in its folder" in stack.guess
    assert not stack.movie()[2].any()
    files[0].unlink()
    with pytest.raises(FileNotFoundError, match=r"t0\.ome\.tif is no longer there"):
        lazy.movie()
    assert capfd.readouterr().err == ""  # tifffile would tell the same at each access


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_pyramids_are_read_at_full_size(tmp_path: Path, compression: str | None) -> None:
    truth = numbered((4, 64, 64))
    options: dict[str, Any] = {"tile": (32, 32), "compression": compression}
    options["photometric"] = "minisblack"
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        tif.write(truth, subifds=1, metadata={"axes": "TYX"}, **options)
        tif.write(truth[:, ::2, ::2], subfiletype=1, **options)
    stack = read(tmp_path / "a.ome.tif")
    assert stack.guess == ""
    np.testing.assert_array_equal(stack.movie(), truth)
    np.testing.assert_array_equal(stack.movie(frames=slice(1, 3)), truth[1:3])


def test_each_image_of_a_file_in_pieces_can_be_read(tmp_path: Path) -> None:
    """tifffile finds wrong pages for the last image where all of its pixels lie together."""
    movies = [numbered((6, 32 // n, 32 // n)) for n in (1, 2, 4)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(movies[0], tile=(16, 16), photometric="minisblack", metadata={"axes": "TYX"})
        for movie in movies[1:]:
            tif.write(movie, photometric="minisblack", metadata={"axes": "TYX"})
    for number, movie in enumerate(movies):
        np.testing.assert_array_equal(read(tmp_path / "a.tif", scene=number).movie(), movie)


def test_a_compressed_file_that_is_gone_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbered((5, 32, 32)), compression="zlib", metadata={"axes": "TYX"})
    stack = read(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no longer there"):
        stack.movie()


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_frames_beyond_those_described_are_read(tmp_path: Path, compression: str | None) -> None:
    truth = numbered((6, 9, 8))
    xml = f'<OME xmlns="{SCHEMA}">{pixels(0, 2, "<TiffData/>", PhysicalSizeX="0.5")}</OME>'
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        truth,
        description=xml,
        metadata=None,
        photometric="minisblack",
        compression=compression,
    )
    stack = read(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(stack.movie(), truth)
    assert stack.axes == "TYX"
    assert stack.pixel_size == pytest.approx({"X": 0.5})
    assert stack.guess == "The file's description names 2 of its 6 frames; all of them were read."


def test_frames_whose_place_is_not_clear_are_left_out_and_told(tmp_path: Path) -> None:
    image = pixels(0, 2, "<TiffData/>").replace('SizeC="1"', 'SizeC="2"')
    stack = read(write_pages(tmp_path / "a.ome.tif", numbered((7, 9, 8)), image))
    assert stack.shape == (2, 2, 9, 8)
    assert "3 frames that its description does not name" in stack.guess


@pytest.mark.parametrize(
    "image",
    [
        "<Image><Pixels>",
        '<Image ID="&micro;"/>',
        pixels(0, 3, "<TiffData/>").replace('SizeT="3"', 'SizeT="three"'),
        pixels(0, 3, "<TiffData/>").replace('DimensionOrder="XYZCT"', ""),
    ],
)
def test_a_damaged_description_does_not_cost_the_pixels(
    tmp_path: Path, image: str, capfd: pytest.CaptureFixture[str]
) -> None:
    truth = numbered((3, 9, 8))
    stack = read(write_pages(tmp_path / "a.ome.tif", truth, image))
    np.testing.assert_array_equal(stack.movie(), truth)
    assert "OME description is damaged" in stack.guess
    assert capfd.readouterr().err == ""


def test_a_time_that_is_no_number_costs_the_interval_alone(tmp_path: Path) -> None:
    planes = '<TiffData/><Plane TheC="0" TheZ="0" TheT="x" DeltaT="soon"/>'
    stack = read(write_pages(tmp_path / "a.ome.tif", numbered((3, 9, 8)), pixels(0, 3, planes)))
    assert stack.frame_interval is None
    assert stack.guess == ""


def test_how_many_frames_of_a_cut_file_are_whole_is_said(tmp_path: Path) -> None:
    """As ImageJ writes large movies: one page, then all frames behind each other."""
    truth = numbered((12, 9, 8)).astype(">u2")
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        truth[0],
        byteorder=">",
        description="ImageJ=1.53t\nimages=12\nframes=12\nloop=false\n",
        metadata=None,
    )
    whole = path.read_bytes() + truth[1:].tobytes()
    path.write_bytes(whole)
    np.testing.assert_array_equal(read(path).movie(), truth)
    for lost, left in ((1, 11), (144, 11), (1500, 1)):
        path.write_bytes(whole[:-lost])
        with pytest.raises(ValueError, match=rf"is cut off: .* 12 frames and {left} of them are"):
            read(path)
    path.write_bytes(whole[: -11 * 144])  # one frame that kept the description of its movie
    assert read(path).shape == (9, 8)
