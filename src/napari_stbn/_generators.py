"""Generators inside others: run to their end, translated, and as a part of the whole work."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

__all__ = ["following", "last", "part_of", "relay"]

Inner = TypeVar("Inner")
Outer = TypeVar("Outer")
Result = TypeVar("Result")
Sent = TypeVar("Sent")


def last(steps: Generator[Inner, None, Result]) -> Result:
    """Run a generator to its end and hand on what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: Result = stop.value
            return result


def following(steps: Generator[Inner, Sent | None, object], told: Sent | None) -> Inner | None:
    """What a generator yields next, told something; None after its end."""
    try:
        return steps.send(told)
    except StopIteration:
        return None


def relay(
    steps: Generator[Inner, None, Result], translate: Callable[[Inner], Outer]
) -> Generator[Outer, None, Result]:
    """Yield what another generator yields, translated; return what it returns.

    Closing this generator closes the other at once, so that what it holds is freed.
    """
    try:
        while True:
            try:
                item = next(steps)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            yield translate(item)
    finally:
        steps.close()


def part_of(number: int, count: int, done: float) -> float:
    """Part of the whole work that is done when a part of one of several pieces is."""
    return (number + done) / count
