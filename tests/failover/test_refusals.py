"""Refusals: who is asked next, who is asked again, and what `on_refusal` changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from aiollm import (
    ConfigError,
    ContentFilterError,
    FailoverError,
    Finish,
    GenerationError,
    InvalidRequestError,
    ModelNotFoundError,
    QuotaError,
    RefusalDelta,
    Registry,
    RequestTooLargeError,
    TextDelta,
    Usage,
)
from aiollm.testing import Answer, FakeProvider, Gate, Hang, chat, sse

OK = chat("Hel", "lo")
POLICY = Answer(400, {}, {"error": {"message": "no", "code": "content_filter"}})


def refusing(status: int, message: str = "no", **fields: object) -> Answer:
    return Answer(status, {}, {"error": {"message": message} | fields})


TOO_MUCH = "Request too large for m on tokens per min (TPM): Limit 30000, Requested 41000."
JINJA = "While executing CallExpression at line 8, column 3 in source:\nJinja Exception: roles"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        *((refusing(status), InvalidRequestError) for status in (400, 406, 418, 422, 451, 498)),
        (refusing(429, TOO_MUCH, code="rate_limit_exceeded"), RequestTooLargeError),
        (refusing(500, JINJA, code=500), InvalidRequestError),
        (refusing(500, "height:9 or width:9 must be larger than factor:28"), InvalidRequestError),
        (refusing(400, "Error while downloading x", code="invalid_image_url"),
         InvalidRequestError),
        (sse({"error": {"message": JINJA, "code": 500}}), InvalidRequestError),
    ],
    ids=repr,
)  # fmt: skip
async def test_a_refusal_is_never_asked_again_and_harms_nobody(serve, registry, fault, kind):
    bad, good = await serve(fault), await serve(OK)
    reg = registry({"a": bad, "b": good}, retries=2, cooldown=0.01)
    response = await reg.generate("a/m,b/m", "hi")
    assert (response.text, type(response.attempts[0].error)) == ("Hello", kind)
    assert [each.state for each in reg.health()] == ["healthy", "healthy"]
    with pytest.raises(FailoverError) as caught:
        await reg.generate("a/m", "hi")
    assert [type(each) for each in caught.value.exceptions] == [kind]
    assert bad.counts.requests == 2
    paced = next(each for each in reg.limits() if each.target.provider == "a")
    assert (paced.pace, paced.blocked_for) == (None, 0.0)


@pytest.mark.parametrize("status", [408, 409, 425, 500])
async def test_what_may_pass_is_asked_again(serve, registry, status):
    server = await serve(refusing(status), OK)
    reg = registry({"a": server}, retries=2, cooldown=0.01)
    assert (await reg.generate("a/m", "hi")).text == "Hello"
    assert server.counts.requests == 2


async def test_a_models_broken_call_is_asked_again_and_harms_nobody(serve, registry):
    broken = refusing(500, "Failed to parse tool call arguments as JSON", type="server_error")
    server = await serve(broken, OK)
    reg = registry({"a": server}, retries=1)
    response = await reg.generate("a/m", "hi")
    assert response.text == "Hello"
    assert type(response.attempts[0].error) is GenerationError
    (health,) = reg.health()
    assert (health.state, health.failed) == ("healthy", 0)


@pytest.mark.parametrize("retries", [0, 1, 2])
async def test_what_harms_nobody_uses_up_the_retries_as_any_failure(registry, retries):
    fake = FakeProvider(*[GenerationError("broken") for _ in range(8)])
    reg = registry({}, retries=retries, cooldown=0.001)
    reg.register("a", fake.provider())
    with pytest.raises(FailoverError):
        await reg.generate("a/m", "hi")
    assert len(fake.requests) == 1 + retries


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (refusing(429, code="insufficient_quota"), QuotaError),
        (refusing(400, "model 'x' not found"), ModelNotFoundError),
    ],
    ids=repr,
)
async def test_a_target_that_cannot_serve_anybody_is_set_aside(serve, registry, fault, kind):
    bad, good = await serve(fault), await serve(OK)
    reg = registry({"a": bad, "b": good})
    for _ in range(3):
        await reg.generate("a/m,b/m", "hi")
    assert bad.counts.requests == 1
    assert reg.health()[0].last_error == kind.__name__


async def test_the_group_says_what_each_target_said(serve, registry):
    one, two = await serve(refusing(400, "no field x")), await serve(refusing(422, "no field y"))
    with pytest.raises(FailoverError) as caught:
        await registry({"a": one, "b": two}).generate("a/m,b/m", "hi")
    assert "InvalidRequestError: a/m: no field x (HTTP 400)" in str(caught.value)
    assert "InvalidRequestError: b/m: no field y (HTTP 422)" in str(caught.value)


# Content policy


@pytest.mark.parametrize("where", ["registry", "call"])
@pytest.mark.parametrize("spec", ["a/m,b/m", "a/m|b/m"])
@pytest.mark.parametrize("fault", [POLICY, sse({"error": {"message": "no", "code": "bio_policy"}})])
async def test_a_policy_refusal_moves_on_where_it_may(serve, registry, where, spec, fault):
    bad, good = await serve(fault), await serve(OK)
    setting = {"on_refusal": "next"}
    reg = registry({"a": bad, "b": good}, **(setting if where == "registry" else {}))
    stream = reg.stream(spec, "hi", stagger=1000.0, **(setting if where == "call" else {}))
    response = await stream.collect()
    assert response.text == "Hello"
    assert type(response.attempts[0].error) is ContentFilterError
    assert [each.state for each in reg.health()] == ["healthy", "healthy"]


async def test_a_call_may_take_back_what_the_registry_allows(serve, registry):
    bad, good = await serve(POLICY), await serve(OK)
    reg = registry({"a": bad, "b": good}, on_refusal="next")
    for spec in ("a/m,b/m", "a/m|b/m"):
        with pytest.raises(ContentFilterError):
            await reg.generate(spec, "hi", on_refusal="raise", stagger=1000.0)
    assert good.counts.requests == 0


async def test_where_all_refuse_the_group_holds_each_and_none_is_asked_again(serve, registry):
    one, two = await serve(POLICY), await serve(POLICY)
    reg = registry({"a": one, "b": two}, on_refusal="next", retries=2)
    with pytest.raises(FailoverError) as caught:
        await reg.generate("a/m,b/m", "hi")
    assert [type(each) for each in caught.value.exceptions] == [ContentFilterError] * 2
    assert (one.counts.requests, two.counts.requests) == (1, 1)


async def test_a_refusal_in_a_race_leaves_the_others_running(serve, registry):
    gate = Gate()
    slow, bad = await serve(Hang(after=0, gate=gate), OK), await serve(POLICY)
    reg = registry({"a": slow, "b": bad})
    stream = reg.stream("a/m|b/m", "hi", stagger=0.0, on_refusal="next")
    gate.open()
    assert (await stream.collect()).text == "Hello"


async def test_a_refusal_after_output_ends_the_call(serve, registry):
    half = {"id": "c", "choices": [{"index": 0, "delta": {"content": "Half"}}]}
    bad = await serve(sse(half, {"error": {"message": "no", "code": "content_filter"}}))
    good = await serve(OK)
    reg = registry({"a": bad, "b": good})
    with pytest.raises(ContentFilterError) as caught:
        await reg.generate("a/m,b/m", "hi", on_refusal="next", on_interrupt="restart")
    assert caught.value.partial.text == "Half"
    assert good.counts.requests == 0


async def test_an_answer_filtered_before_any_output_is_an_answer_by_default(serve, registry):
    bad, good = await serve(chat(finish="content_filter")), await serve(OK)
    response = await registry({"a": bad, "b": good}).generate("a/m,b/m", "hi")
    assert (response.text, response.finish_reason) == ("", "content_filter")


@pytest.mark.parametrize("spec", ["a/m,b/m", "a/m|b/m"])
async def test_an_answer_filtered_before_any_output_is_a_refusal_with_next(serve, registry, spec):
    bad, good = await serve(chat(finish="content_filter")), await serve(OK)
    reg = registry({"a": bad, "b": good}, on_refusal="next")
    response = await reg.stream(spec, "hi", stagger=1000.0).collect()
    assert response.text == "Hello"
    error = response.attempts[0].error
    assert type(error) is ContentFilterError
    assert error.code == "content_filter"
    assert [each.state for each in reg.health()] == ["healthy", "healthy"]


@pytest.fixture
async def fakes() -> AsyncIterator[Callable[..., Registry]]:
    """Make a registry whose providers play the given scripts."""
    async with AsyncExitStack() as stack:

        def make(**scripts: Any) -> Registry:
            reg = Registry(env={}, retries=0)
            stack.push_async_callback(reg.aclose)
            for name, script in scripts.items():
                reg.register(name, FakeProvider(script).provider())
            return reg

        yield make


async def test_the_reason_of_a_filter_is_no_output_and_its_counts_are_kept(fakes):
    """Anthropic gives an explanation first."""
    usage = Usage(9, 1, certainty="exact")
    one = [RefusalDelta("It is "), RefusalDelta("harmful."), Finish("content_filter", "r", usage)]
    reg = fakes(a=one, b=[TextDelta("fine"), Finish("stop")])
    response = await reg.generate("a/m,b/m", "hi", on_refusal="next")
    assert (response.text, response.refusal) == ("fine", "")
    error = response.attempts[0].error
    assert "It is harmful." in str(error)
    assert error.partial.usage == usage


async def test_a_models_own_refusal_is_an_answer(fakes):
    reg = fakes(a=[RefusalDelta("I would "), RefusalDelta("rather not."), Finish("stop")], b=[])
    response = await reg.generate("a/m,b/m", "hi", on_refusal="next")
    assert (response.refusal, len(response.attempts)) == ("I would rather not.", 1)


async def test_a_filter_that_cuts_an_answer_leaves_it_as_it_is(fakes):
    reg = fakes(a=[TextDelta("Half"), Finish("content_filter")], b=[TextDelta("x"), Finish("stop")])
    response = await reg.generate("a/m,b/m", "hi", on_refusal="next")
    assert (response.text, response.finish_reason) == ("Half", "content_filter")


@pytest.mark.parametrize("word", ["Next", "", None, 1, []])
async def test_a_wrong_word_is_told_at_once(word):
    with pytest.raises(ConfigError, match="on_refusal"):
        Registry(env={}, on_refusal=word)
    async with Registry(env={"LLM_A": "openai://k@h"}) as reg:
        for ask in (reg.stream, reg.stream_images):
            if word is not None:
                with pytest.raises(ConfigError, match="on_refusal"):
                    ask("a/m", "hi", on_refusal=word)
