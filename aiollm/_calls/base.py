"""What the calls of a registry have in common: its settings, and what starts them."""

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


class Calling:
    """Keeps what calls take of a registry."""

    _catalog: Catalog
    _policy: Policy
    _hooks: list[Hook]
    _settings: Settings

    @cached_property
    def _starter(self) -> Starter:
        # It brings asyncio and all that makes calls: half of what the package costs to import.
        from aiollm._calls.starter import Starter

        return Starter(self._catalog, self._policy, self._hooks, self._settings)

    @property
    def _resources(self) -> Resources:
        return self._starter.resources

    @property
    def _gate(self) -> Gate:
        return self._starter.gate

    @property
    def _health(self) -> Health:
        return self._starter.gate.health
