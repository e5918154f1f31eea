"""A model's name never leads a request, and the key in it, out of its provider's path."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from aiollm import ConfigError, ImageRequest, Plan, Registry, Target
from aiollm._validation import as_request
from aiollm.dsn import parse_dsn
from aiollm.providers.urls import model_path
from aiollm.servers import LlamaSwap, Ollama
from aiollm.servers.base import Server
from aiollm.testing import Answer, FaultServer
from aiollm.types import MAX_NAME

TEAM = "/team-a%20b"
BASE = f"{TEAM}/v1"
SCHEMES = ("openai", "anthropic", "google", "ollama", "ollama-cloud", "foreman", "llama-swap")
REGISTRY = Registry(
    env={f"LLM_{each.upper()}": f"{each}+http://key@host.example{BASE}" for each in SCHEMES}
)
HOSTILE = (
    "..", ".", "", "a/../b", "../../admin", "tunedModels/../../x", "models/..", "a//b", "/a", "a/",
    "%2e%2e", "%2E%2E/x", "..%2f..", "..\\..", "a?key=x", "a#b", "a;b", "a&b=c", "a\r\nx: y",
    "a\0b", "a b", "ü", "\ud800", "a:b", "@evil", "//evil/x", "http://evil/", "\u2025",
    "\uff0e\uff0e", "x" * (MAX_NAME + 1), "tunedModels/x", "org/model", "qwen3:30b",
)  # fmt: skip
ANYTHING = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(max_size=40),
    st.lists(st.sampled_from(["..", ".", "/", "%2e", "\\", "a", "models/", "?", "#"])).map("".join),
)


def urls_of_calls(model):
    """Return the path of every request for a model, each as aiohttp would send it."""
    if len(model) > MAX_NAME:
        return
    for scheme in SCHEMES:
        provider = REGISTRY.provider(scheme)
        target = Target(scheme, model)
        chat = [provider.codec]
        images = provider.operations["images"].codecs() if "images" in provider.operations else ()
        for encode, request in [
            *((codec.encode, as_request("hi")) for codec in chat),
            *((codec.encode_images, ImageRequest("a cat")) for codec in images),
        ]:
            try:
                url = encode(provider, target, request).url
            except ConfigError as error:
                assert len(str(error)) < 300  # noqa: PT017 - both outcomes are right
            else:
                yield scheme, URL(url)


@given(ANYTHING)
@example("../../../team-b/v1beta/models/x")
@example("tunedModels/../../../admin")
def test_every_call_stays_below_the_path_of_its_provider(model):
    for scheme, url in urls_of_calls(model):
        assert url.host == "host.example"
        assert url.raw_path.startswith(f"{TEAM}/"), (scheme, url)  # not all that follows has /v1
        assert ".." not in url.raw_path.split("/")
        assert url.raw_query_string in ("", "alt=sse")
        assert not url.raw_fragment
        if scheme == "google":
            name, _, method = url.raw_path.removeprefix(f"{BASE}/").rpartition(":")
            complete = model.startswith(("models/", "tunedModels/"))
            assert unquote(name) == (model if complete else f"models/{model}")
            assert method in ("streamGenerateContent", "generateContent")


@given(ANYTHING)
def test_a_name_is_one_segment_where_it_manages_a_server(model):
    try:
        path = model_path(model)
    except ConfigError:
        assert model in ("", ".", "..") or len(model) > MAX_NAME or not _is_unicode(model)
    else:
        sent = URL(f"http://host{BASE}/upstream/{path}/health").raw_path
        *before, name, after = sent.split("/")
        assert ("/".join(before), unquote(name), after) == (f"{BASE}/upstream", model, "health")


def _is_unicode(text):
    return not any("\ud800" <= char <= "\udfff" for char in text)


def test_a_slash_stays_a_slash_where_models_have_it():
    (chat, *_) = [url for scheme, url in urls_of_calls("tunedModels/x") if scheme == "google"]
    assert chat.raw_path == f"{BASE}/tunedModels/x:streamGenerateContent"


@pytest.mark.parametrize("kind", [LlamaSwap, Ollama])
async def test_every_method_that_takes_a_model_sends_it_below_the_base(kind):
    """Whatever methods there will be: each is called with every name."""
    asked = []

    async def send(request):
        asked.append(URL(request.url))
        raise ConfigError("enough")

    provider = REGISTRY.provider("llama-swap" if kind is LlamaSwap else "ollama")
    server: Server = kind(provider, send, send)
    for method in ("load", "unload", "props", "show", "facts"):
        for model in HOSTILE if hasattr(server, method) else ():
            with pytest.raises(ConfigError):
                await getattr(server, method)(model)
    if kind is LlamaSwap:
        for model in HOSTILE:
            with pytest.raises(ConfigError):
                await anext(server.logs(model))
    assert len(asked) > len(HOSTILE)
    for url in asked:
        assert url.raw_path.startswith(f"{TEAM}/")
        assert ".." not in url.raw_path.split("/")
        assert url.raw_query_string in ("", "no-history")


async def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_sent():
    async with FaultServer(default=Answer(404, {}, {})) as server:
        env = {"LLM_G": f"google+{server.url}/team-a/v1beta".replace("//", "//KEY@", 1)}
        async with Registry(env=env, retries=0) as reg:
            for model in ("../../../team-b/v1beta/models/x", "tunedModels/../../../admin", ".."):
                with pytest.raises(ConfigError, match="is not a model name"):
                    await reg.generate(Plan([[Target("g", model)]]), "hi")
                with pytest.raises(ConfigError, match="is not a model name"):
                    await reg.generate_images(Plan([[Target("g", model)]]), "a cat")
        assert server.counts.opened == 0


@pytest.mark.parametrize("path", ["..", "a/../b", "a/.", "%2e%2e/x", "a/.%2E", "./v1"])
def test_a_base_path_is_where_it_says(path):
    with pytest.raises(ConfigError, match=r"must not contain '\.' or '\.\.'"):
        parse_dsn(f"openai://key@host/{path}")
