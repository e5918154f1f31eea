"""Every target over the recorded answers and what fuzzing has found, without a fuzzer."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fuzz import wire
from tests.fuzz.mutate import mutated
from tests.fuzz.oracles import check_linear, rng_of
from tests.fuzz.targets import CORPUS, TARGETS, found_by

MAX_CORPUS = 300_000


@pytest.mark.parametrize("name", TARGETS)
def test_no_recorded_or_found_input_breaks_a_promise(name: str) -> None:
    target = TARGETS[name]
    inputs = [*target.seeds(), *found_by(name)]
    assert inputs
    for data in (b"", b"\n\n", b"\xff\xfe\x00", *inputs):
        target.run(data)


@pytest.mark.parametrize("name", [name for name, row in TARGETS.items() if row.is_wire])
def test_damage_to_lines_and_json_breaks_no_promise(name: str) -> None:
    target = TARGETS[name]
    seeds = list(target.seeds())
    for seed in seeds[:: max(1, len(seeds) // 12)]:
        target.run(mutated(seed, rng_of(seed), seeds))


def test_each_target_says_what_it_checks() -> None:
    assert all(target.run.__doc__ for target in TARGETS.values())


def test_the_corpus_is_small_and_has_no_file_without_a_target() -> None:
    files = list(CORPUS.iterdir())
    assert {path.stem for path in files} <= TARGETS.keys()
    assert sum(path.stat().st_size for path in files) < MAX_CORPUS


def test_work_that_is_quadratic_is_noticed() -> None:
    from aiollm._wire.durations import number

    def work(data: bytes) -> None:
        for _ in range(len(data) ** 2 // 10):
            number("1")

    check_linear(lambda data: [number("1") for _ in data], b"", b"x", b"")
    with pytest.raises(AssertionError, match="not linear"):
        check_linear(work, b"", b"x", b"")


def test_any_bytes_are_an_answer_and_a_written_one_is_read_as_it_was() -> None:
    data = wire.written("gemini", 429, "text/html", {"retry-after": "3"}, b"a\n\nb")
    read = wire.parsed(data)
    assert (read.name, read.status, read.content_type) == ("gemini", 429, "text/html")
    assert (read.headers, read.body, read.broken) == ({"retry-after": "3"}, b"a\n\nb", False)
    assert wire.parsed(b"\xff").status == 200


def test_the_command_names_its_targets_when_it_knows_none() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "targets are chat," in done.stderr
