"""The command line: ``napari-stbn denoise | batch | demo | export | info``."""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from ._lines import in_words, printable

__all__ = ["main"]

_HANDLER = "napari-stbn command line"
_STOPPED = 130
_NOTHING = "nothing was written"
Handler = Callable[[int, FrameType | None], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; those of the process when None.

    Returns
    -------
    int
        0 when done, 1 when movies of a batch failed or nobody reads what is printed any more, 2
        when the input, the options or the output would not do (one sentence on the error stream),
        130 when stopped.
    """
    with _on_signals(_end_at_once):
        from ._command_options import parser  # torch takes seconds to load
    try:
        with _on_signals(_stopping()):
            return _run(parser(), arguments)
    except (ValueError, OSError, MemoryError, FloatingPointError) as error:
        if isinstance(error, BrokenPipeError):  # `napari-stbn info x | head -1`
            return _nobody_reads()
        print(f"napari-stbn: {in_words(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"napari-stbn: stopped; {str(stop) or _NOTHING}", file=sys.stderr)
        return _STOPPED


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Read the options, do what they say, and print all of it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # letters that a console does not know
            stream.reconfigure(errors="backslashreplace")
    try:
        options = parser.parse_args(arguments)
        _log(options.verbose)
        return options.run(options) or 0
    finally:
        sys.stdout.flush()  # a closed pipe is noticed here, not when Python ends


def _nobody_reads() -> int:
    """End in peace: Python would complain when it flushes what cannot be written."""
    with suppress(OSError, ValueError):  # a stream that is none of the system's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


class _Line(logging.Formatter):
    """A line for each message, whatever the names in it hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Put a message in its line."""
        return printable(super().formatMessage(record))


def _log(verbose: bool) -> None:
    """Show what this package logs: its warnings, with ``-v`` all it does; other packages not."""
    logger = logging.getLogger("napari_stbn")
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    kept = [handler for handler in logger.handlers if handler.get_name() != _HANDLER]
    handler: logging.Handler = logging.StreamHandler()  # anew, for whatever sys.stderr is now
    handler.set_name(_HANDLER)
    handler.setFormatter(_Line("%(asctime)s %(name)s: %(message)s" if verbose else "%(message)s"))
    logger.handlers[:] = [*kept, handler]


@contextmanager
def _on_signals(handler: Handler) -> Iterator[None]:
    """Hear Ctrl-C, and the end of a batch job (SIGTERM) like it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {
        number: signal.signal(number, handler)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN  # as `nohup` and `&` of scripts ask for
    }
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _end_at_once(_number: int, _frame: FrameType | None) -> None:
    """End while modules are loaded: libraries take an exception there for a fault of theirs."""
    os.write(2, f"napari-stbn: stopped; {_NOTHING}\n".encode())
    os._exit(_STOPPED)


def _stopping() -> Handler:
    """What raises KeyboardInterrupt, so that temporary files are removed; a second ends at once."""
    stops: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stops.append(number)
        if len(stops) > 1:  # something holds it up
            os._exit(_STOPPED)
        raise KeyboardInterrupt

    return stop


if __name__ == "__main__":
    sys.exit(main())
