"""aiollm, as the README shows it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiollm import Registry

BASES = {"anthropic": "/v1", "google": "/v1beta"}
"""What stands behind a base URL of its own; the codec adds it unless it is there."""


class Contender:
    stagger: float | None = None

    def __init__(self, wire: str, root: str, model: str) -> None:
        self._wire = wire
        self._root = root
        self._model = model
        self._registries: dict[str, Registry] = {}

    def spec(self) -> str:
        return f"a/{self._model}"

    def _registry(self, path: str) -> Registry:
        registry = self._registries.get(path)
        if registry is None:
            scheme, _, place = self._root.partition("://")
            plain = "+http" if scheme == "http" else ""
            dsn = f"{self._wire}{plain}://k@{place}/{path}{BASES.get(self._wire, '')}"
            env = {f"LLM_{name}": dsn for name in "ABC"}
            registry = self._registries[path] = Registry(env=env, stagger=self.stagger)
        return registry

    async def texts(self, path: str, prompt: str = "hi") -> AsyncIterator[str]:
        async for chunk in self._registry(path).stream(self.spec(), prompt):
            if chunk.text:
                yield chunk.text

    async def close(self) -> None:
        for registry in self._registries.values():
            await registry.aclose()
