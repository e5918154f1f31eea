"""What is said about a keyword that a call does not have."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from aiollm.types import _shown

# What other libraries call it: no spelling is close, or the wrong one is.
_MEANT = {
    **dict.fromkeys(
        ("response_format", "response_model", "response_schema", "json_schema", "schema"), "output"
    ),
    "functions": "tools",
    "instructions": "system",
    **dict.fromkeys(("stop_sequence", "stop_sequences"), "stop"),
    "thinking": "reasoning",
}
_FIELDS = (
    "frequency_penalty",
    "logit_bias",
    "metadata",
    "min_p",
    "presence_penalty",
    "repetition_penalty",
    "top_k",
    "user",
)
_ELSEWHERE = {
    "stream": "stream() yields an answer as it comes, generate() returns it complete",
    **dict.fromkeys(
        ("api_base", "api_key", "base_url", "extra_headers", "headers"),
        "it belongs to a provider: set LLM_NAME=scheme://KEY@host, or call register()",
    ),
    **dict.fromkeys(("fallbacks", "model"), "the spec names the targets, as in 'a/x,b/y'"),
}


def unknown_keyword(name: str, known: Iterable[str]) -> TypeError:
    """Return the error for a keyword that is not among the `known`, with the one that is meant."""
    names = list(dict.fromkeys(known))
    close = [_MEANT[name]] if _MEANT.get(name) in names else get_close_matches(name, names, 1)
    if name in _FIELDS and "extra" in names:
        hint = f"; a field that only some services have goes into extra={{'*': {{{name!r}: ...}}}}"
    elif name in _ELSEWHERE:
        hint = f"; {_ELSEWHERE[name]}"
    elif close:
        hint = f"; did you mean {close[0]!r}?"
    else:
        hint = f" (known: {', '.join(names)})"
    return TypeError(f"unknown option {_shown(name)}{hint}")
