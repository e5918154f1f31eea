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
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm import cli
from aiollm.cli.kept_vectors import KeptVectors, Made
from aiollm.cli.session import VENDOR_VARIABLES
from aiollm.cli.texts import read_texts
from aiollm.cli.vector_files import as_jsonl, as_npy
from aiollm.errors import ConfigError
from aiollm.testing import Answer, FaultServer, Hang
from aiollm.testing.server_record import SeenRequest

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
        if name.startswith("LLM_") or name in VENDOR_VARIABLES:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    with FaultServer(default=service).in_thread() as server:
        monkeypatch.setenv("LLM_M", server.dsn("openai"))
        yield server


@pytest.fixture
def in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send one batch after another: what comes before a refusal has come when it arrives."""
    monkeypatch.setattr("aiollm._retrieval.embed.AT_ONCE", 1)


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
    assert "v.npy: 3 vectors of 2 numbers by nomic" in said
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


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def write_texts(*texts: str) -> None:
    Path("texts").write_text("\n".join(map(json.dumps, texts)))


def asked_since(server: FaultServer, before: int) -> list[str]:
    bodies = (json.loads(each.body) for each in server.requests[before:])
    return [text for body in bodies for text in body["input"]]


def test_a_failure_without_a_file_says_how_much_had_come_and_prints_nothing(server, capsys):
    write_texts(*[f"text {number}" for number in range(12)], "bad")
    assert cli.main(["embed", "texts", "-m", "m/nomic", "--batch", "1"]) == cli.FAILED
    printed = capsys.readouterr()
    assert not printed.out
    told = re.search(r"(\d+) of 13 vectors had come", printed.err)
    assert told
    assert 5 <= int(told[1]) <= 12  # eight are under way at a time, so five came before the last
    assert names() == ["texts"]


def test_what_had_come_before_a_failure_is_kept_and_not_asked_for_again(server, capsys):
    """Although a line was changed, one was added before it, and another order was chosen."""
    texts = [f"text {number}" for number in range(12)]
    write_texts(*texts, "bad")
    assert embed("--batch", "1") == cli.FAILED
    said = capsys.readouterr().err
    assert "InvalidRequestError" in said
    told = re.search(r"(\d+) texts are left; nothing is written .* has (\d+) vectors", said)
    assert told
    left, kept = map(int, told.groups())
    assert left + kept == 13
    assert kept >= 5
    assert names() == ["texts", "v.npy.part"]
    before = len(server.requests)
    write_texts("first", *reversed(texts), "good")
    assert embed("--batch", "1", "--resume") == cli.OK
    again = asked_since(server, before)
    assert len(again) == len(set(again)) == 12 - kept + 2
    assert read_npy("v.npy")[1][::3].tolist() == [
        len(each) for each in ["first", *reversed(texts), "good"]
    ]
    assert names() == ["texts", "v.npy"]


@pytest.mark.usefixtures("in_turn")
def test_a_run_that_was_stopped_is_neither_overwritten_nor_gone_on_with_by_accident(server, capsys):
    write_texts("a", "bad")
    assert embed("--batch", "1") == cli.FAILED
    capsys.readouterr()
    kept, before = Path("v.npy.part").read_bytes(), len(server.requests)
    assert embed() == cli.USAGE
    assert "--resume continues it, --force starts over" in capsys.readouterr().err
    for other in (["--dimensions", "2"], ["--kind", "query"], ["--truncate"], ["-m", "m/bge"]):
        assert embed("--resume", *other) == cli.USAGE
        assert "do not mix with those of" in capsys.readouterr().err
    assert len(server.requests) == before
    assert Path("v.npy.part").read_bytes() == kept
    write_texts("a", "ab")
    assert embed("--force") == cli.OK
    assert sorted(asked_since(server, before)) == ["a", "ab"]


@pytest.mark.usefixtures("in_turn")
def test_a_server_whose_vectors_have_another_width_now_adds_none(server, monkeypatch, capsys):
    write_texts("a", "bad")
    assert embed("--batch", "1") == cli.FAILED
    kept = Path("v.npy.part").read_bytes()
    vectors = [{"index": 0, "embedding": [1.0, 2.0]}]
    server.push(Answer(200, {}, {"data": vectors}))
    write_texts("a", "ab")
    assert embed("--resume") == cli.FAILED
    assert "nomic is another model now" in capsys.readouterr().err
    assert Path("v.npy.part").read_bytes() == kept


@pytest.mark.usefixtures("in_turn")
@pytest.mark.parametrize("cut", [1, 7, 28, 29])
def test_a_process_that_was_killed_at_any_byte_is_gone_on_from(server, cut):
    """A record that is not complete is made again; so is all where the first line is not."""
    write_texts("a", "ab", "bad")
    assert embed("--batch", "1") == cli.FAILED
    whole = Path("v.npy.part").read_bytes()
    Path("v.npy.part").write_bytes(whole[:-cut])
    write_texts("a", "ab", "abc")
    before = len(server.requests)
    assert embed("--resume", "--batch", "1") == cli.OK
    assert len(asked_since(server, before)) == (2 if cut <= 28 else 3)
    assert read_npy("v.npy")[1][::3].tolist() == [1, 2, 3]


@pytest.mark.parametrize("head", [b'{"made":{"mo', b'{"made', b"", b"\n", b'{"made":' * 8192])
def test_a_first_line_that_is_not_complete_is_no_vectors_and_another_s_file_is_left_alone(
    server, head, capsys
):
    write_texts("a")
    Path("v.npy.part").write_bytes(head)
    if head.endswith(b"\n") or len(head) >= 64 * 1024:
        assert embed("--resume") == cli.USAGE
        assert "is not a file of kept vectors" in capsys.readouterr().err
        assert Path("v.npy.part").read_bytes() == head
    else:
        assert embed("--resume") == cli.OK
        assert names() == ["texts", "v.npy"]
        assert read_npy("v.npy")[1][0] == 1.0


@pytest.mark.parametrize(
    "foreign",
    [
        b"no line of ours, and no end",
        b"x" * 100_000,
        b'{"made":{"model":"x"},"width":0}\n' + b"x" * 100,
        b'{"made":{"model":"x"},"width":-4}\n' + b"x" * 100,
        b'{"made":{"model":"x"},"width":1000000000000}\n' + b"x" * 100,
    ],
)
@pytest.mark.timeout(10)
def test_a_file_that_is_none_of_ours_is_left_as_it_is(server, capsys, foreign):
    write_texts("a")
    Path("v.npy.part").write_bytes(foreign)
    assert embed("--resume") == cli.USAGE
    assert "is not a file of kept vectors" in capsys.readouterr().err
    assert Path("v.npy.part").read_bytes() == foreign
    assert not server.requests


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("how", ["--force", "--resume"])
def test_vectors_are_never_kept_through_a_link(server, capsys, how):
    write_texts("a")
    Path("mine").write_text("precious")
    Path("v.npy.part").symlink_to("mine")
    assert embed(how) == cli.USAGE
    assert "is a symbolic link" in capsys.readouterr().err
    assert Path("mine").read_text() == "precious"
    assert not server.requests


def test_the_file_of_kept_vectors_is_free_while_somebody_holds_what_was_read_of_it(server):
    """As the traceback of an error does; a view of a file holds its lock."""
    write_texts("a")
    with KeptVectors(Path("v.npy.part"), resume=False, replace=False) as kept:
        kept.expect(Made("x"))
        kept.add(["a", "b"], [array("f", [1.0]), array("f", [2.0])])
        held = kept.vectors(["b", "a", "b"])
        assert [each[0] for each in held] == [2.0, 1.0, 2.0]
        assert [each[0] for each in held[1:]] == [1.0, 2.0]
    KeptVectors(Path("v.npy.part"), resume=True, replace=False).__exit__(None, None, None)


@pytest.mark.usefixtures("server")
def test_the_end_waits_for_a_part_that_is_being_written():
    """As at Ctrl-C, while a thread writes."""
    path = Path("v.npy.part")
    kept = KeptVectors(path, resume=False, replace=False)
    kept.expect(Made("x"))
    ending = threading.Thread(target=kept.__exit__, args=(None, None, None))

    class Slow:
        """A file that somebody wants to close while it is written to."""

        def __init__(self, file):
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def write(self, data):
            if not ending.is_alive():
                ending.start()
                ending.join(0.1)
            return self._file.write(data)

    kept._file = Slow(kept._file)
    kept.add(["a"], [array("f", [1.0])])
    ending.join()
    with KeptVectors(path, resume=True, replace=False) as again:
        assert len(again) == 1


@pytest.mark.usefixtures("server")
def test_a_part_that_comes_after_the_end_is_not_written():
    """A thread that writes goes on when the task that waits for it is cancelled."""
    with KeptVectors(Path("v.npy.part"), resume=False, replace=False) as kept:
        kept.expect(Made("x"))
    kept.add(["a"], [array("f", [1.0])])
    assert len(kept) == 0
    assert not Path("v.npy.part").exists()


@pytest.mark.usefixtures("in_turn")
def test_whoever_resumes_and_replaces_the_output_keeps_the_vectors(server):
    write_texts("a", "bad")
    assert embed("--batch", "1") == cli.FAILED
    Path("v.npy").write_bytes(b"of an earlier run")
    before = len(server.requests)
    write_texts("a", "ab")
    assert embed("--resume", "--force") == cli.OK
    assert asked_since(server, before) == ["ab"]
    assert read_npy("v.npy")[1][::3].tolist() == [1, 2]


def test_two_commands_never_write_one_file(server, capsys):
    write_texts("a")
    with KeptVectors(Path("v.npy.part"), resume=False, replace=False):
        assert embed("--resume") == cli.USAGE
    assert "another process writes" in capsys.readouterr().err
    assert not server.requests


def test_many_texts_are_kept_in_parts_and_equal_ones_are_asked_for_once(
    server, monkeypatch, capsys
):
    monkeypatch.setattr("aiollm.cli.embedding.AT_ONCE", 4)
    texts = ["x" * (1 + number % 10) for number in range(40)]
    Path("texts").write_text("\n".join(texts))
    assert embed("--lines", "--kind", "query") == cli.OK
    assert [len(json.loads(each.body)["input"]) for each in server.requests] == [4, 4, 2]
    assert read_npy("v.npy")[1][::3].tolist() == [len(each) for each in texts]
    assert capsys.readouterr().err.count("has no field for kind") == 1


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_keeps_the_parts_that_had_come(server, monkeypatch, capsys):
    def interrupt(request: SeenRequest) -> Answer | Hang:
        if json.loads(request.body)["input"] == ["a", "ab"]:
            return service(request)
        os.kill(os.getpid(), signal.SIGINT)
        return Hang()

    monkeypatch.setattr("aiollm.cli.embedding.AT_ONCE", 2)
    write_texts("a", "ab", "abc")
    server.push(interrupt, interrupt)
    assert embed() == cli.INTERRUPTED
    said = capsys.readouterr().err
    assert "1 texts are left; nothing is written to v.npy" in said
    assert "--resume goes on from v.npy.part, which has 2 vectors" in said
    assert embed("--resume") == cli.OK
    assert json.loads(server.requests[-1].body)["input"] == ["abc"]
    assert read_npy("v.npy")[1][::3].tolist() == [1, 2, 3]


def test_a_disk_that_is_full_leaves_no_output_and_costs_no_second_request(
    server, monkeypatch, capsys
):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    write_texts("a")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert embed() == cli.FAILED
    assert "No space left" in capsys.readouterr().err
    assert names() == ["texts", "v.npy.part"]
    assert embed("--resume") == cli.OK
    assert len(server.requests) == 1
    assert names() == ["texts", "v.npy"]


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
