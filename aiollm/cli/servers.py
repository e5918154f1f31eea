"""`aiollm models`, `health`, `running`, `unload`: list models, loaded ones, and unload them."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from aiollm._fleet.overview import SetAside, concerns
from aiollm.cli import known_models
from aiollm.cli.codes import FAILED, OK
from aiollm.cli.fleet import row_of, set_aside_by_fleet
from aiollm.cli.layout import table
from aiollm.cli.safe_text import one_line
from aiollm.cli.session import run
from aiollm.cli.terminal import complain, describe, print_json, write
from aiollm.errors import ConfigError, ConnectError, DeadlineError, LLMError
from aiollm.registry import Registry
from aiollm.servers import LlamaSwap, Ollama
from aiollm.spec import refuse_address

OLLAMA_HOST = "OLLAMA_HOST"
"""The variable of Ollama's own programs: whoever sets it wants to see that server."""

_NOTHING_CONFIGURED = """nothing is configured, and no Ollama answers on this machine. Set either:
  a server:        export LLM_BOX=ollama+http://HOST:11434
  a vendor's key:  export OPENAI_API_KEY=..."""


class State(msgspec.Struct, frozen=True):
    """Whether a provider answered; `seconds` is None when it did not.

    `set_aside`: what the fleet of this environment does not ask for now.
    """

    provider: str
    url: str = ""
    models: int = 0
    seconds: float | None = None
    problem: str = ""
    set_aside: tuple[SetAside, ...] = ()


def configure_models(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `models`."""
    parser.add_argument(
        "provider", nargs="*", metavar="PROVIDER", help="default: all that are configured"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


configure_health = configure_models


def configure_box(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `running`."""
    parser.add_argument(
        "provider",
        nargs="?",
        default="ollama",
        metavar="PROVIDER",
        help="a llama-swap or Ollama server; default: ollama",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def configure_unload(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `unload`."""
    parser.add_argument("provider", metavar="PROVIDER", help="a llama-swap or Ollama server")
    parser.add_argument("model", nargs="?", metavar="MODEL", help="default: all that are loaded")


def models(options: argparse.Namespace) -> int:
    """List models as targets; return the exit code."""
    found: list[Listing] = []

    async def work(registry: Registry) -> int:
        found.extend(await _listings(registry, options.provider))
        for each in found:
            if each.error is not None:
                complain(f"{one_line(each.provider)}: {describe(each.error)}")
        targets = [f"{each.provider}/{model}" for each in found for model in each.models]
        lines = (f"{one_line(each)}\n" for each in targets)
        print_json(targets) if options.json else write("".join(lines))
        return _code(found)

    code = run(work)
    keep_names(found)
    return code


def health(options: argparse.Namespace) -> int:
    """Ask every provider for its models; return the exit code."""

    async def work(registry: Registry) -> int:
        await registry.preload()  # else the import would count as a server's time
        found = await _listings(registry, options.provider)
        states = await _with_fleet(registry, [each.state for each in found])
        rows = [row for each in states for row in _rows(each)]
        print_json(states) if options.json else write(table(rows))
        return _code(found)

    return run(work)


class Listing(msgspec.Struct, frozen=True):
    """The models of a provider, or the error in their place."""

    provider: str
    url: str
    models: tuple[str, ...] = ()
    seconds: float | None = None
    error: LLMError | None = None

    @property
    def state(self) -> State:
        """What `aiollm health` says of it."""
        problem = f"{type(self.error).__name__}: {self.error}" if self.error else ""
        return State(self.provider, self.url, len(self.models), self.seconds, problem)


async def _listings(registry: Registry, given: Sequence[str]) -> list[Listing]:
    for name in given:
        refuse_address(name)
    names = given or configured(registry)
    found = await asyncio.gather(*(listing(registry, name) for name in names))
    if given:
        return found
    found = [each for each in found if not is_absent(each, registry)]
    if not found:
        raise ConfigError(_NOTHING_CONFIGURED)
    return found


async def listing(registry: Registry, name: str, wait: float | None = None) -> Listing:
    """Ask a provider for its models, for at most `wait` seconds."""
    began = time.perf_counter()
    url = ""
    try:
        url = registry.provider(name).base_url
        async with asyncio.timeout(wait):
            listed = await registry.models(name)
    except LLMError as error:
        return Listing(name, url, error=error)
    except TimeoutError:
        late = DeadlineError(f"no answer in {wait:g} s", which="total", after=wait or 0.0)
        return Listing(name, url, error=late)
    return Listing(name, url, listed, time.perf_counter() - began)


def keep_names(found: Sequence[Listing]) -> None:
    """Keep the names of the models that were listed, for completion."""
    known_models.keep({each.provider: each.models for each in found if each.error is None})


def is_absent(listing: Listing, registry: Registry) -> bool:
    """Return whether it is the Ollama of this machine, which needs no configuration to be found."""
    is_guess = registry.providers().get("ollama") == "built-in" and not os.environ.get(OLLAMA_HOST)
    return is_guess and listing.provider == "ollama" and isinstance(listing.error, ConnectError)


def _code(found: Sequence[Listing]) -> int:
    return FAILED if any(each.error is not None for each in found) else OK


async def _with_fleet(registry: Registry, states: list[State]) -> list[State]:
    """Add what the fleet of this environment has set aside."""
    namespace, opened = await set_aside_by_fleet()

    def added(state: State) -> State:
        provider = registry.provider(state.provider)
        mine = tuple(each for each in opened if concerns(each, provider, namespace))
        return msgspec.structs.replace(state, set_aside=mine)

    return [added(each) if opened and each.url else each for each in states]


def _rows(state: State) -> list[tuple[str, ...]]:
    own = (state.provider, "down", state.url, state.problem)
    if state.seconds is not None:
        count = "1 model" if state.models == 1 else f"{state.models} models"
        facts = f"{count}, {state.seconds * 1000:.0f} ms"
        own = (state.provider, "up", state.url, facts)
    return [own, *(row_of(state.provider, each) for each in state.set_aside)]


def configured(registry: Registry) -> Sequence[str]:
    """Return the providers worth asking: all but built-ins whose key or DSN is missing."""
    names: list[str] = []
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

    return _run_named(work, options.provider)


def _run_named(work: Callable[[Registry], Awaitable[int]], provider: str) -> int:
    """Run `work`; an error of the server is shown with its name."""
    try:
        return run(work)
    except ConfigError:
        raise
    except LLMError as error:
        complain(f"{provider}: {describe(error)}")
        return FAILED


def _line(loaded: object) -> str:
    facts = msgspec.to_builtins(loaded, enc_hook=str)
    name = facts.pop("model", None) or facts.pop("name", "")
    state = facts.get("state", "loaded")
    return one_line(f"{name}  {state}")


def unload(options: argparse.Namespace) -> int:
    """Unload one model or all; return the exit code."""

    async def work(registry: Registry) -> int:
        await box(registry, options.provider).unload(options.model)
        return OK

    return _run_named(work, options.provider)


def box(registry: Registry, name: str) -> LlamaSwap | Ollama:
    """Return a model server. Raises: ConfigError for any other kind of provider."""
    scheme = registry.provider(name).scheme
    if scheme in Ollama.schemes:
        return registry.ollama(name)
    if scheme in LlamaSwap.schemes:
        return registry.llama_swap(name)
    reason = f"{name!r} is a provider of scheme {scheme!r}, which cannot list or unload models"
    raise ConfigError(f"{reason}: llama-swap and Ollama can")
