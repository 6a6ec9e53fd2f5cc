"""Model files: safetensors weights with a JSON header, nothing that could execute."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["FORMAT_VERSION", "ModelFile", "read_model_file", "write_model_file"]

# 2: networks may be told of the noise; 3: a flow student may be there; 4: a network for the flow
# 5: colours may be denoised as components
FORMAT_VERSION = 5
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
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name or pass overwrite=True")
    header = json.dumps({"format_version": FORMAT_VERSION, **model.header}, allow_nan=False)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(dict(model.weights), temporary, metadata={_KEY: header})
        Path(temporary).replace(path)
    except SafetensorError as error:  # a full drive, in the words of another language
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
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
