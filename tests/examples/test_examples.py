"""Every numbered example runs as a user runs it, against loopback servers."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aiollm.retrieval import EmbedRequest
from aiollm.testing import Answer, FaultServer, Gate, Hang, SeenRequest, chat, sse
from aiollm.testing.fake_retrieval import embeddings_for
from tests.programs import free_port

EXAMPLES = Path(__file__).parents[2] / "examples"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
CUT = chat("Once upon ", finish=None, done=False)
LOADING = sse(
    {"choices": [{"delta": {"reasoning_content": "loading the model\n"}}]},
    {"error": {"message": "no memory", "code": 500}},
)


def test_every_numbered_example_is_tested_and_short():
    tests = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    for path in sorted(EXAMPLES.glob("[0-9]*.py")):
        assert path.name in tests, f"{path.name} has no test"
        assert len(path.read_text().splitlines()) <= 70, f"{path.name} is too long to read"


async def test_a_stream_is_shown_as_it_comes():
    said = chat("Rayleigh ", "scattering.", usage=(9, 4))
    async with FaultServer(said) as m5:
        output = await run("01_stream.py", m5=m5)
        body = m5.requests[0].json()
    assert "Rayleigh scattering.\nstop, 4 tokens\nm5/qwen3:30b in " in output
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


async def test_a_chain_restarts_a_cut_answer_at_the_next_target():
    async with FaultServer(CUT) as m5, FaultServer(chat("A whole story.")) as m1:
        output = await run("02_failover.py", m5=m5, m1=m1)
    assert "Once upon \n-- m1/qwen3:30b starts again" in output
    assert "A whole story.\nm5/qwen3:30b: failed\nm1/qwen3:30b: success\n" in output
    assert "m5/qwen3:30b is cooling" in output


async def test_a_chain_shows_every_error_when_all_targets_fail():
    busy = Answer(400, {}, {"error": {"code": "context_length_exceeded", "message": "too long"}})
    async with FaultServer(busy) as m5, FaultServer(busy) as m1:
        output = await run("02_failover.py", m5=m5, m1=m1)
    assert output.count("ContextLengthError: m") == 2


async def test_a_race_is_won_by_the_box_that_answers():
    async with FaultServer(Hang()) as m5, FaultServer(chat("Hello!")) as m1:
        output = await run("03_race.py", m5=m5, m1=m1)
    assert output == "Hello!\nm5/qwen3:30b: abandoned\nm1/qwen3:30b: success\n"


async def test_a_reply_becomes_a_value_after_one_repair():
    wrong = chat('{"summary": "Outage", "urgency": 9, "team": "network"}')
    right = chat('{"summary": "Outage", "urgency": 5, "team": "network"}')
    async with FaultServer(wrong, right) as server:
        output = await run("04_structured_output.py", openai=server, m5=server)
    assert output == (
        "network, urgency 5: Outage\nby openai/gpt-6.1-sol, replies that did not fit: 1\n"
    )


async def test_a_trip_is_shown_as_it_grows_and_begins_again_after_a_cut():
    trip = '{"title":"North","stops":[{"place":"Oslo","days":2},{"place":"Bergen","days":1}]}'
    cut = chat(trip[:50], trip[50:60], finish=None, done=False)
    async with FaultServer(cut) as openai, FaultServer(chat(*trip)) as m5:
        output = await run("17_growing_answers.py", openai=openai, m5=m5)
    assert output == "- Oslo\nonce more:\n- Oslo\n- Bergen\nNorth: 3 days by m5/qwen3:30b\n"


async def test_an_agent_calls_its_tools_and_answers():
    calls = [
        call(index, f"call_{index}", json.dumps({"city": city}))
        for index, city in enumerate(("Oslo", "Granada"))
    ]
    script = [
        chat({"tool_calls": calls}, finish="tool_calls", usage=(20, 12)),
        chat("Granada.", usage=(40, 3)),
    ]
    async with FaultServer(*script) as server:
        output = await run("05_tools.py", anthropic=server)
    assert '-> weather{"city": "Granada"}' in output
    assert '<- {"celsius":11.0}' in output
    assert output.endswith("Granada.\n2 turns, 15 tokens\n")


async def test_a_picture_is_asked_about(tmp_path):
    (tmp_path / "duck.png").write_bytes(PNG)
    async with FaultServer(chat("A duck.")) as ls:
        output = await run("06_images_in.py", tmp_path / "duck.png", anthropic=ls, ls=ls)
        content = ls.requests[0].json()["messages"][0]["content"]
    assert output == "A duck.\n"
    assert [part["type"] for part in content] == ["text", "image_url"]


async def test_an_image_is_made_and_saved_under_a_name_that_no_example_reads(tmp_path):
    made = Answer(200, {}, {"data": [{"b64_json": base64.b64encode(PNG).decode()}]})
    async with FaultServer(made, made) as ls:
        output = await run("07_images_out.py", tmp_path / "boat.png", ls=ls, openai=ls)
        assert await run("07_images_out.py", cwd=tmp_path, ls=ls, openai=ls)
    assert output == f"{tmp_path / 'boat.png'} by ls/sdxl\n"
    assert (tmp_path / "boat.png").read_bytes() == PNG
    (other,) = {path.name for path in tmp_path.iterdir()} - {"boat.png"}
    assert not (EXAMPLES / other).exists()


async def test_a_box_is_warmed_used_and_left_free():
    async with FaultServer(default=llama_swap([])) as ls:
        output = await run("08_local_boxes.py", ls=ls)
        asked = [request.path for request in ls.requests]
    assert output.startswith("has qwen3:14b\nruns nothing\nloaded ls/qwen3:14b\n")
    assert "What is 13 times 13? 42" in output
    assert asked[-1] == "/api/models/unload/qwen3:14b"


SERVICES = ["09_service.py", "12_fastapi.py", "13_starlette.py"]


@pytest.mark.parametrize("name", SERVICES)
async def test_a_client_that_leaves_a_service_at_any_stage_closes_the_upstream(name):
    """The stages: before the first output, during the answer, and after it."""
    before, gate = Gate(), Gate()
    scripts = chat("all"), chat(before, "late"), chat("one", gate, "two"), chat("again")
    async with FaultServer(*scripts) as m5, service(name, m5) as port:
        whole = await get(port, until=b"\r\n0\r\n")
        assert b'data: {"text": "all"}\n\n' in whole
        async with asking(port):
            await before.reached()
        await m5.wait_closed()
        assert b'{"text": "one"}' in await get(port, until=b'one"}')
        await m5.wait_closed(2)
        assert m5.counts.closed_by_server == 0
        assert b'{"text": "again"}' in await get(port, until=b"\r\n0\r\n")


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize(
    ("script", "status", "text"),
    [
        (Answer(400, {}, {"error": {"message": "no such thing"}}), 422, b"no such thing"),
        (Answer(429, {"retry-after": "900"}, {"error": {"message": "slower"}}), 503, b"slower"),
        (Answer(401, {}, {"error": {"message": "bad key"}}), 502, b"bad key"),
        (LOADING, 502, b"no memory"),
    ],
    ids=["refused", "busy", "the service's own key", "only reports that it loads"],
)
async def test_a_service_answers_with_a_status_when_no_target_does(name, script, status, text):
    async with FaultServer(default=script) as m5, service(name, m5) as port:
        assert (await get(port, until=text)).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("name", SERVICES)
async def test_a_service_says_so_when_an_answer_is_cut(name):
    async with FaultServer(default=CUT) as m5, service(name, m5) as port:
        reply = await get(port, until=b"\r\n0\r\n")
    assert b"event: error\ndata: " in reply.partition(b'{"text": "Once upon "}')[2]


@pytest.mark.parametrize("name", SERVICES)
async def test_a_service_that_stops_leaves_no_upstream_open(name):
    async with FaultServer(chat("one", Gate(), "two")) as m5:
        async with service(name, m5) as port, asking(port) as reader:
            await reader.readuntil(b'one"}')
        await m5.wait_closed()
        assert m5.counts.closed_by_server == 0


@pytest.mark.parametrize("name", SERVICES)
async def test_200_clients_at_once_each_get_their_own_answer(name):
    def echo(request: SeenRequest) -> Answer:
        return chat("to ", request.json()["messages"][0]["content"])

    async with FaultServer(default=echo) as m5, service(name, m5) as port:
        wanted = [b"\r\n0\r\n"] * 200
        replies = await asyncio.gather(*(get(port, end, f"q{n}") for n, end in enumerate(wanted)))
    assert all(b'"q%d"' % number in reply for number, reply in enumerate(replies))


async def test_code_is_tested_without_network():
    assert await run("10_testing.py") == "passed\n"


async def test_an_agent_is_shown_photos_and_goes_on_past_its_turns(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "duck.jpg").write_bytes(PNG)
    looking = chat({"tool_calls": [call(0, "c", '{"name": "duck.jpg"}', "look")]}, usage=(9, 2))
    async with FaultServer(*[looking] * 5, chat("The duck.")) as ls:
        output = await run("11_agent_turns.py", cwd=tmp_path, ls=ls)
        sent = ls.requests[-1].body
    assert output == "10 tokens so far, Ctrl-C to stop\nThe duck.\n"
    assert sent.count(b"data:image/") == 5  # padded: this model takes no image of one pixel


@pytest.mark.parametrize(
    ("answer", "result"),
    [("yes", "paid 40 to Ann"), ("no", "not run: it was not approved: the owner said no")],
)
async def test_an_agent_pays_once_a_person_has_approved_in_a_later_process(
    tmp_path, answer, result
):
    paying = [call(0, "p", '{"to": "Ann", "euros": 40}', "pay"), call(1, "b", "{}", "bills")]
    script = chat({"tool_calls": paying}, finish="tool_calls"), chat("Settled.")
    async with FaultServer(*script) as server:
        servers = {"openai": server, "anthropic": server}
        output = await run("14_approval.py", cwd=tmp_path, **servers)
        asked = 'To approve: pay{"to": "Ann", "euros": 40}\n'
        assert output == f"{asked}Start this again with `yes` or `no`.\n"
        assert await run("14_approval.py", answer, cwd=tmp_path, **servers) == "Settled.\n"
        sent = server.requests[-1].json()["messages"]
    assert [message["content"] for message in sent[-2:]] == [result, '{"Ann":40.0,"Bo":900.0}']


async def test_an_agent_reads_a_book_that_is_longer_than_its_history_may_be(tmp_path):
    for number in range(20):
        (tmp_path / f"{number:02}.md").write_text("It was a dark night. " * 100)

    def reader(request: SeenRequest) -> Answer:
        body = request.json()
        if body.get("tool_choice") == "none":
            return chat("It was always dark.")
        seen.append(len(request.body))
        if len(seen) > 20:
            return chat("The gardener.")
        page = f'{{"page": "{len(seen) - 1:02}.md"}}'
        said = {"tool_calls": [call(0, "r", page, "read")]}
        return chat(said, finish="tool_calls", usage=(len(request.body) // 4, 5))

    seen: list[int] = []
    async with FaultServer(default=reader) as m5:
        output = await run("15_long_history.py", tmp_path, m5=m5)
    assert "messages became" in output
    assert "The gardener.\n21 turns, " in output
    assert max(seen) < 40_000


async def test_an_agent_hears_what_is_typed_while_it_works():
    """It measures until it is told to stop, however long that takes to arrive."""
    measuring = chat(
        {"tool_calls": [call(0, "m", '{"place": "Oslo"}', "measure")]}, finish="tool_calls"
    )

    def answer(request: SeenRequest) -> Answer:
        last = request.json()["messages"][-1]
        return chat("11.5 in Oslo.") if last["content"] == "only Oslo" else measuring

    async with FaultServer(default=answer) as m5:
        program = started(EXAMPLES / "16_steering.py", typed=True, **dsns({"m5": m5}))
        async with program as process:
            shown = await process.stdout.readuntil(b"}\n")
            process.stdin.write(b"only Oslo\n")
            shown += await process.stdout.read()
        sent = m5.requests[-1].json()["messages"]
    assert shown.endswith(b"you: only Oslo\n11.5 in Oslo.\n")
    assert sent[-1]["content"] == "only Oslo"


@pytest.mark.parametrize("name", ["nomic", "broken"])
async def test_the_guides_are_searched_by_meaning(name):
    def vectors(request: SeenRequest) -> Answer:
        body = request.json()
        if body["model"] == "broken":
            return Answer(400, {}, {"error": {"message": "no pooling"}})
        asked = EmbedRequest(body["input"], dimensions=256)
        made = [{"embedding": each.tolist()} for each in embeddings_for(asked).vectors]
        return Answer(200, {}, {"data": made, "usage": {"prompt_tokens": len(made)}})

    question = "rate limits and many calls: waiting"
    async with FaultServer(default=vectors) as ls:
        if name == "nomic":
            output = await run("18_semantic_search.py", question, f"ls/{name}", ls=ls)
            assert (
                output.splitlines()[0].partition("  ")[2].startswith("Rate limits and many calls")
            )
            assert " sections by ls/nomic, " in output
            return
        command = EXAMPLES / "18_semantic_search.py", question, "ls/broken"
        async with started(*command, **dsns({"ls": ls})) as process:
            _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"no search: every target of ls/broken failed" in errors


def call(index: int, key: str, arguments: str, name: str = "weather") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": key, "type": "function", "function": function}


def llama_swap(running: list[str]):
    """Answer as a llama-swap server with one model, which its first chat loads."""

    def answer(request: SeenRequest) -> Answer:
        match request.path:
            case "/v1/models":
                return Answer(200, {}, {"data": [{"id": "qwen3:14b"}]})
            case "/running":
                models = [{"model": model, "state": "ready"} for model in running]
                return Answer(200, {}, {"running": models})
            case "/v1/chat/completions":
                return chat("42")
            case path if path.startswith("/upstream/"):
                running[:] = ["qwen3:14b"]
                return Answer(200, {}, {"status": "ok"})
            case _:
                return Answer(200, {}, "OK")

    return answer


@asynccontextmanager
async def started(
    *command: object, cwd: Path | None = None, typed: bool = False, **more: str
) -> AsyncIterator[Any]:
    paths = {"PATH": os.environ["PATH"], "PYTHONPATH": str(EXAMPLES.parent)}
    env = {**paths, "PYTHONUNBUFFERED": "1", **more}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", *map(str, command)),
        env=env,
        cwd=cwd,
        stdin=asyncio.subprocess.PIPE if typed else None,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run(
    name: str, *arguments: object, cwd: Path | None = None, **servers: FaultServer
) -> str:
    """Return what an example prints; its providers are the servers of these names."""
    async with started(EXAMPLES / name, *arguments, cwd=cwd, **dsns(servers)) as process:
        output, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (0, "")
    return output.decode()


def dsns(servers: dict[str, FaultServer]) -> dict[str, str]:
    return {
        f"LLM_{name.upper()}": f"llama-swap://127.0.0.1:{server.port}"
        if name == "ls"
        else server.dsn("openai", path="/v1", api="chat")
        for name, server in servers.items()
    }


@asynccontextmanager
async def service(name: str, upstream: FaultServer) -> AsyncIterator[int]:
    """Run a service until the block ends, then stop it as an operator does."""
    port = free_port()
    env = dsns({"m5": upstream, "m1": upstream}) | {"PORT": str(port)}
    async with started(EXAMPLES / name, **env) as process:
        output = process.stdout if name == "09_service.py" else process.stderr
        while b"running on" not in (await output.readline()).lower():
            assert process.returncode is None
        yield port
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
    assert b"Traceback" not in errors, errors.decode()


@asynccontextmanager
async def asking(port: int, question: str = "hi") -> AsyncIterator[asyncio.StreamReader]:
    """Ask a service, and leave at the end of the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /ask?q=%b HTTP/1.1\r\nHost: x\r\n\r\n" % question.encode())
        await writer.drain()
        yield reader
    finally:
        writer.close()
        await writer.wait_closed()


async def get(port: int, until: bytes, question: str = "hi") -> bytes:
    """Ask a service, read as far as `until`, and leave."""
    async with asking(port, question) as reader:
        return await reader.readuntil(until)
