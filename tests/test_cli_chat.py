"""`aiollm chat` and `ask` behind a pseudo-terminal and behind pipes, against loopback servers."""

from __future__ import annotations

import asyncio
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
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from aiollm import cli, local
from aiollm.testing import Answer, FaultServer, Gate, chat, sse
from tests.programs import waited_for

ROOT = Path(__file__).parents[1]
EVIL = (
    "hi \x1b]52;c;ZXZpbA==\x07 \x1b]0;PWNED\x1b\\ \x1b[31mred \x1b[6n `code \x1b[2J` \x9b2J"
    " \x90q\x9c \u202egpj.exe \x1b]8;;http://evil\x07[here](http://a/\x1b]8;;evil\x07)\r\x08\x00"
    " [link=http://x]y"
)
HARMLESS = (
    "hi ]52;c;ZXZpbA== ]0;PWNED\\ [31mred [6n `code [2J` 2J"
    " q gpj.exe ]8;;http://evil[here](http://a/]8;;evil) [link=http://x]y"
)
BOOT = """
import os, sys
os.open(os.ttyname(0), os.O_RDWR)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Opens its terminal, which then sends it Ctrl-C, and becomes another command."""
LONG = [f"Line {number}: some *words* here" for number in range(60)]


def environment(dsn: str, **more: str) -> dict[str, str]:
    """Return a user's environment: output is buffered, and colors are welcome."""
    env = {**os.environ, "LLM_BOX": dsn, "PYTHONPATH": str(ROOT), **more}
    return {name: env[name] for name in env if name not in {"PYTHONUNBUFFERED", "NO_COLOR"}}


class Terminal:
    """A command behind a pseudo-terminal of 80 columns and 20 rows that shows what is typed."""

    def __init__(self, *arguments: str, dsn: str, term: str = "xterm-256color") -> None:
        self.main, side = pty.openpty()
        self.resize(80, 20)
        env = environment(dsn, TERM=term)
        self.process = subprocess.Popen(
            [sys.executable, "-c", BOOT, "-m", "aiollm", *arguments],
            stdin=side,
            stdout=side,
            stderr=side,
            env=env,
            start_new_session=True,
        )
        os.close(side)
        self.seen = ""

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, text: str) -> str:
        """Read until `text` is seen; return what came before."""
        while text not in self.seen:
            self.seen += os.read(self.main, 4096).decode("utf-8", "replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def rest(self) -> str:
        """Read to the end."""
        try:
            while data := os.read(self.main, 4096):
                self.seen += data.decode("utf-8", "replace")
        except OSError:  # Linux: the other side is closed
            pass
        return self.seen

    def type(self, text: str) -> None:
        os.write(self.main, text.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.main)


@contextmanager
def talking(
    *script: object, term: str = "xterm-256color"
) -> Iterator[tuple[Terminal, FaultServer]]:
    """A chat that waits for the first message, and its server."""
    with FaultServer(*script).in_thread() as server:
        terminal = Terminal("chat", "-m", "box/m", dsn=server.dsn("openai"), term=term)
        try:
            terminal.until("/help lists the commands\r\n> ")
            yield terminal, server
        finally:
            terminal.close()


def run(
    *arguments: str,
    dsn: str,
    text: str = "",
    stdout: int | IO[bytes] = subprocess.PIPE,
    **more: str,
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "aiollm", *arguments],
        input=text.encode("utf-8", "surrogateescape"),
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
        env=environment(dsn, **more),
    )


def sequences(text: str) -> list[str]:
    return re.findall(r"\x1b(?!\[\d+m).{0,9}", text)


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_what_a_model_says_cannot_drive_the_terminal(term):
    with talking(chat(*EVIL), chat(EVIL), term=term) as (terminal, _):
        for _ in range(2):  # cut at every character, and in one piece
            terminal.type("hello\n")
            terminal.until("hello\r\n")
            said = terminal.until("\r\n> ")
            assert not sequences(said)
            assert re.sub(r"\x1b\[\d+m", "", said) == HARMLESS


def test_ask_on_a_terminal_is_as_clean():
    with FaultServer(chat(*EVIL)).in_thread() as server:
        terminal = Terminal("ask", "-m", "box/m", "Hi", dsn=server.dsn("openai"))
        try:
            said = terminal.rest()
        finally:
            terminal.close()
    assert not sequences(said)
    assert HARMLESS in re.sub(r"\x1b\[\d+m", "", said)


def test_an_answer_in_a_pipe_is_what_the_model_said():
    with FaultServer(default=chat(EVIL)).in_thread() as server:
        dsn = server.dsn("openai")
        asked = run("ask", "-m", "box/m", "Hi", dsn=dsn)
        talked = run("chat", "-m", "box/m", dsn=dsn, text="Hi\n")
    assert asked.stdout.decode() == talked.stdout.decode() == f"{EVIL}\n"


def test_an_answer_longer_than_the_screen_is_shown_once_even_if_the_window_changes():
    gate = Gate()
    text = "\n".join(LONG)
    script = chat(*text[:900], gate, *text[900:])
    with talking(script) as (terminal, _):
        terminal.type("Tell me.\n")
        said = terminal.until("Line 20")
        terminal.resize(33, 7)
        terminal.process.send_signal(signal.SIGWINCH)
        gate.open()
        said += "Line 20" + terminal.until("\r\n> ")
    assert said.split("\r\n")[1:] == LONG


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_stops_the_answer_and_not_the_chat():
    gate = Gate()
    with talking(chat("Once upon", gate), chat("All right.")) as (terminal, server):
        terminal.type("Tell me a story.\n")
        terminal.until("Once upon")
        terminal.type("\x03")
        assert terminal.until("aiollm: stopped\r\n> ") == "^C\r\n"
        terminal.type("Thank you.\n")
        terminal.until("All right.\r\n> ")
        terminal.type("/exit\n")
        assert terminal.process.wait() == cli.OK
        told = server.requests[1].json()["messages"]
    assert [message["role"] for message in told] == ["user", "assistant", "user"]
    assert told[1]["content"] == "Once upon"


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_before_the_answer_forgets_the_question_and_at_the_prompt_does_nothing():
    gate = Gate()
    with talking(chat(gate), chat("All right.")) as (terminal, server):
        terminal.type("\x03")
        terminal.until("^C\r\n> ")
        terminal.type("Hello?\n")
        asyncio.run(server.wait_requests(1))
        terminal.type("\x03")
        assert terminal.until("aiollm: stopped\r\n> ") == "Hello?\r\n^C\r\n"
        terminal.type("\x03")
        terminal.until("^C\r\n> ")
        terminal.type("Again.\n")
        terminal.until("All right.\r\n> ")
        terminal.type("\x04")
        assert terminal.process.wait() == cli.OK
        assert len(server.requests[1].json()["messages"]) == 1


def test_a_provider_that_dies_does_not_end_the_conversation():
    busy = Answer(400, {}, {"error": {"message": "no\naiollm: \x1b[2Jfine"}})
    with talking(chat("One."), Answer(401), busy, chat("Three.")) as (terminal, server):
        terminal.type("1\n")
        terminal.until("One.\r\n> ")
        for _ in range(2):
            terminal.type("2\n")
            failed = terminal.until("\r\n> ")
            assert "aiollm: " in failed
            assert "\x1b" not in failed
            assert "\naiollm: fine" not in failed
        terminal.type("3\n")
        terminal.until("Three.\r\n> ")
        told = [message["content"] for message in server.requests[-1].json()["messages"]]
    assert told == ["1", "One.", "3"]


def test_commands_say_what_they_want():
    with talking() as (terminal, _):
        terminal.type("/foo bar\n")
        terminal.until("aiollm: unknown command /foo; these are known:\r\n")
        listed = terminal.until("Ctrl-C stops").splitlines()
        assert len({re.match(r"  /\w+ (?:FILE|SPEC)? +", line).end() for line in listed}) == 1
        terminal.until("\r\n> ")
        terminal.type("/help\n")
        assert terminal.until("Ctrl-C stops").splitlines()[1:] == listed
        terminal.until("\r\n> ")
        terminal.type("/model\n")
        terminal.until("aiollm: /model needs a SPEC\r\n> ")


def test_chat_reads_lines_from_a_pipe():
    with FaultServer(default=chat("Hello there")).in_thread() as server:
        text = "Hi\n/nonsense\n/image nowhere.png\n/new\nHi again \udcff\n"
        ended = run("chat", "-m", "box/m", dsn=server.dsn("openai"), text=text)
        last = server.requests[-1].json()["messages"]
    assert ended.returncode == cli.OK
    assert ended.stdout == b"Hello there\nHello there\n"
    assert b"unknown command /nonsense" in ended.stderr
    assert b"nowhere.png" in ended.stderr
    assert b"Traceback" not in ended.stderr
    assert [message["content"] for message in last] == ["Hi again \ufffd"]


def test_a_chat_stays_where_its_prompt_is_cached():
    """Without a session, a spread would go to the model that it does not know yet."""
    with FaultServer(default=chat("Hello")).in_thread() as server:
        run("chat", "-m", "box/one&box/two", dsn=server.dsn("openai"), text="1\n2\n3\n")
        models = [request.json()["model"] for request in server.requests]
    assert models == [models[0]] * 3


def test_a_script_learns_that_a_turn_failed():
    with FaultServer(Answer(400), chat("Two")).in_thread() as server:
        ended = run("chat", "-m", "box/m", dsn=server.dsn("openai"), text="1\n2\n")
    assert (ended.returncode, ended.stdout) == (cli.FAILED, b"Two\n")


def test_a_call_of_a_tool_does_not_block_the_chat():
    call = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{}"}}
    calling = sse(
        {"choices": [{"index": 0, "delta": {"content": "Let me see.", "tool_calls": [call]}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    )
    with FaultServer(calling, chat("All right.")).in_thread() as server:
        ended = run("chat", "-m", "box/m", dsn=server.dsn("openai"), text="Hi\nAnd?\n")
        said = server.requests[1].json()["messages"][1]
    assert ended.stdout == b"Let me see.\nAll right.\n"
    assert said == {"role": "assistant", "content": "Let me see."}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "utf-16"])
def test_no_encoding_makes_it_fail(encoding):
    event = '{"choices": [{"index": 0, "delta": {"content": "naïve 日本 \\ud83d 😀"}}]}'
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    with FaultServer(default=sse(event, end, "[DONE]")).in_thread() as server:
        dsn = server.dsn("openai")
        plain = run("ask", "-m", "box/m", "Hi", dsn=dsn, PYTHONIOENCODING=encoding)
        exact = run("ask", "--json", "-m", "box/m", "Hi", dsn=dsn, PYTHONIOENCODING=encoding)
    assert (plain.returncode, plain.stderr) == (cli.OK, b"")
    assert "na" in plain.stdout.decode(encoding)
    assert '"text":"na\\u00efve \\u65e5\\u672c ' in exact.stdout.decode(encoding)


def test_a_reader_that_leaves_ends_it_silently_and_closes_the_connection():
    gate = Gate()
    with FaultServer(chat("first\n", gate, "second\n" * 99)).in_thread() as server:
        asking = subprocess.Popen(
            [sys.executable, "-m", "aiollm", "ask", "-m", "box/m", "Hi"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(server.dsn("openai")),
        )
        with waited_for(asking) as process:
            assert process.stdout.readline() == b"first\n"
            process.stdout.close()
            gate.open()
            assert process.wait() == cli.BROKEN_PIPE
            assert process.stderr.read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_is_an_error_in_one_line():
    with FaultServer(chat("much")).in_thread() as server:
        with Path("/dev/full").open("wb") as full:
            ended = run("ask", "-m", "box/m", "Hi", dsn=server.dsn("openai"), stdout=full)
    assert ended.returncode == cli.FAILED
    assert ended.stderr.startswith(b"aiollm: the output cannot be written: ")
    assert ended.stderr.count(b"\n") == 1


@pytest.mark.parametrize("command", [("ask", "Hi"), ("ask", "--json", "Hi"), ("chat",)])
def test_sigterm_closes_the_connection(command):
    gate = Gate()
    with FaultServer(chat("Once", gate)).in_thread() as server:
        asking = subprocess.Popen(
            [sys.executable, "-m", "aiollm", *command, "-m", "box/m"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(server.dsn("openai")),
        )
        with waited_for(asking) as process:
            process.stdin.write(b"Hi\n")
            process.stdin.close() if command[0] == "ask" else process.stdin.flush()
            if "--json" not in command:
                assert process.stdout.read(4) == b"Once"
            else:
                asyncio.run(server.wait_requests(1, within=30))  # it has yet to start
            process.send_signal(signal.SIGTERM)
            assert process.wait() == cli.TERMINATED
            assert process.stderr.read() == b""


def test_a_conversation_goes_on_where_the_local_model_of_its_model_command_does_not_start(
    tmp_path: Path,
) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('libgomp.so.1: cannot open')")
    (tmp_path / local.MODEL_PACKAGE).mkdir()
    (tmp_path / local.MODEL_PACKAGE / "small.gguf").touch()
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    with FaultServer(default=chat("hello")).in_thread() as server:
        variables = {"PYTHONPATH": path, "LLM_TINY": "alias:local/smollm2"}
        talk = "/model tiny\nhi\n"
        done = run("chat", "-m", "box/a", text=talk, dsn=server.dsn("openai"), **variables)
    assert (done.returncode, done.stdout) == (cli.OK, b"hello\n")
    assert b"the local server did not start" in done.stderr
    assert b"libgomp1" in done.stderr
