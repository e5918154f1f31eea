"""A price: what the tokens and images of a model cost, and what a request costs at most."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import astuple

from aiollm.errors import ConfigError
from aiollm.types import Usage, _shown

MILLION = 1_000_000


class Price(msgspec.Struct, frozen=True):
    """What a model costs, in US dollars for a million tokens; `image` is for each image made.

    `cached`: input read from a cache; `cache_write`: input written to one, `cache_write_1h` for an
    hour or longer; `input_image`, `input_audio`, `output_image`: tokens of images and audio. Each
    of these that is None costs as `input`, `cache_write_1h` as `cache_write`, and `output_image` as
    `output`. `above`: prices of all tokens of a request whose input has more tokens than the key.
    `tiers`: prices by what served the request (`usage.tier`), such as `batch`, `flex`, `priority`.
    Raises: ConfigError for a price that is not a number from 0 up.

        Price(1.75, 14, cached=0.175, tiers={"flex": Price(0.875, 7, cached=0.0875)})
    """

    input: float
    output: float
    cached: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None
    input_image: float | None = None
    input_audio: float | None = None
    output_image: float | None = None
    image: float = 0.0
    above: Mapping[int, Price] = {}
    tiers: Mapping[str, Price] = {}

    def __post_init__(self) -> None:
        for name in _RATES:
            value = getattr(self, name)
            if not (_is_amount(value) or (value is None and name in _OPTIONAL)):
                raise ConfigError(f"Price.{name} is {_shown(value)}: expected dollars from 0 up")
        for name, key in (("above", int), ("tiers", str)):
            _check_prices(name, key, getattr(self, name))

    def usd(self, usage: Usage, images: int = 0) -> float:
        """Return the dollars that so many tokens and images cost."""
        price = self.tiers.get(usage.tier, self) if self.tiers else self
        try:
            return price._above(usage.input_tokens)._usd(usage, images)  # noqa: SLF001 - its own class
        except OverflowError:  # a server may count with hundreds of digits
            return math.inf

    def max_usd(self, input_tokens: float, output_tokens: float, images: int = 0) -> float:
        """Return the dollars that a request costs at most, in whichever tier and cache."""
        prices = self._all(input_tokens)
        return max(each._most(input_tokens, output_tokens, images) for each in prices)  # noqa: SLF001

    def _above(self, tokens: float) -> Price:
        if not self.above:
            return self
        reached = [start for start in self.above if tokens > start]
        return self.above[max(reached)] if reached else self

    def _all(self, tokens: float) -> Iterator[Price]:
        yield self
        yield from (price for start, price in self.above.items() if tokens > start)
        for price in self.tiers.values():
            yield from price._all(tokens)  # noqa: SLF001 - of its own class

    def _usd(self, usage: Usage, images: int) -> float:
        given, made, cached, _, _, *others = astuple(usage)
        if any(others[:_KINDS]) or cached < 0 or made < 0:
            return self._tokens(usage) / MILLION + images * self.image
        # Most answers have no more than this, so look no further.
        tokens: float = max(0, given - cached) * self.input + made * self.output
        if cached:
            tokens += cached * _or(self.cached, self.input)
        return tokens / MILLION + images * self.image

    def _tokens(self, usage: Usage) -> float:
        given, made, cached, _, _, *others = astuple(usage)
        counts = (given, made, cached, *others[:_KINDS])
        given, made, cached, written, long, pictures, sounds, drawn = [
            max(0, count) for count in counts
        ]
        # Some relays do not include them in the input, hence the 0.
        fresh = max(0, given - cached - written)
        pictures = min(fresh, pictures)
        sounds = min(fresh - pictures, sounds)
        long, drawn = min(written, long), min(made, drawn)
        write = _or(self.cache_write, self.input)
        tokens: float = (
            (fresh - pictures - sounds) * self.input
            + pictures * _or(self.input_image, self.input)
            + sounds * _or(self.input_audio, self.input)
            + cached * _or(self.cached, self.input)
            + (written - long) * write
            + long * _or(self.cache_write_1h, write)
            + (made - drawn) * self.output
            + drawn * _or(self.output_image, self.output)
        )
        return tokens

    def _most(self, input_tokens: float, output_tokens: float, images: int) -> float:
        dearest_in = max(getattr(self, name) or 0.0 for name in _INPUTS)
        dearest_out = max(self.output, self.output_image or 0.0)
        tokens = input_tokens * dearest_in + output_tokens * dearest_out
        return tokens / MILLION + images * self.image


_KINDS = 5
"""How many fields of a usage, from the sixth, count tokens of rarer kinds."""

_INPUTS = ("input", "cached", "cache_write", "cache_write_1h", "input_image", "input_audio")
_RATES = (*_INPUTS, "output", "output_image", "image")
_OPTIONAL = {*_INPUTS, "output_image"} - {"input"}


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _is_amount(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf  # type: ignore[operator]


def _check_prices(name: str, key: type, prices: Any) -> None:
    if not isinstance(prices, Mapping):
        raise ConfigError(f"Price.{name} is {_shown(prices)}: expected a mapping to prices")
    for each, price in prices.items():
        if type(each) is not key or not isinstance(price, Price):
            wanted = f"a {key.__name__} and a Price"
            raise ConfigError(f"Price.{name} maps {_shown(each)} to {_shown(price)}: not {wanted}")
