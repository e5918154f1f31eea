"""The command `aiollm`: one row for each subcommand, streaming to the terminal.

Exit codes: 0 answered, 1 no target answered or the answer broke off, 2 usage or configuration,
130 Ctrl-C, 141 the reader of the output went away.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import stat
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TextIO

import msgspec

from aiollm import local
from aiollm.errors import ConfigError, FailoverError, LLMError
from aiollm.registry import Registry
from aiollm.stream import Stream
from aiollm.types import ImagePart, RefusalDelta, Request, Restart, Status, user

OK, FAILED, USAGE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141

VENDOR_VARIABLES = (
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "OLLAMA_API_KEY",
    "OLLAMA_HOST",
)
"""What configures a built-in provider without any LLM_* variable."""

_LOCAL = "local/smollm2"
_NAMES_LOCAL = re.compile(r"(?:^|[,|\s])local/")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_NOTHING_CONFIGURED = """nothing is configured. Either of these will do:
  a provider:     export LLM_BOX=ollama+http://127.0.0.1:11434   and   aiollm ask -m box/MODEL ...
                  (or a vendor's own key, such as OPENAI_API_KEY, and -m openai/MODEL)
  a local model:  {install}"""
_NO_MODEL = """no model is named: add -m PROVIDER/MODEL (or a chain, A/X,B/Y), or set a default:
  export LLM_DEFAULT=alias:PROVIDER/MODEL"""


class Command(msgspec.Struct, frozen=True):
    """A subcommand: what it takes, and what it does; it returns the exit code."""

    name: str
    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        _never_fail_on_encoding(stream)
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        return command.run(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python would complain once more when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except ConfigError as error:
        complain(str(error))
        return USAGE
    except (LLMError, OSError) as error:
        complain(_told(error))
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aiollm",
        description="Ask language models: one spec names a target, a chain or a race.",
        epilog=(__doc__ or "").partition("\n\n")[2],
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        each = commands.add_parser(command.name, help=command.help, description=command.help)
        command.configure(each)
        each.set_defaults(command=command)
    return parser


def run(work: Callable[[Registry], Awaitable[int]]) -> int:
    """Run `work` with a registry of the environment."""

    async def session() -> int:
        async with Registry() as registry:
            return await work(registry)

    return asyncio.run(session())


def _configure_ask(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("prompt", nargs="*", help="the question; '-' or nothing reads standard input")
    add("-m", "--model", metavar="SPEC", help="provider/model, an alias, a chain 'a/x,b/y'")
    add("-s", "--system", default="", metavar="TEXT", help="the system prompt")
    add("-i", "--image", action="append", default=[], metavar="FILE", help="an image to look at")
    add("-n", "--max-tokens", type=int, metavar="N", help="at most so many tokens of answer")
    add("-v", "--verbose", action="store_true", help="say who answered, and what it took")


def _ask(options: argparse.Namespace) -> int:
    # Standard input is read before there is a loop: a thread that reads it would outlive Ctrl-C.
    text, images = _prompt(options.prompt), map(_image, options.image)
    request = Request(
        (user(text, *images),), system=options.system, max_output_tokens=options.max_tokens
    )
    return run(partial(_answer, options, request))


async def _answer(options: argparse.Namespace, request: Request, registry: Registry) -> int:
    spec = await _spec(options.model, registry)
    async with registry.stream(spec, request) as stream:
        try:
            await _show(stream)
        finally:
            if options.verbose:
                complain(_account(stream))
    return OK


COMMANDS = (Command("ask", "ask one question and stream the answer", _configure_ask, _ask),)


def _prompt(words: Sequence[str]) -> str:
    """Join the words with what is piped in, which comes after them."""
    asked = " ".join(words)
    parts = [asked] if asked not in ("", "-") else []
    if not parts or _is_piped(sys.stdin):
        parts.append(sys.stdin.buffer.read().decode("utf-8", "replace").strip())
    text = "\n\n".join(filter(None, parts))
    if not text:
        raise ConfigError("there is no prompt: aiollm ask 'Why is the sky blue?'")
    return text


def _image(path: str) -> ImagePart:
    try:
        return ImagePart.from_path(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the image {path!r} cannot be used: {error}") from None


def _is_piped(stream: TextIO) -> bool:
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


async def _spec(given: str | None, registry: Registry) -> str:
    """Return the spec to use; start the local model where it is meant or nothing else is there."""
    if given is not None:
        if _NAMES_LOCAL.search(given) and "local" not in registry.providers():
            await _start_local(registry)
        return given
    if "default" in registry.aliases():
        return "default"
    if is_configured(os.environ):
        raise ConfigError(_NO_MODEL)
    await _start_local(registry)
    complain("nothing is configured, so a small local model answers: expect toy answers")
    return _LOCAL


async def _start_local(registry: Registry) -> None:
    if lacking := local.missing():
        raise ConfigError(_NOTHING_CONFIGURED.format(install=" && ".join(lacking)))
    await local.start(registry)


def is_configured(env: Mapping[str, str]) -> bool:
    """Say whether the environment names any provider or alias."""
    return any(
        value and (name.startswith("LLM_") or name in VENDOR_VARIABLES)
        for name, value in env.items()
    )


async def _show(stream: Stream) -> None:
    """Print the answer as it comes; notes about it go to standard error."""
    last = "\n"
    try:
        async for chunk in stream:
            match chunk:
                case Restart(target=target, reason=reason):
                    last = _write("\n" if last != "\n" else "") or last
                    complain(f"starting again with {target}: {reason}")
                case Status(message=message):
                    complain(message)
                case RefusalDelta(refusal=text):
                    last = _write(text) or last
                case _:
                    last = _write(chunk.text) or last
    finally:
        if last != "\n":
            _write("\n")


def _write(text: str) -> str:
    """Print at once; return the last character, "" where there was none."""
    if text:
        sys.stdout.write(_CONTROL.sub("", text) if sys.stdout.isatty() else text)
        sys.stdout.flush()
    return text[-1:]


def _account(stream: Stream) -> str:
    lines = [
        f"{attempt.target}: {attempt.outcome}" + (f" ({attempt.error})" if attempt.error else "")
        for attempt in stream.attempts
    ]
    usage, total = stream.partial.usage, stream.partial.timings.total
    if usage.certainty != "missing":
        lines.append(f"{usage.input_tokens} tokens in, {usage.output_tokens} out, {total:.1f} s")
    return "\n".join([*lines, *stream.partial.warnings]) or "nothing was tried"


def _told(error: Exception) -> str:
    if not isinstance(error, FailoverError):
        return f"{type(error).__name__}: {error}"
    causes = [f"  {type(each).__name__}: {each}" for each in error.exceptions]
    return "\n".join([error.message, *causes])


def complain(text: str) -> None:
    """Print to standard error, without what could drive the terminal."""
    print(f"aiollm: {_CONTROL.sub('', text)}", file=sys.stderr, flush=True)  # noqa: T201


def _never_fail_on_encoding(stream: TextIO) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
