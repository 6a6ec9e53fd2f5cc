"""Files: what is written, here or by others, is read back with its axes and its scale."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import napari_stbn._blocks
import napari_stbn._tiff
from napari_stbn.io import read, write
from napari_stbn.stack import Stack, inspect_movie

ENDINGS = (".tif", ".ome.tif", ".ome.zarr", ".npy")
DTYPES = ("uint8", "uint16", "int16", "float32", "float64")


def numbered(shape: tuple[int, ...], dtype: str = "uint16") -> npt.NDArray[Any]:
    """Array whose values differ as far as `dtype` allows."""
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)


def reordered(stack: Stack, axes: str) -> npt.NDArray[Any]:
    """All of a stack with its axes in another order."""
    return np.asarray(stack.array[...]).transpose([stack.axes.index(axis) for axis in axes])


def leftovers(folder: Path) -> list[str]:
    """Names in a folder, hidden ones too."""
    return sorted(os.listdir(folder))  # noqa: PTH208


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axes", ["TYX", "TZYX", "TCYX", "CTZYX", "TZCYX", "YTX"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_roundtrip(tmp_path: Path, ending: str, axes: str, dtype: str) -> None:
    lengths = {"T": 5, "C": 2, "Z": 6, "Y": 9, "X": 8}
    stack = Stack(
        numbered(tuple(lengths[axis] for axis in axes), dtype).astype(
            np.dtype(dtype).newbyteorder(">")
        ),
        axes,
        pixel_size={"Z": 0.3, "Y": 0.11, "X": 0.1},
        frame_interval=2.5,
        name="cells",
    )
    path = tmp_path / f"out{ending}"
    assert write(path, stack) == path
    assert leftovers(tmp_path) == [path.name]
    back = read(path, axes=axes if ending == ".npy" else None)
    assert set(back.axes) == set(axes)
    assert back.guess == ""
    assert back.name == "out"
    assert back.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(reordered(back, axes), stack.array[...])
    if ending != ".npy":  # which holds nothing but the array
        assert back.pixel_size == pytest.approx(stack.pixel_size)
        assert back.unit == "µm"
        assert back.frame_interval == pytest.approx(2.5)


@settings(deadline=None, max_examples=40)
@given(
    axes=st.sets(st.sampled_from("CZ")).flatmap(
        lambda s: st.permutations(["T", "Y", "X", *sorted(s)])
    ),
    size=st.floats(1e-3, 50),
    interval=st.floats(1e-4, 1e5),
    ending=st.sampled_from(ENDINGS[:3]),
    limit=st.sampled_from([1, 500, 2**27]),
    data=st.data(),
)
def test_any_order_in_small_blocks(
    tmp_path_factory: pytest.TempPathFactory,
    axes: list[str],
    size: float,
    interval: float,
    ending: str,
    limit: int,
    data: st.DataObject,
) -> None:
    # At least 2 along each axis: TIFF leaves out axes of length 1.
    shape = tuple(data.draw(st.integers(2, 7)) for _ in axes)
    stack = Stack(
        numbered(shape), "".join(axes), pixel_size=(2 * size, size, size), frame_interval=interval
    )
    path = tmp_path_factory.mktemp("any") / f"out{ending}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(napari_stbn._blocks, "_BLOCK_BYTES", limit)
        write(path, stack)
    back = read(path)
    np.testing.assert_array_equal(reordered(back, stack.axes), stack.array[...], strict=True)
    assert back.pixel_size == pytest.approx(stack.pixel_size, rel=1e-6)
    assert back.frame_interval == pytest.approx(interval, rel=1e-6)


def test_zarr_chunks_are_never_split_between_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(napari_stbn._blocks, "_BLOCK_BYTES", 2000)
    monkeypatch.setattr("napari_stbn._ome_zarr_writing._CHUNK_BYTES", 4 * 8 * 8 * 2)
    stack = Stack(numbered((11, 3, 8, 8)), "TCYX")
    starts = [
        where[0].start
        for where, _ in napari_stbn._blocks.blocks(stack, "TCYX", whole=2, multiples={"T": 4})
    ]
    assert set(starts) == {0, 4, 8}
    back = read(write(tmp_path / "a.zarr", stack))
    assert back.array.chunks == (4, 1, 8, 8)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(back.array[...], stack.array[...])


@pytest.mark.parametrize(
    ("ending", "axes"), [(".tif", "TYXS"), (".ome.tif", "TYXS"), (".zarr", "TCYX")]
)
def test_colours(tmp_path: Path, ending: str, axes: str) -> None:
    stack = Stack(numbered((4, 16, 17, 3), "uint8"), "TYXS")
    back = read(write(tmp_path / f"rgb{ending}", stack))
    assert back.axes == axes
    for channel in range(3):
        np.testing.assert_array_equal(back.movie(channel), stack.movie(channel))


def test_lazy_input_is_written_without_loading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(napari_stbn._blocks, "_BLOCK_BYTES", 2000)
    truth = numbered((6, 2, 9, 8))
    largest = 0

    class Lazy:
        shape, dtype = truth.shape, truth.dtype

        def __getitem__(self, index: Any, /) -> npt.NDArray[Any]:
            nonlocal largest
            part: npt.NDArray[Any] = truth[index]
            largest = max(largest, part.nbytes)
            return part

    for ending in (".tif", ".ome.tif", ".npy"):
        path = write(tmp_path / f"lazy{ending}", Stack(Lazy(), "TCYX"))
        np.testing.assert_array_equal(read(path, axes="TCYX").array[...], truth)
    assert 0 < largest <= 2000


def test_tiff_is_read_in_parts(tmp_path: Path) -> None:
    truth = numbered((6, 64, 64))
    tifffile.imwrite(tmp_path / "plain.tif", truth, imagej=True, metadata={"axes": "TYX"})
    plain = read(tmp_path / "plain.tif")
    assert not isinstance(plain.array, np.ndarray)  # a mapped file that is cut off kills
    np.testing.assert_array_equal(plain.movie(frames=slice(2, 5)), truth[2:5], strict=True)
    np.testing.assert_array_equal(plain.movie(), truth, strict=True)
    tifffile.imwrite(tmp_path / "zip.tif", truth, compression="zlib", metadata={"axes": "TYX"})
    packed = read(tmp_path / "zip.tif")
    assert not isinstance(packed.array, np.ndarray)
    np.testing.assert_array_equal(packed.movie(frames=slice(2, 5)), truth[2:5], strict=True)
    np.testing.assert_array_equal(np.asarray(packed.array), truth, strict=True)
    again = pickle.loads(pickle.dumps(packed))  # noqa: S301 - a cluster sends it so
    np.testing.assert_array_equal(again.movie(), truth)


def test_imagej_is_what_fiji_writes(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "fiji.tif",
        numbered((5, 8, 8)),
        imagej=True,
        resolution=(10, 10),
        metadata={"axes": "TYX", "unit": "\\u00B5m", "finterval": 250.0, "tunit": "ms"},
    )
    stack = read(tmp_path / "fiji.tif")
    assert stack.pixel_size == pytest.approx({"Y": 0.1, "X": 0.1})
    assert stack.frame_interval == pytest.approx(0.25)
    tifffile.imwrite(
        tmp_path / "nm.tif",
        numbered((5, 8, 8)),
        imagej=True,
        resolution=(0.01, 0.02),
        metadata={"axes": "ZYX", "unit": "nm", "spacing": 300.0, "fps": 4.0},
    )
    stack = read(tmp_path / "nm.tif")
    assert stack.axes == "TYX"
    assert "Z was taken for time" in stack.guess
    assert stack.pixel_size == pytest.approx({"Y": 0.05, "X": 0.1})
    assert stack.frame_interval == pytest.approx(0.25)
    stack = read(tmp_path / "nm.tif", axes="ZYX")
    assert stack.pixel_size == pytest.approx({"Z": 0.3, "Y": 0.05, "X": 0.1})
    assert stack.guess == ""


def test_uncalibrated_imagej_has_no_pixel_size(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        numbered((5, 8, 8)),
        imagej=True,
        metadata={"axes": "TYX", "unit": "pixel"},
    )
    stack = read(tmp_path / "a.tif")
    assert stack.pixel_size == {}
    assert stack.frame_interval is None


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(65, "nm", 0.065), (0.065, "µm", 0.065), (6.5e-5, "mm", 0.065), (2.0, "pixel", 2.0)],
)
def test_ome_units(tmp_path: Path, value: float, unit: str, expected: float) -> None:
    metadata = {
        "axes": "TYX",
        **{f"PhysicalSize{axis}": value for axis in "XY"},
        **{f"PhysicalSize{axis}Unit": unit for axis in "XY"},
        "TimeIncrement": 500.0,
        "TimeIncrementUnit": "ms",
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", numbered((5, 8, 8)), metadata=metadata)
    stack = read(tmp_path / "a.ome.tif")
    assert stack.pixel_size == pytest.approx({"Y": expected, "X": expected})
    assert stack.unit == ("pixel" if unit == "pixel" else "µm")
    assert stack.frame_interval == pytest.approx(0.5)
    back = read(write(tmp_path / "b.ome.tif", stack))
    assert back.pixel_size == pytest.approx(stack.pixel_size)
    assert back.unit == stack.unit


def test_ome_frame_interval_from_the_times_of_the_planes(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        numbered((4, 8, 8)),
        metadata={
            "axes": "TYX",
            "Plane": {"DeltaT": [0.0, 2.0, 4.1, 6.0], "DeltaTUnit": ["s"] * 4},
        },
    )
    assert read(tmp_path / "a.ome.tif").frame_interval == pytest.approx(2.0)


def test_big_endian_bigtiff_and_centimetres(tmp_path: Path) -> None:
    truth = numbered((5, 16, 17))
    kinds: dict[str, dict[str, Any]] = {
        "big.tif": {"bigtiff": True, "byteorder": ">"},
        "cm.tif": {"resolution": (1e5, 1e5), "resolutionunit": "CENTIMETER"},
    }
    for name, options in kinds.items():
        tifffile.imwrite(tmp_path / name, truth, metadata={"axes": "TYX"}, **options)
        np.testing.assert_array_equal(read(tmp_path / name).movie(), truth, strict=True)
    assert read(tmp_path / "cm.tif").pixel_size == pytest.approx({"Y": 0.1, "X": 0.1})
    assert read(tmp_path / "big.tif").pixel_size == {}


def test_dialect_follows_name_type_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Stack(numbered((5, 16, 17)), "TYX")

    def dialect(name: str, stack: Stack) -> tuple[bool, bool, bool]:
        with tifffile.TiffFile(write(tmp_path / name, stack)) as tif:
            return tif.is_imagej, tif.is_ome, tif.is_bigtiff

    assert dialect("a.tif", small) == (True, False, False)
    assert dialect("a.ome.tif", small) == (False, True, False)
    assert dialect("b.tif", small.like(numbered((5, 16, 17), "float64"))) == (False, True, False)
    monkeypatch.setattr(napari_stbn._tiff, "_CLASSIC_LIMIT", 1000)  # stands for 4 GB
    assert dialect("c.tif", small) == (False, True, True)
    assert dialect("c.ome.tif", small) == (False, True, True)
    np.testing.assert_array_equal(read(tmp_path / "c.tif").array[...], small.array[...])


def test_the_largest_image_of_a_file_is_read(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "two.tif") as tif:
        tif.write(numbered((8, 8)), metadata={"axes": "YX"})
        tif.write(numbered((5, 16, 17)), metadata={"axes": "TYX"})
    stack = read(tmp_path / "two.tif")
    np.testing.assert_array_equal(stack.movie(), numbered((5, 16, 17)))
    assert "2 images; the largest was read" in stack.guess


def test_frames_that_an_interrupted_acquisition_lacks_are_said(tmp_path: Path) -> None:
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="8" SizeY="9" SizeZ="1" '
        'SizeC="1" SizeT="4">'
        '<TiffData FirstT="0" IFD="0" PlaneCount="1"/><TiffData FirstT="1" IFD="1" PlaneCount="1"/>'
        "</Pixels></Image></OME>"
    )
    truth = numbered((2, 9, 8)) + 1
    tifffile.imwrite(
        tmp_path / "a.ome.tif", truth, description=xml, metadata=None, photometric="minisblack"
    )
    stack = read(tmp_path / "a.ome.tif")
    assert stack.guess == "2 frames are missing from the file and read as zeros."
    np.testing.assert_array_equal(stack.movie()[:2], truth)
    assert inspect_movie(stack.movie()).constant_frames == (2, 3)


def zarr_04(path: Path, unit: str | None, scale: list[float]) -> npt.NDArray[Any]:
    """Write an OME-Zarr 0.4 as other programs do."""
    truth = numbered((4, 1, 3, 9, 8))
    group = zarr.create_group(path, zarr_format=2)
    group.create_array("big", shape=truth.shape, dtype="uint16", chunks=(1, 1, 1, 9, 8))[...] = (
        truth
    )
    space: dict[str, Any] = {"type": "space"} | ({"unit": unit} if unit else {})
    group.attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": [
                {"name": "t", "type": "time", "unit": "millisecond"},
                {"name": "c", "type": "channel"},
                *({"name": name, **space} for name in "zyx"),
            ],
            "datasets": [
                {"path": "big", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
            ],
            "coordinateTransformations": [{"type": "scale", "scale": [500.0, 1, 1, 1, 1]}],
        }
    ]
    return truth


@pytest.mark.parametrize(
    ("unit", "factor"), [("nanometer", 1e3), ("micrometer", 1.0), (None, 1.0), ("meter", 1e-6)]
)
def test_ome_zarr_04_of_others(tmp_path: Path, unit: str | None, factor: float) -> None:
    truth = zarr_04(tmp_path / "a.zarr", unit, [1, 1, 0.3 * factor, 0.2 * factor, 0.1 * factor])
    stack = read(tmp_path / "a.zarr")
    assert stack.axes == "TCZYX"
    assert stack.guess == ""
    assert stack.pixel_size == pytest.approx({"Z": 0.3, "Y": 0.2, "X": 0.1})
    assert stack.frame_interval == pytest.approx(0.5)
    np.testing.assert_array_equal(stack.movie(0, 2), truth[:, 0, 2])


def test_ome_zarr_05_says_what_the_specification_asks(tmp_path: Path) -> None:
    stack = Stack(numbered((2, 4, 9, 8)), "CTYX", pixel_size=0.1, frame_interval=3.0, name="cells")
    path = write(tmp_path / "a.ome.zarr", stack)
    ome = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (image,) = ome["multiscales"]
    assert image["axes"] == [
        {"name": "t", "type": "time", "unit": "second"},
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space", "unit": "micrometer"},
    ]
    (level,) = image["datasets"]
    assert level["coordinateTransformations"] == [{"type": "scale", "scale": [3.0, 1.0, 0.1, 0.1]}]
    inner = json.loads((path / level["path"] / "zarr.json").read_text())
    assert inner["dimension_names"] == ["t", "c", "y", "x"]


def test_unknown_scale_stays_unknown_in_zarr(tmp_path: Path) -> None:
    back = read(write(tmp_path / "a.zarr", Stack(numbered((4, 9, 8)), "TYX")))
    assert back.pixel_size == {}
    assert back.frame_interval is None
    other = Stack(numbered((4, 9, 8)), "TYX", pixel_size=2.0, unit="pixel")
    back = read(write(tmp_path / "b.zarr", other))
    assert (back.pixel_size, back.unit) == ({"Y": 2.0, "X": 2.0}, "pixel")


def test_plain_zarr_arrays_and_collections(tmp_path: Path) -> None:
    truth = numbered((4, 9, 8))
    named = zarr.create_array(
        tmp_path / "named", shape=truth.shape, dtype="uint16", dimension_names=["x", "time", "y"]
    )
    named[...] = truth
    stack = read(tmp_path / "named")
    assert (stack.axes, stack.guess) == ("XTY", "")
    zarr.create_array(tmp_path / "bare.zarr", shape=truth.shape, dtype="uint16")[...] = truth
    assert read(tmp_path / "bare.zarr").axes == "TYX"
    zarr.create_group(tmp_path / "series.zarr", zarr_format=2)
    zarr_04(tmp_path / "series.zarr" / "0", None, [1.0] * 5)
    assert read(tmp_path / "series.zarr").axes == "TCZYX"


def test_real_files(shared_data: Path) -> None:
    for file in sorted((shared_data / "movies").glob("*.tif")):
        stack = read(file)
        assert stack.axes == file.stem.rsplit("_", 1)[1].upper(), file.name
        with tifffile.TiffFile(file) as tif:
            assert bool(stack.guess) == (stack.axes != tif.series[0].axes)
        last = stack.indices()[-1]
        movie = stack.movie(*last, frames=slice(0, 3))
        whole = reordered(
            stack.like(tifffile.imread(file)),
            "".join(axis for axis in "CZTYX" if axis in stack.axes),
        )
        np.testing.assert_array_equal(movie, whole.reshape(-1, *whole.shape[-3:])[-1][:3])


def test_any_image_of_a_file_can_be_asked_for(tmp_path: Path) -> None:
    """Positions of a stage: TIFF series, an OME-Zarr collection, the fields of a plate."""
    positions = [numbered((3, 16, 17)) + 100 * n for n in range(3)]
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as tif:
        for position in positions:
            tif.write(position, metadata={"axes": "TYX"})
    for n, position in enumerate(positions):  # as bioformats2raw lays them out, and as a plate
        for place in (f"all.zarr/{n}", f"plate.zarr/A/1/{n}"):
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            write(tmp_path / "image.zarr", Stack(position, "TYX", pixel_size=0.5), overwrite=True)
            (tmp_path / "image.zarr").rename(tmp_path / place)
    groups: dict[str, Any] = {
        "all.zarr": {"bioformats2raw.layout": 3},
        "plate.zarr": {"ome": {"plate": {"wells": [{"path": "A/1"}]}}},
        "plate.zarr/A/1": {"ome": {"well": {"images": [{"path": str(n)} for n in range(3)]}}},
    }
    for name, attributes in groups.items():
        zarr.open_group(tmp_path / name, mode="a").attrs.update(attributes)
    for name in ("two.ome.tif", "all.zarr", "plate.zarr"):
        for n, position in enumerate(positions):
            np.testing.assert_array_equal(read(tmp_path / name, scene=n).movie(), position)
        assert "3 images" in read(tmp_path / name).guess
        for wrong in (3, -1):
            with pytest.raises(ValueError, match=rf"3 images, .* no scene {wrong}"):
                read(tmp_path / name, scene=wrong)
    np.save(tmp_path / "one.npy", positions[0])
    with pytest.raises(ValueError, match=r"holds one image; there is no scene 1"):
        read(tmp_path / "one.npy", axes="TYX", scene=1)
