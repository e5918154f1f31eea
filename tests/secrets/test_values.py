"""Values that hold keys show none, refuse to be pickled, and errors keep what is the caller's."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from aiollm import (
    ConfigError,
    LLMError,
    ProtocolError,
    Provider,
    Registry,
    Secret,
    ServerError,
    Target,
)
from aiollm._wire.redaction import redacted
from aiollm.codecs import codec_of
from aiollm.provider import HttpRequest, HttpResponse
from aiollm.testing import Answer, FaultServer


@pytest.fixture
def provider(key):
    headers = {"x-api-key": key, "x-title": "mine"}
    codec = codec_of("openai")
    url = f"https://me:{quote(key[:20], safe='')}@h/v1?key={quote(key, safe='')}"
    return Provider("box", "openai", url, codec, None, headers)


def test_what_holds_a_key_shows_none_and_is_not_pickled(provider, key, find_leaks):
    from rich.pretty import pretty_repr

    requests = [HttpRequest(provider.base_url, {"x": key}), provider.codec.models(provider)]
    values = [provider, provider.headers, Secret(key), Registry(env={"LLM_X": f"openai://{key}@h"})]
    for value in (*values, *requests):
        shown = [repr(value), str(value), f"{value}", pretty_repr(value)]
        assert not find_leaks("\n".join(shown))
        with pytest.raises(TypeError):
            pickle.dumps(value)
    for value in (provider, *requests):
        for copied in (copy.copy(value), copy.deepcopy(value)):
            assert copied.headers == value.headers
            assert not find_leaks(repr(copied))
    reply = HttpResponse(200, {"x-echo": key}, key.encode(), provider.base_url)
    assert not find_leaks(f"{reply!r} {pretty_repr(reply)}")


def test_the_secrets_of_a_provider_are_wherever_they_are(provider, key):
    assert {each.reveal() for each in provider.secrets} == {key, key[:20]}


@pytest.mark.parametrize("dsn", ["openai://{}@h:x/", "openai://{}@h?rpm=a", "ftp://{}@h", "{}"])
async def test_a_wrong_dsn_shows_no_key(dsn, key, failure, shown, find_leaks):
    text = dsn.format(key.replace("/", "%2F"))

    async def in_code(held):
        registry = Registry(env={})
        registry.register("box", held.pop())

    async def by_environment(held):
        registry = Registry(env=held.pop())
        registry.provider("box")

    env = {"LLM_BOX": text, "OPENAI_API_KEY": key}
    for work in (in_code([text]), by_environment([env])):
        error = await failure(work)
        assert isinstance(error, ConfigError)
        assert not find_leaks(shown(error))


def _caused_by(cause: Exception, key: str) -> LLMError:
    body = key.encode()

    def fails() -> None:
        raise cause

    def turns_it_into_ours() -> None:
        try:
            fails()
        except Exception as error:
            raise ServerError(f"no {key}", body=body) from error

    with pytest.raises(LLMError) as caught:
        turns_it_into_ours()
    return caught.value


def test_an_address_in_place_of_a_name_is_refused_and_not_shown(key, find_leaks):
    address = f"openai://{key}@h"
    reg = Registry(env={"LLM_BOX": "openai+http://127.0.0.1:1"})
    for use in (
        lambda: Target(address, "m"),
        lambda: reg.stream("box/m", "hi", extra={address: {"a": 1}}),
    ):
        with pytest.raises(ConfigError) as caught:
            use()
        assert not find_leaks(f"{caught.value} {caught.value!r}")


def test_causes_and_notes_are_masked_and_what_cannot_be_is_unlinked(key, shown, find_leaks):
    for cause, stays in (
        (ValueError(f"bad {key}"), True),
        (ProtocolError("bad", frame=key.encode()), True),
        (ValueError(SimpleNamespace(headers=key)), False),
    ):
        error = _caused_by(cause, key)
        error.add_note(f"sent with {key}")
        assert find_leaks(shown(error))
        redacted(error, [Secret(key)])
        assert not find_leaks(shown(error))
        assert error.__cause__ is (cause if stays else None)
        assert error.__notes__ == ["sent with ***"]


async def test_what_the_caller_handles_keeps_its_text_and_variables(key):
    async with FaultServer() as server:
        registry = Registry(env={"LLM_BOX": server.dsn(token=key)}, retries=0)
        server.behave(Answer(500))
        mine = None
        try:
            _mine(key)
        except ValueError as error:
            mine = error
            with pytest.raises(LLMError):
                await registry.models("box")
        assert mine is not None
        assert str(mine) == key
        assert mine.__traceback__.tb_next.tb_frame.f_locals == {"text": key}
        await registry.aclose()


def _mine(text):
    raise ValueError(text)
