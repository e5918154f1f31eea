"""`aiollm embed` and `aiollm rerank`: texts in, files of vectors out, and failures."""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm import cli
from aiollm.cli.texts import read_texts
from aiollm.cli.vector_files import as_jsonl, as_npy
from aiollm.errors import ConfigError
from aiollm.testing import Answer, FaultServer, Hang
from aiollm.testing.tally import SeenRequest

ROOT = Path(__file__).parents[1]


def vector(text: str, width: int) -> list[float]:
    return [float(len(text)), *[0.1] * (width - 1)]


def service(request: SeenRequest) -> Answer:
    """Embed a text as its length, and rank documents by theirs."""
    body = json.loads(request.body)
    if request.path.endswith("/rerank"):
        scores = [
            {"index": place, "relevance_score": len(text) / 8}
            for place, text in enumerate(body["documents"])
        ]
        return Answer(200, {}, {"results": scores})
    if "bad" in body["input"]:
        return Answer(400, {}, {"error": {"message": "no such text"}})
    made = (array("f", vector(text, body.get("dimensions", 3))) for text in body["input"])
    data = [
        {"index": place, "embedding": base64.b64encode(each.tobytes()).decode()}
        for place, each in enumerate(made)
    ]
    return Answer(200, {}, {"data": data, "usage": {"prompt_tokens": 4}})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultServer]:
    for name in list(os.environ):
        if name.startswith("LLM_") or name in cli.VENDOR_VARIABLES:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    with FaultServer(default=service).in_thread() as server:
        monkeypatch.setenv("LLM_M", server.dsn("openai"))
        yield server


def embed(*more: str, into: str = "v.npy") -> int:
    return cli.main(["embed", "texts", "-m", "m/nomic", "-o", into, *more])


def read_npy(path: str | Path) -> tuple[tuple[int, int], array[float]]:
    """Read a file as numpy's documentation describes its format 1.0."""
    data = Path(path).read_bytes()
    assert data[:8] == b"\x93NUMPY\x01\x00"
    size = int.from_bytes(data[8:10], "little")
    assert (10 + size) % 64 == 0
    header = ast.literal_eval(data[10 : 10 + size].decode("latin-1"))
    assert (header["descr"], header["fortran_order"]) == ("<f4", False)
    numbers = array("f", data[10 + size :])
    if sys.byteorder == "big":
        numbers.byteswap()
    assert len(numbers) == header["shape"][0] * header["shape"][1]
    return header["shape"], numbers


def test_texts_become_rows_of_an_array_in_their_order(server, capsys):
    Path("texts").write_text('\ufeff"a"\n\n{"text": "abc", "key": "k"}\n"ab"')
    assert embed("--batch", "1", "--dimensions", "2", "--kind", "query") == cli.OK
    assert read_npy("v.npy") == ((3, 2), array("f", [1, 0.1, 3, 0.1, 2, 0.1]))
    assert [path.name for path in Path().iterdir() if "part" in path.name] == []
    said = capsys.readouterr().err
    assert "3 of 3 done" in said
    assert "v.npy: 3 vectors of 2 numbers by m/nomic" in said
    assert "has no field for kind: it is dropped" in said


def test_numpy_reads_what_is_written():
    numpy = pytest.importorskip("numpy")
    vectors = [array("f", [0.5, -1e30, 3.0]), array("f", [1, 2, 3])]
    found = numpy.load(io.BytesIO(b"".join(as_npy(["1", "2"], vectors))))
    assert found.dtype == numpy.float32
    assert found.tolist() == [each.tolist() for each in vectors]


@given(
    st.integers(1, 40).flatmap(
        lambda width: st.lists(
            st.lists(
                st.floats(width=32, allow_nan=False, allow_infinity=False),
                min_size=width,
                max_size=width,
            ),
            min_size=1,
        )
    )
)
def test_any_vectors_come_back_from_both_formats(tmp_path_factory, rows):
    vectors = [array("f", row) for row in rows]
    path = tmp_path_factory.getbasetemp() / "any.npy"
    path.write_bytes(b"".join(as_npy([], vectors)))
    shape, numbers = read_npy(path)
    assert shape == (len(rows), len(rows[0]))
    assert numbers.tobytes() == b"".join(each.tobytes() for each in vectors)
    keys = [str(place) for place in range(len(rows))]
    lines = b"".join(as_jsonl(keys, vectors)).splitlines()
    for key, each, line in zip(keys, vectors, lines, strict=True):
        assert json.loads(line)["key"] == key
        assert array("f", json.loads(line)["vector"]).tolist() == each.tolist()


def test_lines_of_json_have_the_keys_of_their_texts(server, capsys):
    Path("texts").write_text('"a"\n{"text": "abc", "key": "k"}\n{"text": "ab", "key": 7}\n')
    assert embed(into="v.jsonl") == cli.OK
    lines = [*map(json.loads, Path("v.jsonl").read_text().splitlines())]
    assert [each["key"] for each in lines] == ["1", "k", "7"]
    assert lines[1]["vector"] == [3.0, 0.1, 0.1] or lines[1]["vector"][0] == 3.0
    capsys.readouterr()
    assert cli.main(["embed", "texts", "-m", "m/nomic"]) == cli.OK
    assert capsys.readouterr().out == Path("v.jsonl").read_text()


def test_plain_lines_come_from_standard_input_as_they_stand(server, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'"q"\r\n  two \n')))
    assert cli.main(["embed", "-", "--lines", "-m", "m/x", "-o", "v.npy"]) == cli.OK
    assert json.loads(server.requests[0].body)["input"] == ['"q"', "  two "]


@pytest.mark.parametrize(
    ("data", "lines", "reason"),
    [
        (b"", False, "has no texts"),
        (b"\n \n", True, "has no texts"),
        (b"plain", False, "line 1: it is not JSON .*--lines"),
        (b'"a"\n[1]', False, "line 2: expected a text, or an object"),
        (b'{"text": 3}', False, "line 1: expected a text"),
        (b'{"text": "a", "key": 1.5}', False, "line 1: its key is 1.5"),
        (b'{"text": "a", "key": 2}\n"b"', False, "two lines have the key '2'"),
        (b'"a"\n" "', False, "line 2: it is empty"),
        (b"a\n\nb", True, "line 2: it is empty"),
        (b"a\n\xff", True, "line 2: it is not UTF-8"),
        (b'"\xff"', False, "line 1: it is not JSON"),
    ],
)
def test_what_a_line_says_wrong_is_named_and_nothing_is_sent(tmp_path, data, lines, reason):
    (tmp_path / "texts").write_bytes(data)
    with pytest.raises(ConfigError, match=reason):
        read_texts(str(tmp_path / "texts"), lines=lines)


def test_wrong_usage_sends_nothing(server, capsys):
    Path("texts").write_text('"a"')
    Path("there.npy").write_bytes(b"precious")
    Path("folder.npy").mkdir()
    wrong: list[tuple[Any, str]] = [
        (lambda: embed(into="v.txt"), "must end in .npy or .jsonl"),
        (lambda: embed(into="no/v.npy"), "the folder 'no' does not exist"),
        (lambda: embed(into="folder.npy"), "is a folder"),
        (lambda: embed(into="there.npy"), "exists"),
        (lambda: embed("--dimensions", "0"), "dimensions is 0"),
        (lambda: cli.main(["embed", "gone", "-m", "m/x"]), "cannot be read: No such file"),
        (lambda: cli.main(["embed", "texts", "-m", "m/x,m/y"]), "several models"),
        (lambda: cli.main(["rerank", " ", "texts", "-m", "m/x"]), "query must be"),
    ]
    for run, reason in wrong:
        assert run() == cli.USAGE
        assert reason in capsys.readouterr().err
    assert not server.requests
    assert Path("there.npy").read_bytes() == b"precious"
    assert embed("--force", into="there.npy") == cli.OK
    assert read_npy("there.npy")[0] == (1, 3)


def test_a_failure_says_how_much_had_come_and_writes_nothing(server, capsys):
    texts = [f"text {number}" for number in range(12)]
    Path("texts").write_text("\n".join(map(json.dumps, [*texts, "bad"])))
    assert embed("--batch", "1") == cli.FAILED
    said = capsys.readouterr().err
    assert "InvalidRequestError" in said
    told = re.search(r"(\d+) of 13 vectors had come; nothing is written to v.npy", said)
    assert told
    assert 5 <= int(told[1]) <= 12  # eight are under way at a time, so five came before the last
    assert sorted(path.name for path in Path().iterdir()) == ["texts"]


def test_a_disk_that_is_full_leaves_no_file(server, monkeypatch, capsys):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    Path("texts").write_text('"a"')
    assert embed() == cli.FAILED
    assert "No space left" in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["texts"]


def test_a_signal_ends_it_at_once_without_a_file(server):
    server.push(Hang())
    Path("texts").write_text('"a"')
    command = [sys.executable, "-m", "aiollm", "embed", "texts", "-m", "m/x", "-o", "v.npy"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    while not server.requests and child.poll() is None:
        os.sched_yield()
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=10)
    assert child.returncode == cli.TERMINATED
    assert "0 of 1 done" in said
    assert sorted(path.name for path in Path().iterdir()) == ["texts"]


def test_texts_are_ranked_best_first(server, capsys):
    Path("texts").write_text('"abcd"\n{"text": "a\\u001bb\\nlong one", "key": "k"}\n"a"\n')
    command = ["rerank", "panda?", "texts", "-m", "m/bge", "--top", "2"]
    assert cli.main(command) == cli.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [["1.5000", "k"], ["0.5000", "1"]]
    assert "\x1b" not in lines[0]
    assert json.loads(server.requests[0].body)["top_n"] == 2
    assert cli.main([*command, "--json"]) == cli.OK
    said = json.loads(capsys.readouterr().out)
    assert said["target"] == "m/bge"
    assert said["ranked"][0] == {"key": "k", "score": 1.5, "text": "a\x1bb\nlong one"}


@pytest.mark.usefixtures("server")
def test_a_spec_that_is_wrong_is_named_without_a_report_of_progress(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("texts").write_text('"one"\n', encoding="utf-8")
    assert cli.main(["embed", "texts", "-m", "nobody/nomic"]) == cli.USAGE
    printed = capsys.readouterr().err
    assert "LLM_NOBODY" in printed
    assert "done" not in printed
