"""Whatever is closed or removed in the middle of a fit: it ends, and leaves nothing behind."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest
from napari.utils.key_bindings import coerce_keybinding
from qtpy.QtCore import QThreadPool
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QApplication

from napari_stbn._napari.compare import KEY
from napari_stbn._napari.job import running_job


def _gone() -> bool:
    """Whether no job and no thread of one is left."""
    pool = QThreadPool.globalInstance()
    return running_job() is None and (pool is None or pool.activeThreadCount() == 0)


def _no_thread_left() -> bool:
    return _gone() and not any(t.name == "napari-stbn" for t in threading.enumerate())


class _Click(QCloseEvent):
    """The user's click on the cross of a window, which Qt calls spontaneous."""

    def spontaneous(self) -> bool:
        return True


def _close_by_the_cross(viewer: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Close the window as its cross does; what napari asked about before, answered by yes."""
    from napari._qt.dialogs.confirm_close_dialog import ConfirmCloseDialog
    from qtpy.QtWidgets import QDialog

    asked: list[str] = []
    make = ConfirmCloseDialog.__init__

    def note(dialog: Any, *args: Any, extra_info: str = "", **options: Any) -> None:
        asked.append(extra_info)
        make(dialog, *args, extra_info=extra_info, **options)

    window = viewer.window._qt_window
    with monkeypatch.context() as patch:
        patch.setattr(ConfirmCloseDialog, "__init__", note)
        patch.setattr(ConfirmCloseDialog, "exec_", lambda _: QDialog.DialogCode.Accepted)
        patch.setattr(window, "_save_current_window_settings", lambda: None)
        QApplication.sendEvent(window, _Click())
        window.close()
    del viewer.window._qt_window  # or the fixture of napari would close it again
    return asked


@pytest.mark.parametrize("way", ["viewer", "cross"])
def test_a_viewer_closed_in_the_middle_of_a_fit(
    way: str,
    viewer: Any,
    widget: Any,
    fitting: Callable[[Any], None],
    until: Callable[..., float],
    settle: Callable[[], None],
    notes: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    qtbot: Any,
) -> None:
    job = widget.fit()
    fitting(job)
    with qtbot.capture_exceptions() as exceptions:
        if way == "viewer":
            viewer.close()
        else:
            asked = _close_by_the_cross(viewer, monkeypatch)
            assert any('STBN denoising of "cells"' in question for question in asked)
        assert until(_no_thread_left) < 1
        settle()
    assert exceptions == []
    assert job.state == "cancelled"
    assert notes == []


@pytest.mark.parametrize("way", ["removed", "cleared"])
def test_a_source_that_is_removed_cancels(
    way: str,
    viewer: Any,
    widget: Any,
    fitting: Callable[[Any], None],
    until: Callable[..., float],
    notes: list[Any],
) -> None:
    job = widget.fit()
    fitting(job)
    until(lambda: len(viewer.layers) == 2)  # the preview
    if way == "removed":
        viewer.layers.remove("cells")
    else:
        viewer.layers.clear()
    assert until(_no_thread_left) < 1
    assert job.state == "cancelled"
    assert len(viewer.layers) == 0
    assert widget.run.status.value.startswith("cancelled")
    assert notes == []


def test_a_preview_that_the_user_removes_stays_away(
    viewer: Any,
    widget: Any,
    fitting: Callable[[Any], None],
    until: Callable[..., float],
    notes: list[Any],
) -> None:
    job = widget.fit()
    fitting(job)
    until(lambda: "cells preview" in viewer.layers)
    viewer.layers.remove("cells preview")
    steps: list[Any] = []
    job.progressed.connect(lambda progress: steps.extend(progress.steps))
    viewer.dims.set_current_step(0, 2)
    until(lambda: len(steps) > 20)
    assert "cells preview" not in viewer.layers
    job.stop()
    until(lambda: not job.is_running)
    assert job.state == "done", job.error
    assert "cells preview" not in viewer.layers
    assert "cells denoised" in viewer.layers
    assert notes == []


def test_a_job_outlives_its_widget_and_a_new_one_follows_it(
    viewer: Any,
    widget: Any,
    open_widget: Callable[[Any], Any],
    fitting: Callable[[Any], None],
    until: Callable[..., float],
    qtbot: Any,
) -> None:
    job = widget.fit()
    fitting(job)
    with qtbot.capture_exceptions() as exceptions:
        viewer.window.remove_dock_widget(widget.native)
        qtbot.wait(100)
        assert running_job() is job
        again = open_widget(viewer)
        assert again is not widget
        assert again.run.job is job
        assert again.run.cancel.enabled
        assert not again.run.fit.enabled
        until(lambda: again.run.progress.value > 0 or "fitting" in again.run.status.value)
        again.run.stop.changed.emit(True)
        until(lambda: not job.is_running)
    assert exceptions == []
    assert job.state == "done", job.error
    assert again.run.status.value.startswith("done")
    assert again.run.fit.enabled
    assert again.denoiser is job.denoiser
    assert again.buttons["report"].enabled
    assert f"max_steps={job.report['steps']}," in again.script()  # of the run, not of the rows


def _callbacks(viewer: Any) -> dict[str, int]:
    """How many callbacks that still live the events of a viewer have, by name."""
    return {
        f"{title}.{name}": sum(
            not isinstance(known, tuple) or known[0]() is not None for known in emitter.callbacks
        )
        for title, events in (
            ("layers", viewer.layers.events),
            ("selection", viewer.layers.selection.events),
            ("dims", viewer.dims.events),
            ("camera", viewer.scene.camera.events),
        )
        for name, emitter in events.emitters.items()
    }


def _widgets() -> Counter[str]:
    return Counter(type(widget).__name__ for widget in QApplication.allWidgets())


def test_nothing_leaks_when_the_widget_is_opened_and_closed_many_times(
    viewer: Any, open_widget: Callable[[Any], Any], settle: Callable[[], None], qtbot: Any
) -> None:
    def open_and_close() -> Any:
        widget = open_widget(viewer)
        known = ref(widget)
        assert coerce_keybinding(KEY) in viewer.keymap
        qtbot.wait(20)
        viewer.window.remove_dock_widget(widget.native)
        return known

    open_and_close()  # what napari makes once and keeps
    settle()
    callbacks, keys = _callbacks(viewer), set(viewer.keymap)
    widgets = _widgets()
    known = [open_and_close() for _ in range(20)]
    settle()
    assert [widget() for widget in known if widget() is not None] == []
    assert _widgets() - widgets == Counter()
    assert _callbacks(viewer) == callbacks
    assert set(viewer.keymap) == keys
    assert coerce_keybinding(KEY) not in keys
