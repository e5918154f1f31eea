"""llama-swap, counting: a model's own server is asked, for llama-swap has no route for chat."""

from __future__ import annotations

from aiollm.provider import Provider
from aiollm.providers.openai.chat_counting import ChatCounts, TokenizeCounts
from aiollm.providers.urls import model_path
from aiollm.types import Target


class UpstreamCounts(ChatCounts):
    """Counts at a llama.cpp behind llama-swap."""

    def base_url(self, provider: Provider, target: Target) -> str:
        """Return the base URL of the server that runs the model. Raises: ConfigError."""
        return _upstream(provider, target)


class UpstreamTokenizeCounts(TokenizeCounts):
    """Counts at a vLLM behind llama-swap."""

    def base_url(self, provider: Provider, target: Target) -> str:
        """Return the base URL of the server that runs the model. Raises: ConfigError."""
        return _upstream(provider, target)


def _upstream(provider: Provider, target: Target) -> str:
    return f"{provider.base_url}/upstream/{model_path(target.model, slashes=True)}/v1"
