"""The command `aiollm`: one row for each subcommand, streaming to the terminal.

Exit codes: 0 answered, 1 no target answered or the answer broke off, 2 usage or configuration,
130 Ctrl-C, 141 the reader of the output closed it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from aiollm import __version__
from aiollm.cli import ask, chat, check, image, servers
from aiollm.cli.terminal import (
    BROKEN_PIPE,
    FAILED,
    INTERRUPTED,
    OK,
    USAGE,
    VENDOR_VARIABLES,
    Command,
    complain,
    describe,
)
from aiollm.errors import ConfigError, LLMError

__all__ = ["BROKEN_PIPE", "FAILED", "INTERRUPTED", "OK", "USAGE", "VENDOR_VARIABLES", "main"]

COMMANDS = (
    Command("ask", "ask one question and stream the answer", ask.configure, ask.ask),
    Command("chat", "talk with a model, turn by turn", chat.configure, chat.chat),
    Command("models", "list the models of providers", servers.configure_models, servers.models),
    Command("health", "show which providers answer", servers.configure_health, servers.health),
    Command("running", "list a server's loaded models", servers.configure_box, servers.running),
    Command("unload", "unload a server's models", servers.configure_unload, servers.unload),
    Command("image", "make images", image.configure, image.image),
    Command("check", "try every target of a spec, explain failures", check.configure, check.check),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        _never_fail_on_encoding(stream)
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        return command.run(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Otherwise Python complains again when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except ConfigError as error:
        complain(str(error))
        return USAGE
    except (LLMError, OSError) as error:
        complain(describe(error))
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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


def _never_fail_on_encoding(stream: TextIO) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
