"""`napari-stbn export`."""

from __future__ import annotations

import argparse

from ._command_paths import check_apart, check_file
from ._lines import shown
from .export import export_bioimageio

__all__ = ["export"]


def export(options: argparse.Namespace) -> None:
    """Write a saved model as a package of the bioimage.io format."""
    check_apart([("the model", options.model)], {"--output": options.output})
    check_file(options.output, overwrite=options.force)
    path = export_bioimageio(
        options.model,
        options.output,
        name=options.name,
        authors=options.author,
        channel=options.channel,
        overwrite=options.force,
    )
    print(f"{shown(path)}: a valid package of the bioimage.io format; it goes along zero motion")
