"""The table of DSNs: scheme x transport x token x host x port x path, to URL, header and error."""

from __future__ import annotations

from itertools import product

import pytest

from aiollm import Limits, Plan, Registry
from aiollm.errors import ConfigError
from aiollm.testing import Answer, FakeProvider, FaultServer
from aiollm.types import LLMError, Request, Target

OLLAMA = {"": "", "/": "", "/api": "", "/api/": "", "/v1": "", "/llm": "/llm"}
SWAP = {"": "", "/": "", "/v1": "", "/v1/": "", "/swap": "/swap", "/swap/v1": "/swap"}
GOOGLE = {"": "/v1beta", "/": "/v1beta", "/v1": "/v1", "/v1beta": "/v1beta", "/g": "/g/v1beta"}
PATHS = {
    "openai": {"": "/v1", "/": "/v1", "/v1": "/v1", "/v1/": "/v1", "/api/v1": "/api/v1",
               "/v1/chat/completions": "/v1"},
    "anthropic": {"": "/v1", "/": "/v1", "/v1": "/v1", "/gate": "/gate/v1",
                  "/v1/messages": "/v1"},
    "google": GOOGLE,
    "gemini": GOOGLE,
    "ollama": OLLAMA,
    "ollama-cloud": OLLAMA,
    "foreman": OLLAMA,
    "llama-swap": SWAP,
    "llama-swaps": SWAP,
}  # fmt: skip
"""What stands in a DSN, and what the base URL makes of it."""

CALLS = {
    "openai": "/chat/completions",
    "anthropic": "/messages",
    "google": "/models/m:streamGenerateContent",
    "gemini": "/models/m:streamGenerateContent",
    "ollama": "/api/chat",
    "ollama-cloud": "/api/chat",
    "foreman": "/api/chat",
    "llama-swap": "/v1/chat/completions",
    "llama-swaps": "/v1/chat/completions",
}
KEYS = {
    "anthropic": ("x-api-key", ""),
    "google": ("x-goog-api-key", ""),
    "gemini": ("x-goog-api-key", ""),
}
TOKENS = {"": None, "sk-1@": "sk-1", "a%2Fb%40c@": "a/b@c", "a@b@": "a@b"}
HOSTS = ("box", "box.example", "10.0.0.7", "[::1]")
PORTS = ("", ":80", ":8443")
TABLE = list(product(PATHS, ("", "+http", "+https"), TOKENS, HOSTS, PORTS))


def header(scheme: str, token: str | None) -> dict[str, str]:
    name, prefix = KEYS.get(scheme, ("authorization", "Bearer "))
    return {} if token is None else {name: prefix + token}


def keys_of(headers: dict[str, str]) -> dict[str, str]:
    names = ("authorization", "x-api-key", "x-goog-api-key")
    return {name.lower(): value for name, value in headers.items() if name.lower() in names}


@pytest.mark.parametrize("scheme", PATHS)
async def test_every_dsn_has_its_base_url_and_its_header(scheme):
    rows = [row for row in TABLE if row[0] == scheme]
    assert len(rows) == 3 * len(TOKENS) * len(HOSTS) * len(PORTS)
    for _, transport, token, host, port in rows:
        for path, base in PATHS[scheme].items():
            dsn = f"{scheme}{transport}://{token}{host}{port}{path}"
            plain = transport == "+http" or (scheme == "llama-swap" and not transport)
            provider = Registry(env={"LLM_MY_BOX": dsn}).provider("my-box")
            url = f"{'http' if plain else 'https'}://{host}{port}{base}"
            assert provider.base_url == url, dsn
            sent = provider.codec.encode(provider, Target("my-box", "m"), Request("hi"))
            assert sent.url.partition("?")[0] == url + CALLS[scheme], dsn
            assert keys_of(sent.headers) == header(scheme, TOKENS[token]), dsn
            assert (provider.name, provider.scheme) == ("my-box", scheme)


@pytest.mark.parametrize("scheme", PATHS)
async def test_the_url_and_the_header_arrive(scheme):
    async with FaultServer(default=Answer(400)) as server:
        dsn = server.dsn(scheme, token="a/b@c", path="/gate")
        async with Registry(env={"LLM_X": dsn}) as reg:
            with pytest.raises(LLMError):
                await reg.generate("x/m", "hi")
            with pytest.raises(LLMError):
                await reg.models("x")
    chat, models = server.requests
    assert chat.path.startswith("/gate")
    assert chat.path.endswith(CALLS[scheme])
    assert keys_of(chat.headers) == keys_of(models.headers) == header(scheme, "a/b@c")
    assert models.path.startswith("/gate")


BAD = [
    ("{scheme}://hunter22@", "host"),
    ("{scheme}://hunter22@box:0", "port"),
    ("{scheme}://hunter22@box:99999", "port"),
    ("{scheme}://hunter22@box:eighty", "port"),
    ("{scheme}://hunter22@box?colour=red", "colour"),
    ("{scheme}://hunter22@box?max_concurrency=many", "max_concurrency|int"),
    ("{scheme}://hunter22%0a@box", "token|control"),
    ("{scheme}://hun ter22@box", "white space|space|token"),
    ("{scheme}+ftp://hunter22@box", "ftp|scheme"),
    ("{scheme}:hunter22@box", "://|scheme"),
]


@pytest.mark.parametrize("scheme", PATHS)
@pytest.mark.parametrize(("form", "why"), BAD, ids=[form for form, _ in BAD])
async def test_a_bad_dsn_fails_on_use_and_names_its_variable(scheme, form, why):
    async with Registry(env={"LLM_MY_BOX": form.format(scheme=scheme)}) as reg:
        assert reg.providers()["my-box"] == "environment"
        for use in (
            lambda: reg.provider("my-box"),
            lambda: reg.stream("my-box/m", "hi"),
            lambda: reg.stream_images("my-box/m", "hi"),
            lambda: reg.llama_swap("my-box"),
            lambda: reg.ollama("my-box"),
        ):
            with pytest.raises(ConfigError, match=why) as caught:
                use()
            assert "LLM_MY_BOX" in str(caught.value)
            assert "hunter22" not in str(caught.value)
            assert "hun ter22" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["llama-swapz", "lama-swap", "http", "https"])
async def test_an_unknown_scheme_lists_those_that_exist(scheme):
    async with Registry(env={"LLM_MY_BOX": f"{scheme}://hunter22@box"}) as reg:
        with pytest.raises(ConfigError, match="llama-swap, llama-swaps") as caught:
            reg.provider("my-box")
        assert "hunter22" not in str(caught.value)
        spoken = f"openai+{scheme}://box" if scheme.startswith("http") else "openai://host"
        assert f"as in {spoken} (" in str(caught.value)


@pytest.mark.parametrize(
    ("dsn", "meant"),
    [
        ("opanai+http://h", r"did you mean openai\+http://\?"),
        ("opanai://h", "did you mean openai://"),
        ("antropic+https://h", "did you mean anthropic://"),
        ("lama-swap://h", "did you mean llama-swap://"),
        ("mime://h", "did you mean mine://"),
        ("https://h", r"name what the server speaks, as in openai\+https://h "),
        ("http://h:8000/v1", r"name what the server speaks, as in openai\+http://h:8000 "),
        ("http://h:11434", r"name what the server speaks, as in ollama\+http://h:11434 "),
    ],
)
def test_a_mistyped_scheme_names_the_one_that_was_meant(dsn, meant):
    reg = Registry(env={"LLM_A": dsn})
    reg.register_scheme("mine", lambda name, dsn: reg.provider("ollama"))
    with pytest.raises(ConfigError, match=f"LLM_A: unknown scheme .*{meant}"):
        reg.provider("a")


@pytest.mark.parametrize("variable", ["LLM_my_box", "LLM_MY-BOX", "LLM_My_Box"])
def test_a_variable_defines_its_name_however_it_is_spelt(variable):
    reg = Registry(env={variable: "ollama+http://box", "LLM_fast": "alias:my-box/m"})
    assert reg.providers()["my-box"] == "environment"
    assert reg.provider("my-box").base_url == "http://box"
    assert str(reg.parse("fast")) == "my-box/m"


def test_the_usual_spelling_wins():
    env = {"LLM_BOX": "ollama+http://usual", "LLM_box": "ollama+http://odd"}
    assert Registry(env=env).provider("box").base_url == "http://usual"


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda reg: reg.register("box", FakeProvider("hi")), r"pass its \.provider\(\)"),
        (lambda reg: reg.register("box", None), "not of type NoneType"),
        (lambda reg: reg.register(None, "ollama+http://box"), "a name must be a str"),
        (lambda reg: reg.alias("fast", ["a/m", "b/m"]), "alias 'fast' must be a spec, not of type"),
        (lambda reg: reg.stream(Plan(()), "hi"), "the plan has no targets"),
        (lambda reg: reg.stream(Plan(((),)), "hi"), "the plan has no targets"),
    ],
)
def test_what_names_nothing_is_refused_at_once(call, reason):
    with pytest.raises(ConfigError, match=reason):
        call(Registry(env={}))


def test_an_alias_that_is_an_address_by_mistake_is_not_shown():
    reg = Registry(env={"LLM_BOX": "alias:openai://sk-secret@host", "LLM_OK": "alias:a/s3://b/m"})
    assert reg.aliases() == {"box": "(an address, not a spec)", "ok": "a/s3://b/m"}
    assert "sk-secret" not in reg.describe()


@pytest.mark.parametrize(
    "address", ["openai://sk-secret@host/v1", "sk-secret@host", "openai:/sk-secret"]
)
@pytest.mark.parametrize(
    "call",
    [
        lambda reg, address: reg.provider(address),
        lambda reg, address: reg.register(address, "box"),
        lambda reg, address: reg.register_scheme(address, lambda name, dsn: reg.provider("box")),
        lambda reg, address: reg.alias(address, "box/m"),
        lambda reg, address: reg.limit(address, Limits(rpm=1)),
        lambda reg, address: reg.llama_swap(address),
        lambda reg, address: reg.stream(Plan([[Target(address, "m")]]), "hi"),
    ],
)
def test_an_address_in_place_of_a_name_is_not_shown(call, address):
    reg = Registry(env={"LLM_BOX": "ollama+http://box"})
    with pytest.raises(ConfigError, match="this is an address, not a name") as caught:
        call(reg, address)
    assert "sk-secret" not in repr(caught.value)


def test_the_address_of_another_kind_of_cache_is_not_shown():
    with pytest.raises(ConfigError, match="response_cache is an address with a login") as caught:
        Registry(env={}, response_cache="redis://:sk-secret@host")
    assert "sk-secret" not in repr(caught.value)
