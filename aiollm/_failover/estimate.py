"""Estimates: about how many tokens a request will take, before it is sent.

Text is measured in UTF-8 bytes: with OpenAI's o200k_base four of them are a token within 14 % on
average over prose in 26 languages, code and JSON, four characters within 24 %. Everything else is
counted as so many bytes of text; what a target counts is learnt from its answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from aiollm._wire.conversations import total
from aiollm._wire.quota import Kind
from aiollm._wire.schema import json_schema
from aiollm.errors import ConfigError
from aiollm.images import ImageRequest
from aiollm.types import (
    AudioPart,
    DocumentPart,
    ImagePart,
    Message,
    Part,
    RefusalPart,
    Request,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    Usage,
)

if TYPE_CHECKING:  # most calls need neither
    from aiollm.retrieval import EmbedRequest, RerankRequest

    AnyRequest: TypeAlias = Request | ImageRequest | EmbedRequest | RerankRequest

TOKEN = 4.0
"""Bytes that a token is taken for until the target has answered."""

MESSAGE = 4 * TOKEN
"""Bytes that a message or tool counts beside its text: 3 tokens, the role (OpenAI's cookbook)."""

IMAGE = 1000 * TOKEN
"""Bytes that an image counts: 1024 x 1024 takes 765 or 1024 tokens with OpenAI, 258 to 1120 with
Gemini, 1400 with Anthropic (the vendors' pages)."""

LOW_DETAIL = 85 * TOKEN
"""Bytes that an image counts which OpenAI is to look at in low detail."""

PAGE = 2000 * TOKEN
"""Bytes that a page of a PDF counts: 1500 to 3000 tokens (Anthropic's pages)."""

PAGE_SIZE = 50_000
"""Bytes of a PDF that are taken for a page; of the pages, 100 at most are counted."""

AUDIO_SIZE = 1000
"""Bytes of audio that are taken for a token: 48 a second of WAV, 16 of MP3 (Gemini: 32)."""

ANSWER = 500.0
"""Tokens of an answer while none is known: ShareGPT's have 338 (vLLM's paper), and some reason."""

MAX_ANSWER = 1e6
"""Tokens of an answer that are believed."""

IMAGE_ANSWER = 1056.0
"""Tokens of an image while none is known: 1024 x 1024 of medium quality (OpenAI's pages)."""

LEAST, MOST = 0.02, 2.0
"""Tokens a byte between which what is learnt stays; rare signs take 1.0, runs of spaces 0.01."""

MAX_OVERHEAD = 2000.0
"""Tokens that a target may add to every prompt, such as its own instructions about tools."""

SHORT = 1000.0
"""Bytes of a prompt whose error is laid half on the overhead, half on the tokens a byte."""

DOUBT = 2.0
"""How many times too high an estimate of a prompt may be; no request is refused on a lower one."""

LEARNS = 0.2
"""The share of an error by which an estimate is corrected; more for the first answers."""

STEADY = 20
"""Answers after which more of them make an estimate no surer."""


class Estimate:
    """Tokens that a request takes, learnt per target: bytes to tokens, and the mean answer.

    Input is an overhead and so many tokens a byte, both moved by each error (normalized least mean
    squares): short prompts teach the overhead, long ones the rest, neither spoils the other.
    """

    __slots__ = ("_answer", "_answers", "_overhead", "_prompts", "_ratio")

    def __init__(self) -> None:
        self._overhead = 0.0
        self._ratio = 1 / TOKEN
        self._prompts = 0
        self._answer = 0.0
        self._answers = 0

    def reserve(self, request: AnyRequest, size: float | None = None) -> tuple[float, float]:
        """Return the input and output tokens to expect; `size` is `size_of` where it is known."""
        tokens = self._input(size_of(request) if size is None else size)
        if isinstance(request, ImageRequest):
            return tokens, self._answer if self._answers else request.count * IMAGE_ANSWER
        if request.max_output_tokens is not None:
            return tokens, float(request.max_output_tokens)
        return tokens, self._answer if self._answers else ANSWER

    def share(self, kind: Kind, request: AnyRequest, size: float) -> float:
        """Return the units that a request takes of a limit of that kind.

        A limit of all tokens counts the longest answer allowed as soon as a request arrives
        (OpenAI); one of output tokens alone counts what was written (Anthropic).
        """
        match kind:
            case "requests":
                return 1.0
            case "input_tokens":
                return self._input(size)
            case "output_tokens":
                tokens = self.reserve(request, size)[1]
                return min(tokens, self._answer if self._answers else ANSWER)
            case _:
                return sum(self.reserve(request, size))

    def least(self, kind: Kind, request: AnyRequest, size: float) -> float:
        """Return the units of a limit that a request takes at least."""
        match kind:
            case "input_tokens":
                return self._input(size) / DOUBT
            case "tokens":
                longest = getattr(request, "max_output_tokens", None) or 0
                return self._input(size) / DOUBT + longest
            case _:
                return 0.0

    def learn(self, request_size: float, usage: Usage) -> None:
        """Learn from the counts of an answer; of a cut one the input alone."""
        if usage.certainty == "missing":
            return
        if usage.input_tokens > 0:
            self.learn_input(request_size, usage.input_tokens)
        if usage.certainty == "exact":
            self._answers += 1
            error = min(MAX_ANSWER, max(0, usage.output_tokens)) - self._answer
            self._answer += error * max(LEARNS / 2, 1 / self._answers)

    def learn_input(self, size: float, tokens: float) -> None:
        """Learn how many tokens a prompt of so many bytes takes."""
        if not 0 < size < math.inf:
            return
        self._prompts += 1
        # An impossible count is taken as the nearest possible one.
        tokens = min(MAX_OVERHEAD + size * MOST, max(size * LEAST, tokens))
        error = tokens - self._input(size)
        step = error * max(LEARNS, 1 / (1 + self._prompts)) / (SHORT * SHORT + size * size)
        self._overhead = min(MAX_OVERHEAD, max(0.0, self._overhead + step * SHORT * SHORT))
        self._ratio = min(MOST, max(LEAST, self._ratio + step * size))

    @property
    def learnt(self) -> tuple[float, float, float, int]:
        """What was learnt: the overhead, tokens a byte, the mean answer, and of how many answers.

        Others may `adopt` it.
        """
        return self._overhead, self._ratio, self._answer, min(self._prompts, self._answers)

    def adopt(self, overhead: float, ratio: float, answer: float, answers: int) -> None:
        """Learn what others have learnt from so many answers, in proportion to one's own."""
        theirs = min(answers, STEADY)
        if theirs < 1:
            return
        share = theirs / (theirs + min(self._answers, STEADY))
        self._answer += (min(MAX_ANSWER, max(0.0, answer)) - self._answer) * share
        share = theirs / (theirs + min(self._prompts, STEADY))
        self._overhead += (min(MAX_OVERHEAD, max(0.0, overhead)) - self._overhead) * share
        self._ratio += (min(MOST, max(LEAST, ratio)) - self._ratio) * share
        self._answers, self._prompts = max(self._answers, theirs), max(self._prompts, theirs)

    def _input(self, size: float) -> float:
        return self._overhead + size * self._ratio


def size_of(request: AnyRequest) -> float:
    """Return the bytes of text in a request, files counted as if they were text."""
    if isinstance(request, ImageRequest):
        files = len(request.images) + (request.mask is not None)
        return _text(request.prompt) + files * IMAGE
    if not isinstance(request, Request):
        return request.size
    size = _text(request.system) + total(request, size_of_message)
    for tool in request.tools:
        size += MESSAGE + _text(tool.name)
        if isinstance(tool, Tool):
            size += _text(tool.description) + _json(tool.parameters)
    return size if request.output is None else size + _schema(request.output)


def measure(request: AnyRequest) -> tuple[float, int, float]:
    """Return the size of a request, the number of images in its messages, and their size."""
    size = size_of(request)
    if not isinstance(request, Request) or not (images := int(total(request, _images_in))):
        return size, 0, 0.0
    return size, images, total(request, _size_of_images)


def _images_in(message: Message) -> float:
    return float(sum(1 for _ in _images(message)))


def _size_of_images(message: Message) -> float:
    return sum(map(_part, _images(message)))


def _images(message: Message) -> Iterator[ImagePart]:
    for part in message.parts:
        if isinstance(part, ImagePart):
            yield part
        elif isinstance(part, ToolResultPart):
            yield from (each for each in part.content if isinstance(each, ImagePart))


def size_of_message(message: Message) -> float:
    """Return the bytes of text that a message counts."""
    return MESSAGE + sum(map(_part, message.parts))


def _part(part: Part) -> float:
    match part:
        case TextPart():
            return _text(part.text)
        case ToolResultPart():
            return MESSAGE + sum(map(_part, part.content))
        case ToolCallPart():
            return MESSAGE + _text(part.name) + _text(part.arguments)
        case ImagePart():
            return LOW_DETAIL if part.detail == "low" else IMAGE
        case RefusalPart():
            return _text(part.text)
        case DocumentPart(data=data, mime="application/pdf"):
            return PAGE * min(100, 1 + len(data) // PAGE_SIZE)
        case DocumentPart(data=data):
            return float(len(data))
        case AudioPart(data=data):
            return len(data) / AUDIO_SIZE * TOKEN
        case _:
            return 0.0  # reasoning is rarely sent back, and what is opaque cannot be measured


def _text(text: str) -> float:
    if text.isascii():
        return float(len(text))
    return float(len(text.encode("utf-8", "surrogatepass")))


def _json(value: Any) -> float:
    try:
        return float(len(msgspec.json.encode(value)))
    except (TypeError, ValueError, RecursionError):
        return 0.0  # the codec says what is wrong with it


def _schema(output: Any) -> float:
    try:
        return _json(json_schema(output))
    except ConfigError:
        return 0.0
