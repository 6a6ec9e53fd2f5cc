"""Jobs: pause, stop, cancel, errors, one at a time; with a screen and without."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils.progress import progress
from qtpy.QtCore import QThreadPool

from napari_stbn import denoise_layer, simulate, start_denoising
from napari_stbn._napari import _run
from napari_stbn._napari._run import RunProgress
from napari_stbn._napari.job import PLAIN_ERRORS, running_job
from napari_stbn._words import counted
from napari_stbn.clips import ClipSampler

SMALL = {"clip_frames": 3, "clip_size": 12, "batch": 1, "checks": 2}
CHOICES: dict[str, Any] = {
    "preset": "preview",
    "device": "cpu",
    "precision": "float32",
    "training": SMALL,
}
ENDLESS = {**CHOICES, "max_steps": 100_000}
FEW = {**CHOICES, "max_steps": 3}


def _no_thread() -> bool:
    return running_job() is None and _threads_at_work() == 0


def _threads_at_work() -> int:
    pool = QThreadPool.globalInstance()
    return 0 if pool is None else pool.activeThreadCount()


def _buttons(widget: Any) -> dict[str, bool]:
    panel = widget.run
    return {name: getattr(panel, name).enabled for name in ("fit", "pause", "stop", "cancel")}


IDLE = {"fit": True, "pause": False, "stop": False, "cancel": False}
RUNNING = {"fit": False, "pause": True, "stop": True, "cancel": True}


@pytest.mark.quiet
@pytest.mark.parametrize("phase", ["noise", "flow", "fit", "paused", "denoise"])
def test_cancel_acts_within_a_second(
    phase: str,
    viewer: Any,
    widget: Any,
    fitting: Callable[[Any], None],
    until: Callable[..., float],
    notes: list[Any],
    record_property: Callable[[str, object], None],
    qtbot: Any,
) -> None:
    widget.flow.value = "tvl1"  # slow enough to be met in the middle
    widget.advanced["max_steps"].value = 3 if phase == "denoise" else 100_000
    phases: list[str] = []
    job = widget.fit()
    job.progressed.connect(lambda progress: phases.append(progress.phase))
    if phase == "noise":
        until(lambda: _threads_at_work() == 1)
    elif phase == "paused":
        fitting(job)
        widget.run.pause.changed.emit(True)
        qtbot.wait(300)
    else:
        until(lambda: phase in phases)
    assert job.is_running
    widget.run.cancel.changed.emit(True)
    assert not widget.run.cancel.enabled
    record_property(f"cancel while {phase}", until(lambda: not job.is_running, timeout=1))
    assert until(_no_thread) < 0.5
    assert job.state == "cancelled"
    assert [layer.name for layer in viewer.layers] == ["cells"]
    assert widget.run.status.value.startswith("cancelled")
    assert _buttons(widget) == IDLE
    assert notes == []
    widget.flow.value = "none"
    widget.advanced["max_steps"].value = 1
    again = widget.fit()  # at once
    until(lambda: not again.is_running)
    assert again.state == "done", again.error


def test_pause_rests_and_resume_goes_on(
    widget: Any,
    fitting: Callable[[Any], None],
    until: Callable[..., float],
    monkeypatch: pytest.MonkeyPatch,
    qtbot: Any,
) -> None:
    steps: list[int] = []
    draw = ClipSampler.draw

    def count(sampler: Any) -> Any:
        steps.append(len(steps))
        return draw(sampler)

    monkeypatch.setattr(ClipSampler, "draw", count)
    assert _buttons(widget) == IDLE
    job = widget.fit()
    assert _buttons(widget) == RUNNING
    assert widget.run.pause.text == "Pause"
    fitting(job)
    widget.run.pause.changed.emit(True)
    assert job.is_paused
    assert widget.run.pause.text == "Resume"
    assert widget.run.status.value == "paused"
    assert _buttons(widget) == RUNNING
    qtbot.wait(300)  # the step under way
    resting = len(steps)
    qtbot.wait(500)
    assert len(steps) == resting
    assert widget.run.status.value == "paused"
    widget.run.pause.changed.emit(True)
    assert not job.is_paused
    assert widget.run.pause.text == "Pause"
    until(lambda: len(steps) > resting)
    widget.run.pause.changed.emit(True)
    widget.run.stop.changed.emit(True)  # a rest does not keep a stop waiting
    assert not widget.run.stop.enabled
    assert widget.run.pause.text == "Pause"
    assert widget.run.status.value.startswith("stopping")
    until(lambda: not job.is_running)
    assert job.state == "done", job.error
    assert _buttons(widget) == IDLE
    assert widget.run.pause.text == "Pause"


def test_a_rest_is_said_while_it_lasts_and_no_longer(
    widget: Any, fitting: Callable[[Any], None], until: Callable[..., float]
) -> None:
    job = widget.fit()
    fitting(job)
    widget.run.pause.changed.emit(True)
    job.progressed.emit(RunProgress("fit", 0.5, 1.0))  # as one that waited for the screen
    assert widget.run.status.value == "paused"
    widget.run.pause.changed.emit(True)
    assert widget.run.status.value.startswith("fitting")
    job.cancel()
    until(lambda: not job.is_running)


def test_a_rest_after_a_stop_is_one(
    widget: Any, fitting: Callable[[Any], None], until: Callable[..., float], qtbot: Any
) -> None:
    job = widget.fit()
    fitting(job)
    widget.run.stop.changed.emit(True)
    widget.run.pause.changed.emit(True)
    assert (widget.run.status.value, widget.run.pause.text) == ("paused", "Resume")
    assert not widget.run.stop.enabled
    qtbot.wait(500)
    assert job.is_paused
    widget.run.pause.changed.emit(True)
    assert widget.run.status.value != "paused"
    until(lambda: not job.is_running)
    assert job.state == "done", job.error


def test_stop_keeps_what_was_learnt(
    viewer: Any, widget: Any, fitting: Callable[[Any], None], until: Callable[..., float]
) -> None:
    job = widget.fit()
    fitting(job)
    widget.run.stop.changed.emit(True)
    assert "denoising with what was learnt" in widget.run.status.value
    until(lambda: not job.is_running)
    assert job.state == "done", job.error
    assert 0 < job.report["steps"] < 100_000
    assert job.layers[0].name == "cells denoised"
    assert all(layer in viewer.layers for layer in job.layers)
    steps = counted(job.report["steps"], "step")
    assert widget.run.status.value.startswith(f"done: {steps} in ")


def test_stop_before_the_first_step_ends_as_cancelled(
    viewer: Any, widget: Any, until: Callable[..., float], notes: list[Any]
) -> None:
    widget.flow.value = "tvl1"  # slow enough to be met in the middle
    job = widget.fit()
    phases: list[str] = []
    job.progressed.connect(lambda progress: phases.append(progress.phase))
    until(lambda: "flow" in phases)
    widget.run.stop.changed.emit(True)
    until(lambda: not job.is_running)
    assert job.state == "cancelled"
    sentence = "stopped before anything was learnt; nothing was added"
    assert widget.run.status.value == sentence
    assert [layer.name for layer in viewer.layers] == ["cells"]
    assert notes == []


ERRORS = [
    RuntimeError("the device went away"),
    ValueError("not a movie"),
    MemoryError("too large"),
    FloatingPointError("ten steps in a row"),
]


@pytest.fixture(params=ERRORS, ids=lambda error: type(error).__name__)
def error(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Exception]:
    """An error that the second step of a fit raises."""
    wrong: Exception = request.param
    calls = []
    draw = ClipSampler.draw

    def fail(sampler: Any) -> Any:
        calls.append(1)
        if len(calls) > 3:
            raise wrong
        return draw(sampler)

    monkeypatch.setattr(ClipSampler, "draw", fail)
    yield wrong
    wrong.__traceback__ = None  # it would keep the viewer


def test_an_error_in_the_fit_is_one_notification_with_its_type(
    viewer: Any,
    widget: Any,
    error: Exception,
    until: Callable[..., float],
    notes: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    qtbot: Any,
) -> None:
    job = widget.fit()
    until(lambda: not job.is_running)
    qtbot.wait(100)
    assert job.state == "failed"
    assert job.error is error
    plain = isinstance(error, PLAIN_ERRORS)  # one sentence, and no traceback that takes a second
    assert [getattr(note, "exception", None) for note in notes] == [None if plain else error]
    assert str(notes[0].severity) == "error"
    assert str(error) in notes[0].message
    kind = "" if plain else f"{type(error).__name__}: "
    assert widget.run.status.value == f"{kind}{error}"
    assert _buttons(widget) == IDLE
    assert [layer.name for layer in viewer.layers] == ["cells"]
    monkeypatch.undo()
    notes.clear()
    with pytest.raises(type(error), match=str(error)):
        job.wait()
    assert notes == []  # the script has it
    until(_no_thread)
    widget.axes.value = "YX"
    with pytest.raises(ValueError, match="axes"):
        widget.fit()
    assert widget.run.status.value == ""  # what it said was of another run


def test_a_script_that_waits_gets_the_error_itself(
    viewer: Any, error: Exception, notes: list[Any], qtbot: Any, until: Callable[..., float]
) -> None:
    with pytest.raises(type(error), match=str(error)):
        denoise_layer(viewer, "cells", **ENDLESS)
    qtbot.wait(50)
    assert notes == []
    until(_no_thread)
    assert [layer.name for layer in viewer.layers] == ["cells"]


def test_an_error_before_the_run_begins_ends_the_job(
    viewer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_count: int) -> int:
        raise RuntimeError("no such threads")  # Qt's workers keep this kind to themselves

    monkeypatch.setattr(_run, "threads_for", fail)
    job = start_denoising(viewer, "cells", **FEW)
    with pytest.raises(RuntimeError, match="no such threads"):
        job.wait(20)
    assert running_job() is None


@pytest.mark.parametrize("shape", [(48, 48), (2, 8, 48, 48)])
def test_a_layer_that_gets_other_data_in_the_middle_of_a_fit(
    shape: tuple[int, ...],
    viewer: Any,
    fitting: Callable[[Any], None],
    until: Callable[..., float],
) -> None:
    source = viewer.layers["cells"]
    source.scale = (1, 0.5, 0.5)
    job = start_denoising(viewer, "cells", **ENDLESS)
    fitting(job)
    source.data = np.zeros(shape, np.uint16)
    job.stop()
    until(lambda: not job.is_running)
    assert job.state == "done", job.error
    assert job.layers[0].data.shape == (8, 48, 48)
    np.testing.assert_array_equal(job.layers[0].scale, (1, 0.5, 0.5))


def test_a_model_is_kept_where_its_layers_cannot_be_made(
    widget: Any, until: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_asked: Any, **_choices: Any) -> Any:
        raise ValueError("no place for it")

    monkeypatch.setattr("napari_stbn._napari.layers.result_layers", fail)
    widget.advanced["max_steps"].value = 1
    job = widget.fit()
    until(lambda: not job.is_running)
    assert job.state == "failed"
    assert job.result is not None
    assert widget.run.status.value == "no place for it; the fitted model is kept"
    assert widget.denoiser is job.denoiser is not None
    assert widget.buttons["save"].enabled
    job.error.__traceback__ = None  # it would keep the widget


def test_one_job_at_a_time(
    viewer: Any,
    widget: Any,
    fitting: Callable[[Any], None],
    until: Callable[..., float],
    notes: list[Any],
) -> None:
    job = widget.fit()
    fitting(job)
    sentence = '"cells" is being denoised; wait for it, or stop or cancel it, before'
    with pytest.raises(RuntimeError, match=sentence):
        widget.fit()
    with pytest.raises(RuntimeError, match=sentence):
        start_denoising(viewer, "cells", **FEW)
    widget.run.fit.changed.emit(True)  # as a shortcut would; the button itself is disabled
    assert [note.message for note in notes if sentence in note.message] != []
    assert running_job() is job
    assert widget.run.job is job
    job.cancel()
    until(lambda: not job.is_running)
    layers = denoise_layer(viewer, "cells", **FEW)
    assert layers[0].name == "cells denoised"


def test_progress_is_in_the_activity_dock_while_it_runs(
    viewer: Any, widget: Any, fitting: Callable[[Any], None], until: Callable[..., float]
) -> None:
    assert not progress._all_instances
    job = widget.fit()
    fitting(job)
    (bar,) = progress._all_instances
    assert bar.total == 100
    assert bar.desc.startswith("STBN cells: fitting")
    job.cancel()
    until(lambda: not job.is_running)
    assert not progress._all_instances


# ---------------------------------------------------------------- without Qt


@pytest.fixture
def model() -> Iterator[ViewerModel]:
    model = ViewerModel()
    model.add_image(simulate((8, 48, 48), seed=0).noisy, name="cells")
    yield model
    job = running_job()
    if job is not None:
        job.cancel()
    until = time.perf_counter() + 5
    while _threads() and time.perf_counter() < until:
        time.sleep(0.01)
    assert not _threads()


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "napari-stbn"]


def test_without_qt_wait_adds_the_layers(model: ViewerModel) -> None:
    job = start_denoising(model, "cells", **FEW)
    layers = job.wait()
    assert job.state == "done"
    assert layers == list(model.layers)[1:]
    assert np.isfinite(layers[0].data).all()
    assert job.wait() == layers  # again: nothing is added twice
    assert len(model.layers) == 1 + len(layers)


@pytest.mark.quiet
def test_without_qt_wait_gives_up_after_a_time_and_the_job_goes_on(model: ViewerModel) -> None:
    job = start_denoising(model, "cells", **ENDLESS)
    started = time.perf_counter()
    with pytest.raises(TimeoutError, match=r'"cells" is still being denoised after 0.3 s'):
        job.wait(0.3)
    assert time.perf_counter() - started < 1
    assert job.is_working
    job.cancel()
    started = time.perf_counter()
    assert job.wait(5) == []
    assert time.perf_counter() - started < 1
    assert job.state == "cancelled"
    assert len(model.layers) == 1


def test_without_qt_an_error_keeps_its_type(error: Exception, model: ViewerModel) -> None:
    with pytest.raises(type(error), match=str(error)):
        denoise_layer(model, "cells", **ENDLESS)
    assert running_job() is None
    assert len(model.layers) == 1


def test_without_qt_a_job_works_from_another_thread(model: ViewerModel) -> None:
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.extend(denoise_layer(model, "cells", **FEW)))
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert got[0].name == "cells denoised"
    assert got == list(model.layers)[1:]


def test_without_qt_a_job_that_nobody_waits_for_is_no_obstacle(model: ViewerModel) -> None:
    first = start_denoising(model, "cells", **FEW)
    with pytest.raises(RuntimeError, match="is being denoised"):
        start_denoising(model, "cells", **FEW)
    while first.is_working:
        time.sleep(0.01)
    second = start_denoising(model, "cells", **FEW)
    assert second.wait()
    assert first.wait()
