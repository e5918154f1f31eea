"""Routes that chat does without: a server that lacks one may serve everything else."""

from __future__ import annotations

from aiollm.errors import LLMError, ModelNotFoundError

_NAMED = ("model", "deployment")
"""What a refusal names where the server has the route; one without the route has no such word."""


def refusal(error: LLMError) -> LLMError:
    """Return the error of such a route; where the server lacks it, no target's health is harmed.

    llama.cpp, vLLM and SGLang answer "Not Found" to all that they do not serve (November 2026),
    and whoever asks them to embed or to draw must not take their chat away.
    """
    if isinstance(error, ModelNotFoundError):
        told = str(error).lower()
        if not any(word in told for word in _NAMED):
            error.harms = "no"
    return error
