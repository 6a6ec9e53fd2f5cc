"""`napari-stbn batch`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from ._commands import settings_of
from .batch import BatchOptions, MovieOutcome, batch_steps

__all__ = ["batch"]

_WIDEST = 60  # letters of a column of the table


def batch(options: argparse.Namespace) -> int:
    """Denoise many movies; 1 if any failed, 130 if stopped."""
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
    )
    outcomes: list[MovieOutcome] = []
    steps = batch_steps(options.inputs, options.output, chosen)
    try:
        for outcome in steps:
            outcomes.append(outcome)
            print(f"{outcome.input.name}: {outcome.error or outcome.status}", flush=True)
            for note in outcome.notes:
                print(f"note: {note}", flush=True)
    except KeyboardInterrupt:
        steps.close()
        print(
            "napari-stbn: stopped; what is finished stays, the same command goes on from here",
            file=sys.stderr,
        )
        return 130
    print(_table(outcomes))
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _table(outcomes: Sequence[MovieOutcome]) -> str:
    """All movies and how they ended, and a line that counts them."""
    rows = [("movie", "result", "steps", "seconds", "")]
    for outcome in sorted(outcomes, key=lambda each: each.input):
        done = outcome.status == "done"
        rows.append(
            (
                outcome.input.name,
                outcome.status,
                str(outcome.steps) if done else "",
                f"{outcome.seconds:.1f}" if done else "",
                outcome.error or outcome.output.name,
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
    return "\n".join(["", *lines, "", f"{len(outcomes)} movies: {total}"])
