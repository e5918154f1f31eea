"""What a fleet's Redis holds now, read without joining the fleet: for people who look at it."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from aiollm._fleet import scripts
from aiollm._fleet.address import Address
from aiollm._fleet.link import Link
from aiollm._fleet.membership import service_name
from aiollm._fleet.scripts import Script
from aiollm._fleet.shared_health import decode
from aiollm.errors import ConnectError
from aiollm.provider import Provider

PROCESSES = Script("""
-- KEYS: processes
local found = {}
local all = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #all, 2 do
  local alive = tonumber(all[i + 1])
  if alive > now then found[#found + 1] = {all[i], left(alive)} end
end
return found
""")

IN_USE = Script("""
-- KEYS: quota, alive, held, waiting
local held = {}
for i, who in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], us(now), '+inf')) do
  local count = redis.call('HGET', KEYS[3], who)
  if count and count ~= '0' then held[#held + 1] = {who, count} end
end
local facts = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local value = all[i + 1]
  if string.find(all[i], '^at|') or string.find(all[i], '^until|') then
    value = left(tonumber(value) or 0)
  end
  facts[#facts + 1] = {all[i], value}
end
return {held, redis.call('ZRANGE', KEYS[4], 0, -1), facts}
""")

BUDGET = Script("""
-- KEYS: budget
local v = redis.call('HMGET', KEYS[1], 'spent', 'held')
return {us(number(v[1], 0)), us(number(v[2], 0))}
""")

MAX_SCOPES = 1000
"""The most hosts and accounts whose limits are read, and the most budgets."""


class Process(msgspec.Struct, frozen=True):
    """A process of a fleet, `host:pid:random`; it counts as gone in `alive_for` seconds."""

    name: str
    alive_for: float


class SetAside(msgspec.Struct, frozen=True):
    """A target that a fleet sets aside, or all of a host, where `model` is "".

    `account` tells the keys and paths of one host apart and does not show them. `error` and
    `status` are of the failure, the `openings`-th in a row. `reopens_in`: seconds until any call
    may probe. `probed_by`: the process that probes now, "" for none.
    """

    host: str
    model: str
    account: str
    error: str
    status: int
    openings: int
    reopens_in: float
    probed_by: str


class LimitsInUse(msgspec.Struct, frozen=True):
    """What the limits of a host and an account are used for now.

    `held`: the streams that each process holds, where they are counted; `waiting` are the processes
    that wait for a slot, `slots` those found where `max_concurrency` is `auto`. `booked_for`:
    seconds until all that was booked of a limit has flowed off, `learnt` the units a minute that
    answers announced, both by model and kind; `blocked_for`: seconds for which 429s keep a model
    back.
    """

    host: str
    account: str
    held: dict[str, int]
    waiting: tuple[str, ...]
    slots: int | None
    booked_for: dict[str, float]
    learnt: dict[str, float]
    blocked_for: dict[str, float]


class BudgetInUse(msgspec.Struct, frozen=True):
    """A budget that processes share: what they have spent, and what is held for more, in dollars.

    `id` stands for its name, which Redis does not know; nor does it know the sum.
    """

    id: str
    spent: float
    held: float


class Overview(msgspec.Struct, frozen=True):
    """A fleet at one moment."""

    place: str
    namespace: str
    processes: tuple[Process, ...]
    set_aside: tuple[SetAside, ...]
    limits: tuple[LimitsInUse, ...] = ()
    budgets: tuple[BudgetInUse, ...] = ()


async def look(address: Address) -> Overview:
    """Read what the fleet's Redis holds. Raises: ConfigError, ConnectError where it is away."""
    found: list[Overview] = []

    async def greet() -> None:
        found.append(await _read(link, address))

    link = Link(address, greet=greet, hear=lambda _: None, lost=lambda: None)
    try:
        await link.open()
    finally:
        await link.aclose()
    if not found:
        reason = f"the fleet's Redis at {address.place} does not answer"
        raise ConnectError(f"{reason}: {link.trouble}" if link.trouble else reason)
    return found[0]


async def _read(link: Link, address: Address) -> Overview:
    channel = f"{{aiollm:1:{address.namespace}}}"
    wanted = ((PROCESSES, f"{channel}p"), (scripts.open_ones, f"{channel}o"))
    for script, _ in wanted:
        link.send("SCRIPT", "LOAD", script.text)
    replies = [link.send("EVALSHA", script.sha, 1, key) for script, key in wanted]
    processes, opened = [await reply for reply in replies]
    set_aside = [_set_aside(each, address.namespace) for each in opened]
    return Overview(
        address.place,
        address.namespace,
        tuple(sorted((_process(*each) for each in processes), key=lambda each: each.name)),
        tuple(sorted(filter(None, set_aside), key=lambda each: (each.host, each.model))),
        await _limits(link, address.namespace),
        await _budgets(link, address.namespace),
    )


async def _limits(link: Link, namespace: str) -> tuple[LimitsInUse, ...]:
    scopes = sorted(await _scopes(link, namespace, "[qn]"))[:MAX_SCOPES]
    link.send("SCRIPT", "LOAD", IN_USE.text)
    replies = [
        link.send("EVALSHA", IN_USE.sha, 4, *(scope + end for end in "qpnw")) for scope in scopes
    ]
    start = f"{{aiollm:1:{namespace}:"
    found = [
        _in_use(scope.removeprefix(start)[:-1], await reply)
        for scope, reply in zip(scopes, replies, strict=True)
    ]
    return tuple(
        each
        for each in found
        if each.held
        or each.waiting
        or each.booked_for
        or each.learnt
        or each.blocked_for
        or each.slots is not None
    )


async def _budgets(link: Link, namespace: str) -> tuple[BudgetInUse, ...]:
    scopes = sorted(await _scopes(link, namespace, "m"))[:MAX_SCOPES]
    link.send("SCRIPT", "LOAD", BUDGET.text)
    replies = [link.send("EVALSHA", BUDGET.sha, 1, f"{scope}m") for scope in scopes]
    found = []
    for scope, reply in zip(scopes, replies, strict=True):
        spent, held = (_number(each) / 1e6 for each in await reply)
        found.append(BudgetInUse(scope[-17:-1], spent, max(0.0, held - spent)))
    return tuple(found)


async def _scopes(link: Link, namespace: str, ends: str) -> set[str]:
    """Return the scopes of keys with such ends, as what comes before them."""
    found: set[str] = set()
    cursor = b"0"
    while True:
        command = ("SCAN", cursor, "MATCH", f"{{aiollm:1:{namespace}:*}}{ends}", "COUNT", 1000)
        cursor, keys = await link.send(*command)
        found.update(key[:-1].decode(errors="replace") for key in keys)
        if cursor == b"0":
            return found


def _in_use(scope: str, reply: Any) -> LimitsInUse:
    held, waiting, facts = reply
    host, _, account = scope.rpartition(":")
    kinds: dict[str, dict[str, float]] = {"at": {}, "limit": {}, "until": {}, "slots": {}}
    for field, value in facts:
        kind, _, rest = field.decode(errors="replace").partition("|")
        if kind in kinds and (number := _number(value)) > 0:
            kinds[kind][rest.replace("|", " ")] = number
    found = kinds["slots"].get("")
    return LimitsInUse(
        host,
        account,
        {who.decode(errors="replace"): int(_number(count)) for who, count in held},
        tuple(who.decode(errors="replace") for who in waiting),
        None if found is None else int(found),
        {name: left / 1e6 for name, left in kinds["at"].items()},
        kinds["limit"],
        {name: left / 1e6 for name, left in kinds["until"].items()},
    )


def _number(data: bytes) -> float:
    """Return a number, 0 for what another program wrote."""
    try:
        number = float(data)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0


def _process(name: bytes, left: bytes) -> Process:
    return Process(name.decode(errors="replace"), int(left) / 1e6)


def _set_aside(data: bytes, namespace: str) -> SetAside | None:
    """Return an open breaker, None for one that has closed meanwhile."""
    state = decode(data)
    if not state.openings:
        return None
    scope, _, rest = state.key.partition("}h")
    host = scope.removeprefix(f"{{aiollm:1:{namespace}:")
    account = ""
    if rest:  # a model's: its scope ends with the account
        host, _, account = host.rpartition(":")
    return SetAside(
        host,
        rest[1:],
        account,
        state.error,
        state.status_code,
        state.openings,
        state.reopens / 1e6,
        state.holder,
    )


def concerns(each: SetAside, provider: Provider, namespace: str) -> bool:
    """Return whether what is set aside is a target of the provider, or its host."""
    if not each.model:
        return each.host == provider.origin
    return f"{each.host}:{each.account}" == service_name(provider, namespace)
