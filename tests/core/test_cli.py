"""Claims of the command line: files in, files out whole or not at all, one sentence when not."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from napari_stbn import Denoiser, Stack, _commands, read, write
from napari_stbn._lines import in_words
from napari_stbn.cli import main
from napari_stbn.samples import simulate
from napari_stbn.training import TrainingConfig

NOISY: NDArray[Any] = simulate((4, 24, 20), kind="nuclei", seed=0).noisy
QUICK = [
    *("--preset", "preview", "--device", "cpu", "--max-steps", "3"),
    *("--clip-size", "12", "--clip-frames", "2"),
]


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    """A two-channel movie with a scale, as a microscope writes it."""
    data = np.stack([NOISY, NOISY + 20], 1)
    stack = Stack(data, "TCYX", pixel_size=0.25, frame_interval=2.0, name="cells")
    return write(tmp_path / "movie.tif", stack)


@pytest.fixture
def gray(tmp_path: Path) -> Path:
    return write(tmp_path / "gray.tif", Stack(NOISY, "TYX"))


@pytest.fixture
def no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a fit begins: refusals must come before it, not an hour later."""

    def begins(*_arguments: Any, **_options: Any) -> Any:
        pytest.fail("a fit was begun")

    monkeypatch.setattr(Denoiser, "fit_steps", begins)


def refused(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that ends with code 2 and one line on the error stream; that line."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("napari-stbn: ")
    return lines[0].removeprefix("napari-stbn: ")


def run(*arguments: Any) -> None:
    assert main([str(argument) for argument in arguments]) == 0


# ---------------------------------------------------------------- denoise


def test_a_file_comes_back_with_its_axes_and_scale(
    movie: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sure, report = (tmp_path / name for name in ("out.tif", "std.tif", "report.json"))
    run("denoise", movie, "-o", out, "--uncertainty", sure, "--report", report, *QUICK)
    source = read(movie)
    for path in (out, sure):
        stack = read(path)
        assert (stack.axes, stack.shape) == (source.axes, source.shape) == ("TCYX", (4, 2, 24, 20))
        assert stack.dtype == np.float32
        assert stack.pixel_size == pytest.approx({"Y": 0.25, "X": 0.25})
        assert stack.frame_interval == pytest.approx(2.0)
        assert np.isfinite(np.asarray(stack.array)).all()
    assert json.loads(report.read_text())["steps"] == 3
    assert "out.tif: T 4 x C 2 x Y 24 x X 20, 3 steps" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "movie.tif",
        "out.tif",
        "report.json",
        "std.tif",
    ]


def test_number_type_is_kept_when_asked(gray: Path, tmp_path: Path) -> None:
    run("denoise", gray, "-o", tmp_path / "out.tif", "--keep-dtype", *QUICK)
    assert read(tmp_path / "out.tif").dtype == np.uint16


@pytest.mark.parametrize("ending", [".npy", ".ome.zarr", ".ome.tif"])
def test_the_ending_chooses_the_format(gray: Path, tmp_path: Path, ending: str) -> None:
    run("denoise", gray, "-o", tmp_path / f"out{ending}", *QUICK)
    assert read(tmp_path / f"out{ending}", axes="TYX").shape == NOISY.shape


def test_frames_and_axes_can_be_given(gray: Path, tmp_path: Path) -> None:
    run("denoise", gray, "-o", tmp_path / "a.tif", "--frames", "1:3", *QUICK)
    assert read(tmp_path / "a.tif").shape == (2, 24, 20)
    np.save(tmp_path / "odd.npy", np.moveaxis(NOISY, 0, -1))
    run("denoise", tmp_path / "odd.npy", "--axes", "YXT", "-o", tmp_path / "b.npy", *QUICK)
    assert np.load(tmp_path / "b.npy").shape == (24, 20, 4)


def test_one_of_several_images_can_be_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "positions.tif"
    with tifffile.TiffWriter(path) as tif:
        for position in (NOISY, NOISY[:, :16]):
            tif.write(position, metadata={"axes": "TYX"}, photometric="minisblack")
    run("denoise", path, "-o", tmp_path / "second.tif", "--scene", "1", *QUICK)
    assert read(tmp_path / "second.tif").shape == (4, 16, 20)
    assert "no scene 2" in refused(
        ["denoise", path, "-o", tmp_path / "third.tif", "--scene", "2", *QUICK], capsys
    )


def test_a_seed_repeats_a_run(gray: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run("denoise", gray, "-o", tmp_path / f"{name}.npy", "--seed", seed, *QUICK)
    a, b, c = (np.load(tmp_path / f"{name}.npy") for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_a_saved_model_gives_the_same_result_without_a_fit(
    gray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.stbn"
    run("denoise", gray, "-o", tmp_path / "a.npy", "--save-model", model, *QUICK)
    monkeypatch.setattr(Denoiser, "fit_steps", None)
    run("denoise", gray, "-o", tmp_path / "b.npy", "--model", model, "--device", "cpu")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2,100,1.6", {"kind": "poisson_gaussian", "gain": 2, "offset": 100, "read_noise": 1.6}),
        ("4.5", {"kind": "gaussian", "sigma": 4.5}),
        ("none", None),
    ],
)
def test_noise_can_be_given(gray: Path, tmp_path: Path, text: str, expected: Any) -> None:
    report = tmp_path / "report.json"
    run("denoise", gray, "-o", tmp_path / "o.npy", "--report", report, "--noise", text, *QUICK)
    assert json.loads(report.read_text())["noise"] == {"0": expected}


@pytest.mark.parametrize("text", ["loud", "1,2", "1,2,3,4", "-1", "0,100,1", "nan"])
def test_noise_that_is_none_is_said(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["denoise", "in.tif", "-o", "out.tif", f"--noise={text}"])
    assert stop.value.code == 2
    assert "noise must be estimate, gaussian, none, GAIN,OFFSET,READ_NOISE" in (
        capsys.readouterr().err
    )


# ---------------------------------------------------------------- refused


@pytest.mark.usefixtures("no_fit")
@pytest.mark.parametrize("option", ["-o", "--uncertainty", "--report", "--save-model"])
def test_an_existing_file_is_kept(
    gray: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dear = tmp_path / "dear.tif"
    dear.write_text("something dear")
    options = ["-o", tmp_path / "out.tif", option, dear] if option != "-o" else ["-o", dear]
    assert "dear.tif exists" in refused(["denoise", gray, *options, *QUICK], capsys)
    assert dear.read_text() == "something dear"


@pytest.mark.usefixtures("no_fit")
@pytest.mark.parametrize("option", ["-o", "--uncertainty", "--report", "--save-model"])
def test_a_missing_folder_is_said_before_the_fit(
    gray: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = tmp_path / "no folder" / "out.tif"
    options = ["-o", tmp_path / "out.tif", option, lost] if option != "-o" else ["-o", lost]
    assert "no folder" in refused(["denoise", gray, *options, *QUICK], capsys)


@pytest.mark.usefixtures("no_fit")
@pytest.mark.parametrize(
    "option", ["-o", "--uncertainty", "--report", "--save-model", "--checkpoint"]
)
@pytest.mark.parametrize("name", ["gray.tif", "link.tif", "sub/../gray.tif"])
def test_an_input_is_never_replaced_by_any_name(
    gray: Path, tmp_path: Path, option: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = gray.read_bytes()
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.tif").symlink_to(gray)
    options = [] if option == "-o" else ["-o", tmp_path / "out.tif"]
    said = refused(["denoise", gray, *options, option, tmp_path / name, "--force", *QUICK], capsys)
    assert "would take the place of the input" in said
    assert gray.read_bytes() == before


@pytest.mark.usefixtures("no_fit")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--report", "out.tif"], "--output and --report name the same place"),
        (["--uncertainty", "OUT.tif"], "--output and --uncertainty name the same place"),
        (["--uncertainty", "u.tif", "--save-model", "./u.tif"], "--uncertainty and --save-model"),
        (["--save-model", "out.tif.fit"], "--save-model and --checkpoint"),
        (["--start", "m.stbn", "--save-model", "m.stbn", "--force"], "take the place of --start"),
        (["--pace", "r.json", "--report", "r.json", "--force"], "take the place of --pace"),
        (["--camera", "dark.tif", "--uncertainty", "dark.tif"], "take the place of --camera"),
    ],
)
def test_no_two_files_of_a_run_are_one(
    gray: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(["denoise", gray, "-o", "out.tif", *options, *QUICK], capsys)


@pytest.mark.usefixtures("no_fit")
def test_nothing_is_written_into_an_input_nor_over_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    movie = write(tmp_path / "in.zarr", Stack(NOISY, "TYX"))
    for output in (movie / "out.tif", movie / "0" / "out.zarr"):
        assert "one in the other" in refused(["denoise", movie, "-o", output, *QUICK], capsys)
    arguments = ["denoise", movie / "0", "-o", movie, "--force", *QUICK]
    assert "one in the other" in refused(arguments, capsys)


@pytest.mark.usefixtures("no_fit")
@pytest.mark.parametrize("option", ["--report", "--save-model", "--checkpoint"])
def test_a_folder_in_the_place_of_a_file_is_said_before_the_fit(
    gray: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    arguments = ["-o", tmp_path / "o.tif", option, tmp_path / "folder", "--force", *QUICK]
    assert "is a folder" in refused(["denoise", gray, *arguments], capsys)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are others there")
@pytest.mark.usefixtures("no_fit")
@pytest.mark.parametrize("option", ["--report", "--save-model", "--checkpoint"])
def test_a_pipe_or_device_is_not_replaced(
    gray: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    given = ["-o", tmp_path / "o.tif", option, pipe, "--force"]
    assert "is no file but a device or a pipe" in refused(["denoise", gray, *given], capsys)
    assert pipe.is_fifo()


@pytest.mark.usefixtures("no_fit")
def test_another_file_of_the_inputs_set_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An OME-TIFF movie may lie in several files, each of which names them all."""
    names = [f"t{t}.ome.tif" for t in range(2)]
    identities = [f"urn:uuid:00000000-0000-0000-0000-00000000000{t}" for t in range(2)]
    parts = "".join(
        f'<TiffData FirstT="{t}" IFD="0" PlaneCount="1"><UUID FileName="{name}">{identity}</UUID>'
        "</TiffData>"
        for t, (name, identity) in enumerate(zip(names, identities, strict=True))
    )
    for frame, name, identity in zip(NOISY, names, identities, strict=False):
        described = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{identity}"><Image ID="Image:0"><Pixels ID="Pixels:0" Type="uint16" '
            'DimensionOrder="XYZCT" SizeX="20" SizeY="24" SizeC="1" SizeZ="1" SizeT="2">'
            f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{parts}</Pixels></Image></OME>'
        )
        tifffile.imwrite(tmp_path / name, frame, description=described, metadata=None)
    second = tmp_path / names[1]
    before = second.read_bytes()
    said = refused(["denoise", tmp_path / names[0], "-o", second, "--force", *QUICK], capsys)
    assert "--output would take the place of the input" in said
    assert second.read_bytes() == before


@pytest.mark.usefixtures("no_fit")
def test_a_file_that_is_no_state_of_a_fit_is_kept(
    gray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dear = tmp_path / "out.tif.fit"
    dear.write_text("a fit of my own")
    said = refused(["denoise", gray, "-o", tmp_path / "out.tif", "--force", *QUICK], capsys)
    assert "is not what a run has left" in said
    assert dear.read_text() == "a fit of my own"


@pytest.mark.usefixtures("no_fit")
def test_slips_of_the_fingers_are_one_sentence(
    gray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.tif"
    for arguments, sentence in (
        ([gray, "-o", "."], ". has the unknown ending of no kind; choose one of .tif"),
        ([tmp_path, "-o", out], "is a folder; give a file"),
        ([gray, "-o", out, "--frames", "9:"], "--frames takes none of the 4 frames"),
        ([gray, "-o", out, "--frames", "3:1"], "--frames takes none of the 4 frames"),
    ):
        assert sentence in refused(["denoise", *arguments, *QUICK], capsys)


@pytest.mark.usefixtures("no_fit")
@pytest.mark.parametrize("option", ["-o", "--report", "--save-model", "--checkpoint"])
def test_a_folder_that_takes_no_files_is_said_before_the_fit(
    gray: Path,
    tmp_path: Path,
    option: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "dear").mkdir()
    allowed = os.access
    monkeypatch.setattr(  # root may write everywhere
        os, "access", lambda path, mode: Path(path).name != "dear" and allowed(path, mode)
    )
    options = [] if option == "-o" else ["-o", tmp_path / "out.tif"]
    said = refused(["denoise", gray, *options, option, tmp_path / "dear" / "o.tif", *QUICK], capsys)
    assert "nothing can be written to the folder" in said


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(gray: Path, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    far, link = tmp_path / "far" / "out.tif", tmp_path / "link.tif"
    far.write_text("earlier")
    link.symlink_to(far)
    run("denoise", gray, "-o", link, "--force", *QUICK)
    assert link.is_symlink()
    assert read(far).shape == NOISY.shape
    assert [path.name for path in far.parent.iterdir()] == ["out.tif"]


def test_a_result_that_finds_its_name_taken_is_not_lost(
    gray: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As where two runs with one output are begun at once."""
    out = tmp_path / "o.tif"

    def taken(path: Path, *arguments: Any, **options: Any) -> Path:
        path.write_bytes(b"of another run")
        return write(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(_commands, "write", taken)
        assert main(["denoise", str(gray), "-o", str(out), *QUICK]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "o.tif exists; choose another name or pass --force" in said
    assert said.endswith("; nothing was written; --resume goes on from here")
    assert out.read_bytes() == b"of another run"
    run("denoise", gray, "-o", out, "--resume", "--force", *QUICK)
    assert read(out).shape == NOISY.shape


def test_a_report_is_written_whole_or_not_at_all(
    gray: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = tmp_path / "r.json"
    report.write_text("dear")
    real = Path.write_text

    def full(self: Path, text: str, **options: Any) -> int:
        real(self, text[:10], **options)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_text", full)
    capsys.readouterr()
    arguments = ["denoise", gray, "-o", tmp_path / "o.npy", "--report", report, "--force", *QUICK]
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "r.json could not be written because its drive" in said
    assert said.endswith("o.npy is written, the rest is not; --resume --force does what is left")
    assert "Errno" not in said
    assert report.read_text() == "dear"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "a.tif"), "a.tif cannot be read"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "a file could not be written, its"),
        (OSError(errno.ENOSPC, "a.tif could not be written"), "a.tif could not be written"),
        (OSError(errno.EDOM, os.strerror(errno.EDOM), "a.tif"), "a.tif cannot be used: Num"),
        (ValueError("b\nc\x1b[2J\udcff is no movie"), "b c\\x1b[2J\\udcff is no movie"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_errors_are_a_line_of_words(error: Exception, said: str) -> None:
    assert in_words(error).startswith(said)
    assert "Errno" not in in_words(error)


def test_names_keep_to_their_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "two\nlines.tif", Stack(NOISY, "TYX"))
    run("info", source, "--device", "cpu", "--preset", "preview")
    assert "file      'two\\nlines.tif'\n" in capsys.readouterr().out
    run("denoise", source, "-o", tmp_path / "out\n.tif", *QUICK)
    assert "out\\n.tif': T 4 x Y 24 x X 20, 3 steps in" in capsys.readouterr().out


@pytest.mark.usefixtures("no_fit")
def test_what_python_is_told_to_pass_is_an_option_here(
    gray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "there.tif", Stack(NOISY, "TYX"))
    with pytest.raises(FileExistsError, match="or pass overwrite=True"):
        write(tmp_path / "there.tif", Stack(NOISY, "TYX"))
    assert "or pass --force" in refused(
        ["denoise", gray, "-o", tmp_path / "there.tif", *QUICK], capsys
    )
    np.save(tmp_path / "one.npy", NOISY[:1])
    assert read(tmp_path / "one.npy").guess.endswith('set "axes" if this is wrong.')
    assert main(["info", str(tmp_path / "one.npy")]) == 2
    said = capsys.readouterr()
    assert "give --axes if this is wrong" in said.out
    assert "Give --axes." in said.err


def test_what_the_output_cannot_hold_is_said_before_the_fit(
    tmp_path: Path, no_fit: None, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "half.npy", NOISY.astype(np.float16))
    command = ["denoise", tmp_path / "half.npy", "-o", tmp_path / "a.tif", "--keep-dtype", *QUICK]
    assert "TIFF cannot hold float16" in refused(command, capsys)


def test_uncertainty_without_a_noise_model_is_said_before_the_fit(
    gray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["-o", tmp_path / "o.tif", "--uncertainty", tmp_path / "u.tif", "--noise", "none"]
    assert "no uncertainty without a noise model" in refused(["denoise", gray, *options], capsys)
    assert not (tmp_path / "o.tif").exists()


def test_an_existing_file_is_replaced_when_forced(gray: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tif"
    out.write_text("something else")
    run("denoise", gray, "-o", out, "--force", *QUICK)
    assert read(out).shape == NOISY.shape


@pytest.mark.usefixtures("no_fit")
@pytest.mark.parametrize("command", ["denoise", "info"])
def test_a_bad_input_is_one_sentence(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.tif").write_text("not a picture")
    np.save(tmp_path / "still.npy", NOISY[0])
    (tmp_path / "what.xyz").write_bytes(b"?")
    end = ["-o", tmp_path / "o.tif"] if command == "denoise" else []
    for name, sentence in (("text.tif", "text.tif"), ("no.tif", "no.tif"), ("what.xyz", "xyz")):
        assert sentence in refused([command, tmp_path / name, *end], capsys)
    if command == "info":
        assert "has 1 frame" in refused([command, tmp_path / "still.npy", "--axes", "YX"], capsys)
        axes = refused([command, tmp_path / "still.npy", "--axes", "TYX"], capsys)
        assert "axes must name each of the 2 dimensions" in axes


def test_parameters_out_of_range_are_one_sentence(
    gray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["denoise", gray, "-o", tmp_path / "o.tif", "--device", "cpu"]
    for options, sentence in (
        (["--max-steps", "0"], "max_steps and batch must be at least 1"),
        (["--clip-frames", "1"], "a clip needs at least 2 frames"),
        (["--time-budget", "-3"], "time_budget must be more than 0 seconds"),
        (["--time-budget", "inf"], "time_budget must be more than 0 seconds and finite"),
        (["--learning-rate", "nan"], "learning_rate must be a number above 0, got nan"),
        (["--averaging", "5"], "averaging must be between 0 and 1, got 5.0"),
        (["--checks", "0"], "checks must be at least 2"),
        (["--seed", "-1"], "seed must be 0 or more and below 2^63, got -1"),
        (["--seed", str(2**70)], "seed must be 0 or more and below 2^63"),
        (["--device", "abacus"], 'device must be "auto"'),
        (["--model", tmp_path / "none.stbn"], "there is no model file"),
        (["--model", gray], "is not an STBN model"),
    ):
        assert sentence in refused([*start, *options], capsys)
    assert not (tmp_path / "o.tif").exists()


def test_stopping_writes_nothing(
    gray: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_arguments: Any, **_options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("napari_stbn.denoiser.training_steps", stopped)
    options = ["-o", tmp_path / "o.tif", "--save-model", tmp_path / "m.stbn", *QUICK]
    assert main(["denoise", str(gray), *map(str, options)]) == 130
    assert capsys.readouterr().err.endswith("napari-stbn: stopped; nothing was written\n")
    assert [p.name for p in tmp_path.iterdir()] == ["gray.tif"]


def test_stopping_between_two_files_says_which_is_there(
    gray: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = write

    def stopped(path: Path, *arguments: Any, **options: Any) -> Path:
        if path.name == "u.tif":
            raise KeyboardInterrupt
        return real(path, *arguments, **options)

    monkeypatch.setattr(_commands, "write", stopped)
    arguments = ["denoise", gray, "-o", tmp_path / "o.tif", "--uncertainty", tmp_path / "u.tif"]
    arguments += QUICK
    assert main([str(argument) for argument in arguments]) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        "napari-stbn: stopped; o.tif is written, the rest is not; --resume --force does what is "
        "left"
    )
    monkeypatch.undo()
    run(*arguments, "--resume", "--force")
    assert (tmp_path / "u.tif").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_heard_while_the_program_still_starts(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "napari_stbn", "info", "none.tif"],
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a script ignores Ctrl-C, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.rstrip().endswith(" numpy"):  # torch is to come
                break
        process.send_signal(number)
        began = time.monotonic()
        lines = process.stderr.read().splitlines()
    assert process.returncode == 130
    assert time.monotonic() - began < 5
    said = [line for line in lines if not line.startswith("import time:")]
    assert said == ["napari-stbn: stopped; nothing was written"]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are others there")
def test_a_reader_that_has_enough_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-m", "napari_stbn", "info", "--system"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        check=False,
        text=True,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, "")


# ---------------------------------------------------------------- info, demo, help


def test_info_says_what_is_there_and_what_to_expect(
    movie: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("info", movie, "--preset", "preview", "--device", "cpu")
    said = capsys.readouterr().out
    for pattern in (
        r"size +T 4 x C 2 x Y 24 x X 20 uint16",
        r"pixel +Y 0.25, X 0.25 µm",
        r"interval +2 s",
        r"noise +channel 0: gain \d.* counts/photoelectron, offset .* read noise",
        r"Noise of a pixel: [\d.]+ where it is dark, [\d.]+ where it is bright",
        r"noise +channel 1: ",
        r"memory +about [1-9]\d* MB of .* GB free on cpu",
        r"time +fit 30 s at most, denoising about \d+ s",
    ):
        assert re.search(pattern, said), f"{pattern} is not in\n{said}"


def test_what_was_guessed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "bare.npy", NOISY)
    run("info", tmp_path / "bare.npy", "--device", "cpu", "--preset", "preview")
    assert re.match(r"axes: .*T", capsys.readouterr().out)


def test_demo_writes_movies_picture_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_commands, "simulate", partial(simulate, (4, 32, 32)))
    folder = tmp_path / "demo"
    run("demo", "-o", folder, *QUICK, "--max-steps", "2")
    assert sorted(p.name for p in folder.iterdir()) == [
        "comparison.png",
        "denoised.tif",
        "noisy.tif",
        "report.json",
        "truth.tif",
    ]
    picture = cv2.imread(str(folder / "comparison.png"), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    assert np.ptp(picture) > 200
    assert read(folder / "truth.tif").shape == (4, 32, 32)
    assert json.loads((folder / "report.json").read_text())["steps"] == 2
    assert re.search(r"PSNR denoised: \d+\.\d\d dB", capsys.readouterr().out)
    assert "demo is not empty" in refused(["demo", "-o", folder, *QUICK], capsys)
    run("demo", "-o", folder, *QUICK, "--force")


@pytest.mark.parametrize("command", ["denoise", "demo"])
def test_every_parameter_of_the_fit_is_an_option(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    for row in fields(TrainingConfig):
        assert f"--{row.name.replace('_', '-')} " in said


def test_every_option_says_what_it_is_and_its_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    silent: list[Any] = []
    add = argparse._ActionsContainer.add_argument

    def noted(self: Any, *names: Any, **options: Any) -> Any:
        silent.extend(() if {"help", "action"} & set(options) else [names])
        return add(self, *names, **options)

    monkeypatch.setattr(argparse._ActionsContainer, "add_argument", noted)
    said = {}
    for command in ("denoise", "batch", "demo", "export", "info"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        said[command] = capsys.readouterr().out
    assert not silent
    assert re.search(r"--memory-limit GB\s+a larger run", said["denoise"])
    assert re.search(r"--time-budget s\s+seconds of fit at most \(the\s+preset's", said["denoise"])
    assert re.search(r"--time-budget s\s+seconds of fit at most \(default: 60.0\)", said["demo"])
    assert re.search(r"--seed SEED .*\(default:\s+0\)", said["batch"])
    assert re.search(r"--preset \S+\s+size .*\(default:\s+auto\)", said["info"])


def test_advanced_options_reach_the_fit(
    gray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TrainingConfig] = []

    def spy(_model: Any, _movies: Any, config: TrainingConfig, **_options: Any) -> Any:
        seen.append(config)
        raise FloatingPointError("seen enough")

    monkeypatch.setattr("napari_stbn.denoiser.training_steps", spy)
    given = ["--learning-rate", "0.004", "--batch", "2", "--beta", "0.5", "--patience", "3"]
    assert main(["denoise", str(gray), "-o", str(tmp_path / "o.tif"), *QUICK, *given]) == 2
    config = seen[0]
    assert (config.max_steps, config.time_budget) == (3, None)
    assert (config.learning_rate, config.batch, config.beta, config.patience) == (0.004, 2, 0.5, 3)
    assert (config.clip_size, config.clip_frames) == (12, 2)


def test_no_command_and_an_unknown_one_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["denoize"], ["denoise", "in.tif"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert "usage: napari-stbn" in capsys.readouterr().err
