"""Full drives, files that vanish or are cut off, killed processes: a sentence, and nothing lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from napari_stbn import Stack, _fit_parts, _inference_plan, _streaming, read, simulate, write
from napari_stbn._model_file import read_model_file
from napari_stbn._raw_file import RawFile
from napari_stbn.cli import main
from napari_stbn.denoiser import Denoiser
from napari_stbn.network import STBNConfig
from napari_stbn.presets import PRESETS
from napari_stbn.training import TrainingConfig

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
FEW = TrainingConfig(max_steps=4, clip_frames=3, clip_size=16, batch=1)
MOVIE = simulate((24, 40, 40), seed=1).noisy
QUICK = ("--preset", "preview", "--start", "fresh", "--device", "cpu", "--precision", "float32")
SMALL = ("--clip-frames", "3", "--clip-size", "16", "--batch", "1", *QUICK)
# What a process begins with: one thread, and the smallest network under the name of a preset.
HEAD = (
    "import sys, torch; from dataclasses import replace; from napari_stbn import _fit_parts; "
    "from napari_stbn.presets import PRESETS; from napari_stbn.network import STBNConfig; "
    "from napari_stbn.cli import main; torch.set_num_threads(1); "
    f"PRESETS['preview'] = replace(PRESETS['preview'], network={TINY!r}); "
)


@pytest.fixture(autouse=True)
def _small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "preview", replace(PRESETS["preview"], network=TINY))


def fitted() -> Denoiser:
    denoiser = Denoiser(device="cpu", network=TINY, precision="float32", start="fresh")
    return denoiser.fit(MOVIE, axes="TYX", training=FEW)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("ending", [".tif", ".ome.zarr", ".npy"])
def test_a_full_drive_leaves_the_earlier_result_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    path = tmp_path / f"out{ending}"
    write(path, Stack(MOVIE, "TYX"))
    full = OSError(errno.ENOSPC, "No space left on device")

    def refuse(*_arguments: object, **_options: object) -> None:
        raise full

    monkeypatch.setattr(RawFile, "write", refuse)
    monkeypatch.setattr("napari_stbn._ome_zarr_writing.ZarrImage.write", refuse)
    with pytest.raises(OSError, match=r"its drive, or your share of it, is full.*not|Nothing"):
        fitted().denoise_to(Stack(MOVIE, "TYX"), path, overwrite=True)
    assert names(tmp_path) == [path.name]
    axes = "TYX" if ending == ".npy" else None
    np.testing.assert_array_equal(np.asarray(read(path, axes=axes).array), MOVIE)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on files")
@pytest.mark.parametrize("ending", [".tif", ".zarr"])
def test_a_file_larger_than_allowed_is_one_sentence(tmp_path: Path, ending: str) -> None:
    """A real limit of the system, as a quota is."""
    write(tmp_path / "in.tif", Stack(MOVIE, "TYX"))
    limit = 2000 if ending == ".zarr" else 60_000
    code = (
        f"{HEAD} import resource; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, "denoise", str(tmp_path / "in.tif")),
            *("-o", str(tmp_path / f"out{ending}"), "--max-steps", "1", *SMALL),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "is full" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    # The model is kept where there was room for it: with --resume there is no need to fit again.
    assert set(names(tmp_path)) <= {"in.tif", f"out{ending}.fit"}


def test_a_folder_that_cannot_be_written_to_is_said_before_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in.tif", Stack(MOVIE, "TYX"))
    # The tests may run as root, whom no folder refuses.
    monkeypatch.setattr(os, "access", lambda _path, mode: not mode & os.W_OK)
    started = time.perf_counter()
    arguments = ["denoise", str(tmp_path / "in.tif"), "-o", str(tmp_path / "out.tif")]
    assert main([*arguments, *SMALL]) == 2
    assert time.perf_counter() - started < 5
    assert "nothing can be written to the folder" in capsys.readouterr().err


def test_a_state_that_cannot_be_saved_does_not_end_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_fit_parts, "_SAVE_EVERY", 0.0)
    monkeypatch.setattr(_fit_parts, "write_model_file", refuse)
    denoiser = Denoiser(device="cpu", network=TINY, precision="float32", start="fresh")
    denoiser.fit(MOVIE, axes="TYX", training=FEW, checkpoint=tmp_path / "fit")
    assert denoiser.history[-1].step == 4
    assert "was not saved" in caplog.text
    with pytest.raises(FileNotFoundError, match="make it first"):
        denoiser.fit(MOVIE, axes="TYX", training=FEW, checkpoint=tmp_path / "no" / "fit")


# ---------------------------------------------------------------- reading


def break_off(path: Path, kind: str) -> None:
    """What a drive or a person may do to a file that is being read."""
    if kind == "vanished":
        path.rename(path.with_name("elsewhere"))
    elif kind == "cut off":
        os.truncate(path, path.stat().st_size // 2)
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "kind", "error", "sentence"),
    [
        ("in.tif", "vanished", FileNotFoundError, "no longer there"),
        ("in.tif", "cut off", ValueError, "ends before its pixels do"),
        ("in.npy", "cut off", ValueError, "ends before its pixels do"),
        ("packed.tif", "vanished", FileNotFoundError, "no longer there"),
        ("packed.tif", "cut off", ValueError, "cannot be decoded"),
        ("in.zarr", "vanished", FileNotFoundError, "no longer there"),
    ],
)
def test_an_input_that_breaks_off_is_said_and_the_earlier_result_is_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: str,
    error: type[Exception],
    sentence: str,
) -> None:
    monkeypatch.setattr(_inference_plan, "_SCRATCH", 0)  # so small a network takes none
    monkeypatch.setattr(_streaming, "_CACHE_SHARE", 100)  # most frames are read more than once
    path, out = tmp_path / name, tmp_path / "out.tif"
    if name == "packed.tif":
        tifffile.imwrite(path, MOVIE, compression="zlib", metadata={"axes": "TYX"})
    else:
        write(path, Stack(MOVIE, "TYX"))
    write(out, Stack(MOVIE[:2], "TYX"))
    stack = read(path, axes="TYX")
    denoiser = fitted()
    denoiser.memory_limit = 4e-3
    steps = denoiser.denoise_to_steps(stack, out, overwrite=True)
    for progress in steps:
        if progress.phase == "denoise" and progress.fraction > 0.3:
            break
    break_off(path, kind)
    with pytest.raises(error, match=sentence):
        for _ in steps:
            pass
    assert read(out).n_frames == 2
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".stbn")]


# ---------------------------------------------------------------- killed


def start(folder: Path, *options: str, steps: int = 60) -> subprocess.Popen[bytes]:
    """The command line in another process, which saves the state of its fit at every step."""
    code = f"{HEAD} _fit_parts._SAVE_EVERY = 0.0; sys.exit(main(sys.argv[1:]))"
    arguments = ["denoise", str(folder / "in.tif"), "-o", str(folder / "out.tif")]
    arguments += ["--max-steps", str(steps), "--checks", "100", "--patience", "0", *SMALL, *options]
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def steps_in(path: Path) -> int:
    """Steps of the fit whose state a file holds; -1 where there is none, 10**6 for a model."""
    if not path.exists():
        return -1
    while True:
        try:
            header = read_model_file(path).header
        except ValueError:  # replaced by the next state between two looks of the reader
            continue
        return int(header.get("counters", {"step": 10**6})["step"])


def wait_for(process: subprocess.Popen[bytes], path: Path, step: int) -> None:
    """Return when the fit of a process has come to a step."""
    limit = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < limit:
        if steps_in(path) >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"the process ended or hung, with {process.poll()}")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_fit_goes_on_to_the_same_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in.tif", Stack(MOVIE, "TYX"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other process
    whole = ["denoise", str(tmp_path / "in.tif"), "-o", str(tmp_path / "whole.tif")]
    whole += ["--max-steps", "60", "--checks", "100", "--patience", "0", *SMALL]
    try:
        assert main(whole) == 0
    finally:
        torch.set_num_threads(threads)
    state = tmp_path / "out.tif.fit"
    rng = np.random.default_rng()
    reached = 0
    for low, high in ((2, 25), (26, 50)):
        moment = int(rng.integers(low, high))
        process = start(tmp_path, "--resume")
        wait_for(process, state, moment)
        time.sleep(rng.uniform(0, 0.05))  # somewhere within a step, or within a write
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert steps_in(state) >= moment > reached
        reached = steps_in(state)
        assert not (tmp_path / "out.tif").exists()
    # Without --resume it is said, and kept.
    again = ["denoise", str(tmp_path / "in.tif"), "-o", str(tmp_path / "out.tif"), *SMALL]
    assert main(again) == 2
    assert "--resume to go on with it" in capsys.readouterr().err
    assert steps_in(state) == reached
    assert start(tmp_path, "--resume").wait() == 0
    np.testing.assert_array_equal(
        np.asarray(read(tmp_path / "out.tif").array), np.asarray(read(tmp_path / "whole.tif").array)
    )
    assert not state.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM")
def test_a_batch_job_that_is_ended_leaves_its_state_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "in.tif", Stack(MOVIE, "TYX"))
    process = start(tmp_path, "--seed", "1")
    wait_for(process, tmp_path / "out.tif.fit", 5)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == 130
    assert names(tmp_path) == ["in.tif", "out.tif.fit"]


def test_a_fit_that_was_done_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in.tif", Stack(MOVIE, "TYX"))
    out, state = tmp_path / "out.tif", tmp_path / "out.tif.fit"
    arguments = ["denoise", str(tmp_path / "in.tif"), "-o", str(out), "--max-steps", "3", *SMALL]

    def fail(*_arguments: Any, **_options: Any) -> None:
        raise OSError("the drive is gone")

    with monkeypatch.context() as broken:
        broken.setattr("napari_stbn._commands.write", fail)
        assert main(arguments) == 2
    assert names(tmp_path) == ["in.tif", "out.tif.fit"]
    assert main([*arguments, "--resume", "--seed", "1"]) == 2
    assert "another run (other movie or settings)" in capsys.readouterr().err
    monkeypatch.setattr("napari_stbn.denoiser.training_steps", fail)
    assert main([*arguments, "--resume"]) == 0
    assert "the fit was done" in capsys.readouterr().out
    assert names(tmp_path) == ["in.tif", "out.tif"]
    state.write_bytes(b"not a state")
    assert main([*arguments, "--resume", "--force"]) == 2
    assert "is not an STBN model, or is damaged" in capsys.readouterr().err
