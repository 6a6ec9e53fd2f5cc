"""What a file says of its pixels beside their values: units, channel names, chunks that lack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr

from napari_stbn._units import micrometres, seconds
from napari_stbn.io import read, stream_to, write
from napari_stbn.stack import Stack

NAMES = ("GFP", "mCherry \N{GREEK SMALL LETTER ALPHA}")


def numbered(shape: tuple[int, ...], dtype: str = "uint16") -> npt.NDArray[Any]:
    """Array whose values differ as far as `dtype` allows."""
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        *((unit, 1.0) for unit in ("micrometers", "Microns", "\\u03BCm", "\\u00B5m", " um ")),
        *(("inches", 25400.0), ("nanometres", 1e-3), ("mm", 1e3), ("meters", 1e6)),
        *(("ms", None), ("furlongs", None), ("pixels", None), ("um^2", None), ("s", None)),
    ],
)
def test_units_of_length(unit: str, expected: float | None) -> None:
    assert micrometres(unit) == expected


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("sec.", 1.0), ("Hours", 3600.0), ("ms", 1e-3), ("msecs", 1e-3), ("frame", None), ("", None)],
)
def test_units_of_time(unit: str, expected: float | None) -> None:
    assert seconds(unit) == expected


@pytest.mark.parametrize(
    ("unit", "size"),
    [
        *((unit, 0.1) for unit in ("micrometers", "microns", "\\u03BCm", "\\u00b5m")),
        *(("nm", 1e-4), ("inch", None), ("pixels", None)),
    ],
)
def test_units_of_imagej(tmp_path: Path, unit: str, size: float | None) -> None:
    options: dict[str, Any] = {"axes": "TYX", "unit": unit, "finterval": 2.0, "tunit": "frames"}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbered((4, 8, 9)), imagej=True, resolution=(10, 10), metadata=options)
    stack = read(path)
    assert stack.pixel_size == ({} if size is None else pytest.approx({"Y": size, "X": size}))
    assert stack.unit == "µm"
    assert stack.frame_interval is None  # "frames" are no time


def test_a_time_in_an_unknown_unit_is_not_taken_for_seconds(tmp_path: Path) -> None:
    movie = numbered((4, 9, 8))
    options: dict[str, Any] = {"axes": "TYX", "finterval": 2.0, "tunit": "frame"}
    tifffile.imwrite(tmp_path / "ij.tif", movie, imagej=True, metadata=options)
    options = {"axes": "TYX", "TimeIncrement": 2.0, "TimeIncrementUnit": "reference frame"}
    tifffile.imwrite(tmp_path / "a.ome.tif", movie, metadata=options)
    path = write(tmp_path / "a.zarr", Stack(movie, "TYX", frame_interval=2.0))
    described = json.loads((path / "zarr.json").read_text())
    described["attributes"]["ome"]["multiscales"][0]["axes"][0]["unit"] = "fortnight"
    (path / "zarr.json").write_text(json.dumps(described))
    for name, unit in (("ij.tif", "frame"), ("a.ome.tif", "reference frame"), ("a.zarr", "fortn")):
        stack = read(tmp_path / name)
        assert stack.frame_interval is None
        assert f'unit "{unit}' in stack.guess


@pytest.mark.parametrize("axes", ["CTYX", "TYX", "TCZYX"])
@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "a.zarr"])
def test_channel_names_are_kept(tmp_path: Path, name: str, axes: str) -> None:
    lengths = {"T": 4, "C": 2, "Z": 3, "Y": 9, "X": 8}
    movie = numbered(tuple(lengths[axis] for axis in axes))
    stack = Stack(movie, axes, channel_names=NAMES[: lengths["C"] if "C" in axes else 1])
    back = read(write(tmp_path / name, stack))
    assert back.channel_names == stack.channel_names
    assert back.like(np.zeros(back.shape)).channel_names == stack.channel_names
    with stream_to(tmp_path / f"by pieces {name}", stack) as put:
        for channel, plane in stack.indices():
            put(channel, plane, 0, stack.movie(channel, plane))
    pieces = read(tmp_path / f"by pieces {name}")
    assert pieces.channel_names == stack.channel_names
    np.testing.assert_array_equal(pieces.movie(), stack.movie())


def test_labels_of_single_planes_are_no_names_of_channels(tmp_path: Path) -> None:
    movie = numbered((4, 2, 9, 8))
    for labels in ([f"plane {n}" for n in range(8)], ["GFP", "RFP", "GFP", "RFP, late"] * 2, ["a"]):
        options: dict[str, Any] = {"axes": "TCYX", "Labels": labels}
        tifffile.imwrite(tmp_path / "a.tif", movie, imagej=True, metadata=options)
        assert read(tmp_path / "a.tif").channel_names == ()


def test_zarr_names_channels_as_the_specification_asks(tmp_path: Path) -> None:
    movie = numbered((4, 2, 9, 8), "float32")
    movie[0, 1, 0, 0] = np.nan
    path = write(tmp_path / "a.zarr", Stack(movie, "TCYX", channel_names=NAMES))
    channels = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]["omero"][
        "channels"
    ]
    assert [channel["label"] for channel in channels] == list(NAMES)
    for number, channel in enumerate(channels):
        assert len(channel["color"]) == 6
        low, high = np.nanmin(movie[:, number]), np.nanmax(movie[:, number])
        assert channel["window"] == {"min": low, "max": high, "start": low, "end": high}


def test_names_that_do_not_fit_the_channels(tmp_path: Path) -> None:
    stack = Stack(numbered((4, 2, 9, 8)), "TCYX", channel_names=NAMES)
    with pytest.raises(ValueError, match="channel_names must be 2, one for each channel, got 1"):
        Stack(stack.array, "TCYX", channel_names=NAMES[:1])
    assert stack.like(numbered((4, 3, 9, 8))).channel_names == ()
    path = write(tmp_path / "a.ome.tif", stack)
    assert read(path, axes="TZYX").channel_names == ()  # set by hand: there are no channels
    group = zarr.open_group(write(tmp_path / "a.zarr", stack), mode="a")
    ome: Any = group.attrs["ome"]
    wrong: tuple[Any, ...] = (
        {"channels": "GFP"},
        {"channels": [1, {"label": 2}]},
        "nonsense",
        None,
    )
    for omero in wrong:
        group.attrs["ome"] = {**ome, "omero": omero}
        assert read(tmp_path / "a.zarr").channel_names == ()


def test_chunks_that_are_not_there_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_stbn._ome_zarr_writing._CHUNK_SIDE", 8)
    monkeypatch.setattr("napari_stbn._ome_zarr_writing._CHUNK_BYTES", 2 * 8 * 8 * 2)
    movie = numbered((5, 16, 8))
    movie[2:4] = 0  # chunks of nothing but zeros are there as well
    path = write(tmp_path / "a.zarr", Stack(movie, "TYX"))
    assert read(path).guess == ""
    (path / "0/c/1/0/0").unlink()
    assert read(path).guess.startswith("Pixels of 2 frames (none whole) are not in the folder")
    (path / "0/c/2/0/0").unlink()
    (path / "0/c/2/1/0").unlink()
    assert read(path).guess.startswith("Pixels of 3 frames (1 whole) are not in the folder")
    plain = zarr.create_array(tmp_path / "p.zarr", shape=(4, 8, 8), chunks=(1, 8, 8), dtype="u1")
    plain[:3] = 1
    assert "Pixels of 1 frame (whole) are not in the folder" in read(tmp_path / "p.zarr").guess
