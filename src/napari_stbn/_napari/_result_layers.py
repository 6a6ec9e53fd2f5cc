"""Layers that show a result as its source is shown, with where it came from in the metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from napari.layers import Image

from napari_stbn._napari._origin import remember_source
from napari_stbn._napari.flow_layers import FLOW_KEY, flow_colour_image, flow_vectors
from napari_stbn.stack import cast_like

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_stbn._napari.layers import LayerStack
    from napari_stbn.result import DenoiseResult

__all__ = ["appearance", "result_layers"]

_SAMPLES = 500_000  # values that a quantile looks at
_AS_SHOWN = (
    "blending",
    "opacity",
    "interpolation2d",
    "interpolation3d",
    "rendering",
    "attenuation",
)
_AS_SHOWN_IN_GREY = ("colormap", "gamma", "contrast_limits", "auto_contrast", "projection_mode")


def appearance(layer: Image) -> dict[str, Any]:
    """Keyword arguments that show a new layer as this one is shown."""
    names = _AS_SHOWN if layer.rgb else (*_AS_SHOWN, *_AS_SHOWN_IN_GREY)
    shown = {name: getattr(layer, name) for name in names}
    if layer.interpolation2d == "custom":
        shown["custom_interpolation_kernel_2d"] = layer.custom_interpolation_kernel_2d
    return shown


def result_layers(
    source: LayerStack,
    result: DenoiseResult,
    *,
    uncertainty: bool = True,
    residual: bool = False,
    flow: bool = True,
    flow_density: int = 16,
    metadata: Mapping[str, Any] | None = None,
) -> list[Layer]:
    """Make the layers that show a result; adding them to a viewer is the caller's.

    Parameters
    ----------
    source : LayerStack
        What was denoised; only read.
    result : DenoiseResult
        Of ``source.stack``.
    uncertainty, residual, flow : bool
        Which layers besides the denoised one. The uncertainty is left out where there is none.
    flow_density : int [px]
        Distance of the arrows.
    metadata : mapping, optional
        Further plain values for ``layer.metadata["napari-stbn"]``, beside the result's report.

    Returns
    -------
    list of Layer
        Denoised, uncertainty, flow, flow colour, residual: those that were asked for. All but the
        first and the flow are hidden at first, since they would cover the denoised movie.

    Raises
    ------
    ValueError
        The result has another shape than the source.
    """
    stack = source.stack
    if result.denoised.shape != stack.shape:
        raise ValueError(
            f"the result must have the shape {stack.shape} of its source, "
            f"got {result.denoised.shape}"
        )
    given = _plain({**result.report, **_provenance(source), **(metadata or {})})

    def finish(layer: Layer, kind: str) -> Layer:
        layer.name = f"{source.layer.name} {kind}"
        own = layer.metadata.get("napari-stbn", {})
        layer.metadata["napari-stbn"] = {**given, **_plain(own), "kind": kind}
        remember_source(layer, source.layer)
        return layer

    layers = [finish(_denoised_layer(source, result.denoised), "denoised")]
    if uncertainty and result.uncertainty is not None:
        layers.append(finish(_uncertainty_layer(source, result.uncertainty), "uncertainty"))
    if flow and len(result.flow_to_next):  # a stack in pieces keeps none
        arrows = flow_vectors(result.flow_to_next, source, density=flow_density)
        layers.append(finish(arrows, "flow"))
        cells = arrows.metadata[FLOW_KEY]
        colours, arguments = flow_colour_image(result.flow_to_next, source, cells=cells)
        layers.append(finish(Image(colours, **arguments), "flow colour"))
    if residual:
        layers.append(finish(_residual_layer(source, result.denoised), "residual"))
    return layers


def _denoised_layer(source: LayerStack, denoised: npt.NDArray[np.float32]) -> Image:
    """Show the denoised movie exactly as its source is shown."""
    if source.layer.rgb:
        return Image(_with_alpha(source, denoised), rgb=True, **source.shown, **source.place)
    image = Image(denoised, rgb=False, **source.shown, **source.place)
    # The sliders reach all values, also those outside of the limits of the source.
    _widen(image, _finite_range(denoised))
    return image


def _uncertainty_layer(source: LayerStack, uncertainty: npt.NDArray[np.float32]) -> Image:
    """Show the uncertainty from dark (sure) to bright."""
    if source.layer.rgb:  # root mean square over the colours, a frame at a time
        uncertainty = _over_colours(uncertainty, lambda part: np.sqrt(np.mean(part**2, axis=-1)))
    low, high = _quantiles(uncertainty, (0.01, 0.995))
    limits = (low, high) if high > low else (0.0, max(high, 1.0))
    image = _grey(source, uncertainty, limits, "magma")
    _widen(image, (0.0, _finite_range(uncertainty)[1]))
    return image


def _residual_layer(source: LayerStack, denoised: npt.NDArray[np.float32]) -> Image:
    """Show what was taken away, noisy less denoised, gray where it is 0."""
    stack = source.stack
    residual = np.empty(stack.shape, np.float32)
    for frame in range(stack.n_frames):
        one = tuple(frame if axis == "T" else slice(None) for axis in stack.axes)
        np.subtract(
            np.asarray(stack.array[one]),
            denoised[one],
            out=residual[one],
            dtype=np.float64,
            casting="unsafe",
        )
    if source.layer.rgb:
        residual = _over_colours(residual, lambda part: np.mean(part, axis=-1))
    reach = max(map(abs, _quantiles(residual, (0.005, 0.995)))) or 1.0
    image = _grey(source, residual, (-reach, reach), "gray")
    largest = max(map(abs, _finite_range(residual)))
    _widen(image, (-largest, largest))
    return image


def _grey(
    source: LayerStack, data: npt.NDArray[Any], limits: tuple[float, float], colormap: str
) -> Image:
    """Make a hidden layer of one value a pixel."""
    return Image(
        data,
        rgb=False,
        colormap=colormap,
        contrast_limits=limits,
        blending=source.shown["blending"],
        interpolation2d="nearest",
        visible=False,
        **source.place,
    )


def _with_alpha(source: LayerStack, denoised: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Colours in the type of the source, so that napari shows them alike; alpha as it was."""
    data = source.data
    colours = cast_like(denoised, source.stack.dtype)
    if data.shape[-1] == colours.shape[-1]:
        return colours
    alpha = np.asarray(data[(*source.selection[:-1], slice(3, 4))])
    return np.concatenate([colours, alpha.astype(colours.dtype)], axis=-1)


def _over_colours(data: npt.NDArray[np.float32], reduce: Any) -> npt.NDArray[np.float32]:
    """Reduce the last axis, a part of the first axis at a time."""
    out = np.empty(data.shape[:-1], np.float32)
    for position in range(len(data)):
        out[position] = reduce(data[position])
    return out


def _widen(image: Image, reach: tuple[float, float]) -> None:
    """Let the contrast sliders reach these values without moving them."""
    low, high = image.contrast_limits_range
    image.contrast_limits_range = (min(low, reach[0]), max(high, reach[1]))


def _finite_range(data: npt.NDArray[Any]) -> tuple[float, float]:
    """Lowest and highest finite value, (0, 1) where there is none."""
    low, high = float(np.fmin.reduce(data, axis=None)), float(np.fmax.reduce(data, axis=None))
    if np.isfinite(low) and np.isfinite(high):
        return low, high
    finite = data[np.isfinite(data)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _quantiles(data: npt.NDArray[Any], levels: tuple[float, float]) -> tuple[float, float]:
    """Quantiles of the finite values of an evenly spread sample; (0, 1) where there is none."""
    # A step that shares no factor with a power-of-two width visits all columns.
    step = max(1, data.size // _SAMPLES) | 1
    sample = data.reshape(-1)[::step] if data.flags.c_contiguous else data.flat[::step]
    finite = sample[np.isfinite(sample)]
    if not finite.size:
        finite = data[np.isfinite(data)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.quantile(finite.astype(np.float64), levels)
    return float(low), float(high)


def _provenance(source: LayerStack) -> dict[str, Any]:
    """Which part of which layer."""
    parts = {
        axis: [part.start, part.stop, part.step or 1]
        for axis, part in zip(source.axes, source.selection, strict=True)
    }
    return {"source": source.layer.name, "axes": source.axes, "selection": parts}


def _plain(value: Any) -> Any:
    """Turn into values that JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return value if isinstance(value, str | int | float | bool | None) else str(value)
