"""The base of a registry's calls: its settings, and the starter that the first call makes."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from aiollm._calls.settings import Settings
from aiollm._failover.policy import Policy
from aiollm.providers.catalog import Catalog

if TYPE_CHECKING:
    from aiollm._calls.starter import Starter
    from aiollm._failover.gate import Gate
    from aiollm._failover.health import Health
    from aiollm._resources import Resources
    from aiollm.events import Hook


class RegistryBase:
    """A registry as its calls see it: its settings, and what the first call makes of them."""

    _catalog: Catalog
    _policy: Policy
    _hooks: list[Hook]
    _settings: Settings

    @cached_property
    def _starter(self) -> Starter:
        # It brings asyncio and all that makes calls: half of what the package costs to import.
        from aiollm._calls.starter import Starter

        made = Starter(self._catalog, self._policy, self._hooks, self._settings)
        # A thread that asks for a snapshot may have made one meanwhile: all use that one.
        kept: Starter = self.__dict__.setdefault("_starter", made)
        return kept

    @property
    def _resources(self) -> Resources:
        return self._starter.resources

    @property
    def _gate(self) -> Gate:
        return self._starter.gate

    @property
    def _health(self) -> Health:
        return self._starter.gate.health

    def _declared(self, provider: str) -> None:
        """Apply what is now declared for a provider to the calls that wait for it."""
        if "_starter" in self.__dict__:
            self._starter.declared(provider)
