"""Sample data: simulated movies with their truth, and real ones fetched in the background."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari.viewer import Viewer

__all__ = [
    "palisades_of_vogt",
    "protein_transport",
    "simulated_cells",
    "simulated_flashes",
    "simulated_vesicles",
]

LayerTuple: TypeAlias = tuple[Any, dict[str, Any], str]

_SHAPE = (32, 128, 128)  # below 1.5 s to simulate, long enough to fit in a minute or two
_PIXEL = 0.1  # µm, for a point-spread function of 1.2 px
_INTERVAL = 1.0  # s

# npe2 forbids the null layer [(None,)] in sample data and napari raises where no layer comes back
# at all. An image with no channels is a valid answer that adds nothing.
_NO_LAYER: LayerTuple = (np.empty((0, 1, 1), np.uint8), {"channel_axis": 0}, "image")


def simulated_cells() -> list[LayerTuple]:
    """Simulate nuclei, filaments, vesicles and flashing cells, as `napari-stbn demo` does.

    Returns
    -------
    list of layer data tuples
        Truth (hidden) below the noisy movie (T, Y, X), which napari makes the active layer.
    """
    return _simulated("simulated cells", kind="mixed", photons=20.0)


def simulated_vesicles() -> list[LayerTuple]:
    """Simulate vesicles that move by pixels a frame in very dim light, where averages smear.

    Returns
    -------
    list of layer data tuples
        As of `simulated_cells`.
    """
    return _simulated("simulated vesicles", kind="puncta", photons=12.0)


def simulated_flashes() -> list[LayerTuple]:
    """Simulate cells that flash for a few frames, events that averages over time would erase.

    Returns
    -------
    list of layer data tuples
        As of `simulated_cells`.
    """
    return _simulated("simulated flashes", kind="blinking", photons=20.0)


def palisades_of_vogt() -> list[LayerTuple]:
    """Fetch scikit-image's movie of a living human cornea, (60, 1440, 1440), in the background.

    Returns
    -------
    list of layer data tuples
        Nothing to add yet; the layer follows. The layer itself where there is no viewer window.
    """
    return _fetch(_REAL["palisades of Vogt"])


def protein_transport() -> list[LayerTuple]:
    """Fetch scikit-image's movie of a protein on its way to the nuclear envelope, (15, 180, 183).

    Returns
    -------
    list of layer data tuples
        As of `palisades_of_vogt`, one layer for each of the two channels.
    """
    return _fetch(_REAL["protein transport"])


def _simulated(name: str, *, kind: str, photons: float, seed: int = 0) -> list[LayerTuple]:
    """Simulate a movie; the noisy layer comes last: napari selects it and draws it on top."""
    from napari_stbn.samples import simulate

    movie = simulate(_SHAPE, kind=kind, photons=photons, seed=seed)
    # Of the truth: the noise, which reaches far beyond it, must not set the contrast.
    low, high = np.quantile(movie.clean, (0.001, 0.9995))
    camera = {
        "scene": movie.kind,
        "photons": photons,
        "gain": movie.gain,
        "offset": movie.offset,
        "read_noise": movie.read_noise,
        "seed": movie.seed,
    }

    def layer(data: NDArray[Any], name: str, visible: bool, **about: str) -> LayerTuple:
        options = {
            "name": name,
            "visible": visible,
            "contrast_limits": (float(low), float(high)),
            "scale": (_INTERVAL, _PIXEL, _PIXEL),
            "units": ("s", "µm", "µm"),
            "axis_labels": ("t", "y", "x"),
            "metadata": {"napari-stbn": {**about, **camera}},
        }
        return data, options, "image"

    return [
        layer(movie.clean, f"{name} truth", visible=False, kind="truth", source=name),
        layer(movie.noisy, name, visible=True, kind="simulated"),
    ]


@dataclass(frozen=True)
class _RealMovie:
    """A movie of scikit-image: `skimage.data.<function>`, in layers called `names`."""

    title: str
    function: str
    size: str
    names: tuple[str, ...]
    colormaps: tuple[str, ...] = ("gray",)

    def layers(self) -> list[LayerTuple]:
        """Download, or read what was downloaded before; one layer for each channel.

        Raises
        ------
        RuntimeError
            The one sentence why not.
        """
        try:
            from skimage import data

            movie = np.asarray(getattr(data, self.function)())
        except ImportError as error:  # skimage says so only when it needs the file
            raise RuntimeError(
                f'Fetching "{self.title}" needs the package pooch, which is not installed here: '
                "install it with `pip install pooch` and open the sample again."
            ) from error
        except (OSError, ValueError) as error:  # requests' errors are OSErrors; ValueError: hash
            raise RuntimeError(
                f'"{self.title}" could not be fetched from gitlab.com/scikit-image '
                f"({_short(error)}). Check the network, or a proxy or firewall on the way, "
                "and open the sample again; the simulated samples need no network."
            ) from error
        channels = [movie] if movie.ndim == 3 else list(np.moveaxis(movie, 1, 0))  # of (T, Y, X)
        return [
            self._layer(np.ascontiguousarray(channel), *look)
            for channel, *look in zip(channels, self.names, self.colormaps, strict=True)
        ]

    def _layer(self, movie: NDArray[Any], name: str, colormap: str) -> LayerTuple:
        """One channel; its pixel size and frame interval are not published with it."""
        some = movie[::4, :: max(1, movie.shape[1] // 200), :: max(1, movie.shape[2] // 200)]
        low, high = (float(value) for value in np.quantile(some, (0.001, 0.999)))
        options = {
            "name": name,
            "colormap": colormap,
            "blending": "additive" if len(self.names) > 1 else "translucent_no_depth",
            "contrast_limits": (low, max(high, low + 1.0)),
            "axis_labels": ("t", "y", "x"),
            "metadata": {
                "napari-stbn": {"kind": "sample", "from": f"skimage.data.{self.function}"}
            },
        }
        return movie, options, "image"


_REAL = {
    movie.title: movie
    for movie in (
        _RealMovie(
            "palisades of Vogt",
            "palisades_of_vogt",
            "60 frames of 1440 × 1440 pixels",
            names=("palisades of Vogt",),
        ),
        _RealMovie(
            "protein transport",
            "protein_transport",
            "15 frames of 180 × 183 pixels in 2 channels",
            names=("protein transport: nucleus", "protein transport: protein"),
            colormaps=("magenta", "green"),
        ),
    )
}
_under_way: set[str] = set()


def _fetch(movie: _RealMovie) -> list[LayerTuple]:
    """Start to fetch and return at once; without a window there is no one to keep waiting."""
    from napari.utils.notifications import show_info

    from napari import current_viewer

    viewer = current_viewer()
    if viewer is None:
        return movie.layers()
    if movie.title in _under_way:
        show_info(f'"{movie.title}" is being fetched already; its layers appear when it is here.')
        return [_NO_LAYER]
    from napari.qt.threading import create_worker

    _under_way.add(movie.title)
    worker = create_worker(
        _outcome,
        movie.layers,
        _start_thread=False,
        _progress={"desc": f"fetching {movie.title}"},
    )
    worker.returned.connect(partial(_show, weakref.ref(viewer)))
    worker.finished.connect(partial(_under_way.discard, movie.title))
    worker.start()
    show_info(
        f'Fetching "{movie.title}" ({movie.size}) in the background; '
        "its layers appear when it is here."
    )
    return [_NO_LAYER]


def _outcome(layers: Callable[[], list[LayerTuple]]) -> list[LayerTuple] | str:
    """Layers, or the sentence why not; a worker that raised would show tracebacks instead."""
    try:
        return layers()
    except RuntimeError as error:
        return str(error)


def _show(viewer_alive: Callable[[], Viewer | None], outcome: list[LayerTuple] | str) -> None:
    """Add what arrived to the viewer that asked, unless it was closed meanwhile."""
    from napari.layers import Layer
    from napari.utils.notifications import show_error
    from qtpy.compat import isalive

    viewer = viewer_alive()
    if viewer is None or not isalive(viewer.window.main_menu):
        return
    if isinstance(outcome, str):
        show_error(outcome)
        return
    for data, options, kind in outcome:
        viewer.add_layer(Layer.create(data, options, kind))


def _short(error: Exception) -> str:
    """First line of an error, without the many lines that requests and pooch add."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(". ")
