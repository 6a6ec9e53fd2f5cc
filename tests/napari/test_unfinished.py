"""A fit that broke off is offered again, for its movie and settings only, and goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

import platformdirs
from napari.components import ViewerModel

import napari_stbn as stbn
from napari_stbn import _fit_parts
from napari_stbn._model_file import read_model_file


def left() -> list[Path]:
    """What unfinished runs have left."""
    return sorted((platformdirs.user_cache_path() / "unfinished").glob("*.fit"))


def test_an_unfinished_fit_is_offered_and_goes_on(
    widget: Any, until: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fit_parts, "_SAVE_EVERY", 0.0)
    widget.advanced["max_steps"].value = 2000
    widget.training["checks"].value = 100
    widget.training["patience"].value = 0
    button = widget.buttons["resume"].native
    until(lambda: "looking at" not in widget.about.value)
    assert not button.isVisibleTo(widget.native)
    job = widget.fit()
    until(lambda: bool(left()) or not job.is_running)
    (path,) = left()
    state = path.read_bytes()
    reached = read_model_file(path).header["counters"]["step"]
    widget.region.changed.emit("whole")
    until(lambda: "looking at" not in widget.about.value)
    assert widget.inspection.unfinished
    assert not button.isVisibleTo(widget.native)  # it is the run's own
    job.cancel()
    until(lambda: not job.is_running and not left())  # thrown away by a person
    with pytest.raises(ValueError, match="there is no unfinished fit of this movie"):
        widget.resume()
    until(lambda: not widget.inspection.unfinished)
    assert not button.isVisibleTo(widget.native)
    path.write_bytes(state)  # as a crash would have left it

    widget.advanced["seed"].value = 1
    widget._look()
    until(lambda: "looking at" not in widget.about.value)
    assert not button.isVisibleTo(widget.native)  # another run
    widget.advanced["seed"].value = 0
    widget._look()
    until(lambda: button.isVisibleTo(widget.native))
    job = widget.resume()
    assert not button.isVisibleTo(widget.native)
    seen: list[int] = []
    job.progressed.connect(lambda progress: seen.extend(s.step for s in progress.steps))
    until(lambda: bool(seen) or not job.is_running)
    assert seen[0] > reached
    job.cancel()
    until(lambda: not job.is_running)


def test_a_run_that_is_done_leaves_nothing() -> None:
    viewer = ViewerModel()
    viewer.add_image(stbn.simulate((6, 32, 32), seed=0).noisy, name="cells")
    choices: dict[str, Any] = {"preset": "preview", "device": "cpu", "max_steps": 2}
    stbn.start_denoising(viewer, "cells", unfinished="forget", **choices).wait()
    assert not left()
    assert "cells denoised" in viewer.layers


def test_a_layer_larger_than_memory_is_denoised_in_pieces_or_refused_at_once() -> None:
    viewer = ViewerModel()
    movie = np.tile(stbn.simulate((16, 32, 32), seed=0).noisy, (8, 2, 2))
    viewer.add_image(movie, name="cells")
    choices: dict[str, Any] = {"preset": "preview", "device": "cpu", "max_steps": 2}
    with pytest.raises(MemoryError, match="write it to a file as it is made"):
        stbn.start_denoising(viewer, "cells", memory_limit=5e-3, **choices)
    assert len(viewer.layers) == 1
