"""Names of the results of a batch: one for each movie, whatever the movies are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ._bioio import FOREIGN
from .io import READABLE

__all__ = ["ENDINGS", "names_of", "split", "uncertainty_of"]

ENDINGS = (*READABLE, *FOREIGN)
"""Of files that a batch takes for movies."""


def uncertainty_of(name: str) -> str:
    """What the uncertainty of a result is called, both without ending."""
    return f"{name}_uncertainty"


def names_of(sources: Sequence[Path], *, uncertainty: bool) -> list[str]:
    """A name for each result: that of the file, with its ending or folders where it needs them.

    Parameters
    ----------
    sources : sequence of Path
        Each once.
    uncertainty : bool
        Keep the names of the uncertainties free, too.

    Returns
    -------
    list of str
        No two of them, or of their uncertainties, differ in capital letters alone.
    """

    def repeated(words: Sequence[str]) -> list[bool]:
        # A file system may take small and capital letters for the same.
        taken = [*words, *(map(uncertainty_of, words) if uncertainty else ())]
        count = Counter(word.casefold() for word in taken)
        return [count[word.casefold()] > 1 for word in words]

    names = [split(source.name)[0] for source in sources]
    beside = repeated([str(source.with_name(n)) for source, n in zip(sources, names, strict=True)])
    names = [
        source.name.replace(".", "_") if more else name
        for source, name, more in zip(sources, names, beside, strict=True)
    ]
    for depth in range(1, max(len(source.parts) for source in sources)):
        more = repeated(names)
        if not any(more):
            break
        names = [
            f"{source.parts[-1 - depth]}_{name}"
            if again and depth < len(source.parts) - 1
            else name
            for source, name, again in zip(sources, names, more, strict=True)
        ]
    while any(more := repeated(names)):
        names = [
            f"{name}_{number}" if again else name
            for number, (name, again) in enumerate(zip(names, more, strict=True))
        ]
    return names


def split(name: str) -> tuple[str, str]:
    """A file's name without and with its endings for formats."""
    stem = name
    for ending in (*ENDINGS, ".ome"):
        if stem.lower().endswith(ending):
            stem = stem[: -len(ending)]
    return stem, name[len(stem) :]
