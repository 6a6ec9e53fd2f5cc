"""Claims of model files: they bring the same result back, and anything else is refused."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from napari_stbn import Denoiser, GaussianNoise, STBNConfig
from napari_stbn._model_file import FORMAT_VERSION, ModelFile, read_model_file, write_model_file
from napari_stbn.samples import simulate
from napari_stbn.training import TrainingConfig

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
FEW = TrainingConfig(max_steps=3, clip_frames=2, clip_size=16, patience=0)
NOISY: NDArray[Any] = simulate((4, 24, 24), kind="nuclei", seed=0).noisy


def fitted(**options: Any) -> Denoiser:
    denoiser = Denoiser("preview", device="cpu", network=TINY, precision="float32", **options)
    return denoiser.fit(NOISY, axes="TYX", training=FEW)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(seed=3, flow="translation").save(tmp_path_factory.mktemp("model") / "m.stbn")


@pytest.mark.parametrize("noise", ["estimate", "gaussian", None, GaussianNoise(4.0)])
def test_a_loaded_model_gives_the_same_result(noise: Any, tmp_path: Path) -> None:
    denoiser = fitted(noise=noise, flow="none")
    expected = denoiser.denoise(NOISY, axes="TYX")
    loaded = Denoiser.load(denoiser.save(tmp_path / "m.stbn"), device="cpu")
    result = loaded.denoise(NOISY, axes="TYX")
    np.testing.assert_array_equal(result.denoised, expected.denoised)
    assert result.noise == expected.noise
    if expected.uncertainty is None:
        assert result.uncertainty is None
    else:
        assert result.uncertainty is not None
        np.testing.assert_array_equal(result.uncertainty, expected.uncertainty)
    assert loaded.flow == "none"
    two = np.stack([NOISY, 3 * NOISY])  # of which the fit has not seen the second
    unseen, again = (d.denoise(two, axes="CTYX") for d in (denoiser, loaded))
    np.testing.assert_array_equal(again.denoised, unseen.denoised)
    assert again.noise == unseen.noise


def test_a_loaded_model_keeps_the_choices_of_the_fit(model_path: Path, tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"noise": "gaussian", "correlation": "off", "channels": "separate"}
    path = fitted(**chosen).save(tmp_path / "m.stbn")
    loaded = Denoiser.load(path, device="cpu")
    assert {name: getattr(loaded, name) for name in chosen} == chosen
    with pytest.raises(ValueError, match=r"m\.stbn is damaged or .* noise_choice is unknown: 5"):
        Denoiser.load(rewritten(path, path, noise_choice=5), device="cpu")
    file = read_model_file(model_path)  # as versions before these entries wrote it
    header = {
        name: value
        for name, value in file.header.items()
        if name not in ("noise_choice", "correlation_choice", "channels")
    }
    write_model_file(path, ModelFile(header, file.weights), overwrite=True)
    loaded = Denoiser.load(path, device="cpu")
    assert (loaded.noise, loaded.correlation, loaded.channels) == ("estimate", "auto", "auto")


def test_noise_and_scaling_are_those_of_the_fit_not_of_the_next_movie(model_path: Path) -> None:
    """Recorded with the same camera: a darker movie must not be brightened."""
    loaded = Denoiser.load(model_path, device="cpu")
    before = loaded.channel_noise, loaded.channel_scaling
    loaded.denoise(NOISY // 2 + 50, axes="TYX")
    assert (loaded.channel_noise, loaded.channel_scaling) == before


def test_a_loaded_model_can_be_saved_again(model_path: Path, tmp_path: Path) -> None:
    again = Denoiser.load(model_path, device="cpu").save(tmp_path / "again.stbn")
    one, two = read_model_file(model_path), read_model_file(again)
    ignored = {"steps"}
    for key in one.header.keys() - ignored:
        assert one.header[key] == two.header[key], key
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)


def test_a_model_of_format_1_loads(model_path: Path, tmp_path: Path) -> None:
    """It says nothing of `noise_input`: its network was not told of the noise."""
    file = read_model_file(model_path)
    network = {k: v for k, v in file.header["network"].items() if k != "noise_input"}
    path = rewritten(model_path, tmp_path / "old.stbn", format_version=1, network=network)
    one, two = (Denoiser.load(p, device="cpu") for p in (model_path, path))
    assert one.model is not None
    assert two.model is not None
    assert two.model.config == one.model.config
    assert not two.model.config.noise_input


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "m.stbn"
    path.write_text("something dear")
    denoiser = fitted()
    with pytest.raises(FileExistsError, match=r"m\.stbn exists; choose another name"):
        denoiser.save(path)
    assert path.read_text() == "something dear"
    denoiser.save(path, overwrite=True)
    Denoiser.load(path, device="cpu")
    assert [p.name for p in tmp_path.iterdir()] == ["m.stbn"], "no temporary file stays"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights")
def test_others_may_read_a_model_as_they_may_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = fitted().save(tmp_path / "m.stbn")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_failing_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_arguments: Any, **_options: Any) -> None:
        raise OSError("No space left on device")

    denoiser = fitted()
    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(OSError, match="No space left"):
        denoiser.save(tmp_path / "m.stbn")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    with pytest.raises(OSError, match=r"folder|directory"):
        denoiser.save(tmp_path / "missing" / "m.stbn")


def test_a_file_holds_tensors_and_json_only(model_path: Path) -> None:
    """safetensors: eight bytes of length, a JSON header, numbers; nothing can execute."""
    content = model_path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    ours = json.loads(header["__metadata__"]["napari_stbn"])
    assert ours["format_version"] == 2  # without a student, older versions read it
    assert ours["network"]["width"] == 4


# ---------------------------------------------------------------- refused


def rewritten(path: Path, target: Path, **changes: Any) -> Path:
    """A copy with another header."""
    file = read_model_file(path)
    header = {**file.header, **changes}
    return write_model_file(target, ModelFile(header, file.weights), overwrite=True)


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    save_file({"fc.weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="holds weights of another program, not an STBN model"):
        Denoiser.load(tmp_path / "foreign.safetensors")


def test_a_newer_format_is_refused_with_what_to_do(model_path: Path, tmp_path: Path) -> None:
    path = rewritten(model_path, tmp_path / "new.stbn", format_version=FORMAT_VERSION + 1)
    with pytest.raises(ValueError, match=r"has format 7, .* reads up to 6; update napari-stbn"):
        Denoiser.load(path)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_a_truncated_file_is_refused(model_path: Path, tmp_path: Path, kept: float) -> None:
    content = model_path.read_bytes()
    (tmp_path / "cut.stbn").write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    with pytest.raises(ValueError, match=r"cut\.stbn is not an STBN model, or is damaged"):
        Denoiser.load(tmp_path / "cut.stbn")


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    (tmp_path / "raw.stbn").write_bytes(pickle.dumps(Malicious(trap)))
    torch.save({"model": Malicious(trap)}, tmp_path / "torch.stbn")
    for name in ("raw.stbn", "torch.stbn"):
        with pytest.raises(ValueError, match="is not an STBN model"):
            Denoiser.load(tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"network": {"width": 4, "depth": 3}},
        {"network": {"width": 8}},
        {"network": None},
        {"noise": {"0": {"kind": "salt and pepper"}}},
        {"noise": {"0": {"kind": "gaussian", "sigma": -1}}},
        {"scaling": {"0": {"offset": 0, "scale": 0}}},
        {"scaling": {}},
        {"preset": "colossal"},
        {"format_version": None},
        {"format_version": "one"},
    ],
    ids=str,
)
def test_a_header_changed_by_hand_is_refused(
    model_path: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = rewritten(model_path, tmp_path / "changed.stbn", **changes)
    with pytest.raises(ValueError, match=r"changed\.stbn is damaged"):
        Denoiser.load(path)


def test_a_missing_file_and_a_missing_device_are_said_as_such(
    model_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="there is no model file"):
        Denoiser.load(tmp_path / "no.stbn")
    with pytest.raises(ValueError, match=r'^device must be "auto"'):
        Denoiser.load(model_path, device="abacus")
