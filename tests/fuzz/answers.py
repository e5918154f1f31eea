"""Targets: complete replies: errors, headers with limits, lists of models, management."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator

from aiollm._wire.quota import DAY, MOST, quotas
from aiollm._wire.redaction import redacted
from aiollm.dsn import Secret
from aiollm.errors import LLMError, ProtocolError
from aiollm.providers.error_replies import retry_after
from aiollm.servers import base, llama_swap, ollama
from tests.contract.conftest import SERVICES, WIRE, cases
from tests.fuzz import wire
from tests.fuzz.oracles import bounded_memory, check_error
from tests.fuzz.texts import KEY

_NOW = 1_796_000_000.0


def refusals(data: bytes) -> None:
    """Read an error reply, in which KEY is the caller's key.

    It becomes one of our errors, the same each time, with sane hints, from which the key can be
    removed without a trace.
    """
    answer = wire.parsed(data.replace(b"KEY", KEY.encode()))
    codec = answer.case.codec
    with bounded_memory(data):
        error = codec.error(answer.reply)
    assert isinstance(error, LLMError)
    check_error(error)
    again = codec.error(answer.reply)
    assert (type(again), str(again)) == (type(error), str(error))
    redacted(error, (Secret(KEY),))
    check_error(error)
    shown = f"{error} {error!r} {getattr(error, 'code', '')} {getattr(error, 'request_id', '')}"
    assert KEY not in shown
    assert KEY.encode() not in getattr(error, "body", b"") + getattr(error, "frame", b"")


def refusal_seeds() -> Iterator[bytes]:
    for case in cases():
        if case.record["kind"] == "http_error":
            record = case.record
            name = case.path.partition("/")[0]
            yield wire.written(
                name, record["status"], record["content_type"], record["headers"], case.body
            )
    names = {"openai": "openai_chat", "anthropic": "anthropic", "google": "gemini"}
    for path in sorted((WIRE / "refusals").glob("*.toml")):
        for row in tomllib.loads(path.read_text())["case"][::4]:
            name = names.get(path.stem, "ollama")
            status = row.get("status", 400)
            yield wire.written(name, status, "application/json", {}, row["body"].encode())
    yield wire.written(
        "openai_chat", 429, "", {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, b""
    )
    yield wire.written("gemini", 429, "", {"retry-after-ms": "1500"}, b"KEY")
    yield wire.written("openai_chat", 502, "text/html", {"x-request-id": "KEY"}, b"<html>KEY")


def headers(data: bytes) -> None:
    """Read the limits and hints of headers: amounts that can be counted with, or nothing."""
    answer = wire.parsed(data)
    hosts = {service.base_url.split("/")[2] for service in SERVICES.values()}
    for host in (*sorted(hosts), "", "api.groq.com", "openrouter.ai", "api.fireworks.ai:443"):
        for quota in quotas(answer.headers, host, unix_time=_NOW):
            assert 0 < quota.per_minute <= 60 * MOST
            assert quota.remaining is None or 0 <= quota.remaining <= MOST
            assert quota.full_in is None or 0 <= quota.full_in <= DAY
    wait = retry_after(answer.headers, _NOW)
    assert wait is None or 0 <= wait < math.inf


def header_seeds() -> Iterator[bytes]:
    for row in json.loads((WIRE.parent / "core/quota_headers.json").read_text()):
        yield wire.written("openai_chat", 429, "application/json", row["headers"], b"")
    plain = {"ratelimit-limit": "10, 10;w=1, 100;w=60", "ratelimit-reset": "2026-11-29T00:00:00Z"}
    yield wire.written("openai_chat", 429, "", plain | {"ratelimit-remaining": "3"}, b"")
    dates = {"retry-after": "Wed, 21 Oct 2026 07:28:00 +0100", "x-ratelimit-limit-requests": "60"}
    yield wire.written("openai_chat", 429, "", dates | {"x-ratelimit-reset-requests": "6m0s"}, b"")


_KINDS = (
    ollama._ModelList,
    ollama._LoadedList,
    ollama.ModelInfo,
    base._Version,
)


def listings(data: bytes) -> None:
    """Read a list of models, and what model servers say of themselves: values or ProtocolErrors."""
    answer = wire.parsed(data)
    with bounded_memory(data):
        try:
            names = answer.case.codec.model_names(answer.reply)
        except LLMError as error:
            check_error(error)
        else:
            assert all(isinstance(name, str) for name in names)
            "".join(names).encode()
    for kind in _KINDS:
        try:
            made = base.read(answer.body, kind)
        except ProtocolError as error:
            check_error(error)
        else:
            assert isinstance(made, kind)
            if isinstance(made, ollama.ModelInfo):
                assert isinstance(made.facts, dict)
                assert made.context_length is None or type(made.context_length) is int
    try:
        llama_swap._event(answer.body)
    except ProtocolError as error:
        check_error(error)


def listing_seeds() -> Iterator[bytes]:
    for case in cases():
        if case.record["kind"] == "json":
            name = case.path.partition("/")[0]
            yield wire.written(name, 200, "application/json", {}, case.body)
    for path in ("ollama/show.json", "ollama/ps.json", "llamaswap/running.json"):
        yield wire.written("ollama", 200, "application/json", {}, (WIRE / path).read_bytes())
    for line in (WIRE / "llamaswap/events.sse").read_bytes().splitlines():
        if line.startswith(b"data:"):
            yield wire.written("llamaswap", 200, "text/event-stream", {}, line[5:].strip()[:3000])
