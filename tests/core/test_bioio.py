"""Files of microscope makers: read through bioio with axes and scale, or one sentence without."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_stbn import Stack, read, write
from napari_stbn._batch_inputs import find_movies
from napari_stbn._bioio import FOREIGN, read_bioio

DATA = np.arange(6 * 2 * 1 * 9 * 8, dtype=np.uint16).reshape(6, 2, 1, 9, 8)


class FakeImage:
    """What bioio shows of a file: always five axes, lazy, with a scale."""

    def __init__(self, _path: Path) -> None:
        self.dims = SimpleNamespace(order="TCZYX")
        self.dask_data: Any = DATA
        self.physical_pixel_sizes = SimpleNamespace(Z=None, Y=0.2, X=0.3)
        self.time_interval: Any = timedelta(seconds=2.5)
        self.scenes = ("pos 1", "pos 2")


def install(monkeypatch: pytest.MonkeyPatch, image: Any) -> None:
    """Put a made-up bioio in the place of whatever is installed."""
    module: Any = ModuleType("bioio")
    module.BioImage = image
    monkeypatch.setitem(sys.modules, "bioio", module)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cells.nd2"
    path.write_bytes(b"whatever")
    return path


def test_axes_and_scale_are_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeImage)
    stack = read(file)
    assert (stack.axes, stack.shape, stack.name) == ("TCYX", (6, 2, 9, 8), "cells")
    assert stack.pixel_size == {"Y": 0.2, "X": 0.3}
    assert stack.frame_interval == 2.5
    assert "2 images; the first was read (scene 0)" in stack.guess
    np.testing.assert_array_equal(stack.movie(1), DATA[:, 1, 0])
    assert read(file, axes="TZYX").n_planes == 2


@pytest.mark.parametrize(("interval", "expected"), [(None, None), (0.0, None), (4, 4.0)])
def test_an_interval_in_seconds_or_none(
    file: Path, monkeypatch: pytest.MonkeyPatch, interval: Any, expected: float | None
) -> None:
    class Other(FakeImage):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.time_interval = interval

    install(monkeypatch, Other)
    assert read(file).frame_interval == expected


@pytest.mark.parametrize(("ending", "plugin"), FOREIGN.items())
def test_without_bioio_the_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, plugin: str
) -> None:
    monkeypatch.setitem(sys.modules, "bioio", None)
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"whatever")
    with pytest.raises(ValueError, match=rf"pip install 'napari-stbn\[formats\]' {plugin}"):
        read(path)


def test_a_file_that_bioio_refuses_is_said(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> Any:
        raise RuntimeError("no plugin\nfor this file")

    install(monkeypatch, refuse)
    with pytest.raises(ValueError, match=r"cannot be read by bioio: no plugin for this file\. Is"):
        read(file)


def test_pixels_that_cannot_be_decoded_are_said(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lazy:
        shape, dtype = (6, 9, 8), DATA.dtype

        def __init__(self, *, opened: bool = False) -> None:
            self.opened = opened

        def __getitem__(self, _index: Any) -> Lazy:
            if self.opened:
                raise RuntimeError("block 3 is bad")
            return Lazy(opened=True)

    class Image(FakeImage):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.dims = SimpleNamespace(order="TYX")
            self.dask_data = Lazy()

    install(monkeypatch, Image)
    with pytest.raises(ValueError, match=r"cannot be decoded \(block 3 is bad\)"):
        read(file).movie()


def test_a_batch_takes_them(file: Path) -> None:
    (movie,) = find_movies(file.parent, file.parent / "out", ".tif")
    assert movie.target.name == "cells.tif"


def test_the_real_bioio(tmp_path: Path) -> None:
    pytest.importorskip("bioio_tifffile", reason="needs bioio and bioio-tifffile")
    data = np.random.default_rng(0).integers(0, 999, (5, 2, 20, 24)).astype(np.uint16)
    path = write(tmp_path / "a.tif", Stack(data, "TCYX", pixel_size=0.25))
    stack = read_bioio(path, "TCYX", "a")
    assert stack.shape == data.shape
    np.testing.assert_array_equal(stack.movie(1), data[:, 1])
