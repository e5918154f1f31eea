"""The pieces that messages and streams are made of, each complete in itself.

Those that hold any part, or raise errors of ours, stand in `types.py`.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import msgspec
from msgspec.structs import force_setattr

if TYPE_CHECKING:
    from pathlib import Path

FinishReason: TypeAlias = Literal[
    "stop", "length", "tool_calls", "content_filter", "error", "other"
]
Certainty: TypeAlias = Literal["exact", "partial", "missing"]


class Target(msgspec.Struct, frozen=True, cache_hash=True):
    """A provider's name and one of its models; prints as `provider/model`."""

    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"


class ProviderData(msgspec.Struct, frozen=True):
    """Opaque state of one provider family (signatures, encrypted reasoning, item ids).

    It is replayed unchanged to the same family and dropped, with a warning, for another.
    """

    family: str
    data: dict[str, Any]


class Citation(msgspec.Struct, frozen=True):
    """A source that the model named for the text before it."""

    url: str = ""
    title: str = ""
    text: str = ""


class TextPart(msgspec.Struct, frozen=True, tag="text"):
    """Plain text."""

    text: str
    citations: tuple[Citation, ...] = ()
    provider_data: ProviderData | None = None


class _FilePart(msgspec.Struct, frozen=True):
    data: bytes = b""
    url: str = ""
    mime: str = ""

    def __post_init__(self) -> None:
        if type(self.data) is not bytes:
            force_setattr(self, "data", _bytes(self.data, type(self).__name__))
        if bool(self.data) == bool(self.url):
            raise ValueError(f"{type(self).__name__} takes either data (bytes) or url")

    def __repr__(self) -> str:
        source = f"{len(self.data)} bytes" if self.data else f"url={self.url!r:.200}"
        return f"{type(self).__name__}({source}, mime={self.mime!r})"

    def save(self, path: str | PathLike[str]) -> None:
        """Write the bytes to `path`. Raises: ValueError when the part is a URL."""
        if not self.data:
            raise ValueError(f"this {type(self).__name__} is a URL: {self.url:.200}")
        _path(path).write_bytes(self.data)


def _path(path: str | PathLike[str]) -> Path:
    from pathlib import Path  # 1 ms, for who reads and writes files

    return Path(path)


def _bytes(data: object, owner: str) -> bytes:
    match data:
        case bytes() | bytearray() | memoryview():
            return bytes(data)
        case _:
            raise TypeError(
                f"{owner}: data is bytes, not {type(data).__name__}; a file is read by "
                f"{owner}.from_path(), an address goes in url="
            )


class ImagePart(_FilePart, frozen=True, tag="image", weakref=True):
    """An image as bytes or URL; `mime` may stay empty, the bytes tell."""

    detail: Literal["auto", "low", "high", "original"] | None = None
    provider_data: ProviderData | None = None

    @classmethod
    def from_path(cls, path: str | PathLike[str]) -> ImagePart:
        """Read a file. Raises: OSError, ValueError for an empty file."""
        return cls(_path(path).read_bytes())


class DocumentPart(_FilePart, frozen=True, tag="document"):
    """A document as bytes or URL, a PDF unless `mime` says otherwise."""

    mime: str = "application/pdf"
    name: str = "document.pdf"
    provider_data: ProviderData | None = None

    @classmethod
    def from_path(cls, path: str | PathLike[str], mime: str = "application/pdf") -> DocumentPart:
        """Read a file. Raises: OSError, ValueError for an empty file."""
        file = _path(path)
        return cls(file.read_bytes(), mime=mime, name=file.name)


class AudioPart(_FilePart, frozen=True, tag="audio"):
    """Audio as bytes or URL, WAV unless `mime` says otherwise."""

    mime: str = "audio/wav"
    provider_data: ProviderData | None = None


class ReasoningPart(msgspec.Struct, frozen=True, tag="reasoning"):
    """What the model thought; the text is empty where the provider hides it."""

    text: str = ""
    provider_data: ProviderData | None = None


class RefusalPart(msgspec.Struct, frozen=True, tag="refusal"):
    """The model's own words for declining."""

    text: str


class OpaquePart(msgspec.Struct, frozen=True, tag="opaque"):
    """A provider's part that has no canonical form, kept for replay to the same family."""

    provider_data: ProviderData


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts; cached is part of input, reasoning part of output.

    `certainty` is `exact` at a proper end, `partial` when a cut left only early figures, and
    `missing` when the provider gave none.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    certainty: Certainty = "missing"


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer."""

    text: str
    provider_data: ProviderData | None = None


class Silent(msgspec.Struct, frozen=True):
    """A chunk that adds no text to the answer."""

    text: ClassVar[str] = ""


class ReasoningDelta(Silent, frozen=True, gc=False):
    """A piece of the model's reasoning; `provider_data` seals the latest reasoning part."""

    reasoning: str
    provider_data: ProviderData | None = None


class RefusalDelta(Silent, frozen=True, gc=False):
    """A piece of the model's refusal."""

    refusal: str


class ToolCallDelta(Silent, frozen=True, gc=False):
    """A piece of the call number `index`; id and name come with the first piece.

    `arguments` is a fragment of JSON text.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""
    provider_data: ProviderData | None = None


class ImageChunk(Silent, frozen=True):
    """A whole image."""

    image: ImagePart


class CitationChunk(Silent, frozen=True):
    """A source for the text before it."""

    citation: Citation


class Status(Silent, frozen=True):
    """What the server says of its own progress, such as a model being loaded; not output."""

    message: str


class Restart(Silent, frozen=True):
    """All chunks before this one are void: `target` answers from the start."""

    target: Target
    reason: str


class Finish(Silent, frozen=True):
    """The end of the answer; `raw_reason` is the provider's own word."""

    reason: FinishReason
    raw_reason: str = ""
    usage: Usage = Usage()


class UsageUpdate(Silent, frozen=True):
    """Counts so far, replacing earlier ones; kept for a cut stream, not shown to the caller."""

    usage: Usage


class Notice(Silent, frozen=True):
    """A warning for `response.warnings`, not shown to the caller as a chunk."""

    message: str
    image_elided: bool = False
