"""The part of a registry that names things: providers, aliases, schemes and their limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiollm.dsn import Limits, Network, Secret
from aiollm.provider import Provider
from aiollm.providers.catalog import Catalog, SchemeFactory
from aiollm.spec import Plan
from aiollm.types import Target


class Names:
    """What a registry knows by name."""

    _catalog: Catalog

    def _declared(self, provider: str) -> None:
        """Note that what is declared for a provider has changed."""

    def register(
        self,
        name: str,
        provider: Provider | str,
        *,
        limits: Limits | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        network: Network | None = None,
        token: str | Secret | Callable[[], object] | None = None,
    ) -> None:
        """Add a provider in code, as a row or a DSN; it takes precedence over the environment.

        `limits` and `network` override its own; `headers` and `query` are added to each request.
        `token`: its key, or a function, async or not, that returns one: a str, (str, expiry in
        seconds since 1970), or an object with `.token` and `.expires_on`. Raises: ConfigError.
        """
        settings = {"headers": headers, "query": query, "network": network, "token": token}
        try:
            self._catalog.register(name, provider, limits, settings)
            self._declared(name)
        finally:
            # Tools show the variables of the frames that an error passes.
            del provider, headers, query, network, token, settings

    def limit(self, name: str | Target, limits: Limits) -> None:
        """Limit a provider ("box") or a target ("box/qwen3:8b"), replacing earlier limits set here.

        A limit of None leaves the provider's own. Registering the provider again removes all
        limits set here. New limits also apply to calls in line. Raises: ConfigError.
        """
        self._catalog.limit(name, limits)
        self._declared(str(name).partition("/")[0])

    def alias(self, name: str, spec: str) -> None:
        """Give a spec a name, which is a spec itself, or an item of one. Raises: ConfigError."""
        self._catalog.alias(name, spec)

    def register_scheme(self, name: str, factory: SchemeFactory) -> None:
        """Add a DSN scheme: `factory(name, dsn)` returns the provider. Raises: ConfigError."""
        self._catalog.register_scheme(name, factory)

    def provider(self, name: str) -> Provider:
        """Return the provider with this name. Raises: ConfigError."""
        return self._catalog.provider(name)

    def providers(self) -> dict[str, str]:
        """Return the names of all providers with their origin: code, environment or built-in."""
        return self._catalog.providers()

    def aliases(self) -> dict[str, str]:
        """Return the names of all aliases with their specs."""
        return self._catalog.aliases()

    def parse(self, spec: str | Plan) -> Plan:
        """Parse a spec and expand its aliases. Raises: SpecError."""
        return self._catalog.parse(spec)

    def describe(self) -> str:
        """Return all providers and aliases as text, with tokens masked."""
        return self._catalog.describe()
