"""Every numbered example runs as a user runs it, against loopback servers."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiollm.testing import Answer, FaultServer, Gate, Hang, SeenRequest, chat, sse

EXAMPLES = Path(__file__).parents[2] / "examples"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
CUT = chat("Once upon ", finish=None, done=False)


def test_every_numbered_example_is_tested_and_short():
    tests = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    for path in sorted(EXAMPLES.glob("[0-9]*.py")):
        assert path.name in tests, f"{path.name} has no test"
        assert len(path.read_text().splitlines()) <= 40, f"{path.name} is too long to read"


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
    assert output == "network, urgency 5: Outage\n"


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


async def test_an_image_is_made_and_saved(tmp_path):
    made = Answer(200, {}, {"data": [{"b64_json": base64.b64encode(PNG).decode()}]})
    async with FaultServer(made) as ls:
        output = await run("07_images_out.py", tmp_path / "boat.png", ls=ls, openai=ls)
    assert output == f"{tmp_path / 'boat.png'} by ls/sdxl\n"
    assert (tmp_path / "boat.png").read_bytes() == PNG


async def test_a_box_is_warmed_used_and_left_free():
    async with FaultServer(default=llama_swap([])) as ls:
        output = await run("08_local_boxes.py", ls=ls)
        asked = [request.path for request in ls.requests]
    assert output.startswith("has qwen3:14b\nruns nothing\nloaded ls/qwen3:14b\n")
    assert "What is 13 times 13? 42" in output
    assert asked[-1] == "/api/models/unload/qwen3:14b"


async def test_a_service_streams_and_a_client_that_leaves_closes_the_upstream():
    gate = Gate()
    async with FaultServer(chat("all"), chat("one", gate, "two")) as m5, service(m5) as port:
        whole = await get(port, until=b"\r\n0\r\n")
        assert b'data: {"text": "all"}\n\n' in whole
        assert b'{"text": "one"}' in await get(port, until=b'one"}')
        await m5.wait_closed()
        assert m5.counts.closed_by_server == 0


async def test_a_service_answers_502_when_no_target_does():
    refusal = Answer(400, {}, {"error": {"message": "no such thing"}})
    async with FaultServer(refusal) as m5, service(m5) as port:
        assert (await get(port, until=b"no such thing")).startswith(b"HTTP/1.1 502 ")


async def test_a_service_answers_502_when_targets_only_report_that_they_load():
    loading = {"choices": [{"delta": {"reasoning_content": "loading the model\n"}}]}
    failing = sse(loading, {"error": {"message": "no memory", "code": 500}})
    async with FaultServer(default=failing) as m5, service(m5) as port:
        assert (await get(port, until=b"no memory")).startswith(b"HTTP/1.1 502 ")


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
    assert sent.count(base64.b64encode(PNG)) == 5


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
    name: str, *arguments: object, cwd: Path | None = None, **more: str
) -> AsyncIterator[Any]:
    paths = {"PATH": os.environ["PATH"], "PYTHONPATH": str(EXAMPLES.parent)}
    env = {**paths, "PYTHONUNBUFFERED": "1", **more}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", EXAMPLES / name, *map(str, arguments)),
        env=env,
        cwd=cwd,
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
    async with started(name, *arguments, cwd=cwd, **dsns(servers)) as process:
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
async def service(upstream: FaultServer) -> AsyncIterator[int]:
    """Run the service until the block ends, then stop it as an operator does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = dsns({"m5": upstream, "m1": upstream}) | {"PORT": str(port)}
    async with started("09_service.py", **env) as process:
        assert b"Running on" in await process.stdout.readline()
        yield port
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
        assert (process.returncode, errors.decode()) == (0, "")


async def get(port: int, until: bytes) -> bytes:
    """Ask the service, read as far as `until`, and leave."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /ask?q=hi HTTP/1.1\r\nHost: x\r\n\r\n")
        return await reader.readuntil(until)
    finally:
        writer.close()
        await writer.wait_closed()
