"""The other commands, against loopback servers in a thread of their own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from aiollm import Registry, cli
from aiollm.cli import servers
from aiollm.servers.warming import KINDS
from aiollm.testing import Answer, FaultServer, Gate, chat, sse

ROOT = Path(__file__).parents[1]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
RUNNING = {"running": [{"model": "qwen3:8b", "state": "ready", "cmd": "", "proxy": "", "ttl": 0}]}


def answers(request):
    """Answer like a box with one chat model and one image model."""
    match request.method, request.path:
        case _, "/v1/models":
            return Answer(200, {}, {"data": [{"id": "qwen3:8b"}, {"id": "sdxl"}]})
        case _, "/running":
            return Answer(200, {}, RUNNING)
        case _, path if path.startswith("/api/models/unload"):
            return Answer(200, {}, "OK")
        case _, "/v1/images/generations":
            return Answer(200, {}, {"created": 1, "data": [{"b64_json": PNG}]})
        case _:
            return chat("Hello", " there", usage=(3, 2))


@pytest.fixture
def box(monkeypatch):
    for name in list(os.environ):
        if name.startswith("LLM_") or name in cli.VENDOR_VARIABLES:
            monkeypatch.delenv(name)
    with FaultServer(default=answers).in_thread() as server:
        monkeypatch.setenv("LLM_BOX", f"llama-swap://127.0.0.1:{server.port}")
        yield server


def test_models_are_listed_as_targets(box, capsys):
    assert cli.main(["models", "box"]) == cli.OK
    assert capsys.readouterr().out == "box/qwen3:8b\nbox/sdxl\n"
    assert cli.main(["models", "--json", "box"]) == cli.OK
    assert json.loads(capsys.readouterr().out) == ["box/qwen3:8b", "box/sdxl"]


def test_models_of_a_dead_provider_are_an_error(box, capsys, monkeypatch):
    monkeypatch.setenv("LLM_DOWN", "openai+http://127.0.0.1:9")
    assert cli.main(["models", "down"]) == cli.FAILED
    assert "ConnectError" in capsys.readouterr().err


def test_health_says_who_answers(box, capsys, monkeypatch):
    assert cli.main(["health", "box"]) == cli.OK
    assert "box  up" in capsys.readouterr().out
    monkeypatch.setenv("LLM_DOWN", "openai+http://127.0.0.1:9")
    assert cli.main(["health", "--json", "box", "down"]) == cli.FAILED
    up, down = json.loads(capsys.readouterr().out)
    assert up["models"] == 2
    assert down["problem"].startswith("ConnectError")


def test_running_and_unload(box, capsys):
    assert cli.main(["running", "box"]) == cli.OK
    assert capsys.readouterr().out == "qwen3:8b  ready\n"
    assert cli.main(["unload", "box", "qwen3:8b"]) == cli.OK
    assert cli.main(["unload", "box"]) == cli.OK
    paths = [request.path for request in box.requests if "unload" in request.path]
    assert paths == ["/api/models/unload/qwen3:8b", "/api/models/unload"]


def test_running_and_unload_of_an_ollama(capsys, monkeypatch):
    loaded = Answer(200, {}, {"models": [{"name": "qwen3:8b"}, {"name": "smol:latest"}]})
    paths = {"/api/ps": loaded, "/api/generate": Answer(200, {}, {"done": True})}
    with FaultServer(paths=paths).in_thread() as server:
        monkeypatch.setenv("LLM_M5", server.dsn("ollama"))
        assert cli.main(["running", "m5"]) == cli.OK
        assert capsys.readouterr().out == "qwen3:8b  loaded\nsmol:latest  loaded\n"
        assert cli.main(["unload", "m5", "smol"]) == cli.OK
        assert cli.main(["unload", "m5"]) == cli.OK
        sent = [each.json() for each in server.requests if each.path == "/api/generate"]
    assert [each["model"] for each in sent] == ["smol", "qwen3:8b", "smol:latest"]
    assert all(each["keep_alive"] == 0 for each in sent)


@pytest.mark.parametrize("scheme", KINDS)
def test_every_scheme_of_a_model_server_is_a_box(scheme):
    registry = Registry(env={"LLM_X": f"{scheme}://key@127.0.0.1:9"})
    assert type(servers.box(registry, "x")) is KINDS[scheme]


def test_running_of_what_is_no_box_is_a_usage_error(box, capsys, monkeypatch):
    monkeypatch.setenv("LLM_CLOUD", "openai+http://127.0.0.1:9")
    assert cli.main(["running", "cloud"]) == cli.USAGE
    assert "llama-swap" in capsys.readouterr().err


def test_an_image_is_saved(box, tmp_path, capsys):
    output = tmp_path / "boat.png"
    arguments = ["image", "a paper boat", "-m", "box/sdxl", "-o", str(output), "--size", "512x512"]
    assert cli.main(arguments) == cli.OK
    assert output.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"{output}\n"


def test_a_bad_size_is_a_usage_error(box, tmp_path, capsys):
    output = str(tmp_path / "x.png")
    assert cli.main(["image", "x", "-m", "box/sdxl", "-o", output, "--size", "big"]) == cli.USAGE
    assert "Traceback" not in capsys.readouterr().err


def test_check_tries_every_target_and_says_what_is_wrong(box, capsys, monkeypatch):
    assert cli.main(["check", "box/qwen3:8b"]) == cli.OK
    told = capsys.readouterr().out
    assert "ok  first output" in told
    assert "Hello there" in told
    monkeypatch.setenv("LLM_DOWN", "openai+http://127.0.0.1:9")
    assert cli.main(["check", "down/m,box/qwen3:8b"]) == cli.FAILED
    told = capsys.readouterr().out
    assert "FAILED" in told
    assert "check host, port and scheme" in told
    assert "ok  first output" in told


def test_check_as_json(box, capsys):
    assert cli.main(["check", "--json", "box/qwen3:8b"]) == cli.OK
    (finding,) = json.loads(capsys.readouterr().out)
    assert finding["text"] == "Hello there"
    assert finding["capabilities"]["tools"] is True


def test_ask_as_json(box, capsys):
    assert cli.main(["ask", "--json", "-m", "box/qwen3:8b", "Hi"]) == cli.OK
    response = json.loads(capsys.readouterr().out)
    assert response["finish_reason"] == "stop"
    assert response["usage"]["input_tokens"] == 3


class Terminal:
    """`aiollm chat` behind a pseudo-terminal."""

    def __init__(self, port: int) -> None:
        self.main, side = pty.openpty()
        attributes = termios.tcgetattr(side)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(side, termios.TCSANOW, attributes)
        env = {**os.environ, "LLM_BOX": f"llama-swap://127.0.0.1:{port}", "TERM": "dumb"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aiollm", "chat", "-m", "box/m"],
            stdin=side,
            stdout=side,
            stderr=side,
            env={**env, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        os.close(side)
        self.seen = ""

    def until(self, text: str) -> None:
        while text not in self.seen:
            self.seen += os.read(self.main, 4096).decode("utf-8", "replace")
        self.seen = self.seen.partition(text)[2]

    def type(self, line: str) -> None:
        os.write(self.main, f"{line}\n".encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.main)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_stops_the_answer_and_not_the_chat():
    gate = Gate()
    with FaultServer(chat("Once upon", gate), chat("All right.")).in_thread() as server:
        terminal = Terminal(server.port)
        try:
            terminal.until("> ")
            terminal.type("Tell me a story.")
            terminal.until("Once upon")
            terminal.process.send_signal(signal.SIGINT)
            terminal.until("stopped")
            terminal.until("> ")
            terminal.type("Thank you.")
            terminal.until("All right.")
            terminal.until("> ")
            terminal.type("/exit")
            assert terminal.process.wait() == cli.OK
        finally:
            terminal.close()
        told = server.requests[1].json()["messages"]
    assert [message["role"] for message in told] == ["user", "assistant", "user"]
    assert told[1]["content"] == "Once upon"


def test_chat_reads_lines_from_a_pipe(box):
    run = subprocess.run(
        [sys.executable, "-m", "aiollm", "chat", "-m", "box/m"],
        input="Hi\n/nonsense\n/image nowhere.png\n/new\nHi again\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == cli.OK
    assert run.stdout == "Hello there\nHello there\n"
    assert "/image FILE" in run.stderr
    assert "nowhere.png" in run.stderr
    assert "Traceback" not in run.stderr
    last = box.requests[-1].json()["messages"]
    assert len(last) == 1


def test_a_call_of_a_tool_does_not_block_the_chat():
    call = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{}"}}
    calling = sse(
        {"choices": [{"index": 0, "delta": {"content": "Let me see.", "tool_calls": [call]}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    )
    with FaultServer(calling, chat("All right.")).in_thread() as server:
        run = subprocess.run(
            [sys.executable, "-m", "aiollm", "chat", "-m", "box/m"],
            input="Hi\nAnd?\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "LLM_BOX": server.dsn("openai"), "PYTHONPATH": str(ROOT)},
        )
        assert run.stdout == "Let me see.\nAll right.\n"
        said = server.requests[1].json()["messages"][1]
    assert said == {"role": "assistant", "content": "Let me see."}


@pytest.mark.parametrize(
    ("command", "closed", "code", "out"),
    [
        ("ask Hi -m box/m", "<&-", cli.OK, "Hello there\n"),
        ("ask -m box/m", "<&-", cli.USAGE, ""),
        ("chat -m box/m", "<&-", cli.OK, ""),
        ("ask Hi -m box/m", ">&-", cli.OK, ""),
        ("ask Hi -v -m box/m", "2>&-", cli.OK, "Hello there\n"),
    ],
)
def test_standard_streams_may_be_closed(box, command, closed, code, out):
    run = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m aiollm {command} {closed}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (run.returncode, run.stdout) == (code, out)
    assert "Traceback" not in run.stderr
