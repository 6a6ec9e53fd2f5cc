"""`napari-stbn export`."""

from __future__ import annotations

import argparse

from .export import export_bioimageio

__all__ = ["export"]


def export(options: argparse.Namespace) -> None:
    """Write a saved model as a package of the bioimage.io format."""
    path = export_bioimageio(
        options.model,
        options.output,
        name=options.name,
        authors=options.author,
        channel=options.channel,
        overwrite=options.force,
    )
    print(f"{path}: a valid package of the bioimage.io format; it goes along zero motion")
