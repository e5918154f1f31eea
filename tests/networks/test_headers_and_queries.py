"""Headers and parameters that a gateway wants are on every request, and their secrets nowhere."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from aiollm import ConfigError, FailoverError, LLMError, Registry
from aiollm.dsn import Network
from aiollm.provider import Provider
from aiollm.providers.schemes import codec_of
from aiollm.testing import Answer, FaultServer, Recorder, chat

SCHEMES = ["openai", "anthropic", "google", "ollama", "llama-swap"]
ADDED = {"header.X-Team": "search", "query.api-version": "2026-01-01", "query.a b": "c&d"}
REFUSED = Answer(400, {"content-type": "application/json"}, b'{"error": {"message": "no"}}')


async def call(reg: Registry, work: str) -> None:
    """Do one kind of work, of which only the request matters."""
    with contextlib.suppress(LLMError):
        match work:
            case "chat":
                await reg.generate("gw/m", "hi")
            case "images":
                await reg.generate_images("gw/m", "a cat")
            case "models":
                await reg.models("gw")
            case "management":
                await reg.llama_swap("gw").running()


@pytest.mark.parametrize(
    ("scheme", "work"),
    [
        *((scheme, work) for scheme in SCHEMES for work in ("chat", "models")),
        ("openai", "images"),
        ("google", "images"),
        ("llama-swap", "images"),
        ("llama-swap", "management"),
    ],
)
async def test_a_dsn_adds_them_to_every_request(serve, registry, scheme, work):
    server = await serve(REFUSED)
    reg = registry({"gw": server.dsn(scheme, **ADDED)})
    await call(reg, work)
    assert server.requests
    for request in server.requests:
        assert request.headers["x-team"] == "search"
        assert request.query.items() >= {"api-version": "2026-01-01", "a b": "c&d"}.items()


async def test_code_adds_them_to_those_of_the_dsn(serve, registry):
    server = await serve(chat("well"))
    reg = registry()
    dsn = server.dsn(**{"header.x-team": "search", "header.X-Kept": "k", "query.a": "1"})
    reg.register("gw", dsn, headers={"X-Team": "other"}, query={"a": "2", "b": "3"})
    assert (await reg.generate("gw/m", "hi")).text == "well"
    head, query = server.requests[0].headers, server.requests[0].query
    assert (head["x-team"], head["x-kept"], query) == ("other", "k", {"a": "2", "b": "3"})
    assert head["authorization"] == "Bearer test-key"


async def test_a_header_for_the_key_replaces_the_token(serve, registry):
    server = await serve(chat("well"))
    reg = registry({"gw": server.dsn(**{"header.authorization": "Key other"})})
    await reg.generate("gw/m", "hi")
    assert server.requests[0].headers["authorization"] == "Key other"


PROTOCOL = ["Content-Type", "content-length", "Host", "Transfer-Encoding", "accept", "Connection"]


@pytest.mark.parametrize("name", PROTOCOL)
def test_what_the_protocol_needs_cannot_be_set(name):
    reg = Registry(env={"LLM_GW": f"openai://k@h?header.{name}=x"})
    with pytest.raises(ConfigError, match=f"LLM_GW: header '{name}' is part of the protocol"):
        reg.provider("gw")
    with pytest.raises(ConfigError, match="part of the protocol"):
        reg.register("gw", "openai://k@h", headers={name: "x"})


async def test_a_parameter_that_the_wire_sets_itself_is_refused(serve, registry):
    server = await serve(REFUSED)
    reg = registry({"gw": server.dsn("google", **{"query.alt": "json"})})
    with pytest.raises(ConfigError, match="query 'alt' is part of the protocol"):
        await reg.generate("gw/m", "hi")
    assert not server.requests


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("header.X-Key=sekret%0Ax", "header 'X-Key': expected a str without control"),
        ("header.X-Key=sekret%C3%A9", "header 'X-Key'"),
        ("header.X%20Key=sekret", "the name of a header"),
        ("header.=sekret", "the name of a header"),
        ("query.=sekret", "a query maps names to texts"),
        ("header.X-Key=sekret&header.X-Key=sekret", "'header.X-Key' is set twice"),
        ("header=X-Key:sekret", "unknown option 'header'; did you mean 'header.NAME'"),
        ("headers.X-Key=sekret", "unknown option"),
        ("verify=sekret", "'verify': expected 'on' or 'off'"),
        ("ca=", "'ca' is empty"),
        ("key=/sekret.pem", "key is set without cert"),
        ("ca=/sekret.pem&verify=off", "ca has no effect"),
        ("proxy=socks5://u:sekret@h", "only proxies that speak http"),
        ("proxy=http://u:sekret@", "expected a URL like"),
        ("proxy=http://u:sek%0Aret@h", "control character"),
        ("header.X=a@b", "'@' after the host"),
    ],
)
def test_a_mistake_is_named_and_the_value_is_not_shown(query, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        Registry(env={"LLM_GW": f"openai://k@h?{query}"}).provider("gw")
    assert str(caught.value).startswith("LLM_GW: ")
    assert "sekret" not in str(caught.value)


@pytest.mark.parametrize("headers", [{"X\n": "a"}, {"X": "a\r\nY: b"}, {"X": "é"}, {"X": 5}])
def test_a_row_in_code_is_checked_too(headers):
    with pytest.raises(ConfigError, match="header"):
        Provider("gw", "openai", "https://h/v1", codec_of("openai"), headers=headers)


SECRETS = {
    "header.Ocp-Apim-Subscription-Key": "sub-5ekret",
    "header.X-Plain": "0123456789abcdef0123456789abcdef",
    "query.sig": "5ignature",
}


async def test_their_secrets_are_in_no_text(serve, registry):
    def echo(request):
        words = [*request.headers.values(), *request.query.values()]
        return Answer(400, {"content-type": "text/plain"}, " ".join(words).encode())

    server = await serve(echo)
    network = Network(proxy="http://me:pa55word@proxy:3128")
    reg = registry({"gw": server.dsn(**SECRETS, **{"header.X-Team": "search"})})
    provider = reg.provider("gw")
    with pytest.raises(FailoverError) as caught:
        await reg.generate("gw/m", "hi")
    with pytest.raises(LLMError) as listed:
        await reg.models("gw")
    request = provider.codec.models(provider)
    errors = (caught.value, caught.value.last, listed.value)
    shown = [reg.describe(), repr(provider), repr(request), repr(network)]
    shown += [f"{each}{each!r}{vars(each)}" for each in errors]
    for secret in (*SECRETS.values(), "pa55word"):
        assert secret not in "".join(shown)
    assert "X-Team" in reg.describe()
    assert "search" in str(caught.value), "an ordinary word was masked"
    assert "via http://proxy:3128" in repr(network)


async def test_the_recorder_masks_them(serve, tmp_path: Path):
    server = await serve(chat("well"))
    file = tmp_path / "cassette"
    async with Recorder(server.url, file) as recorder:
        async with Registry(env={"LLM_GW": recorder.dsn(**SECRETS)}) as reg:
            await reg.generate("gw/m", "hi")
    text = await asyncio.to_thread(file.read_text)
    assert "subscription-key" in text.lower()
    assert not [secret for secret in SECRETS.values() if secret in text]


async def test_a_wire_that_sends_its_own_parameters_keeps_them(serve, registry):
    server: FaultServer = await serve(REFUSED)
    reg = registry({"gw": server.dsn("google", **{"query.x": "1"})})
    await call(reg, "chat")
    assert server.requests[0].query == {"alt": "sse", "x": "1"}
