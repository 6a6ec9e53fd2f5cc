"""Model files: safetensors weights with a JSON header, nothing that could execute."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ._appearing import appearing, check_free

__all__ = ["FORMAT_VERSION", "ModelFile", "read_model_file", "write_model_file"]

# 2: networks may be told of the noise; 3: a flow student may be there; 4: a network for the flow
# 5: colours may be denoised as components
# 6: a filter over nearby pixels
FORMAT_VERSION = 6
_KEY = "napari_stbn"


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds.

    Attributes
    ----------
    header : dict
        Plain values.
    weights : mapping of str to Tensor
    """

    header: dict[str, Any]
    weights: Mapping[str, Tensor]


def write_model_file(path: Path, model: ModelFile, *, overwrite: bool) -> Path:
    """Write a model file whole or not at all.

    Raises
    ------
    FileExistsError
        If `path` exists and `overwrite` is False.
    OSError
        If the folder is missing or cannot be written to.
    """
    still_free = partial(check_free, path, overwrite=overwrite)
    still_free()
    header = json.dumps({"format_version": FORMAT_VERSION, **model.header}, allow_nan=False)
    # As bytes: what the library writes to a file by itself may be read by its owner alone.
    content = save(dict(model.weights), metadata={_KEY: header})
    with appearing(path, still_free) as unfinished:
        unfinished.write_bytes(content)
    return path


def read_model_file(path: Path) -> ModelFile:
    """Read a model file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is foreign, damaged, or from a newer version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no model file {path}")
    try:
        with safe_open(path, framework="pt") as content:
            metadata = content.metadata() or {}
            names = list(content.keys())
            weights = {name: content.get_tensor(name) for name in names}
    except (SafetensorError, OSError, RuntimeError) as error:  # the last: cut off while it is read
        if not path.is_file():  # gone meanwhile
            raise FileNotFoundError(f"there is no model file {path}") from error
        raise ValueError(f"{path.name} is not an STBN model, or is damaged: {error}") from error
    if _KEY not in metadata:
        raise ValueError(f"{path.name} holds weights of another program, not an STBN model")
    try:
        header = json.loads(metadata[_KEY])
        version = int(header["format_version"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path.name} is damaged: its header cannot be read ({error})") from error
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path.name} has format {version}, this version reads up to {FORMAT_VERSION}; "
            "update napari-stbn to open it"
        )
    return ModelFile(header, weights)
