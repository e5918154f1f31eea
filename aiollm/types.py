"""The canonical types: requests, the chunks that a stream yields, and the final response."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypeVar, get_args

import msgspec
from msgspec.structs import force_setattr

from aiollm.hosted import CodeExecution, FileSearch, Hosted, HostedTool, ToolBase, WebSearch

if TYPE_CHECKING:
    from array import array
    from pathlib import Path

T = TypeVar("T")

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
"""Who speaks in a message."""
Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How much the model thinks before it answers."""
PromptCache: TypeAlias = Literal["off", "auto", "5m", "30m", "1h", "12h"]
"""Whether a provider keeps the prompt for the next request, and for how long."""
ResponseCacheUse: TypeAlias = Literal["use", "refresh"]
"""Whether a call takes an answer from the response cache, or asks again; both keep what comes."""
FinishReason: TypeAlias = Literal[
    "stop", "length", "tool_calls", "content_filter", "error", "other"
]
"""Why an answer ended, in the same words for every provider."""
Certainty: TypeAlias = Literal["exact", "partial", "missing"]
"""How far token counts can be trusted."""
CostSource: TypeAlias = Literal["billed", "listed", "unknown"]
"""Where a cost comes from: the provider's own figure, a price list, or nowhere."""
Harm: TypeAlias = Literal["no", "target", "long"]
"""What an error does to its target's health: nothing, a cooldown, or a long cooldown."""
Outcome: TypeAlias = Literal["running", "success", "failed", "abandoned"]
"""How an attempt, a call, a tool or a run ended; abandoned is neither success nor failure."""


MAX_NAME = 1000
"""Characters of a model's name; some go into URLs, whose lines many servers end at 4 KiB."""

_MOST = 800
"""Characters of a ConfigError's message, which quotes what the caller wrote."""
_LAST = 300
"""How many of them are the last ones: hints and carets come at the end."""


class Target(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """A provider's name and one of its models; prints as `provider/model`.

    Raises: ConfigError unless both are names, of at most `MAX_NAME` characters.
    """

    provider: str
    model: str

    def __post_init__(self) -> None:
        for name in (self.provider, self.model):
            _check_name(name)
        if "://" in self.provider:
            raise ConfigError(
                "this is an address, not a name, and it is not shown because it may hold a key"
            )

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise ConfigError(f"a name in a target {_not(name, 'a str')}")
    if len(name) > MAX_NAME:
        raise ConfigError(f"a name in a target has {len(name)} characters: at most {MAX_NAME}")


class LLMError(Exception):
    """Root of every error that aiollm raises; `aiollm.errors` holds the tree.

    It is defined here rather than there because `Response.parse` raises a subclass.
    """

    moves_on: bool = False
    """Whether a chain tries its next target after this error."""
    harms: Harm = "no"
    """What it does to the target's health: nothing, a cooldown, or a long one (misconfigured)."""
    vectors: tuple[array[float] | None, ...] = ()
    """For `embed`, what had arrived: a vector for each input, None where there is none."""

    def __init__(self, message: str, *, target: Target | None = None) -> None:
        super().__init__(_printable(str(message)))
        self.target = target

    @property
    def message(self) -> str:
        """What happened, without the target."""
        return str(self.args[0])

    def __str__(self) -> str:
        return f"{self.target}: {self.message}" if self.target is not None else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with `args` alone, but subclasses have required keywords.
        return (_remake, (type(self), self.args), self.__dict__)


def _printable(text: str) -> str:
    """Return a text without what could control the terminal that a traceback is printed on.

    Servers write parts of messages. What does not show is taken out rather than replaced, because
    it may stand within a key, which is looked for later.
    """
    if text.isprintable():
        return text
    text = text.encode("utf-8", "replace").decode()  # half surrogates do not show either
    return "".join(
        char if char.isprintable() or char in "\n\t" else " " if char in _BLANKS else ""
        for char in text
    )


_BLANKS = "\u00a0\u1680\u2007\u202f\u205f\u3000"


def _remake(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    return error


class ConfigError(LLMError, ValueError):
    """Something the caller set is wrong; nothing was sent."""

    def __init__(self, message: str, *, target: Target | None = None) -> None:
        if len(message) > _MOST:
            message = f"{message[: _MOST - _LAST]} ... {message[-_LAST:]}"
        super().__init__(message, target=target)


def _shown(value: object) -> str:
    """Return the beginning of a wrong value; some cannot be shown, as integers of 4,301 digits."""
    try:
        return f"{value!r:.80}"
    except Exception:  # noqa: BLE001 - a repr may raise anything
        return f"a value of type {type(value).__name__}"


def _not(value: object, wanted: str) -> str:
    return f"is of type {type(value).__name__}, not {wanted}"


class OutputError(LLMError):
    """A reply does not fit the requested type; `.response` is the complete reply."""

    def __init__(
        self, message: str, *, response: Response | None = None, target: Target | None = None
    ) -> None:
        super().__init__(message, target=target)
        self.response = response


class ProviderData(msgspec.Struct, frozen=True, gc=False):
    """Opaque state of one provider family (signatures, encrypted reasoning, item ids).

    It is replayed unchanged to the same family and dropped, with a warning, for another.
    """

    family: str
    data: dict[str, Any]


class Citation(msgspec.Struct, frozen=True, gc=False):
    """A source that the model named for the text before it.

    `provider_data` has what else the provider says of it, such as the id of a file.
    """

    url: str = ""
    title: str = ""
    text: str = ""
    provider_data: ProviderData | None = None


class TextPart(msgspec.Struct, frozen=True, gc=False, tag="text"):
    """Plain text."""

    text: str
    citations: tuple[Citation, ...] = ()
    provider_data: ProviderData | None = None


_LONGEST_MIME = 255
"""RFC 4288 allows 127 characters for each of the two names."""


class _FilePart(msgspec.Struct, frozen=True):
    data: bytes = b""
    url: str = ""
    mime: str = ""

    def __post_init__(self) -> None:
        owner = type(self).__name__
        if type(self.data) is not bytes:
            force_setattr(self, "data", _bytes(self.data, owner))
        for name in ("url", "mime"):
            value = getattr(self, name)
            if type(value) is not str:
                raise ConfigError(f"{owner}.{name} {_not(value, 'a str')}")
        if len(self.mime) > _LONGEST_MIME:
            raise ConfigError(f"{owner}.mime is {_shown(self.mime)}: expected a MIME type")
        if self.data and self.url:
            raise ConfigError(f"{owner} takes either data (bytes) or url, not both")
        if not self.data and not self.url:
            raise ConfigError(f"{owner} is empty: it takes either data (bytes) or url")

    def __repr__(self) -> str:
        source = f"{len(self.data)} bytes" if self.data else f"url={self.url!r:.200}"
        return f"{type(self).__name__}({source}, mime={self.mime!r})"

    def save(self, path: str | PathLike[str]) -> None:
        """Write the bytes to `path`. Raises: ConfigError when the part is a URL."""
        if not self.data:
            raise ConfigError(f"this {type(self).__name__} is a URL: {self.url:.200}")
        _path(path).write_bytes(self.data)


def _path(path: str | PathLike[str]) -> Path:
    from pathlib import Path  # takes 1 ms, and only code that reads or writes files needs it

    return Path(path)


def _bytes(data: object, owner: str) -> bytes:
    match data:
        case bytes() | bytearray() | memoryview():
            return bytes(data)
        case _:
            raise ConfigError(
                f"{owner}: data must be bytes, not {type(data).__name__}; for a file use "
                f"{owner}.from_path(), for an address url="
            )


_DETAILS = ("auto", "low", "high", "original")


class ImagePart(_FilePart, frozen=True, tag="image", weakref=True):
    """An image as bytes or URL; an empty `mime` is detected from the bytes."""

    detail: Literal["auto", "low", "high", "original"] | None = None
    provider_data: ProviderData | None = None

    def __post_init__(self) -> None:
        _FilePart.__post_init__(self)
        if self.detail is not None and self.detail not in _DETAILS:
            words = ", ".join(_DETAILS)
            raise ConfigError(f"ImagePart.detail is {_shown(self.detail)}: expected one of {words}")

    @classmethod
    def from_path(cls, path: str | PathLike[str]) -> ImagePart:
        """Read a file. Raises: OSError, ConfigError for an empty file."""
        return cls(_path(path).read_bytes())


class DocumentPart(_FilePart, frozen=True, gc=False, tag="document"):
    """A document as bytes or URL, a PDF unless `mime` says otherwise."""

    mime: str = "application/pdf"
    name: str = "document.pdf"
    provider_data: ProviderData | None = None

    @classmethod
    def from_path(cls, path: str | PathLike[str], mime: str = "application/pdf") -> DocumentPart:
        """Read a file. Raises: OSError, ConfigError for an empty file."""
        file = _path(path)
        return cls(file.read_bytes(), mime=mime, name=file.name)


_SOUNDS = {
    ".aac": "audio/aac",
    ".aif": "audio/aiff",
    ".aiff": "audio/aiff",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".mp3": "audio/mpeg",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
}


class AudioPart(_FilePart, frozen=True, gc=False, tag="audio"):
    """Audio as bytes or URL, WAV unless `mime` says otherwise."""

    mime: str = "audio/wav"
    provider_data: ProviderData | None = None

    @classmethod
    def from_path(cls, path: str | PathLike[str], mime: str = "") -> AudioPart:
        """Read a file; without `mime`, its name says what it is, and WAV is the default.

        Raises: OSError, ConfigError for an empty file.
        """
        file = _path(path)
        return cls(file.read_bytes(), mime=mime or _SOUNDS.get(file.suffix.lower(), "audio/wav"))


class ReasoningPart(msgspec.Struct, frozen=True, gc=False, tag="reasoning"):
    """The model's reasoning; the text is empty where the provider hides it."""

    text: str = ""
    provider_data: ProviderData | None = None


class RefusalPart(msgspec.Struct, frozen=True, gc=False, tag="refusal"):
    """The model's refusal, in its own words."""

    text: str


class OpaquePart(msgspec.Struct, frozen=True, gc=False, tag="opaque"):
    """A provider's part that has no canonical form, kept for replay to the same family."""

    provider_data: ProviderData


class ToolCallPart(msgspec.Struct, frozen=True, gc=False, tag="tool_call"):
    """A tool call that the model requests; `arguments` is its raw JSON text.

    `valid` is False when the arguments are not a complete JSON object, for example because they
    were lost or cut at the output limit. Such a call must not be run. `custom`: the call of a
    custom tool, whose `arguments` are free text; `valid` then says whether they are complete.
    """

    id: str
    name: str
    arguments: str = "{}"
    valid: bool = True
    provider_data: ProviderData | None = None
    custom: bool = False

    def parsed(self) -> dict[str, Any]:
        """Decode the arguments. Raises: OutputError when they are not a JSON object."""
        try:
            value = msgspec.json.decode(self.arguments or "{}")
        except (ValueError, RecursionError):
            value = None
        if not self.valid or self.custom or not isinstance(value, dict):
            raise OutputError(f"the arguments of tool call {self.name!r} are not a JSON object")
        return value


class CachePoint(msgspec.Struct, frozen=True, gc=False, tag="cache_point"):
    """A mark in the prompt: the provider is to keep everything before it in its prompt cache.

    It may be in system and user messages, and in a tool's result, which it marks as a whole. The
    model does not see it, and a target that has no such marks is sent the prompt without it. One
    that takes fewer marks gets the last ones, with a warning.

        Request([system(rules, CachePoint()), user("What is new?")])
    """


class ToolResultPart(msgspec.Struct, frozen=True, gc=False, tag="tool_result"):
    """The result of a tool call: text (a plain string will do), images and documents.

    An `OpaquePart` is a piece in a provider's own form, such as a file's id or a search result.
    Where a target's results hold only text, the rest follows in a user message.
    """

    id: str
    content: tuple[TextPart | ImagePart | DocumentPart | OpaquePart | CachePoint, ...]
    name: str = ""
    is_error: bool = False

    if TYPE_CHECKING:  # what may be passed is wider than what is kept

        def __init__(
            self,
            id: str,  # noqa: A002
            content: str
            | TextPart
            | ImagePart
            | DocumentPart
            | OpaquePart
            | CachePoint
            | Sequence[str | TextPart | ImagePart | DocumentPart | OpaquePart | CachePoint],
            name: str = ...,
            is_error: bool = ...,  # noqa: FBT001
        ) -> None: ...

    def __post_init__(self) -> None:
        force_setattr(self, "content", _parts(self.content))

    @property
    def text(self) -> str:
        """The text of the result, without its images and documents."""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))


Part: TypeAlias = (
    TextPart
    | ImagePart
    | DocumentPart
    | AudioPart
    | ToolCallPart
    | ToolResultPart
    | ReasoningPart
    | RefusalPart
    | OpaquePart
    | CachePoint
)


_PARTS = frozenset(get_args(Part))


def _parts(content: object) -> tuple[Any, ...]:
    items = content if isinstance(content, list | tuple) else (content,)
    for index, item in enumerate(items):
        if not isinstance(item, (str, *_PARTS)):
            wanted = "a str or a part such as ImagePart.from_path(...)"
            raise ConfigError(f"part {index} {_not(item, wanted)}")
    return tuple(TextPart(item) if isinstance(item, str) else item for item in items)


class Message(msgspec.Struct, frozen=True, weakref=True):
    """One turn of a conversation; strings among the parts become text parts."""

    role: Role
    parts: tuple[Part, ...]

    if TYPE_CHECKING:

        def __init__(self, role: Role, parts: str | Part | Sequence[str | Part]) -> None: ...

    def __post_init__(self) -> None:
        if type(self.parts) is not tuple or not _PARTS.issuperset(map(type, self.parts)):
            force_setattr(self, "parts", _parts(self.parts))

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


def user(*parts: str | Part) -> Message:
    """Return a user message of these parts."""
    return Message("user", _parts(parts))


def assistant(*parts: str | Part) -> Message:
    """Return an assistant message of these parts."""
    return Message("assistant", _parts(parts))


def system(*parts: str | Part) -> Message:
    """Return a system message of these parts."""
    return Message("system", _parts(parts))


def tool_results(*parts: ToolResultPart) -> Message:
    """Return the message that answers the tool calls of one assistant turn."""
    return Message("tool", parts)


class Tool(ToolBase, frozen=True, tag="function"):
    """A function the model may call; `parameters` is the JSON schema of its arguments.

    `function` is what the agent loop runs; a plain request does not need it. `cache_point`: a
    `CachePoint` follows it. `approve`: True, its calls run only once somebody has approved them;
    False, they always run; None, they are asked about where a run has an `approve` hook.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(
        default_factory=lambda: {"type": "object", "properties": {}}
    )
    strict: bool = False
    function: Callable[..., Any] | None = None
    cache_point: bool = False
    approve: bool | None = None


AnyTool: TypeAlias = Tool | Hosted
"""A function of one's own, or a tool that the provider runs itself."""


class Request(msgspec.Struct, frozen=True):
    """A canonical request; a plain string as `messages` becomes one user message.

    `tools`: functions, and what the provider runs itself, such as `WebSearch()`. `tool_choice`:
    `auto`, `none`, `required`, a tool's name, or several names, one of which must be called; with
    `"auto"` as the first of them, only the others may be called. `output`: a type or a JSON
    schema that the reply must fit. `reasoning`: an effort word, or a budget in tokens (0 = off).
    `extra`: fields for the wire body that the others do not cover, by scope, which says who
    gets them: `"*"` (every target), `"wire:openai"` (a wire), `"box"` (a provider),
    `"box/qwen3:8b"` (a target). A more exact scope replaces fields of the same name; objects are
    then merged into those of the body.
    `prompt_cache`: `auto` asks the provider to keep the prompt, a time such as `1h` to keep it
    for about that long, `off` not to keep it; None leaves it to the provider's default and to each
    `CachePoint`. `cache_key`: requests with the same key go to the same cache, where a provider
    takes such keys; by default it is made from the call's `session`.

        Request("Name three rivers.", max_output_tokens=100, extra={"box": {"top_k": 20}})
    """

    messages: tuple[Message, ...]
    system: str = ""
    tools: tuple[AnyTool, ...] = ()
    tool_choice: str | tuple[str, ...] | None = None
    parallel_tool_calls: bool | None = None
    output: Any = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    reasoning: Effort | int | None = None
    extra: Mapping[str, Any] = {}
    prompt_cache: PromptCache | None = None
    cache_key: str = ""

    if TYPE_CHECKING:

        def __init__(  # noqa: PLR0913, PLR0917 - the fields
            self,
            messages: str | Message | Sequence[Message],
            system: str = ...,
            tools: ToolBase | Sequence[ToolBase] = ...,
            tool_choice: str | Sequence[str] | None = ...,
            parallel_tool_calls: bool | None = ...,  # noqa: FBT001
            output: Any = ...,
            max_output_tokens: int | None = ...,
            temperature: float | None = ...,
            top_p: float | None = ...,
            stop: str | Sequence[str] = ...,
            seed: int | None = ...,
            reasoning: Effort | int | None = ...,
            extra: Mapping[str, Mapping[str, Any]] = ...,
            prompt_cache: PromptCache | None = ...,
            cache_key: str = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        if type(self.messages) is not tuple:
            force_setattr(self, "messages", _messages(self.messages))
        if type(self.tools) is not tuple:
            force_setattr(self, "tools", _tools(self.tools))
        if type(self.stop) is not tuple:
            force_setattr(self, "stop", _several(self.stop, str, "stop"))


def _messages(value: object) -> tuple[Message, ...]:
    return (user(value),) if isinstance(value, str) else _several(value, Message, "messages")


def _tools(value: object) -> tuple[AnyTool, ...]:
    match value:
        case WebSearch() | CodeExecution() | FileSearch() | HostedTool():
            return (value,)
        case _:
            return _several(value, Tool, "tools")


def _several(value: object, kind: type[T], name: str) -> tuple[T, ...]:
    """Return a sequence as a tuple, and a single value as a tuple of one."""
    match value:
        case kind():
            return (value,)
        case Sequence() if not isinstance(value, str | bytes):
            return tuple(value)
        case _:
            raise ConfigError(
                f"{name} must be a {kind.__name__} or a sequence of them, not "
                f"{type(value).__name__}"
            )


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts; tokens read from or written to a cache are part of input, reasoning of output.

    `certainty` is `exact` after a proper end, `partial` when the stream was cut and only early
    figures arrived, and `missing` when the provider sent none. Of the tokens written to a cache,
    `cache_write_1h_tokens` are kept for an hour or longer. Tokens of images and audio are part of
    input or output. `web_search_requests` are the searches that the provider counted. `tier` is the
    provider's word for how it served the request, such as `flex`, and `billed_usd` what it says the
    answer costs, None where it does not say.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    certainty: Certainty = "missing"
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    input_image_tokens: int = 0
    input_audio_tokens: int = 0
    output_image_tokens: int = 0
    tier: str = ""
    billed_usd: float | None = None
    web_search_requests: int = 0


class Cost(msgspec.Struct, frozen=True, gc=False):
    """What a call cost, in US dollars; what is not known is None, never 0.

    `usd` is for the answer: `billed`, as the provider says, or `listed`, its tokens times a price.
    `lost` is for attempts whose answers were not used: races lost, answers cut, retries. It is an
    estimate, from what had been counted when they ended; a server that goes on after its
    connection was closed may bill more. `source` is about `usd` alone.
    """

    usd: float | None = None
    source: CostSource = "unknown"
    lost: float | None = 0.0

    @property
    def total(self) -> float | None:
        """The answer and what was lost together, None unless both are known."""
        return None if self.usd is None or self.lost is None else self.usd + self.lost

    def __add__(self, other: Cost) -> Cost:
        """Return the costs of two calls together; their source is the less certain one."""
        usd = None if self.usd is None or other.usd is None else self.usd + other.usd
        lost = None if self.lost is None or other.lost is None else self.lost + other.lost
        return Cost(usd, max(self.source, other.source), lost)  # in the order of the alphabet


class TokenCount(msgspec.Struct, frozen=True):
    """How many input tokens a request takes at `target`.

    `certainty` is `exact` where the service itself counted, and `estimated` where it cannot.
    """

    tokens: int
    certainty: Literal["exact", "estimated"]
    target: Target


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer."""

    commits: ClassVar[bool] = True
    text: str
    provider_data: ProviderData | None = None


class NonTextChunk(msgspec.Struct, frozen=True):
    """A chunk that adds no text to the answer."""

    text: ClassVar[str] = ""
    commits: ClassVar[bool] = False
    """Whether it is output: after output a stream keeps its target, and failures are raised."""


class ReasoningDelta(NonTextChunk, frozen=True, gc=False):
    """A piece of the model's reasoning; `provider_data` completes the latest reasoning part."""

    commits: ClassVar[bool] = True
    reasoning: str
    provider_data: ProviderData | None = None


class RefusalDelta(NonTextChunk, frozen=True, gc=False):
    """A piece of the model's refusal."""

    commits: ClassVar[bool] = True
    refusal: str


class ToolCallDelta(NonTextChunk, frozen=True, gc=False):
    """A piece of tool call number `index`; `id` and `name` come with the first piece.

    `arguments` is a fragment of JSON text, or of free text where `custom` is set. A few servers
    send the name in several pieces, too: join them.
    """

    commits: ClassVar[bool] = True
    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""
    provider_data: ProviderData | None = None
    custom: bool = False


class ImageChunk(NonTextChunk, frozen=True):
    """A complete image."""

    commits: ClassVar[bool] = True
    image: ImagePart


class CitationChunk(NonTextChunk, frozen=True):
    """A source for the text before it."""

    citation: Citation


class PartChunk(NonTextChunk, frozen=True):
    """A part that arrives complete rather than in pieces, such as redacted reasoning.

    `replaces` is the index of the tool call that it replaces, because the server has run that call
    itself, and nobody else may.
    """

    commits: ClassVar[bool] = True
    part: Part
    replaces: int | None = None


class Status(NonTextChunk, frozen=True):
    """The server's report on its own progress, such as loading a model; not output."""

    message: str


class Restart(NonTextChunk, frozen=True):
    """Discard all chunks before this one: `target` answers from the start."""

    target: Target
    reason: str


class Finish(NonTextChunk, frozen=True):
    """The end of the answer; `raw_reason` is the provider's own word."""

    commits: ClassVar[bool] = True
    reason: FinishReason
    raw_reason: str = ""
    usage: Usage = Usage()


class UsageUpdate(NonTextChunk, frozen=True):
    """Counts so far, which replace earlier ones; kept in case the stream is cut, never yielded."""

    usage: Usage


class Notice(NonTextChunk, frozen=True):
    """A warning for `response.warnings`; never yielded as a chunk."""

    message: str
    image_elided: bool = False


class AnnouncedLimits(NonTextChunk, frozen=True):
    """The limits that an answer's headers state; it comes first and is never yielded as a chunk."""

    quotas: tuple[Any, ...]


Chunk: TypeAlias = (
    TextDelta
    | ReasoningDelta
    | RefusalDelta
    | ToolCallDelta
    | ImageChunk
    | CitationChunk
    | PartChunk
    | Status
    | Restart
    | Finish
)
"""What iterating a stream yields."""
Item: TypeAlias = Chunk | UsageUpdate | Notice | AnnouncedLimits
"""What an adapter yields: chunks, and items that are never yielded to a caller."""


class Attempt(msgspec.Struct):
    """One try at one target; times are seconds since the stream began.

    `queued` is how many seconds the call waited in line before it. `preferred`: the cache of the
    target was warm for the call's session. `usd` is what it cost, in dollars: an estimate where it
    was cut or lost, None while it runs and where it is not known. `cached`: its answer came from
    the response cache, and the target was not asked.
    """

    target: Target
    started: float
    outcome: Outcome = "running"
    error: Exception | None = None
    first_output: float | None = None
    ended: float | None = None
    queued: float = 0.0
    preferred: bool = False
    usd: float | None = None
    cached: bool = False


class Timings(msgspec.Struct, frozen=True, gc=False):
    """Seconds from the stream's start to its first output (None without one) and to its end."""

    first_output: float | None = None
    total: float = 0.0


class Response(msgspec.Struct, frozen=True):
    """The complete or partial answer of a stream; `finish_reason` is None while it is partial.

    The `cost` of a partial answer is that of the tokens counted so far. The `usage` of an answer
    from the response cache is what it took when it was made; its cost is 0.
    """

    message: Message
    finish_reason: FinishReason | None = None
    raw_finish_reason: str = ""
    usage: Usage = Usage()
    target: Target | None = None
    attempts: tuple[Attempt, ...] = ()
    warnings: tuple[str, ...] = ()
    timings: Timings = Timings()
    cost: Cost = Cost()

    @property
    def cached(self) -> bool:
        """Whether the answer came from the response cache, so that nobody was asked."""
        return any(attempt.cached for attempt in self.attempts)

    @property
    def text(self) -> str:
        """The answer's text."""
        return self.message.text

    @property
    def reasoning(self) -> str:
        """The reasoning's text."""
        return "".join(part.text for part in self._of(ReasoningPart))

    @property
    def refusal(self) -> str:
        """The model's refusal, "" when it did not refuse."""
        return "".join(part.text for part in self._of(RefusalPart))

    @property
    def tool_calls(self) -> tuple[ToolCallPart, ...]:
        """The tool calls that the model requests, in order."""
        return tuple(self._of(ToolCallPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images in the answer, in order."""
        return tuple(self._of(ImagePart))

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The sources the model named, in order."""
        return tuple(source for part in self._of(TextPart) for source in part.citations)

    def parse(self, output: type[T]) -> T:
        """Read the text as JSON of type `output`, as `generate` does. Raises: OutputError."""
        from aiollm._user_types.answers import itself, read  # only typed answers need it
        from aiollm._user_types.hooks import known

        try:
            value: T = read(self.text, [(known(output), itself)], self.finish_reason)
        except (ValueError, TypeError, RecursionError) as error:
            reason = f"the reply does not fit {getattr(output, '__name__', output)}: {error}"
        else:
            return value
        raise OutputError(reason, response=self, target=self.target)

    def _of(self, kind: type[T]) -> Iterator[T]:
        return (part for part in self.message.parts if isinstance(part, kind))


class Timeouts(msgspec.Struct, frozen=True, gc=False):
    """Deadlines in seconds; None means no limit.

    `connect`: until connected, including the wait for a pool slot. `first_output`: until the
    first text, reasoning, tool call or image. `idle`: without a byte. `stall`: without output.
    `total`: the entire call, across all its targets.
    Raises: ConfigError unless each is None or a finite number above 0.
    """

    connect: float | None = 5.0
    first_output: float | None = 60.0
    idle: float | None = 60.0
    stall: float | None = 300.0
    total: float | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            seconds = getattr(self, name)
            if seconds is not None and not _is_seconds(seconds):
                shown = f"Timeouts.{name} is {_shown(seconds)}"
                raise ConfigError(f"{shown}: expected seconds above 0, or None for no limit")


def _is_seconds(value: object) -> bool:
    return type(value) in (int, float) and 0 < value <= sys.float_info.max  # type: ignore[operator]
