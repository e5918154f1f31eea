"""Hostile answers just below the limits: one frame each, of as much as is still decoded.

`benchmarks/hostile.py` measures them. What is above a limit is refused, and costs less.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from aiollm._user_types.density import FRAME
from aiollm._wire.misfits import MAX_MISFITS, MAX_WALKED
from aiollm.providers.decoding import MAX_CALLS, MAX_PARTS

WIRES = ("chat", "responses", "anthropic", "google", "ollama")
_ROOM = 500
"""What is left of a limit for the rest of a frame."""


def _names(count: int) -> bytes:
    return b"{%s}" % b",".join(b'"b%d":1' % at for at in range(count))


def _texts(count: int) -> bytes:
    return b"[%s]" % b",".join(b'"b%d"' % at for at in range(count))


def _many(value: bytes, count: int) -> bytes:
    return b"[%s]" % b",".join([value] * count)


_VALUES: dict[str, Callable[[], bytes]] = {
    "names": lambda: _names(FRAME.strings - _ROOM),
    "texts": lambda: _texts(FRAME.strings - _ROOM),
    "objects": lambda: _many(b"{}", FRAME.brackets - _ROOM),
    "lists in lists": lambda: _many(b"[" * 90 + b"]" * 90, FRAME.brackets // 91 - 9),
    "objects with a name": lambda: _many(b'{"a":1}', FRAME.brackets - _ROOM),
    "numbers": lambda: _many(b"1", FRAME.values - _ROOM),
    "fractions": lambda: _many(b"0.1234567", FRAME.bare // 10 - _ROOM),
    "escapes": lambda: b'"%s"' % (rb"\u6587" * (FRAME.escapes - _ROOM)),
    "foreign text": lambda: '"{}"'.format("\u6587" * (FRAME.foreign // 3 - _ROOM)).encode(),
}
"""By what they have most of, the values that are still decoded."""

_PLACES: dict[str, dict[str, bytes]] = {
    "chat": {
        "error": b'{"error":%s}',
        "nowhere": b'{"choices":[],"a":%s}',
        "content": b'{"choices":[{"index":0,"delta":{"content":[%s]}}]}',
        "arguments": b'{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":'
        b'{"name":"f","arguments":{"a":%s}}}]}}]}',
        "reasoning details": b'{"choices":[{"index":0,"delta":{"reasoning_details":[%s]}}]}',
        "citations": b'{"choices":[],"citations":[%s]}',
    },
    "responses": {
        "error": b'{"type":"error","error":%s}',
        "nowhere": b'{"type":"response.output_text.delta","delta":"a","a":%s}',
        "item": b'{"type":"response.output_item.done","output_index":0,"item":{"type":"a","a":%s}}',
        "output": b'{"type":"response.completed","response":{"id":"r","status":"completed",'
        b'"output":[{"type":"a","a":%s}]}}',
    },
    "anthropic": {
        "error": b'{"type":"error","error":{"message":%s}}',
        "nowhere": b'{"type":"ping","a":%s}',
        "input": b'{"type":"content_block_start","index":1,"content_block":'
        b'{"type":"tool_use","id":"a","name":"f","input":{"a":%s}}}',
        "block": b'{"type":"content_block_start","index":1,"content_block":'
        b'{"type":"web_search_tool_result","tool_use_id":"a","content":%s}}',
    },
    "google": {
        "error": b'{"error":%s}',
        "nowhere": b'{"candidates":[{"content":{"parts":[{"text":"a"}]}}],"a":%s}',
        "arguments": b'{"candidates":[{"content":{"parts":[{"functionCall":'
        b'{"name":"f","args":{"a":%s}}}]}}]}',
        "part": b'{"candidates":[{"content":{"parts":[{"executableCode":{"code":%s}}]}}]}',
        "grounding": b'{"candidates":[{"content":{"parts":[{"text":"a"}]},'
        b'"groundingMetadata":{"a":%s}}]}',
    },
    "ollama": {
        "error": b'{"error":%s}',
        "nowhere": b'{"message":{"content":"a"},"done":false,"a":%s}',
        "arguments": b'{"message":{"tool_calls":[{"function":'
        b'{"name":"f","arguments":{"a":%s}}}]},"done":false}',
    },
}
"""By wire, where a value can be: in a field that is kept, or in one that nobody reads."""

_CHAT_CALL = b'{"index":%d,"id":"a%d","function":{"name":"f","arguments":"{}"}}'


def _numbered(value: bytes, count: int) -> bytes:
    return b",".join(value % ((at,) * value.count(b"%d")) for at in range(count))


_ODD = MAX_WALKED - MAX_MISFITS - 8
_PARTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "choices": (
        "chat",
        lambda: b'{"choices":[%s]}' % _numbered(b'{"index":%d,"delta":{"content":"a"}}', MAX_PARTS),
    ),
    "choices without an index": (
        "chat",
        lambda: b'{"choices":%s}' % _many(b'{"delta":{"content":"a"}}', MAX_PARTS),
    ),
    "calls": (
        "chat",
        lambda: b'{"choices":[{"delta":{"tool_calls":[%s]}}]}' % _numbered(_CHAT_CALL, MAX_CALLS),
    ),
    "calls and odd ones": (
        "chat",
        lambda: (
            b'{"choices":[{"delta":{"tool_calls":[%s,%s]}}]}'
            % (_numbered(_CHAT_CALL, _ODD), b",".join([b'{"index":[]}'] * MAX_MISFITS))
        ),
    ),
    "images": (
        "chat",
        lambda: (
            b'{"choices":[{"index":0,"delta":{"images":%s}}]}'
            % _many(b'{"type":"image_url","image_url":{"url":"data:image/png;base64,aaaa"}}', 900)
        ),
    ),
    "annotations": (
        "chat",
        lambda: (
            b'{"choices":[{"index":0,"delta":{"annotations":[%s]}}]}'
            % _numbered(
                b'{"type":"url_citation","url_citation":{"url":"http://a.example/%d"}}',
                FRAME.strings // 6,
            )
        ),
    ),
    "parts": (
        "google",
        lambda: b'{"candidates":[{"content":{"parts":%s}}]}' % _many(b'{"text":"a"}', MAX_PARTS),
    ),
    "opaque parts": (
        "google",
        lambda: (
            b'{"candidates":[{"content":{"parts":%s}}]}'
            % _many(b'{"executableCode":{"code":"a"}}', MAX_PARTS)
        ),
    ),
    "candidates": (
        "google",
        lambda: b'{"candidates":%s}' % _many(b'{"content":{"parts":[{"text":"a"}]}}', MAX_PARTS),
    ),
    "calls ": (
        "google",
        lambda: (
            b'{"candidates":[{"content":{"parts":%s}}]}'
            % _many(b'{"functionCall":{"name":"f","args":{"a":1}}}', MAX_CALLS)
        ),
    ),
    "sources": (
        "google",
        lambda: (
            b'{"candidates":[{"content":{"parts":[{"text":"a"}]},"groundingMetadata":'
            b'{"groundingChunks":[%s]}}]}'
            % _numbered(b'{"web":{"uri":"http://a.example/%d","title":"a"}}', FRAME.strings // 6)
        ),
    ),
    "output": (
        "responses",
        lambda: (
            b'{"type":"response.completed","response":{"id":"r","status":"completed","output":%s}}'
            % _many(b'{"type":"message","content":[{"type":"output_text","text":"a"}]}', MAX_PARTS)
        ),
    ),
    "unknown output": (
        "responses",
        lambda: (
            b'{"type":"response.completed","response":{"id":"r","status":"completed",'
            b'"output":[%s]}}' % _numbered(b'{"type":"x%d","id":"a"}', MAX_PARTS)
        ),
    ),
    "calls  ": (
        "ollama",
        lambda: (
            b'{"message":{"tool_calls":%s}}'
            % _many(b'{"function":{"name":"f","arguments":{}}}', MAX_CALLS)
        ),
    ),
}
"""By what a frame has many of: the wire and the frame."""


def _in(wire: str, data: bytes) -> bytes:
    kind = json.loads(data).get("type", "") if wire in ("anthropic", "responses") else ""
    match wire:
        case "ollama":
            return data + b"\n"
        case "anthropic" | "responses":
            return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)
        case _:
            return b"data: %s\n\n" % data


def shapes(
    around: Callable[[str, bytes], Callable[[int], bytes]],
) -> dict[str, tuple[str, Callable[[int], bytes]]]:
    """Return by name the wires of the shapes, and what makes them.

    `around` puts an event into an answer of a wire.
    """
    found = {}
    for wire, places in _PLACES.items():
        for place, outer in places.items():
            for name, value in _VALUES.items():
                found[f"{wire}: {name} in {place}"] = (wire, outer, value)
    made = {
        name: (
            wire,
            lambda size, wire=wire, outer=outer, value=value: around(
                wire, _in(wire, outer.replace(b"%s", value()))
            )(size),
        )
        for name, (wire, outer, value) in found.items()
    }
    for name, (wire, value) in _PARTS.items():
        made[f"{wire}: {name.strip()}, as many as may be"] = (
            wire,
            lambda size, wire=wire, value=value: around(wire, _in(wire, value()))(size),
        )
    return made
