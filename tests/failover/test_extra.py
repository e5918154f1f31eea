"""The scopes of `extra`: what each wire is sent, and what is refused before anything is."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm import (
    ConfigError,
    FailoverError,
    ImageRequest,
    LLMError,
    Registry,
    Request,
    Target,
    ToolResultPart,
    UnsupportedError,
    tool_results,
)
from aiollm.providers.extra_fields import ALL, WIRE, WIRES, fields_of, wires_of
from aiollm.providers.schemes import SCHEMES
from aiollm.testing import Answer, FakeProvider, chat

REFUSED = Answer(400, {"content-type": "application/json"}, b'{"error": {"message": "no"}}')
SERVICES = {
    "openai chat": ("openai", {"api": "chat"}, "wire:openai", "wire:openai-chat"),
    "openai responses": ("openai", {"api": "responses"}, "wire:openai", "wire:openai-responses"),
    "anthropic": ("anthropic", {}, "wire:anthropic"),
    "google": ("google", {}, "wire:google"),
    "ollama": ("ollama", {}, "wire:ollama"),
    "llama-swap": ("llama-swap", {}, "wire:openai", "wire:openai-chat"),
    "openai images": ("openai", {}, "wire:openai"),
    "google images": ("google", {}, "wire:google"),
    "llama-swap images": ("llama-swap", {}, "wire:openai"),
}
"""Each service by its scheme and options, and the wires that it is of."""
SCOPES = ("*", *(WIRE + each for each in WIRES), "box", "box/m", "openai", "box/other", "openai/m")
NOT_SENT = {"openai", "box/other", "openai/m"}


async def sent(server: Any, reg: Registry, work: str, extra: Any) -> dict[str, Any]:
    """Return the body that the target `box/m` is sent."""
    with contextlib.suppress(LLMError):
        if work.endswith("images"):
            await reg.generate_images("box/m", ImageRequest("a boat", extra=extra))
        else:
            await reg.generate("box/m", Request("hi", extra=extra))
    return server.requests[-1].json()


@pytest.mark.parametrize("service", SERVICES)
async def test_a_target_gets_the_fields_of_its_scopes_and_no_other(serve, service) -> None:
    scheme, options, *wires = SERVICES[service]
    server = await serve(REFUSED)
    async with Registry(env={"LLM_BOX": server.dsn(scheme, **options)}, retries=0) as reg:
        body = await sent(server, reg, service, {each: {each: True} for each in SCOPES})
    assert body.keys() & set(SCOPES) == {"*", *wires, "box", "box/m"}


@pytest.mark.parametrize("service", SERVICES)
async def test_the_more_exact_scope_replaces_the_field_of_the_others(serve, service) -> None:
    scheme, options, *wires = SERVICES[service]
    server = await serve(REFUSED)
    order = ["*", *wires, "box", "box/m"]
    async with Registry(env={"LLM_BOX": server.dsn(scheme, **options)}, retries=0) as reg:
        while order:
            # In any order of writing, and an object as one piece: not "a" of one scope beside
            # "b" of another.
            extra = {each: {"x": {each: 1}, "kept": 1} for each in reversed(order)}
            body = await sent(server, reg, service, extra)
            assert (body["x"], body["kept"]) == ({order[-1]: 1}, 1)
            order.pop()


async def test_an_object_is_merged_into_the_one_that_the_wire_makes(serve) -> None:
    server = await serve(REFUSED)
    extra = {"*": {"options": {"top_k": 5}}, "box": {"options": {"num_ctx": 512}}}
    async with Registry(env={"LLM_BOX": server.dsn("ollama")}, retries=0) as reg:
        with pytest.raises(FailoverError):
            await reg.generate("box/m", "hi", seed=1, extra=extra)
    assert server.requests[0].json()["options"] == {"seed": 1, "num_ctx": 512}


async def test_each_target_of_a_chain_gets_its_own(serve) -> None:
    first, second = await serve(REFUSED), await serve(chat("well"))
    env = {"LLM_A": first.dsn("anthropic"), "LLM_B": second.dsn()}
    extra = {"wire:anthropic": {"cache_control": {"type": "ephemeral"}}, "b/m": {"top_k": 1}}
    request = Request("hi", extra=extra)
    async with Registry(env=env) as reg:
        assert (await reg.generate("a/m,b/m", request)).text == "well"
    one, other = first.requests[0].json(), second.requests[0].json()
    assert ("cache_control" in one, "top_k" in one) == (True, False)
    assert ("cache_control" in other, "top_k" in other) == (False, True)
    assert request.extra == extra


FIELDS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 9))


@given(
    extra=st.dictionaries(st.sampled_from([*SCOPES, "wire:acme"]), FIELDS),
    family=st.sampled_from(["openai", "openai-responses", "anthropic", "acme"]),
)
def test_the_last_scope_that_has_a_field_decides(extra, family) -> None:
    got = fields_of(extra, wires_of(family), Target("box", "m"))
    order = [ALL, *(WIRE + each for each in wires_of(family)), "box", "box/m"]
    for name in "abc":
        given_by = [extra[scope][name] for scope in order if name in extra.get(scope, {})]
        assert got.get(name) == (given_by[-1] if given_by else None)
    assert got.keys() <= set("abc")


def test_the_wires_that_are_always_known_are_those_of_all_schemes() -> None:
    families = {row.make_codec(api).family for row in SCHEMES.values() for api in (*row.apis, "")}
    assert {wire for family in families for wire in wires_of(family)} == set(WIRES)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"top_k": 5}, r"write extra=\{'\*': \{'top_k': \.\.\.\}\} for every target"),
        ({"options": {"num_ctx": 1}}, r"write extra=\{'\*': \{'options': \.\.\.\}\}"),
        ({"bxo": {"a": 1}}, r"write extra=\{'\*': \{'bxo': .* did you mean 'box'\?"),
        ({"*": {"a": 1}, "top_k": 5}, r"write extra=\{'\*': \{'top_k': \.\.\.\}\}"),
        ({"*": {"a": 1}, "bxo": {}}, "unknown provider in 'bxo'; did you mean 'box'?"),
        ({"bxo/m": {"a": 1}}, "unknown provider in 'bxo/m'; did you mean 'box/m'?"),
        ({"box/": {"a": 1}}, "a target without a model, 'box/': write 'box'"),
        ({"wire:opena": {"a": 1}}, "unknown wire 'wire:opena'; did you mean 'wire:openai'?"),
        ({"wire:gemini": {}}, r"unknown wire 'wire:gemini' \(known: acme, anthropic, google"),
        ({"fast": {"a": 1}}, "'fast' is an alias: name its providers or targets"),
        ({"box": 5}, r"extra\['box'\] must map field names"),
        ({"*": {1: 2}}, r"extra\['\*'\] must map field names"),
        ({"x" * 5000: {}}, "for every target"),
        ({"*": {}, "wire:" + "x" * 5000: {}}, "unknown wire"),
    ],
)  # fmt: skip
async def test_an_extra_for_nobody_is_refused_before_anything_is_sent(serve, extra, reason) -> None:
    server = await serve(chat("well"))
    async with Registry(env={"LLM_BOX": server.dsn(), "LLM_FAST": "alias:box/m"}) as reg:
        reg.register("parrot", FakeProvider(family="acme").provider())
        for ask in (
            lambda: reg.stream("box/m", "hi", extra=extra),
            lambda: reg.stream("box/m", Request("hi", extra=extra)),
            lambda: reg.run("box/m", "hi", tools=[], extra=extra),
            lambda: reg.stream_images("box/m", ImageRequest("a boat", extra=extra)),
        ):
            with pytest.raises(ConfigError, match=reason) as caught:
                ask()
            assert len(str(caught.value)) < 500
    assert not server.connections


async def test_a_wire_may_be_that_of_a_provider_which_nobody_has_used_yet() -> None:
    fake = FakeProvider(family="acme")

    def broken(name: str, dsn: Any) -> Any:
        raise RuntimeError(name)

    env = {"LLM_A": "broken://h", "LLM_B": "acme://h", "LLM_C": "acme://"}
    async with Registry(env=env) as reg:
        reg.register("box", FakeProvider().provider())
        reg.register_scheme("broken", broken)
        reg.register_scheme("acme", lambda name, dsn: fake.provider())
        await reg.generate("box/m", "hi", extra={"wire:acme": {"a": 1}})
        with pytest.raises(ConfigError, match="unknown wire 'wire:acne'; did you mean 'wire:acme'"):
            reg.stream("box/m", "hi", extra={"wire:acne": {"a": 1}})


async def test_an_extra_for_others_is_kept_for_other_specs() -> None:
    fake, other = FakeProvider(family="acme"), FakeProvider()
    extra = {"wire:acme": {"a": 1}, "other": {"b": 2}, "ollama/x": {"c": 3}, "wire:google": {}}
    async with Registry(env={}) as reg:
        reg.register("box", fake.provider())
        reg.register("other", other.provider())
        request = Request("hi", extra=extra)
        for spec in ("box/m", "other/m"):
            await reg.generate(spec, request)
    assert (fake.requests[0].extra, other.requests[0].extra) == ({"a": 1}, {"b": 2})


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (
            Request((), extra={"b": {"prompt": {"id": "p"}}}),
            "extra has no prompt for a/m: messages is empty",
        ),
        (
            Request(
                tool_results(ToolResultPart("1", "x")), extra={"b": {"previous_response_id": "r"}}
            ),
            "extra has no previous_response_id for a/m: .*answers the tool call '1'",
        ),
        (
            Request("hi", tool_choice="required", extra={"b": {"tools": [{"type": "web"}]}}),
            "extra has no tools for a/m: tool_choice is 'required'",
        ),
    ],
)
async def test_a_target_that_lacks_what_the_request_rests_on_is_passed_over(
    serve, request_, reason
) -> None:
    first, second = await serve(chat("no")), FakeProvider("well")
    async with Registry(env={"LLM_A": first.dsn()}) as reg:
        reg.register("b", second.provider())
        response = await reg.generate("a/m,b/m", request_)
        assert response.text == "well"
        failed = response.attempts[0].error
        assert isinstance(failed, UnsupportedError)
        assert re.match(reason, failed.message)
        assert reg.health("a/m")[0].state == "healthy"
    assert not first.connections
