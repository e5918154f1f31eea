"""A ledger: what of a sum is spent and reserved, and who waits for what may still come free."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from aiollm._time_limits import Timer

PICO = 10**12
"""Parts of a dollar that are counted, as integers: what is given back is given back exactly."""

MOST = 1e9
"""The most dollars that a sum may have: more is a mistake."""


class _Waiter:
    __slots__ = ("amount", "future")

    def __init__(self, amount: int, future: asyncio.Future[bool]) -> None:
        self.amount = amount
        self.future = future


class Pool(Protocol):
    """A sum that the ledgers of several processes draw on; nothing here waits."""

    patience: float
    """Seconds that an answer may take at least."""

    def draw(self) -> None:
        """Ask for what the first in line needs."""

    def returned(self) -> None:
        """Note that less is reserved, before the line looks again."""


class Ledger:
    """A sum, in parts of a dollar: what is spent, what is reserved, and a line of those who wait.

    A reservation that never fits is refused, at once or as soon as that is known; one that may fit
    when others have been settled waits for them, first come, first served. `total` is what may be
    used here, and `most` what it can become: with a pool, all that others have not spent.
    """

    __slots__ = ("_line", "most", "pool", "reserved", "spent", "total", "waiting")

    def __init__(self, total: int) -> None:
        self.total: int = total
        self.most: int = total
        self.spent: int = 0
        self.reserved: int = 0
        self.waiting: int = 0
        self.pool: Pool | None = None
        self._line: OrderedDict[_Waiter, None] = OrderedDict()

    @property
    def used(self) -> int:
        """What is spent or reserved."""
        return self.spent + self.reserved

    @property
    def needed(self) -> int:
        """What the first in line waits for, 0 where nobody does."""
        return next(iter(self._line)).amount if self._line else 0

    async def reserve(self, amount: int, seconds: float) -> bool:
        """Reserve an amount, after at most so many seconds; False where it does not fit."""
        self.admit()  # those whose loop was closed are in nobody's way
        if self.try_reserve(amount):
            return True
        if self.pool is not None:
            seconds = max(seconds, self.pool.patience)
        if not self.may_fit(amount) or seconds <= 0:
            return False
        loop = asyncio.get_running_loop()
        waiter = _Waiter(amount, loop.create_future())
        self._line[waiter] = None
        self.waiting += amount
        if self.pool is not None:
            self.pool.draw()
        timer = None
        if seconds < math.inf:
            timer = Timer(seconds, _answer, waiter.future, False)
        try:
            return await waiter.future
        except BaseException:
            # The cancellation may come just after the grant.
            future = waiter.future
            if future.done() and not future.cancelled() and future.result():
                self.give_back(amount)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if waiter in self._line:
                del self._line[waiter]
                self.waiting -= amount
                self.admit()

    def try_reserve(self, amount: int) -> bool:
        """Reserve an amount if it fits now and nobody waits; return whether it did."""
        if amount and (self._line or not self._fits(amount)):
            return False
        self.reserved += amount
        return True

    def may_fit(self, amount: int) -> bool:
        """Return whether an amount fits once nothing is reserved any longer."""
        return not amount or self.spent + amount <= self.most

    def spend(self, amount: int, reserved: int) -> None:
        """Book an amount that was spent, `reserved` of which had been reserved."""
        self.spent += amount
        self.give_back(reserved)

    def give_back(self, amount: int) -> None:
        """Give back what was reserved, and let those who wait look again."""
        self.reserved -= amount
        if self.pool is not None:
            self.pool.returned()
        self.admit()

    def _fits(self, amount: int) -> bool:
        return self.spent + self.reserved + amount <= self.total

    def admit(self) -> None:
        """Let those who wait look whether they fit now."""
        line = self._line
        while line:
            waiter = next(iter(line))
            future = waiter.future
            waits = not (future.done() or future.get_loop().is_closed())
            fits = self._fits(waiter.amount)
            if waits and not fits and self.may_fit(waiter.amount):
                if self.pool is not None:
                    self.pool.draw()
                return
            del line[waiter]
            self.waiting -= waiter.amount
            if waits:
                self.reserved += waiter.amount if fits else 0
                future.set_result(fits)


def _answer(future: asyncio.Future[bool], answer: bool) -> None:  # noqa: FBT001
    if not future.done():
        future.set_result(answer)


def parts(usd: float, rounded: Callable[[float], int] = round) -> int:
    """Return dollars as parts that a ledger counts."""
    return rounded(min(usd, MOST) * PICO)
