"""The command line: ``napari-stbn denoise | batch | demo | export | info``."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from ._lines import in_words, printable

__all__ = ["main"]

_HANDLER = "napari-stbn command line"


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
    try:
        with _stopped_by_signals():
            return _run(arguments)
    except (ValueError, OSError, MemoryError, FloatingPointError) as error:
        if isinstance(error, BrokenPipeError):  # `napari-stbn info x | head -1`
            return _nobody_reads()
        print(f"napari-stbn: {in_words(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"napari-stbn: stopped; {str(stop) or 'nothing was written'}", file=sys.stderr)
        return 130


def _run(arguments: Sequence[str] | None) -> int:
    """Read the options, do what they say, and print all of it."""
    from ._command_options import parser  # seconds, in which Ctrl-C is heard already

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # letters that a console does not know
            stream.reconfigure(errors="backslashreplace")
    try:
        options = parser().parse_args(arguments)
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
def _stopped_by_signals() -> Iterator[None]:
    """Take the end of a batch job (SIGTERM) as Ctrl-C is taken: temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before: Any = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
