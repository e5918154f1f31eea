"""Measure aiollm beside the limit and its peers, on the same bytes, in interleaved rounds.

Every contender is a process of its own that reads from one replay server. Rounds go through all
contenders in turn, so that what else the machine does meets them alike; what counts is the ratio
of the minima. Results go to benchmarks/results/ as JSON, a table and charts.
Usage: python benchmarks/run.py [--quick] [--only NAME ...] [--wire WIRE ...] [--part PART ...]
"""

from __future__ import annotations

import argparse
import compileall
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import report
from field import (
    HERE,
    LIMIT,
    MODELS,
    OURS,
    PEERS,
    PLAIN_PILLOW,
    ROOT,
    UVLOOP,
    VARIANTS,
    Entry,
    environment,
    python,
)
from processes import Server, Worker

PARTS = ("server", "start", "blast", "short", "paced", "open", "tls", "large", "images")


class Effort(NamedTuple):
    """How much is measured; seconds are CPU seconds of one contender in one round."""

    rounds: int = 9
    peer_rounds: int = 2
    """Peers are so far off that fewer rounds tell as much."""
    seconds: float = 0.35
    streams: int = 200
    chunks: int = 100
    paced_rounds: int = 3
    held: tuple[int, ...] = (1000, 5000, 10_000)
    held_rounds: int = 3
    starts: int = 9


QUICK = Effort(3, 1, 0.1, 50, 25, 1, (200,), 1, 2)
WITHIN = 30.0
"""Seconds in which all streams must be open, and all cancelled."""


class Bench:
    """One run: the server, the contenders, and the rows of figures that they gave."""

    def __init__(self, entries: Iterable[Entry], wires: Iterable[str], effort: Effort) -> None:
        self.entries = tuple(entries)
        self.wires = tuple(wires)
        self.effort = effort
        self.rows: list[dict[str, Any]] = []
        self._folder = tempfile.TemporaryDirectory()
        self.server = Server(Path(self._folder.name))

    def close(self) -> None:
        """End the server."""
        self.server.close()
        self._folder.cleanup()

    def worker(self, entry: Entry, wire: str, *, tls: bool = False) -> Worker:
        """Start a contender."""
        return Worker(entry, wire, MODELS[wire], self.server.root(wire, tls=tls), self.server.env)

    def note(self, part: str, entry: Entry, wire: str, rounds: list[dict[str, Any]]) -> None:
        """Keep the minimum, the median and the spread of each figure."""
        good = [each for each in rounds if "error" not in each]
        row: dict[str, Any] = {"part": part, "name": entry.name, "wire": wire}
        if good:
            row |= {figure: _summary([each[figure] for each in good]) for figure in good[0]}
        else:
            row["error"] = rounds[0]["error"]
        self.rows.append(row)
        print(report.line(row), flush=True)

    def interleaved(self, part: str, entries: Iterable[Entry], order: dict[str, Any]) -> None:
        """Let all contenders of a wire carry out an order, round by round."""
        for wire in self.wires:
            here = [entry for entry in entries if wire in entry.wires]
            workers = [(entry, self.worker(entry, wire)) for entry in here]
            found: dict[str, list[dict[str, Any]]] = {entry.name: [] for entry in here}
            for _, worker in workers:
                worker.ask(do=part, **_warm(order))
            for turn in range(self.effort.rounds):
                for entry, worker in workers[:: -1 if turn % 2 else 1]:
                    if turn < self.effort.peer_rounds or not entry.is_peer:
                        found[entry.name].append(worker.ask(do=part, **order))
            for entry, worker in workers:
                worker.close()
                self.note(part, entry, wire, found[entry.name])

    # The parts

    def blast(self) -> None:
        """CPU a chunk of streams that come all at once."""
        order = {"seconds": self.effort.seconds}
        self.interleaved("blast", self.entries, order)
        base = [entry for entry in self.entries if entry in (LIMIT, OURS)]
        self.interleaved("packed", base, order)

    def short(self) -> None:
        """CPU and time to first text of short requests, chains and races among them."""
        order = {"seconds": self.effort.seconds}
        self.interleaved("short", (*self.entries, *VARIANTS), order)

    def paced(self) -> None:
        """Many streams at once, 20 ms between their chunks; each contender on its first wire."""
        order = {"streams": self.effort.streams, "chunks": self.effort.chunks}
        for wire in self.wires:
            rounds: dict[str, list[dict[str, Any]]] = {}
            here = [entry for entry in self.entries if wire in _first_wires(entry)]
            for turn in range(self.effort.paced_rounds):
                for entry in here[:: -1 if turn % 2 else 1]:
                    if turn and entry.is_peer:
                        continue
                    with self.worker(entry, wire) as worker:
                        worker.ask(do="paced", streams=order["streams"], chunks=2)
                        before = self.server.cpu()
                        answer = worker.ask(do="paced", **order)
                        if "wall_s" in answer:
                            busy = (self.server.cpu() - before) / answer["wall_s"]
                            answer["server_load"] = busy
                        rounds.setdefault(entry.name, []).append(answer)
            for entry in here:
                self.note("paced", entry, wire, rounds[entry.name])

    def open(self, *, tls: bool = False) -> None:
        """Memory of open streams, and how long it takes to cancel them all."""
        part = "tls" if tls else "open"
        gave_up = set()
        for count in self.effort.held[:1] if tls else self.effort.held:
            for wire in self.wires:
                here = [
                    entry
                    for entry in self.entries
                    if wire == entry.wires[0] and not (tls and entry.is_peer)
                ]
                found: dict[str, list[dict[str, Any]]] = {entry.name: [] for entry in here}
                rounds = self.effort.held_rounds if count == self.effort.held[0] else 1
                for turn in range(rounds):
                    for entry in here[:: -1 if turn % 2 else 1]:
                        if entry in gave_up or (turn and entry.is_peer):
                            continue
                        with self.worker(entry, wire, tls=tls) as worker:
                            answer = worker.ask(do="open", streams=count, within=WITHIN)
                        found[entry.name].append(answer | {"asked": count})
                        if answer.get("opened") != count:
                            gave_up.add(entry)
                for entry in here:
                    if found[entry.name]:
                        self.note(part, entry, wire, found[entry.name])

    def tls(self) -> None:
        """The same under TLS."""
        self.open(tls=True)

    def start(self) -> None:
        """What a fresh process pays: the import, and its first request."""
        # Bytecode is compiled here and now: imports are timed, compiling them is not.
        compileall.compile_dir(ROOT / "aiollm", quiet=1)
        for entry in self.entries:
            if entry.loop != "asyncio":
                continue
            imports, firsts = [], []
            for _ in range(2 if entry.is_peer else self.effort.starts):
                imports.append(_import(entry))
                with self.worker(entry, entry.wires[0]) as worker:
                    firsts.append(worker.ask(do="first"))
            self.note("import", entry, entry.wires[0], imports)
            self.note("first", entry, entry.wires[0], firsts)

    def large(self) -> None:
        """What large things cost: an event of 2 and 8 MiB, a request of 5 and 20 MiB."""
        for entry in self.entries:
            if entry.is_peer or entry.loop != "asyncio":
                continue
            for part, sizes in (("large", (2, 8)), ("body", (5, 20))):
                for wire in self.wires[:1]:
                    with self.worker(entry, wire) as worker:
                        worker.ask(do="short", seconds=0.05)
                        rounds = [
                            {
                                f"mib_{size}": worker.ask(do=part, mib=size).get("ms", 0.0)
                                for size in sizes
                            }
                            for _ in range(self.effort.rounds)
                        ]
                        self.note(part, entry, wire, rounds)

    def images(self) -> None:
        """The figures of benchmarks/media.py, in its own words."""
        plain = environment("plain-pillow", PLAIN_PILLOW)
        rounds = "3" if self.effort is QUICK else "5"
        command = [sys.executable, str(HERE / "media.py"), "--plain", plain, "--rounds", rounds]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        text = done.stdout.strip() or done.stderr.strip()[-500:]
        self.rows.append({"part": "images", "text": text, "code": done.returncode})
        print(text, flush=True)

    def server_speed(self) -> None:
        """How fast the server is: raw sockets read from it without looking at what comes."""
        for wire in self.wires:
            found = [{"chunks_per_s": self.server.speed(wire)} for _ in range(5)]
            self.note("server", Entry("raw socket", "", "", ()), wire, found)


def _warm(order: dict[str, Any]) -> dict[str, Any]:
    return {"seconds": 0.02} if "seconds" in order else order


def _first_wires(entry: Entry) -> tuple[str, ...]:
    """Return all wires of what is ours and the limit's, the first of anybody else."""
    return entry.wires[:1] if entry.is_peer else entry.wires


def _summary(values: list[float]) -> dict[str, float]:
    low, high = min(values), max(values)
    middle = statistics.median(values)
    return {"min": low, "median": middle, "max": high, "rounds": len(values)}


def _import(entry: Entry) -> dict[str, float]:
    """Return the CPU milliseconds of importing an entry in a fresh process."""
    what = "from aiollm import Registry, Request" if entry is OURS else f"import {entry.module}"
    code = (
        "import os, time; os.environ['LITELLM_LOCAL_MODEL_COST_MAP'] = 'True'; "
        f"t = time.process_time(); {what}; print((time.process_time() - t) * 1e3)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [python(entry), "-c", code], capture_output=True, text=True, env=env, check=False
    )
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    return {"ms": float(done.stdout.split()[-1])}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute or two, and less exact")
    parser.add_argument(
        "--only", nargs="*", metavar="NAME", help="peers that take part; none: no peer"
    )
    parser.add_argument("--wire", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--part", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--to", type=Path, default=HERE / "results", help="where results go")
    return parser.parse_args()


def _field(only: list[str] | None) -> tuple[Entry, ...]:
    """Return who takes part, environments made; a peer that cannot be installed is left out."""
    entries = [LIMIT, OURS, *UVLOOP]
    for peer in PEERS:
        if only is not None and peer.name not in only:
            continue
        try:
            python(peer)
        except subprocess.CalledProcessError as error:
            print(f"{peer.name} cannot be installed: {error}", file=sys.stderr)
        else:
            entries.append(peer)
    return tuple(entries)


def main() -> None:
    """Run the parts, then write what they gave."""
    given = _arguments()
    effort = QUICK if given.quick else Effort()
    bench = Bench(_field(given.only), given.wire, effort)
    parts: dict[str, Callable[[], None]] = {
        "server": bench.server_speed,
        "start": bench.start,
        "blast": bench.blast,
        "short": bench.short,
        "paced": bench.paced,
        "open": bench.open,
        "tls": bench.tls,
        "large": bench.large,
        "images": bench.images,
    }
    began = time.perf_counter()
    try:
        for part in given.part:
            parts[part]()
    finally:
        bench.close()
        print(f"\n{time.perf_counter() - began:.0f} s\n")
        print(report.write(given.to, bench.rows, effort._asdict()))


if __name__ == "__main__":
    main()
