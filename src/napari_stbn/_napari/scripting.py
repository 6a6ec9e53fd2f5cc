"""Denoise a layer from a script: `denoise_layer` waits, `start_denoising` does not.

The widget and the menu go through here as well. napari is imported where it is needed, so that the
names exist without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer, Shapes

    from napari_stbn.denoiser import Denoiser
    from napari_stbn.settings import RunSettings

    from ._run import Outcome
    from .job import DenoisingJob
    from .layers import LayerStack, Region

    Where: TypeAlias = Literal["whole", "visible"] | Region | Shapes

__all__ = ["denoise_layer", "find_region", "start_denoising"]


def denoise_layer(
    viewer: ViewerModel, layer: str | Layer | None = None, **choices: Any
) -> list[Layer]:
    """Denoise a layer and wait for the results; the viewer stays usable meanwhile.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
        Gets the new layers. A ViewerModel needs no Qt.
    layer : str or Layer, optional
        An Image layer or its name; the selected one when None.
    **choices
        See `start_denoising`.

    Returns
    -------
    list of napari layers
        Denoised, uncertainty, flow, flow colour: those that were asked for and exist.

    Raises
    ------
    ValueError, RuntimeError, MemoryError
        See `start_denoising`; what goes wrong in the fit has its own type.

    Examples
    --------
    >>> import napari_stbn as stbn
    >>> from napari.components import ViewerModel
    >>> viewer = ViewerModel()
    >>> movie = viewer.add_image(stbn.simulate((6, 32, 32), seed=0).noisy, name="cells")
    >>> layers = stbn.denoise_layer(viewer, "cells", max_steps=2, device="cpu")
    >>> layers[0].name
    'cells denoised'
    """
    return start_denoising(viewer, layer, **choices).wait()


def start_denoising(
    viewer: ViewerModel,
    layer: str | Layer | None = None,
    *,
    settings: RunSettings | None = None,
    axes: str | None = None,
    region: Where = "whole",
    channels: Sequence[int] | None = None,
    planes: Sequence[int] | None = None,
    model: Denoiser | str | PathLike[str] | None = None,
    uncertainty: bool = True,
    flow: bool | str = True,
    residual: bool = False,
    flow_density: int = 16,
    threads: int = 0,
    preview: bool = False,
    unfinished: Literal["forget", "resume"] | None = None,
    **choices: Any,
) -> DenoisingJob:
    """Denoise a layer in the background.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
    layer : str or Layer, optional
        An Image layer or its name; the selected one when None.
    settings : RunSettings, optional
        Of the run; the defaults when None.
    axes : str, optional
        One letter for each dimension of the layer's data out of T C Z Y X S; guessed when None.
    region : {"whole", "visible"}, Region or Shapes layer
        Which pixels of the frames.
    channels, planes : sequence of int, optional
        Which ones; all when None.
    model : Denoiser or path, optional
        Denoise with this model instead of fitting.
    uncertainty, residual : bool
        Whether to add these layers.
    flow : bool or str
        Whether to add the flow layers; a method of `napari_stbn.estimate_flow` is the setting of
        that name.
    flow_density : int, default 16 [px]
        Distance between two arrows.
    threads : int, default 0
        Threads of the computation on the CPU; 0 leaves a core to the screen.
    preview : bool, default False
        Show the frame on the screen as the fit sees it by now.
    unfinished : {"forget", "resume"}, optional
        Keep the state of the fit in the user's cache folder until the run is done; begin anew, or
        go on with what an earlier run of the same movie and settings left there when it broke off.
        Nothing is kept when None.
    **choices
        Fields of `napari_stbn.RunSettings`, such as ``time_budget=60`` or ``preset="best"``.

    Returns
    -------
    DenoisingJob
        With ``wait``, ``pause``, ``resume``, ``stop``, ``cancel`` and the signals ``progressed``
        and ``finished``. Without Qt, ``wait`` must be called to add the layers.

    Raises
    ------
    ValueError
        If the layer cannot be denoised, or a choice is unknown.
    MemoryError
        If even the result would not fit into memory: a file can take it
        (`napari_stbn.Denoiser.denoise_to`).
    RuntimeError
        If another run is in progress.
    """
    from napari_stbn._streaming import check_result, exceeds, memory_budget
    from napari_stbn.denoiser import Denoiser
    from napari_stbn.settings import RunSettings

    from ._run import Request
    from .job import DenoisingJob
    from .layers import layer_stack

    if threads < 0:
        raise ValueError(
            f"threads must be 0 (one core is left to the screen) or more, got {threads}"
        )
    if not flow_density > 0:
        raise ValueError(f"flow_density must be a distance above 0 px, got {flow_density}")
    image = _find(viewer, layer)
    settings = settings or RunSettings()
    if isinstance(flow, str):
        choices["flow"], flow = flow, True
    unknown = set(choices) - {row.name for row in fields(RunSettings)}
    if unknown:
        raise ValueError(
            f"start_denoising has no {', '.join(sorted(unknown))}; choose from "
            f"{', '.join(row.name for row in fields(RunSettings))}"
        )
    settings = replace(settings, **choices)
    letters = axes or None
    source = layer_stack(
        image,
        axes=letters,
        region=find_region(viewer, image, letters, region),
        channels=channels,
        planes=planes,
    )
    source.stack.check()
    limit = memory_budget(settings.memory_limit)
    if exceeds(source.stack, limit):  # now, not after the fit
        check_result(source.stack, limit, settings.noise is not None)
    if model is not None and not isinstance(model, Denoiser):
        model = Denoiser.load(fspath(model), device=settings.device)
    elif model is None:
        settings.denoiser()  # an unknown choice is said here, not in the background
        start = settings.start
        if start not in ("fresh", "pretrained") and not Path(start).is_file():
            raise FileNotFoundError(f"there is no model {start} to start from")
    shown = {"uncertainty": uncertainty, "flow": flow, "residual": residual}
    screen = getattr(viewer, "window", None) is not None
    job = DenoisingJob(
        source.stack.name or "movie",
        Request(source.stack, settings, model, threads, unfinished),
        source,
        build=lambda outcome: _build(source, outcome, settings, shown, flow_density),
        add=lambda layers: _add(viewer, source, layers),
        screen=screen,
    )
    _watch(viewer, source, job)
    if preview and screen:
        from .preview import Preview

        job.preview = Preview(viewer, source, job)  # kept alive by the job
    return job


def _find(viewer: ViewerModel, layer: str | Layer | None) -> Layer:
    """The layer that is meant."""
    if layer is None:
        layer = viewer.layers.selection.active
        if layer is None:
            raise ValueError("no layer is selected; select an image layer, or name one")
    if isinstance(layer, str):
        names = [known.name for known in viewer.layers]
        if layer not in names:
            raise ValueError(
                f"there is no layer {layer!r}; layers are {', '.join(names) or 'none'}"
            )
        return viewer.layers[layer]
    return layer


def find_region(
    viewer: ViewerModel, layer: Layer, axes: str | None, region: Where
) -> Region | None:
    """The pixels that are meant; None for whole frames.

    Raises
    ------
    ValueError
        If the word is unknown, or what was drawn lies outside of the layer.
    """
    from .layers import Region, guess_layer_axes, shapes_region, visible_region

    if isinstance(region, Region):
        return region
    if isinstance(region, str) and region == "whole":
        return None
    letters = axes or guess_layer_axes(layer)[0]
    if isinstance(region, str):
        if str(region) != "visible":  # a script may pass any word
            raise ValueError(
                f'region must be "whole", "visible", a Region or a Shapes layer, got {region!r}'
            )
        return visible_region(viewer, layer, letters)
    return shapes_region(region, layer, letters)


def _build(
    source: LayerStack,
    outcome: Outcome,
    settings: RunSettings,
    shown: dict[str, bool],
    flow_density: int,
) -> list[Layer]:
    """Layers of a result; in the other thread, since this takes time for large movies."""
    from .layers import result_layers

    if outcome.result is None:
        return []
    return result_layers(
        source,
        outcome.result,
        **shown,
        flow_density=flow_density,
        metadata={"settings": settings.to_json()},
    )


def _add(viewer: ViewerModel, source: LayerStack, layers: list[Layer]) -> Iterator[Layer]:
    """Add the layers; the denoised one is selected, as after File > Open.

    Earlier results of the same pixels are hidden: the new one is compared with the movie, not with
    them, and an older uncertainty would cover it.
    """
    from ._own_layers import results_of

    for older in results_of(viewer.layers, source.layer):
        older.visible = older.visible and not _covers(layers[0], older)
    for layer in layers:
        viewer.add_layer(layer)
        viewer.layers.selection = {layers[0]}
        yield layer


def _covers(new: Layer, old: Layer) -> bool:
    """Whether one result holds all that another one holds of their movie."""
    from ._origin import about

    now, before = about(new), about(old)
    if now["axes"] != before.get("axes"):
        return False
    return all(
        set(range(*part)) <= set(range(*now["selection"][axis]))
        for axis, part in before["selection"].items()
    )


def _watch(viewer: ViewerModel, source: LayerStack, job: DenoisingJob) -> None:
    """Cancel the job when its layer, or the viewer with it, goes."""

    def removed(event: Any) -> None:
        if event.value is source.layer:
            job.cancel()

    def forget(event: Any) -> None:
        if event.value not in job.layers:
            return
        if event.value is job.layers[0]:
            job.result = None  # nothing is kept of what the user has thrown away
        job.layers.remove(event.value)
        if not job.layers:
            viewer.layers.events.removed.disconnect(forget)

    def ended(state: str) -> None:
        viewer.layers.events.removed.disconnect(removed)
        if state == "done":
            viewer.layers.events.removed.connect(forget)

    viewer.layers.events.removed.connect(removed)
    job.finished.connect(ended)
