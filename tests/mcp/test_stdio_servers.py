"""Servers as child processes: what they return, how they fail, and that nothing is left of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aiollm import (
    ClosedError,
    ConfigError,
    ConnectError,
    DeadlineError,
    DocumentPart,
    ImagePart,
    ProtocolError,
    Registry,
    RunResult,
    TextPart,
    ToolEnded,
    tool,
)
from aiollm._mcp.connection import OVERRAN
from aiollm._mcp.sdk import load
from aiollm._mcp.stdio import StdioTransport
from aiollm._mcp.traffic import Traffic
from aiollm.events import McpDied, McpRestarted, McpStarted, McpToolsChanged
from aiollm.testing import FakeProvider, tool_call
from tests.programs import python, waited_for

SCRIPT = Path(__file__).with_name("fake_server.py")


def members(group: int) -> list[int]:
    """Return the processes of a group that still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(entry.name))
    return found


async def until(holds, seconds=20.0):
    """Wait until something holds in another process."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never held"
        await asyncio.sleep(0.01)


async def test_a_run_uses_the_tools_of_a_server(served, registry):
    fake = FakeProvider([tool_call("echo", {"text": "hi"})], ["done"])

    @tool
    def local(x: int) -> int:
        """Stay here."""
        return x

    async with registry({"fake": fake}) as reg:
        async with served(reg=reg) as server:
            tools = [*await server.tools("e*", "!empty"), local]
            assert [each.name for each in tools] == ["echo", "env", "local"]
            assert tools[0].description == "Does echo."
            async with reg.run("fake/m", "?", tools=tools) as run:
                events = [event async for event in run]
    (ended,) = [event for event in events if isinstance(event, ToolEnded)]
    assert (ended.result.text, ended.result.id) == ("echo: hi", "call_0")
    assert isinstance(events[-1], RunResult)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fail", [TextPart("no such file")]),
        ("structured", [TextPart('{"celsius":21.5}')]),
        ("cut", [TextPart("half of \ufffd")]),
        ("nan", [TextPart('{"celsius":null}')]),
        ("resource", [TextPart("plain words")]),
        ("empty", []),
        ("noise", [TextPart("after the noise")]),
        ("logs", [TextPart("after the logs")]),
        ("link", [TextPart("a.txt <file:///a.txt>")]),
        ("audio", [TextPart("[audio (audio/wav, 120 bytes) is left out]")]),
        ("unknown", [TextPart("[a.bin (application/x-thing, 2 bytes) is left out]")]),
        ("broken_image", [TextPart("[image cannot be read]")]),
    ],
)
async def test_a_result_becomes_parts(served, name, expected):
    async with served() as server:
        result = await server.call(name)
    assert list(result.content) == expected
    assert result.is_error is (name == "fail")


async def test_images_and_documents_become_parts(served):
    async with served() as server:
        (image,) = (await server.call("image")).content
        (document,) = (await server.call("pdf")).content
    assert isinstance(image, ImagePart)
    assert image.mime == "image/png"
    assert isinstance(document, DocumentPart)
    assert (document.data, document.name) == (b"%PDF-1.4", "a.pdf")


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("big", {}, "too large"),
        ("big_last", {}, "too large"),
        ("big", {"bytes": 50_000_000}, "50000"),
        ("many", {}, "1001 items"),
        ("deep", {}, "more than 131072 values"),
        ("bad_result", {}, "not valid"),
        ("rpc_error", {}, "bad arguments"),
    ],
)
async def test_a_result_that_cannot_be_used_is_an_error_of_its_call_alone(
    served, name, arguments, words
):
    async with served() as server:
        pid = (await server.start()).status.pid
        with pytest.raises(ProtocolError, match=words):
            await server.call(name, arguments)
        assert (await server.call("echo", {"text": "on"})).text == "echo: on"
        assert server.status.pid == pid


@pytest.mark.parametrize("name", ["die", "half", "flood", "ask"])
async def test_a_server_that_fails_in_a_call_is_started_again(served, registry, name):
    events = []
    async with registry() as reg:
        reg.on_event(events.append)
        async with served(reg=reg) as server:
            with pytest.raises(ConnectError, match="died while"):
                await server.call(name)
            assert server.status.state == "down"
            assert (await server.call("echo", {"text": "again"})).text == "echo: again"
            assert server.status.failures == 0
    assert [type(event) for event in events] == [McpStarted, McpDied, McpRestarted]
    assert events[0].tools > 20


async def test_death_in_a_call_is_a_result_for_the_model(served, registry):
    fake = FakeProvider([tool_call("die", {})], [tool_call("echo", {"text": "b"})], ["done"])
    async with registry({"fake": fake}) as reg, served(reg=reg) as server:
        run = reg.run("fake/m", "?", tools=await server.tools())
        ended = [event async for event in run if isinstance(event, ToolEnded)]
    assert [each.result.is_error for each in ended] == [True, False]
    assert "died while" in ended[0].result.text
    assert isinstance(ended[0].error, ConnectError)
    assert run.response.text == "done"


async def test_a_server_that_dies_again_and_again_is_left_alone_for_a_while(served):
    async with served(cooldown=30.0) as server:
        for _ in range(2):
            with pytest.raises(ConnectError, match="died while"):
                await server.call("die")
        assert 0 < server.status.reopens_in <= 30
        with pytest.raises(ConnectError, match="not tried again"):
            await server.call("echo")


@pytest.mark.parametrize(
    ("mode", "error", "words"),
    [
        ("never", DeadlineError, "not ready within"),
        ("silent", DeadlineError, "not ready within"),
        ("exit", ConnectError, "exit code 3"),
        ("garbage", ConnectError, "not JSON-RPC"),
    ],
)
async def test_a_server_that_does_not_start_is_an_error(served, mode, error, words):
    seconds = 0.5 if error is DeadlineError else 20.0
    async with served(mode, start_timeout=seconds, env={"KEY": "sk-very-secret"}) as server:
        with pytest.raises(error, match=words) as caught:
            await server.tools()
        assert "very-secret" not in f"{caught.value} {server.log} {server.status} {server!r}"
        assert server.status.state == "down"


async def test_a_command_that_is_not_there_is_an_error(registry):
    async with registry() as reg:
        with pytest.raises(ConnectError, match="No such file"):
            await reg.mcp("stdio:no-such-command-anywhere").tools()
        with pytest.raises(ConnectError, match="did not start"):
            await reg.mcp("stdio:true", cwd="/no/such/folder").tools()


async def test_a_command_that_ends_before_anything_is_written_to_it_says_why():
    reasons: list[str] = []
    sdk = await load()
    transport = StdioTransport(
        Traffic(sdk, reasons.append, lambda: None), ["no-such-command"], {}, None, 1000
    )
    ping = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'
    async with transport as (_, sent):
        while transport.child.is_open:
            await asyncio.sleep(0)
        with pytest.raises(transport.closed):
            await sent.send(sdk.SessionMessage(sdk.message.validate_json(ping)))
    await transport.child.gone()
    assert reasons == ["it cannot be run (No such file or directory)"]


async def test_a_call_has_a_deadline_and_a_silent_server_is_given_up(served):
    async with served("mute", call_timeout=0.05) as server:
        pid = (await server.start()).status.pid
        for _ in range(3):
            with pytest.raises(DeadlineError, match="did not answer 'hang' within"):
                await server.call("hang")
        assert server.status.state == "down"
        assert (await server.start()).status.pid != pid


async def test_a_tool_that_hangs_leaves_the_others_alone(served):
    async with served(call_timeout=0.1) as server:
        pid = (await server.start()).status.pid
        for _ in range(4):
            hanging = asyncio.ensure_future(server.call("hang"))
            await server.call("echo", timeout=5)
            with pytest.raises(DeadlineError):
                await hanging
        assert server.status.pid == pid


async def test_a_server_that_is_slow_but_says_so_is_not_given_up(served):
    async with served() as server:
        pid = (await server.start()).status.pid
        traffic = server._connection._traffic
        for _ in range(4):
            before = traffic.heard
            calling = asyncio.ensure_future(server.call("mumble"))
            await until(lambda before=before: traffic.heard > before)
            calling.cancel(OVERRAN)
            with pytest.raises(asyncio.CancelledError):
                await calling
        assert server.status.pid == pid


async def test_a_thousand_calls_share_a_server(served):
    async with served() as server:
        calls = (server.call("echo", {"text": str(number)}) for number in range(1000))
        found = await asyncio.gather(*calls)
        assert server.status.starts == 1
    assert [each.text for each in found] == [f"echo: {number}" for number in range(1000)]


async def test_a_server_killed_in_the_middle_of_a_hundred_runs_costs_none(served, registry):
    started = asyncio.Event()

    def answer(_target, request):
        results = sum(message.role == "tool" for message in request.messages)
        return ["done"] if results == 3 else [tool_call("echo", {"text": "x"})]

    async with registry({"fake": FakeProvider(default=answer)}) as reg:
        async with served(reg=reg, cooldown=0.05) as server:
            tools = await server.tools("echo")
            ended = 0

            async def run():
                nonlocal ended
                async with reg.run("fake/m", "?", tools=tools) as each:
                    async for event in each:
                        ended += isinstance(event, ToolEnded)
                        if ended >= 100:
                            started.set()
                    return each.response.text

            runs = [asyncio.ensure_future(run()) for _ in range(100)]
            await started.wait()
            os.killpg(server.status.pid, signal.SIGKILL)
            assert await asyncio.gather(*runs) == ["done"] * 100


async def test_a_list_that_changes_is_an_event_and_the_new_tool_can_be_called(served, registry):
    events = []
    changed = asyncio.Event()

    def heard(event):
        events.append(event)
        if isinstance(event, McpToolsChanged):
            changed.set()

    async with registry() as reg:
        reg.on_event(heard)
        async with served(reg=reg) as server:
            await server.call("more", {"name": "fresh"})
            await changed.wait()
            (fresh,) = await server.tools("fresh")
            assert (await fresh()).text == "fresh: "
    assert events[-1] == McpToolsChanged("fake", ("fresh",), ())


async def test_a_tool_that_is_gone_is_an_error(served):
    async with served() as server:
        with pytest.raises(ProtocolError, match="no tool 'gone'; it has: "):
            await server.call("gone")


async def test_a_list_of_several_pages_is_read_to_its_end(served):
    async with served("pages") as server:
        assert len(await server.tools()) == len(await server.tools("*", "!x"))
        assert "logs" in [each.name for each in await server.tools()]


async def test_odd_tools_are_mended_or_refused_with_a_reason(served, caplog):
    async with served("odd") as server:
        tools = {each.name: each for each in await server.tools()}
        with pytest.raises(ConfigError, match=r"cannot be used: .*elsewhere"):
            await server.tools("away")
        with pytest.raises(ConfigError, match="it has: twice"):
            await server.tools("none*")
    assert list(tools)[:2] == ["twice", "a_b_c_d"]
    assert (
        len(tools) == 8
    )  # those two, a_b_c_d by another name, long, nameless, number, needs, hidden
    assert tools["needs"].parameters.get("required") is None
    assert tools["hidden"].description == "ab[31m"
    assert "lists a tool twice" in caplog.text
    assert "left out" in caplog.text


async def test_names_can_have_a_prefix(served):
    async with served() as server:
        assert [each.name for each in await server.tools("echo", prefix=True)] == ["fake_echo"]
        assert [each.name for each in await server.tools("echo", prefix="my")] == ["my_echo"]


async def test_the_process_gets_a_small_environment_and_what_it_is_given(served, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    async with served(env={"MINE": "1"}) as server:
        env = json.loads((await server.call("env")).text)
    assert env["MINE"] == "1"
    assert "PATH" in env
    assert "OPENAI_API_KEY" not in env


async def test_nothing_runs_before_it_is_needed_and_status_tells_what_does(served):
    async with served() as server:
        assert server.status.state == "idle"
        await server.start()
        status = server.status
        assert (status.state, status.server, status.instructions) == ("up", "fake 7", "Be kind.")
    assert server.status.state == "closed"


@pytest.mark.parametrize("mode", ["ok", "stubborn"])
async def test_closing_ends_the_server_and_all_that_it_started(served, mode):
    server = served(mode)
    await server.call("spawn")
    group = server.status.pid
    assert len(members(group)) == 3
    await server.aclose()
    await until(lambda: not members(group))  # what is killed takes a moment to go


async def test_a_server_may_end_by_itself_when_its_input_is_closed(served, tmp_path):
    goodbye = tmp_path / "goodbye"
    async with served("polite", env={"GOODBYE": str(goodbye)}) as server:
        await server.start()
    assert goodbye.read_text() == "goodbye"


async def test_a_registry_closes_its_servers(served, registry):
    async with registry() as reg:
        server = served(reg=reg)
        group = (await server.start()).status.pid
    await until(lambda: not members(group))  # what is killed takes a moment to go
    with pytest.raises(ClosedError):
        await server.call("echo")


async def test_a_server_may_be_closed_twice_by_other_tasks_and_out_of_order(served):
    first, second = served(), served()
    await asyncio.create_task(_enter(first))
    await asyncio.create_task(_enter(second))
    await asyncio.gather(*(asyncio.create_task(first.aclose()) for _ in range(3)))
    await second.aclose()
    await first.aclose()
    with pytest.raises(ClosedError):
        await first.tools()


async def _enter(server):
    await server.__aenter__()
    await server.start()


async def test_closing_ends_a_call_that_is_under_way(served):
    async with served() as server:
        await server.start()
        hanging = asyncio.ensure_future(server.call("hang"))
        await server.call("echo")
    with pytest.raises(ClosedError, match="was closed while 'hang' ran"):
        await hanging


async def test_a_server_that_is_closed_again_is_gone_for_all_who_close_it(served):
    server = served("stubborn")
    group = (await server.start()).status.pid
    closing = []
    for _ in range(50):
        closing.append(asyncio.ensure_future(server.aclose()))
        await asyncio.sleep(0)
    await asyncio.wait(closing, return_when=asyncio.FIRST_COMPLETED)
    await until(lambda: not members(group))  # what is killed takes a moment to go
    await asyncio.gather(*closing)


async def test_a_call_that_is_cancelled_ends_at_once_and_leaves_the_others_alone(served):
    async with served() as server:
        pid = (await server.start()).status.pid
        before = asyncio.all_tasks()
        hanging = [asyncio.ensure_future(server.call("hang")) for _ in range(64)]
        other = asyncio.ensure_future(server.call("echo", {"text": "on"}))
        await server.call("echo")
        for each in hanging:
            each.cancel()
        assert (await other).text == "echo: on"
        await asyncio.gather(*hanging, return_exceptions=True)
        assert all(each.cancelled() for each in hanging)
        assert asyncio.all_tasks() <= before
        assert (await server.call("echo", {"text": "x"})).text == "echo: x"
        assert (server.status.pid, server.status.failures) == (pid, 0)


async def test_a_server_that_is_silent_until_the_deadline_of_runs_is_given_up(served, registry):
    def answer(_target, request):
        results = sum(message.role == "tool" for message in request.messages)
        return ["done"] if results == 3 else [tool_call("hang", {})]

    async with registry({"fake": FakeProvider(default=answer)}) as reg:
        async with served("mute", reg=reg) as server:
            tools = await server.tools("hang")
            run = reg.run("fake/m", "?", tools=tools, tool_timeout=0.05)
            ended = [event async for event in run if isinstance(event, ToolEnded)]
            assert server.status.state == "down"
            assert server.status.reason == "it was silent in 3 calls"
    assert all(isinstance(each.error, TimeoutError) for each in ended)


async def test_calls_that_are_cancelled_by_who_made_them_say_nothing_of_the_server(served):
    async with served("mute") as server:
        await server.start()
        for _ in range(4):
            hanging = asyncio.ensure_future(server.call("hang"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            hanging.cancel()
            await asyncio.wait((hanging,))
        assert server.status.state == "up"


async def test_closing_that_is_cancelled_still_ends_the_server(served):
    server = served("stubborn")
    group = (await server.start()).status.pid
    closing = asyncio.ensure_future(server.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await until(lambda: not members(group))
    await server.aclose()


async def test_a_start_goes_on_where_one_of_those_who_wait_is_cancelled(served):
    async with served() as server:
        waiting = [asyncio.ensure_future(server.call("echo", {"text": "a"})) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        assert (await waiting[1]).text == "echo: a"
        assert (await waiting[2]).text == "echo: a"
        assert server.status.starts == 1


async def test_what_a_keeper_that_was_killed_leaves_is_ended(served):
    async with served("stubborn") as server:
        await server.call("spawn")
        group = server.status.pid
        os.kill(group, signal.SIGKILL)
        await until(lambda: not members(group))
        assert (await server.call("echo", {"text": "x"})).text == "echo: x"


ORPHAN = """
import asyncio, sys
from aiollm import Registry

async def main():
    async with Registry(env={}) as reg:
        server = reg.mcp(sys.argv[1])
        await server.call("spawn")
        print(server.status.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_nothing_is_left_where_the_program_is_killed():
    address = f"stdio:{python(SCRIPT, 'stubborn')}"
    root = str(Path(__file__).parents[2])
    program = subprocess.Popen(  # noqa: ASYNC220 - it has its own loop
        [sys.executable, "-c", ORPHAN, address],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
    )
    with waited_for(program):
        group = int(await asyncio.to_thread(program.stdout.readline))
        assert len(members(group)) == 3
        program.kill()
    await until(lambda: not members(group))


def test_a_server_is_killed_where_its_loop_was_closed(served, registry):
    async def start():
        reg = registry()
        server = served(reg=reg)
        await server.start()
        return reg, server, server.status.pid

    with asyncio.Runner() as runner:
        reg, server, group = runner.run(start())
        server.kill()
        runner.run(server._connection._transport.child.gone())
    asyncio.run(until(lambda: not members(group)))  # what is killed takes a moment to go
    asyncio.run(reg.aclose())


def test_a_registry_may_be_used_on_another_loop(served, registry):
    reg = registry()
    server = served(reg=reg)

    async def use():
        return (await server.call("echo", {"text": "x"})).text

    async def last():
        text = await use()
        await reg.aclose()
        return text

    assert asyncio.run(use()) == asyncio.run(last()) == "echo: x"


async def test_what_is_not_a_setting_is_refused(registry):
    async with registry() as reg:
        for options in (
            {"start_timeout": 0},
            {"max_message_bytes": 0},
            {"env": {"A": 1}},
            {"name": "a b"},
        ):
            with pytest.raises(ConfigError):
                reg.mcp("stdio:true", **options)
        with pytest.raises(ConfigError, match="has no headers"):
            reg.mcp("stdio:true", headers={"a": "b"})
        with pytest.raises(TypeError, match="unexpected"):
            reg.mcp("stdio:true", wrong=1)


async def test_a_server_is_found_by_its_name_in_the_environment():
    env = {"AIOLLM_MCP_MY_FILES": f"stdio:A=b {python(SCRIPT, 'ok')}"}
    async with Registry(env=env) as reg, reg.mcp("my-files") as server:
        assert server.name == "my-files"
        assert json.loads((await server.call("env")).text)["A"] == "b"
