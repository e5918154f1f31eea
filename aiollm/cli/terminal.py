"""Shared by all commands: exit codes, the registry for the environment, and printing."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from aiollm import local
from aiollm._streams.stream import Stream
from aiollm.errors import ConfigError, FailoverError
from aiollm.registry import Registry
from aiollm.types import ImagePart, RefusalDelta, Restart, Status

OK, FAILED, USAGE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141

VENDOR_VARIABLES = (
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "OLLAMA_API_KEY",
    "OLLAMA_HOST",
)
"""Variables that configure a built-in provider without any LLM_* variable."""

_LOCAL = "local/smollm2"
_NAMES_LOCAL = re.compile(r"(?:^|[,|\s])local/")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_NOTHING_CONFIGURED = """nothing is configured. Set up either of these:
  a provider:     export LLM_BOX=ollama+http://127.0.0.1:11434   and   aiollm ask -m box/MODEL ...
                  (or a vendor's own key, such as OPENAI_API_KEY, and -m openai/MODEL)
  a local model:  {install}"""
_NO_MODEL = """no model given: add -m PROVIDER/MODEL (or a chain, A/X,B/Y), or set a default:
  export LLM_DEFAULT=alias:PROVIDER/MODEL"""


class Command(msgspec.Struct, frozen=True):
    """A subcommand: its options, and the function that runs it and returns the exit code."""

    name: str
    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def run(work: Callable[[Registry], Awaitable[int]]) -> int:
    """Run `work` with a registry that reads the environment."""

    async def session() -> int:
        async with Registry() as registry:
            return await work(registry)

    return asyncio.run(session())


async def spec_of(given: str | None, registry: Registry) -> str:
    """Return the spec to use; start the local model if it is named or nothing is configured."""
    if given is not None:
        if _NAMES_LOCAL.search(given) and "local" not in registry.providers():
            await _start_local(registry)
        return given
    if "default" in registry.aliases():
        return "default"
    if is_configured(os.environ):
        raise ConfigError(_NO_MODEL)
    await _start_local(registry)
    complain("nothing is configured, so a small local model answers: do not expect good answers")
    return _LOCAL


async def _start_local(registry: Registry) -> None:
    if lacking := local.missing():
        raise ConfigError(_NOTHING_CONFIGURED.format(install=" && ".join(lacking)))
    await local.start(registry)


def is_configured(env: Mapping[str, str]) -> bool:
    """Return whether the environment names any provider or alias."""
    return any(
        value and (name.startswith("LLM_") or name in VENDOR_VARIABLES)
        for name, value in env.items()
    )


def image_from(path: str) -> ImagePart:
    """Read an image. Raises: ConfigError."""
    try:
        return ImagePart.from_path(path)
    except (OSError, ValueError) as error:
        reason = f"the image {path!r} cannot be used: {error}"
    raise ConfigError(reason)


async def show(stream: Stream) -> None:
    """Print the answer as it arrives; notes about it go to standard error."""
    last = "\n"
    try:
        async for chunk in stream:
            match chunk:
                case Restart(target=target, reason=reason):
                    last = write("\n" if last != "\n" else "") or last
                    complain(f"starting again with {target}: {reason}")
                case Status(message=message):
                    complain(message)
                case RefusalDelta(refusal=text):
                    last = write(text) or last
                case _:
                    last = write(chunk.text) or last
    finally:
        if last != "\n":
            write("\n")


def write(text: str) -> str:
    """Print at once; return the last character, "" if the text is empty."""
    if text:
        sys.stdout.write(_CONTROL.sub("", text) if sys.stdout.isatty() else text)
        sys.stdout.flush()
    return text[-1:]


def describe(error: Exception) -> str:
    """Describe an error, with one line for each attempt."""
    if not isinstance(error, FailoverError):
        return f"{type(error).__name__}: {error}"
    causes = [f"  {type(each).__name__}: {each}" for each in error.exceptions]
    return "\n".join([error.message, *causes])


def complain(text: str) -> None:
    """Print to standard error, without control characters, which could drive the terminal."""
    print(f"aiollm: {_CONTROL.sub('', text)}", file=sys.stderr, flush=True)  # noqa: T201


def print_json(value: object) -> None:
    """Print a value as one line of JSON, for scripts."""
    write(msgspec.json.encode(value, enc_hook=str).decode() + "\n")


def table(rows: list[tuple[str, ...]]) -> str:
    """Return rows as text in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)
