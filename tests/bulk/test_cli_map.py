"""`aiollm map`: rows of files, exit codes, resuming, shards, and processes that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiollm import Request, cli, to_json
from aiollm.cli.progress import figure
from aiollm.cli.session import VENDOR_VARIABLES
from aiollm.testing import Answer, FaultServer, Gate, Pause, chat
from aiollm.testing.server_record import SeenRequest
from tests.bulk.conftest import answers, records

ROOT = Path(__file__).parents[2]


def asked(request: SeenRequest) -> str:
    """Return the text of the last message of a request."""
    return str(json.loads(request.body)["messages"][-1]["content"])


def echo(request: SeenRequest) -> Answer:
    if "rude" in asked(request):
        return Answer(400, {}, {"error": {"message": "too rude"}})
    return chat(asked(request))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultServer]:
    for name in list(os.environ):
        if name.startswith("LLM_") or name in VENDOR_VARIABLES:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    with FaultServer(default=echo).in_thread() as server:
        monkeypatch.setenv("LLM_M", server.dsn("openai") + "?api=chat")
        yield server


def write(text: str) -> None:
    Path("rows.jsonl").write_text(text)


def command(*more: str) -> list[str]:
    return ["map", "rows.jsonl", "-m", "m/x", "-o", "out.jsonl", *more]


def test_a_provider_without_a_key_is_named_once_and_no_file_is_begun(
    server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    write('"a"\n"b"\n')
    arguments = ["map", "rows.jsonl", "-m", "m/x,openai/gpt-6.1-sol", "-o", "out.jsonl"]
    assert cli.main(arguments) == cli.USAGE
    told = capsys.readouterr().err
    assert told.startswith("aiollm: no key for 'openai'")
    assert told.count("\n") == 1
    assert not Path("out.jsonl").exists()


def test_a_run_that_goes_on_says_how_many_rows_were_answered_before(
    server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    write('"a"\n"b"\n')
    assert cli.main(command()) == cli.OK
    assert "before" not in capsys.readouterr().err
    write('"a"\n"b"\n"c"\n')
    assert cli.main(command("--resume")) == cli.OK
    assert "aiollm: 1 done, 0 failed, 2 answered before, " in capsys.readouterr().err


def test_a_schema_that_is_not_there_says_what_names_the_output_file(
    server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    write('"a"\n')
    assert cli.main(command("--output", "new.jsonl")) == cli.USAGE
    assert "-o or --into names" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rate", "text"), [(0.25, "0.25"), (999.4, "999"), (999.6, "1,000"), (13_204.2, "13,204")]
)
def test_rates_are_plain_numbers(rate: float, text: str) -> None:
    assert figure(rate) == text


def test_rows_have_every_form_and_broken_ones_are_named(
    server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pixel.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    lines = [
        '\ufeff"plain"',
        '{"id": 7, "prompt": "with an id", "expected": 42}',
        "",
        '{"key": "k", "messages": [{"role": "user", "content": "OpenAI\'s form"}]}',
        '{"messages": [{"role": "user", "parts": [{"type": "text", "text": "saved"}]}]}',
        "{nope",
        '{"prompt": 3}',
        "[1]",
        '{"key": 1.5, "prompt": "x"}',
        '{"key": "k", "prompt": "twice"}',
        '{"prompt": "x", "image": "gone.png"}',
        '{"messages": [{"role": "nobody", "content": "x"}]}',
    ]
    write("\n".join(lines))
    assert cli.main(command("--image-field", "image")) == cli.FAILED
    assert answers(Path("out.jsonl")) == {
        "1": "plain",
        "7": "with an id",
        "k": "OpenAI's form",
        "5": "saved",
    }
    said = capsys.readouterr().err
    for number in (6, 7, 8, 9, 10, 11, 12):
        assert f"line {number}: " in said
    assert "11 done, 7 failed" in said


def test_a_row_is_whatever_python_takes_for_json(
    server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """But no text in another encoding: it would be asked without what cannot be read."""
    saved = json.loads(to_json(Request("saved")))
    lines = (
        json.dumps({"prompt": "cut \ud83d off", "expected": float("nan")}),
        json.dumps(saved | {"expected": "cut \ud83d off"}),
        '"na\u00efve"',
    )
    Path("rows.jsonl").write_bytes("\n".join(lines).encode("latin-1"))
    assert cli.main(command()) == cli.FAILED
    assert answers(Path("out.jsonl")) == {"1": "cut \ufffd off", "2": "saved"}
    assert "line 3: it is not JSON: Invalid UTF-8" in capsys.readouterr().err


def test_the_fields_of_a_row_and_of_the_command_reach_the_request(server: FaultServer) -> None:
    write('{"question": "hi", "temperature": 0.5, "seed": 3}\n')
    given = ("--prompt-field", "question", "-s", "Be kind.", "-n", "9", "-t", "1")
    assert cli.main(command(*given)) == cli.OK
    (request,) = server.requests
    body = json.loads(request.body)
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (1, 9, 3)
    assert body["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hi"},
    ]


def test_a_row_without_a_prompt_says_how_its_field_is_named(
    server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    write('{"question": "hi"}\n')
    assert cli.main(command()) == cli.FAILED
    assert "line 1: expected a text as 'prompt'" in (said := capsys.readouterr().err)
    assert "--prompt-field names another" in said


def test_failed_rows_make_the_code_and_are_asked_again(
    server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    write('"good"\n"rude"\n')
    assert cli.main(command()) == cli.FAILED
    assert "too rude" in capsys.readouterr().err
    assert cli.main(command()) == cli.USAGE
    assert "--resume" in capsys.readouterr().err
    server.behave(chat("now"))
    assert cli.main(command("--resume")) == cli.OK
    assert answers(Path("out.jsonl")) == {"1": "good", "2": "now"}
    assert len(server.requests) == 3


def test_a_run_without_a_target_left_says_how_to_go_on(
    server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.behave(Answer(401, {}, {"error": {"message": "wrong key"}}))
    write("".join(f'"{number}"\n' for number in range(100)))
    assert cli.main(command()) == cli.STOPPED
    said = capsys.readouterr().err
    assert "misconfigured" in said
    assert "--resume" in said


def test_answers_fit_a_schema_and_go_to_standard_output_without_a_file(
    server: FaultServer, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("schema.json").write_text('{"type": "object", "properties": {"a": {"type": "integer"}}}')
    write(json.dumps('{"a": 3}'))
    arguments = ["map", "rows.jsonl", "-m", "m/x", "--output", "schema.json"]
    assert cli.main(arguments) == cli.OK
    (line,) = capfd.readouterr().out.splitlines()
    assert json.loads(line)["value"] == {"a": 3}


def test_shards_are_joined_and_each_key_is_there_once(
    server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    write("".join(f'{{"key": "k{number}", "prompt": "{number}"}}\n' for number in range(40)))
    for number in (1, 2, 3):
        arguments = ["map", "rows.jsonl", "-m", "m/x", "-o", f"{number}.jsonl"]
        assert cli.main([*arguments, "--shard", f"{number}/3"]) == cli.OK
    files = ["1.jsonl", "2.jsonl", "3.jsonl"]
    assert cli.main(["map", "--merge", *files, "-o", "all.jsonl", "--report", "run.html"]) == cli.OK
    assert answers(Path("all.jsonl")) == {f"k{number}": f"{number}" for number in range(40)}
    assert len(records(Path("all.jsonl"))) == 40
    assert "<html" in Path("run.html").read_text() or "<!doctype" in Path("run.html").read_text()
    assert cli.main(["map", "--merge", *files, "-o", "all.jsonl"]) == cli.USAGE
    assert "exists" in capsys.readouterr().err


LINE = '{{"key":"{}","text":"{}","run":"r","asked":"{}"}}\n'
FAILED = '{{"key":"{}","failure":{{"kind":"ServerError","message":"no"}},"run":"r","asked":"{}"}}\n'


@pytest.mark.parametrize(
    ("files", "merged"),
    [
        ([LINE.format("a", 1, 1) + FAILED.format("a", 1)], {"a": "1"}),
        ([FAILED.format("a", 1), LINE.format("a", 2, 1)], {"a": "2"}),
        ([LINE.format("a", 1, 1), LINE.format("a", 2, 1)], {"a": "2"}),
        ([LINE.format("a", 1, 1) + '{"key":"b"', FAILED.format("c", 1)], {"a": "1", "c": None}),
        ([LINE.format("a", 1, 1)[:-1], LINE.format("b", 2, 1)], {"a": "1", "b": "2"}),
        ([LINE.format("a", 1, 1), LINE.format("a", 2, 2)], "answer different requests"),
        ([LINE.format("a", 1, 1), LINE.format("a", 2, 1).replace('"r"', '"s"')], "another run"),
        ([LINE.format("a", 1, 1) + "nonsense\n"], "line 2 of 0.jsonl was not written by a bulk"),
    ],
)
def test_a_merge_keeps_the_answer_of_each_key(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    files: list[str],
    merged: dict[str, str | None] | str,
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"{number}.jsonl" for number in range(len(files))]
    for name, text in zip(names, files, strict=True):
        Path(name).write_text(text)
    code = cli.main(["map", "--merge", *names, "-o", "all.jsonl"])
    if isinstance(merged, str):
        assert code == cli.USAGE
        assert merged in capsys.readouterr().err
        assert {each.name for each in tmp_path.iterdir()} == {*names}
    else:
        assert answers(Path("all.jsonl")) == merged
        assert len(records(Path("all.jsonl"))) == len(merged)


def test_a_merge_overwrites_no_file_not_even_one_that_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("all.jsonl.part").write_text(LINE.format("a", 1, 1))
    assert cli.main(["map", "--merge", "all.jsonl.part", "-o", "all.jsonl"]) == cli.OK
    assert Path("all.jsonl").read_text() == LINE.format("a", 1, 1)
    assert {each.name for each in tmp_path.iterdir()} == {"all.jsonl", "all.jsonl.part"}


def test_what_cannot_be_read_twice_is_not_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a shell's `<(zcat part1.jsonl.gz)`: its second reading would find nothing."""
    monkeypatch.chdir(tmp_path)
    reader, writer = os.pipe()
    os.write(writer, LINE.format("a", 1, 1).encode())
    os.close(writer)
    try:
        code = cli.main(["map", "--merge", f"/dev/fd/{reader}", "-o", "all.jsonl"])
    finally:
        os.close(reader)
    assert code == cli.USAGE
    assert "cannot be merged: it is not a file on a disk" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_a_report_leaves_out_lines_that_others_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text(LINE.format("a", 1, 1) + LINE.format("b", 2, 1).replace('"2"', "2"))
    arguments = ["map", "--merge", "a.jsonl", "-o", "all.jsonl", "--report", "run.html"]
    assert cli.main(arguments) == cli.OK
    assert "1 row answered" in Path("run.html").read_text()


def start(*more: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "aiollm", *command(*more)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(arguments, env=env, stderr=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, cli.INTERRUPTED), (signal.SIGTERM, cli.TERMINATED)]
)
def test_a_signal_ends_the_run_cleanly_and_says_how_to_go_on(
    server: FaultServer, number: signal.Signals, code: int
) -> None:
    gate = Gate()
    server.behave(lambda request: chat("ok") if asked(request) < "3" else chat(gate, "late"))
    write("".join(f'"{number}"\n' for number in range(9)))
    with start("--concurrency", "4") as process:
        _wait(server, 6)
        process.send_signal(number)
        said = process.communicate(timeout=20)[1]
    assert process.returncode == code
    assert "to go on: aiollm map rows.jsonl -m m/x -o out.jsonl --concurrency 4 --resume" in said
    assert "Traceback" not in said
    assert {each.text for each in records(Path("out.jsonl"))} == {"ok"}


def _wait(server: FaultServer, count: int) -> None:
    while len(server.requests) < count:
        os.sched_yield()


def test_a_run_that_is_killed_goes_on_and_repeats_only_what_was_under_way(
    server: FaultServer,
) -> None:
    rows, at_once = 60, 4
    server.behave(lambda request: chat(Pause(0.005), asked(request)))
    write("".join(f'{{"key": "k{n}", "prompt": "{n}"}}\n' for n in range(rows)))
    for number in range(3):
        with start("--resume", "--concurrency", str(at_once)) as process:
            _wait(server, 10 + 15 * number)
            process.kill()
            process.communicate()
    lines, asked_before = len(records(Path("out.jsonl"))), len(server.requests)
    assert lines
    assert cli.main(command("--resume")) == cli.OK
    assert answers(Path("out.jsonl")) == {f"k{n}": f"{n}" for n in range(rows)}
    assert len(records(Path("out.jsonl"))) == rows
    # What was under way at the kill may be seen by the server a moment later.
    assert len(server.requests) - asked_before <= rows - lines + at_once


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["map", "none.jsonl", "-m", "m/x"], "cannot be read: No such file"),
        (["map", ".", "-m", "m/x", "-o", "out"], "cannot be read: it is a folder"),
        (["map", "a", "b", "-m", "m/x"], "give one file"),
        (["map", "--merge", "rows.jsonl", "-o", "a"], "line 1 of rows.jsonl was not written by"),
        (["map", "rows.jsonl", "-m", "m/x", "-o", "out", "--report", "no/r"], "no such folder"),
        (["map", "--merge", "a"], "--merge needs a new file"),
        (["map", "rows.jsonl", "-m", "m/x", "--report", "r"], "--report reads the output file"),
        (["map", "rows.jsonl", "-m", "m/x", "--output", "none"], "cannot be used"),
        (["map", "rows.jsonl", "-m", "m/x", "--shard", "9/8"], "such as 2/8"),
        (["map", "rows.jsonl", "-m", "m/x", "--response-cache", "no/a.db"], "does not exist"),
    ],
)
def test_misuse_is_said_before_anything_is_asked(
    server: FaultServer, capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    write('{"key": "x", "prompt": "x"}\n')
    assert cli.main(arguments) == cli.USAGE
    assert said in capfd.readouterr().err
    assert not server.requests
    assert [*Path().iterdir()] == [Path("rows.jsonl")]


def test_equal_rows_of_a_later_run_come_from_the_response_cache(
    server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    write('"a"\n"b"\n')
    assert cli.main(command("--response-cache", "answers.db")) == cli.OK
    write('"b"\n"c"\n')
    later = ["map", "rows.jsonl", "-m", "m/x", "-o", "later.jsonl", "--report", "run.html"]
    assert cli.main([*later, "--response-cache", "answers.db"]) == cli.OK
    assert sorted(asked(each) for each in server.requests) == ["a", "b", "c"]
    assert {each.key: each.cached for each in records(Path("later.jsonl"))} == {
        "1": True,
        "2": False,
    }
    assert "cache" in Path("run.html").read_text()


def test_a_budget_that_is_named_has_a_sum(
    server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    write('"a"\n')
    assert cli.main(command("--budget", "monday")) == cli.USAGE
    assert "--limit-usd" in capsys.readouterr().err
    assert not server.requests
