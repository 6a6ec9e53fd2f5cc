"""What tests of the plugin share: a viewer with a movie, our widget in it, nothing left over."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

# Before napari is imported: it neither reads nor writes the user's settings.
os.environ["NAPARI_CONFIG"] = ""

import pytest

if find_spec("napari") is None:
    collect_ignore_glob = ["test_*.py"]

STEPS_WITHOUT_END = 100_000


@pytest.fixture(scope="session", autouse=True)
def few_objects_to_search() -> Iterator[None]:
    """Collect garbage quickly: leave what the imports have made out of every search."""
    from napari_stbn._napari._threads import load_ahead

    load_ahead()
    with suppress(ImportError):  # no Qt binding
        import_module("napari_stbn._napari.widget")
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def all_objects_searched() -> Iterator[None]:
    """Collect garbage among all objects, as in a session of a user."""
    gc.unfreeze()
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def main_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """napari raises where a plugin touches the viewer from another thread."""
    monkeypatch.setenv("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "1")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Unfinished fits are kept in a folder of the test, not in the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_names, **_options: folder)


@pytest.fixture
def plugin(npe2pm: Any, plugin_settings: None) -> Iterator[Any]:
    """Our manifest as the only plugin; its settings live in this test's folder."""
    manifest = str(files("napari_stbn") / "napari.yaml")
    with npe2pm.tmp_plugin(manifest=manifest):
        yield npe2pm


@pytest.fixture
def nothing_leaks(request: pytest.FixtureRequest, qapp: Any) -> Iterator[None]:
    """Fail where a test leaves a thread, a job, a widget of ours or a window behind; say which.

    A widget leaks mostly by a callback that holds it: of a layer, of the viewer, of a job, of a
    timer. Disconnect in `closed`. A thread leaks where nobody cancels its job.
    """
    from napari.utils.progress import progress
    from qtpy.QtCore import QThreadPool
    from qtpy.QtWidgets import QApplication
    from superqt.utils import WorkerBase

    from napari_stbn._napari.inspector import _Look
    from napari_stbn._napari.job import running_job
    from napari_stbn._napari.run_panel import RunPanel
    from napari_stbn._napari.widget import DenoiseWidget

    gc.collect()  # what an earlier test that failed has left is not ours
    ours = (DenoiseWidget, RunPanel)
    before = _alive(ours)
    windows = set(QApplication.topLevelWidgets())
    threads = set(threading.enumerate())
    bars = len(progress._all_instances)
    yield
    running = running_job()
    until = time.perf_counter() + 2
    pools = [pool for pool in (QThreadPool.globalInstance(), _Look.pool) if pool is not None]
    while (_busy(WorkerBase, pools) or running_job()) and time.perf_counter() < until:
        qapp.processEvents()
        time.sleep(0.01)
    left: list[str] = []
    if running is not None:
        running.cancel()
        left.append(f"the job {running!r}")
    left += [f"the worker {worker!r}" for worker in WorkerBase._worker_set]
    left += [f"{pool.activeThreadCount()} threads of {pool!r}" for pool in pools if _active(pool)]
    left += [
        f"the thread {thread.name}"
        for thread in set(threading.enumerate()) - threads
        if thread.name == "napari-stbn"
    ]
    if len(progress._all_instances) != bars:
        left.append(f"progress bars {list(progress._all_instances)}")
    call = getattr(request.node, "rep_call", None)
    if call is not None and not call.failed:  # else its traceback keeps them
        request.node.funcargs.clear()  # pytest keeps what the test was given
        left += _widgets_left(qapp, ours, before, windows)
    assert not left, f"left over: {'; '.join(left)}"


def _widgets_left(
    qapp: Any, ours: tuple[type, ...], before: dict[str, int], windows: set[Any]
) -> list[str]:
    """Widgets of ours that were not there before."""
    for _ in range(2):
        _delete_later(qapp)
        gc.collect()
    now = _alive(ours)
    left = [f"{now[name]} {name}" for name in now if now[name] > before.get(name, 0)]
    left += [
        f"the window {window!r} named {window.objectName()!r}"
        for window in set(qapp.topLevelWidgets()) - windows
        if type(window).__module__.startswith(("napari_stbn", "magicgui"))
    ]
    return left


def _alive(types: tuple[type, ...]) -> dict[str, int]:
    """How many objects of these types there are."""
    counts: dict[str, int] = {}
    for thing in gc.get_objects():
        if type(thing) in types:
            counts[type(thing).__name__] = counts.get(type(thing).__name__, 0) + 1
    return counts


def _busy(workers: Any, pools: list[Any]) -> bool:
    return bool(workers._worker_set) or any(map(_active, pools))


def _active(pool: Any) -> bool:
    return bool(pool.activeThreadCount())


def _delete_later(qapp: Any) -> None:
    """Do what Qt does when the event loop is back at its outermost level."""
    from qtpy.QtCore import QCoreApplication, QEvent

    qapp.processEvents()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    qapp.processEvents()


@pytest.fixture
def settle(qapp: Any) -> Callable[[], None]:
    """Let Qt delete what waits for it, and Python collect."""

    def settle() -> None:
        for _ in range(2):
            _delete_later(qapp)
            gc.collect()

    return settle


@pytest.fixture
def notes() -> Iterator[list[Any]]:
    """What the user is told in this test: napari's notifications."""
    from napari.utils.notifications import notification_manager

    seen: list[Any] = []

    def note(notification: Any) -> None:
        seen.append(notification)

    notification_manager.notification_ready.connect(note)
    yield seen
    notification_manager.notification_ready.disconnect(note)


@pytest.fixture
def movie() -> Any:
    """A noisy movie of 8 frames of 48 x 48 px, uint16."""
    from napari_stbn import simulate

    return simulate((8, 48, 48), seed=0).noisy


@pytest.fixture
def viewer(
    nothing_leaks: None, plugin: Any, make_napari_viewer: Callable[..., Any], movie: Any
) -> Any:
    """A viewer with the movie as the layer "cells"."""
    viewer = make_napari_viewer()
    viewer.add_image(movie, name="cells")
    return viewer


@pytest.fixture
def open_widget() -> Callable[[Any], Any]:
    """Open the widget in a viewer through the manifest, with rows for a fit that is small.

    It does not end by itself; set the row `max_steps` for one that does.
    """

    def open_widget(viewer: Any) -> Any:
        _, widget = viewer.window.add_plugin_dock_widget("napari-stbn", "Denoise time-lapse")
        widget.preset.value = "preview"
        widget.device.value = "cpu"
        widget.advanced["precision"].value = "float32"
        widget.advanced["max_steps"].value = STEPS_WITHOUT_END
        for name, value in (("clip_frames", 3), ("clip_size", 12), ("batch", 1), ("checks", 2)):
            widget.training[name].value = value
        return widget

    return open_widget


@pytest.fixture
def widget(viewer: Any, open_widget: Callable[[Any], Any]) -> Any:
    """The widget in the viewer with the movie, and a fit that is small and does not end."""
    return open_widget(viewer)


@pytest.fixture
def until(qtbot: Any) -> Callable[..., float]:
    """Let Qt run until a condition holds; how long that took [s]."""

    def until(condition: Callable[[], bool], timeout: float = 20) -> float:
        started = time.perf_counter()
        qtbot.waitUntil(condition, timeout=int(1000 * timeout))
        return time.perf_counter() - started

    return until


@pytest.fixture
def fitting(until: Callable[..., float]) -> Callable[[Any], None]:
    """Let Qt run until a job has done steps."""

    def fitting(job: Any) -> None:
        steps: list[Any] = []
        job.progressed.connect(lambda progress: steps.extend(progress.steps))
        until(lambda: bool(steps) or not job.is_running)
        assert job.is_running, f"{job} ended early: {job.error!r}"

    return fitting
