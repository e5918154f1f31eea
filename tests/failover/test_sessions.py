"""Sessions: a call prefers the target whose prompt cache is warm, and is never held to it."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm import (
    ConfigError,
    FailoverError,
    Limits,
    Registry,
    Request,
    Target,
    assistant,
    events,
    system,
    tool,
    user,
)
from aiollm._failover import sessions
from aiollm._failover.sessions import LIFETIME, MAX_TARGETS, Session, Sessions, key_of
from aiollm.dsn import Secret
from aiollm.provider import Provider
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.dialects import OPENAI
from aiollm.testing import Answer, Cut, FakeProvider, FaultServer, Gate, chat, sse

RULES = "word " * 60
TALKS, TURNS = 20, 6


class PrefixCache:
    """Answers as a server that keeps the prompts it has read; a token is a word."""

    def __init__(self) -> None:
        self.prompts: list[list[str]] = []

    def __call__(self, request: Any) -> Answer:
        words = " ".join(each["content"] for each in request.json()["messages"]).split()
        cached = max((common(words, known) for known in self.prompts), default=0)
        self.prompts.append(words)
        usage = {
            "prompt_tokens": len(words),
            "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        done = {"choices": [{"index": 0, "delta": {"content": "fine"}, "finish_reason": "stop"}]}
        return sse(done | {"usage": usage}, "[DONE]")


def common(left: list[str], right: list[str]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((at for at, (one, two) in pairs if one != two), min(len(left), len(right)))


class Talk:
    """A conversation whose prompt begins in its own way, so that it can only find itself."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.messages = [system(f"{name} {RULES}")]
        self.cached = self.could = self.before = self.lost = 0

    async def turn(self, reg: Registry, spec: str, *, keeps: bool) -> None:
        self.messages.append(user(f"question {len(self.messages)} {RULES}"))
        options: Any = {"session": self.name} if keeps else {}
        try:
            response = await reg.generate(spec, self.messages, **options)
        except FailoverError:
            self.lost += 1
            return
        self.messages.append(assistant(response.text))
        self.cached += response.usage.cached_tokens
        self.could += self.before
        self.before = response.usage.input_tokens


async def talked(
    spec: str, *, keeps: bool, dies: bool = False, limit: int | None = None
) -> list[Talk]:
    """Have all conversations at two servers, turn by turn; `limit` is of slots at the first."""
    talks = [Talk(f"talk-{number}") for number in range(TALKS)]
    shuffle = random.Random(5).shuffle
    async with AsyncExitStack() as stack, AsyncExitStack() as mortal:
        a = await mortal.enter_async_context(FaultServer(PrefixCache()))
        b = await stack.enter_async_context(FaultServer(PrefixCache()))
        slots = f"?max_concurrency={limit}" if limit else ""
        env = {"LLM_A": f"openai+{a.url}/v1{slots}", "LLM_B": f"openai+{b.url}/v1"}
        reg = await stack.enter_async_context(Registry(env=env, retries=0))
        await reg.preload(spec)
        for number in range(TURNS):
            if dies and number == TURNS // 2:
                await mortal.aclose()
            order = [*talks]
            shuffle(order)
            await asyncio.gather(*(talk.turn(reg, spec, keeps=keeps) for talk in order))
    return talks


def share(talks: list[Talk]) -> float:
    return sum(talk.cached for talk in talks) / sum(talk.could for talk in talks)


@pytest.mark.parametrize(("spec", "limit"), [("a/m&b/m", None), ("a/m,b/m", TALKS // 2)])
async def test_a_conversation_finds_its_cache_in_every_turn(spec: str, limit: int | None) -> None:
    """Twenty at once, shared by a spread, or by a chain whose first target takes half of them."""
    without = await talked(spec, keeps=False, limit=limit)
    assert share(without) < 0.8
    kept = await talked(spec, keeps=True, limit=limit)
    assert share(kept) == 1.0


@pytest.mark.parametrize("spec", ["a/m&b/m", "a/m,b/m"])
async def test_no_call_is_lost_when_a_warm_target_dies(spec: str) -> None:
    talks = await talked(spec, keeps=True, dies=True)
    assert [talk.lost for talk in talks] == [0] * TALKS
    assert all(len(talk.messages) == 1 + 2 * TURNS for talk in talks)


@pytest.fixture
async def pair(serve, registry):
    """Two servers that say who they are, and a registry that knows them."""
    a, b = await serve(chat("a")), await serve(chat("b"))
    reg = registry({"a": a, "b": b}, cooldown=60.0)
    return a, b, reg


async def asked(reg: Registry, spec: str = "a/m,b/m", request: Any = "hi", **options: Any) -> Any:
    return await reg.generate(spec, request, **({"session": "s"} | options))


async def test_an_attempt_says_that_it_was_preferred(pair) -> None:
    _, _, reg = pair
    started = []
    reg.on_event(lambda event: started.append(event) if type(event) is events.AttemptStarted else 0)
    first = await asked(reg, "b/m")
    then = await asked(reg)
    assert (str(first.target), first.attempts[0].preferred) == ("b/m", False)
    assert (str(then.target), then.attempts[0].preferred) == ("b/m", True)
    assert [event.preferred for event in started] == [False, True]
    other = await asked(reg, session="another")
    assert (str(other.target), other.attempts[0].preferred) == ("a/m", False)


async def test_a_target_that_is_set_aside_is_not_preferred(pair) -> None:
    a, b, reg = pair
    await asked(reg, "b/m")
    b.behave(Answer(500, {}, {"error": {"message": "no"}}))
    failed = await asked(reg)
    assert [str(each.target) for each in failed.attempts] == ["b/m", "a/m"]
    b.behave(chat("b"))
    assert str((await asked(reg)).target) == "a/m", "its cooldown is not over"
    reg.reset_health()
    assert str((await asked(reg)).target) == "a/m", "which answered last"
    a.behave(Answer(500, {}, {"error": {"message": "no"}}))
    assert str((await asked(reg)).target) == "b/m"


async def test_a_target_that_waits_for_its_probe_is_not_preferred(pair, monkeypatch) -> None:
    """A probe may fail, and the caller would have waited for it; that is left to other calls."""
    _, b, reg = pair
    await asked(reg, "b/m")
    b.behave(Answer(500, {}, {"error": {"message": "no"}}))
    with pytest.raises(FailoverError):
        await asked(reg, "b/m", session="other")
    now = reg._gate.health.clock() + 3600.0
    monkeypatch.setattr(reg._gate.health, "clock", lambda: now)
    then = await asked(reg)
    assert str(then.target) == "a/m"
    assert len(then.attempts) == 1


async def test_a_full_target_is_not_waited_for(serve, registry) -> None:
    gate = Gate()
    a, b = await serve(chat("a")), await serve(chat("b"), chat(gate, "b"))
    reg = registry({"a": a, "b": b})
    reg.limit("b", Limits(max_concurrency=1))
    await asked(reg, "b/m")
    async with reg.stream("b/m", "hold it") as held:
        task = asyncio.create_task(anext(held))
        await b.wait_requests(2)
        assert str((await asked(reg)).target) == "a/m"
        gate.open()
        await task


async def test_in_a_race_the_warm_target_starts_first(pair) -> None:
    _, b, reg = pair
    await asked(reg, "b/m")
    then = await asked(reg, "a/m|b/m", stagger=30.0)
    assert [str(each.target) for each in then.attempts] == ["b/m"]
    assert len(b.requests) == 2


async def test_other_models_of_a_conversation_are_remembered_too(pair) -> None:
    _, _, reg = pair
    await asked(reg, "b/m")
    await asked(reg, "a/vision")
    assert str((await asked(reg)).target) == "b/m"


@pytest.mark.parametrize(
    ("wish", "seconds"), [(None, LIFETIME), ("auto", LIFETIME), ("30m", 1800), ("12h", 43200)]
)
async def test_the_preference_ends_with_the_cache(pair, monkeypatch, wish, seconds) -> None:
    _, _, reg = pair
    now = [1000.0]
    monkeypatch.setattr(reg._gate, "now", lambda: now[0])
    request = Request("hi", prompt_cache=wish)
    for later, preferred in ((0.0, False), (seconds - 1, True), (seconds + 1, False)):
        now[0] += later
        spec = "a/m,b/m" if preferred or later else "b/m"
        response = await asked(reg, spec, request)
        assert response.attempts[0].preferred == preferred
        assert str(response.target) == ("a/m" if later > seconds else "b/m")


def provider_of(server: FaultServer, **fields: Any) -> Provider:
    return Provider(
        "oa", "openai", f"{server.url}/v1", ChatCodec(OPENAI), token=Secret("sk-test"), **fields
    )


async def test_the_key_on_the_wire_is_a_hash_and_not_the_name(serve) -> None:
    server = await serve(chat("a"))
    async with Registry(env={}) as reg:
        reg.register("oa", provider_of(server))
        for session in ("Kim's chat", "Kim's chat", "other"):
            await asked(reg, "oa/gpt-5", session=session)
        await asked(reg, "oa/gpt-5", Request("hi", cache_key="mine"))
        await reg.generate("oa/gpt-5", "hi")
        await asked(reg, "oa/gpt-5", Request("hi", prompt_cache="off"))
    keys = [request.json().get("prompt_cache_key") for request in server.requests]
    assert keys[:2] == [key_of("Kim's chat")] * 2
    assert len({*keys[:3]}) == 2
    assert keys[3:] == ["mine", None, None]
    assert not any(b"Kim" in request.head + request.body for request in server.requests)


async def test_off_prefers_nothing(pair) -> None:
    _, _, reg = pair
    await asked(reg, "b/m", Request("hi", prompt_cache="off"))
    assert str((await asked(reg)).target) == "a/m"
    await asked(reg, "b/m")
    assert str((await asked(reg, request=Request("hi", prompt_cache="off"))).target) == "a/m"


async def test_a_run_stays_with_the_target_of_its_last_turn_and_sends_no_key(serve) -> None:
    """A run without a name is a session of its own; a key that changes would break recordings."""
    first = chat({"tool_calls": [tool_call_delta()]}, finish="tool_calls")
    a, b = await serve(first, chat("done")), await serve(first, chat("done"))

    @tool
    def look() -> str:
        """Look."""
        return "seen"

    async with Registry(env={}) as reg:
        reg.register("oa", provider_of(a))
        reg.register("ob", provider_of(b))
        before = reg.health()
        assert before == ()
        run = reg.run("oa/gpt-5&ob/gpt-5", "hi", tools=[look])
        response = await run.collect()
        assert response.text == "done"
        assert response.attempts[0].preferred
        assert reg._resources._sessions is None or len(reg._resources._sessions) == 0
        named = reg.run("oa/gpt-5", "hi", tools=[], session="kept")
        a.behave(chat("done"))
        await named.collect()
    bodies = [request.json() for server in (a, b) for request in server.requests]
    assert [each.get("prompt_cache_key") for each in bodies] == [None, None, key_of("kept")]


def tool_call_delta() -> dict[str, Any]:
    return {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "look", "arguments": "{}"},
    }


async def test_repairs_of_a_typed_answer_stay_in_the_session(pair) -> None:
    a, b, reg = pair
    b.push(chat("b"), chat("not json"), chat("3"))
    await asked(reg, "b/m")
    assert await reg.generate("a/m,b/m", "hi", output=int, session="s") == 3
    assert len(a.requests) == 0


async def test_a_restart_after_a_cut_leaves_the_warm_target(serve, registry) -> None:
    a, b = await serve(chat("a")), await serve(chat("b"), Cut(200, chat("b" * 200, "b" * 200)))
    reg = registry({"a": a, "b": b}, on_interrupt="restart")
    await asked(reg, "b/m")
    then = await asked(reg)
    assert [str(each.target) for each in then.attempts][-1] == "a/m"
    assert then.text == "a"


@pytest.mark.parametrize("session", ["", 1, b"x", ["s"]])
async def test_a_name_is_checked_at_once(session: Any) -> None:
    async with Registry(env={}) as reg:
        reg.register("fake", FakeProvider().provider())
        with pytest.raises(ConfigError, match="session is"):
            reg.stream("fake/m", "hi", session=session)
        with pytest.raises(TypeError, match="session"):
            reg.stream_images("fake/m", "a boat", session="s")


async def test_nothing_is_remembered_where_nobody_asks_for_it() -> None:
    async with Registry(env={}) as reg:
        reg.register("fake", FakeProvider().provider())
        await reg.generate("fake/m", "hi", session=None)
        assert reg._resources._sessions is None


@given(names=st.lists(st.integers(0, 12).map(str), max_size=60))
def test_the_sessions_used_last_are_kept_and_no_more(names: list[str]) -> None:
    kept = Sessions()
    most, sessions.MAX_SESSIONS = sessions.MAX_SESSIONS, 5
    try:
        for name in names:
            kept._named(name)
            assert len(kept) <= 5
    finally:
        sessions.MAX_SESSIONS = most
    last = [*dict.fromkeys(reversed(names))][:5]
    assert {*kept._sessions} == {*last}


def test_a_session_takes_few_bytes_and_few_targets() -> None:
    kept = Sessions()
    targets = [Target("p", f"m{number}") for number in range(10)]
    tracemalloc.start()
    try:
        for number in range(2 * sessions.MAX_SESSIONS):
            kept._named(key_of(str(number))).used(targets[0], float(number))
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept) == sessions.MAX_SESSIONS
    assert size < 500 * sessions.MAX_SESSIONS
    session = Session()
    for at, target in enumerate(targets):
        session.used(target, 100.0 + at)
    assert session.warm(0.0) == targets[::-1][:MAX_TARGETS]
    assert session.warm(108.5) == [targets[9]]
