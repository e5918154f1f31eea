"""Hostile replies to calls that are not streams, and answers in forms that streams seldom have.

`benchmarks/hostile.py` measures them; each wire here is one request, or one way to send an answer.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiollm._user_types.density import REPLY, USER

JSON = b"Content-Type: application/json"
EVENTS = b"Content-Type: text/event-stream"
CHUNKED = EVENTS + b"\r\nTransfer-Encoding: chunked"


async def _answered(reg: Any) -> None:
    await reg.generate("x/m", "hi")


CALLS: dict[str, tuple[str, bytes, Callable[[Any], Awaitable[Any]]]] = {
    "models": ("openai", JSON, lambda reg: reg.models("x")),
    "embeddings": ("openai", JSON, lambda reg: reg.embed("x/m", ["hi"])),
    "scores": ("openai", JSON, lambda reg: reg.rerank("x/m", "hi", ["a"])),
    "pictures": ("openai", JSON, lambda reg: reg.generate_images("x/m", "a boat")),
    "drafts": ("openai", EVENTS, lambda reg: reg.generate_images("x/m", "a boat")),
    "HTTP chunks": ("openai", CHUNKED, _answered),
    "labelled JSON": ("openai", JSON, _answered),
    "documents": ("openai", JSON, _answered),
    "Claude's events": ("anthropic", EVENTS, _answered),
}
"""By wire: the scheme of the server, fields of the reply's head, and the call that reads it."""

_CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":" word"}}]}\n\n'
_END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def _stream(size: int) -> bytes:
    return _CHUNK * (size // len(_CHUNK)) + _END


def _listed(around: bytes, each: bytes, most: int = 10**9) -> Callable[[int], bytes]:
    """Return a maker of a reply with as many things as fit."""

    def make(size: int) -> bytes:
        return around % b",".join([each] * min(most, max(1, size // (len(each) + 1))))

    return make


def _in_chunks(body: Callable[[int], bytes], each: int) -> Callable[[int], bytes]:
    """Return a maker of a body in HTTP chunks of `each` bytes, 0 for one for each event."""

    def make(size: int) -> bytes:
        data = body(size)
        step = each or len(_CHUNK)
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"

    return make


def _events(of: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Return a maker of a stream with other events before its end."""
    return lambda size: _CHUNK * 4 + of(size) + _END


def _lines(first: bytes, line: bytes, last: bytes) -> Callable[[int], bytes]:
    """Return a maker of an event of many lines of data."""

    def make(size: int) -> bytes:
        many = min(size // len(line), 60_000)
        return b"".join(
            (b"data: ", first, b"\n", (b"data: " + line + b"\n") * many, b"data: ", last, b"\n\n")
        )

    return _events(make)


_CALL = (
    b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,%b'
    b'"function":{%b"arguments":%b}}]}}]}\n\n'
)
_PIECE = 4000


def _in_pieces(arguments: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Return a maker of a stream of one call, whose arguments come in pieces."""

    def make(size: int) -> bytes:
        text = arguments(size).decode()
        pieces = [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]
        return _CALL % (b'"id":"a",', b'"name":"f",', b'""') + b"".join(
            _CALL % (b"", b"", json.dumps(piece).encode()) for piece in pieces
        )

    return _events(make)


def _named(count: int) -> bytes:
    return b"{%b}" % b",".join(b'"b%d":1' % at for at in range(count))


def _beside(field: bytes) -> Callable[[int], bytes]:
    """Return a maker of a reply whose list is empty, beside as many names as may be."""
    return lambda size: b'{"%b":[],"a":%b}' % (field, _named(min(size // 11, REPLY.strings - 9)))


def _clauded(arguments: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Return a maker of Anthropic's events of one call, whose input comes in pieces."""

    def event(kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()

    def make(size: int) -> bytes:
        text = arguments(size).decode()
        use = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
        return b"".join(
            (
                event("message_start", message={"id": "m", "usage": {"input_tokens": 1}}),
                event("content_block_start", index=0, content_block=use),
                *(
                    event(
                        "content_block_delta",
                        index=0,
                        delta={"type": "input_json_delta", "partial_json": text[at : at + _PIECE]},
                    )
                    for at in range(0, len(text), _PIECE)
                ),
                event("content_block_stop", index=0),
                event("message_delta", delta={"stop_reason": "tool_use"}, usage={}),
                event("message_stop"),
            )
        )

    return make


_ARGUMENTS: dict[str, Callable[[int], bytes]] = {
    "text": lambda size: b'{"a":"%b"}' % (b"word " * (size // 5)),
    "foreign text": lambda size: '{{"a":"{}"}}'.format("\u6587" * (size // 3)).encode(),
    "names": lambda size: _named(min(size // 11, USER.strings - 9)),
    "too many names": lambda size: _named(size // 11),
    "objects": lambda size: b'{"a":[%b{}]}' % (b"{}," * min(size // 3, USER.brackets - 9)),
    "brackets in texts": lambda size: (
        b'{"a":[%b""]}' % (b'"[",' * min(size // 4, USER.strings - 9))
    ),
    "escapes": lambda size: rb'{"a":"%b"}' % (rb"\u6587" * min(size // 6, USER.escapes)),
    "quotes in a text": lambda size: rb'{"a":"%b"}' % (rb"\"" * (size // 2)),
    "no JSON": lambda size: b"word " * (size // 5),
    "Python": lambda size: b"{'a':'%b'}" % (b"word " * (size // 5)),
    "Python's list": lambda size: b"{'a':[%b'']}" % (b"'b'," * min(size // 4, 4000)),
    "a comma too many": lambda size: b'{"a":"%b",}' % (b"word " * (size // 5)),
    "encoded twice": lambda size: json.dumps('{"a":"%s"}' % ("word " * (size // 5))).encode(),
    "only white space": lambda size: b" " * size,
    "brackets alone": lambda size: b"{" * size,
}
"""Arguments of a call, which are looked at as a whole at its end."""

_VECTOR = b'{"object":"embedding","index":0,"embedding":[%b]}'

SHAPES: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "models: normal": (
        "models",
        _listed(
            b'{"data":[%b]}', b'{"id":"a","object":"model","description":"%b"}' % (b"word " * 99)
        ),
    ),
    **{
        f"models: {name}": ("models", make)
        for name, make in {
            "short ones": _listed(b'{"data":[%b]}', b'{"id":"a"}', REPLY.brackets - 9),
            "empty objects": _listed(b'{"data":[%b]}', b"{}", REPLY.brackets - 9),
            "odd ones": _listed(b'{"data":[%b]}', b'{"id":[]}', 1000),
            "numbers": _listed(b'{"data":[%b]}', b"1"),
            "names": _beside(b"data"),
            "junk": lambda size: b"a" * size,
            "white space": lambda size: b" " * size,
        }.items()
    },
    "embeddings: normal": (
        "embeddings",
        lambda size: (
            b'{"data":[%b]}' % (_VECTOR % b",".join([b"0.01234567"] * min(size // 11, 4000)))
        ),
    ),
    **{
        f"embeddings: {name}": ("embeddings", make)
        for name, make in {
            "a long vector": lambda size: (
                b'{"data":[%b]}' % (_VECTOR % b",".join([b"0.01234567"] * (size // 11)))
            ),
            "digits": lambda size: b'{"data":[%b]}' % (_VECTOR % b",".join([b"1"] * (size // 2))),
            "many vectors": _listed(b'{"data":[%b]}', _VECTOR % b"1"),
            "empty objects": _listed(b'{"data":[%b]}', b"{}"),
            "texts": lambda size: b'{"data":[%b]}' % (_VECTOR % b",".join([b'"a"'] * (size // 4))),
            "a text": lambda size: (
                b'{"data":[{"index":0,"embedding":"%b"}]}' % (b"AAAA" * (size // 4))
            ),
            "names": _beside(b"data"),
            "junk": lambda size: b"a" * size,
        }.items()
    },
    "scores: normal": (
        "scores",
        lambda size: (
            b'{"results":[{"index":0,"relevance_score":0.5}],"a":"%b"}' % (b"word " * (size // 5))
        ),
    ),
    **{
        f"scores: {name}": ("scores", make)
        for name, make in {
            "many": _listed(b'{"results":[%b]}', b'{"index":0,"relevance_score":0.5}'),
            "empty objects": _listed(b'{"results":[%b]}', b"{}"),
            "names": _beside(b"results"),
            "junk": lambda size: b"a" * size,
        }.items()
    },
    "pictures: normal": (
        "pictures",
        lambda size: b'{"data":[{"b64_json":"iVBORw0KGgoA%b"}]}' % (b"AAAA" * (size // 4)),
    ),
    **{
        f"pictures: {name}": ("pictures", make)
        for name, make in {
            "many": _listed(b'{"data":[%b]}', b'{"b64_json":"iVBORw0KGgoA"}'),
            "empty objects": _listed(b'{"data":[%b]}', b"{}"),
            "names": _beside(b"data"),
            "texts": _listed(b'{"data":[%b]}', b'"aaaa"'),
            "short texts": _listed(b'{"data":[],"a":[%b]}', b'""'),
            "escapes": lambda size: rb'{"data":[{"b64_json":"%b"}]}' % (rb"\u0041" * (size // 6)),
            "escapes in a file": lambda size: (
                rb'{"data":[{"b64_json":"iVBORw0KGgoA%b"}]}' % (rb"\u0041" * (size // 24 * 4))
            ),
            "escaped slashes in a file": lambda size: (
                rb'{"data":[{"b64_json":"iVBORw0KGgoA%b"}]}' % (rb"\/" * (size // 8 * 4))
            ),
            "a bad end of a file": lambda size: (
                b'{"data":[{"b64_json":"iVBORw0KGgoA%b!"}]}' % (b"AAAA" * (size // 4))
            ),
            "a file of another alphabet": lambda size: (
                b'{"data":[{"b64_json":"iVBORw0KGgoA%b"}]}' % (b"AA-_" * (size // 4))
            ),
            "starts of files": _listed(b'{"data":[],"a":[%b]}', b'"Qk"'),
            "junk": lambda size: b"a" * size,
        }.items()
    },
    "drafts: normal": (
        "drafts",
        lambda size: (
            b'data: {"type":"image_generation.completed","b64_json":"iVBORw0KGgoA%b"}\n\n'
            % (b"AAAA" * (size // 4))
        ),
    ),
    **{
        f"drafts: {name}": ("drafts", lambda size, event=event: event * (size // len(event)))
        for name, event in {
            "blank lines": b"\n",
            "comments": b":\n",
            "empty data": b"data:\n",
            "empty events": b"data: \n\n",
            "empty frames": b"data: {}\n\n",
            "names": b"event: a\n",
            "bad files": b'data: {"type":"image_generation.partial_image",'
            b'"b64_json":"iVBORw0KGgoA%b!"}\n\n' % (b"AAAA" * 64 * 1024),
            "small files": b'data: {"type":"image_generation.partial_image",'
            b'"b64_json":"iVBORw0KGgoA"}\n\n',
        }.items()
    },
    "HTTP chunks: normal": ("HTTP chunks", _in_chunks(_stream, 0)),
    "HTTP chunks: of one byte": ("HTTP chunks", _in_chunks(_stream, 1)),
    "HTTP chunks: of one line end": (
        "HTTP chunks",
        _in_chunks(_events(lambda size: b"\n" * size), 1),
    ),
    "labelled JSON: normal": ("labelled JSON", _stream),
    "labelled JSON: blank lines": ("labelled JSON", _events(lambda size: b"\n" * size)),
    "labelled JSON: empty data": ("labelled JSON", _events(lambda size: b"data:\n" * (size // 6))),
    "labelled JSON: empty frames": (
        "labelled JSON",
        _events(lambda size: b"data: {}\n\n" * (size // 10)),
    ),
    "documents: normal": (
        "documents",
        lambda size: (
            b'{"choices":[{"index":0,"message":{"content":"%b"}}]}' % (b"word " * (size // 5))
        ),
    ),
    **{
        f"documents: {name}": (
            "documents",
            lambda size, arguments=arguments: (
                b'{"choices":[{"index":0,"message":{"tool_calls":[{"index":0,'
                b'"id":"a","function":{"name":"f","arguments":%b}}]}}]}'
                % json.dumps(arguments(size).decode()).encode()
            ),
        )
        for name, arguments in _ARGUMENTS.items()
    },
    "Claude's events: normal": (
        "Claude's events",
        _clauded(lambda size: b'{"a":"%b"}' % (b"word " * (size // 5))),
    ),
    **{
        f"Claude's events: {name}": ("Claude's events", _clauded(arguments))
        for name, arguments in _ARGUMENTS.items()
    },
}
"""The wire of a shape, and what makes a reply of so many bytes."""


def _again(before: bytes, event: bytes, after: bytes) -> Callable[[int], bytes]:
    """Return a maker of an answer that repeats an event, with the number of it where `%d` is."""

    def make(size: int) -> bytes:
        count = size // len(event)
        return before + b"".join(event.replace(b"%d", b"%d" % at) for at in range(count)) + after

    return make


def _of_claude(*blocks: bytes) -> Callable[[int], bytes]:
    event = b"".join(
        b'data: {"type":"content_block_start","index":0,"content_block":%b}\n\n'
        b'data: {"type":"content_block_stop","index":0}\n\n' % block
        for block in blocks
    )
    return _again(b"", event, b'data: {"type":"message_stop"}\n\n')


def _of_gemini(candidate: bytes) -> Callable[[int], bytes]:
    end = b'data: {"candidates":[{"finishReason":"STOP"}]}\n\n'
    return _again(b"", b'data: {"candidates":[{%b}]}\n\n' % candidate, end)


_PARTS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "chat: text and reasoning in turn": (
        "chat",
        _again(b"", _CHUNK.replace(b'"content"', b'"reasoning":"a","content"'), _END),
    ),
    "chat: sources of their own": (
        "chat",
        _again(
            b"",
            _CHUNK.replace(
                b'"content"',
                b'"annotations":[{"url_citation":{"url":"http://a.example/%d","a":{}}}],"content"',
            ),
            _END,
        ),
    ),
    "chat: reasoning details of their own": (
        "chat",
        _again(
            b"",
            _CHUNK.replace(
                b'"content"', b'"reasoning_details":[{"type":"a","index":%d,"a":[[],[]]}],"content"'
            ),
            _END,
        ),
    ),
    "chat: fields of vendors": (
        "chat",
        _again(
            b"", _CHUNK.replace(b'"content"', b'"extra_content":{"a":{"b%d":[[]]}},"content"'), _END
        ),
    ),
    "anthropic: texts and thoughts in turn": (
        "anthropic",
        _of_claude(b'{"type":"text","text":"a"}', b'{"type":"thinking","thinking":"a"}'),
    ),
    "anthropic: results of searches": (
        "anthropic",
        _of_claude(b'{"type":"web_search_tool_result","content":[[],[],{},{}]}'),
    ),
    "google: code": (
        "google",
        _of_gemini(b'"content":{"parts":[{"executableCode":{"code":"a"}}]}'),
    ),
    "google: texts with signatures": (
        "google",
        _of_gemini(b'"content":{"parts":[{"text":"a","thoughtSignature":"b"}]}'),
    ),
    "google: sources of their own": (
        "google",
        _of_gemini(
            b'"content":{"parts":[{"text":"a"}]},'
            b'"citationMetadata":{"citations":[{"uri":"http://a.example/%d","a":{}}]}'
        ),
    ),
    "google: grounds of their own": (
        "google",
        _of_gemini(b'"content":{"parts":[{"text":"a"}]},"groundingMetadata":{"a%d":[[]]}'),
    ),
    "ollama: text and thinking in turn": (
        "ollama",
        _again(
            b"",
            b'{"message":{"content":"a","thinking":"b"},"done":false}\n',
            b'{"message":{"content":""},"done":true}\n',
        ),
    ),
}
"""Answers of very many parts, sources, or things to be sent back, each in a frame of its own."""

STREAMED: dict[str, tuple[str, Callable[[int], bytes]]] = {
    **{
        f"chat: {name} as arguments": ("chat", _in_pieces(arguments))
        for name, arguments in _ARGUMENTS.items()
    },
    "chat: texts on lines of their own": (
        "chat",
        _lines(b'{"a":[', b'"%b",' % (b"word " * 20), b'""]}'),
    ),
    "chat: long lines of one event": (
        "chat",
        _lines(b'{"a":[', b'"%b",' % (b"word " * 800), b'""]}'),
    ),
    **_PARTS,
    "chat: indented JSON": ("chat", _lines(b'{"a":[', b"        1,", b"1]}")),
}
"""The same of usual streams."""
