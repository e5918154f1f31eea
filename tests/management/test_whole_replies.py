"""Replies that are no stream: one that is cut, hangs or is a web page is no success."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import pytest

from aiollm import (
    ClosedError,
    DeadlineError,
    FailoverError,
    Registry,
    StreamInterrupted,
    Timeouts,
)
from aiollm.errors import ProtocolError, ServerError
from aiollm.testing import Answer, Cut, FaultServer, Gate, Hang, html

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
            made = await stack.enter_async_context(Registry(env=env, timeouts=timeouts))
            await made.preload("x/m")  # which takes a part of a second in the first test of a run
            return made

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
        await ask(await registry(Hang(5, WHOLE), scheme, 1.0))
    assert (caught.value.which, caught.value.after) == ("first_output", 1.0)


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
        (b'{"data":"%s"}' % (b"a" * 5 * 1024 * 1024), "larger than 4194304 bytes"),
        (b" " * 5 * 1024 * 1024, "outside its strings"),
        (MODELS % ((b",".join([b'{"id":""}'] * 100_000),) * 2), "strings"),
    ],
)
async def test_a_reply_that_would_hold_up_the_loop_is_refused(registry, call, body, said):
    """It is decoded in one go, so its size and the objects in it have a limit."""
    scheme, ask = CALLS[call]
    script = Answer(200, {"content-type": "application/json"}, body)
    with pytest.raises(ProtocolError, match=said):
        await ask(await registry(script, scheme))


@pytest.mark.parametrize("call", CALLS)
async def test_a_connection_that_takes_too_long_is_named_as_such(call):
    scheme, ask = CALLS[call]
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # what a full queue is sent is dropped
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        url = f"{scheme}+http://127.0.0.1:{full.getsockname()[1]}"
        async with Registry(env={"LLM_X": url}, timeouts=Timeouts(connect=0.1)) as reg:
            with pytest.raises(DeadlineError, match="no connection") as caught:
                await ask(reg)
    assert (caught.value.which, caught.value.after) == ("connect", 0.1)


@pytest.mark.parametrize("is_reused", [False, True])
@pytest.mark.parametrize("call", [name for name in CALLS if name != "load"])
async def test_closing_the_registry_ends_a_request_and_sends_no_other(call, is_reused):
    """The closed connection is not taken for one that the server has closed while it was idle."""
    scheme, ask = CALLS[call]
    gate = Gate()
    scripts = [WHOLE, Hang(0, WHOLE, gate)][not is_reused :]
    async with FaultServer(*scripts) as server:
        reg = Registry(env={"LLM_X": server.dsn(scheme)})
        if is_reused:
            await ask(reg)
        task = asyncio.create_task(ask(reg))
        await gate.reached()
        await reg.aclose()
        with pytest.raises(ClosedError):
            await task
        assert len(server.requests) == len(scripts)
