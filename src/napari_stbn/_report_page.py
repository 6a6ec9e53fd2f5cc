"""A page that needs nothing but itself: style, tables, sentences and pictures as HTML."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._report_verdict import Finding

_WORDS = {"good": "Good", "note": "Note", "warning": "Warning"}

# Nothing is loaded from anywhere, even where a name in the movie slipped through unescaped.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --soft: #5b6168; --line: #d5d9de;
  --good: #1a7f37; --note: #8a6100; --warning: #c0262d; --box: #f5f6f8;
  --c0: #0b6bcb; --c1: #c2500a; --c2: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e6e8eb; --soft: #a0a7b0;
  --line: #383d44; --good: #4cc26a; --note: #e0b03a; --warning: #ff7b72; --box: #1f2226;
  --c0: #5aa9ff; --c1: #ff9a4d; --c2: #9aa3ad; } }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  max-width: 70rem; margin: 0 auto; padding: 1.5rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.1rem; margin: 1.8rem 0 .3rem; }
h4 { font-size: 1rem; margin: .8rem 0 .3rem; }
p, figcaption { max-width: 46rem; }
.hint, figcaption, footer { color: var(--soft); font-size: .9rem; }
.headline { font-size: 1.15rem; font-weight: 600; }
.verdict { list-style: none; padding: 0; }
.verdict li { background: var(--box); border-left: .35rem solid; border-radius: .25rem;
  margin: .35rem 0; padding: .4rem .8rem; }
.verdict li span { color: var(--ink); }
.good { color: var(--good); border-color: var(--good); }
.note { color: var(--note); border-color: var(--note); }
.warning { color: var(--warning); border-color: var(--warning); }
.columns { display: grid; gap: 0 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
table { border-collapse: collapse; font-size: .92rem; width: 100%; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0;
  border-bottom: 1px solid var(--line); font-weight: normal; }
thead th { font-weight: 600; }
tbody th { color: var(--soft); min-width: 7rem; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.panels { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); }
figure { margin: 0 0 .6rem; }
img { width: 100%; height: auto; max-width: 36rem; image-rendering: pixelated; display: block; }
svg.plot { width: 100%; max-width: 42rem; height: auto; display: block; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
.grid { stroke: var(--line); stroke-width: 1; }
.c0 { --colour: var(--c0); } .c1 { --colour: var(--c1); } .c2 { --colour: var(--c2); }
.line, .dashed { fill: none; stroke: var(--colour); stroke-width: 2; stroke-linejoin: round; }
.dashed { stroke-dasharray: 6 4; }
.points { fill: var(--colour); }
.rings { fill: none; stroke: var(--colour); stroke-width: 1.3; }
@media print { body { max-width: none; padding: 0; } figure, svg, tr, li { break-inside: avoid; } }
"""


def page(title: str, body: Sequence[str]) -> str:
    """The whole file."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def heading(level: int, text: str) -> str:
    """A heading of plain text."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text; `kind` is "hint" for how to read a number or a picture."""
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{escape(text)}</p>"


def verdict(findings: Sequence[Finding]) -> str:
    """Sentences with colour and word, the gravest first."""
    order = ["warning", "note", "good"]
    lines = [
        f'<li class="{f.level}"><b>{_WORDS[f.level]}</b> <span>{escape(f.sentence)}</span></li>'
        for f in sorted(findings, key=lambda finding: order.index(finding.level))
    ]
    return f'<ul class="verdict">{"".join(lines)}</ul>'


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """A table of names and values; rows without a value are left out."""
    lines = [
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in rows
        if value
    ]
    return f"<table><tbody>{''.join(lines)}</tbody></table>"


def measures(rows: Sequence[tuple[str, str, str]]) -> str:
    """A table of what was measured, its value, and what a good one looks like."""
    lines = [
        f'<tr><th scope="row">{escape(name)}</th><td class="number">{escape(value)}</td>'
        f"<td>{escape(good)}</td></tr>"
        for name, value, good in rows
    ]
    head = '<th scope="col">Measure</th><th scope="col">Value</th><th scope="col">Good</th>'
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def picture(image: NDArray[Any], low: float, high: float, title: str, caption: str) -> str:
    """A gray picture inside the page.

    Parameters
    ----------
    image : ndarray, shape (Y, X)
        NaN become the middle of the range.
    low, high : float
        Intensities shown black and white.
    title, caption : str
        What it is, and in what range.
    """
    import cv2

    middle = (low + high) / 2
    values = np.nan_to_num(image.astype(np.float64), nan=middle, posinf=high, neginf=low)
    gray = np.clip((values - low) / max(high - low, 1e-300) * 255, 0, 255).astype(np.uint8)
    _, encoded = cv2.imencode(".png", gray)
    data = base64.b64encode(encoded.tobytes()).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{data}" width="{gray.shape[1]}" '
        f'height="{gray.shape[0]}" alt="{escape(title)}"><figcaption><b>{escape(title)}</b> '
        f"{escape(caption)}</figcaption></figure>"
    )


def number(value: float, digits: int = 2) -> str:
    """A number for a person, with a real minus; a dash where there is none."""
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else "–"
