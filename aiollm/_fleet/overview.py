"""What a fleet's Redis holds now, read without joining the fleet: for people who look at it."""

from __future__ import annotations

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


class Overview(msgspec.Struct, frozen=True):
    """A fleet at one moment."""

    place: str
    namespace: str
    processes: tuple[Process, ...]
    set_aside: tuple[SetAside, ...]


async def look(address: Address) -> Overview:
    """Read what the fleet's Redis holds. Raises: ConfigError, ConnectError where it is away."""
    found: list[Overview] = []

    async def greet() -> None:
        found.append(await _read(link, address))

    link = Link(address, greet=greet, hear=lambda _: None, lost=lambda: None)
    try:
        await link.open()
    finally:
        await link.close()
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
    )


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
        int(state.status or 0),
        state.openings,
        state.reopens / 1e6,
        state.holder,
    )


def concerns(each: SetAside, provider: Provider, namespace: str) -> bool:
    """Return whether what is set aside is a target of the provider, or its host."""
    if not each.model:
        return each.host == provider.origin
    return f"{each.host}:{each.account}" == service_name(provider, namespace)
