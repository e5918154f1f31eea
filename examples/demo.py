"""Watch a failover: the first target is dead, a real local model answers. `make demo` runs it."""

from __future__ import annotations

import asyncio

from aiollm import Registry, Request, local
from aiollm.cli.safe_text import one_line, printable

SPEC = "down/none,local/smollm2"
ENVIRONMENT = {"LLM_DOWN": "openai+http://127.0.0.1:9/v1"}
QUESTION = "Name three good reasons to walk in the woods."


async def main() -> None:
    async with Registry(env=ENVIRONMENT, cooldown=60) as reg:
        print("Starting a llama.cpp server with SmolLM2 135M (tiny: expect toy answers) ...")
        server = await local.start(reg)
        print(f"It listens on {server.url}. Nothing listens on port 9.")
        for turn in ("The dead target is tried first:", "It is set aside now, and skipped:"):
            print(f"\n{turn}\n  aiollm ask -m {SPEC} {QUESTION!r}\n")
            await answer(reg)
        print("\nThe registry's view of its targets' health:\n")
        show_health(reg)


async def answer(reg: Registry) -> None:
    request = Request(QUESTION, max_output_tokens=96, temperature=0.0)
    async with reg.stream(SPEC, request) as stream:
        async for chunk in stream:
            print(printable(chunk.text), end="", flush=True)  # a model must not drive the terminal
        response = stream.response
    print("\n")
    for attempt in response.attempts:
        error = f": {one_line(attempt.error)}" if attempt.error else ""
        print(f"  at {attempt.started * 1000:.0f} ms: {attempt.target}  {attempt.outcome}{error}")
    usage, timings = response.usage, response.timings
    print(
        f"  first output after {timings.first_output or 0.0:.2f} s, "
        f"{usage.output_tokens} tokens in {timings.total:.2f} s"
    )


def show_health(reg: Registry) -> None:
    print(f"  {'target':<16}{'state':<12}{'ok':>4}{'failed':>8}{'again in':>10}{'first out':>11}")
    for health in reg.health():
        first = f"{health.first_output * 1000:.0f} ms" if health.first_output else "-"
        print(
            f"  {health.target!s:<16}{health.state:<12}{health.succeeded:>4}{health.failed:>8}"
            f"{health.reopens_in:>8.0f} s{first:>11}"
        )


if __name__ == "__main__":
    asyncio.run(main())
