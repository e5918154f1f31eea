"""`aiollm check`: resolve a spec, send a request to each target, and explain what is wrong."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from aiollm.cli.safe_text import one_line
from aiollm.cli.session import FAILED, OK, run, spec_of
from aiollm.cli.terminal import describe, print_json, write
from aiollm.errors import (
    AuthenticationError,
    ConnectError,
    DeadlineError,
    FailoverError,
    LLMError,
    ModelNotFoundError,
    QuotaError,
)
from aiollm.registry import Registry
from aiollm.types import Request, Target, Timeouts, user

_ADVICE: tuple[tuple[type[LLMError], str], ...] = (
    (AuthenticationError, "check the token in the provider's DSN or its key variable"),
    (QuotaError, "the account has no credit left, or has reached its limit"),
    (ModelNotFoundError, "check the model's name with `aiollm models`, and the path of the DSN"),
    (ConnectError, "check host, port and scheme (+http?), and that the server is running"),
    (DeadlineError, "the server is slow or is loading a model: set ?first_output_timeout="),
)


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
    parser.add_argument("spec", nargs="?", help="default: the one `aiollm ask` would use")
    parser.add_argument("--json", action="store_true", help="print JSON")


def check(options: argparse.Namespace) -> int:
    """Try every target; return the exit code."""

    async def work(registry: Registry) -> int:
        spec = await spec_of(options.spec, registry)
        plan = registry.parse(spec)
        findings = [await _try(registry, target) for target in plan.targets]
        if options.json:
            print_json(findings)
        else:
            write(f"{one_line(plan)}\n" + "".join(map(_described, findings)))
        return OK if not any(each.problem for each in findings) else FAILED

    return run(work)


async def _try(registry: Registry, target: Target) -> Finding:
    provider = registry.provider(target.provider)
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
        return msgspec.structs.replace(known, problem=describe(error), advice=advice)
    return msgspec.structs.replace(
        known,
        text=answer.text.strip() or answer.reasoning.strip()[:60],
        first_output=answer.timings.first_output,
        total=answer.timings.total,
    )


def _described(finding: Finding) -> str:
    facts, target, url = finding.capabilities, one_line(finding.target), one_line(finding.url)
    takes = [name for name in ("images", "documents", "audio", "tools") if facts.get(name)]
    way = f"  ({one_line(finding.network)})" if finding.network else ""
    lines = [target, f"  at {url}{way}", f"  accepts {', '.join(takes) or 'text only'}"]
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
