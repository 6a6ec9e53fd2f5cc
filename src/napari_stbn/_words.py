"""Numbers in sentences."""

from __future__ import annotations

__all__ = ["counted", "ordinal"]


def counted(count: int, noun: str) -> str:
    """How many: "1 frame", "2 frames"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def ordinal(number: int) -> str:
    """Which one: "2nd", "3rd", "4th"."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}th" if number % 100 in (11, 12, 13) else f"{number}{ending}"
