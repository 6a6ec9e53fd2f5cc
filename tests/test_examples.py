"""The examples run, and so do the python blocks of the README."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BLOCKS = re.findall(
    r"^```python\n(.*?)^```",
    (ROOT / "README.md").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)
SECONDS = "2"


def run(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    """Each takes its seconds of work as the first argument, prints something, exits 0."""
    assert run(str(example), SECONDS, folder=tmp_path).strip()


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_readme_block_runs(block: str, tmp_path: Path) -> None:
    """Run as printed, on a small simulated cells.tif, but with seconds instead of minutes."""
    import napari_stbn as stbn

    movie = stbn.simulate((6, 32, 32), seed=0)
    stbn.write(tmp_path / "cells.tif", stbn.Stack(movie.noisy, axes="TYX"))
    code = re.sub(r"time_budget=\d+", f"time_budget={SECONDS}", block)
    (tmp_path / "block.py").write_text(code, encoding="utf-8")
    run("block.py", folder=tmp_path)
