"""The contract of codecs, adapters and transports, and the Provider row that joins them.

A codec is pure: it turns a canonical request into an `HttpRequest`, turns frames into chunks, and
does no IO. `_http.streaming.stream` is the adapter that runs any codec over HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

import msgspec
from msgspec.structs import astuple, force_setattr, replace

from aiollm._settings.fields import Kinds, check_fields
from aiollm._settings.hidden import NOT_PICKLED, HiddenValues
from aiollm._settings.places import PORTS, hostname, place_of, shown_url
from aiollm._wire.body import Body
from aiollm.capabilities import FAMILIES, ROWS, Capabilities, CapabilityRow, lookup
from aiollm.dsn import DIRECT, DsnOptions, Limits, Network, Secret
from aiollm.errors import ConfigError, LLMError
from aiollm.types import Item, Request, Target, Timeouts

if TYPE_CHECKING:
    from aiollm.images import ImageRequest, ImageResult, PartialImage

Frame_contra = TypeVar("Frame_contra", contravariant=True)
Frame = TypeVar("Frame")
Asked_contra = TypeVar("Asked_contra", contravariant=True)
Answer_co = TypeVar("Answer_co", covariant=True)

ALL_MODELS = "*"
"""The key of a provider's own limits in `Provider.limits`."""


class HttpRequest(msgspec.Struct, frozen=True, gc=False):
    """A request as it is sent, with warnings about what the codec had to leave out.

    It shows no value of a header, the key among them, and cannot be pickled: that raises TypeError.
    """

    url: str
    headers: dict[str, str]
    body: Body | None = None
    method: str = "POST"
    warnings: tuple[str, ...] = ()
    decoder: Callable[[], Decoder[Any]] | None = None
    """Makes the decoder, if decoding the reply depends on this request."""

    def __deepcopy__(self, _memo: object) -> HttpRequest:
        return replace(self, headers=HiddenValues(self.headers))

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(NOT_PICKLED)

    def __repr__(self) -> str:
        return f"HttpRequest({self.method} {shown_url(self.url)}, headers={sorted(self.headers)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown = ("url", shown_url(self.url)), ("headers", sorted(self.headers))
        return [("method", self.method), *shown]


class HttpResponse(msgspec.Struct, frozen=True):
    """A complete reply that is not a stream; header names are in lower case.

    What it says is not in its repr, because servers echo keys.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str = ""

    def __repr__(self) -> str:
        size = len(self.body)
        return f"HttpResponse({self.status}, {shown_url(self.url)!r}, {size} bytes)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("status", self.status), ("url", shown_url(self.url)), ("size", len(self.body))]


class Framer(Protocol[Frame]):
    """Bytes to frames; `SSE`, `NamedSSE` and `NDJSON` are framers."""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes. Raises: ProtocolError."""

    def close(self) -> list[Frame]:
        """Return the frames that only the end of the body completes."""


class Decoder(Protocol[Frame_contra]):
    """Frames to items, one instance per reply; `finished` is True after the terminal event.

    Items are appended to `out` rather than returned, so that an error in a later frame of the
    same read does not lose them.
    """

    finished: bool

    @property
    def ending(self) -> bool:
        """Whether a finish reason has come: `close` may end the answer, and more may follow."""

    def feed(self, frames: Sequence[Frame_contra], out: list[Item]) -> None:
        """Decode frames. Raises: LLMError for an error event, ProtocolError."""

    def whole(self, body: bytes, out: list[Item]) -> None:
        """Decode a reply that was not streamed. Raises: LLMError."""

    def close(self, out: list[Item]) -> None:
        """End the reply; append Finish unless `feed` did. Raises: StreamInterrupted."""


class Codec(Protocol):
    """The base of wire translators, which are pure and stateless.

    `family` names the capability rows that apply, the opaque state that it replays, and its scope
    in `Request.extra` (`wire:FAMILY`). `rows` are those of a new family; one that has rows in
    `aiollm.capabilities` keeps to them.
    """

    family: str
    rows: Sequence[CapabilityRow] = ROWS

    def framing(self) -> Framer[Any]:
        """Return a new framer for one reply."""

    def encode(self, provider: Provider, target: Target, request: Request) -> HttpRequest:
        """Translate a request, whose `extra` has just the fields for this target's body.

        Raises: UnsupportedError, ConfigError.
        """

    def decoder(self) -> Decoder[Any]:
        """Return a new decoder for one reply."""

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply."""

    def models(self, provider: Provider) -> HttpRequest:
        """Return the request that lists the provider's models."""

    def model_names(self, reply: HttpResponse) -> tuple[str, ...]:
        """Read the reply to `models`. Raises: ProtocolError."""

    def counters(self, provider: Provider) -> Sequence[TokenCodec]:  # noqa: ARG002
        """Return the codecs that count tokens; the next is tried where a route is not known."""
        return ()


class TokenCodec(Protocol):
    """Asks how many input tokens a request takes; pure and stateless."""

    def encode_count(
        self, provider: Provider, target: Target, request: Request
    ) -> HttpRequest | None:
        """Translate a request, None for one that it would miscount. Raises: UnsupportedError."""

    def decode_count(self, reply: HttpResponse) -> int | None:
        """Read a reply, None for one to another question. Raises: ProtocolError."""


class ImageDecoder(Protocol):
    """Bytes of a streamed reply to drafts; `finished` is True once the images are complete."""

    finished: bool

    def feed(self, data: bytes, out: list[PartialImage]) -> None:
        """Decode the bytes of one read, b"" at the end. Raises: LLMError for an error event."""

    def close(self) -> ImageResult:
        """Return the images. Raises: StreamInterrupted unless they are complete."""


class ImageCodec(Protocol):
    """A wire translator for making images, pure and stateless.

    The `extra` of a request has just the fields for its target. The codec never
    sees large files: each is replaced by a short placeholder with the same first bytes.
    """

    def encode_images(
        self, provider: Provider, target: Target, request: ImageRequest
    ) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError, ConfigError."""

    def decode_images(self, reply: HttpResponse) -> ImageResult:
        """Read a reply that was not streamed. Raises: LLMError."""

    def image_decoder(self) -> ImageDecoder | None:
        """Return a decoder for a text/event-stream reply, None if this wire never streams."""

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply."""


class UnaryCodec(Protocol[Asked_contra, Answer_co]):
    """A wire translator for work that has one reply, such as `embed`; pure and stateless.

    The `extra` of a request has just the fields for its target.
    """

    def encode(self, provider: Provider, target: Target, request: Asked_contra) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError, ConfigError."""

    def decode(self, reply: HttpResponse) -> Answer_co:
        """Read a reply. Raises: LLMError for an error in it, ProtocolError."""

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply."""

    def gives_way(self, reply: HttpResponse) -> bool:  # noqa: ARG002
        """Return whether an error reply is about this form: the operation's next codec is tried."""
        return False


class Reply(Protocol):
    """An HTTP answer whose body is read piece by piece; `close` is idempotent and immediate."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Header names in lower case."""

    @property
    def content_type(self) -> str:
        """The media type in lower case, "" when the server sent none."""

    @property
    def has_body(self) -> bool:
        """Whether any of the body has arrived."""

    async def read(self) -> bytes:
        """Wait for bytes and return them, b"" at the end of the body. Raises: TransportError."""

    async def read_whole(self, limit: int, seconds: float | None) -> bytes:
        """Return the rest of the body, cut at `limit` bytes or after `seconds`."""

    async def drain(self) -> None:
        """Briefly try to read the body to its end, so that the connection can be reused."""

    def close(self) -> None:
        """Release the connection, closing it unless the body was read to its end."""


class Transport(Protocol):
    """Sends requests; owns the connections."""

    async def send(self, request: HttpRequest, connect: float | None) -> Reply:
        """Send and return once the headers are in. Raises: TransportError, DeadlineError."""


class Transports(Protocol):
    """Has a transport for each provider."""

    def transport_of(self, provider: Provider) -> Transport:
        """Return the transport for the requests of a provider."""


Asked = TypeVar("Asked")

Adapter: TypeAlias = Callable[
    ["Provider", Transport, Target, Asked, Timeouts], AsyncGenerator[Sequence[Any], None]
]
"""Does one kind of work at one target, as a stream of batches that ends with a `Finish`.

Each batch holds the items of one read; an empty batch shows that the server is alive. A chat
yields the chunks of `aiollm.types`. Image generation yields a `PartialImage` for each draft, then
the `ImageResult`. Counting yields a `TokenCount`, or nothing where it cannot count. Embedding
yields `Embeddings`, reranking a `Ranking`.
"""


class Operation(msgspec.Struct, frozen=True):
    """One kind of work that a provider does; its key in `Provider.operations` names it.

    `codecs` returns the codecs for it, the preferred one first; the next is tried when a server
    does not know the route. An `adapter`, if given, does the work instead.
    """

    codecs: Callable[[], tuple[Any, ...]] = tuple
    adapter: Adapter[Any] | None = None


class Provider(msgspec.Struct, frozen=True):
    """A row that describes a service: its wire, address, key and limits.

    `codec` is its wire for chat, the list of models and errors. `operations` holds what else it
    does (`images`, `embed`, `rerank`), and may hold an adapter for `chat` that replaces streaming
    through `codec`, and one for `count` or other codecs that replace its `counters`.
    Raises: ConfigError.
    """

    name: str
    scheme: str
    base_url: str
    codec: Codec
    token: Secret | None = None
    headers: dict[str, str] = {}
    """Headers of every request; they replace those of the codec, its key included."""
    options: DsnOptions = DsnOptions()
    operations: dict[str, Operation] = {}
    facts: dict[str, Any] = {}
    """Capabilities that override the rows for all models of this provider."""
    learned: dict[str, dict[str, Any]] = {}
    """Capabilities by model, as reported by the server; they override only the rows."""
    limits: dict[str, Limits] = {}
    """Limits by model, `*` for all models together; they override the options."""
    capability_family: str = ""
    """The family whose capability rows apply, if it is not the codec's."""
    query: dict[str, str] = {}
    """Parameters that are added to the URL of every request."""
    network: Network = DIRECT
    """Its proxy or socket, and whom its TLS trusts."""
    host: str = ""
    """The `host[:port]` of the base URL, in lower case, without a usual port; set automatically."""
    origin: str = ""
    """The scheme, host and port of the base URL, and the way there; set automatically."""
    is_ordinary: bool = True
    """Whether its requests go out as the codec makes them; set automatically."""

    def __post_init__(self) -> None:
        _check(self)
        force_setattr(self, "headers", HiddenValues(self.headers))
        force_setattr(self, "query", HiddenValues(self.query))
        if self.headers:
            from aiollm._settings.network import check_headers  # most providers add none

            check_headers(self.headers)
        changes = self.token is not None and self.token.changes
        is_special = changes or bool(self.query) or self.network != DIRECT
        force_setattr(self, "is_ordinary", not is_special)
        scheme, _, rest = self.base_url.partition("://")
        if not self.is_ordinary:
            from aiollm._settings.network import check_scheme  # as above

            network = self.network
            sets_tls, has_socket = network.tls != DIRECT.tls, bool(network.socket)
            check_scheme(scheme.lower(), network.proxy, sets_tls=sets_tls, has_socket=has_socket)
        host, port = place_of(scheme.lower(), rest.partition("/")[0])
        force_setattr(self, "host", host if port == PORTS.get(scheme.lower()) else host + port)
        # What goes wrong on one way to a server says nothing about another.
        label = self.network.label
        if self.network.socket:
            force_setattr(self, "host", f"unix:{self.network.socket}")
        way = f" {label}" if label else ""
        force_setattr(self, "origin", f"{scheme.lower()}://{host}{port}{way}")

    def __repr__(self) -> str:
        token, url = None if self.token is None else "***", shown_url(self.base_url)
        shown = f"{self.name!r}, {self.scheme!r}, {url!r}, token={token}"
        return f"Provider({shown}, headers={sorted(self.headers)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        url = shown_url(self.base_url)
        return [("name", self.name), ("scheme", self.scheme), ("base_url", url)]

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Its credentials, wherever they are: what its errors must not show."""
        own = () if self.token is None else (self.token,)
        has_more = self.headers or self.query or self.network.proxy
        if not has_more and "@" not in self.base_url and "?" not in self.base_url:
            return own
        from aiollm._settings.redactor import is_secret, secrets_of_url  # for failures alone

        pairs = (*self.headers.items(), *self.query.items())
        added = [value for name, value in pairs if is_secret(name, value)]
        added += secrets_of_url(self.base_url)
        if login := self.network.proxy_login:
            added.append(login[1])
        return (*own, *(Secret(each) for each in added if each.isascii() and each.isprintable()))

    @property
    def max_concurrency(self) -> int | Literal["auto", "off"] | None:
        """How many streams may run at once, as in `Limits`."""
        own = self.limits.get(ALL_MODELS)
        if own is None or own.max_concurrency is None:
            return self.options.max_concurrency
        return own.max_concurrency

    def limits_of(self, model: str) -> tuple[Limits, Limits]:
        """Return the declared limits of the provider as a whole, and those of `model`."""
        own = astuple(self.limits.get(ALL_MODELS, Limits()))
        others = astuple(self.options.limits)
        each = (other if mine is None else mine for mine, other in zip(own, others, strict=True))
        return Limits(*each), self.limits.get(model, Limits())

    def capabilities(self, model: str) -> Capabilities:
        """Return what `model` accepts: the rows, overridden by `learned`, `facts` and options."""
        options = self.options
        facts = self.learned.get(model, {}) | self.facts
        if options != _NO_OPTIONS:
            given = ((name, getattr(options, option)) for name, option in _OPTIONS.items())
            facts |= {name: value for name, value in given if value is not None}
        family = self.capability_family or self.codec.family
        rows = ROWS if family in FAMILIES else self.codec.rows
        return lookup(family, hostname(self.host), model, rows, **facts)


_KINDS: Kinds = {
    "name": str,
    "scheme": str,
    "base_url": str,
    "token": (Secret, type(None)),
    "headers": dict,
    "options": DsnOptions,
    "operations": dict,
    "facts": dict,
    "learned": dict,
    "limits": dict,
    "capability_family": str,
    "query": dict,
    "network": Network,
}
_VALUES: Kinds = {
    "headers": str,
    "query": str,
    "operations": Operation,
    "facts": object,
    "learned": dict,
    "limits": Limits,
}
"""What these dictionaries map strings to."""


def _check(provider: Provider) -> None:
    check_fields(provider, _KINDS, _VALUES)
    texts = (provider.base_url, *provider.headers, *provider.headers.values())
    if not "".join(texts).isprintable():
        del texts
        raise ConfigError("the base URL and headers of a Provider must be printable text")
    if not hasattr(provider.codec, "family"):
        raise ConfigError(f"Provider.codec is a {type(provider.codec).__name__}, not a Codec")


_OPTIONS = {
    "max_images_per_request": "max_images",
    "max_image_bytes": "max_image_bytes",
    "max_image_dimension": "max_image_dimension",
    "min_image_dimension": "min_image_dimension",
    "max_pixels": "max_pixels",
}
"""The options of a DSN that set a capability."""
_NO_OPTIONS = DsnOptions()
