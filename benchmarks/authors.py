"""The authors' released code beside ours on a GPU, in one run: a fit's step, inference, memory.

``python benchmarks/authors.py --authors FOLDER``, a checkout of github.com/ZKCCZ/STBN (MIT). It is
imported as it is; `_authors_code.py` stands in for what a current machine lacks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from _authors_code import (
    SIGMA,
    Code,
    TheirFit,
    authors_code,
    given_flow,
    made_movie,
    same_function,
)  # fmt: skip
from _common import Format, machine, machine_line, markdown_table, use_threads, write_results
from _our_rows import AS_PRODUCT, EXACT, FLOW_EACH, our_inference, our_steps, small_networks
from _rows import Row, Sizes, movie_row, rows_of, seconds_of, step_row, tried
from napari_stbn.devices import resolve_device

LONGEST = 60.0  # seconds of the authors' inference; beyond, a fifth of the frames is scaled up
THEIRS, THEIRS_EACH = "authors, bdc_flow as it is", "authors, bdc_2_unify as it is"
THEIRS_GIVEN = "authors, bdc_2_unify, flow given"
RATIOS = (
    ("as each runs", THEIRS, AS_PRODUCT),
    ("flow each step, no distillation", THEIRS_EACH, FLOW_EACH),
    ("flow given", THEIRS_GIVEN, AS_PRODUCT),
    ("flow given, ours in float32 too", THEIRS_GIVEN, EXACT),
)
FINE = ("ratio", "peak [GB]", "host [GB]", "of the peak", "authors / ours")


QUICK = Sizes(1, 3, 32, (6, 64), 2)


def main() -> None:
    """Measure, print and write; a row that fails prints why, and the others still run."""
    options = _options()
    use_threads(options.threads)
    device, sizes = resolve_device(options.device), QUICK if options.quick else Sizes()
    here, text = machine(options.threads), []
    notes: list[str] = []
    # Ours first: the authors' modules put a network on the GPU as they are imported.
    steps: list[Row] = []
    frames: list[Row] = []
    small: list[Row] = []
    tried("our steps", lambda: steps.extend(our_steps(device, sizes, notes)))
    tried("our inference", lambda: frames.extend(our_inference(device, sizes)))
    tried("small networks", lambda: small.extend(small_networks(device, sizes)))
    code = tried("authors' code", lambda: authors_code(options.authors, device, notes))
    if code is not None:
        tried("comparison", lambda: notes.append(same_function(code, sizes.shape, device)))
        tried("their steps", lambda: steps.extend(_their_steps(code, device, sizes)))
        tried("theirs", lambda: frames.extend(_their_inference(code, device, sizes, notes)))
    found = {row["step"]: row["ms"] for row in steps}
    ratios = [
        {"fit": name, "authors / ours": found[theirs] / found[ours]}
        for name, theirs, ours in RATIOS
        if theirs in found and ours in found
    ]
    whole = next((row["s"] for row in frames if row["inference"].startswith("authors")), None)
    for row in frames:
        row["ratio"] = None if whole is None else whole / row["s"]
    clips = f"{sizes.batch} clips of {sizes.frames} x {sizes.side} x {sizes.side}, RGB"
    movie = f"{sizes.movie[0]} frames of {sizes.movie[1]} x {sizes.movie[1]}"
    for title, rows in (
        (f"Step of a fit, {clips}", steps),
        ("Ratios", ratios),
        (f"Inference, {movie}, RGB", frames),
        (f"Networks that are default on the CPU; inference of {movie}, one channel", small),
    ):
        text += [f"\n## {title}\n", _table(rows) if rows else "nothing measured"]
    text += ["", *(f"- {note}" for note in notes), f"\n{machine_line(here)}"]
    report = "\n".join(text)
    print(report)
    if options.output is not None:
        results = {"machine": here, "steps": steps, "inference": frames, "small": small}
        write_results(options.output, {**results, "notes": notes}, report)


def _table(rows: list[Row]) -> str:
    """Rows as markdown: the first column as text, times with one digit, ratios with two."""
    columns: dict[str, tuple[str, Format]] = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        texts = any(isinstance(row.get(name), str) for row in rows)
        columns[name] = (name, "s" if texts else ".2f" if name in FINE else ".1f")
    return markdown_table(columns, rows)


# ---------------------------------------------------------------- theirs


def _their_steps(code: Code, device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """Rows of the authors' training."""
    flows = given_flow(sizes.shape, device)

    def row(kind: str) -> Row:
        torch.backends.cudnn.benchmark = True  # as their scripts of training
        try:
            found = step_row(TheirFit(code, kind, sizes.shape, device), device, sizes)
        finally:
            torch.backends.cudnn.benchmark = False
        return {**found, "computed in": "float32, as their script"}

    def given() -> Row:
        with patch.object(code["bdc_2_unify"], "get_flow_2frames", lambda *_: flows):
            return row("bdc_2_unify")

    named = {THEIRS: partial(row, "bdc_flow"), THEIRS_EACH: partial(row, "bdc_2_unify")}
    yield from rows_of({**named, THEIRS_GIVEN: given}, "step")


def _their_inference(
    code: Code, device: torch.device, sizes: Sizes, notes: list[str]
) -> Iterator[Row]:
    """Rows of the authors' test script, without its reading and writing of pictures."""
    model = nn.DataParallel(code["bdc_flow"].bdc_flow(3, 5)).to(device).eval()
    frames, side = sizes.movie
    movie, level = made_movie(frames, side, 3).intensities.to(device), torch.tensor([SIGMA])

    @torch.no_grad()
    def denoise(noisy: Tensor, fuse: bool = True) -> None:
        noise_map = level.expand(noisy.shape).to(device)
        out, _ = model(noisy[None], noise_map[None])
        if fuse:
            process = code["post_processing"].post_process_batch
            torch.clamp(process(out, noisy[None], sigma=level.squeeze())[0][0], 0.0, 1.0)

    def row(fuse: bool) -> Row:
        denoise(movie[:3], fuse)
        pilot = seconds_of(lambda: denoise(movie[:6], fuse), device) / min(6, frames)
        part = frames if pilot * frames < LONGEST else max(frames // 5, 2)
        found = movie_row(lambda: denoise(movie[:part], fuse), device, part)
        if part < frames:
            notes.append(f"The authors' inference is that of {part} frames; its time is scaled up.")
        return {**found, "s": found["s"] * frames / part}

    whole = list(rows_of({"authors, bdc_flow, PWC-Net": lambda: row(True)}, "inference"))
    less = {"authors, the same without the posterior": lambda: row(False)}  # where that fails
    yield from whole or rows_of(less, "inference")


def _options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--authors", type=Path, default=Path(__file__).parents[1] / ".authors")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("-o", "--output", type=Path, help="files to write, without ending")
    return parser.parse_args()


if __name__ == "__main__":
    main()
