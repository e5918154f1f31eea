"""Printing: all that the commands write to standard output and standard error passes here."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from aiollm._streams.stream import Stream
from aiollm.cli.emphasis import Emphasis
from aiollm.cli.safe_text import as_json, one_line, printable
from aiollm.errors import FailoverError
from aiollm.types import Finish, RefusalDelta, Restart, Status

if TYPE_CHECKING:
    from aiollm._agent.loop import RunEvent
    from aiollm._agent.run import AgentRun


_CUT = {
    "length": "the answer ended at a limit of tokens, --max-tokens or the model's own",
    "content_filter": "the provider's filter ended the answer",
}
"""What is said of an answer that would otherwise look complete."""


async def show(
    stream: Stream | AgentRun, described: Callable[[RunEvent], str] = lambda _: ""
) -> None:
    """Print the answer as it arrives; notes about it go to standard error.

    `described` returns what such a note says of an event, "" for none.
    """
    page = Page()
    try:
        async for chunk in stream:
            match chunk:
                case Restart(target=target, reason=reason):
                    page.end_line()
                    complain(f"starting again with {target}: {reason}")
                case Status(message=message):
                    complain(message)
                case RefusalDelta(refusal=text):
                    page.add(text)
                case Finish(reason=reason) if reason in _CUT:
                    page.end_line()
                    complain(_CUT[reason])
                case _ if text := described(chunk):
                    page.end_line()
                    note(text)
                case _:
                    page.add(chunk.text)
    except asyncio.CancelledError:
        page.interrupted()
        raise
    finally:
        page.end_line()


class Page:
    """An answer on standard output: exact in a file or pipe, clean and emphasized on a terminal."""

    def __init__(self) -> None:
        self._on_terminal = sys.stdout.isatty()
        self._emphasis = Emphasis() if is_styled(sys.stdout) else None
        self._last = "\n"

    def add(self, text: str) -> None:
        """Print more of the answer at once."""
        if self._on_terminal:
            text = printable(text)
        if not text:
            return
        self._last = text[-1]
        _print(self._emphasis.feed(text) if self._emphasis else text)

    def interrupted(self) -> None:
        """Note that the terminal has shown `^C`, so that its line must end."""
        if self._on_terminal:
            self._last = ""

    def end_line(self) -> None:
        """End the line, unless it has just begun, and all emphasis."""
        rest = self._emphasis.close() if self._emphasis else ""
        if self._emphasis:
            self._emphasis = Emphasis()
        _print(rest + ("" if self._last == "\n" else "\n"))
        self._last = "\n"


def _print(text: str) -> None:
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


def write(text: str) -> None:
    """Print text of our own, such as a list, to standard output; names in it must be one line."""
    _print(printable(text))


def describe(error: Exception) -> str:
    """Describe an error, with one line for each cause."""
    if not isinstance(error, FailoverError):
        return f"{type(error).__name__}: {error}"
    causes = Counter(f"  {type(each).__name__}: {one_line(each)}" for each in error.exceptions)
    told = [each if count == 1 else f"{each} ({count} times)" for each, count in causes.items()]
    return "\n".join([one_line(error.message), *told])


def complain(text: str) -> None:
    """Print to standard error. Only the first line looks like ours, whoever wrote the others."""
    note("aiollm: " + re.sub(r"\n(?=\S)", "\n  ", printable(text)))


def note(text: str) -> None:
    """Print text without control characters to standard error."""
    print(printable(text), file=sys.stderr, flush=True)  # noqa: T201


def prompt(text: str) -> None:
    """Print a prompt to standard error; `input` may write it into an answer that goes to a file."""
    sys.stderr.write(text)
    sys.stderr.flush()


class Log(logging.Handler):
    """Prints what libraries log, tracebacks included, without control characters."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        with suppress(OSError):
            complain(self.format(record))


def is_animated(stream: TextIO) -> bool:
    """Return whether a line of it can be written again: a terminal that knows escape sequences."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def is_styled(stream: TextIO) -> bool:
    """Return whether text may be bold or in color: not where NO_COLOR is set (no-color.org)."""
    return is_animated(stream) and not os.environ.get("NO_COLOR")


def show_progress(text: str) -> None:
    """Show text on the current line of standard error, if that is a terminal."""
    if is_animated(sys.stderr):
        fitting = one_line(text)[: max(20, shutil.get_terminal_size().columns - 1)]
        sys.stderr.write(f"\r{fitting}\x1b[K")
        sys.stderr.flush()


def clear_progress() -> None:
    """Clear that line."""
    if is_animated(sys.stderr):
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def print_json(value: object) -> None:
    """Print a value as one line of JSON, for scripts."""
    _print(as_json(value) + "\n")
