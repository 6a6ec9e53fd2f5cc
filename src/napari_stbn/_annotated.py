"""What the annotation of a field says: rows of the widget and options are made of the same."""

from __future__ import annotations

import typing
from typing import Any, Literal, NamedTuple

__all__ = ["Annotation", "annotation_of"]


class Annotation(NamedTuple):
    """Of a field ``Annotated[type, {"tooltip": …}]``."""

    details: dict[str, Any]
    words: list[Any]
    """To choose from, "auto" first; none where any value of the kind will do."""
    kind: Any
    """Type of its values, None left aside."""
    optional: bool
    """Whether None will do."""


def annotation_of(hint: Any) -> Annotation:
    """Take the hint of a field apart, as `typing.get_type_hints` gives it with extras."""
    annotation, details = typing.get_args(hint)[:2]
    parts = typing.get_args(annotation)
    words = [
        word
        for part in (annotation, *parts)
        if typing.get_origin(part) is Literal
        for word in typing.get_args(part)
    ]
    kind = next((part for part in parts if part is not type(None)), annotation)
    words.sort(key=lambda word: word != "auto")
    return Annotation(details, words, kind, type(None) in parts)
