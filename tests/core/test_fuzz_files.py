"""Damaged, foreign and malicious files: one sentence, the right shape, and nothing executed."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from fuzzing import JSON, REFUSALS, cases, changed, damaged, is_a_sentence
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from napari_stbn import (
    Denoiser,
    RunSettings,
    Stack,
    STBNConfig,
    TrainingConfig,
    _fit_parts,
    read,
    write,
)
from napari_stbn._batch_manifest import Manifest
from napari_stbn._model_file import FORMAT_VERSION, read_model_file
from napari_stbn.cli import main
from napari_stbn.samples import simulate
from napari_stbn.settings import read_report

MOVIE = simulate((4, 16, 18), seed=0).noisy
TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
QUICK = TrainingConfig(max_steps=3, clip_frames=2, clip_size=8, batch=1, checks=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# ---------------------------------------------------------------- movies

TIFFS: dict[str, dict[str, Any]] = {
    "imagej": {"imagej": True, "metadata": {"axes": "TYX", "finterval": 2.0}},
    "ome": {"ome": True, "metadata": {"axes": "TYX", "PhysicalSizeX": 0.2}},
    "plain": {"metadata": None},
    "zlib": {"compression": "zlib", "metadata": {"axes": "TYX"}},
    "lzw": {"compression": "lzw", "metadata": None},
    "tiles": {"tile": (16, 16), "metadata": {"axes": "TYX"}},
    "big": {"bigtiff": True, "byteorder": ">", "metadata": None},
}


def _tiff(options: dict[str, Any]) -> bytes:
    """A TIFF file in memory."""
    file = io.BytesIO()
    tifffile.imwrite(file, MOVIE, photometric="minisblack", **options)
    return file.getvalue()


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, MOVIE)
    return file.getvalue()


CONTENT = {name: _tiff(options) for name, options in TIFFS.items()} | {"npy": _npy()}


def opens_or_says(path: Path) -> None:
    """Whatever lies there is read in the shape that it names, or refused in one sentence."""
    try:
        stack = read(path)
        stack.check()
        movie = stack.movie()
    except REFUSALS as error:
        is_a_sentence(error)
        return
    assert movie.shape == (stack.n_frames, *stack.frame_shape)


@cases(420)
@given(kind=st.sampled_from(sorted(CONTENT)), data=st.data())
def test_damaged_files(folder: Path, kind: str, data: st.DataObject) -> None:
    path = folder / ("bad.npy" if kind == "npy" else "bad.tif")
    path.write_bytes(data.draw(damaged(CONTENT[kind])))
    opens_or_says(path)


@cases(60)
@given(content=st.binary(max_size=200), ending=st.sampled_from([".tif", ".npy", ".btf"]))
def test_files_of_anything(folder: Path, content: bytes, ending: str) -> None:
    path = folder / f"any{ending}"
    path.write_bytes(content)
    opens_or_says(path)


@pytest.fixture(scope="module")
def zarr_folder(folder: Path) -> Path:
    return write(folder / "movie.ome.zarr", Stack(MOVIE, "TYX", pixel_size=0.1, frame_interval=2))


@cases(160)
@given(data=st.data())
def test_damaged_zarr(zarr_folder: Path, data: st.DataObject) -> None:
    files = sorted(path for path in zarr_folder.rglob("*") if path.is_file())
    file = data.draw(st.sampled_from(files))
    before = file.read_bytes()
    try:
        if file.suffix == ".json" and data.draw(st.booleans()):
            file.write_text(json.dumps(data.draw(changed(json.loads(before)))))
        else:
            file.write_bytes(data.draw(damaged(before)))
        opens_or_says(zarr_folder)
    finally:
        file.write_bytes(before)


# ---------------------------------------------------------------- models and states of fits


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    denoiser = Denoiser("preview", device="cpu", network=TINY, start="fresh", precision="float32")
    denoiser.fit(MOVIE, axes="TYX", training=QUICK)
    return denoiser.save(folder / "model.stbn")


def loads_or_says(path: Path) -> None:
    """A model that was changed is refused, or denoises to the right shape."""
    try:
        denoiser = Denoiser.load(path, device="cpu")
    except REFUSALS as error:
        is_a_sentence(error)
        return
    assert denoiser.model is not None
    try:
        result = denoiser.denoise(MOVIE, axes="TYX")
    except (*REFUSALS, FloatingPointError) as error:
        is_a_sentence(error)
        return
    assert result.denoised.shape == MOVIE.shape


@cases(120)
@given(data=st.data())
def test_damaged_models(folder: Path, model: Path, data: st.DataObject) -> None:
    path = folder / "damaged.stbn"
    path.write_bytes(data.draw(damaged(model.read_bytes())))
    loads_or_says(path)


@cases(250)
@given(data=st.data())
def test_models_that_were_changed_by_hand(folder: Path, model: Path, data: st.DataObject) -> None:
    file = read_model_file(model)
    header = data.draw(changed({"format_version": FORMAT_VERSION, **file.header}))
    path = folder / "changed.stbn"
    save_file(dict(file.weights), path, metadata={"napari_stbn": json.dumps(header)})
    loads_or_says(path)


def test_a_model_of_the_future_says_so(folder: Path, model: Path) -> None:
    file = read_model_file(model)
    header = {"format_version": FORMAT_VERSION + 1, "network": {"kind": "transformer"}}
    path = folder / "future.stbn"
    save_file(dict(file.weights), path, metadata={"napari_stbn": json.dumps(header)})
    with pytest.raises(ValueError, match="update napari-stbn"):
        Denoiser.load(path)


class Bomb:
    """What a malicious file holds: unpickling it writes a file."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.sign,)


@pytest.mark.parametrize("kind", ["pickle", "torch", "npy", "npz", "zip"])
@pytest.mark.parametrize("ending", [".stbn", ".npy", ".tif", ".zarr", ".json"])
def test_no_file_executes_code(tmp_path: Path, kind: str, ending: str) -> None:
    sign, path = tmp_path / "executed", tmp_path / f"bomb{ending}"
    bomb: Any = Bomb(sign)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif kind == "torch":
        torch.save({"state": bomb}, path)
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.array([bomb], object), allow_pickle=True)
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, movie=np.array([bomb], object))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.pkl", pickle.dumps(bomb))
    readers: list[Callable[[Path], Any]] = [
        lambda p: read(p).movie(),
        lambda p: Denoiser.load(p, device="cpu"),
        read_report,
        lambda p: Denoiser("preview", device="cpu", start=p).fit(MOVIE, axes="TYX", max_steps=1),
        lambda p: Denoiser("preview", device="cpu", network=TINY, start="fresh").fit(
            MOVIE, axes="TYX", training=QUICK, checkpoint=p
        ),
    ]
    for reader in readers:
        with pytest.raises(REFUSALS) as error:
            reader(path)
        is_a_sentence(error.value)
    assert not sign.exists()
    pickle.loads(pickle.dumps(bomb))  # noqa: S301  # it would have gone off
    assert sign.exists()


@pytest.fixture(scope="module")
def state(folder: Path) -> Path:
    """The state of a fit after two of its three steps."""
    path = folder / "fit"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_fit_parts, "_SAVE_EVERY", 0.0)
        steps = fit(path)
        for progress in steps:
            if progress.step is not None and progress.step.step == 2:
                break
        steps.close()
    assert path.exists()
    return path


def fit(path: Path) -> Any:
    denoiser = Denoiser("preview", device="cpu", network=TINY, start="fresh", precision="float32")
    return denoiser.fit_steps(MOVIE, axes="TYX", training=QUICK, checkpoint=path)


@cases(60)
@given(data=st.data())
def test_damaged_states_of_a_fit(folder: Path, state: Path, data: st.DataObject) -> None:
    path = folder / "damaged"
    file = read_model_file(state)
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(state.read_bytes())))
    else:
        header = {**file.header, "counters": data.draw(changed(file.header["counters"]))}
        whole = {"format_version": FORMAT_VERSION, **header}
        weights = dict(file.weights)
        for name in data.draw(st.sets(st.sampled_from(sorted(weights)), max_size=2)):
            del weights[name]
        save_file(weights, path, metadata={"napari_stbn": json.dumps(whole)})
    try:
        for number, _ in enumerate(fit(path)):
            assert number < 50, "three steps do not end"
    except (*REFUSALS, FloatingPointError) as error:
        is_a_sentence(error)


# ---------------------------------------------------------------- JSON

REPORT = {"steps": 3, "pace": [[0, 0.0, 0.5]], "checks": 4, "refined_flow": False}
TEXT = st.text(max_size=40) | st.binary(max_size=40)


def settings_or_sentence(settings: Callable[[], RunSettings]) -> None:
    """Settings that a denoiser takes, or one sentence."""
    try:
        denoiser = settings().denoiser()
        assert denoiser.device.type in ("cpu", "cuda", "mps")
    except REFUSALS as error:
        is_a_sentence(error)


@cases(300)
@given(data=st.data())
def test_settings_from_json(data: st.DataObject) -> None:
    values = json.loads(RunSettings(training={"batch": 2}).to_json())
    text = json.dumps(data.draw(changed(values) | JSON))
    settings_or_sentence(lambda: RunSettings.from_json(text))


@cases(250)
@given(report=changed(REPORT) | JSON)
def test_reports_that_are_none(folder: Path, report: Any) -> None:
    path = folder / "report.json"
    path.write_text(json.dumps(report), encoding="utf-8")
    settings_or_sentence(lambda: RunSettings().repeating(read_report(path)))


@cases(60)
@given(content=TEXT)
def test_files_that_are_no_json(folder: Path, content: str | bytes) -> None:
    path = folder / "any.json"
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    path.write_bytes(raw)
    settings_or_sentence(lambda: RunSettings().repeating(read_report(path)))
    if isinstance(content, str):
        settings_or_sentence(lambda: RunSettings.from_json(content))


@cases(80)
@given(lines=st.lists(JSON | st.fixed_dictionaries({"format": JSON, "output": JSON}), max_size=4))
def test_manifests_of_anything(folder: Path, lines: list[Any]) -> None:
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    manifest = Manifest(path)
    try:
        manifest.last()
    except ValueError as error:
        is_a_sentence(error)
        return
    manifest.append({"output": "a", "status": "done"})
    assert manifest.last()["a"]["status"] == "done"


# ---------------------------------------------------------------- command line


@cases(40)
@given(kind=st.sampled_from(sorted(CONTENT)), data=st.data())
def test_the_command_line_says_it_in_a_line(folder: Path, kind: str, data: st.DataObject) -> None:
    path = folder / ("cli.npy" if kind == "npy" else "cli.tif")
    path.write_bytes(data.draw(damaged(CONTENT[kind])))
    assert main(["info", str(path), "--preset", "preview", "--device", "cpu"]) in (0, 2)


def test_the_suite_has_the_cases_that_it_claims() -> None:
    """At least 2,000 in the default run."""
    import test_fuzz_movies

    counts = [
        test._hypothesis_internal_use_settings.max_examples
        for module in (globals(), vars(test_fuzz_movies))
        for name, test in module.items()
        if name.startswith("test_") and hasattr(test, "hypothesis")
    ]
    assert sum(counts) >= 2000
    assert len(fields(RunSettings)) > 5
