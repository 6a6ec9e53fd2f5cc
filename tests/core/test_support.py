"""Claims of the log and the support bundle: silent unless asked, and enough for a bug report."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from napari_stbn import Stack, simulate, write
from napari_stbn._support import system_report
from napari_stbn.cli import main

QUICK = ["--preset", "preview", "--device", "cpu", "--max-steps", "1", "--clip-size", "12"]


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    return write(tmp_path / "in.tif", Stack(simulate((4, 20, 20), seed=0).noisy, "TYX"))


def test_the_bundle_holds_what_a_bug_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--system", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == {**system_report(), "memory [GB]": report["memory [GB]"]} | {
        "devices": report["devices"]
    }
    assert {"python", "torch", "numpy", "tifffile", "zarr"} <= set(report["versions"])
    assert report["processor"]["name"]
    assert report["threads"]["torch"] >= 1
    assert report["memory [GB]"]["total"] >= report["memory [GB]"]["free"] > 0
    assert "cpu" in report["devices"]
    assert report["torch"]
    del report["torch"]  # holds paths of the machine that torch was built on
    assert str(Path.home()) not in json.dumps(report), "nothing of the user"
    assert main(["info", "--system"]) == 0
    said = capsys.readouterr().out
    assert f"  torch: {report['versions']['torch']}" in said
    assert "memory [GB]" in said


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from napari_stbn import _support

    class Properties:
        name, major, minor, total_memory = "Card", 9, 0, 80_000_000_000

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: Properties)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 90000)
    monkeypatch.setattr("napari_stbn._support.shutil.which", lambda _name: None)
    gpus = _support._gpus()
    assert gpus["cuda:0"] == "Card, compute capability 9.0, 80.0 GB"
    assert gpus["driver"] == "unknown"


def test_what_goes_together(movie: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 2
    assert "name a movie, or pass --system" in capsys.readouterr().err
    assert main(["info", str(movie), "--json"]) == 2
    assert "goes with --system" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["before", "after", "nowhere"])
def test_the_log_is_shown_with_v_alone(
    movie: Path, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["denoise", str(movie), "-o", str(tmp_path / "out.tif"), *QUICK]
    arguments = {
        "before": ["-v", *arguments],
        "after": [*arguments, "-v"],
        "nowhere": arguments,
    }[place]
    assert main(arguments) == 0
    said = capsys.readouterr().err
    assert ("napari_stbn.denoiser: fit to in (TYX, 4x20x20) on cpu" in said) == (place != "nowhere")
    assert said.count("steps of fit in") == (place != "nowhere"), "each line once"


def test_a_script_sees_no_log_unless_it_asks() -> None:
    code = (
        "import logging, napari_stbn as stbn;"
        "logging.getLogger('napari_stbn.x').warning('unasked');"
        "logging.basicConfig(level=logging.INFO);"
        "logging.getLogger('napari_stbn.x').info('asked')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "INFO:napari_stbn.x:asked\n"
    assert logging.getLogger("napari_stbn").handlers
