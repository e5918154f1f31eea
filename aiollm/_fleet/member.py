"""This process as a member of its fleet: its name, its beat, and whether it is away."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from aiollm._failover.fleet_gate import FleetGate
from aiollm._failover.snapshots import FleetStatus
from aiollm._fleet import scripts, shared_scripts
from aiollm._fleet.address import Address
from aiollm._fleet.link import Argument, Link
from aiollm._fleet.refusals import LONGEST, Refusals
from aiollm._fleet.scripts import Script
from aiollm._fleet.shared_health import SharedHealth
from aiollm._fleet.shared_limits import LATE_LOOP, LEASE, SharedLimits
from aiollm._fleet.shared_money import SharedMoney
from aiollm._fleet.shared_sessions import SharedSessions
from aiollm._time_limits import TimeLimit
from aiollm.events import Event, FleetAway, FleetBack

BEAT = 1.0
"""Seconds between two beats, with jitter: the slots of a process that died are free after three."""

HANGS = 0.5
"""Seconds without an answer to a beat after which Redis hangs; ten times `timeout` if longer."""

ASKS_EVERY = 2
"""Beats between two questions for what a lost message may hide."""

BACK = b"back"
"""What the first process says that finds a slow Redis quick again. Until all use it, those that do
not use shares of limits that the others use in full."""

SLOW = 3
"""Replies in a row that come too late, after which Redis counts as away."""


class Member:
    """One process of a fleet. Owns the link; all that it shares goes through `run`."""

    def __init__(self, address: Address, gate: FleetGate, emit: Callable[[Event], None]) -> None:
        """Open nothing yet."""
        self.address = address
        self.namespace = address.namespace
        self.timeout = address.timeout
        self.machine = socket.gethostname()[:64]
        self._pid = os.getpid()
        self.process = self._new_name()
        self.channel = f"aiollm:1:{self.namespace}"
        self.open_ones = f"{{{self.channel}}}o"
        self.away = True
        """Whether this process decides alone."""
        self.is_slow = False
        """Whether it does so because Redis is slow, but for slots, which wait for the answer."""
        self.refusals = Refusals(address.place, gate.now)
        """Keys that Redis keeps from this process, which decides alone about them."""
        self._emit = emit
        self._late = self._beats = 0
        self.processes = 1
        self._refused_at: float | None = None
        self._away_for = BEAT
        self._latency: float | None = None
        self._reason = ""
        self._beat: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = self._is_tried = self._is_called = False
        self._inherited: Link | None = None
        self._link = self._new_link()
        self.health = SharedHealth(gate, self)
        self.limits = SharedLimits(gate, self)
        self.money = SharedMoney(self)
        gate.sharing, gate.limiter = self.health, self.limits
        gate.purse, gate.memory = self.money, SharedSessions(self)

    def _new_link(self) -> Link:
        return Link(self.address, greet=self._greet, hear=self._hear, lost=self._lost)

    @property
    def is_open(self) -> bool:
        """Whether this loop's first connection was tried."""
        is_here = self._loop is asyncio.get_running_loop()
        return is_here and self._is_tried and self._link.is_open

    @property
    def was_opened(self) -> bool:
        """Whether there is anything to close."""
        return self._loop is not None

    async def open(self) -> None:
        """Join the fleet, or decide alone where Redis does not answer. Raises: ConfigError."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                self._leave_loop()
            self._loop = loop
            self._is_tried = False
        await self._link.open()
        if not self.away:
            with suppress(TimeoutError):
                async with TimeLimit(self.timeout):
                    await self.health.learnt.wait()
        self._is_tried = True
        if self.away and not self._reason:
            self._go_away(f"it cannot be reached ({self._link.trouble or 'no answer'})")

    def _leave_loop(self) -> None:
        """Begin anew: the loop of the link is gone, or it is that of the process that forked."""
        if os.getpid() == self._pid:
            self._link.kill()
        else:
            # Closing the connection would take it out of the poll that the parent's loop shares.
            self._inherited, self._pid = self._link, os.getpid()
            self.money.forked()
            self.process = self._new_name()
        self._link = self._new_link()
        self.away, self.is_slow = True, False
        self.health.lost()  # answers that are under way will not come
        self.limits.forget_loop()
        self.limits.lost()

    def _new_name(self) -> str:
        return f"{self.machine}:{self._pid}:{secrets.token_hex(3)}"

    def run(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        then: Callable[[Any], None] | None,
        failed: Callable[[], None] | None = None,
    ) -> None:
        """Run a script; call `then` with its reply, or `failed` where there will be none."""
        if self._loop is None or self._loop.is_closed():
            return  # who would wait for it is gone with the loop
        if keys[0] in self.refusals:
            if failed is not None:
                self._loop.call_soon(failed)
            return
        names = keys if script is scripts.states else keys[:1]
        command = ("EVALSHA", script.sha, len(keys), *keys, *arguments)
        replied = partial(self._replied, time.monotonic(), command, names, then, failed)
        self._link.send(*command).add_done_callback(replied)

    def _replied(
        self,
        sent: float,
        command: Sequence[Argument],
        names: Sequence[str],
        then: Callable[[Any], None] | None,
        failed: Callable[[], None] | None,
        done: asyncio.Future[Any],
        *,
        is_second: bool = False,
    ) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._timed(time.monotonic() - sent)
            if self.refusals:
                self.refusals.worked(names, str(command[1]))
            if then is not None:
                self._take(then, done.result(), failed)
        elif _is_unknown_script(error) and not is_second:
            self._load()
            again = partial(self._replied, sent, command, names, then, failed, is_second=True)
            self._link.send(*command).add_done_callback(again)
        else:
            # Of several breakers, nobody knows which one is refused.
            if not self.refusals.note(names if len(names) == 1 else (), error, str(command[1])):
                self._refused(error)
            if failed is not None:
                failed()

    def _take(
        self, then: Callable[[Any], None], reply: Any, failed: Callable[[], None] | None = None
    ) -> None:
        """Use a reply; one that cannot be used is another command's: start anew."""
        try:
            then(reply)
        except Exception:  # noqa: BLE001 - who knows what a server sends that is no Redis
            self._link.give_up()
            if failed is not None:  # or who asked would wait for ever
                failed()

    def _refused(self, error: BaseException) -> None:
        """Note that Redis refuses a command, as where its memory is full."""
        if not isinstance(error, ConnectionError):  # of which the link itself tells
            if not self.away:
                self._stays_away()
            self._go_away(f"it refuses commands ({type(error).__name__})")
        if type(error).__name__ == "ReadOnlyError":
            self._link.give_up()  # another one is the primary now

    def _stays_away(self) -> None:
        """Stay away longer each time that Redis refuses commands soon after a return."""
        now = time.monotonic()
        again = self._refused_at is not None and now - self._refused_at < 2 * LONGEST
        self._refused_at, self._away_for = now, min(LONGEST, 2 * self._away_for) if again else BEAT

    def _may_come_back(self) -> bool:
        if self._refused_at is None or self._away_for <= BEAT:
            return self._late == 0
        return self._late == 0 and time.monotonic() >= self._refused_at + self._away_for

    def _load(self) -> None:
        """Load the scripts again: Redis forgets them when it starts anew."""
        for script in (*scripts.ALL, *shared_scripts.ALL):
            self._link.send("SCRIPT", "LOAD", script.text)

    async def _greet(self) -> None:
        """Make a new connection ready."""
        self._load()
        own = f"{self.channel}:{self.process}"
        subscribed = self._link.send("SUBSCRIBE", self.channel, own)
        sent = time.monotonic()
        checked = self._check()
        self._counted(await self._send_beat())
        await checked
        subscribed.result()
        self._latency = time.monotonic() - sent
        self._come_back()

    def _check(self) -> asyncio.Future[Any]:
        """Try what other scripts do, so that rights that are missing are known before a call."""
        scope = f"{{{self.channel}:check:{self.process}}}"
        keys = [*(scope + end for end in "qpnwh"), self.open_ones]
        own = f"{self.channel}:{self.process}"
        return self._link.send("EVALSHA", scripts.check.sha, len(keys), *keys, own)

    def _send_beat(self) -> asyncio.Future[Any]:
        alive = int(LEASE * 1e6)
        key = f"{{{self.channel}}}p"
        arguments = (key, self.process, alive, self.channel)
        return self._link.send("EVALSHA", scripts.beat.sha, 1, *arguments)

    def _next_beat(self, beats: float = 1.0) -> None:
        if self._beat is not None:
            self._beat.cancel()
        loop = asyncio.get_running_loop()
        self._beat = loop.call_later(BEAT * beats * random.uniform(0.8, 1.2), self._pulse)

    def _pulse(self) -> None:
        """Say that this process lives, and look whether anything was missed."""
        if self._closed or not self._link.is_up:
            return
        sent = time.monotonic()
        beat = self._send_beat()
        timer = self._await_beat(beat)

        def replied(done: asyncio.Future[Any]) -> None:
            timer[0].cancel()
            if done.cancelled() or self._closed:
                return
            error = done.exception()
            if error is None:
                self._take(self._counted, done.result())
                self._timed(time.monotonic() - sent)
                if self.away and self._may_come_back():
                    self._come_back()
                    return
            elif _is_unknown_script(error):
                self._load()
            else:
                self._refused(error)
            self._is_called = False
            if self._link.is_up:
                self._next_beat()

        beat.add_done_callback(replied)
        self.limits.beat()
        self.money.beat()
        self._beats += 1
        if self._beats % ASKS_EVERY == 0:
            self.health.renew()
            self.health.ask()

    def _counted(self, reply: Any) -> None:
        processes = max(1, _count(reply))  # this one is there
        if processes != self.processes:
            self.processes = processes
            self.limits.set_share(processes)

    def _await_beat(self, beat: asyncio.Future[Any]) -> list[asyncio.TimerHandle]:
        """Give up the connection where a beat is not answered; return the timer that will."""
        loop = asyncio.get_running_loop()
        seconds = max(HANGS, 10 * self.timeout)
        due = loop.time() + seconds

        def missed() -> None:
            nonlocal due
            if beat.done():
                return
            if (now := loop.time()) - due > LATE_LOOP:
                # It is this loop that was late: the answer may have come, and is not read yet.
                due = now + seconds
                timer[0] = loop.call_later(seconds, missed)
                return
            self._go_away("it does not answer")
            self._link.give_up()

        timer = [loop.call_later(seconds, missed)]
        return timer

    def _timed(self, seconds: float) -> None:
        """Note how long a reply took; that it came late is the timers' to say."""
        self._latency = seconds
        if seconds <= self.address.timeout + LATE_LOOP:
            self._late = 0

    def late(self, seconds: float) -> None:
        """Note that no answer came within so many seconds."""
        self._late += 1
        if self._late >= SLOW:
            if not self._reason:
                self._next_beat(0.0)  # to find out soon whether it hangs
            self._go_away(f"its replies take {seconds:.3g} s or more", is_slow=True)

    def _hear(self, message: Sequence[Any]) -> None:
        if len(message) != 3 or message[0] != b"message":
            return
        _, channel, data = message
        if channel != self.channel.encode():
            self.limits.woken(data.decode())
        elif data == BACK:
            if self.is_slow and not self._is_called:
                self._is_called = True
                self._next_beat(0.0)
        elif self.away:
            pass  # all that changed meanwhile is asked for afterwards
        elif data.isdigit():
            self._counted(int(data))
        elif data.startswith(b'["learn"'):
            self.limits.hear(data)
        elif data.startswith(b'["money"'):
            self.money.hear(data)
        else:
            self.health.hear(data)

    def _come_back(self) -> None:
        was_away, self._reason = bool(self._reason), ""
        if self.is_slow and not self._is_called:
            self._link.send("PUBLISH", self.channel, BACK)
        self.away = self.is_slow = self._is_called = False
        self._late = 0
        if was_away:
            self._emit(FleetBack(self.processes))
        self.health.joined()
        self.limits.joined()
        self.money.beat()
        self._next_beat()

    def _lost(self) -> None:
        self._go_away("the connection was lost")

    def _go_away(self, reason: str, *, is_slow: bool = False) -> None:
        was_away = bool(self._reason)
        if self._closed or (was_away and (is_slow or not self.is_slow)):
            return
        self._reason = reason
        self.away, self.is_slow = True, is_slow
        if not was_away:
            self.health.lost()
        self.limits.lost()
        if not was_away:
            self._emit(FleetAway(reason))

    @property
    def status(self) -> FleetStatus:
        """What is known of the fleet now."""
        return FleetStatus(
            place=self.address.place,
            namespace=self.namespace,
            process=self.process,
            state="away" if self.away else "linked",
            reason=self._reason,
            processes=0 if self.away else self.processes,
            latency=self._latency,
        )

    async def aclose(self) -> None:
        """Leave the fleet; idempotent."""
        self._end()
        if os.getpid() != self._pid:
            return  # it is the link of the process that forked
        if self._loop is not asyncio.get_running_loop():
            self._link.kill()  # its loop is gone, or does not run
            return
        self.money.close()
        if self._link.is_up:
            leaving = self._link.send("ZREM", f"{{{self.channel}}}p", self.process)
            with suppress(Exception):
                async with asyncio.timeout(self.address.timeout):
                    await leaving
        await self._link.aclose()

    def kill(self) -> None:
        """Leave at once, without a running loop."""
        self._end()
        if os.getpid() == self._pid:
            self._link.kill()

    def _end(self) -> None:
        self._closed = True
        self.away = True
        if self._beat is not None:
            self._beat.cancel()


def _count(reply: Any) -> int:
    """Return the number of processes that a beat replies. Raises: ConnectionError."""
    if type(reply) is not int:
        raise ConnectionError("the reply to a beat is of another command")
    return reply


def _is_unknown_script(error: BaseException) -> bool:
    return type(error).__name__ == "NoScriptError"
