"""A fitted model in the bioimage.io format: valid, honest about motion, and the same numbers."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Generator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from napari_stbn import Denoiser, STBNConfig, _bioimageio, simulate
from napari_stbn.cli import main
from napari_stbn.export import StillModel, export_bioimageio
from napari_stbn.inference import plan_inference

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
MOVIE = simulate((6, 24, 24), seed=0).noisy


@pytest.fixture(autouse=True)
def _collected() -> Generator[None, None, None]:
    """bioimageio.spec leaves the files that it reads to the collector, which says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


@pytest.fixture(scope="module")
def fitted() -> Denoiser:
    denoiser = Denoiser(
        "preview", device="cpu", network=TINY, start="fresh", precision="float32", flow="none"
    )
    return denoiser.fit(MOVIE, axes="TYX", max_steps=5)


@pytest.fixture(scope="module")
def saved(fitted: Denoiser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted.save(tmp_path_factory.mktemp("export") / "model.stbn")


def test_the_still_model_is_the_denoiser_without_motion(fitted: Denoiser) -> None:
    from dataclasses import asdict

    assert fitted.model is not None
    noise = fitted.channel_noise[0]
    assert noise is not None
    still = StillModel(asdict(TINY), [noise.to_dict()], [asdict(fitted.channel_scaling[0])])
    still.network.load_state_dict(fitted.model.state_dict())
    noisy = torch.from_numpy(MOVIE.astype(np.float32))[None, :, None]
    with torch.no_grad():
        mean, std = still.eval()(noisy)
    whole = fitted.denoise(MOVIE, axes="TYX")
    assert whole.uncertainty is not None
    # The denoiser averages over four origins of the patches, the exported model has one.
    apart = np.abs(mean[0, :, 0].numpy() - whole.denoised) / whole.uncertainty
    assert float(np.sqrt((apart**2).mean())) < 0.5
    assert std.shape == mean.shape == noisy.shape
    assert plan_inference(fitted.model, (6, 24, 24), 10**9).window == 6


def test_the_package_is_valid_and_gives_its_own_results(saved: Path, tmp_path: Path) -> None:
    pytest.importorskip("bioimageio.spec", reason="needs the extra `bioimageio`")
    from bioimageio.spec import load_model_description

    path = export_bioimageio(saved, tmp_path / "model.zip", authors=["A. Person"])
    assert [p.name for p in tmp_path.iterdir()] == ["model.zip"]
    description: Any = load_model_description(path)
    assert [str(tensor.id) for tensor in description.outputs] == ["denoised", "uncertainty"]
    assert [author.name for author in description.authors] == ["A. Person"]
    with pytest.raises(FileExistsError, match="choose another name"):
        export_bioimageio(saved, path)


def test_the_package_runs_elsewhere(saved: Path, tmp_path: Path) -> None:
    pytest.importorskip(
        "bioimageio.core", reason="bioimageio.core runs packages", exc_type=ImportError
    )
    from bioimageio.core import test_model as run_model

    path = export_bioimageio(saved, tmp_path / "model.zip")
    assert run_model(path, devices=["cpu"]).status == "passed"


def test_motion_is_owned_up_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bioimageio.spec", reason="needs the extra `bioimageio`")
    denoiser = Denoiser(
        "preview", device="cpu", network=TINY, start="fresh", precision="float32", noise=None
    )
    model = denoiser.fit(MOVIE, axes="TYX", max_steps=2).save(tmp_path / "m.stbn")
    assert main(["export", str(model), "-o", str(tmp_path / "m.zip")]) == 0
    said = capsys.readouterr()
    assert "zero flow" in said.err
    assert "zero motion" in said.out


def test_without_the_library_the_command_is_named(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "bioimageio", None)
    monkeypatch.setitem(sys.modules, "bioimageio.spec", None)
    assert main(["export", str(saved), "-o", str(tmp_path / "m.zip")]) == 2
    assert "pip install 'napari-stbn[bioimageio]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", [None, ImportError("cannot import name 'Sha256'")])
def test_a_core_that_cannot_be_loaded_is_said_and_the_package_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: Exception | None,
) -> None:
    """Pip pairs a new bioimageio.spec with an old core; stand-ins, for neither may be installed."""
    asked: list[str] = []

    class Core(ModuleType):
        """A bioimageio.core that runs models, or fails as it is loaded."""

        def __getattr__(self, name: str) -> Any:
            if name != "test_model":
                raise AttributeError(name)
            if fault is not None:
                raise fault
            return run

    def run(path: Path, devices: list[str]) -> SimpleNamespace:
        asked.append(f"{path.name} on {devices}")
        return found

    found = SimpleNamespace(status="passed", details=[])
    spec, core = ModuleType("bioimageio.spec"), Core("bioimageio.core")
    vars(spec)["load_description_and_validate_format_only"] = lambda _path: found
    for module in (ModuleType("bioimageio"), spec, core):
        module.__spec__ = ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    _bioimageio._check(tmp_path / "model.zip")
    assert asked == ([] if fault else ["model.zip on ['cpu']"])
    assert ("validated, not run" in caplog.text) == (fault is not None)
    assert fault is None or str(fault) in caplog.text
    found.status, found.details = "failed", [SimpleNamespace(errors=[SimpleNamespace(msg="no Y")])]
    with pytest.raises(ValueError, match="not valid: no Y"):
        _bioimageio._check(tmp_path / "model.zip")
