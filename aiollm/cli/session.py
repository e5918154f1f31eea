"""Shared by all commands: the registry for the environment, and the spec."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from aiollm import local
from aiollm._validation import check
from aiollm.cli.terminal import complain
from aiollm.errors import ConfigError
from aiollm.providers.schemes import BUILTINS, SCHEMES
from aiollm.registry import Registry
from aiollm.types import ImagePart, Request

VENDOR_VARIABLES = tuple(each for name in BUILTINS for each in SCHEMES[name].variables)
"""Variables that configure a built-in provider without any LLM_* variable."""

_LOCAL = "local/smollm2"
_ITEMS = re.compile(r"[,|&*]")
"""What is between the targets and aliases of a spec, and behind a weight."""

_NOTHING_CONFIGURED = """nothing is configured. Set up either of these:
  a provider:     export LLM_BOX=ollama+http://127.0.0.1:11434   and   aiollm ask -m box/MODEL ...
                  (or a vendor's own key, such as OPENAI_API_KEY, and -m openai/MODEL)
  a local model:  {install}"""
_NO_MODEL = """no model given: add -m PROVIDER/MODEL (or a chain, A/X,B/Y), or set a default:
  export LLM_DEFAULT=alias:PROVIDER/MODEL
`aiollm models` lists what there is."""


def run(work: Callable[[Registry], Awaitable[int]], **settings: Any) -> int:
    """Run `work` with a registry that reads the environment, and has these settings."""

    async def session() -> int:
        with ended_by_sigterm():
            async with Registry(**settings) as registry:
                return await work(registry)

    return asyncio.run(session())


@contextmanager
def ended_by_sigterm() -> Generator[None]:
    """Cancel the current task at SIGTERM, so that it closes its connections and says no more."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    # Windows has no such signal, and only the main thread may handle one.
    with suppress(NotImplementedError, RuntimeError, ValueError):
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.remove_signal_handler(signal.SIGTERM)


async def spec_of(given: str | None, registry: Registry, **options: Any) -> str:
    """Return the spec to use; start the local model if it is named or nothing is configured.

    It may be named by an alias. `options` are those of `LocalServer`.
    """
    aliases = registry.aliases()
    spec = "default" if given is None and "default" in aliases else given
    if spec is not None:
        if "local" not in registry.providers() and _names_local(spec, aliases):
            await _start_local(registry, **options)
        return spec
    if os.environ.get("LLM_DEFAULT"):
        raise ConfigError("LLM_DEFAULT is not an alias: write LLM_DEFAULT=alias:PROVIDER/MODEL")
    if is_configured(os.environ):
        raise ConfigError(_NO_MODEL)
    await _start_local(registry, **options)
    complain("nothing is configured, so a small local model answers: do not expect good answers")
    return _LOCAL


def _names_local(spec: str, aliases: Mapping[str, str]) -> bool:
    specs, rest = [spec], dict(aliases)
    for each in specs:  # grows by the aliases that it names
        items = [item.strip() for item in _ITEMS.split(each)]
        if any(item.startswith("local/") for item in items):
            return True
        specs += [rest.pop(name) for name in items if name in rest]
    return False


async def _start_local(registry: Registry, **options: Any) -> None:
    if not is_configured(os.environ) and (lacking := local.missing()):
        raise ConfigError(_NOTHING_CONFIGURED.format(install=" && ".join(lacking)))
    await local.start(registry, **options)


def is_configured(env: Mapping[str, str]) -> bool:
    """Return whether the environment names any provider or alias."""
    return any(
        value and (name.startswith("LLM_") or name in VENDOR_VARIABLES)
        for name, value in env.items()
    )


def add_sampling(parser: argparse.ArgumentParser, answer: str) -> None:
    """Declare the options for how an answer is made, which `sampling_of` reads."""
    add = parser.add_argument
    add("-n", "--max-tokens", type=int, metavar="N", help=f"the most tokens in {answer}")
    text = "how freely words are chosen: 0 takes the likeliest, 1 is more varied"
    add("-t", "--temperature", type=float, metavar="X", help=text)


def sampling_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a request that these options set. Raises: ConfigError."""
    fields = {"max_output_tokens": options.max_tokens, "temperature": options.temperature}
    check(Request("", **fields))
    return fields


def add_images(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Declare the option for images, each of which `image_from` reads."""
    text = f"{meaning}; may be repeated"
    parser.add_argument("-i", "--image", action="append", default=[], metavar="FILE", help=text)


def image_from(path: str) -> ImagePart:
    """Read an image. Raises: ConfigError."""
    try:
        return ImagePart.from_path(path)
    except OSError as error:
        reason = f"the image {path!r} cannot be used: {error.strerror}"
    except ValueError as error:
        reason = f"the image {path!r} cannot be used: {error}"
    raise ConfigError(reason)
