"""Chains: who is tried, what moves on, what a caller gets to see."""

from __future__ import annotations

import pytest

from aiollm import (
    AuthenticationError,
    ConfigError,
    ConnectError,
    ContentFilterError,
    DeadlineError,
    FailoverError,
    InvalidRequestError,
    LLMError,
    OverloadedError,
    ProviderData,
    RateLimitError,
    ReasoningPart,
    Request,
    Restart,
    ServerError,
    SpecError,
    Status,
    StreamInterrupted,
    TextDelta,
    Timeouts,
    TransportError,
    assistant,
    user,
)
from aiollm.testing import Answer, Cut, Gate, Hang, Reset, Serve, Truncate, chat, html, sse

OK = chat("Hel", "lo")


def failing(status: int, code: str = "", **headers: str) -> Answer:
    return Answer(status, headers, {"error": {"message": "no", "code": code}})


async def test_a_single_target_streams_its_text(serve, registry):
    server = await serve(OK)
    stream = registry({"a": server}).stream("a/m", "hi")
    texts = [chunk.text async for chunk in stream]
    assert "".join(texts) == "Hello"
    assert stream.response.text == "Hello"
    assert stream.response.finish_reason == "stop"
    assert str(stream.target) == "a/m"


async def test_nothing_is_sent_before_the_first_chunk_is_asked_for(serve, registry):
    server = await serve(OK)
    registry({"a": server}).stream("a/m", "hi")
    assert server.counts.opened == 0


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (failing(500), ServerError),
        (failing(503), OverloadedError),
        (failing(429), RateLimitError),
        (failing(401), AuthenticationError),
        (Answer(302, {"location": "http://127.0.0.2/"}), LLMError),
        (html(), ServerError),
        (Answer(200, {"content-type": "text/event-stream"}), StreamInterrupted),
        (Answer(200, {"content-type": "application/json"}), ServerError),
        (Answer(200, {}, {"error": {"message": "no", "code": "server_error"}}), ServerError),
        (sse({"error": {"message": "no", "code": 500}}), ServerError),
        (Cut(), TransportError),
        (Cut(after=0), StreamInterrupted),
        (Reset(after=0), StreamInterrupted),
        (Truncate(after=10), StreamInterrupted),
    ],
    ids=repr,
)
async def test_a_failure_before_output_moves_on_unseen(serve, registry, fault, error):
    bad, good = await serve(fault), await serve(OK)
    stream = registry({"a": bad, "b": good}).stream("a/m,b/m", "hi")
    response = await stream.collect()
    assert response.text == "Hello"
    assert str(response.target) == "b/m"
    first, second = response.attempts
    assert isinstance(first.error, error)
    assert (first.outcome, second.outcome) == ("failed", "success")


async def test_a_failed_item_of_a_spread_falls_to_its_siblings_first(serve, registry):
    one, two, three, last = [await serve(failing(503)) for _ in range(3)] + [await serve(OK)]
    reg = registry({"a": one, "b": two, "c": three, "d": last}, retries=0)
    stream = reg.stream("2*a/m&b/m&c/m,d/m", "hi")
    assert (await stream.collect()).text == "Hello"
    asked = [str(each.target) for each in stream.attempts]
    assert asked[-1] == "d/m"
    assert sorted(asked[:-1]) == ["a/m", "b/m", "c/m"]


async def test_a_spread_asks_one_of_its_items(serve, registry):
    one, two = await serve(OK, OK), await serve(OK, OK)
    reg = registry({"a": one, "b": two})
    assert (await reg.stream("a/m&b/m", "hi").collect()).text == "Hello"
    assert len(one.requests) + len(two.requests) == 1


async def test_a_refused_connection_moves_on(serve, registry):
    good = await serve(OK)
    reg = registry({"a": good.refused_url(), "b": good})
    response = await reg.stream("a/m,b/m", "hi").collect()
    assert isinstance(response.attempts[0].error, ConnectError)
    assert response.text == "Hello"


async def test_when_all_fail_the_group_has_one_error_per_attempt_in_order(serve, registry):
    one, two = await serve(failing(500)), await serve(failing(401))
    with pytest.raises(FailoverError) as caught:
        await registry({"a": one, "b": two}).stream("a/m,b/m", "hi").collect()
    error = caught.value
    assert [type(each) for each in error.exceptions] == [ServerError, AuthenticationError]
    assert [str(each.target) for each in error.exceptions] == ["a/m", "b/m"]
    assert [attempt.outcome for attempt in error.attempts] == ["failed", "failed"]


async def test_a_refused_request_moves_on_without_harm_and_is_not_asked_there_again(
    serve, registry
):
    bad, good = await serve(failing(400)), await serve(OK)
    reg = registry({"a": bad, "b": good}, retries=2)
    assert (await reg.stream("a/m,b/m", "hi").collect()).text == "Hello"
    assert [health.state for health in reg.health()] == ["healthy", "healthy"]
    with pytest.raises(FailoverError) as caught:
        await reg.stream("a/m", "hi").collect()
    assert isinstance(caught.value.last, InvalidRequestError)
    assert caught.value.status == 400
    assert bad.counts.requests == 2


async def test_a_policy_refusal_ends_the_call(serve, registry):
    bad, good = await serve(failing(400, "content_filter")), await serve(OK)
    with pytest.raises(ContentFilterError):
        await registry({"a": bad, "b": good}).stream("a/m,b/m", "hi").collect()
    assert good.counts.requests == 0


async def test_context_length_moves_on_without_harm(serve, registry):
    bad, good = await serve(failing(400, "context_length_exceeded")), await serve(OK)
    reg = registry({"a": bad, "b": good})
    assert (await reg.stream("a/m,b/m", "hi").collect()).text == "Hello"
    assert [health.state for health in reg.health()] == ["healthy", "healthy"]


async def test_a_cut_after_output_raises_with_the_partial_text(serve, registry):
    server = await serve(sse({"choices": [{"index": 0, "delta": {"content": "Half"}}]}))
    stream = registry({"a": server}).stream("a/m", "hi")
    with pytest.raises(StreamInterrupted) as caught:
        async for _ in stream:
            pass
    assert caught.value.partial.text == "Half"
    assert caught.value.partial.finish_reason is None
    assert str(caught.value.target) == "a/m"
    assert stream.partial.text == "Half"


async def test_restart_voids_the_first_part_and_streams_from_the_next_target(serve, registry):
    cut = await serve(sse({"choices": [{"index": 0, "delta": {"content": "Half"}}]}))
    good = await serve(OK)
    stream = registry({"a": cut, "b": good}).stream("a/m,b/m", "hi", on_interrupt="restart")
    chunks = [chunk async for chunk in stream]
    kinds = [type(chunk) for chunk in chunks]
    assert kinds[:2] == [TextDelta, Restart]
    assert chunks[0].text == "Half"
    assert str(chunks[1].target) == "b/m"
    assert stream.response.text == "Hello"


async def test_restart_with_no_target_left_keeps_the_partial_in_the_group(serve, registry):
    cut = await serve(sse({"choices": [{"index": 0, "delta": {"content": "Half"}}]}))
    with pytest.raises(FailoverError) as caught:
        await registry({"a": cut}).stream("a/m", "hi", on_interrupt="restart").collect()
    assert caught.value.exceptions[0].partial.text == "Half"


async def test_continue_goes_on_from_the_partial_text(serve):
    from aiollm import Registry

    half = sse({"id": "1", "model": "m", "choices": [{"index": 0, "delta": {"content": "Half"}}]})
    cut, good = await serve(half), await serve(chat(" done"))
    env = {f"LLM_{n}": f"llama-swap://127.0.0.1:{s.port}" for n, s in (("A", cut), ("B", good))}
    async with Registry(env=env, retries=0) as reg:
        stream = reg.stream("a/m,b/m", "hi", on_interrupt="continue")
        chunks = [chunk async for chunk in stream]
        assert not any(isinstance(chunk, Restart) for chunk in chunks)
        assert stream.response.text == "Half done"
    assert good.requests[0].json()["messages"][-1] == {"role": "assistant", "content": "Half"}


async def test_a_spread_goes_on_only_at_items_that_take_a_prefill(serve):
    from aiollm import Registry

    half = sse({"id": "1", "model": "m", "choices": [{"index": 0, "delta": {"content": "Half"}}]})
    cut, other, good = await serve(half), await serve(OK), await serve(chat(" done"))
    env = {
        "LLM_A": f"llama-swap://127.0.0.1:{cut.port}",
        "LLM_B": f"openai+{other.url}/v1",
        "LLM_C": f"llama-swap://127.0.0.1:{good.port}",
    }
    async with Registry(env=env, retries=0) as reg:
        stream = reg.stream("a/m,2*b/m&3*c/m", "hi", on_interrupt="continue")
        assert (await stream.collect()).text == "Half done"
    assert other.counts.requests == 0


async def test_continue_raises_where_no_target_takes_a_prefill(serve, registry):
    cut = await serve(sse({"choices": [{"index": 0, "delta": {"content": "Half"}}]}))
    good = await serve(OK)
    with pytest.raises(StreamInterrupted):
        await (
            registry({"a": cut, "b": good})
            .stream("a/m,b/m", "hi", on_interrupt="continue")
            .collect()
        )
    assert good.counts.requests == 0


async def test_loading_notes_are_shown_and_do_not_commit(serve, registry):
    note = {"choices": [{"delta": {"reasoning_content": "loading\n"}}]}
    bad, good = await serve(sse(note)), await serve(OK)
    stream = registry({"a": bad, "b": good}).stream("a/m,b/m", "hi")
    chunks = [chunk async for chunk in stream]
    assert isinstance(chunks[0], Status)
    assert stream.response.text == "Hello"
    assert stream.response.reasoning == ""


async def test_a_retry_lets_a_single_target_survive_a_hiccup(serve, registry):
    server = await serve(failing(500), OK)
    reg = registry({"a": server}, retries=2, cooldown=0.01)
    response = await reg.stream("a/m", "hi").collect()
    assert [attempt.outcome for attempt in response.attempts] == ["failed", "success"]


async def test_retries_are_counted_over_the_whole_call(serve, registry):
    one, two = await serve(failing(500)), await serve(failing(500))
    reg = registry({"a": one, "b": two}, retries=2, cooldown=0.01)
    with pytest.raises(FailoverError) as caught:
        await reg.stream("a/m,b/m", "hi").collect()
    assert len(caught.value.exceptions) == 4
    assert one.counts.requests + two.counts.requests == 4


@pytest.mark.parametrize("fault", [failing(401), failing(402), failing(404, "model_not_found")])
async def test_errors_that_cannot_pass_are_not_retried(serve, registry, fault):
    server = await serve(fault)
    with pytest.raises(FailoverError):
        await registry({"a": server}, retries=2, cooldown=0.01).stream("a/m", "hi").collect()
    assert server.counts.requests == 1


@pytest.mark.parametrize(
    ("status", "settings"), [(429, {"patience": 0.5}), (503, {"max_wait": 0.5})]
)
async def test_a_wait_that_cannot_end_in_time_ends_at_once(serve, registry, status, settings):
    server = await serve(failing(status, **{"retry-after": "60"}))
    reg = registry({"a": server}, retries=2, **settings)
    with pytest.raises(FailoverError) as caught:
        await reg.stream("a/m", "hi").collect()
    assert caught.value.exceptions[0].retry_after == 60
    assert server.counts.requests == 1


async def test_should_retry_false_is_obeyed(serve, registry):
    server = await serve(failing(500, **{"x-should-retry": "false"}))
    with pytest.raises(FailoverError):
        await registry({"a": server}, retries=2, cooldown=0.01).stream("a/m", "hi").collect()
    assert server.counts.requests == 1


DEAD = {
    "500": failing(500),
    "429": failing(429, **{"retry-after": "1000"}),
    "503": failing(503),
    "cut before output": Cut(after=0),
    "closed without an answer": Cut(),
    "truncated before output": Truncate(after=5),
}


@pytest.mark.parametrize("name", [*DEAD, "refused", "hang"])
async def test_a_dead_first_target_is_asked_once(serve, registry, name):
    """With A dead and B alive, 100 streams send A one request: its cooldown outlasts them."""
    good = await serve(OK)
    bad = await serve(DEAD.get(name, Hang()))
    url = good.refused_url() if name == "refused" else bad
    patience = Timeouts(first_output=1.0 if name == "hang" else 30)
    reg = registry({"a": url, "b": good}, cooldown=1000, timeouts=patience)
    for _ in range(100):
        stream = reg.stream("a/m,b/m", "hi")
        assert (await stream.collect()).text == "Hello"
    tried = [health for health in reg.health() if str(health.target) == "a/m"]
    assert [health.failed for health in tried] == [0 if "429" in name else 1]
    assert bad.counts.requests == (0 if name == "refused" else 1)
    assert good.counts.requests == 100


async def test_if_all_are_cooling_the_one_that_recovers_first_is_waited_for(serve, registry):
    bad = await serve(failing(500, **{"retry-after": "0.05"}), OK)
    worse = await serve(failing(500, **{"retry-after": "3000"}), OK)
    reg = registry({"a": worse, "b": bad}, cooldown=0.01)
    with pytest.raises(FailoverError):
        await reg.stream("a/m,b/m", "hi").collect()
    response = await reg.stream("a/m,b/m", "hi").collect()
    assert str(response.target) == "b/m"
    assert worse.counts.requests == 1


async def test_a_call_that_cannot_wait_long_enough_is_told_what_set_the_target_aside(
    serve, registry
):
    server = await serve(failing(500, **{"retry-after": "3000"}))
    reg = registry({"a": server})
    with pytest.raises(FailoverError):
        await reg.stream("a/m", "hi").collect()
    with pytest.raises(FailoverError) as caught:
        await reg.stream("a/m", "hi").collect()
    assert caught.value.attempts == ()
    assert isinstance(caught.value.last, ServerError)
    assert caught.value.retry_after > 2000
    assert "may be asked again in" in str(caught.value.last.__notes__)
    assert server.counts.requests == 1


async def test_a_malformed_entry_fails_before_any_byte_even_late_in_a_chain(serve):
    from aiollm import Registry

    good = await serve(OK)
    env = {"LLM_A": f"openai+{good.url}/v1", "LLM_B": "openai://sk-secret@"}
    async with Registry(env=env) as reg:
        with pytest.raises(ConfigError, match="LLM_B") as caught:
            await reg.stream("a/m,b/m", "hi").collect()
    assert "sk-secret" not in str(caught.value)
    assert good.counts.opened == 0


async def test_a_bad_spec_or_request_fails_at_the_call(registry):
    reg = registry({})
    with pytest.raises(SpecError):
        reg.stream("nobody/m", "hi")
    with pytest.raises(ConfigError):
        reg.stream("openai/m", [])


async def test_the_key_is_in_no_error(serve):
    from aiollm import Registry

    echo = Answer(401, {}, {"error": {"message": "Incorrect key sk-verysecret", "code": "x"}})
    server = await serve(echo)
    env = {"LLM_A": f"openai+http://sk-verysecret@127.0.0.1:{server.port}/v1"}
    async with Registry(env=env, retries=0) as reg:
        with pytest.raises(FailoverError) as caught:
            await reg.stream("a/m", "hi").collect()
        texts = [str(caught.value), repr(caught.value), reg.describe()]
        for error in caught.value.exceptions:
            texts += [str(error), repr(error), repr(error.body), repr(error.__context__)]
        assert not any("sk-verysecret" in text for text in texts)
    assert server.requests[0].headers["authorization"] == "Bearer sk-verysecret"


async def test_a_redirect_is_not_followed(serve, registry):
    other = await serve(OK)
    server = await serve(Answer(307, {"location": f"{other.url}/v1/chat/completions"}))
    with pytest.raises(FailoverError):
        await registry({"a": server}).stream("a/m", "hi").collect()
    assert other.counts.opened == 0


async def test_the_stall_of_one_target_lets_the_next_answer(serve, registry):
    gate = Gate()
    bad, good = await serve(Hang(gate=gate)), await serve(OK)
    reg = registry({"a": bad, "b": good}, timeouts=Timeouts(first_output=1.0))
    response = await reg.stream("a/m,b/m", "hi").collect()
    error = response.attempts[0].error
    assert isinstance(error, DeadlineError)
    assert error.which == "first_output"


async def test_usage_survives_a_cut(serve, registry):
    early = {"choices": [{"index": 0, "delta": {"content": "x"}}], "usage": {"prompt_tokens": 7}}
    server = await serve(sse(early))
    with pytest.raises(StreamInterrupted) as caught:
        await registry({"a": server}).stream("a/m", "hi").collect()
    usage = caught.value.partial.usage
    assert (usage.input_tokens, usage.certainty) == (7, "partial")


async def test_raw_bytes_of_a_whole_answer_are_accepted(serve, registry):
    whole = b'{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}]}'
    server = await serve(Serve(whole, "application/json"))
    response = await registry({"a": server}).stream("a/m", "hi").collect()
    assert response.text == "Hi"


async def test_warnings_of_the_encoder_reach_the_response(serve, registry):
    server = await serve(OK)
    foreign = ReasoningPart("hm", ProviderData("anthropic", {"signature": "x"}))
    request = Request((user("hi"), assistant(foreign, "hello"), user("and?")))
    response = await registry({"a": server}).stream("a/m", request).collect()
    assert any("anthropic" in warning for warning in response.warnings)


async def test_usage_before_any_output_is_kept_on_the_error(serve, registry):
    early = {"choices": [], "usage": {"prompt_tokens": 7}}
    server = await serve(sse(early))
    with pytest.raises(FailoverError) as caught:
        await registry({"a": server}).stream("a/m", "hi").collect()
    assert caught.value.exceptions[0].partial.usage.input_tokens == 7
