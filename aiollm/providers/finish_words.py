"""What servers call the end of an answer, and what aiollm calls it: one table for all wires.

Servers mix the wires' words: a proxy sends Google's `MAX_TOKENS` on OpenAI's wire, in either case.
The words are those of the vendors' documentation and of recorded answers, November 2026.
"""

from __future__ import annotations

from aiollm._wire.lenient import mend
from aiollm.errors import GenerationError, OverloadedError, ProviderError, ServerError
from aiollm.providers.error_bodies import MAX_WORD
from aiollm.types import FinishReason

_WORDS: dict[FinishReason, str] = {
    "stop": (
        "stop eos eos_token end end_turn stop_sequence stop_token stop_str complete completed done "
        "finished"
    ),
    "length": (
        "length max_tokens max_output_tokens max_length model_length max_context_length "
        "context_length context_length_exceeded model_context_window_exceeded continuation paused "
        "error_limit"
    ),
    "tool_calls": "tool_calls tool_call tool_use function_call",
    "content_filter": (
        "content_filter content_filtered content_filter_error safety sensitive refusal recitation "
        "language blocklist blocked prohibited_content spii model_armor escalation image_safety "
        "image_prohibited_content image_recitation guardrail_intervened error_toxic"
    ),
    "error": (
        "malformed_function_call malformed_response malformed_model_output malformed_tool_use "
        "unexpected_tool_call too_many_tool_calls missing_thought_signature pup_limited_disabled"
    ),
}
_REASONS = {
    spelling: reason
    for reason, words in _WORDS.items()
    for word in words.split()
    for spelling in (word, word.upper())
}

_BROKEN: dict[str, type[ProviderError]] = {
    **dict.fromkeys(
        (
            "error",  # OpenRouter
            "network_error",  # z.ai, also as OpenRouter's native reason
            "abort",  # SGLang, vLLM
            "aborted",
            "cancelled",
            "user_cancel",  # Cohere
            "failed",
            "internal_error",
            "server_error",
            "timeout",
        ),
        ServerError,
    ),
    "insufficient_system_resource": OverloadedError,  # DeepSeek
}
"""The words for an answer that the server broke off, which must not count as complete."""


def reason_of(word: str) -> FinishReason:
    """Return the reason that a finish word means, in upper or lower case."""
    found = _REASONS.get(word)
    return _REASONS.get(_plain(word), "other") if found is None else found


def shown(word: str) -> str:
    """Return a finish word as a response keeps it: short, and without half surrogates."""
    return word if word in _REASONS else mend(word)[:MAX_WORD]


def is_broken(word: str) -> bool:
    """Return whether a finish word says that the server broke off."""
    return word not in _REASONS and _plain(word) in _BROKEN


def broken_error(word: str) -> ProviderError:
    """Return the error for a finish word that says that the server broke off."""
    kind, shown = _BROKEN[_plain(word)], word[-MAX_WORD:]
    return kind(f"the provider broke off the answer: {shown}", code=shown)


def no_call() -> GenerationError:
    """Return the error for an answer that ends for calls, and has neither a call nor words.

    As an empty answer it would end the work of an agent as if that were done; another try may
    succeed (reports of 2026, of vLLM, GitHub Copilot and gateways to Claude).
    """
    return GenerationError("the answer ended for tool calls, but has neither a call nor text")


def _plain(word: str) -> str:
    """Return the word without what some servers put around it: `FinishReason.STOP`."""
    return word.rpartition(".")[2].strip().lower().replace("-", "_")
