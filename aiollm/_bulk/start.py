"""Makes a bulk run of what a caller set."""

from __future__ import annotations

import math
from collections.abc import Callable
from os import PathLike
from typing import Any, Literal

from aiollm._agent.typed_output import shape_of
from aiollm._bulk.asking import Asker, Typing
from aiollm._bulk.fate import Fates
from aiollm._bulk.keys import Keys, hash_of_run, parse_shard
from aiollm._bulk.row import Row
from aiollm._bulk.run import MapRun, Parts
from aiollm._bulk.source import MapRows, Reading, Source
from aiollm._bulk.width import Width
from aiollm._failover.keywords import GenerateOptions, StreamOptions
from aiollm._failover.policy import check_names
from aiollm._resources import Resources
from aiollm._streams.stream import Stream
from aiollm._validation import RequestLike, check_bool, check_count
from aiollm.errors import ConfigError
from aiollm.spec import Plan
from aiollm.types import Request, Timeouts, _shown

PATIENCE = 30 * 86400.0
"""Seconds that a row waits for room: nobody is waiting for a single row."""

MAX_WAIT = 300.0
"""Seconds that rows wait for failed targets: a server that restarts and loads its model is back."""

RETRIES = 5
"""Further attempts of a row: of a thousand rows at a server that fails one time in fifty, none is
left over."""

_DEFAULTS: dict[str, Any] = {
    "patience": PATIENCE,
    "max_wait": MAX_WAIT,
    "retries": RETRIES,
    "on_interrupt": "restart",
}
"""Defaults of a run's calls, where they differ from those of other calls."""


class MapOptions(GenerateOptions, total=False):
    """The keywords of `map`: its own, and those of `generate`.

    `into`: the output file, or the number of an open one. `resume`: go on with a file that exists.
    `output`: the type of answers; one that does not fit is sent back at most `repairs` times.
    `concurrency`: rows under way at a time; "auto" finds it. `ordered`: yield rows in their order,
    not as they end. `score`: a function of a `Row` that returns its `score`; a plain one runs in a
    thread. `shard`: "2/8" takes the second of eight shares of the rows, by a hash of their keys.

    Defaults that differ from those of other calls: `patience` is 30 days, `max_wait` 300 s,
    `retries` 5 and `on_interrupt` "restart".
    """

    into: str | PathLike[str] | int | None
    resume: bool
    repairs: int
    concurrency: int | Literal["auto"]
    ordered: bool
    score: Callable[[Row[Any]], Any] | None
    shard: str | None


class TypedMapOptions(MapOptions, total=False):
    """The keywords of `map` with `output`, which is a type or a JSON schema."""

    output: Any


def new_map(
    plan: Plan,
    rows: MapRows,
    options: TypedMapOptions,
    check: Callable[[RequestLike], Request],
    caller: Callable[[Plan, Any], Callable[[Request], Stream]],
    resources: Resources,
) -> MapRun[Any]:
    """Return the run of `options`, whose rows `check` makes requests of and `caller` asks.

    Raises: ConfigError, TypeError.
    """
    check_names(options, (*StreamOptions.__annotations__, *TypedMapOptions.__annotations__))
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    own = _checked({name: given.pop(name) for name in [*given] if name in _OWN})
    fields = {name: given.pop(name) for name in [*given] if name in Request.__struct_fields__}
    calls = _DEFAULTS | given
    into, shard, typing = own["into"], own["shard"], Typing(own["output"], own["repairs"])
    run = "" if into is None else hash_of_run(str(plan), typing.output)
    call, score = caller(plan, calls), own["score"]
    fates = Fates(str(plan), calls["max_wait"])
    timeouts = given.get("timeouts") or Timeouts()
    width = Width(own["concurrency"], timeouts.first_output or math.inf)

    def source(keys: Keys, arrived: Callable[[], None]) -> Source:
        reading = Reading(check, keys, fields, shard, needs_hash=into is not None)
        return Source(rows, reading, arrived)

    return MapRun(
        Parts(
            run,
            tuple(target for step in plan.steps for target in step.targets),
            into,
            own["resume"],
            own["ordered"],
            source,
            given.get("response_cache") is not None,
            Asker(call, typing, score, resources, fates=fates, width=width, run=run),
            width,
            fates,
            resources,
        )
    )


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run, with defaults. Raises: ConfigError."""
    own = dict.fromkeys(_OWN) | _OWN_DEFAULTS | given
    if own["output"] is not None:
        shape_of(own["output"])
    for name in ("resume", "ordered"):
        check_bool(name, own[name])
    if own["resume"] and own["into"] is None:
        raise ConfigError("resume needs the file to go on with: into=...")
    shard = own["shard"]
    own["shard"] = None if shard is None else parse_shard(shard)
    own["concurrency"] = _fixed(own["concurrency"])
    return own


_OWN_DEFAULTS = {"resume": False, "ordered": False, "repairs": 1, "concurrency": "auto"}
_OWN = {*TypedMapOptions.__annotations__} - {*GenerateOptions.__annotations__}


def _fixed(concurrency: object) -> int | None:
    if concurrency == "auto":
        return None
    if isinstance(concurrency, str):
        raise ConfigError(f"concurrency is {_shown(concurrency)}: expected an integer or 'auto'")
    check_count("concurrency", concurrency)
    assert isinstance(concurrency, int)
    return concurrency
