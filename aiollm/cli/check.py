"""`aiollm check`: send a request to each target, and say in one line what is wrong."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from aiollm.cli.codes import FAILED, OK
from aiollm.cli.safe_text import one_line
from aiollm.cli.session import is_configured, run, spec_of
from aiollm.cli.terminal import clear_progress, describe, print_json, show_progress, write
from aiollm.errors import (
    AuthenticationError,
    ConfigError,
    ConnectError,
    DeadlineError,
    FailoverError,
    LLMError,
    ModelNotFoundError,
    QuotaError,
    SpecError,
)
from aiollm.registry import Registry
from aiollm.spec import Plan
from aiollm.types import Request, Target, Timeouts, user

_ADVICE: tuple[tuple[type[LLMError], str], ...] = (
    (AuthenticationError, "check the token in the provider's DSN or its key variable"),
    (QuotaError, "the account has no credit left, or has reached its limit"),
    (ModelNotFoundError, "check the model's name with `aiollm models`, and the path of the DSN"),
    (ConnectError, "check host, port and scheme (+http?), and that the server is running"),
    (DeadlineError, "the server is slow or is loading a model: set ?first_output_timeout="),
)

_NO_SPEC = """no target given: add one, as in `aiollm check PROVIDER/MODEL`, or set a default:
  export LLM_DEFAULT=alias:PROVIDER/MODEL
`aiollm models` lists what there is."""


class Finding(msgspec.Struct, frozen=True):
    """The result for one target; times are in seconds."""

    target: str
    url: str
    capabilities: dict[str, Any]
    text: str = ""
    first_output: float | None = None
    total: float | None = None
    problem: str = ""
    advice: str = ""
    network: str = ""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add(
        "spec",
        nargs="*",
        metavar="SPEC",
        help="default: all that aliases name, or what `aiollm ask` would use",
    )
    add("--json", action="store_true", help="print JSON")
    add(
        "-v", "--verbose", action="store_true", help="also show addresses, capabilities and answers"
    )


def check(options: argparse.Namespace) -> int:
    """Try every target; return the exit code."""

    async def work(registry: Registry) -> int:
        targets, findings = await _targets(options.spec, registry)
        await registry.preload()  # else the import would count as a server's time
        tried = _tried(registry, targets)
        try:
            for found in findings if not options.json else ():
                write(_described(found) if options.verbose else _line(found, targets))
            findings += [await _shown(tried[target], targets, options) for target in targets]
        finally:
            for task in tried.values():
                task.cancel()
            if tried:
                await asyncio.wait(tried.values())
        if options.json:
            print_json(findings)
        return OK if not any(each.problem for each in findings) else FAILED

    return run(work)


async def _targets(specs: Sequence[str], registry: Registry) -> tuple[list[Target], list[Finding]]:
    """Return the targets to try, each once, and what is wrong with aliases that nobody named."""
    aliases = registry.aliases()
    if not specs and not aliases and is_configured(os.environ):
        raise ConfigError(_NO_SPEC)
    if specs or not aliases:
        given = [await spec_of(each, registry) for each in specs or (None,)]
        return _each_once(map(registry.parse, given)), []
    plans: list[Plan] = []
    wrong: list[Finding] = []
    for name in sorted(aliases, key=lambda name: (name != "default", name)):
        try:
            plans.append(registry.parse(await spec_of(name, registry)))
        except SpecError as error:  # without the spec and what points into it
            wrong.append(Finding(name, "", {}, problem=describe(error).split("\n", 1)[0]))
        except (ConfigError, ConnectError, DeadlineError) as error:  # of the local model
            wrong.append(Finding(name, "", {}, problem=" ".join(describe(error).split())))
    return _each_once(plans), wrong


def _each_once(plans: Iterable[Plan]) -> list[Target]:
    return [*dict.fromkeys(target for plan in plans for target in plan.targets)]


def _tried(registry: Registry, targets: Sequence[Target]) -> dict[Target, asyncio.Task[Finding]]:
    """Start to try all targets, those of one provider one after another: it may have one GPU."""
    locks = {target.provider: asyncio.Lock() for target in targets}

    async def alone(target: Target) -> Finding:
        async with locks[target.provider]:
            return await _try(registry, target)

    return {target: asyncio.create_task(alone(target)) for target in targets}


async def _shown(
    task: asyncio.Task[Finding], targets: Sequence[Target], options: argparse.Namespace
) -> Finding:
    """Wait for a finding and print it, unless all are wanted as JSON at the end."""
    show_progress("waiting for the targets")
    try:
        finding = await task
    finally:
        clear_progress()
    if not options.json:
        write(_described(finding) if options.verbose else _line(finding, targets))
    return finding


async def _try(registry: Registry, target: Target) -> Finding:
    try:
        provider = registry.provider(target.provider)
    except ConfigError as error:
        return Finding(str(target), "", {}, problem=describe(error))
    facts = msgspec.to_builtins(provider.capabilities(target.model))
    known = Finding(str(target), provider.base_url, facts, network=provider.network.label)
    request = Request((user("Say hello in one word."),), max_output_tokens=200)
    try:
        answer = await registry.generate(
            str(target), request, retries=0, timeouts=Timeouts(first_output=60, total=90)
        )
    except LLMError as error:
        cause = error.exceptions[0] if isinstance(error, FailoverError) else error
        advice = next((text for kind, text in _ADVICE if isinstance(cause, kind)), "")
        return msgspec.structs.replace(known, problem=describe(cause), advice=advice)
    return msgspec.structs.replace(
        known,
        text=answer.text.strip() or answer.reasoning.strip()[:60],
        first_output=answer.timings.first_output,
        total=answer.timings.total,
    )


def _line(finding: Finding, targets: Sequence[Target]) -> str:
    """Return what is found of a target; its names are as wide as the widest of all."""
    first = finding.first_output
    result = "ok      no text" if first is None else f"ok      first text {first * 1000:.0f} ms"
    if finding.problem:
        advice = f"; {finding.advice}" if finding.advice else ""
        reason = finding.problem.replace(f" {finding.target}: ", " ", 1)
        result = f"failed  {one_line(reason)}{advice}"
    provider, _, model = finding.target.partition("/")
    widths = (  # there is no target where no alias can be read
        max((len(one_line(getattr(x, part))) for x in targets), default=0)
        for part in ("provider", "model")
    )
    names = (
        one_line(name).ljust(width) for name, width in zip((provider, model), widths, strict=True)
    )
    return f"{'  '.join(names)}  {result}\n"


def _described(finding: Finding) -> str:
    facts, target, url = finding.capabilities, one_line(finding.target), one_line(finding.url)
    takes = [name for name in ("images", "documents", "audio", "tools") if facts.get(name)]
    way = f"  ({one_line(finding.network)})" if finding.network else ""
    lines = [target]
    if url:  # else it is wrong, as an alias may be
        lines += [f"  at {url}{way}", f"  accepts {', '.join(takes) or 'text only'}"]
    if facts.get("images"):
        limits = ("max_images_per_request", "max_image_dimension", "max_pixels", "max_image_bytes")
        lines += [f"  {name}: {facts[name]}" for name in limits if facts.get(name) is not None]
    if finding.problem:
        lines.append("  FAILED  " + finding.problem.replace("\n", "\n  "))
        lines += [f"  try: {finding.advice}"] if finding.advice else []
    else:
        first = finding.first_output or 0.0
        lines.append(f"  ok  first output {first:.2f} s, total {finding.total:.2f} s")
        lines.append(f"  said {finding.text!r:.80}")
    return "\n".join(lines) + "\n"
