"""The commands on a terminal of several widths, into files and pipes, and when they are ended."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from aiollm import cli
from aiollm.cli import layout
from aiollm.testing import Answer, FaultServer, Gate, chat
from tests.programs import waited_for

ROOT = Path(__file__).parents[1]
LISTED = Answer(200, {}, {"data": [{"id": "qwen3:8b"}, {"id": "\u732b\u306e\u30e2\u30c7\u30eb"}]})


def answers(request):
    return LISTED if request.path.endswith("/models") else chat("**Hi**", " `there`")


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a user who has one server that answers, and one that is down."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    with FaultServer(default=answers).in_thread() as server:
        yield kept | {
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path),
            "TERM": "xterm",
            "PYTHONUTF8": "1",
            "OLLAMA_HOST": "127.0.0.1:9",
            "LLM_BOX": f"llama-swap://127.0.0.1:{server.port}",
            "LLM_DOWN": "openai+http://127.0.0.1:9",
            "LLM_BAD": "openai://host?nonsense=1",
            "LLM_DEFAULT": "alias:box/qwen3:8b",
        }


def started(
    environment: dict[str, str], *arguments: str, stdout: int, stderr: int
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return waited_for(
        subprocess.Popen(
            [sys.executable, "-m", "aiollm", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    )


def on_terminal(environment: dict[str, str], columns: int, *arguments: str) -> tuple[int, str]:
    """Run a command on a terminal; return its exit code, and all that the terminal was sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    with started(environment, *arguments, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        with suppress(OSError):  # what Linux says when the other end is closed
            while piece := os.read(ours, 65536):
                said += piece
        os.close(ours)
    return process.returncode, said.decode().replace("\r\n", "\n")


def screen(said: str) -> list[str]:
    """Return the lines that are left when those that were written again are gone, and colours."""
    lines = (re.split(r"\r", line)[-1].removeprefix("\x1b[K") for line in said.split("\n"))
    return [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]  # newer Pythons colour help


@pytest.mark.parametrize("columns", [40, 60, 80, 160])
@pytest.mark.parametrize("arguments", [(), ("health",), ("--help",), ("map", "--help")])
def test_lines_fit_the_terminal_and_words_are_whole(
    environment: dict[str, str], columns: int, arguments: tuple[str, ...]
) -> None:
    _, said = on_terminal(environment, columns, *arguments)
    for line in screen(said):
        # A word may be longer than the line: an address, a command to copy, an option.
        rest = line.lstrip().partition(": ")[2] or line.strip()
        is_example = line.lstrip().startswith(("aiollm ", "git ", "[--"))
        assert len(line) <= columns or " " not in rest or is_example, line


def test_a_wide_terminal_has_a_line_for_each_provider(environment: dict[str, str]) -> None:
    code, said = on_terminal(environment, 200)
    assert code == cli.OK
    lines = screen(said)
    heads = [line.split()[0] for line in lines if line[:1].strip()]
    assert heads[1:6] == ["PROVIDER", "bad", "box", "down", "ollama"]


def test_while_it_waits_a_terminal_says_for_whom_and_nothing_else_does(
    environment: dict[str, str],
) -> None:
    _, said = on_terminal(environment, 80)
    assert "\rasking bad, box, down, ollama\x1b[K" in said
    for name, value in (("TERM", "dumb"), ("NO_COLOR", "1")):
        _, said = on_terminal(environment | {name: value}, 80)
        assert ("\x1b" in said) is (name == "NO_COLOR")  # which is about colour alone
        assert "\x1b[1m" not in said


@pytest.mark.parametrize(
    "arguments",
    [(), ("health",), ("check", "default"), ("ask", "Hi"), ("models", "box"), ("--help",)],
)
def test_redirected_output_is_plain(
    environment: dict[str, str], arguments: tuple[str, ...]
) -> None:
    with started(
        environment, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        out, told = process.communicate()
    assert b"\x1b" not in out + told
    assert b"\r" not in out + told
    assert out


@pytest.mark.parametrize(("variables", "styled"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_an_answer_is_styled_unless_no_colour_is_wanted(
    environment: dict[str, str], variables: dict[str, str], styled: bool
) -> None:
    code, said = on_terminal(environment | variables, 80, "ask", "Hi")
    assert code == cli.OK
    assert ("\x1b[1m**Hi**" in said) is styled
    assert ("\x1b" in said) is styled


def test_the_columns_of_wide_characters_are_counted() -> None:
    rows = [("\u732b", "x"), ("abcd", "y"), ("e\u0301", "z")]
    assert layout.table(rows) == "\u732b    x\nabcd  y\ne\u0301     z\n"


@pytest.mark.parametrize("arguments", [("--help",), (), ("completion", "bash"), ("models", "box")])
def test_a_reader_that_closes_the_pipe_makes_no_noise(
    environment: dict[str, str], arguments: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with started(environment, *arguments, stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        _, told = process.communicate()
    assert (process.returncode, told) == (cli.BROKEN_PIPE, b"")


@pytest.mark.parametrize("arguments", [(), ("check", "slow/m")])
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_wait_for_servers_without_a_word(
    environment: dict[str, str], arguments: tuple[str, ...]
) -> None:
    gate = Gate()

    def waits(request):
        return chat(gate, "late")

    with FaultServer(default=waits).in_thread() as server:
        environment["LLM_SLOW"] = f"openai+http://127.0.0.1:{server.port}"
        with started(
            environment, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            while not server.requests:
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            out, told = process.communicate()
    assert (process.returncode, out, told) == (cli.INTERRUPTED, b"", b"")


@pytest.mark.parametrize(
    ("variables", "arguments"),
    [
        ({"LLM_BOX": "nonsense"}, ("ask", "-m", "box/m", "Hi")),
        ({}, ("ask", "-m", "bad/m", "Hi")),
        ({}, ("check", "nosuch/m")),
        ({"AIOLLM_FLEET": "nonsense"}, ("fleet",)),
        ({}, ("image", "-m", "box/m", "-i", "nowhere.png", "cat")),
    ],
)
def test_a_wrong_setting_is_told_on_standard_error_without_a_traceback(
    environment: dict[str, str], variables: dict[str, str], arguments: tuple[str, ...]
) -> None:
    with started(
        environment | variables, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        out, told = process.communicate()
    assert (process.returncode, out) == (cli.USAGE, b"")
    first, *others = told.decode().splitlines()
    assert first.startswith("aiollm: ")
    assert not [line for line in others if not line.startswith(("  ", "aiollm: "))]
