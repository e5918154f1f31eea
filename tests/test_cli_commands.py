"""The other commands, against loopback servers in a thread of their own."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from aiollm import ImagePart, ImageRequest, ImageResult, Registry, cli, local
from aiollm.cli import check, image, servers
from aiollm.cli.session import VENDOR_VARIABLES
from aiollm.providers.schemes import SCHEMES
from aiollm.servers._warming import KINDS
from aiollm.testing import Answer, FaultServer, Gate, chat
from tests.programs import python, run_program

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
            images = [{"b64_json": PNG}] * 3  # more than anyone asks for
            return Answer(200, {}, {"created": 1, "data": images})
        case _:
            return chat("Hello", " there", usage=(3, 2))


@pytest.fixture
def box(monkeypatch):
    for name in list(os.environ):
        if name.startswith("LLM_") or name in VENDOR_VARIABLES:
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


def test_health_counts_models_in_words(box, capsys, monkeypatch):
    assert cli.main(["health", "box"]) == cli.OK
    assert re.search(r"  2 models, \d+ ms$", capsys.readouterr().out, re.MULTILINE)
    one = Answer(200, {}, {"data": [{"id": "m"}]})
    with FaultServer(default=one).in_thread() as server:
        monkeypatch.setenv("LLM_ONE", server.dsn("openai"))
        assert cli.main(["health", "one"]) == cli.OK
    assert re.search(r"  1 model, \d+ ms$", capsys.readouterr().out, re.MULTILINE)


def test_health_counts_no_import_as_the_time_of_a_server(box):
    """The modules that the first request needs are loaded before any provider is asked."""
    program = """
        import sys
        from aiollm import cli
        from aiollm.cli import servers

        listing = servers.listing

        def spied(*given):
            print("aiohttp" in sys.modules, file=sys.stderr)
            return listing(*given)

        servers.listing = spied
        sys.exit(cli.main(["health", "box"]))
    """
    done = run_program(textwrap.dedent(program))
    assert (done.returncode, done.stderr) == (cli.OK, "True\n")


def test_running_shows_what_unload_ends(box, capsys):
    assert cli.main(["running", "box"]) == cli.OK
    assert capsys.readouterr().out == "qwen3:8b  ready\n"
    assert cli.main(["unload", "box", "qwen3:8b"]) == cli.OK
    assert cli.main(["unload", "box"]) == cli.OK
    paths = [request.path for request in box.requests if "unload" in request.path]
    assert paths == ["/api/models/unload/qwen3:8b", "/api/models/unload"]


def test_running_and_unload_know_an_ollama(capsys, monkeypatch):
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


def test_running_of_a_dead_server_names_it(capsys, monkeypatch):
    monkeypatch.setenv("LLM_M5", "ollama+http://127.0.0.1:9")
    for command in ("running", "unload"):
        assert cli.main([command, "m5"]) == cli.FAILED
        assert capsys.readouterr().err.startswith("aiollm: m5: ConnectError: no connection")


def test_a_mistyped_provider_names_the_one_that_was_meant(box, capsys):
    assert cli.main(["models", "bxo"]) == cli.FAILED
    assert "did you mean 'box'?" in capsys.readouterr().err


def test_running_of_what_is_no_box_is_a_usage_error(box, capsys, monkeypatch):
    monkeypatch.setenv("LLM_CLOUD", "openai+http://127.0.0.1:9")
    for command in ("running", "unload"):
        assert cli.main([command, "cloud"]) == cli.USAGE
        assert "scheme 'openai', which cannot list or unload models: llama-swap and Ollama can" in (
            capsys.readouterr().err
        )


@pytest.mark.parametrize("command", ["models", "health", "running", "unload"])
def test_an_address_in_place_of_a_provider_is_not_shown(box, capsys, command):
    assert cli.main([command, "openai://sk-secret@host/v1"]) == cli.USAGE
    said = capsys.readouterr()
    assert "this is an address, not a name" in said.err
    assert "sk-secret" not in said.out + said.err


def test_an_alias_or_a_target_in_place_of_a_provider_is_named_as_one(box, capsys, monkeypatch):
    monkeypatch.setenv("LLM_FAST", "alias:box/qwen3:8b")
    assert cli.main(["models", "fast"]) == cli.FAILED
    assert "'fast' is an alias, not a provider" in capsys.readouterr().err
    assert cli.main(["models", "box/qwen3:8b"]) == cli.FAILED
    assert "'box/qwen3:8b' is a target: its provider is 'box'" in capsys.readouterr().err


def test_check_without_anything_to_check_asks_for_a_target(box, capsys):
    assert cli.main(["check"]) == cli.USAGE
    assert "as in `aiollm check PROVIDER/MODEL`" in capsys.readouterr().err


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


def test_check_has_a_line_for_each_target(box, capsys, monkeypatch):
    assert cli.main(["check", "box/qwen3:8b"]) == cli.OK
    assert re.fullmatch(r"box  qwen3:8b  ok      first text \d+ ms\n", capsys.readouterr().out)
    monkeypatch.setenv("LLM_DOWN", "openai+http://127.0.0.1:9")
    assert cli.main(["check", "down/m,box/qwen3:8b", "nokey/m|box/qwen3:8b"]) == cli.USAGE
    assert cli.main(["check", "down/m,box/qwen3:8b", "openai/gpt-6"]) == cli.FAILED
    down, up, without_key = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"down    m         failed  ConnectError: .*; check host, port and scheme .*", down
    )
    assert re.fullmatch(r"box     qwen3:8b  ok      first text \d+ ms", up)
    assert re.fullmatch(r"openai  gpt-6     failed  ConfigError: .*OPENAI_API_KEY.*", without_key)


def test_check_without_a_spec_tries_what_aliases_name(box, capsys, monkeypatch):
    monkeypatch.setenv("LLM_SMART", "alias:box/big,default")
    monkeypatch.setenv("LLM_DEFAULT", "alias:box/small")
    assert cli.main(["check"]) == cli.OK
    models = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert models == ["small", "big"]


@pytest.mark.parametrize("more", [[], ["-v"]])
def test_check_names_an_alias_that_cannot_be_read_where_there_is_no_other(
    capsys, monkeypatch, more
):
    monkeypatch.setenv("LLM_LOOP", "alias:loop")
    assert cli.main(["check", *more]) == cli.FAILED
    said = capsys.readouterr().out
    assert said.startswith("loop")
    assert "SpecError: alias cycle: loop -> loop" in said
    assert "  at" not in said


def test_check_names_an_alias_that_cannot_be_read_and_tries_the_others(box, capsys, monkeypatch):
    monkeypatch.setenv("LLM_GOOD", "alias:box/gemma")
    monkeypatch.setenv("LLM_TYPO", "alias:bxo/gemma")
    assert cli.main(["check"]) == cli.FAILED
    typo, good = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"typo +failed  SpecError: unknown provider 'bxo'.*", typo)
    assert re.fullmatch(r"box +gemma +ok .*", good)


def test_check_names_a_local_model_that_does_not_start_and_tries_the_others(
    box, capsys, monkeypatch, tmp_path
):
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('libgomp.so.1: cannot open')")
    (tmp_path / local.MODEL_PACKAGE).mkdir()
    (tmp_path / local.MODEL_PACKAGE / "small.gguf").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("LLM_GOOD", "alias:box/gemma")
    monkeypatch.setenv("LLM_TINY", "alias:local/smollm2")
    assert cli.main(["check"]) == cli.FAILED
    tiny, good = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"tiny +failed  ConnectError: the local server did not start .*: libgomp.*", tiny
    )
    assert re.fullmatch(r"box +gemma +ok .*", good)


def test_check_names_what_is_wrong_where_no_alias_can_be_read(box, capsys, monkeypatch):
    monkeypatch.setenv("LLM_TYPO", "alias:bxo/gemma")
    assert cli.main(["check"]) == cli.FAILED
    assert re.fullmatch(
        r"typo +failed  SpecError: unknown provider 'bxo'.*\n", capsys.readouterr().out
    )


async def test_check_asks_providers_side_by_side_and_the_models_of_one_after_another(monkeypatch):
    gate = Gate()
    async with FaultServer(default=chat(gate, "x")) as slow, FaultServer(default=chat("y")) as fast:
        monkeypatch.setenv("LLM_SLOW", slow.dsn("openai"))
        monkeypatch.setenv("LLM_FAST", fast.dsn("openai"))
        done = asyncio.create_task(asyncio.to_thread(cli.main, ["check", "slow/a,slow/b,fast/c"]))
        await gate.reached()
        while not fast.requests:
            await asyncio.sleep(0.01)
        assert len(slow.requests) == 1
        gate.open()
        assert await done == cli.OK
        assert len(slow.requests) == 2


def test_check_explains_a_target_in_full_if_asked_to(box, capsys):
    assert cli.main(["check", "-v", "box/qwen3:8b"]) == cli.OK
    told = capsys.readouterr().out
    assert "accepts images" in told
    assert "ok  first output" in told
    assert "Hello there" in told


def test_check_prints_findings_as_json(box, capsys):
    assert cli.main(["check", "--json", "box/qwen3:8b"]) == cli.OK
    (finding,) = json.loads(capsys.readouterr().out)
    assert finding["text"] == "Hello there"
    assert finding["capabilities"]["tools"] is True


def test_ask_prints_the_response_as_json(box, capsys):
    assert cli.main(["ask", "--json", "-m", "box/qwen3:8b", "Hi"]) == cli.OK
    response = json.loads(capsys.readouterr().out)
    assert response["finish_reason"] == "stop"
    assert response["usage"]["input_tokens"] == 3
    assert response["text"] == "Hello there"


@pytest.mark.parametrize("command", ["ask Hi", "chat"])
def test_options_shape_each_answer(box, monkeypatch, command):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\nAnd now?\n"))
    options = "-m box/m --system Short. --max-tokens 7 --temperature 0"
    assert cli.main(f"{command} {options}".split()) == cli.OK
    sent = [each.json() for each in box.requests if each.path.endswith("completions")]
    assert len(sent) == (1 if command != "chat" else 2)
    for each in sent:
        assert each["messages"][0] == {"role": "system", "content": "Short."}
        assert (each["max_tokens"], each["temperature"]) == (7, 0)


@pytest.mark.parametrize("command", ["ask Hi", "chat", "map rows.jsonl -o out.jsonl"])
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("-t -1", "temperature is -1.0: expected a finite number, 0 or more"),
        ("-t nan", "temperature is nan: expected a finite number, 0 or more"),
        ("-n 0", "max_output_tokens is 0: expected an integer, 1 or more"),
        ("-t warm", "argument -t/--temperature: invalid float value: 'warm'"),
    ],
)
def test_options_out_of_range_are_wrong_usage(
    box, capsys, monkeypatch, tmp_path, command, option, said
):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('"Hi"\n')
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n"))
    assert cli.main(f"{command} -m box/m {option}".split()) == cli.USAGE
    assert said in capsys.readouterr().err
    assert not box.requests


@pytest.mark.parametrize(
    ("command", "closed", "code", "out"),
    [
        ("ask Hi -m box/m", "<&-", cli.OK, "Hello there\n"),
        ("ask -m box/m", "<&-", cli.USAGE, ""),
        ("chat -m box/m", "<&-", cli.OK, ""),
        ("ask Hi -m box/m", ">&-", cli.FAILED, ""),
        ("--help", ">&-", cli.FAILED, ""),
        ("chat -m box/m", ">&-", cli.OK, ""),
        ("ask Hi -v -m box/m", "2>&-", cli.OK, "Hello there\n"),
    ],
)
def test_standard_streams_may_be_closed(box, command, closed, code, out):
    run = subprocess.run(
        ["sh", "-c", f"{python('-m', 'aiollm')} {command} {closed}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (run.returncode, run.stdout) == (code, out)
    assert "Traceback" not in run.stderr
    is_lost = closed == ">&-" and code == cli.FAILED
    assert run.stderr.startswith("aiollm: the output cannot be written: ") == is_lost


@pytest.fixture
def hostile(monkeypatch):
    """A server whose model has a name that is two lines and drives the terminal."""
    name = "a\nb\x1b[2J\u202e"
    paths = {
        "/v1/models": Answer(200, {}, {"data": [{"id": name}]}),
        "/running": Answer(200, {}, {"running": [{"model": name, "state": "ready"}]}),
    }
    refused = Answer(400, {}, {"error": {"message": "no\naiollm: fine \x1b[2J"}})
    with FaultServer(paths=paths, default=refused).in_thread() as server:
        monkeypatch.setenv("LLM_BOX", f"llama-swap://127.0.0.1:{server.port}")
        yield name


@pytest.mark.parametrize("command", ["models box", "running box", "health box", "check box/m\nx"])
def test_names_and_messages_of_a_server_make_no_lines_of_their_own(hostile, capsys, command):
    cli.main(command.split(" "))
    out, told = capsys.readouterr()
    assert "\x1b" not in out + told
    assert not re.search(r"^(b\[|x|aiollm: fine)", out + told, re.MULTILINE)
    if "--json" not in command and command.startswith(("models", "running")):
        assert "a\\nb[2J" in out


def test_names_in_json_are_exact(hostile, capsys):
    assert cli.main(["models", "--json", "box"]) == cli.OK
    out = capsys.readouterr().out
    assert json.loads(out) == [f"box/{hostile}"]
    assert out.isascii()
    assert "\x1b" not in out


@pytest.mark.parametrize("command", ["models", "health"])
def test_an_ollama_nobody_configured_is_not_missed(box, capsys, monkeypatch, command):
    row = msgspec.structs.replace(SCHEMES["ollama"], home="http://127.0.0.1:9")
    monkeypatch.setitem(SCHEMES, "ollama", row)
    assert cli.main([command]) == cli.OK
    out, told = capsys.readouterr()
    assert "box" in out
    assert "ollama" not in out + told
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    assert cli.main([command]) == cli.FAILED
    assert "ollama" in "".join(capsys.readouterr())


@pytest.mark.parametrize("images", [True, False])
def test_check_names_limits_of_images_only_where_images_are_taken(images):
    facts = {"images": images, "max_image_dimension": 5000}
    described = check._described(check.Finding("box/m", "http://box", facts, total=1.0))
    assert ("max_image_dimension: 5000" in described) is images


@pytest.mark.parametrize(
    ("there", "arguments", "made"),
    [
        ([], [], ["boat.png"]),
        ([], ["-n", "2"], ["boat-1.png", "boat-2.png"]),
        (["boat.png"], ["-n", "2"], ["boat-1.png", "boat-2.png"]),
        (["boat.png"], ["--force"], ["boat.png"]),
    ],
)
def test_images_are_saved_as_many_as_were_asked_for(drawn, tmp_path, there, arguments, made):
    for name in there:
        (tmp_path / name).write_bytes(b"old")
    assert drawn(*arguments) == cli.OK
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({*there, *made})
    assert all((tmp_path / name).read_bytes() != b"old" for name in made)


@pytest.mark.parametrize(
    ("there", "arguments"),
    [
        ("boat.png", []),
        ("boat-2.png", ["-n", "2"]),
        ("boat-draft1.png", ["--drafts", "1"]),
        ("boat.png", ["-n", "1", "--drafts", "2"]),
    ],
)
def test_a_file_that_exists_stays_and_nothing_is_asked_for(
    box, drawn, tmp_path, capsys, there, arguments
):
    (tmp_path / there).write_bytes(b"old")
    assert drawn(*arguments) == cli.USAGE
    assert f"{there}' exists" in capsys.readouterr().err
    assert (tmp_path / there).read_bytes() == b"old"
    assert not box.requests


def test_a_file_that_comes_to_exist_meanwhile_stays_too(tmp_path):
    asked = ImageRequest("x", count=2)
    files = image.Files(tmp_path / "boat.png", asked, replace=False)
    for name in ("boat-2.png", "boat-2_2.png"):
        (tmp_path / name).write_bytes(b"another's")
    files.keep(ImageResult((ImagePart(b"1"), ImagePart(b"2"))))
    assert [path.name for path in files.made] == ["boat-1.png", "boat-2_3.png"]
    assert (tmp_path / "boat-2.png").read_bytes() == b"another's"


def test_an_image_for_which_there_is_no_room_leaves_no_file(tmp_path):
    files = image.Files(tmp_path / "boat.png", ImageRequest("x"), replace=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            files.keep(ImageResult((ImagePart(b"x" * 20),)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [*tmp_path.iterdir()]


def test_an_image_that_is_an_address_is_told(box, tmp_path, capsys, monkeypatch):
    reply = Answer(200, {}, {"data": [{"url": "https://a.example/x.png"}]})
    with FaultServer(default=reply).in_thread() as server:
        monkeypatch.setenv("LLM_BOX", f"llama-swap://127.0.0.1:{server.port}")
        assert cli.main(["image", "x", "-m", "box/m", "-o", str(tmp_path / "x.png")]) == cli.OK
    assert capsys.readouterr().out == "https://a.example/x.png\n"
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_folder_is_a_usage_error(box, tmp_path, capsys):
    assert cli.main(["image", "x", "-m", "box/sdxl", "-o", str(tmp_path)]) == cli.USAGE
    assert not box.requests


@pytest.fixture
def drawn(box, tmp_path):
    """Run `aiollm image`, with `boat.png` as the output."""
    output = str(tmp_path / "boat.png")
    return lambda *more: cli.main(["image", "x", "-m", "box/sdxl", "-o", output, *more])


def test_tokens_are_counted(box, capsys):
    box.behave(
        Answer(200, {}, {"input_tokens": 12}),
        path="/upstream/qwen3:8b/v1/chat/completions/input_tokens",
    )
    assert cli.main(["tokens", "How", "many?", "-m", "box/qwen3:8b", "-s", "Be brief."]) == cli.OK
    said = capsys.readouterr()
    assert (said.out, said.err) == ("12\n", "")
    assert box.requests[-1].json()["messages"][-1]["content"] == "How many?"
    assert cli.main(["tokens", "x", "-m", "box/qwen3:8b", "--json"]) == cli.OK
    found = {"tokens": 12, "certainty": "exact", "target": "box/qwen3:8b"}
    assert json.loads(capsys.readouterr().out) == found


def test_an_estimate_of_tokens_says_so_beside_the_number(box, capsys, monkeypatch):
    monkeypatch.setenv("LLM_OLD", f"ollama+http://127.0.0.1:{box.port}")
    assert cli.main(["tokens", "x" * 400, "-m", "old/qwen3:8b"]) == cli.OK
    said = capsys.readouterr()
    assert said.out == "104\n"
    assert "old/qwen3:8b cannot count" in said.err


def test_tokens_that_nobody_could_count_are_an_error(box, capsys):
    route = "/upstream/qwen3:8b/v1/chat/completions/input_tokens"
    box.behave(Answer(500, {}, {"error": {"message": "it is night"}}), path=route)
    assert cli.main(["tokens", "x", "-m", "box/qwen3:8b"]) == cli.FAILED
    said = capsys.readouterr()
    assert said.out == ""
    assert "it is night" in said.err
