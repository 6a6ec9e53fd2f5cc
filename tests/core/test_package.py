"""The package as a whole: light to import, whole without a screen, arrows down, metadata true."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import napari_stbn

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "napari_stbn"
SCREEN = {"napari", "qtpy", "magicgui", "psygnal"}
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run_python(code: str) -> str:
    """Run code in a fresh interpreter that sees this source tree; its standard output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def core_modules() -> list[str]:
    """Every module outside _napari, by its dotted name."""
    modules = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if "_napari" not in parts and parts[-1] != "__main__":
            modules.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return modules


# Stands in the way of whatever would draw on a screen, as if it were not installed.
NO_SCREEN = """
import sys
BLOCKED = {"napari", "qtpy", "magicgui", "psygnal", "superqt", "vispy", "PyQt5", "PyQt6", "PySide6"}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked by the test)", name=name)
sys.meta_path.insert(0, Absent())
"""


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = run_python(
        "import sys; before = set(sys.modules); import napari_stbn;"
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    ).split()
    heavy = {"numpy", "scipy", "torch", "skimage", "cv2", "tifffile", "zarr", "dask", "tqdm"}
    assert "napari_stbn" in loaded
    assert not (heavy | SCREEN | {"PyQt6", "PySide6"}) & set(loaded)


def test_reading_and_simulating_need_no_torch() -> None:
    loaded = run_python(
        "import sys, napari_stbn as stbn; stbn.read, stbn.write, stbn.simulate, stbn.Stack;"
        "print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    ).split()
    assert not {"torch", *SCREEN} & set(loaded)


def test_core_runs_without_a_screen() -> None:
    """Every core module and every public name load where napari, qtpy and magicgui do not exist."""
    modules = core_modules()
    assert {"napari_stbn.stack", "napari_stbn.network.stbn", "napari_stbn.cli"} <= set(modules)
    names = run_python(
        NO_SCREEN + f"MODULES = {modules!r}\n"
        "from importlib import import_module\n"
        "import napari_stbn\n"
        "for module in MODULES: import_module(module)\n"
        "for name in napari_stbn.__all__: getattr(napari_stbn, name)\n"
        "print(*napari_stbn.__all__)"
    ).split()
    assert names == napari_stbn.__all__


@pytest.mark.parametrize("name", napari_stbn.__all__)
def test_public_names_resolve_and_say_what_they_are(name: str) -> None:
    value = getattr(napari_stbn, name)
    assert name in dir(napari_stbn)
    assert getattr(napari_stbn, name) is value, "a lazy name must be the same object twice"
    assert value.__doc__


def test_public_face_is_small_and_closed() -> None:
    assert len(napari_stbn.__all__) <= 20
    assert len(set(napari_stbn.__all__)) == len(napari_stbn.__all__)
    with pytest.raises(AttributeError, match=r"module 'napari_stbn' has no attribute 'denoize'"):
        _ = napari_stbn.denoize  # type: ignore[attr-defined]


def test_version_is_that_of_the_distribution() -> None:
    try:
        expected = version("napari-stbn")
    except PackageNotFoundError:
        expected = "0+unknown"
    assert napari_stbn.__version__ == expected


# ---------------------------------------------------------------- arrows


def test_import_contracts_hold() -> None:
    pytest.importorskip("importlinter", reason="import-linter is a development tool")
    report = run_python(
        "import sys; from importlinter.cli import lint_imports;"
        "sys.exit(lint_imports(config_filename='pyproject.toml', no_cache=True, no_logo=True))"
    )
    assert "0 broken" in report


def test_every_public_module_stands_in_the_layers() -> None:
    """A new room is placed on purpose; a helper (underscore) goes with the room that uses it."""
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    layers = next(contract for contract in contracts if contract["id"] == "layers")["layers"]
    placed = {word.strip("() ") for layer in layers for word in layer.replace("|", ":").split(":")}
    rooms = {
        path.stem
        for path in PACKAGE.iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").is_file()) and path.stem[0] != "_"
    }
    assert rooms - placed == set()


# ---------------------------------------------------------------- manifest


def test_manifest_at_the_top_is_the_packaged_one() -> None:
    packaged = (PACKAGE / "napari.yaml").read_text(encoding="utf-8")
    top = ROOT / "napari.yaml"
    text = top.read_text(encoding="utf-8")
    # A checkout without symlinks holds the path as the file's text.
    assert text == packaged or (ROOT / text.strip()) == PACKAGE / "napari.yaml"


def test_manifest_is_valid_and_its_commands_exist() -> None:
    npe2 = pytest.importorskip("npe2", reason="npe2 comes with napari")
    manifest = npe2.PluginManifest.from_file(PACKAGE / "napari.yaml")
    assert manifest.name == PROJECT["project"]["name"]
    assert manifest.categories == ["Image Processing"]
    manifest.validate_imports()


def test_entry_points_are_declared() -> None:
    assert PROJECT["project"]["scripts"] == {"napari-stbn": "napari_stbn.cli:main"}
    declared = PROJECT["project"]["entry-points"]["napari.manifest"]
    assert declared == {"napari-stbn": "napari_stbn:napari.yaml"}
    installed = {point.name: point.value for point in entry_points(group="napari.manifest")}
    try:
        version("napari-stbn")
    except PackageNotFoundError:
        return  # a bare source tree: the declaration is all there is
    assert installed["napari-stbn"] == "napari_stbn:napari.yaml"


# ---------------------------------------------------------------- requirements


def requirements(lines: list[str]) -> dict[str, Requirement]:
    parsed = map(Requirement, lines)
    return {requirement.name.lower(): requirement for requirement in parsed}


def test_core_group_is_the_base_without_the_screen() -> None:
    base = requirements(PROJECT["project"]["dependencies"])
    core = requirements(PROJECT["dependency-groups"]["core"])
    assert {name: base[name] for name in base.keys() - SCREEN} == core


def test_base_holds_no_qt_binding() -> None:
    base = requirements(PROJECT["project"]["dependencies"])
    assert not {"pyqt5", "pyqt6", "pyside2", "pyside6"} & base.keys()
    assert not any(requirement.extras for requirement in base.values())


def test_tested_set_pins_every_requirement_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and line[0] != "#")
    pins = {name.lower().replace("_", "-"): Version(pin) for name, pin in pairs}
    project = PROJECT["project"]
    asked = [project["dependencies"], *project["optional-dependencies"].values()]
    for name, requirement in requirements([line for lines in asked for line in lines]).items():
        assert name in pins, f"{name} is not in constraints.txt"
        assert pins[name] in requirement.specifier, f"{requirement} does not admit {pins[name]}"
    assert str(pins["torch"]) == "2.13.0"


# ---------------------------------------------------------------- the script at the top


@pytest.mark.skipif(os.name == "nt", reason="./dev is a POSIX shell script")
def test_dev_script_explains_itself_without_setting_anything_up() -> None:
    script = ROOT / "dev"
    asked = subprocess.run([script, "help"], capture_output=True, text=True, check=True, timeout=20)
    for command in ("demo", "test", "lint", "bench", "docs"):
        assert f"\n  {command} " in asked.stdout
    wrong = subprocess.run(
        [script, "tset"], capture_output=True, text=True, check=False, timeout=20
    )
    assert wrong.returncode != 0
    assert "there is no command 'tset'" in wrong.stderr
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_a_fit_begins_without_what_only_torch_compile_needs() -> None:
    """Importing it takes seconds, in which a fit neither begins nor can be cancelled."""
    loaded = run_python(
        "import sys, napari_stbn as stbn;"
        "movie = stbn.simulate((3, 16, 16), seed=0).noisy;"
        "network = stbn.STBNConfig(width=4);"
        "denoiser = stbn.Denoiser(device='cpu', network=network, flow='none');"
        "denoiser.fit(movie, axes='TYX', max_steps=2);"
        "print(*sorted(sys.modules))"
    ).split()
    assert "torch.optim.adam" in loaded
    assert "torch._dynamo" not in loaded
