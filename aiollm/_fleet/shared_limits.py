"""Keeps the calls of this process within limits that its fleet shares.

Rates are reservations: Redis answers when a call may go, and has booked that moment. Slots are
state: every message says how many streams this process holds now, so that a lost one heals.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec

from aiollm._failover.fleet_gate import FleetGate
from aiollm._failover.lines import Line, Scope
from aiollm._failover.meter import BURST, MINUTE
from aiollm._failover.sharing import Grant, Verdict
from aiollm._failover.tickets import Demand
from aiollm._fleet import scripts
from aiollm._fleet.alone import Learnt, expected, meters_of, sent_until, turn
from aiollm._fleet.membership import Membership, scope_name
from aiollm._fleet.messages import answer_in, changes_of, number_of
from aiollm._wire.quota import Kind, Quota
from aiollm.types import Target

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

MAX_SLOTS = 1e6

MAX_BLOCK = 3600.0
"""Seconds for which a 429 may keep a target back: as many as its own process believes."""

_SECOND = 1e6


class SharedLimits:
    """The limits of a gate that others share; see `Limiter`."""

    def __init__(self, gate: FleetGate, member: Membership) -> None:
        self._gate = gate
        self._member = member
        self._scopes: dict[str, Scope] = {}
        self._targets: set[Target] = set()
        self._names: dict[Scope, str] = {}
        self._granted: dict[Scope, set[Grant]] = {}
        self._asked: set[Grant] = set()
        self._share = 1
        self._told: dict[tuple[Target, Kind], float] = {}
        self._sizes: dict[Target, tuple[float, float]] = {}
        self._sent: dict[Scope, dict[str, float]] = {}
        self._alone_from: dict[Scope, float] = {}

    def bounds(self, line: Line) -> bool:
        """Return whether the fleet decides when a target is asked."""
        if self._member.away:
            return self._asks_for_slots(line.scope)
        return line.scope.is_bounded or bool(line.meters)

    def _asks_for_slots(self, scope: Scope) -> bool:
        """Return whether Redis has to be asked for a slot, however slow it is.

        A process that took one by itself would do so beside others who still use all of them.
        """
        return scope.slots is not None and (self._member.is_slow or not self._member.away)

    def declare(self, line: Line) -> None:
        """Note a target that this process uses, and ask for what others learnt of it."""
        name = self._names.get(line.scope)
        if name is None:
            name = f"{{aiollm:1:{self._member.namespace}:{scope_name(line, self._member)}}}"
            self._names[line.scope] = name
            self._scopes[name + "q"] = line.scope
        self._divide(line.scope)
        if line.target not in self._targets:
            self._targets.add(line.target)
            self._ask_learnt(line.scope)

    def _ask_learnt(self, scope: Scope) -> None:
        if not self._member.away:
            self._run(scripts.learnt, scope, [], self._heard_all, count=1)

    def joined(self) -> None:
        """Say what is held here, and ask for what others learnt."""
        self._told.clear()
        self._sizes.clear()
        self._alone_from.clear()
        now = self._gate.now()
        for scope in self._names:
            meters = meters_of(self._gate.lines_of(scope))
            self._sent[scope] = {
                field: sent_until(meter, self._share, now) for field, meter in meters.items()
            }
        self.beat()
        for scope in self._names:
            self._ask_learnt(scope)

    def ask(
        self, line: Line, demand: Demand, patience: float, then: Callable[[Grant], None]
    ) -> Grant:
        """Ask for the right to one attempt within `patience` seconds; `then` takes the answer."""
        grant = Grant(line)
        grant.bookings = [*self._bookings(line, demand)]
        grant.at = self._gate.now()
        scope = line.scope
        loop = asyncio.get_running_loop()
        seconds = self._member.timeout
        self._asked.add(grant)
        timer = loop.call_later(seconds, self._late, grant, then, loop.time() + seconds, RETIMED)
        answer = partial(self._answer, grant, then, timer)
        arguments = self._entry(grant, patience)
        self._run(scripts.enter, scope, arguments, answer, failed=partial(answer, None))
        return grant

    def _entry(self, grant: Grant, patience: float) -> list[Any]:
        """Return what Redis has to know of an attempt."""
        line, now = grant.line, grant.at
        slots, promised = line.scope.slots, self._promised(line.scope)
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

    def _promised(self, scope: Scope) -> dict[str, float]:
        """Return up to when each meter is booked, as far as it is known here: Redis may forget it.

        Only calls that wait count, for others may have returned what they had booked.
        """
        found = {**self._sent.get(scope, {})}
        for grant in self._granted.get(scope, ()):
            for (field, _, _, _), moment in zip(grant.bookings, grant.ahead, strict=False):
                found[field] = max(found.get(field, 0.0), moment)
        return found

    @staticmethod
    def _bookings(line: Line, demand: Demand) -> Iterator[tuple[str, Kind, float, float]]:
        for meters, prefix in ((line.scope.meters, ""), (line.meters, f"{line.target.model}|")):
            for kind, meter, units in line.needs(demand, meters):
                yield f"at|{prefix}{kind}", kind, meter.limit, units

    def _answer(
        self,
        grant: Grant,
        then: Callable[[Grant], None],
        timer: asyncio.TimerHandle,
        reply: Any,
    ) -> None:
        timer.cancel()
        scope = grant.line.scope
        self._asked.discard(grant)
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
            self._tell(scope, "0", changes_of(grant, None))
            grant.bookings = []
        elif was == "asked":
            if state == "granted":
                self._granted.setdefault(scope, set()).add(grant)
            self._explain(grant)
            then(grant)
            if state == "aside" and not self._gate.wants_slot(scope):
                self.quit(grant.line)

    def promised(self, line: Line) -> float:
        """Return until when the fleet has promised moments to calls of this process.

        What a process decides alone goes after them: others hold promises up to about then.
        """
        ahead = [max(grant.ahead, default=0.0) for grant in self._granted.get(line.scope, ())]
        return max(max(ahead, default=0.0) - BURST, self._alone_from.get(line.scope, 0.0))

    @staticmethod
    def _explain(grant: Grant) -> None:
        """Note why there is no room, for the error of a call whose patience ends."""
        match grant.state:
            case "busy":
                reason = (
                    f"the limits that the fleet shares allow the next request in {grant.wait:.3g} s"
                )
                grant.line.fleet_says = "pace", reason, grant.wait
            case "aside":
                reason = f"the limits that the fleet shares hold it back for {grant.wait:.3g} s"
                grant.line.fleet_says = "pace", reason, grant.wait
            case "full":
                reason = "all slots are held by calls of the fleet (`max_concurrency`)"
                grant.line.fleet_says = "slots", reason, 0.0
            case _:
                grant.line.fleet_says = None

    def _late(self, grant: Grant, then: Callable[[Grant], None], due: float, times: int) -> None:
        """Decide alone where no answer came in time."""
        if grant not in self._asked:
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
        if (granted := self._granted.get(grant.line.scope)) is not None:
            granted.discard(grant)

    def leave(self, grant: Grant, spent: dict[Kind, float] | None, verdict: Verdict = "") -> None:
        """Note the end of an attempt with the units that it took, None for none."""
        changes = changes_of(grant, spent) if grant.state == "granted" else []
        scope = grant.line.scope
        slots = int(grant.state == "granted" and scope.slots is not None)
        grant.state, grant.spent = "over", spent
        if changes or slots:
            self._tell(scope, str(slots), changes, verdict)

    def quit(self, line: Line) -> None:
        """Note that no call of this process waits for a scope any more."""
        if line.scope.slots is not None:
            self._tell(line.scope, "0")

    def _tell(
        self, scope: Scope, slots: str, changes: Sequence[Any] = (), verdict: Verdict = ""
    ) -> None:
        arguments = [
            self._member.channel,
            self._member.process,
            int(LEASE * _SECOND),
            slots,
            number_of(scope.slots),
            int(self._gate.wants_slot(scope)),
            verdict,
            *changes,
        ]
        self._run(scripts.leave, scope, arguments, None)

    def beat(self) -> None:
        """Say which slots this process holds; what was lost on the way heals."""
        asked = {grant.line.scope for grant in self._asked}
        for scope in self._names:
            self._divide(scope)  # for limits learnt meanwhile, too
            if scope.slots is not None:
                # While answers are under way, nobody knows what their sum will be.
                held = scope.slots.held + len(self._granted.get(scope, ()))
                self._tell(scope, "0" if scope in asked else f"={held}")

    def learnt(self, line: Line, quota: Quota) -> None:
        """Tell the others a limit that a target announced, and where it counts more than they."""
        limit, model = quota.per_minute, line.target.model
        if self._told.get((line.target, quota.kind)) != limit:
            self._told[line.target, quota.kind] = limit
            self._learn(line, f"limit|{model}|{quota.kind}", repr(limit))
        if quota.remaining is None:
            return
        field = f"at|{model}|{quota.kind}"
        gone = (1 - min(1.0, quota.remaining / limit)) * MINUTE
        ahead = self._promised(line.scope).get(field, 0.0) - self._gate.now()
        if gone > max(0.0, ahead) + COUNTS_LATE:
            self._learn(line, field, int(gone * _SECOND), is_time=True)

    def estimated(self, line: Line) -> None:
        """Tell the others what was learnt of the tokens that requests take."""
        now = self._gate.now()
        learnt = line.estimate.learnt
        told_at, told = self._sizes.get(line.target, (-math.inf, 0.0))
        tokens = expected(learnt)
        is_due = now - told_at >= TELLS_EVERY * max(1.0, self._share / 8)
        if learnt[-1] and is_due and abs(tokens - told) > DIFFERS * told:
            self._sizes[line.target] = now, tokens
            value = msgspec.json.encode(learnt).decode()
            self._learn(line, f"size|{line.target.model}", value)

    def _learn(self, line: Line, field: str, value: str | int, *, is_time: bool = False) -> None:
        arguments = [self._member.channel, field, value, int(is_time)]
        self._run(scripts.learn, line.scope, arguments, None, count=1)

    def blocked(self, line: Line, seconds: float) -> None:
        """Tell the others that a 429 keeps a target back."""
        self._gate.take_back(line)
        self._learn(line, f"until|{line.target.model}", int(seconds * _SECOND), is_time=True)

    def woken(self, name: str) -> None:
        """Ask again: slots are free."""
        if (scope := self._scopes.get(name)) is not None:
            self._gate.has_room(scope)
            if not self._gate.wants_slot(scope):
                self._tell(scope, "0")  # and the next in line is woken

    def _heard_all(self, reply: Any) -> None:
        for each in reply:
            self.hear(each)

    def hear(self, data: bytes) -> None:
        """Take what another process learnt."""
        try:
            _, name, field, value = msgspec.json.decode(data, type=tuple[str, str, str, str])
            scope = self._scopes.get(name)
            if scope is not None:
                self._heard(scope, field, value)
        except (ValueError, msgspec.DecodeError):
            return

    def _heard(self, scope: Scope, field: str, value: str) -> None:
        """Take a value. Raises: ValueError for one that is none."""
        what, _, rest = field.partition("|")
        if what == "slots" and scope.slots is not None and scope.slots.is_shared:
            scope.slots.limit = min(MAX_SLOTS, max(1.0, float(value)))
        for line in self._gate.lines_of(scope):
            model, _, kind = rest.rpartition("|") if what == "limit" else (rest, "", "")
            if model == line.target.model:
                self._heard_of(line, what, kind, value)
        self._gate.pump(scope)

    def _heard_of(self, line: Line, what: str, kind: str, value: str) -> None:
        match what:
            case "limit":
                line.heard_limit(kind, float(value))  # type: ignore[arg-type]
            case "until":
                seconds = float(value) / _SECOND
                if 0 < seconds <= MAX_BLOCK:
                    self._gate.take_back(line)
                    line.block(self._gate.now() + seconds)
            case "size":
                line.estimate.adopt(*msgspec.json.decode(value, type=Learnt))
                self._sizes[line.target] = self._gate.now(), expected(line.estimate.learnt)
            case _:
                pass

    def set_share(self, processes: int) -> None:
        """Let this process use an equal share of each limit where it decides alone."""
        self._share = processes
        for scope in self._names:
            self._divide(scope)

    def _divide(self, scope: Scope) -> None:
        if scope.slots is not None:
            scope.slots.share = self._share
            scope.slots.is_shared = self._asks_for_slots(scope)
        for meters in (scope.meters, *(line.meters for line in self._gate.lines_of(scope))):
            for meter in meters.values():
                meter.set_share(self._share)

    def forget_loop(self) -> None:
        """Forget what calls of an earlier loop asked for and got: none of them goes on."""
        self._granted.clear()
        self._asked.clear()

    def lost(self) -> None:
        """Decide alone from now on."""
        now = self._gate.now()
        for scope in self._names:
            self._divide(scope)
            if self._asks_for_slots(scope):
                continue
            lines = self._gate.lines_of(scope)
            first = now + random.uniform(0.0, turn(lines, self._share))
            self._alone_from.setdefault(scope, first)
            for line in lines:
                line.fleet_says = None
            self._gate.pump(scope)

    def _run(
        self,
        script: scripts.Script,
        scope: Scope,
        arguments: list[Any],
        then: Callable[[Any], None] | None,
        *,
        failed: Callable[[], None] | None = None,
        count: int = 4,
    ) -> None:
        name = self._names[scope]
        keys = [name + end for end in "qpnw"[:count]]
        self._member.run(script, keys, arguments, then, failed)
