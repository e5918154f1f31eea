"""Scripted answers, so that every example runs where nobody has set up the providers it names.

Set LLM_M5 to a DSN of yours, or the vendor's own key, and the real one is asked instead.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiollm import ConfigError, Registry, Request, Target
from aiollm.testing import Answer, FakeProvider, FaultServer, Script, SeenRequest, chat, tool_call

KEYS = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}


def stand_in(reg: Registry, **scripts: Sequence[Script]) -> None:
    """Register scripted providers for the names that are not set up, and say so in one line."""
    missing = [name for name in scripts if not is_set_up(reg, name)]
    for name in missing:
        last = scripts[name][-1] if scripts[name] else None
        fake = FakeProvider(*scripts[name], default=last, name=name)
        reg.register(name, fake.provider())
    if missing:
        variables = " and ".join(KEYS.get(name, f"LLM_{name.upper()}") for name in missing)
        print(f"({variables} not set: the answers are scripted)", flush=True)


def is_set_up(reg: Registry, name: str) -> bool:
    try:
        reg.provider(name)
    except ConfigError:
        return False
    return True


def reading(pages: Iterable[str], conclusion: str) -> Script:
    """Return a model that reads page after page, then concludes; it also writes summaries."""
    left = iter(pages)

    def script(_: Target, request: Request) -> Script:
        if request.tool_choice == "none":
            return "So far it has been about streams."
        page = next(left, None)
        return [tool_call("read", {"page": page})] if page else conclusion

    return script


@asynccontextmanager
async def box(reg: Registry, name: str, model: str) -> AsyncGenerator[None]:
    """Run a scripted llama-swap server with one model, unless a real one is set up."""
    if is_set_up(reg, name):
        yield
        return
    running: list[dict[str, Any]] = []

    def answer(request: SeenRequest) -> Answer:
        match request.path:
            case "/v1/models":
                return Answer(200, {}, {"data": [{"id": model}]})
            case "/running":
                return Answer(200, {}, {"running": running})
            case "/v1/chat/completions":
                return chat("42, as always.")
            case path if path.startswith("/upstream/"):
                running[:] = [{"model": model, "state": "ready"}]
            case _:
                running.clear()
        return Answer(200, {}, {"status": "ok"})

    async with FaultServer(default=answer) as server:
        reg.register(name, server.dsn("llama-swap"))
        print(f"(LLM_{name.upper()} not set: a scripted server answers)", flush=True)
        yield
