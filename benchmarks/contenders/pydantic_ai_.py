"""pydantic-ai, `Agent.run_stream`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from pydantic_ai import Agent


def _model(wire: str, name: str, url: str) -> Any:
    match wire:
        case "openai":
            from pydantic_ai.models.openai import OpenAIChatModel
            from pydantic_ai.providers.openai import OpenAIProvider

            return OpenAIChatModel(name, provider=OpenAIProvider(base_url=url, api_key="k"))
        case "anthropic":
            from anthropic import AsyncAnthropic
            from pydantic_ai.models.anthropic import AnthropicModel
            from pydantic_ai.providers.anthropic import AnthropicProvider

            client = AsyncAnthropic(api_key="k", base_url=url, max_retries=0)
            return AnthropicModel(name, provider=AnthropicProvider(anthropic_client=client))
        case _:
            from pydantic_ai.models.google import GoogleModel
            from pydantic_ai.providers.google import GoogleProvider

            return GoogleModel(name, provider=GoogleProvider(api_key="k", base_url=url))


class Contender:
    def __init__(self, wire: str, root: str, model: str) -> None:
        self._wire = wire
        self._root = root
        self._model = model
        self._agents: dict[str, Agent] = {}

    async def texts(self, path: str, prompt: str = "hi") -> AsyncIterator[str]:
        agent = self._agents.get(path)
        if agent is None:
            agent = Agent(_model(self._wire, self._model, f"{self._root}/{path}"))
            self._agents[path] = agent
        async with agent.run_stream(prompt) as result:
            async for text in result.stream_text(delta=True, debounce_by=None):
                yield text

    async def close(self) -> None:
        """Nothing is owned here: it caches its connections."""
