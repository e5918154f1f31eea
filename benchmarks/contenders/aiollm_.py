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
        self._registry: Registry | None = None
        self._specs: dict[str, str] = {}

    def spec(self, a: str, _b: str, _c: str) -> str:
        return f"{a}/{self._model}"

    def _spec(self, registry: Registry, path: str) -> str:
        """Return the spec of a path, whose providers share the connections of all others."""
        spec = self._specs.get(path)
        if spec is None:
            scheme, _, place = self._root.partition("://")
            plain = "+http" if scheme == "http" else ""
            dsn = f"{self._wire}{plain}://k@{place}/{path}{BASES.get(self._wire, '')}"
            names = [f"{name}{len(self._specs)}" for name in "abc"]
            for name in names:
                registry.register(name, dsn)
            spec = self._specs[path] = self.spec(*names)
        return spec

    async def texts(self, path: str, prompt: str = "hi") -> AsyncIterator[str]:
        if self._registry is None:
            self._registry = Registry(env={}, stagger=self.stagger)
        registry = self._registry
        async for chunk in registry.stream(self._spec(registry, path), prompt):
            if chunk.text:
                yield chunk.text

    async def close(self) -> None:
        if self._registry is not None:
            await self._registry.aclose()
