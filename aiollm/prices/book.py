"""The prices that a registry knows: those that were given, and the list of genai-prices."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiollm.errors import ConfigError
from aiollm.prices.price import Price
from aiollm.types import Target, _shown

if TYPE_CHECKING:
    from aiollm.prices.listed import Listed

SLICE = 900.0
"""Seconds for which a listed price holds: some change with the hour, a few on the half hour."""

MOST = 4096
"""Prices that are remembered; a service may be asked for any model name."""


class PriceBook:
    """Prices by patterns of targets, the most exact first; each is looked up once."""

    __slots__ = ("_known", "_listed", "_patterns", "_until", "_wants_list")

    def __init__(self, prices: Mapping[str, Price | bool]) -> None:
        """Take patterns such as `box/*`; True stands for the list. Raises: ConfigError."""
        if not isinstance(prices, Mapping):
            raise ConfigError(f"prices is {_shown(prices)}: expected True or a mapping to prices")
        ordered = sorted(prices.items(), key=_exactness, reverse=True)
        self._patterns = [
            (_compiled(pattern), _checked(pattern, each)) for pattern, each in ordered
        ]
        self._wants_list = any(each is True for _, each in self._patterns)
        self._listed: Listed | None = None
        self._known: dict[tuple[Target, str], Price | None] = {}
        self._until = 0.0
        if self._wants_list:
            from aiollm.prices.listed import check_installed

            check_installed()

    @property
    def is_loaded(self) -> bool:
        """Whether all prices can be looked up."""
        return self._listed is not None or not self._wants_list

    async def load(self) -> None:
        """Load the list, in a thread: that takes some 0.4 s. Raises: ConfigError."""
        if not self.is_loaded:
            from aiollm.prices.listed import load

            self._listed = await asyncio.to_thread(load)
            self._known.clear()

    def price(self, target: Target, base_url: str) -> Price | None:
        """Return the price of a target of that server now, None where it is not known."""
        key = (target, base_url)
        if self._wants_list and time.time() >= self._until:
            self._until = (time.time() // SLICE + 1) * SLICE
            self._known.clear()
        try:
            return self._known[key]
        except KeyError:
            pass
        if len(self._known) >= MOST:
            self._known.clear()
        found = self._known[key] = self._looked_up(target, base_url)
        return found

    def _looked_up(self, target: Target, base_url: str) -> Price | None:
        name = str(target)
        for pattern, price in self._patterns:
            if pattern.fullmatch(name):
                if isinstance(price, Price):
                    return price
                listed = self._listed if price else None
                return None if listed is None else listed.price(target.model, base_url)
        return None


def _exactness(item: tuple[Any, Any]) -> tuple[int, int]:
    """Return how exact a pattern is: by the characters that are not wildcards."""
    pattern = item[0] if isinstance(item[0], str) else ""
    stars = pattern.count("*")
    return len(pattern) - stars, -stars


def _compiled(pattern: Any) -> re.Pattern[str]:
    if not isinstance(pattern, str) or not (pattern == "*" or "/" in pattern):
        shown = _shown(pattern)
        raise ConfigError(f"prices has the key {shown}: expected a target such as 'box/*' or '*'")
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)


def _checked(pattern: str, price: Any) -> Price | bool:
    if not isinstance(price, Price | bool):
        raise ConfigError(
            f"prices[{pattern!r}] is {_shown(price)}: expected a Price, or True for the list"
        )
    return price
