"""What a call does about failures: the settings of a registry, and what a call may override."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import msgspec

from aiollm._validation import check_seconds
from aiollm.errors import ConfigError, ContentFilterError, classify
from aiollm.types import _shown

if TYPE_CHECKING:  # most calls need neither; a struct reads its annotations only to decode
    from aiollm.prices import Budget, Price  # noqa: TC004
    from aiollm.prices.book import PriceBook  # noqa: TC004

OnInterrupt: TypeAlias = Literal["raise", "restart", "continue"]
"""What happens when an answer is cut after its first output: fail, begin again, or go on."""

OnRefusal: TypeAlias = Literal["raise", "next"]
"""What happens when a provider's policy refuses the request: fail, or ask the next target."""

OnUnsupported: TypeAlias = Literal["next", "drop"]
"""What happens with files that a target does not take: ask the next one, or leave them out."""

OPTIONS = (
    "timeouts",
    "retries",
    "on_interrupt",
    "on_refusal",
    "on_unsupported",
    "stagger",
    "patience",
    "max_wait",
    "budget",
)
"""What a call may override of its registry's settings: the names of `CallOptions`."""

_WORDS = {"on_interrupt": OnInterrupt, "on_refusal": OnRefusal, "on_unsupported": OnUnsupported}


class Policy(msgspec.Struct, frozen=True):
    """How a call fails over. `retries`: more attempts after the last target failed.

    `patience`: seconds the call waits for room at most, None for its first-output deadline.
    `max_wait`: seconds of these that it waits while no failed target recovers. `stagger`: seconds
    between the starts of a race, None to learn them. `total`: seconds of the call. `budget`: what
    its attempts may cost, `book`: the prices of targets, None where nobody wants to know them.
    """

    on_interrupt: OnInterrupt = "raise"
    on_refusal: OnRefusal = "raise"
    on_unsupported: OnUnsupported = "next"
    retries: int = 2
    max_wait: float = 15.0
    stagger: float | None = None
    total: float | None = None
    patience: float | None = None
    budget: Budget | None = None
    book: PriceBook | None = None

    def __post_init__(self) -> None:
        for name, kind in _WORDS.items():
            if (word := getattr(self, name)) not in get_args(kind):
                words = ", ".join(get_args(kind))
                raise ConfigError(f"{name} is {_shown(word)}: expected one of {words}")
        if type(self.retries) is not int or self.retries < 0:
            raise ConfigError(f"retries is {_shown(self.retries)}: expected an integer from 0 up")
        check_seconds("max_wait", self.max_wait)
        for name in ("stagger", "patience"):
            if (value := getattr(self, name)) is not None:
                check_seconds(name, value)
        if self.budget is not None and not hasattr(self.budget, "reserve"):
            raise ConfigError(f"budget is {_shown(self.budget)}: expected a Budget")

    def overridden(self, options: Mapping[str, Any]) -> Policy:
        """Return the policy of a call with settings of its own. Raises: ConfigError, TypeError."""
        check_names(options, OPTIONS)
        given = {name: value for name, value in options.items() if value is not None}
        changes: dict[str, Any] = {name: given[name] for name in given.keys() - {"timeouts"}}
        timeouts = options.get("timeouts")
        if timeouts is not None:
            changes["total"] = timeouts.total
        return msgspec.structs.replace(self, **changes)

    def moves_on(self, error: Exception, *, committed: bool = False) -> bool:
        """Return whether a call may go on to its next target; `committed`: it had output."""
        if isinstance(error, ContentFilterError):
            return self.on_refusal == "next" and not committed
        return classify(error).moves_on


def book_of(prices: Mapping[str, Price | bool] | bool) -> PriceBook | None:  # noqa: FBT001
    """Return the book of prices, None where there are none to know. Raises: ConfigError."""
    if prices is False:
        return None
    from aiollm.prices.book import PriceBook  # only who wants to know prices needs it

    return PriceBook({"*": True} if prices is True else prices)


def check_names(options: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError for a keyword that is not known, with the one that may be meant."""
    for name in options:
        if name not in known:
            from aiollm._failover.unknown_keywords import unknown_keyword  # most programs need none

            raise unknown_keyword(name, known)
