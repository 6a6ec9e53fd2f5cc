"""What is noted about our layers: which one they were made of, also after either was renamed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from ._comparison import METADATA, bare

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["about", "remember_source", "source_of"]

# Not in the metadata: a copy of a layer would bear the identity of the first.
_sources: WeakKeyDictionary[Layer, ReferenceType[Layer]] = WeakKeyDictionary()


def about(layer: Layer) -> dict[str, Any]:
    """What is noted about a layer of ours; nothing of others."""
    noted = layer.metadata.get(METADATA)
    return noted if isinstance(noted, dict) else {}


def remember_source(layer: Layer, source: Layer) -> None:
    """Note what a layer was made of; neither is kept alive by it."""
    _sources[bare(layer)] = ref(bare(source))


def source_of(layer: Layer, layers: Iterable[Layer]) -> Layer | None:
    """Which of these layers a layer was made of; None where it is not among them.

    Its name in the metadata tells where the layer was not made in this session.
    """
    known = _sources.get(layer)
    if known is not None:
        source = known()
        return next((other for other in layers if other is source), None)
    name = about(layer).get("source")
    return next((other for other in layers if other.name == name and other is not layer), None)
