"""The command line against a real server, in a real process and a real terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aiollm import cli
from aiollm.cli.session import VENDOR_VARIABLES

pytestmark = pytest.mark.e2e

COMMAND = [sys.executable, "-m", "aiollm", "ask"]
LONG = ["-t", "0", "Tell me a long story about a fox."]
"""Without chance, so that no answer is short: the model never comes to an end."""


def notes_of(stderr: str) -> list[str]:
    """Return what is said beside the answer, which may or may not come to its end in time."""
    return [line for line in stderr.splitlines() if "ended at a limit of tokens" not in line]


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment with nothing configured but `variables`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LLM_") and name not in VENDOR_VARIABLES
    }
    return kept | variables


@pytest.fixture
def ask(server: Any) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `aiollm ask` with the server as the provider `box`."""

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            env=environment(LLM_BOX=server.dsn(), LLM_DOWN="openai+http://127.0.0.1:9/v1"),
            stdin=None if "input" in options else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **options,
        )

    return run


@pytest.fixture
def long_answer(server: Any, interruptible: None) -> Iterator[subprocess.Popen[bytes]]:
    """Return a command that is in the middle of a long answer."""
    process = subprocess.Popen(
        [*COMMAND, "-m", "box/smollm2", *LONG],
        env=environment(LLM_BOX=server.dsn()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        yield process
        process.kill()


def test_an_answer_goes_to_standard_output_alone(ask: Any) -> None:
    run = ask("-n", "16", "-m", "box/smollm2", "Say", "hello.")
    assert (run.returncode, notes_of(run.stderr)) == (cli.OK, [])
    assert run.stdout.strip()
    assert run.stdout.endswith("\n")


def test_a_chain_tells_who_failed_and_who_answered(ask: Any) -> None:
    run = ask("-v", "-n", "16", "-m", "down/none,box/smollm2", "-", input="Say hello.")
    assert run.returncode == cli.OK
    assert "down/none: failed" in run.stderr
    assert "box/smollm2: success" in run.stderr
    assert "tokens in" in run.stderr


@pytest.mark.usefixtures("local_model")
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "a small local model answers"),
        ({"LLM_DEFAULT": "alias:tiny", "LLM_TINY": "alias:local/smollm2"}, ""),
    ],
)
def test_the_local_model_answers_where_an_alias_names_it_or_nothing_is_configured(
    variables: dict[str, str], said: str
) -> None:
    run = subprocess.run(
        [*COMMAND, "-n", "16", "Say hello."],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == cli.OK
    assert run.stdout.strip()
    assert len(notes_of(run.stderr)) == bool(said)
    assert said in run.stderr


def test_ctrl_c_ends_quietly_with_130(long_answer: subprocess.Popen[bytes]) -> None:
    long_answer.send_signal(signal.SIGINT)
    _, told = long_answer.communicate()
    assert long_answer.returncode == cli.INTERRUPTED
    assert told == b""


def test_a_reader_that_leaves_ends_it_quietly(long_answer: subprocess.Popen[bytes]) -> None:
    assert long_answer.stdout is not None
    assert long_answer.stderr is not None
    long_answer.stdout.close()
    told = long_answer.stderr.read()
    assert long_answer.wait() == cli.BROKEN_PIPE
    assert told == b""


def test_on_a_terminal_the_answer_comes_piece_by_piece(server: Any) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "-n", "48", "-m", "box/smollm2", *LONG],
        env=environment(LLM_BOX=server.dsn()),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    pieces = []
    try:
        while piece := os.read(ours, 4096):
            pieces.append(piece)
    except OSError:  # what Linux says when the other end of a terminal is closed
        pass
    finally:
        os.close(ours)
    assert process.wait() == cli.OK
    assert len(pieces) > 5
    assert b"\x1b" not in b"".join(pieces)  # nothing moves or erases
