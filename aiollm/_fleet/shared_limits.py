"""Keeps the calls of this process within limits that its fleet shares.

Rates are reservations: Redis answers when a call may go, and has booked that moment. Slots are
state: every message says how many streams this process holds now, so that a lost one heals.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from aiollm._failover.fleet_gate import FleetGate
from aiollm._failover.lines import Line, Scope
from aiollm._failover.meter import BURST, MINUTE
from aiollm._failover.sharing import Grant, Verdict
from aiollm._failover.tickets import Demand
from aiollm._fleet import scripts
from aiollm._fleet.alone import Learnt, expected
from aiollm._fleet.in_use import IDLE, InUse
from aiollm._fleet.membership import Membership, scope_name
from aiollm._fleet.messages import answer_in, bookings_of, changes_of, explain, number_of
from aiollm._fleet.shared_refusals import SharedRefusals
from aiollm._fleet.shared_scopes import SharedScope
from aiollm._wire.quota import Kind, Quota

LEASE = 3.0
"""Seconds after its last message for which a process counts as holding its slots."""

LATE_LOOP = 0.01
"""Seconds by which this process's own loop may be late, so that it is not Redis that is slow."""

RETIMED = 20
"""How often the timer for an answer begins anew while this process's loop is late."""

TELLS_EVERY = 1.0
"""Seconds between two messages about the size of a target's requests; more in a fleet of many."""

DIFFERS = 0.05
"""By how much of itself an estimate has to have moved to be worth a message."""

COUNTS_LATE = 1.0
"""Seconds' worth of a limit that a server may count beyond what was booked: answers take time."""

LONG_AGO = 1.0
"""Seconds after which what a call took without an answer is not booked any more."""

ASKS = 256
"""Unused scopes that are asked about when Redis is back; others are when they are used again."""

MAX_SLOTS = 1e6

MAX_BLOCK = 3600.0
"""Seconds for which a 429 may keep a target back: as many as its own process believes."""

_SECOND = 1e6


class SharedLimits:
    """The limits of a gate that others share; see `Limiter`."""

    def __init__(self, gate: FleetGate, member: Membership) -> None:
        self._gate = gate
        self._member = member
        self.scopes: InUse[str, SharedScope] = InUse(gate.now)
        self._refusals = SharedRefusals(member, self._run)
        self._share = 1
        self._lost_at: float | None = None

    def bounds(self, line: Line) -> bool:
        """Return whether the fleet decides when a target is asked."""
        if self._member.away or self._is_refused(line.scope):
            return self._asks_for_slots(line.scope)
        return line.scope.is_bounded or bool(line.meters)

    def _asks_for_slots(self, scope: Scope) -> bool:
        """Return whether Redis has to be asked for a slot, however slow it is.

        A process that took one by itself would do so beside others who still use all of them.
        """
        is_asked = self._member.is_slow or not self._member.away
        return scope.slots is not None and is_asked and not self._is_refused(scope)

    def _is_refused(self, scope: Scope) -> bool:
        """Return whether Redis refuses what has to be asked of it."""
        refusals = self._member.refusals
        return bool(refusals) and scope.shared is not None and scope.shared.name + "q" in refusals

    def use(self, line: Line) -> None:
        """Note that a call wants to go to a target; what was forgotten of it is asked for."""
        shared = line.scope.shared
        if shared is None or shared.lines.get(line.target) is not line:
            self.declare(line)
        elif shared.name not in self.scopes.active:
            self._begin(shared)

    def declare(self, line: Line) -> None:
        """Note a target that this process uses, and ask for what others learnt of it."""
        if line.scope.shared is None:
            name = f"{{aiollm:1:{self._member.namespace}:{scope_name(line, self._member)}}}"
            if (shared := self.scopes.get(name)) is None:
                self.scopes.add(name, shared := SharedScope(name))
            shared.take(line.scope)
            line.scope.shared = shared
        shared = line.scope.shared
        is_new = line.target not in shared.lines
        shared.lines[line.target] = line
        line.pace.is_shared = True
        self._begin(shared)
        if is_new:
            self._ask_learnt(shared)

    def _begin(self, shared: SharedScope) -> None:
        """Count a scope as in use."""
        self.scopes.use(shared.name)
        self._divide(shared)
        if self._lost_at is not None and not self._asks_for_slots(shared.scopes[-1]):
            shared.decides_alone(self._share, self._lost_at)

    def _of(self, line: Line) -> SharedScope:
        """Return the scope of a target, which is in use from now on."""
        if line.scope.shared is None:
            self.declare(line)
        shared: SharedScope = line.scope.shared
        if shared.name not in self.scopes.active:
            self._begin(shared)
        return shared

    def _ask_learnt(self, shared: SharedScope) -> None:
        if not self._member.away:
            self._run(scripts.learnt, shared, [], self._heard_all, count=1)

    def joined(self) -> None:
        """Say what is held here, and ask for what others learnt."""
        self._lost_at = None
        now = self._gate.now()
        self._forget(0.0)
        unused = [each for each in self.scopes if not each.joins(self._share, now)]
        for shared in unused[:-ASKS]:
            self.scopes.rest(shared.name)
        self._forget(0.0)
        for shared in self.scopes:
            self._ask_learnt(shared)
            self._say_sent(shared, now)
        self.beat()

    def _say_sent(self, shared: SharedScope, now: float) -> None:
        """Book what was sent without Redis, which would let a burst of each process follow it."""
        for field, until in shared.sent.items():
            if until > now:
                arguments = [self._member.channel, field, int((until - now) * _SECOND), 1]
                self._run(scripts.learn, shared, arguments, None, count=1)

    def _forget(self, seconds: float = IDLE) -> None:
        """Forget scopes that have not been used for so long; a call that uses one joins again."""
        for _, shared in self.scopes.forget(seconds):
            for scope in shared.scopes:
                scope.shared = None

    def ask(
        self, line: Line, demand: Demand, patience: float, then: Callable[[Grant], None]
    ) -> Grant:
        """Ask for the right to one attempt within `patience` seconds; `then` takes the answer."""
        shared, grant = self._of(line), Grant(line)
        grant.bookings = bookings_of(line, demand)
        grant.at = self._gate.now()
        loop, seconds = asyncio.get_running_loop(), self._member.timeout
        shared.asked.add(grant)
        timer = loop.call_later(seconds, self._late, grant, then, loop.time() + seconds, RETIMED)
        answer = partial(self._answer, grant, then, timer)
        arguments = self._entry(shared, grant, patience)
        self._run(scripts.enter, shared, arguments, answer, failed=partial(answer, None))
        return grant

    def _entry(self, shared: SharedScope, grant: Grant, patience: float) -> list[Any]:
        """Return what Redis has to know of an attempt."""
        line, now = grant.line, grant.at
        slots, promised = line.scope.slots, shared.promised(now)
        arguments: list[Any] = [
            self._member.channel,
            self._member.process,
            int(LEASE * _SECOND),
            int(min(3600.0, max(0.0, patience)) * _SECOND),
            number_of(slots),
            line.target.model,
        ]
        for field, _, limit, units in grant.bookings:
            ahead = promised.get(field, now) - now
            arguments += [field, limit, units, max(0, int(ahead * _SECOND))]
        return arguments

    def _answer(
        self,
        grant: Grant,
        then: Callable[[Grant], None],
        timer: asyncio.TimerHandle,
        reply: Any,
    ) -> None:
        timer.cancel()
        shared = self._of(grant.line)
        shared.asked.discard(grant)
        now = self._gate.now()
        was, is_stale, (state, wait, ahead) = (
            grant.state,
            now - grant.at > LONG_AGO,
            answer_in(reply),
        )
        if was != "asked" and state != "granted":
            return  # it came too late, and there is nothing to return
        # Counted from the question, or each late answer would move the promise on.
        grant.ahead = [grant.at + seconds for seconds in ahead]
        grant.state, grant.wait, grant.at = state, wait, now
        if was == "over":
            self.leave(grant, None if is_stale else grant.spent)
        elif was == "alone" and is_stale:
            # Where Redis stood still, what was taken is long gone, and it would count from now.
            self._tell(shared, "0", changes_of(grant, None))
            grant.bookings = []
        elif was == "asked":
            if state == "granted":
                shared.granted.add(grant)
            explain(grant)
            then(grant)
            if state == "aside" and not self._gate.wants_slot(grant.line.scope):
                self.quit(grant.line)

    def promised(self, line: Line) -> float:
        """Return until when the fleet has promised moments to calls of this process.

        What a process decides alone goes after them: others hold promises up to about then.
        """
        shared = line.scope.shared
        if shared is None:
            return 0.0
        ahead = [max(grant.ahead, default=0.0) for grant in shared.granted]
        return max(max(ahead, default=0.0) - BURST, shared.alone_from or 0.0)

    def _late(self, grant: Grant, then: Callable[[Grant], None], due: float, times: int) -> None:
        """Decide alone where no answer came in time."""
        if (shared := grant.line.scope.shared) is None or grant not in shared.asked:
            return
        loop, seconds = asyncio.get_running_loop(), self._member.timeout
        now = loop.time()
        if times and now - due > LATE_LOOP:
            # It is this loop that is late: the answer may have come, and is not read yet.
            loop.call_later(seconds, self._late, grant, then, now + seconds, times - 1)
            return
        self._member.late(seconds)
        if self._asks_for_slots(grant.line.scope):
            loop.call_later(seconds, self._late, grant, then, now + seconds, RETIMED)
            return
        if grant.state == "asked":
            grant.state = "alone"
            grant.line.fleet_says = None
            grant.at = self._gate.now()
            then(grant)

    def give_back(self, grant: Grant) -> None:
        """Return what was asked for or granted, and not used."""
        self.used(grant)
        self.leave(grant, None)

    def used(self, grant: Grant) -> None:
        """Note that an attempt holds what was granted."""
        if (shared := grant.line.scope.shared) is not None:
            shared.granted.discard(grant)

    def leave(self, grant: Grant, spent: dict[Kind, float] | None, verdict: Verdict = "") -> None:
        """Note the end of an attempt with the units that it took, None for none."""
        changes = changes_of(grant, spent) if grant.state == "granted" else []
        slots = int(grant.state == "granted" and grant.line.scope.slots is not None)
        grant.state, grant.spent = "over", spent
        if changes or slots:
            self._tell(self._of(grant.line), str(slots), changes, verdict)

    def quit(self, line: Line) -> None:
        """Note that no call of this process waits for a scope any more."""
        if line.scope.slots is not None:
            self._tell(self._of(line), "0")

    def _tell(
        self, shared: SharedScope, slots: str, changes: Sequence[Any] = (), verdict: Verdict = ""
    ) -> None:
        arguments = [
            self._member.channel,
            self._member.process,
            int(LEASE * _SECOND),
            slots,
            number_of(shared.slots),
            int(self._wants_slot(shared)),
            verdict,
            *changes,
        ]
        self._run(scripts.leave, shared, arguments, None)

    def _wants_slot(self, shared: SharedScope) -> bool:
        return any(map(self._gate.wants_slot, shared.scopes))

    def beat(self) -> None:
        """Say which slots this process holds; what was lost on the way heals."""
        for shared in [*self.scopes.active.values()]:
            self._divide(shared)  # for limits learnt meanwhile, too
            if shared.slots is not None:
                # While answers are under way, nobody knows what their sum will be.
                self._tell(shared, "0" if shared.asked else f"={shared.held}")
            if not shared.is_busy:
                self.scopes.rest(shared.name)
        self._forget()

    def learnt(self, line: Line, quota: Quota) -> None:
        """Tell the others a limit that a target announced, and where it counts more than they."""
        shared, limit, model = self._of(line), quota.per_minute, line.target.model
        if shared.told.get((line.target, quota.kind)) != limit:
            shared.told[line.target, quota.kind] = limit
            self._learn(line, f"limit|{model}|{quota.kind}", repr(limit))
        if quota.remaining is None:
            return
        field = f"at|{model}|{quota.kind}"
        gone = (1 - min(1.0, quota.remaining / limit)) * MINUTE
        now = self._gate.now()
        ahead = shared.promised(now).get(field, 0.0) - now
        if gone > max(0.0, ahead) + COUNTS_LATE:
            self._learn(line, field, int(gone * _SECOND), is_time=True)

    def estimated(self, line: Line) -> None:
        """Tell the others what was learnt of the tokens that requests take."""
        shared, now = self._of(line), self._gate.now()
        learnt = line.estimate.learnt
        told_at, told = shared.sizes.get(line.target, (-math.inf, 0.0))
        tokens = expected(learnt)
        is_due = now - told_at >= TELLS_EVERY * max(1.0, self._share / 8)
        if learnt[-1] and is_due and abs(tokens - told) > DIFFERS * told:
            shared.sizes[line.target] = now, tokens
            value = msgspec.json.encode(learnt).decode()
            self._learn(line, f"size|{line.target.model}", value)

    def _learn(self, line: Line, field: str, value: str | int, *, is_time: bool = False) -> None:
        arguments = [self._member.channel, field, value, int(is_time)]
        self._run(scripts.learn, self._of(line), arguments, None, count=1)

    def blocked(self, line: Line, seconds: float) -> None:
        """Tell the others that a 429 keeps a target back."""
        self._gate.take_back(line)
        self._learn(line, f"until|{line.target.model}", int(seconds * _SECOND), is_time=True)

    def woken(self, name: str) -> None:
        """Ask again: slots are free."""
        if (shared := self.scopes.get(name.removesuffix("q"))) is not None:
            for scope in shared.scopes:
                self._gate.has_room(scope)
            if not self._wants_slot(shared):
                self._tell(shared, "0")  # and the next in line is woken

    def _heard_all(self, reply: Any) -> None:
        for each in reply:
            self.hear(each)

    def hear(self, data: bytes) -> None:
        """Take what another process learnt."""
        try:
            _, name, field, value = msgspec.json.decode(data, type=tuple[str, str, str, str])
            shared = self.scopes.get(name.removesuffix("q"))
            if shared is not None:
                self._heard(shared, field, value)
        except (ValueError, msgspec.DecodeError):
            return

    def _heard(self, shared: SharedScope, field: str, value: str) -> None:
        """Take a value. Raises: ValueError for one that is none."""
        what, _, rest = field.partition("|")
        for scope in shared.scopes:
            if what == "slots" and scope.slots is not None and scope.slots.is_shared:
                scope.slots.limit = min(MAX_SLOTS, max(1.0, float(value)))
        for line in shared.lines.values():
            model, _, kind = rest.rpartition("|") if what == "limit" else (rest, "", "")
            if model == line.target.model:
                self._heard_of(shared, line, what, kind, value)
        self._pump(shared)

    def _pump(self, shared: SharedScope) -> None:
        for scope in shared.scopes:
            self._gate.pump(scope)

    def _heard_of(self, shared: SharedScope, line: Line, what: str, kind: str, value: str) -> None:
        match what:
            case "limit":
                line.heard_limit(kind, float(value))  # type: ignore[arg-type]
            case "until":
                seconds = float(value) / _SECOND
                if 0 < seconds <= MAX_BLOCK:
                    self._gate.take_back(line)
                    line.block(now := self._gate.now(), now + seconds)
                    self._refusals.blocked(shared, line, seconds)
            case "size":
                line.estimate.adopt(*msgspec.json.decode(value, type=Learnt))
                shared.sizes[line.target] = self._gate.now(), expected(line.estimate.learnt)
            case _:
                pass

    def set_share(self, processes: int) -> None:
        """Let this process use an equal share of each limit where it decides alone."""
        self._share = processes
        for shared in self.scopes.active.values():
            self._divide(shared)

    def _divide(self, shared: SharedScope) -> None:
        shared.divide(self._share, is_shared=self._asks_for_slots(shared.scopes[-1]))

    def forget_loop(self) -> None:
        """Forget what calls of an earlier loop asked for and got: none of them goes on."""
        for shared in self.scopes:
            shared.granted.clear()
            shared.asked.clear()
            shared.lines.clear()

    def lost(self) -> None:
        """Decide alone from now on."""
        self._lost_at = self._gate.now()
        for shared in [*self.scopes.active.values()]:
            self._begin(shared)
            if not self._asks_for_slots(shared.scopes[-1]):
                self._pump(shared)

    def _run(
        self,
        script: scripts.Script,
        shared: SharedScope,
        arguments: list[Any],
        then: Callable[[Any], None] | None,
        *,
        failed: Callable[[], None] | None = None,
        count: int = 4,
    ) -> None:
        keys = [shared.name + end for end in "qpnw"[:count]]
        ended = partial(self._failed, shared, failed)
        self._member.run(script, keys, arguments, then, ended)

    def _failed(self, shared: SharedScope, failed: Callable[[], None] | None) -> None:
        """Let calls go by what this process knows where Redis refuses to say."""
        if failed is not None:
            failed()
        if shared.name + "q" in self._member.refusals:
            self._divide(shared)
            for line in shared.lines.values():
                line.fleet_says = None
            self._pump(shared)
