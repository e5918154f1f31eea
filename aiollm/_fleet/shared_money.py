"""Budgets that all processes of a fleet share: each draws on one sum what its calls reserve.

A process draws a little ahead, and gives that back as soon as another one wants it. What it has
drawn is all it may use while Redis is away: a budget is not exceeded, so its calls wait then.
"""

from __future__ import annotations

import math
import os
import secrets
import time
import weakref
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import Any, TypeAlias

import msgspec

from aiollm._fleet import shared_scripts
from aiollm._fleet.membership import Membership
from aiollm.prices import Budget
from aiollm.prices.ledger import PICO, Ledger, parts

MICRO = PICO // 10**6
"""Parts of a dollar in each millionth of one, which Redis counts: its scripts have 53 bits."""

AHEAD = 8
"""A process draws ahead its share of what is left, divided by this."""

WISH = 2.0
"""Seconds for which a process leaves money to another that wants it; a beat renews the wish."""

BEATS = 64
"""Budgets whose state a beat tells at most; the others follow in their turn."""

Run: TypeAlias = Callable[[list[Any], Callable[[Any], None], Callable[[], None]], None]


class SharedBudget:
    """One budget, as a pool that this process's ledger draws on."""

    def __init__(
        self, budget: Budget, ledger: Ledger, key: str, member: Membership, who: str
    ) -> None:
        """Draw nothing yet; what was used before stays this process's, under the name `who`."""
        self.budget = weakref.ref(budget)
        self.ledger = ledger
        self.key = key
        self.pid = os.getpid()
        self.patience = member.timeout
        self._member: Membership | None = member
        self.who = who
        self._sum = parts(budget.usd)
        self._sent = self._done = 0
        self._refused = 0
        self._yields_until = -math.inf
        self._was_told = False
        self._hold(ledger.used)

    @property
    def is_closed(self) -> bool:
        """Whether its process has left the fleet."""
        return self._member is None

    def close(self) -> None:
        """Give back all that is not spent or reserved, and draw no more."""
        self.give_back()
        self._member = None  # the ledger refers to this, which would keep the connection alive

    def draw(self) -> None:
        """Ask for what the first in line needs, unless that was refused a moment ago."""
        ledger = self.ledger
        needed = ledger.used + ledger.needed
        if self._sent == self._done and not (self._refused and needed >= self._refused):
            self._tell(ledger.used + ledger.waiting + self._ahead())

    def returned(self) -> None:
        """Give back what is not reserved any longer where another process wants it."""
        if self._is_wanted() and self.ledger.used < self.ledger.total:
            self.give_back()

    def give_back(self) -> None:
        """Keep only what is spent and reserved, and ask again for what the line needs."""
        self._hold(self.ledger.used)
        self._tell(self.ledger.used + self.ledger.waiting if self.ledger.waiting else 0)

    def beat(self) -> bool:
        """Tell where this process stands; return whether anyone may still use the budget."""
        ledger = self.ledger
        self._refused = 0
        if self.budget() is None and not ledger.reserved and not ledger.waiting:
            self.close()
            return False
        wanted = ledger.used + ledger.waiting
        self._tell(min(ledger.total, wanted + self._ahead()) if not ledger.waiting else wanted)
        return True

    def hear(self, who: str, what: str) -> None:
        """Take what another process wants, or has given back."""
        if who == self.who:
            return
        self._refused = 0
        if what == "wanted":
            self._yields_until = time.monotonic() + WISH
            self.returned()
        else:
            self.ledger.admit()

    def _ahead(self) -> int:
        ledger = self.ledger
        if self._is_wanted() or self._member is None:
            return 0
        left = ledger.most - ledger.used - ledger.waiting
        return max(0, left // (AHEAD * self._member.processes))

    def _is_wanted(self) -> bool:
        return time.monotonic() < self._yields_until

    def _hold(self, amount: int) -> None:
        self.ledger.total = amount

    def _tell(self, wanted: int) -> None:
        """Say what is spent and held here, and how much is wanted, in all."""
        ledger, member = self.ledger, self._member
        if member is None:
            return
        held = max(ledger.total, ledger.used)
        first = ledger.used + ledger.needed if ledger.waiting else 0
        self._sent += 1
        arguments = (
            member.channel,
            self.who,
            _up(ledger.spent),
            _up(held),
            _up(max(wanted, ledger.used)),
            _up(first),
            self._sum // MICRO,
            int(self._was_told),
        )
        heard = partial(self._heard, self._sent, first)
        failed = partial(self._failed, self._sent)
        member.run(shared_scripts.money, [self.key], arguments, heard, failed)

    def _failed(self, number: int) -> None:
        self._done = max(self._done, number)

    def _heard(self, number: int, first: int, reply: Any) -> None:
        """Use what was granted, unless something else was said since: then that answer counts."""
        granted, _, spent = (int(each) * MICRO for each in reply)
        self._done = number
        self._was_told = True
        if number != self._sent or self.is_closed:
            return
        ledger = self.ledger
        ledger.most = self._sum - spent
        self._refused = first if _up(first) > granted // MICRO else 0
        self._hold(max(ledger.used, min(granted, self._sum)))
        ledger.admit()


class SharedMoney:
    """The budgets that this process shares with others; see `Purse`."""

    def __init__(self, member: Membership) -> None:
        self._member = member
        self._budgets: dict[SharedBudget, None] = {}

    @property
    def is_open(self) -> bool:
        """Whether the fleet was opened on the running loop."""
        return self._member.is_open

    async def open(self) -> None:
        """Join the fleet. Raises: ConfigError."""
        await self._member.open()

    def share(self, budget: Budget) -> None:
        """Let a budget with a name draw on the sum that all processes share."""
        ledger = budget._ledger  # noqa: SLF001 - this is the rest of a budget
        pool, who = ledger.pool, secrets.token_hex(6)
        if isinstance(pool, SharedBudget):
            if pool.pid != os.getpid():
                ledger = budget._renewed()  # noqa: SLF001
            elif pool.is_closed:
                who = pool.who
            else:
                return
        key = key_of(self._member.namespace, budget.name)
        shared = SharedBudget(budget, ledger, key, self._member, who)
        ledger.pool = shared
        self._budgets[shared] = None

    def beat(self) -> None:
        """Tell where this process stands, so that a lost message or key is made good."""
        for shared in [*islice(self._budgets, BEATS)]:
            del self._budgets[shared]
            if shared.beat():
                self._budgets[shared] = None

    def hear(self, data: bytes) -> None:
        """Take what another process wants, or has given back."""
        try:
            _, key, who, what = msgspec.json.decode(data, type=tuple[str, str, str, str])
        except msgspec.DecodeError:
            return
        for shared in [each for each in self._budgets if each.key == key]:
            shared.hear(who, what)

    def forked(self) -> None:
        """Forget the budgets of the process that forked; `share` begins them anew."""
        self._budgets.clear()

    def close(self) -> None:
        """Give back all that is not spent or reserved."""
        budgets, self._budgets = self._budgets, {}
        for shared in budgets:
            shared.close()


def key_of(namespace: str, name: str) -> str:
    """Return a budget's key, which does not show its name."""
    return f"{{aiollm:1:{namespace}:{id_of(namespace, name)}}}m"


def id_of(namespace: str, name: str) -> str:
    """Return what stands for a budget's name in Redis."""
    digest = blake2b(name.encode("utf-8", "surrogatepass"), key=namespace.encode()[:64])
    return digest.hexdigest()[:16]


def _up(amount: int) -> int:
    return -(-amount // MICRO)
