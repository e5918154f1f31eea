"""`aiollm models`, `health`, `running`, `unload`: list models, loaded ones, and unload them."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence

import msgspec

from aiollm.cli.terminal import FAILED, OK, complain, describe, print_json, run, table, write
from aiollm.errors import ConfigError, LLMError
from aiollm.registry import Registry
from aiollm.servers import LlamaSwap, Ollama


class State(msgspec.Struct, frozen=True):
    """Whether a provider answered; `seconds` is None when it did not."""

    provider: str
    url: str = ""
    models: int = 0
    seconds: float | None = None
    problem: str = ""


def configure_models(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `models`."""
    parser.add_argument("provider", nargs="*", help="default: all that are configured")
    parser.add_argument("--json", action="store_true", help="print JSON")


configure_health = configure_models


def configure_box(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `running`."""
    parser.add_argument("provider", nargs="?", default="ollama", help="a llama-swap or Ollama")
    parser.add_argument("--json", action="store_true", help="print JSON")


def configure_unload(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `unload`."""
    parser.add_argument("provider", help="a llama-swap or Ollama")
    parser.add_argument("model", nargs="?", help="default: all that are loaded")


def models(options: argparse.Namespace) -> int:
    """List models as targets; return the exit code."""

    async def work(registry: Registry) -> int:
        names = options.provider or configured(registry)
        found = await asyncio.gather(*(_models(registry, name) for name in names))
        targets = [f"{name}/{model}" for name, listed in found for model in listed]
        print_json(targets) if options.json else write("".join(f"{each}\n" for each in targets))
        return OK if targets else FAILED

    return run(work)


async def _models(registry: Registry, name: str) -> tuple[str, tuple[str, ...]]:
    try:
        return name, await registry.models(name)
    except LLMError as error:
        complain(f"{name}: {describe(error)}")
        return name, ()


def health(options: argparse.Namespace) -> int:
    """Ask every provider for its models; return the exit code."""

    async def work(registry: Registry) -> int:
        names = options.provider or configured(registry)
        states = await asyncio.gather(*(_state(registry, name) for name in names))
        print_json(states) if options.json else write(table([_row(each) for each in states]))
        return OK if all(each.seconds is not None for each in states) else FAILED

    return run(work)


async def _state(registry: Registry, name: str) -> State:
    began = time.perf_counter()
    url = ""
    try:
        url = registry.provider(name).base_url
        listed = await registry.models(name)
    except LLMError as error:
        return State(name, url, problem=f"{type(error).__name__}: {error}")
    return State(name, url, len(listed), time.perf_counter() - began)


def _row(state: State) -> tuple[str, ...]:
    if state.seconds is None:
        return state.provider, "down", state.url, state.problem
    return (
        state.provider,
        "up",
        state.url,
        f"{state.models} models, {state.seconds * 1000:.0f} ms",
    )


def configured(registry: Registry) -> Sequence[str]:
    """Return the providers worth asking: all but built-ins whose key or DSN is missing."""
    names = []
    for name, origin in registry.providers().items():
        try:
            registry.provider(name)
        except ConfigError:
            if origin == "built-in":
                continue
        names.append(name)
    return [name for name in names if name != "gemini" or "google" not in names]


def running(options: argparse.Namespace) -> int:
    """List a server's loaded models; return the exit code."""

    async def work(registry: Registry) -> int:
        loaded = await box(registry, options.provider).running()
        if options.json:
            print_json(loaded)
        else:
            write("".join(f"{_line(each)}\n" for each in loaded) or "nothing is loaded\n")
        return OK

    return run(work)


def _line(loaded: object) -> str:
    facts = msgspec.to_builtins(loaded, enc_hook=str)
    name = facts.pop("model", None) or facts.pop("name", "")
    state = facts.get("state", "loaded")
    return f"{name}  {state}"


def unload(options: argparse.Namespace) -> int:
    """Unload one model or all; return the exit code."""

    async def work(registry: Registry) -> int:
        await box(registry, options.provider).unload(options.model)
        return OK

    return run(work)


def box(registry: Registry, name: str) -> LlamaSwap | Ollama:
    """Return a model server. Raises: ConfigError for any other kind of provider."""
    if registry.provider(name).scheme in Ollama.schemes:
        return registry.ollama(name)
    return registry.llama_swap(name)
