"""The command `aiollm`: one row for each subcommand, streaming to the terminal.

Exit codes: 0 answered, 1 no target answered or the answer broke off (of `map`: rows failed),
2 usage or configuration, 3 `map` ended before its last row, 130 Ctrl-C, 141 the reader of the
output closed it, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

from aiollm import __version__
from aiollm.cli import ask, bulk, chat, check, fleet, image, retrieval, servers, tokens
from aiollm.cli.safe_text import printable
from aiollm.cli.session import (
    BROKEN_PIPE,
    FAILED,
    INTERRUPTED,
    OK,
    STOPPED,
    TERMINATED,
    USAGE,
    VENDOR_VARIABLES,
    Command,
)
from aiollm.cli.terminal import Log, complain, describe
from aiollm.errors import ConfigError, LLMError

__all__ = [
    "BROKEN_PIPE",
    "FAILED",
    "INTERRUPTED",
    "OK",
    "STOPPED",
    "TERMINATED",
    "USAGE",
    "VENDOR_VARIABLES",
    "main",
]

COMMANDS = (
    Command("ask", "ask one question and stream the answer", ask.configure, ask.ask),
    Command("chat", "talk with a model, turn by turn", chat.configure, chat.chat),
    Command("map", "ask every row of a JSONL file", bulk.configure, bulk.map_rows),
    Command("embed", "make vectors of texts", retrieval.configure_embed, retrieval.embed),
    Command("rerank", "order texts by a query", retrieval.configure_rerank, retrieval.rerank),
    Command("models", "list the models of providers", servers.configure_models, servers.models),
    Command("health", "show which providers answer", servers.configure_health, servers.health),
    Command("running", "list a server's loaded models", servers.configure_box, servers.running),
    Command("unload", "unload a server's models", servers.configure_unload, servers.unload),
    Command("tokens", "count the tokens of a question", tokens.configure, tokens.tokens),
    Command("image", "make images", image.configure, image.image),
    Command("fleet", "show what processes share over Redis", fleet.configure, fleet.fleet),
    Command("check", "try every target of a spec, explain failures", check.configure, check.check),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    _open_what_is_closed()
    _never_fail_on_encoding()
    try:
        options = _parser().parse_args(arguments)
        with _clean_logs():
            code = _code(options)
        sys.stdout.flush()
    except BrokenPipeError:
        code = BROKEN_PIPE
    except OSError as error:  # what is printed cannot be written, say because the disk is full
        with suppress(OSError):
            complain(describe(error))
        code = FAILED
    _settle_output()
    return code


def _code(options: argparse.Namespace) -> int:
    command: Command = options.command
    try:
        return command.run(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except asyncio.CancelledError:
        return TERMINATED
    except ConfigError as error:
        complain(str(error))
        return USAGE
    except LLMError as error:
        complain(describe(error))
        return FAILED


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


class _Parser(argparse.ArgumentParser):
    """Complains about arguments without control characters, which may come from elsewhere."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="aiollm",
        description="Ask language models. A spec names one target, a chain or a race.",
        epilog=(__doc__ or "").partition("\n\n")[2],
    )
    parser.add_argument("--version", action="version", version=f"aiollm {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        each = commands.add_parser(command.name, help=command.help, description=command.help)
        command.configure(each)
        each.set_defaults(command=command)
    return parser


def _open_what_is_closed() -> None:
    """Reopen standard streams that the caller closed (`<&-`, `>&-`), which are None in Python.

    Otherwise the first socket would get a stream's number, and notes would go to standard output.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def _never_fail_on_encoding() -> None:
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
