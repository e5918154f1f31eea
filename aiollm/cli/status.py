"""`aiollm` alone: what is configured, what answers, and what to do next."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
from collections.abc import Mapping, Sequence

import msgspec

from aiollm import __version__, local
from aiollm.cli.codes import OK
from aiollm.cli.layout import table, wrapped
from aiollm.cli.safe_text import one_line
from aiollm.cli.servers import Listing, configured, is_absent, keep_names, listing
from aiollm.cli.session import is_configured, run
from aiollm.cli.terminal import clear_progress, print_json, show_progress, write
from aiollm.errors import ConfigError
from aiollm.providers.schemes import SCHEMES
from aiollm.registry import Registry
from aiollm.spec import variable_of

WAIT = 3.0
"""Seconds in which a provider must answer."""

_HEAD = ("PROVIDER", "SET BY", "SERVER", "KEY", "STATE")
_QUESTION = 'aiollm ask "Why is the sky blue?"'
_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY")
_ALSO = ("AIOLLM_FLEET", "AIOLLM_MCP_", "NO_COLOR")
"""Variables, or beginnings of their names, that are named without their values."""


class ProviderStatus(msgspec.Struct, frozen=True):
    """A provider and whether it answered: `seconds` is None when it did not.

    `set_by`: the variable that configures it, "" for what was found without one.
    """

    provider: str
    set_by: str
    scheme: str
    url: str
    has_key: bool
    models: tuple[str, ...] = ()
    seconds: float | None = None
    problem: str = ""

    @property
    def state(self) -> str:
        """What is shown of it."""
        if self.seconds is None:
            return f"{'down' if self.url else 'wrong'}: {self.problem}"
        count = "1 model" if len(self.models) == 1 else f"{len(self.models)} models"
        return f"up, {count}, {self.seconds * 1000:.0f} ms"


class Status(msgspec.Struct, frozen=True):
    """What the command found. `also_set` names variables; none of their values is here.

    `wrong` has the aliases that cannot be used, and why.
    """

    version: str
    providers: tuple[ProviderStatus, ...]
    aliases: dict[str, str]
    wrong: dict[str, str]
    also_set: tuple[str, ...]
    next: tuple[str, ...]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def status(options: argparse.Namespace) -> int:
    """Show it; the exit code is 0 even if nothing is configured or nothing answers."""
    found: list[Listing] = []
    seen: list[ProviderStatus] = []
    aliases: dict[str, str] = {}
    wrong: dict[str, str] = {}
    is_startable = not local.missing()

    async def work(registry: Registry) -> int:
        await registry.preload()  # else the import would count as a server's time
        origins = registry.providers()
        names = sorted(configured(registry), key=lambda name: (origins[name] == "built-in", name))
        show_progress(f"asking {', '.join(names)}")
        try:
            found.extend(await asyncio.gather(*(listing(registry, x, WAIT) for x in names)))
        finally:
            clear_progress()
        seen.extend(_provider(registry, each) for each in found if not is_absent(each, registry))
        aliases.update(sorted(registry.aliases().items(), key=_default_first))
        if is_startable and "local" not in registry.providers():
            # The commands start it for an alias that names it. Nothing is sent here.
            registry.register("local", "openai+http://127.0.0.1:9")
        wrong.update((name, text) for name in aliases if (text := _problem(registry, name)))
        return OK

    code = run(work)
    _print(_status(seen, aliases, wrong, os.environ), as_json=options.json)
    keep_names(found)
    return code


def _default_first(alias: tuple[str, str]) -> tuple[bool, str]:
    return alias[0] != "default", alias[0]


def _provider(registry: Registry, each: Listing) -> ProviderStatus:
    name, problem = each.provider, str(each.error or "")
    set_by = _set_by(name, registry.providers()[name], os.environ)
    if not each.url:  # the configuration is wrong
        return ProviderStatus(name, set_by, "", "", has_key=False, problem=problem)
    row = registry.provider(name)
    has_key = row.token is not None
    return ProviderStatus(
        name, set_by, row.scheme, each.url, has_key, each.models, each.seconds, problem
    )


def _set_by(name: str, origin: str, env: Mapping[str, str]) -> str:
    if origin == "environment":
        return variable_of(name)
    return next((each for each in SCHEMES[name].variables if env.get(each)), "")


def _problem(registry: Registry, alias: str) -> str:
    """Return why an alias cannot be used, "" if it can."""
    try:
        for target in registry.parse(alias).targets:
            registry.provider(target.provider)
    except ConfigError as error:
        return str(error).split("\n", 1)[0]
    return ""


def _status(
    providers: Sequence[ProviderStatus],
    aliases: dict[str, str],
    wrong: dict[str, str],
    env: Mapping[str, str],
) -> Status:
    also = sorted(name for name, value in env.items() if value and name.startswith(_ALSO))
    steps = tuple(_next(providers, aliases, wrong) if providers else _first_steps(wrong, env))
    return Status(__version__, tuple(providers), aliases, wrong, tuple(also), steps)


def _next(
    providers: Sequence[ProviderStatus], aliases: dict[str, str], wrong: dict[str, str]
) -> list[str]:
    """Return sentences, and commands to type, which begin with two spaces."""
    bad = [each.set_by for each in providers if not each.url]
    steps = [f"Correct {name}: its state above says what is wrong." for name in bad]
    steps += _corrections(wrong)
    up = [each for each in providers if each.seconds is not None]
    if not up:
        return [*steps, "No provider answers. What is wrong is in its state above."]
    usable = [name for name in aliases if name not in wrong]
    if "default" in usable:
        return [*steps, f"  {_QUESTION}", "  aiollm check"]
    if usable:
        return [*steps, *_asking(usable[0]), "  aiollm check"]
    best = next((each for each in up if _is_own(each) and each.models), None)
    target = f"{best.provider}/{best.models[0]}" if best else f"{up[0].provider}/MODEL"
    listed = f"  aiollm models {up[0].provider}"
    return [*steps, *([] if best else [listed]), *_asking(target)]


def _asking(spec: str) -> list[str]:
    """Return the commands that ask a spec, and that make it the default."""
    ask = f"  {_QUESTION.replace('ask', f'ask -m {shlex.quote(one_line(spec))}', 1)}"
    return [ask, f"  export LLM_DEFAULT={shlex.quote(f'alias:{one_line(spec)}')}"]


def _corrections(wrong: Mapping[str, str]) -> list[str]:
    return [f"Correct the alias {one_line(x)}: {one_line(why)}" for x, why in wrong.items()]


def _first_steps(wrong: Mapping[str, str], env: Mapping[str, str]) -> list[str]:
    keys = [f"  export {name}=..." for name in _KEYS]
    lacking = local.missing()
    if not lacking:
        # Where anything is set, an alias alone included, the local model answers only by its name.
        ask = "aiollm ask -m local/smollm2" if is_configured(env) else "aiollm ask"
        question = _QUESTION.replace("aiollm ask", ask, 1)
        answers = ["Or ask at once: a small local model answers.", f"  {question}"]
    else:
        answers = ["Or let a small local model answer:", *(f"  {each}" for each in lacking)]
    return [
        *_corrections(wrong),
        "No provider is configured. Set the key of one:",
        *keys,
        "Or name a server of your own:",
        "  export LLM_BOX=ollama+http://127.0.0.1:11434",
        *answers,
    ]


def _is_own(each: ProviderStatus) -> bool:
    """Return whether it is a server of the user's own, any of whose models can chat."""
    return each.scheme in {"ollama", "llama-swap", "llama-swaps"}


def _print(found: Status, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    write(f"aiollm {found.version}\n\n")
    if found.providers:
        write(table([*map(_row, found.providers)], head=_HEAD) + "\n")
    if found.aliases:
        write(table([*found.aliases.items()], head=("ALIAS", "NAMES")) + "\n")
    if found.also_set:
        write(wrapped(f"Also set: {', '.join(map(one_line, found.also_set))}") + "\n")
    if found.providers:
        write("Next:\n")
    write("".join(f"{one_line(x)}\n" if x[:2] == "  " else wrapped(x) for x in found.next))


def _row(each: ProviderStatus) -> tuple[str, ...]:
    set_by = each.set_by or "found here"
    return each.provider, set_by, each.url, "set" if each.has_key else "no", each.state
