"""Error replies: rows that map what a server says to the error tree.

Every codec has its own rows; an error that no row matches is mapped by its HTTP status.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aiollm._wire.framing import SSE
from aiollm._wire.lenient import mend
from aiollm._wire.web_page import is_web_page, shown_page
from aiollm.errors import (
    AuthenticationError,
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ProviderError,
    QuotaError,
    RateLimitError,
    RequestTooLargeError,
    ServerError,
    UnsupportedFeatureError,
)
from aiollm.provider import HttpResponse
from aiollm.providers.error_bodies import MAX_WORD, Fault, fault_of, load_error
from aiollm.providers.gateway_refusals import gateway_refusal
from aiollm.providers.retry_hints import retry_after, retry_hint
from aiollm.types import _printable

MAX_MESSAGE = 1000
"""Characters of a provider's message that an error shows."""

_SEARCHED = 4096
"""Characters of a message in which the texts of rows are looked for."""

_ECHOES = ("'input':", '"input":', "input_value=", "raw='")
"""Where a message begins to repeat what the caller or the model wrote (pydantic's lists, which
vLLM and Mistral pass on, and Ollama's parser, 2026). What follows says nothing about the error."""


class Rule(msgspec.Struct, frozen=True):
    """A row: every given field must match. `codes` are compared with code and type.

    `status` is one or several; inside a stream it is the status that the error itself names, or 0.
    `texts` are lower-case substrings of the message, for providers without codes; `*` in them
    stands for anything without quotes. `types` and `params` are compared with the fields of these
    names. `retry_after` is how many seconds to wait if the provider does not give a hint.
    """

    error: type[ProviderError]
    codes: tuple[str, ...] = ()
    status: int | tuple[int, ...] | None = None
    texts: tuple[str, ...] = ()
    retry_after: float | None = None
    types: tuple[str, ...] = ()
    params: tuple[str, ...] = ()


BY_STATUS: dict[int, type[ProviderError]] = {
    401: AuthenticationError,
    402: QuotaError,
    403: AuthenticationError,
    404: ModelNotFoundError,
    405: ModelNotFoundError,  # no chat is served at this address
    407: AuthenticationError,  # a proxy on the way that no setting names
    408: ServerError,
    409: ServerError,  # the SDKs of OpenAI and Anthropic ask again: somebody else held a lock
    410: ModelNotFoundError,
    413: RequestTooLargeError,
    415: UnsupportedFeatureError,
    421: ServerError,  # the connection led to a wrong server, another one may not
    423: ServerError,
    424: ServerError,  # what the server depends on failed (Azure, Hugging Face)
    425: ServerError,
    426: ServerError,  # the gateway speaks too old an HTTP to the server (nginx before Istio)
    429: RateLimitError,
    499: ServerError,  # Google's CANCELLED: we would not read it if we had cancelled
    501: UnsupportedFeatureError,
    503: OverloadedError,
    529: OverloadedError,
}
"""Status to error, as measured in November 2026. Any other 4xx is an InvalidRequestError: another
target may take what this one refuses, but asking the same one again is useless."""

_CONTEXT_CODES = (
    "context_length_exceeded",
    "exceed_context_size_error",  # llama.cpp
    "context_exceeded",  # ds4
    "model_max_prompt_tokens_exceeded",  # GitHub Copilot
    "tokens_limit_reached",  # GitHub Models
    "too_many_prompt_tokens",  # Perplexity
)
_CONTEXT_TEXTS = (
    "maximum context length",  # OpenAI, vLLM, OpenRouter, DeepSeek, Mistral
    "reduce the length of the messages",  # OpenAI, Groq
    "exceed*context window",  # OpenAI's Responses
    "model's context window",  # OpenAI (September 2026)
    "input tokens exceed the configured limit",  # Azure (2026)
    "current length is*while limit is",  # Cerebras
    "exceeded max_prompt_tokens",  # SiliconFlow (2026)
    "too long to fit into the model",  # vLLM, with images
    "maximum input length is",  # as LiteLLM lists it (2026)
    "contextwindowexceedederror",  # LiteLLM
    "too big compared to kv size",  # llama.cpp's older builds
    "上下文长度",  # of Chinese services (2026)
    "超过最大长度",
    "context window*exceed",  # MiniMax, llama-cpp-python
    "prompt is too long",  # Anthropic, Fireworks
    "exceed context limit",  # Anthropic
    "input token count*exceeds the maximum number of tokens",  # Gemini
    "input token count*model only supports up to",  # Vertex
    "exceeds the available context size",  # llama.cpp
    "too large to process. increase the physical batch size",  # llama.cpp, of embeddings, a 500
    "context size has been exceeded",  # llama.cpp, in a stream
    "larger than the max context size",  # llama.cpp until 2025
    "longer than the context length",  # Ollama
    "input length exceeds the context length",  # Ollama
    "prompt too long; exceeded",  # Ollama
    "longer than the model's context length",  # SGLang, Together
    "input length*exceeds*maximum allowed",  # SGLang, Poolside
    "longer than the maximum model length",  # vLLM
    "context length is only",  # vLLM
    "tokens must be at least 1, got -",  # vLLM: nothing is left for the answer
    "greater than the context length",  # LM Studio
    "when context the overflows",  # LM Studio
    "reached context length of",  # LM Studio, in a stream
    "input is too long for",  # Bedrock
    "too many input tokens",  # Bedrock
    "number of input tokens exceeds",  # Bedrock
    "exceeded model token limit",  # Kimi
    "prompt exceeds max length",  # z.ai
    "prompt token count*exceeds the limit",  # GitHub Copilot
    "range of input length should be",  # Alibaba
    "maximum prompt length is",  # xAI
    "token limit exceeded",
    "`inputs` tokens + `max_new_tokens` must be",  # Hugging Face's TGI
    "must have less than * tokens",
    "must be less than max_seq_len",
    "is greater than max_seq_len",
    "total number of tokens*cannot exceed",  # Cohere
    "configured context size is",  # ds4
    "exceeds context size (",
)
"""How servers word an overflow, where they have no code for it (November 2026)."""
_NO_CONTEXT_STATUS = (401, 402, 403, 404, 429)


_STATUS = re.compile("[45][0-9][0-9]")

_GAP = "[^'\"`]{0,200}"
"""What `*` stands for in a text: anything but quotes, so that a quoted name stays one name. It is
short, or a message that repeats what is around two of them would take 0.1 s."""


def error_from(
    reply: HttpResponse,
    rules: Sequence[Rule] = (),
    *,
    hint: float | None = None,
    request_id: str = "",
) -> ProviderError:
    """Map an error reply to the tree: rows first, then context length, then status.

    `hint` is a retry delay in seconds, used if no `retry-after` header has one.
    """
    fault = fault_of(_value(reply.body))
    if not fault.message and (refusal := gateway_refusal(reply)) is not None:
        return refusal
    message = fault.message or _unstructured(reply)
    return error_from_fault(
        fault,
        rules,
        status=reply.status,
        message=message,
        headers=reply.headers,
        hint=hint,
        request_id=request_id,
        body=reply.body,
    )


def _value(body: bytes) -> Any:
    """Decode a body of JSON or of events, which some servers send with any status."""
    if not body.startswith((b"data:", b"event:")):
        return load_error(body) if body else None
    framer = SSE()
    frames = framer.feed(body + b"\n\n")
    return next((value for frame in frames if (value := load_error(frame)) is not None), None)


def error_from_fault(
    fault: Fault,
    rules: Sequence[Rule] = (),
    *,
    status: int = 0,
    message: str = "",
    headers: Mapping[str, str] | None = None,
    hint: float | None = None,
    request_id: str = "",
    body: bytes = b"",
) -> ProviderError:
    """Make the error for a fault; `status` is 0 for an error inside a stream.

    `hint` is a wait in seconds that counts for more than what the message says.
    """
    headers = headers or {}
    message = message or fault.message
    rule, kind = _kind(fault, rules, status or _status_in(fault), message)
    delay = retry_after(headers)
    if delay is None and hint is not None and 0 <= hint < math.inf:
        delay = hint
    if delay is None:
        left = "0" if issubclass(kind, RateLimitError) else ""
        delay = retry_hint(message, fault.raw, headers, left=left)
    if delay is None and rule is not None:
        delay = rule.retry_after
    named = request_id or headers.get("x-request-id", "") or headers.get("request-id", "")
    return kind(
        _printable(message[:MAX_MESSAGE]) or "the provider sent no message",
        status=status,
        code=mend(fault.code or fault.type)[:MAX_WORD],
        request_id=mend(named)[:MAX_WORD],
        retry_after=delay,
        may_retry=headers.get("x-should-retry", "").lower() != "false",
        body=body,
    )


def _kind(
    fault: Fault, rules: Sequence[Rule], status: int, message: str
) -> tuple[Rule | None, type[ProviderError]]:
    """Return the first row that matches, if any, and the class of the error."""
    text = _searched(message)
    rule = next((rule for rule in rules if _matches(rule, fault, status, text)), None)
    kind = rule.error if rule else _by_status(status)
    if (rule is None or kind is InvalidRequestError) and _is_too_long(fault, status, text):
        kind = ContextLengthError
    return rule, kind


def _matches(rule: Rule, fault: Fault, status: int, text: str) -> bool:
    at = rule.status
    return (
        (at is None or (status in at if isinstance(at, tuple) else status == at))
        and (not rule.codes or fault.code in rule.codes or fault.type in rule.codes)
        and (not rule.types or fault.type in rule.types)
        and (not rule.params or fault.param in rule.params)
        and (not rule.texts or any(_says(text, pattern) for pattern in rule.texts))
    )


def _says(text: str, pattern: str) -> bool:
    first, *rest = pattern.split("*")
    if first not in text or not rest:
        return first in text
    return re.search(_GAP.join(map(re.escape, (first, *rest))), text) is not None


def _searched(message: str) -> str:
    """Return what the texts of rows are compared with: the server's own words in lower case."""
    text = message[:_SEARCHED].lower().replace("\u2019", "'")
    return text[: min((at for echo in _ECHOES if (at := text.find(echo)) >= 0), default=None)]


def _status_in(fault: Fault) -> int:
    """Return the HTTP status that an error inside a stream names, 0 where it names none."""
    return fault.status or (int(fault.code) if _STATUS.fullmatch(fault.code) else 0)


def _by_status(status: int) -> type[ProviderError]:
    if status in BY_STATUS:
        return BY_STATUS[status]
    if 300 <= status < 400:
        return ProviderError
    return InvalidRequestError if 400 <= status < 500 else ServerError


def _is_too_long(fault: Fault, status: int, text: str) -> bool:
    """Return whether an error means that the prompt exceeds the target's context."""
    if status in _NO_CONTEXT_STATUS:
        return False
    if fault.code in _CONTEXT_CODES or fault.type in _CONTEXT_CODES:
        return True
    if "too many tokens" in text:  # Bedrock says so of a rate, too
        return status in (400, 413)
    return any(_says(text, pattern) for pattern in _CONTEXT_TEXTS)


def _unstructured(reply: HttpResponse) -> str:
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if 300 <= reply.status < 400:
        return "the server redirects, and redirects are not followed: check the base URL"
    if not reply.body.strip():
        encoding = reply.headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):  # which is not read
            return f"HTTP {reply.status} with a body in the Content-Encoding {encoding!r:.40}"
        return f"HTTP {reply.status} with an empty body"
    if is_web_page(reply.body, kind):
        return f"HTTP {reply.status} with {shown_page(reply.body)}"
    return mend(reply.body[:MAX_MESSAGE].decode("utf-8", "replace")).strip()
