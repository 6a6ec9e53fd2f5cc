"""`napari-stbn batch`."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

from ._commands import settings_of
from ._lines import counted, printable, shown
from .batch import BatchOptions, MovieOutcome, batch_steps

__all__ = ["batch"]

_WIDEST = 60  # letters of a column of the table
_NAMED = 3  # movies that a note names


def batch(options: argparse.Namespace) -> int:
    """Denoise many movies; 1 if any failed."""
    chosen = BatchOptions(
        settings=settings_of(options),
        model=options.model,
        shared_model=options.shared_model,
        scheduler=options.scheduler,
        workers=options.workers,
        axes=options.axes,
        ending=options.ending,
        uncertainty=options.uncertainty,
        keep_dtype=options.keep_dtype,
        overwrite=options.force,
        blocks=options.blocks,
        camera=options.camera or (),
        scene=options.scene,
    )
    outcomes: list[MovieOutcome] = []
    steps = batch_steps(options.inputs, options.output, chosen)
    try:
        for outcome in steps:
            outcomes.append(outcome)
            name = shown(outcome.input.name)
            print(f"{name}: {outcome.error or outcome.status}", flush=True)
            for note in outcome.notes:
                print(f"note on {name}: {printable(note)}", flush=True)
    except KeyboardInterrupt as stop:
        steps.close()
        raise KeyboardInterrupt(
            "what is finished stays, the same command goes on from here"
        ) from stop
    print(_table(outcomes))
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _table(outcomes: Sequence[MovieOutcome]) -> str:
    """All movies and how they ended, what was noticed, and a line that counts them."""
    rows = [("movie", "result", "steps", "seconds", "")]
    for outcome in sorted(outcomes, key=lambda each: each.input):
        done = outcome.status == "done"
        rows.append(
            (
                shown(outcome.input.name),
                outcome.status,
                str(outcome.steps) if done else "",
                f"{outcome.seconds:.1f}" if done else "",
                outcome.error or shown(outcome.output.name),
            )
        )
    widths = [min(_WIDEST, max(len(row[i]) for row in rows)) for i in range(4)]
    lines = [
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]))
        for row in rows
    ]
    count = Counter(outcome.status for outcome in outcomes)
    total = ", ".join(f"{count[word]} {word}" for word in ("done", "skipped", "failed"))
    lines = [line.rstrip() for line in lines]
    return "\n".join(
        ["", *lines, "", *_notes(outcomes), f"{counted(len(outcomes), 'movie')}: {total}"]
    )


def _notes(outcomes: Sequence[MovieOutcome]) -> list[str]:
    """Each note once, with the movies that it is about."""
    about: dict[str, list[str]] = {}
    for outcome in outcomes:
        for note in outcome.notes:
            about.setdefault(note, []).append(shown(outcome.input.name))
    return [f"note on {_some(names)}: {printable(note)}" for note, names in about.items()]


def _some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
