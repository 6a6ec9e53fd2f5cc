"""napari finds the plugin, with and without a viewer on screen."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

import pytest

npe2 = pytest.importorskip("npe2", reason="napari is not installed")


def test_napari_discovers_the_installed_plugin() -> None:
    try:
        distribution("napari-stbn")
    except PackageNotFoundError:
        pytest.skip("napari-stbn runs from a bare source tree; pip install -e . to be discovered")
    manager = npe2.PluginManager()
    manager.discover()
    manifest = manager.get_manifest("napari-stbn")
    assert manifest.display_name == "STBN denoising"
    assert manifest.package_version == distribution("napari-stbn").version
