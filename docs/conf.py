"""Sphinx configuration: the pages beside this file, and the reference made from the docstrings."""

from importlib.metadata import version as distribution_version

project = "napari-stbn"
author = "The napari-stbn developers"
copyright = "2026, the napari-stbn developers"
release = distribution_version("napari-stbn")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "furo"
autodoc_typehints = "none"  # the numpydoc type line says more: shape and unit
autosummary_generate = True
autosummary_ignore_module_all = False
napoleon_google_docstring = False
napoleon_use_ivar = True
myst_heading_anchors = 3
