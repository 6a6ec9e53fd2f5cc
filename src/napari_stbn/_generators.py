"""Two ways to run a generator inside another: to its end, and translated."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

__all__ = ["last", "relay"]

Inner = TypeVar("Inner")
Outer = TypeVar("Outer")
Result = TypeVar("Result")


def last(steps: Generator[Inner, None, Result]) -> Result:
    """Run a generator to its end and hand on what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: Result = stop.value
            return result


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
