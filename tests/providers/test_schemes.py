"""Every scheme: what a DSN or the vendor's variables become on the wire, and who gets which key."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

import pytest

from aiollm import FailoverError, Registry, system
from aiollm.dsn import parse_dsn
from aiollm.errors import ConfigError
from aiollm.provider import HttpRequest, Provider
from aiollm.providers.schemes import BUILTINS, SCHEMES, Scheme, builtin, from_dsn, urls
from aiollm.types import Request, Target

VENDOR_KEYS = {
    "OPENAI_API_KEY": "vendor-openai",
    "ANTHROPIC_API_KEY": "vendor-anthropic",
    "GOOGLE_API_KEY": "vendor-google",
    "OLLAMA_API_KEY": "vendor-ollama",
}
AUTH = ("authorization", "x-api-key", "x-goog-api-key")


def resolve(dsn: str, env: Mapping[str, str] = VENDOR_KEYS, name: str = "box") -> Provider:
    parsed = parse_dsn(dsn)
    return from_dsn(name, parsed, env, SCHEMES[parsed.scheme])


def sent(provider: Provider, model: str = "m") -> HttpRequest:
    return provider.codec.encode(provider, Target(provider.name, model), Request("hi"))


def auth(provider: Provider) -> dict[str, str]:
    headers = {name.lower(): value for name, value in sent(provider).headers.items()}
    return {name: headers[name] for name in AUTH if name in headers}


BEARER = {"authorization": "Bearer k"}

DSNS = [
    # openai: no path gets /v1, any other is taken as given, a pasted endpoint is cut off
    ("openai://k@api.openai.com", "https://api.openai.com/v1", "/responses", BEARER),
    ("openai://k@api.openai.com/", "https://api.openai.com/v1", "/responses", BEARER),
    ("openai://k@api.openai.com/v1", "https://api.openai.com/v1", "/responses", BEARER),
    ("openai://k@eu.api.openai.com", "https://eu.api.openai.com/v1", "/responses", BEARER),
    (
        "openai://k@api.openai.com?api=chat",
        "https://api.openai.com/v1",
        "/chat/completions",
        BEARER,
    ),
    (
        "openai://k@api.openai.com/v1/chat/completions?api=responses",
        "https://api.openai.com/v1",
        "/responses",
        BEARER,
    ),
    ("openai://k@host", "https://host/v1", "/chat/completions", BEARER),
    ("openai://k@host:8443", "https://host:8443/v1", "/chat/completions", BEARER),
    ("openai://k@host?api=responses", "https://host/v1", "/responses", BEARER),
    (
        "openai://k@openrouter.ai/api/v1",
        "https://openrouter.ai/api/v1",
        "/chat/completions",
        BEARER,
    ),
    (
        "openai://k@openrouter.ai/api/v1/chat/completions",
        "https://openrouter.ai/api/v1",
        "/chat/completions",
        BEARER,
    ),
    (
        "openai://k@api.deepseek.com/chat/completions",
        "https://api.deepseek.com",
        "/chat/completions",
        BEARER,
    ),
    ("openai+http://127.0.0.1:8080", "http://127.0.0.1:8080/v1", "/chat/completions", {}),
    ("openai+http://k@[::1]:8080/v1/", "http://[::1]:8080/v1", "/chat/completions", BEARER),
    ("openai+https://k@host", "https://host/v1", "/chat/completions", BEARER),
    # anthropic: /v1 is added unless the path ends in it
    (
        "anthropic://k@api.anthropic.com",
        "https://api.anthropic.com/v1",
        "/messages",
        {"x-api-key": "k"},
    ),
    ("anthropic://k@host/v1", "https://host/v1", "/messages", {"x-api-key": "k"}),
    (
        "anthropic://k@api.deepseek.com/anthropic",
        "https://api.deepseek.com/anthropic/v1",
        "/messages",
        {"x-api-key": "k"},
    ),
    ("anthropic://k@host/v1/messages", "https://host/v1", "/messages", {"x-api-key": "k"}),
    ("anthropic+http://127.0.0.1:9931", "http://127.0.0.1:9931/v1", "/messages", {}),
    # google: /v1beta is added unless the path ends in a version
    (
        "google://k@generativelanguage.googleapis.com",
        "https://generativelanguage.googleapis.com/v1beta",
        "/models/m:streamGenerateContent?alt=sse",
        {"x-goog-api-key": "k"},
    ),
    (
        "gemini://k@host/v1",
        "https://host/v1",
        "/models/m:streamGenerateContent?alt=sse",
        {"x-goog-api-key": "k"},
    ),
    (
        "google://k@host/proxy/v1alpha",
        "https://host/proxy/v1alpha",
        "/models/m:streamGenerateContent?alt=sse",
        {"x-goog-api-key": "k"},
    ),
    (
        "google://k@host/proxy",
        "https://host/proxy/v1beta",
        "/models/m:streamGenerateContent?alt=sse",
        {"x-goog-api-key": "k"},
    ),
    # ollama, its cloud and foreman: /api/... beside whatever path there is
    ("ollama://gpu1", "https://gpu1", "/api/chat", {}),
    ("ollama+http://gpu1:11434", "http://gpu1:11434", "/api/chat", {}),
    ("ollama+http://gpu1:11434/v1", "http://gpu1:11434", "/api/chat", {}),
    ("ollama+http://gpu1:11434/api/", "http://gpu1:11434", "/api/chat", {}),
    ("ollama://k@host/llm", "https://host/llm", "/api/chat", BEARER),
    ("ollama-cloud://k@ollama.com", "https://ollama.com", "/api/chat", BEARER),
    ("foreman://k@host", "https://host", "/api/chat", BEARER),
    ("foreman://host", "https://host", "/api/chat", {}),
    ("foreman+http://k@host:9000/f", "http://host:9000/f", "/api/chat", BEARER),
    # llama-swap: plain http unless it is the TLS twin; /v1 for the OpenAI wire alone
    ("llama-swap://host:8080", "http://host:8080", "/v1/chat/completions", {}),
    ("llama-swap://k@host:8080/v1/", "http://host:8080", "/v1/chat/completions", BEARER),
    ("llama-swap://k@host/swap", "http://host/swap", "/v1/chat/completions", BEARER),
    ("llama-swap+https://k@host", "https://host", "/v1/chat/completions", BEARER),
    ("llama-swaps://k@host", "https://host", "/v1/chat/completions", BEARER),
    ("llama-swaps://k@host:8443", "https://host:8443", "/v1/chat/completions", BEARER),
    # a token is percent-decoded
    (
        "openai://a%2Fb%40c@host",
        "https://host/v1",
        "/chat/completions",
        {"authorization": "Bearer a/b@c"},
    ),
]


@pytest.mark.parametrize(("dsn", "base", "path", "headers"), DSNS, ids=[row[0] for row in DSNS])
def test_a_dsn_becomes_a_base_url_a_request_url_and_a_key(
    dsn: str, base: str, path: str, headers: dict[str, str]
) -> None:
    provider = resolve(dsn)
    assert provider.base_url == base
    assert sent(provider).url == base + path
    assert auth(provider) == headers
    assert provider.scheme == dsn.partition(":")[0].partition("+")[0]


BUILT_IN = [
    ("openai", {}, "https://api.openai.com/v1", {"authorization": "Bearer vendor-openai"}),
    (
        "openai",
        {"OPENAI_BASE_URL": ""},
        "https://api.openai.com/v1",
        {"authorization": "Bearer vendor-openai"},
    ),
    (
        "openai",
        {"OPENAI_BASE_URL": "http://localhost:8000/v1/"},
        "http://localhost:8000/v1",
        {"authorization": "Bearer vendor-openai"},
    ),
    ("openai", {"OPENAI_BASE_URL": "https://host", "OPENAI_API_KEY": ""}, "https://host/v1", {}),
    ("anthropic", {}, "https://api.anthropic.com/v1", {"x-api-key": "vendor-anthropic"}),
    (
        "anthropic",
        {"ANTHROPIC_AUTH_TOKEN": "t"},
        "https://api.anthropic.com/v1",
        {"x-api-key": "vendor-anthropic"},
    ),
    (
        "anthropic",
        {"ANTHROPIC_AUTH_TOKEN": "t", "ANTHROPIC_API_KEY": ""},
        "https://api.anthropic.com/v1",
        {"authorization": "Bearer t"},
    ),
    (
        "anthropic",
        {"ANTHROPIC_BASE_URL": "https://gate/llm"},
        "https://gate/llm/v1",
        {"x-api-key": "vendor-anthropic"},
    ),
    (
        "google",
        {},
        "https://generativelanguage.googleapis.com/v1beta",
        {"x-goog-api-key": "vendor-google"},
    ),
    (
        "gemini",
        {"GEMINI_API_KEY": "g"},
        "https://generativelanguage.googleapis.com/v1beta",
        {"x-goog-api-key": "vendor-google"},
    ),
    (
        "gemini",
        {"GEMINI_API_KEY": "g", "GOOGLE_API_KEY": ""},
        "https://generativelanguage.googleapis.com/v1beta",
        {"x-goog-api-key": "g"},
    ),
    (
        "google",
        {"GOOGLE_GEMINI_BASE_URL": "https://gate/v1"},
        "https://gate/v1",
        {"x-goog-api-key": "vendor-google"},
    ),
    ("ollama", {"OLLAMA_API_KEY": ""}, "http://127.0.0.1:11434", {}),
    (
        "ollama",
        {"OLLAMA_HOST": "gpu1"},
        "http://gpu1:11434",
        {"authorization": "Bearer vendor-ollama"},
    ),
    (
        "ollama",
        {"OLLAMA_HOST": "ollama.com"},
        "https://ollama.com",
        {"authorization": "Bearer vendor-ollama"},
    ),
    ("ollama-cloud", {}, "https://ollama.com", {"authorization": "Bearer vendor-ollama"}),
]


@pytest.mark.parametrize(("name", "env", "base", "headers"), BUILT_IN)
def test_a_built_in_reads_its_vendors_variables(
    name: str, env: dict[str, str], base: str, headers: dict[str, str]
) -> None:
    provider = builtin(name, VENDOR_KEYS | env)
    assert (provider.name, provider.base_url) == (name, base)
    assert auth(provider) == headers


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("gpu1", "http://gpu1:11434"),
        ("gpu1:8000", "http://gpu1:8000"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8000", "http://127.0.0.1:8000"),
        (":8000", "http://127.0.0.1:8000"),
        ("::", "http://127.0.0.1:11434"),
        ("[::]:8000", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("http://gpu1", "http://gpu1"),
        ("https://gpu1", "https://gpu1"),
        ("https://gpu1:8443/llm", "https://gpu1:8443/llm"),
        ("gpu1/llm", "http://gpu1:11434/llm"),
        ("ollama.com", "https://ollama.com"),
        ('"gpu1"', "http://gpu1:11434"),
        ("http://0.0.0.0:11434", "http://127.0.0.1:11434"),
    ],
)
def test_ollama_host_reads_as_ollamas_own_programs_read_it(host: str, url: str) -> None:
    assert urls.ollama_url(host) == url
    assert builtin("ollama", {"OLLAMA_HOST": f" {host} ", "OLLAMA_API_KEY": "k"}).base_url == url


@pytest.mark.parametrize(
    ("dsn", "key"),
    [
        ("openai://api.openai.com", "vendor-openai"),
        ("openai://us.api.openai.com/v1", "vendor-openai"),
        ("openai://api.openai.com:443", "vendor-openai"),
        ("anthropic://api.anthropic.com", "vendor-anthropic"),
        ("google://generativelanguage.googleapis.com", "vendor-google"),
        ("ollama://ollama.com", "vendor-ollama"),
        ("ollama-cloud://ollama.com", "vendor-ollama"),
    ],
)
def test_a_vendors_key_goes_to_the_vendors_own_host(dsn: str, key: str) -> None:
    provider = resolve(dsn)
    assert provider.token is not None
    assert provider.token.reveal() == key


@pytest.mark.parametrize(
    "dsn",
    [
        "openai://api.openai.com.evil.example",
        "openai://evilapi.openai.com",
        "openai://openrouter.ai/api/v1",
        "openai://api.openai.com:8443",
        "openai+http://api.openai.com",
        "openai+http://localhost:8080",
        "openai://api.anthropic.com",
        "anthropic://api.openai.com",
        "anthropic+http://api.anthropic.com",
        "google://host",
        "ollama+http://127.0.0.1:11434",
        "ollama+http://ollama.com",
        "ollama-cloud://host",
        "foreman://ollama.com",
        "llama-swap://api.openai.com",
        "llama-swaps://api.openai.com",
    ],
)
def test_no_other_host_ever_gets_a_vendors_key(dsn: str) -> None:
    provider = resolve(dsn)
    assert provider.token is None
    assert auth(provider) == {}


@pytest.mark.parametrize(
    ("dsn", "variable"),
    [
        ("openai://api.openai.com", "OPENAI_API_KEY"),
        ("anthropic://api.anthropic.com", "ANTHROPIC_API_KEY"),
        ("gemini://generativelanguage.googleapis.com", "GOOGLE_API_KEY or GEMINI_API_KEY"),
        ("ollama-cloud://ollama.com", "OLLAMA_API_KEY"),
    ],
)
def test_a_missing_key_names_both_places_for_it(dsn: str, variable: str) -> None:
    with pytest.raises(ConfigError, match=f"LLM_MY_BOX: no key .*{variable}"):
        resolve(dsn, {}, "my-box")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("openai", "OPENAI_API_KEY"),
        ("anthropic", "LLM_ANTHROPIC=anthropic://KEY@api.anthropic.com"),
        ("google", "GOOGLE_API_KEY or GEMINI_API_KEY"),
        ("ollama-cloud", "LLM_OLLAMA_CLOUD="),
        ("foreman", "LLM_FOREMAN=foreman://TOKEN@host"),
        ("llama-swap", "LLM_LLAMA_SWAP=llama-swap://"),
    ],
)
def test_a_built_in_that_lacks_something_shows_what_to_set(name: str, shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        builtin(name, {})
    assert shown in str(caught.value)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("localhost:8000", "https:// or http://"),
        ("ftp://host", "https:// or http://"),
        ("https://user:hunter22@host/v1", "not have credentials"),
        ("https://host/v1?key=hunter22", "not have a query"),
        ("https://host:99999", "port"),
        ("https://", "host"),
        ("https://ho st/hunter22", "white space"),
    ],
)
def test_a_bad_base_url_is_named_by_its_variable_and_not_shown(value: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        builtin("openai", {"OPENAI_BASE_URL": value, "OPENAI_API_KEY": "k"})
    assert str(caught.value).startswith("OPENAI_BASE_URL: ")
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("host", ["gpu1:port", "gpu1:0", "tcp://gpu1", "gpu1?x"])
def test_a_bad_ollama_host_is_named(host: str) -> None:
    with pytest.raises(ConfigError, match="OLLAMA_HOST"):
        builtin("ollama", {"OLLAMA_HOST": host})


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"openai"}))
def test_only_openai_has_a_choice_of_wires(scheme: str) -> None:
    with pytest.raises(ConfigError, match=f"LLM_BOX: {scheme} has no option 'api'"):
        resolve(f"{scheme}://k@host?api=chat")


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_a_row_names_codecs_that_exist(scheme: Scheme) -> None:
    for api in scheme.apis or ("",):
        asked = parse_dsn(f"{scheme.name}://k@host{api and f'?api={api}'}")
        provider = from_dsn("box", asked, {}, scheme)
        assert sent(provider).url.startswith(provider.base_url)
        for kind, names in scheme.operations.items():
            made = [type(codec).__name__ for codec in provider.operations[kind].codecs()]
            assert made == [name.partition(":")[2] for name in names]


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_a_row_is_data(scheme: Scheme) -> None:
    assert pickle.loads(pickle.dumps(scheme)) == scheme
    assert scheme.codec in repr(scheme)


def test_organisation_and_project_go_along_with_the_vendors_key_alone() -> None:
    env = VENDOR_KEYS | {"OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT_ID": "proj-1"}
    both = {"OpenAI-Organization": "org-1", "OpenAI-Project": "proj-1"}
    assert builtin("openai", env).headers == both
    assert resolve("openai://api.openai.com", env).headers == both
    assert resolve("openai://other@api.openai.com", env).headers == {}
    assert resolve("openai://host", env).headers == {}
    assert sent(builtin("openai", env)).headers.items() >= both.items()


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "OPENAI_ORG_ID"])
def test_a_variable_that_would_smuggle_a_header_is_refused(variable: str) -> None:
    env = VENDOR_KEYS | {variable: "x\r\nEvil: hunter22"}
    with pytest.raises(ConfigError, match=variable) as caught:
        builtin("openai", env)
    assert "hunter22" not in str(caught.value)


def test_white_space_around_a_key_is_no_part_of_it() -> None:
    provider = builtin("openai", {"OPENAI_API_KEY": " sk-1\n"})
    assert provider.token is not None
    assert provider.token.reveal() == "sk-1"


@pytest.mark.parametrize("row", [row[0] for row in DSNS if "k@" in row[0]])
def test_a_token_shows_in_no_repr(row: str) -> None:
    provider = resolve(row.replace("k@", "hunter22@"))
    for shown in (repr(provider), str(provider), repr(sent(provider)), repr(provider.token)):
        assert "hunter22" not in shown


def test_names_that_exist_without_a_dsn() -> None:
    assert set(BUILTINS) == {
        "openai",
        "anthropic",
        "google",
        "gemini",
        "ollama",
        "ollama-cloud",
        "foreman",
        "llama-swap",
    }
    assert set(SCHEMES) == {*BUILTINS, "llama-swaps"}


def test_llama_swap_has_capability_rows_of_its_own_but_replays_openais_state() -> None:
    provider = resolve("llama-swap://host:8080")
    assert provider.codec.family == "openai"
    assert provider.capabilities("m").max_images_per_request is None
    assert provider.capabilities("m").prefill


@pytest.mark.parametrize("dsn", ["anthropic://k@h", "openai://k@h?api=responses", "google://k@h"])
async def test_a_system_prompt_alone_is_refused_before_any_byte(dsn):
    async with Registry(env={"LLM_A": dsn}, retries=0) as reg:
        with pytest.raises(FailoverError) as caught:
            await reg.generate("a/m", Request((system("Be kind."),)))
    assert "a message besides the system prompt" in str(caught.value.exceptions[0])
