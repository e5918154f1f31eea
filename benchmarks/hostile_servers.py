"""Hostile replies of model servers: to management requests, in a followed log, and in its events.

`benchmarks/hostile.py` measures them; each wire here is one request.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from aiollm._user_types.density import FRAME, REPLY

JSON, TEXT, EVENTS = (
    b"Content-Type: " + kind for kind in (b"application/json", b"text/plain", b"text/event-stream")
)


async def _all_of(pieces: Any) -> None:
    async with aclosing(pieces):
        async for _ in pieces:
            pass


CALLS: dict[str, tuple[str, bytes, Callable[[Any], Awaitable[Any]]]] = {
    "running": ("llama-swap", JSON, lambda reg: reg.llama_swap("x").running()),
    "props": ("llama-swap", JSON, lambda reg: reg.llama_swap("x").props("m")),
    "tags": ("ollama", JSON, lambda reg: reg.ollama("x").models()),
    "ps": ("ollama", JSON, lambda reg: reg.ollama("x").running()),
    "logs": ("llama-swap", TEXT, lambda reg: _all_of(reg.llama_swap("x").logs())),
    "events": ("llama-swap", EVENTS, lambda reg: _all_of(reg.llama_swap("x").events())),
}
"""By wire: the scheme of the server, fields of the reply's head, and the call that reads it."""

LISTS = {
    "running": (b'{"running":[%s]}', {"model": "qwen", "state": "ready", "ttl": 300, "cmd": "a"}),
    "props": (
        b'{"total_slots":4,"modalities":{"vision":true},"tokens":[%s]}',
        {"id": 1, "n_ctx": 4096, "text": "a"},
    ),
    "tags": (b'{"models":[%s]}', {"name": "qwen3:8b", "size": 1, "details": {"family": "qwen"}}),
    "ps": (b'{"models":[%s]}', {"name": "qwen3:8b", "size": 1, "size_vram": 1}),
}
"""A reply of many things: what is around them, and one of them."""


def _listed(wire: str, each: bytes, most: int = 10**9) -> Callable[[int], bytes]:
    """Return a maker of lists of `each`, of which there are `most` at most."""

    def make(size: int) -> bytes:
        many = min(most, max(1, size // (len(each) + 1)))
        return LISTS[wire][0] % b",".join([each] * many)

    return make


def _normal(wire: str) -> Callable[[int], bytes]:
    """Return a maker of replies whose things have long texts, as commands and templates are."""
    each = json.dumps(LISTS[wire][1] | {"description": "some words " * 90}).encode()
    return _listed(wire, each)


def _odd(wire: str) -> bytes:
    return json.dumps({name: [] for name in LISTS[wire][1]}).encode()


def _one(wire: str, data: bytes, around: bytes = b'"%s"') -> Callable[[int], bytes]:
    """Return a maker of replies with one long value in the first field."""
    name = next(iter(LISTS[wire][1])).encode()

    def make(size: int) -> bytes:
        value = around.replace(b"%s", data * (size // len(data)))
        return LISTS[wire][0] % (b'{"%s":%s}' % (name, value))

    return make


def _names(wire: str, most: int) -> Callable[[int], bytes]:
    def make(size: int) -> bytes:
        pairs = b",".join(b'"b%d":1' % at for at in range(min(most, size // 12)))
        return LISTS[wire][0] % (b"{%s}" % pairs)

    return make


def _event(kind: str, data: Any) -> bytes:
    envelope = json.dumps(
        {"type": kind, "data": data if isinstance(data, str) else json.dumps(data)}
    )
    return f"event:message\ndata:{envelope}\n\n".encode()


def _repeated(data: bytes) -> Callable[[int], bytes]:
    return lambda size: data * (size // len(data))


_LOG = b'[INFO] Request 127.0.0.1 "POST /v1/chat/completions HTTP/1.1" 200 1024 "curl" 1.5s\n'
_STATE = {"id": "qwen", "name": "Qwen", "description": "", "state": "ready"}

SHAPES: dict[str, tuple[str, Callable[[int], bytes]]] = {
    **{f"{wire}: normal": (wire, _normal(wire)) for wire in LISTS},
    "logs: normal": ("logs", _repeated(_LOG)),
    "events: normal": (
        "events",
        _repeated(_event("logData", {"source": "proxy", "data": "a" * 200})),
    ),
    **{
        f"{wire}: {name}": (wire, make)
        for wire in LISTS
        for name, make in {
            "small things": _listed(wire, json.dumps(LISTS[wire][1]).encode()),
            "10,000 things": _listed(wire, json.dumps(LISTS[wire][1]).encode(), 10_000),
            "empty objects": _listed(wire, b"{}"),
            "40,000 empty objects": _listed(wire, b"{}", 40_000),
            "as many empty objects as may be": _listed(wire, b"{}", REPLY.brackets - 9),
            "as many small things as may be": _listed(
                wire,
                json.dumps(LISTS[wire][1]).encode(),
                min(REPLY.strings // 8, REPLY.brackets // 2) - 9,
            ),
            "odd things": _listed(wire, _odd(wire)),
            "7 odd things": _listed(wire, _odd(wire), 7),
            "numbers": _listed(wire, b"1"),
            "names": _names(wire, 10**9),
            "60,000 names": _names(wire, 60_000),
            "as many names as may be": _names(wire, REPLY.strings - 99),
            "one text": _one(wire, b"word "),
            "one escaped text": _one(wire, rb"\u0041"),
            "one text of half pairs": _one(wire, rb"\ud83d"),
            "half a pair": _one(wire, b"a", rb'"%s\ud83d"'),
            "invalid UTF-8": _one(wire, b"\xff"),
            "white space": _one(wire, b" ", b"%s1"),
            "deep": _one(wire, b"[", b"%s"),
            "junk": _repeated(b"a"),
        }.items()
    },
    **{
        f"logs: {name}": ("logs", _repeated(data))
        for name, data in {
            "blank lines": b"\n",
            "CRLF": b"\r\n",
            "no lines": b"a",
            "invalid UTF-8": b"\xff",
            "half characters": "\u20ac".encode()[:2],
            "escapes": rb"\u0041",
            "percent signs": b"%41",
            "entities": b"&#65;",
            "starts of a key": b"key-0",
            "keys": b"key-0123456789abcdef ",
        }.items()
    },
    **{
        f"events: {name}": ("events", _repeated(data))
        for name, data in {
            "blank lines": b"\n",
            "comments": b":\n",
            "empty frames": b"data:{}\n\n",
            "null data": b'data:{"data":null}\n\n',
            "unknown": _event("a", {}),
            "states": _event("modelStatus", [_STATE]),
            "odd states": _event("modelStatus", [{key: [] for key in _STATE}]),
            "many states": _event("modelStatus", [{}] * 16_000),
            "odd requests": _event("inflight", {"requests": [{"id": []}] * 8}),
            "numbers": _event("a", [1] * 60_000),
            "names": _event("a", {f"b{at}": 1 for at in range(60_000)}),
            "as many states as may be": _event("modelStatus", [{}] * (FRAME.brackets - 99)),
            "as many names as may be": _event(
                "a", {f"b{at}": 1 for at in range(FRAME.strings - 99)}
            ),
            "as many requests as may be": _event(
                "inflight", {"requests": [{"id": "a"}] * (FRAME.strings // 2 - 99)}
            ),
            "as many values in an event as may be": b'data:{"type":"a","data":[%s]}\n\n'
            % b",".join([b"{}"] * (FRAME.brackets - 99)),
            "a long text": _event("logData", {"source": "proxy", "data": "a" * 500_000}),
            "an escaped text": _event("logData", {"source": "proxy", "data": "\u6587" * 50_000}),
            "half pairs": _event("logData", {"source": "proxy", "data": "\ud83d" * 10}),
            "junk": b"a\n",
        }.items()
    },
}
"""The wire of a shape, and what makes a reply of so many bytes."""
