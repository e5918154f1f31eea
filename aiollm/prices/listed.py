"""The list of prices that genai-prices brings; only the extra `prices` needs it."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime
from typing import Any

import msgspec

from aiollm.errors import ConfigError
from aiollm.prices.price import Price

_FIELDS = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "input_image": "input_image_mtok",
    "input_audio": "input_audio_mtok",
    "output_image": "output_image_mtok",
}
"""Our names of prices, and the list's."""

_SERVED = ("service_tier", "processing", "speed")
"""What the list may make prices depend on and an answer says of itself."""


def check_installed() -> None:
    """Raise ConfigError unless the list is installed; importing it would take 0.4 s."""
    if importlib.util.find_spec("genai_prices") is None:
        raise ConfigError(
            "prices=True needs genai-prices: install it with pip install 'aiollm-client[prices]'"
        )


def load() -> Listed:
    """Import the list; it is part of its package, so nothing is fetched. Raises: ConfigError."""
    try:
        import genai_prices
    except ImportError as error:
        reason = f"genai-prices cannot be loaded: {error}"
    else:
        return Listed(genai_prices)
    raise ConfigError(reason)


class Listed:
    """The list: prices by the address of a service and the name of a model."""

    def __init__(self, module: Any) -> None:
        self._module = module
        _warm(module)

    def price(self, model: str, base_url: str) -> Price | None:
        """Return the price of a model now, None where the list has none that is complete."""
        now = datetime.now(UTC)
        found = self._calculated(model, base_url, now, {})
        if found is None:
            return None
        base = _price(found.model_price)
        if base is None:
            return None
        tiers: dict[str, Price] = {}
        for variant in found.model.price_variants or ():
            match list(variant.when.items()):
                case [(name, tier)] if name in _SERVED:
                    other = self._calculated(model, base_url, now, {name: tier})
                    price = None if other is None else _price(other.model_price)
                    if price is not None and price != base:
                        tiers[tier] = price
        return msgspec.structs.replace(base, tiers=tiers)

    def _calculated(self, model: str, url: str, now: datetime, context: dict[str, str]) -> Any:
        usage = self._module.Usage(input_tokens=1, output_tokens=1)
        try:
            return self._module.calc_price(
                usage,
                model,
                provider_api_url=url,
                genai_request_timestamp=now,
                price_context=context or None,
            )
        except (LookupError, ValueError):
            return None


def _warm(module: Any) -> None:
    """Build what the first look-up would build, while this is still in a thread."""
    usage = module.Usage(input_tokens=1, output_tokens=1)
    try:
        module.calc_price(usage, "gpt-5", provider_api_url="https://api.openai.com/v1")
    except (LookupError, ValueError):
        return


def _price(listed: Any) -> Price | None:
    """Return one price of the list, with those of long requests."""
    starts = {
        tier.start
        for name in _FIELDS.values()
        for tier in getattr(getattr(listed, name, None), "tiers", ())
    }
    base = _at(listed, 0)
    # A fee for each request is in no count of tokens, so the rest would be less than the cost.
    if base is None or getattr(listed, "requests_kcount", None) is not None:
        return None
    above = {start: _at(listed, start + 1) or base for start in sorted(starts)}
    return msgspec.structs.replace(base, above=above)


def _at(listed: Any, tokens: int) -> Price | None:
    """Return the price of a request with so many tokens of input."""
    rates: dict[str, Any] = {}
    for ours, theirs in _FIELDS.items():
        value = getattr(listed, theirs, None)
        if value is not None:
            rates[ours] = float(_reached(value, tokens))
    return Price(**rates) if {"input", "output"} <= rates.keys() else None


def _reached(value: Any, tokens: int) -> Any:
    """Return a price, or of one that depends on the length of the request the one it reaches."""
    if not hasattr(value, "tiers"):
        return value
    reached = [tier.price for tier in value.tiers if tokens > tier.start]
    return reached[-1] if reached else value.base
