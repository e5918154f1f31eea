"""Recorded exchanges: the struct, and the files that hold it.

Files: a cassette (JSON, written by `Recorder`), a raw capture (`<case>.raw` holds the response
as it came, with its headers; an optional `<case>.req` the request), a folder of captures,
and an index of fixture bodies (a JSON list of records with `path`, `method`, `endpoint`,
`status`, `content_type` and `headers`).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from aiollm.testing.http1 import HEAD_END, LAST_CHUNK, HttpMessage, Parser, chunk_bytes, head_bytes

FORMAT = "aiollm cassette 1"

Ending: TypeAlias = Literal["keep", "close", "reset"]
"""The connection after the response: kept alive, closed by FIN, or reset by RST."""


class Exchange(msgspec.Struct, frozen=True):
    """A request and its response, byte for byte; `pieces` holds the response as it arrived.

    An empty `method` matches any method.
    """

    method: str
    path: str
    """The request target, including the query."""
    pieces: tuple[bytes, ...]
    end: Ending = "keep"
    headers: tuple[tuple[str, str], ...] = ()
    """Of the request."""
    body: bytes = b""
    """Of the request."""
    name: str = ""

    @property
    def response(self) -> bytes:
        """The complete response, including headers."""
        return b"".join(self.pieces)

    def parsed(self) -> HttpMessage:
        """Parse the response, even if it was cut short. Raises: ValueError."""
        response = self.response
        return parse_response(response, self.method) or _cut_short(response)


def parse_response(data: bytes, method: str, *, at_end: bool = True) -> HttpMessage | None:
    """Return the response, None until it is complete; `at_end` if no more bytes will come."""
    parser = Parser(reply_to=method or "POST")
    done = parser.feed(data)
    return done[0] if done else parser.close() if at_end else None


def _cut_short(data: bytes) -> HttpMessage:
    head, _, body = data.partition(HEAD_END)
    whole = Parser(reply_to="HEAD").feed(head + HEAD_END)
    if not whole:
        raise ValueError(f"not an HTTP response: {data[:80]!r}")
    return msgspec.structs.replace(whole[0], body=body)


def load_exchanges(path: str | Path, *names: str) -> tuple[Exchange, ...]:
    """Read the exchanges of a cassette, capture, folder or index; `names` selects some of them.

    Raises: OSError, ValueError for a file of another kind, a cut one, or an index that names a
    file outside its folder; LookupError for an unknown name.
    """
    found = tuple(_load(Path(path)))
    return pick(found, names) if names else found


def pick(exchanges: Iterable[Exchange], names: Iterable[str]) -> tuple[Exchange, ...]:
    """Return the exchanges with these names, in this order. Raises: LookupError."""
    by_name = {exchange.name: exchange for exchange in exchanges}
    if missing := [name for name in names if name not in by_name]:
        raise LookupError(f"there is no exchange named {', '.join(missing)}")
    return tuple(by_name[name] for name in names)


class _Base64(msgspec.Struct):
    base64: str


class _Asked(msgspec.Struct):
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: str | _Base64


class _Answered(msgspec.Struct):
    end: Ending
    pieces: tuple[str | _Base64, ...]


class _Item(msgspec.Struct):
    name: str
    request: _Asked
    response: _Answered


class _Cassette(msgspec.Struct):
    format: str
    exchanges: tuple[_Item, ...]


class _Record(msgspec.Struct):
    path: str
    endpoint: str
    method: str = "POST"
    status: int = 200
    content_type: str = ""
    headers: dict[str, str] = {}


class _Timing(msgspec.Struct):
    recv: tuple[tuple[Any, Annotated[int, msgspec.Meta(ge=0)]], ...] = ()


def _decoded(path: Path, kind: Any) -> Any:
    """Decode a file. Raises: OSError, ValueError."""
    data = path.read_bytes()
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        reason = f"{path} is neither a cassette nor an index of fixtures: {error}"
    raise ValueError(reason)


def _load(path: Path) -> Iterator[Exchange]:
    if path.is_dir():
        for raw in sorted(path.glob("*.raw")):
            yield _capture(raw)
    elif path.suffix == ".raw":
        yield _capture(path)
    else:
        read: _Cassette | list[_Record] = _decoded(path, _Cassette | list[_Record])
        match read:
            case _Cassette(format=kind) if kind != FORMAT:
                raise ValueError(f"{path} is not a cassette of format {FORMAT!r}: {kind!r:.80}")
            case _Cassette(exchanges=items):
                yield from (_from_json(path, item) for item in items)
            case records:
                yield from (_fixture(path, record) for record in records)


def _capture(path: Path) -> Exchange:
    response = path.read_bytes()
    asked = path.with_suffix(".req")
    request = None
    if asked.exists():
        try:
            (request, *_) = Parser().feed(asked.read_bytes())
        except (ValueError, IndexError):
            raise ValueError(f"{asked} does not hold a complete HTTP request") from None
    method, target = request.start.split()[:2] if request else ("", "")
    return Exchange(
        method=method,
        path=target,
        pieces=_cut(response, _sizes(path.with_suffix(".timing.json"))),
        end=ending_of(response, method),
        headers=request.headers if request else (),
        body=request.body if request else b"",
        name=path.stem,
    )


def _sizes(path: Path) -> Sequence[int]:
    """Return the sizes of the pieces in a capture's timing file, () without one."""
    if not path.exists():
        return ()
    return [size for _, size in _decoded(path, _Timing).recv]


def _cut(data: bytes, sizes: Iterable[int]) -> tuple[bytes, ...]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return tuple(piece for piece in (*pieces, data) if piece)


def ending_of(response: bytes, method: str) -> Literal["keep", "close"]:
    """Return what the connection does after a complete response; a cut one closes it."""
    whole = parse_response(response, method, at_end=False)
    closing = whole is None or whole.header("connection").lower() == "close"
    return "close" if closing else "keep"


def _fixture(index: Path, record: _Record) -> Exchange:
    return exchange(
        record.method,
        record.endpoint,
        _inside(index, record.path).read_bytes(),
        status=record.status,
        content_type=record.content_type,
        headers=record.headers.items(),
        name=record.path,
    )


def _inside(index: Path, name: str) -> Path:
    """Return the file that an index names. Raises: ValueError unless it is in the same folder.

    An index may come from a stranger, and what it names is served to whoever asks.
    """
    # Checked as a name of Windows, too: there, backslashes and drives lead elsewhere.
    parts = PureWindowsPath(name)
    if "\0" in name or parts.anchor or ".." in parts.parts or not parts.name:
        raise ValueError(f"{index} names {name!r:.200}, which is not a path within its folder")
    found = (index.parent / name).resolve()
    if not found.is_relative_to(index.parent.resolve()):
        raise ValueError(f"{index} names {name!r:.200}, a link that leads out of its folder")
    if found.exists() and not found.is_file():
        raise ValueError(f"{index} names {name!r:.200}, which is not a file")
    return found


def exchange(
    method: str,
    path: str,
    body: bytes,
    *,
    status: int = 200,
    content_type: str = "text/event-stream",
    headers: Iterable[tuple[str, str]] = (),
    name: str = "",
) -> Exchange:
    """Make an exchange from just a response body: JSON with its length, streams chunked."""
    lines = [("content-type", content_type), *headers]
    if content_type.partition(";")[0] == "application/json":
        head = head_bytes(status, [*lines, ("content-length", str(len(body)))])
        pieces = (head, body)
    else:
        head = head_bytes(status, [*lines, ("transfer-encoding", "chunked")])
        pieces = (head, chunk_bytes(body) + LAST_CHUNK)
    return Exchange(method, path, tuple(filter(None, pieces)), name=name)


def dump(exchanges: Iterable[Exchange]) -> bytes:
    """Encode a cassette: indented JSON, with text as text and other bytes as base64."""
    value = {"format": FORMAT, "exchanges": [_to_json(one) for one in exchanges]}
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def _to_json(one: Exchange) -> dict[str, Any]:
    return {
        "name": one.name,
        "request": {
            "method": one.method,
            "path": one.path,
            "headers": one.headers,
            "body": _text(one.body),
        },
        "response": {"end": one.end, "pieces": [_text(piece) for piece in one.pieces]},
    }


def _from_json(path: Path, item: _Item) -> Exchange:
    request, response = item.request, item.response
    try:
        pieces, body = tuple(map(_bytes, response.pieces)), _bytes(request.body)
    except ValueError as error:
        reason = f"{path} is damaged: exchange {item.name!r:.80}: {error}"
    else:
        return Exchange(
            request.method, request.path, pieces, response.end, request.headers, body, item.name
        )
    raise ValueError(reason)


def _text(data: bytes) -> str | dict[str, str]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _bytes(value: str | _Base64) -> bytes:
    return value.encode() if isinstance(value, str) else base64.b64decode(value.base64)
