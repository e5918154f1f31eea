"""Fuzz what reads bytes or text from outside: `python -m tests.fuzz [TARGET ...] [--seconds N]`.

It needs atheris: `pip install --group fuzz`. Without a target it runs all of them, each for its
share of the seconds. It starts with the recorded answers and the corpus in tests/fuzz/corpus,
keeps what it finds in `.fuzz/`, and goes on after a failure: each one is shown once, with the
input that replays it. `--minimize` needs no atheris: it adds to the corpus what reaches new code.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from hashlib import sha1
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOUND = ROOT / ".fuzz"
MAX_SIZE = 8192


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    parser.add_argument("--minimize", action="store_true", help="add what was found to the corpus")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.alone:
        return fuzz(asked.targets[0], asked.seconds)
    from tests.fuzz.targets import TARGETS

    names = asked.targets or list(TARGETS)
    if unknown := set(names) - TARGETS.keys():
        parser.error(f"unknown {', '.join(unknown)}; targets are {', '.join(TARGETS)}")
    if asked.minimize:
        from tests.fuzz.minimize import minimize

        for name in names:
            minimize(name, FOUND / name)
        return 0
    total = sum(TARGETS[name].weight for name in names)
    codes = [_apart(name, asked.seconds * TARGETS[name].weight // total) for name in names]
    return max(codes)


def _apart(name: str, seconds: int) -> int:
    """Fuzz one target in its own process, which the fuzzer ends; return 1 if it failed."""
    command = [sys.executable, "-m", "tests.fuzz", name, "--alone", "--seconds", str(seconds)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def fuzz(name: str, seconds: int) -> int:
    """Fuzz one target; this ends the process."""
    try:
        import atheris
    except ImportError:
        print("fuzzing needs atheris: pip install --group fuzz")
        return 2
    with atheris.instrument_imports(include=["aiollm"]):
        _import_all()
        from tests.fuzz.targets import TARGETS, found_by
    target = TARGETS[name]
    seeds = list({*target.seeds(), *found_by(name)})
    folder = FOUND / name
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (folder / sha1(seed).hexdigest()).write_bytes(seed)
    words = FOUND / f"{name}.dict"
    words.write_text(_dictionary(seeds))
    findings = Findings(name)
    deadline = time.monotonic() + seconds

    def run(data: bytes) -> None:
        findings.try_out(target.run, data)
        if time.monotonic() > deadline:
            findings.end()

    def change(data: bytes, size: int, seed: int) -> bytes:
        from tests.fuzz.mutate import mutated

        rng = random.Random(seed)
        if rng.random() < 0.5:
            data = mutated(data, rng, seeds)
        if rng.random() < 0.6:
            data = atheris.Mutate(data[:size], size)
        return data[:size]

    arguments = [sys.argv[0], str(folder), f"-max_len={MAX_SIZE}", f"-dict={words}"]
    arguments += ["-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"]
    arguments += [f"-artifact_prefix={FOUND}/{name}-", "-verbosity=0", "-len_control=20"]
    more: dict[str, Any] = {"custom_mutator": change} if target.is_wire else {}
    atheris.Setup(arguments, run, **more)
    atheris.Fuzz()
    return 0


def _import_all() -> None:
    """Import what is otherwise imported late, so that the fuzzer sees it, too."""
    import pkgutil
    from importlib import import_module

    import aiollm

    for module in pkgutil.walk_packages(aiollm.__path__, "aiollm."):
        if module.name != "aiollm.__main__":
            with suppress(ImportError):
                import_module(module.name)


class Findings:
    """The failures of one run, each shown once, by where it was raised."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: dict[str, int] = {}
        self._runs = 0
        self._began = time.monotonic()

    def try_out(self, run: Any, data: bytes) -> None:
        self._runs += 1
        try:
            run(data)
        except Exception as error:  # noqa: BLE001  each is a finding
            self._add(error, data)

    def _add(self, error: Exception, data: bytes) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        own = [each for each in frames if "aiollm/" in each.filename][-1:]
        places = {f"{Path(each.filename).name}:{each.lineno}" for each in (*own, frames[-1])}
        place = f"{type(error).__name__} {' '.join(sorted(places))}"
        if len(data) >= self._seen.get(place, 1 << 30):
            return
        first = place not in self._seen
        self._seen[place] = len(data)
        path = FOUND / f"{self._name}-{re.sub('[^A-Za-z0-9.]+', '-', place)}"
        path.write_bytes(data)
        if first:
            shown = "".join(traceback.format_exception(error))[-3000:]
            print(f"\n{self._name}: {place}\n{shown}\n{path}: {data[:500]!r}", flush=True)

    def end(self) -> None:
        """Say what was done, and leave: the fuzzer's own end may come much later."""
        seconds = time.monotonic() - self._began
        used = time.process_time()
        print(
            f"{self._name}: {self._runs} runs in {seconds:.0f} s, {used:.0f} s of them on the CPU, "
            f"failures: {self._seen}"
        )
        sys.stdout.flush()
        os._exit(1 if self._seen else 0)


def _dictionary(seeds: list[bytes]) -> str:
    """Return the words of the seeds as a dictionary of libFuzzer."""
    words = {
        word for seed in seeds for word in re.findall(rb'"[A-Za-z_.]{2,40}"|[a-z-]{3,20}', seed)
    }
    quoted = (
        "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\x{b:02x}" for b in word)
        for word in sorted(words)[:600]
    )
    return "# words of the seeds\n" + "".join(f'"{word}"\n' for word in quoted)


if __name__ == "__main__":
    sys.exit(main())
