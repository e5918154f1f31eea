"""Completion: what may come next in a line, and that bash, zsh and fish ask for it."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm import cli
from aiollm.cli import known_models
from aiollm.cli.commands import COMMANDS
from aiollm.cli.completion import SCRIPTS, completions
from tests.programs import python

ROOT = Path(__file__).parents[1]
ENV = {
    "LLM_BOX": "llama-swap://127.0.0.1:9",
    "LLM_DEFAULT": "alias:box/qwen3:8b,openai/gpt-6",
    "OPENAI_API_KEY": "sk-made-up",
}


@pytest.fixture(autouse=True)
def listed() -> None:
    known_models.file().unlink(missing_ok=True)
    known_models.keep({"box": ["gemma"], "other": ["x"]})


def words(line: str) -> list[str]:
    return [text for text, _ in completions(line, ENV)[1]]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("aiollm chec", ["check"]),
        ("aiollm --v", ["--version"]),
        ("aiollm ask --mod", ["--model"]),
        ("aiollm ask -m d", ["default"]),
        ("aiollm ask -m default", ["default"]),
        ("aiollm ask -m box/", ["box/gemma", "box/qwen3:8b"]),
        ("aiollm ask --model=op", ["--model=openai/gpt-6", "--model=openai/"]),
        ("aiollm ask -m box/a,op", ["box/a,openai/gpt-6", "box/a,openai/"]),
        ("aiollm ask -m 'box/a|d", ["box/a|default"]),
        ('aiollm ask -m "box/a&d', ["box/a&default"]),
        ("aiollm ask -s m -m d", ["default"]),
        ("aiollm ask Why -", ["--help", "--model", "--system", "--image", "--mcp", "--tools",
            "--max-tokens", "--temperature", "--json", "--verbose"]),
        ("aiollm check d", ["default"]),
        ("aiollm check default d", ["default"]),
        ("aiollm check --json d", ["default"]),
        ("aiollm unload ", ["openai", "box"]),
        ("aiollm unload box ge", ["gemma"]),
        ("aiollm running --json b", ["box"]),
        ("aiollm completion --line x b", ["bash"]),
        ("aiollm models openai b", ["box"]),
        ("aiollm embed texts.jsonl --kind q", ["query"]),
        ("aiollm completion ", ["bash", "zsh", "fish"]),
        ("aiollm ask -i pho", []),
        ("aiollm ask --model default d", []),
        ("aiollm embed ", []),
        ("aiollm ask -n ", []),
        ("", [*(each.name for each in COMMANDS), "--help", "--version"]),
    ],
)  # fmt: skip
def test_what_may_come_next(line: str, expected: list[str]) -> None:
    assert words(line) == expected


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the names where others may write, too."""
    (folder := tmp_path / "shared").mkdir()
    monkeypatch.setattr(known_models, "file", lambda: folder / "models")
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_names_are_never_written_through_a_link(shared: Path, tmp_path: Path) -> None:
    (mine := tmp_path / "mine").write_text("precious words")
    for name in ("models", f"models.{os.getpid()}"):
        (shared / name).symlink_to(mine)
    known_models.keep({"box": ["gemma"]})
    assert mine.read_text() == "precious words"
    assert known_models.known() == ["box/gemma"]
    assert (shared / "models").stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in shared.iterdir()) == ["models", f"models.{os.getpid()}"]


@pytest.mark.skipif(sys.platform == "win32", reason="it has neither")
@pytest.mark.parametrize("kind", ["pipe", "endless"])
def test_a_file_of_another_kind_does_not_hold_up_the_shell(shared: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(shared / "models")
    else:
        (shared / "models").symlink_to("/dev/zero")
    assert known_models.known() == []


def test_names_of_any_length_are_not_kept() -> None:
    known_models.keep({"box": ["x" * 1_000_000, "gemma"]})
    assert known_models.known() == ["box/gemma", "other/x"]


def test_only_providers_that_can_be_used_are_offered() -> None:
    assert "other/x" not in words("aiollm ask -m ")
    assert not [each for each in words("aiollm ask -m ") if each.startswith("anthropic")]


def test_targets_of_a_spread_are_offered_and_no_name_that_a_shell_would_run() -> None:
    env = ENV | {"LLM_SPREAD": "alias:2*box/first & box/second,box/$(id)"}
    found = [text for text, _ in completions("aiollm ask -m box/", env)[1]]
    assert found == ["box/first", "box/gemma", "box/qwen3:8b", "box/second"]


@pytest.mark.parametrize("variable", ["OLLAMA_HOST", "OLLAMA_API_KEY"])
def test_a_built_in_provider_is_offered_where_its_key_or_its_server_is_set(variable: str) -> None:
    found = [text for text, _ in completions("aiollm models o", {variable: "x"})[1]]
    assert found[0] == "ollama"


def test_a_word_without_a_meaning_is_a_line_of_that_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLM_BOX", ENV["LLM_BOX"])
    assert cli.main(["completion", "fish", "--line", "aiollm ask -m box/ge"]) == cli.OK
    assert capsys.readouterr().out == "box/gemma\n"


@given(st.text(st.sampled_from("aiollm sk-=,|&:'\"\\\x00\n/\u732b"), max_size=40))
def test_a_line_of_any_kind_is_no_error(rest: str) -> None:
    for line in (rest, f"aiollm ask -m {rest}", f"aiollm {rest}"):
        for text, meaning in completions(line, ENV)[1]:
            assert text.isprintable()
            assert isinstance(meaning, str)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_meaning_is_one_line_whatever_is_in_a_variable(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLM_ODD", "alias:box/a,\n\x1b[2Jbox/b")
    assert cli.main(["completion", shell, "--line", "aiollm ask -m odd"]) == cli.OK
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("odd\tbox/a,")
    assert line.replace("\t", "", 1).isprintable()


def run(shell: str, script: str, environment: Callable[..., dict[str, str]]) -> str:
    done = subprocess.run(
        [shell, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def environment(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Make an environment in which `aiollm` is a program."""
    program = tmp_path / "aiollm"
    program.write_text(f'#!/bin/sh\nexec {python("-m", "aiollm")} "$@"\n')
    program.chmod(0o755)
    kept = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
    }
    return lambda **more: kept | ENV | {"TERM": "xterm", "LANG": "C.UTF-8"} | more


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("aiollm chec", "check"),
        ("aiollm ask -m box/qwen3:", "8b"),
        ("aiollm ask --model=def", "default"),
        ("aiollm ask -m 'box/qwen3:", "box/qwen3:8b"),
    ],
)
def test_bash_is_given_what_follows_its_last_break(
    line: str, expected: str, environment: Callable[..., dict[str, str]]
) -> None:
    script = """eval "$(aiollm completion bash)"
        COMP_LINE=$LINE COMP_POINT=${#LINE}
        _aiollm 2>/dev/null
        printf '%s\\n' "${COMPREPLY[@]}" """
    given = run("bash", script, lambda: environment(LINE=line)).split()
    assert given[0] == expected


def test_bash_asks_up_to_the_cursor_and_puts_no_blank_behind_a_provider(
    environment: Callable[..., dict[str, str]],
) -> None:
    line = "aiollm ask -m anth"
    script = """eval "$(aiollm completion bash)"
        compopt() { echo "$*"; }
        COMP_LINE="$LINE why" COMP_POINT=${#LINE}
        _aiollm
        printf '%s\\n' "${COMPREPLY[@]}" """
    env = environment(LINE=line, ANTHROPIC_API_KEY="sk-made-up")
    assert run("bash", script, lambda: env).split() == ["-o", "nospace", "anthropic/"]


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
def test_fish_offers_words_with_their_meanings_and_files_elsewhere(
    environment: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").touch()
    script = f"""aiollm completion fish | source
        complete -C 'aiollm ask -m de'
        complete -C 'aiollm map {tmp_path}/ro'"""
    assert run("fish", script, environment).splitlines() == [
        "default\tbox/qwen3:8b,openai/gpt-6",
        f"{tmp_path}/rows.jsonl",
    ]


@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh")
def test_zsh_completes_at_tab(environment: Callable[..., dict[str, str]]) -> None:
    typed = typed_into("zsh", environment(PS1="> "), "aiollm ask -m de\t", rb"default")
    assert b"default" in typed


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_file_is_completed_where_nothing_else_may_stand(
    shell: str, environment: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    (tmp_path / "rows.jsonl").touch()
    keys = f"aiollm map {tmp_path}/ro\t\n"  # where it is not completed, the command complains
    said = typed_into(shell, environment(PS1="> "), keys, rb"rows\.jsonl|error")
    assert b"rows.jsonl" in said


START = {
    "bash": (["bash", "--norc", "-i"], ""),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -u -D; "),
}


def typed_into(shell: str, env: dict[str, str], keys: str, expected: bytes) -> bytes:
    """Type into an interactive shell; return what it shows until that is what is expected."""
    ours, theirs = pty.openpty()
    program, before = START[shell]
    start = f'{before}eval "$(aiollm completion {shell})"; echo re""ady\n'
    with subprocess.Popen(program, env=env, stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True) as running:  # fmt: skip
        os.close(theirs)
        try:
            os.write(ours, start.encode())
            read_until(ours, rb"ready\r")
            os.write(ours, keys.encode())
            return read_until(ours, expected)
        finally:
            running.kill()
            os.close(ours)


def read_until(terminal: int, pattern: bytes) -> bytes:
    said = b""
    while not re.search(pattern, said):
        said += os.read(terminal, 4096)
    return said


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_script_is_valid_in_its_shell(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["completion", shell]) == cli.OK
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    subprocess.run([shell, "-n", script], check=True, timeout=60)
