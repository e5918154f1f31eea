"""A budget: a sum of money that any number of calls share and do not exceed."""

from __future__ import annotations

import asyncio
import math
import os
import weakref

from aiollm.errors import BudgetError, ConfigError
from aiollm.prices.ledger import MOST, PICO, Ledger, parts
from aiollm.types import _shown


class Budget:
    """A sum in US dollars that calls share: `budget=` of calls, streams, images and runs.

    Before a call sends anything, it reserves what it may cost at most; when it has ended, it books
    what it did cost, and gives back the rest. A call that would exceed the sum is a BudgetError. A
    call that may fit once others have ended waits for them, as long as its `patience` lasts.
    With a `name`, all processes of a fleet that use this name share the sum; without a fleet it is
    this process's own. A budget belongs to one event loop at a time: while calls of one have
    something reserved, those of another raise ConfigError.
    Raises: ConfigError unless `usd` is from 0 up.

        budget = Budget(usd=2.0)
        answers = [await reg.generate(spec, each, budget=budget) for each in questions]
    """

    __slots__ = ("__weakref__", "_ledger", "_loop", "_owner", "name", "usd")

    def __init__(self, usd: float, *, name: str = "") -> None:
        if type(usd) not in (int, float) or not 0 <= usd <= MOST:
            raise ConfigError(f"Budget.usd is {_shown(usd)}: expected dollars from 0 to {MOST:.0f}")
        if type(name) is not str:
            raise ConfigError(f"Budget.name is {_shown(name)}: expected a text")
        self.usd: float = float(usd)
        self.name: str = name
        self._ledger = Ledger(parts(usd))
        self._owner = os.getpid()
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None

    @property
    def spent(self) -> float:
        """Dollars that calls have cost so far; of an answer without counts, what it may have.

        Of a shared budget, what other processes spent is up to a second old.
        """
        ledger = self._ledger
        return (parts(self.usd) - ledger.most + ledger.spent) / PICO

    @property
    def reserved(self) -> float:
        """Dollars that calls under way may still cost."""
        return self._ledger.reserved / PICO

    @property
    def left(self) -> float:
        """Dollars neither spent nor reserved; below 0 where more was billed than could be."""
        ledger = self._ledger
        return (ledger.most - ledger.used) / PICO

    async def reserve(self, usd: float, *, patience: float = 60.0) -> Reservation:
        """Reserve dollars, after at most `patience` seconds, for costs of your own.

        Raises: BudgetError where they do not fit, ConfigError on the wrong event loop.
        """
        amount = parts(usd, math.ceil)
        self._bind_loop()
        ledger = self._ledger
        if not await ledger.reserve(amount, patience):
            raise self._refusal(usd, may_fit=ledger.may_fit(amount))
        return Reservation(ledger, amount)

    def _bind_loop(self) -> None:
        """Belong to the running loop. Raises: ConfigError where another one uses this budget."""
        loop = asyncio.get_running_loop()
        known = None if self._loop is None else self._loop()
        if known is loop:
            return
        ledger = self._ledger
        if self._owner != os.getpid():
            # What calls of the parent have reserved is not given back in this process.
            self._owner = os.getpid()
            if ledger.pool is None:
                self._renewed().spent = ledger.spent
        elif known is not None and known.is_running() and (ledger.reserved or ledger.waiting):
            # A grant would wake nobody on another loop, and sums would not add up.
            raise ConfigError(
                "this Budget is in use on another event loop: make one Budget per loop, or run "
                "all its calls on one"
            )
        self._loop = weakref.ref(loop)

    def _renewed(self) -> Ledger:
        """Begin anew in a process that was forked, with nothing spent or reserved."""
        self._ledger = Ledger(parts(self.usd))
        return self._ledger

    def _refusal(self, usd: float, *, may_fit: bool) -> BudgetError:
        reason = f"this may cost ${usd:.6g}; of ${self.usd:.6g}, ${self.spent:.6g} are spent"
        if not may_fit:
            advice = "raise the budget, or limit the answer with max_output_tokens"
            return BudgetError(f"{reason}: {advice}")
        late = "when the call's patience ended"
        if self._ledger.pool is not None:
            held = "calls of all processes still reserved the rest, or their Redis did not answer,"
            return BudgetError(f"{reason}; {held} {late}")
        return BudgetError(f"{reason} and ${self.reserved:.6g} were still reserved {late}")

    def __repr__(self) -> str:
        return f"Budget(usd={self.usd:g}, spent={self.spent:.6g}, reserved={self.reserved:.6g})"


class Reservation:
    """A part of a budget that is set aside; `spend` what it was for, then `release` the rest."""

    __slots__ = ("_amount", "_ledger")

    def __init__(self, ledger: Ledger, amount: int) -> None:
        self._ledger = ledger
        self._amount = amount

    @property
    def usd(self) -> float:
        """Dollars that are still set aside."""
        return self._amount / PICO

    def spend(self, usd: float) -> None:
        """Book dollars that were spent, of what is set aside as far as it goes."""
        amount = parts(usd)
        covered = min(amount, self._amount)
        self._amount -= covered
        self._ledger.spend(amount, covered)

    def top_up(self, usd: float) -> bool:
        """Set aside so many dollars again if they fit now; return whether they do."""
        more = parts(usd, math.ceil) - self._amount
        if more > 0:
            if not self._ledger.try_reserve(more):
                return False
            self._amount += more
        return True

    def release(self) -> None:
        """Give back what is still set aside; idempotent."""
        amount, self._amount = self._amount, 0
        if amount:
            self._ledger.give_back(amount)
