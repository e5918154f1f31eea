"""`aiollm fleet`: which processes share a Redis, their limits, and what they set aside."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Mapping, Sequence

from aiollm._fleet.address import Address, parse_address
from aiollm._fleet.overview import BudgetInUse, LimitsInUse, Overview, SetAside, look
from aiollm._fleet.shared_money import id_of
from aiollm.cli.codes import OK
from aiollm.cli.layout import table
from aiollm.cli.safe_text import one_line
from aiollm.cli.session import ended_by_sigterm
from aiollm.cli.terminal import complain, describe, print_json, write
from aiollm.errors import ConfigError, ConnectError

FLEET = "AIOLLM_FLEET"

WATCH_EVERY = 2.0
"""Seconds between two tables: the processes say as often that they live."""

MAX_HOLDERS = 4
"""Processes that are named for the slots of one account; `--json` has all."""

_ALIVE_HEAD = ("PROCESS", "ALIVE FOR")

_HEAD = ("SET ASIDE", "MODEL", "ACCOUNT", "AFTER", "REOPENS IN", "PROBED BY")

_LIMITS_HEAD = ("LIMITS OF", "ACCOUNT", "HELD", "WAITING", "BOOKED", "BLOCKED")

_BUDGETS_HEAD = ("BUDGET", "SPENT", "HELD FOR CALLS")

_NO_FLEET = f"""no fleet given. Set either:
  an argument:  aiollm fleet redis://HOST:6379
  a variable:   export {FLEET}=redis://HOST:6379   (also read by every Registry)"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "url", nargs="?", help=f"redis://HOST:6379?namespace=NAME; default: {FLEET}"
    )
    parser.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="NAME",
        help="show this budget by name: the fleet has only its hash; may be repeated",
    )
    parser.add_argument("--watch", action="store_true", help="print it again every 2 seconds")
    parser.add_argument("--json", action="store_true", help="print JSON")


def fleet(options: argparse.Namespace) -> int:
    """Show the fleet once, or until Ctrl-C; return the exit code."""
    address = _address(options.url)
    if address is None:
        raise ConfigError(_NO_FLEET)
    return asyncio.run(_show(address, options))


def _address(url: str | None = None) -> Address | None:
    given = url or os.environ.get(FLEET, "")
    return parse_address(given) if given else None


async def _show(address: Address, options: argparse.Namespace) -> int:
    with ended_by_sigterm():
        _print(await look(address), options)
        while options.watch:
            await asyncio.sleep(WATCH_EVERY)
            try:
                found = await look(address)
            except ConnectError as error:
                complain(describe(error))  # whoever watches wants to see it come back
                continue
            if not options.json:
                write("\n")
            _print(found, options)
    return OK


def _print(found: Overview, options: argparse.Namespace) -> None:
    print_json(found) if options.json else write(_text(found, options.budget))


def _text(found: Overview, budgets: Sequence[str]) -> str:
    alive = [(each.name, f"{each.alive_for:.1f} s") for each in found.processes]
    text = one_line(f"the fleet {found.namespace} at {found.place}") + "\n\n"
    text += table(alive, head=_ALIVE_HEAD)
    if found.limits:
        text += "\n" + table([*map(_limits_row, found.limits)], head=_LIMITS_HEAD)
    if found.budgets:
        names = {id_of(found.namespace, each): each for each in budgets}
        rows = [_budget_row(each, names) for each in found.budgets]
        text += "\n" + table(rows, head=_BUDGETS_HEAD)
    if not found.set_aside:
        return text + "\nnothing is set aside\n"
    return f"{text}\n{table([*map(_row, found.set_aside)], head=_HEAD)}"


def _limits_row(each: LimitsInUse) -> tuple[str, ...]:
    held = str(sum(each.held.values()))
    if each.slots is not None:
        held += f" of {each.slots}"
    if each.held:
        most = sorted(each.held.items(), key=lambda pair: (-pair[1], pair[0]))
        held += ": " + ", ".join(f"{count} by {who}" for who, count in most[:MAX_HOLDERS])
        held += ", ..." if len(most) > MAX_HOLDERS else ""
    booked = [f"{name} for {left:.1f} s" for name, left in sorted(each.booked_for.items())]
    blocked = [f"{name} for {left:.1f} s" for name, left in sorted(each.blocked_for.items())]
    waiting = f"{len(each.waiting)} processes" if each.waiting else "nobody"
    return each.host, each.account, held, waiting, _joined(booked), _joined(blocked)


def _budget_row(each: BudgetInUse, names: Mapping[str, str]) -> tuple[str, ...]:
    return names.get(each.id, each.id), f"${each.spent:.6g}", f"${each.held:.6g}"


def _joined(texts: list[str]) -> str:
    return ", ".join(texts) or "nothing"


def _row(each: SetAside) -> tuple[str, ...]:
    return (
        each.host,
        each.model or "all",
        each.account or "all",
        _cause(each),
        f"{each.reopens_in:.1f} s",
        each.probed_by or "nobody",
    )


def _cause(each: SetAside) -> str:
    cause = f"{each.error} {each.status}" if each.status else each.error
    return f"{cause}, {each.openings} times" if each.openings > 1 else cause


async def set_aside_by_fleet() -> tuple[str, tuple[SetAside, ...]]:
    """Return the namespace of the environment's fleet, and what it sets aside; "" without one."""
    address = _address()
    if address is None:
        return "", ()
    try:
        return address.namespace, (await look(address)).set_aside
    except ConnectError as error:  # calls do not depend on it, so no provider is less healthy
        complain(describe(error))
    return "", ()


def row_of(name: str, each: SetAside) -> tuple[str, ...]:
    """Return the line that `aiollm health` has for it."""
    probed = f", probed by {each.probed_by}" if each.probed_by else ""
    return (
        name,
        "set aside",
        each.model or "all models",
        f"by the fleet: {_cause(each)}, reopens in {each.reopens_in:.1f} s{probed}",
    )
