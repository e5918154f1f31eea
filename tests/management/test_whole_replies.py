"""Replies that are no stream: one that is cut, hangs or is a web page is no success."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import pytest

from aiollm import DeadlineError, FailoverError, Registry, StreamInterrupted, Timeouts
from aiollm.errors import ProtocolError, ServerError
from aiollm.testing import Answer, Cut, FaultServer, Hang, html

WHOLE = Answer(200, {}, {"models": [], "data": [], "running": [], "msg": "ok"})

Ask: TypeAlias = Callable[[Registry], Awaitable[Any]]
CALLS: dict[str, tuple[str, Ask]] = {
    "models": ("openai", lambda reg: reg.models("x")),
    "running": ("llama-swap", lambda reg: reg.llama_swap("x").running()),
    "stop": ("llama-swap", lambda reg: reg.llama_swap("x").unload("m")),
    "unload": ("ollama", lambda reg: reg.ollama("x").unload("m")),
    "load": ("ollama", lambda reg: reg.ollama("x").load("m")),
}


@pytest.fixture
async def registry() -> AsyncIterator[Callable[..., Awaitable[Registry]]]:
    """Make a registry whose provider `x` is a server with a script."""
    async with AsyncExitStack() as stack:

        async def make(script: Any, scheme: str, seconds: float = 30) -> Registry:
            server = await stack.enter_async_context(FaultServer(default=script))
            timeouts = Timeouts(first_output=seconds)
            env = {"LLM_X": server.dsn(scheme)}
            return await stack.enter_async_context(Registry(env=env, timeouts=timeouts))

        yield make


@pytest.mark.parametrize("call", CALLS)
async def test_a_body_that_is_cut_is_an_error(registry, call):
    scheme, ask = CALLS[call]
    with pytest.raises(StreamInterrupted):
        await ask(await registry(Cut(5, WHOLE), scheme))


@pytest.mark.parametrize("call", [name for name in CALLS if name != "load"])
async def test_a_body_that_never_ends_hits_its_deadline(registry, call):
    scheme, ask = CALLS[call]
    with pytest.raises(DeadlineError, match="not complete within") as caught:
        await ask(await registry(Hang(5, WHOLE), scheme, 0.2))
    assert (caught.value.which, caught.value.after) == ("first_output", 0.2)


@pytest.mark.parametrize("call", CALLS)
async def test_a_web_page_is_an_error(registry, call):
    scheme, ask = CALLS[call]
    with pytest.raises(ServerError, match="an HTML page"):
        await ask(await registry(html(), scheme))


async def test_a_model_whose_loading_broke_off_is_not_loaded(registry):
    reg = await registry(Cut(5, WHOLE), "ollama")
    with pytest.raises(FailoverError) as caught:
        await reg.load_models("x/m")
    assert isinstance(caught.value.exceptions[0], StreamInterrupted)


READS = [name for name in CALLS if name in ("models", "running")]
MODELS = b'{"data": [%s], "running": [%s]}'


@pytest.mark.parametrize("call", READS)
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b" " * 9 * 1024 * 1024, "larger than 8388608 bytes"),
        (MODELS % ((b",".join([b'{"id":""}'] * 100_000),) * 2), "holds 200001 objects"),
    ],
)
async def test_a_reply_that_would_hold_up_the_loop_is_refused(registry, call, body, said):
    """It is decoded in one go, so its size and the objects in it have a limit."""
    scheme, ask = CALLS[call]
    script = Answer(200, {"content-type": "application/json"}, body)
    with pytest.raises(ProtocolError, match=said):
        await ask(await registry(script, scheme))
