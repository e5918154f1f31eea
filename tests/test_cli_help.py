"""Every help text has an example that the parser takes, and what a help text costs to show."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from aiollm import cli
from aiollm.cli.commands import COMMANDS, parser_for

ROOT = Path(__file__).parents[1]
NAMES = [each.name for each in COMMANDS]

LOADED = """
import json, sys
from aiollm.cli import main
main(sys.argv[1:])
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main([*arguments, "--help"]) == cli.OK
    return capsys.readouterr().out


def examples_in(text: str) -> list[str]:
    _, _, shown = text.partition("\nexample")
    lines = shown.splitlines()[1:]
    return [line.strip() for line in lines if line.startswith("  ")]


@pytest.mark.parametrize("name", ["", *NAMES])
def test_each_help_text_has_examples_that_the_parser_takes(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = examples_in(help_of(capsys, *[name] * bool(name)))
    assert examples
    for example in examples:
        words = shlex.split(example, comments=True)
        if words[0] == "eval":
            words = shlex.split(words[1].removeprefix("$(").removesuffix(")"))
        words = words[words.index("aiollm") + 1 :]
        until = next((at for at, each in enumerate(words) if each[0] in "|<"), len(words))
        if not name and not until:
            continue  # the command alone
        options = parser_for(words).parse_args(words[:until] or [name])
        assert options.command.name == (name or "ask")


@pytest.mark.parametrize("name", ["", *NAMES])
@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_a_help_text_fits_the_terminal(
    name: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = help_of(capsys, *[name] * bool(name))
    examples = set(examples_in(text))
    # An example is one line, to be copied, and one option of the usage is not divided.
    long = [
        line
        for line in text.splitlines()
        if len(line) > int(columns)
        and line.strip() not in examples
        and not re.fullmatch(r" +\[[^]]+\]|\S+", line)
    ]
    assert not long


@pytest.mark.parametrize("name", NAMES)
def test_each_option_says_what_it_does(name: str) -> None:
    parser = parser_for([name])
    (rows,) = [each for each in parser._actions if each.choices and name in each.choices]
    for action in rows.choices[name]._actions:
        assert action.help, action.dest


@pytest.mark.parametrize(
    "arguments", [["--help"], ["completion", "bash", "--line", "aiollm ask -"]]
)
def test_help_and_completion_load_nothing_that_talks_to_servers(arguments: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    run = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = json.loads(run.stderr)
    assert not {"aiohttp", "anyio", "PIL", "aiollm._http.transport", "aiollm.cli.mapping"} & {
        *loaded
    }
    assert "aiollm.cli.chat" not in loaded
