"""A package of the bioimage.io format: what it says about a model, written and validated."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ._appearing import appearing

__all__ = ["write_package"]

_logger = logging.getLogger(__name__)
_LEAST = {"time": 2, "y": 8, "x": 8}


def write_package(
    path: Path,
    folder: Path,
    *,
    state: Mapping[str, torch.Tensor],
    arguments: Mapping[str, Any],
    sample: NDArray[np.float32],
    results: Sequence[NDArray[np.float32]],
    name: str,
    authors: Sequence[str],
    flow: str,
    still_free: Callable[[], None],
) -> None:
    """Write a package, whole or not at all.

    Parameters
    ----------
    path : Path
    folder : Path
        Empty, for the parts of the package.
    state : mapping of str to Tensor
        Weights.
    arguments : mapping
        Of `napari_stbn.export.StillModel`.
    sample : ndarray, shape (1, T, C, Y, X), float32 [user's units]
        A movie that goes in.
    results : sequence of ndarray, shape (1, T, C, Y, X), float32 [user's units]
        What comes out: denoised, and its uncertainty where there is one.
    name, authors, flow
        As in `napari_stbn.export.export_bioimageio`; the flow that the model was fitted with.
    still_free : callable
        Raises where `path` must not be replaced.

    Raises
    ------
    ValueError
        If the package is not valid, or does not give back its own results.
    """
    import bioimageio.spec.model.v0_5 as spec
    from bioimageio.spec import save_bioimageio_package

    channels = [f"channel{c}" for c in range(sample.shape[2])]
    torch.save(dict(state), folder / "weights.pt")
    np.save(folder / "noisy.npy", sample)
    for word, result in zip(("denoised", "uncertainty"), results, strict=False):
        np.save(folder / f"{word}.npy", result)
    (folder / "README.md").write_text(_documentation(flow, len(results)), encoding="utf-8")
    outputs = [
        spec.OutputTensorDescr(
            id=spec.TensorId(word),
            description=said,
            axes=_axes(channels, spec.TimeOutputAxis, spec.SpaceOutputAxis, reference="noisy"),
            test_tensor=_file(folder / f"{word}.npy"),
            data=spec.IntervalOrRatioDataDescr(type="float32"),
        )
        for (word, said), _ in zip(
            (
                (
                    "denoised",
                    "the movie without noise, in the intensities of the input",
                ),
                ("uncertainty", "posterior standard deviation, in the intensities of the input"),
            ),
            results,
            strict=False,
        )
    ]
    try:
        model = spec.ModelDescr(
            name=name,
            description="Self-supervised denoising of a time-lapse movie, fitted to one camera and "
            "specimen, along zero motion.",
            authors=[spec.Author(name=author) for author in authors],
            license=spec.LicenseId("BSD-3-Clause"),
            documentation=_file(folder / "README.md"),
            tags=["denoising", "time-lapse", "self-supervised", "fluorescence", "pytorch", "2d-t"],
            inputs=[
                spec.InputTensorDescr(
                    id=spec.TensorId("noisy"),
                    description="noisy movie, intensities as the camera gave them",
                    axes=_axes(channels, spec.TimeInputAxis, spec.SpaceInputAxis),
                    test_tensor=_file(folder / "noisy.npy"),
                    data=spec.IntervalOrRatioDataDescr(type="float32"),
                )
            ],
            outputs=outputs,
            weights=spec.WeightsDescr(
                pytorch_state_dict=spec.PytorchStateDictWeightsDescr(
                    source=folder / "weights.pt",
                    architecture=spec.ArchitectureFromLibraryDescr(
                        callable=spec.Identifier("StillModel"),
                        import_from="napari_stbn.export",
                        kwargs=dict(arguments),
                    ),
                    pytorch_version=spec.Version(torch.__version__.partition("+")[0]),
                )
            ),
        )
    except ValueError as error:
        said = " ".join(str(error).split())[:400]
        raise ValueError(f"the model cannot be described in the format: {said}") from error
    with appearing(path, still_free, ending=".zip") as unfinished:
        save_bioimageio_package(model, output_path=unfinished)
        _check(unfinished)


def _check(path: Path) -> None:
    """Raise unless a package is valid and, where bioimageio.core can run it, gives its results."""
    from bioimageio.spec import load_description_and_validate_format_only

    summary = load_description_and_validate_format_only(path)
    if find_spec("bioimageio.core") is not None:
        try:
            from bioimageio.core import test_model
        except ImportError as error:  # pip pairs a new spec with an old core, which may not load
            _logger.warning("the package was validated, not run: bioimageio.core fails: %s", error)
        else:
            summary = test_model(path, devices=["cpu"])
    if summary.status not in ("passed", "valid-format"):
        errors = [error.msg for detail in summary.details for error in detail.errors]
        raise ValueError(f"the package is not valid: {' '.join(errors)[:400] or summary.status}")


def _file(path: Path) -> Any:
    """A file of the package."""
    from bioimageio.spec.model.v0_5 import FileDescr

    return FileDescr(source=path)


def _axes(channels: Sequence[str], time: Any, space: Any, reference: str = "") -> list[Any]:
    """Axes of a tensor; an output's sizes are those of the input."""
    import bioimageio.spec.model.v0_5 as spec

    def size(axis: str) -> Any:
        if not reference:
            return spec.ParameterizedSize(min=_LEAST[axis], step=1)
        return spec.SizeReference(tensor_id=spec.TensorId(reference), axis_id=spec.AxisId(axis))

    return [
        spec.BatchAxis(),
        time(id=spec.AxisId("time"), size=size("time")),
        spec.ChannelAxis(channel_names=[spec.Identifier(word) for word in channels]),
        *(space(id=spec.AxisId(axis), size=size(axis)) for axis in "yx"),
    ]


def _documentation(flow: str, outputs: int) -> str:
    """What a user of the package must know."""
    motion = (
        "It was fitted without motion, and gives what napari-stbn gives."
        if flow == "none"
        else f'It was fitted along motion (method "{flow}"), which the format cannot hold: here it '
        "goes along zero motion, as if the specimen stood still. Moving structures get blurred or "
        "noisier than with napari-stbn."
    )
    sure = "and its posterior standard deviation " if outputs > 1 else ""
    return f"""# Time-lapse denoiser

A spatiotemporal blind-spot network, fitted by napari-stbn to noisy movies without clean images.
In: a noisy movie with axes batch, time, channel, y, x, in the camera's own intensities.
Out: the denoised movie {sure}in the same intensities.
The model knows the noise and the scale of the camera that it was fitted to; use it for no other.

{motion}

It runs where napari-stbn is installed (`pip install napari-stbn`).

## Validation

No ground truth belongs to a model that was fitted to one movie. Look at what was removed, noisy
minus denoised: it should look like noise and nothing else.
"""
