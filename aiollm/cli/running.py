"""Runs a command: its arguments, standard streams and errors, and the code that it exits with."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress

from aiollm.cli.codes import BROKEN_PIPE, FAILED, OK, TERMINATED, USAGE
from aiollm.cli.commands import Command, parser_for
from aiollm.cli.terminal import Log, complain, describe
from aiollm.errors import ConfigError, LLMError


def run(arguments: Sequence[str] | None) -> int:
    """Run what the arguments say, None: those of the process; return the exit code."""
    _open_what_is_closed()
    _never_fail_on_encoding()
    given = list(sys.argv[1:] if arguments is None else arguments) or ["status"]
    try:
        code = _code(given)
        sys.stdout.flush()
    except BrokenPipeError:
        code = BROKEN_PIPE
    except OSError as error:  # what is printed cannot be written, say because the disk is full
        with suppress(OSError):
            where = f"{error.filename}: " if error.filename else "the output cannot be written: "
            complain(f"{where}{error.strerror or error}")
        code = FAILED
    _settle_output()
    return code


def _code(arguments: list[str]) -> int:
    try:
        options = _options(arguments)
        if isinstance(options, int):
            return options
        command: Command = options.command
        with _clean_logs():
            return command.run(options)
    except asyncio.CancelledError:
        return TERMINATED
    except ConfigError as error:
        complain(str(error))
        return USAGE
    except LLMError as error:
        complain(describe(error))
        return FAILED


def _options(arguments: list[str]) -> argparse.Namespace | int:
    """Return the options, or the exit code where help was wanted or the usage is wrong."""
    try:
        return parser_for(arguments).parse_args(arguments)
    except SystemExit as error:
        return int(error.code or OK)


@contextmanager
def _clean_logs() -> Generator[None]:
    handler = Log(logging.WARNING)
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)


def _settle_output() -> None:
    """Give up what cannot be written, or Python tries again at exit and makes its own code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_what_is_closed() -> None:
    """Reopen standard streams that the caller closed (`<&-`, `>&-`), which are None in Python.

    Otherwise the first socket would get a stream's number, and notes would go to standard output.
    What is printed to a closed standard output is lost, so the first write fails, as in cat.
    """
    streams = ("stdin", "r", os.O_RDWR), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_RDWR)
    for name, mode, access in streams:
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, access), mode, encoding="utf-8"))


def _never_fail_on_encoding() -> None:
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
