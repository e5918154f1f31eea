"""`aiollm fleet` and `aiollm health` show what a fleet's Redis holds, and change nothing in it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from aiollm import Budget, FailoverError, Limits, Price, Request, cli, user
from aiollm._fleet.address import parse_address
from aiollm._fleet.overview import look
from aiollm.cli.session import VENDOR_VARIABLES
from aiollm.testing import Answer, FaultServer, Gate, chat
from tests.fleet.conftest import until
from tests.programs import free_port

MESSAGE = {"role": "assistant", "content": "x"}
ANSWER = {"choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}]}
LISTED = Answer(200, {}, {"data": [{"id": "m"}]})


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in list(os.environ):
        if name.startswith("LLM_") or name in {*VENDOR_VARIABLES, "AIOLLM_FLEET"}:
            monkeypatch.delenv(name)


def answers(request):
    return LISTED if request.path.endswith("/models") else Answer(503)


@pytest.fixture
async def server():
    async with FaultServer(default=answers) as server:
        yield server


async def run(*arguments):
    """Run a command as main does, in a thread, for it makes a loop of its own."""
    return await asyncio.to_thread(cli.main, arguments)


async def opened(reg, spec="a/m"):
    with pytest.raises(FailoverError):
        await reg.generate(spec, "hi", max_wait=0)
    await until(lambda: reg._resources._member.health._known)


async def book(redis, reg, seconds):
    """Book so much more of each limit that some of it is left for a slow machine to show."""
    (key,) = await redis.ask("KEYS", f"*:{reg.fleet.namespace}:*q")
    for field in await redis.ask("HKEYS", key):
        if field.startswith("at|"):
            await redis.ask("HINCRBY", key, field, str(seconds * 10**6))


async def test_limits_and_who_uses_them_are_shown(redis, members, capsys):
    gate = Gate()
    headers = {"x-ratelimit-limit-tokens": "90000"}
    async with FaultServer(Answer(200, headers, ANSWER), chat(gate, "x")) as server:
        url = redis.url
        reg = members(url, {"a": server})
        reg.limit("a", Limits(rpm=600, max_concurrency="auto"))
        await reg._resources._member.open()
        await reg.generate("a/m", "hi")
        call = asyncio.create_task(reg.generate("a/m", "hi"))
        await gate.reached()
        await book(redis, reg, seconds=60)
        assert await run("fleet", url) == cli.OK
        shown = capsys.readouterr().out
        assert re.search(rf" 1: 1 by {re.escape(reg.fleet.process)} +nobody", shown)
        assert await run("fleet", url, "--json") == cli.OK
        (limits,) = json.loads(capsys.readouterr().out)["limits"]
        assert limits["held"] == {reg.fleet.process: 1}
        assert limits["learnt"] == {"m tokens": 90000}
        assert set(limits["booked_for"]) == {"requests", "m tokens"}
        await book(redis, reg, seconds=-60)
        gate.open()
        await call
        server.behave(Answer(429, {"retry-after": "60"}))
        with pytest.raises(FailoverError):
            await reg.generate("a/m", "hi", patience=30)
        await until(lambda: reg.limits()[0].blocked_for)
        assert await run("fleet", url) == cli.OK
        assert re.search(r"0 of 1 +nobody +.* m for [1-6]\d\.\d s", capsys.readouterr().out)


async def test_processes_and_what_they_set_aside_are_shown(redis, members, server, capsys):
    url = redis.url
    regs = [members(url, {"a": server}, cooldown=60) for _ in range(2)]
    for reg in regs:
        await reg._resources._member.open()
    await opened(regs[0])
    assert await run("fleet", url) == cli.OK
    shown = capsys.readouterr().out
    for reg in regs:
        assert re.search(rf"^{re.escape(reg.fleet.process)} +\d\.\d s$", shown, re.MULTILINE)
    host = re.escape(f"127.0.0.1:{server.port}")
    row = rf"^{host} +m +[0-9a-f]{{10}} +OverloadedError 503 +\d+\.\d s +nobody$"
    assert re.search(row, shown, re.MULTILINE), shown
    assert f"the fleet {regs[0].fleet.namespace} at redis://127.0.0.1:{redis.port}/0" in shown


async def test_budgets_are_shown_and_named_where_the_name_is_given(redis, members, capsys):
    url = redis.url
    price = {"usage": {"prompt_tokens": 10, "completion_tokens": 80}}
    async with FaultServer(default=Answer(200, {}, ANSWER | price)) as server:
        reg = members(url, {"a": server}, prices={"a/*": Price(10, 100)})
        budget = Budget(5, name="nightly")
        question = Request((user("hi"),), max_output_tokens=100)
        await reg.generate("a/m", question, budget=budget)
        await until(lambda: not budget.reserved)

    async def shown(*options):
        assert await run("fleet", url, *options) == cli.OK
        return capsys.readouterr().out

    while json.loads(await shown("--json"))["budgets"][0]["spent"] == 0:
        await asyncio.sleep(0.01)
    await reg.aclose()  # gives back what is not spent
    (found,) = json.loads(await shown("--json"))["budgets"]
    assert found == {"id": found["id"], "spent": 0.0081, "held": 0}
    assert re.search(r"^BUDGET +SPENT +HELD", await shown(), re.MULTILINE)
    assert re.search(rf"^{found['id']} +\$0.0081 +\$0$", await shown(), re.MULTILINE)
    named = await shown("--budget", "other", "--budget", "nightly")
    assert re.search(r"^nightly +\$0.0081 +\$0$", named, re.MULTILINE)


async def test_json_has_the_same_facts(redis, members, server, capsys, monkeypatch):
    url = redis.url
    reg = members(url, {"a": server}, cooldown=60)
    await opened(reg)
    monkeypatch.setenv("AIOLLM_FLEET", url)
    assert await run("fleet", "--json") == cli.OK
    found = json.loads(capsys.readouterr().out)
    assert found["namespace"] == reg.fleet.namespace
    assert [each["name"] for each in found["processes"]] == [reg.fleet.process]
    (aside,) = found["set_aside"]
    assert aside["host"] == f"127.0.0.1:{server.port}"
    assert (aside["model"], aside["error"], aside["status"]) == ("m", "OverloadedError", 503)
    assert 0 < aside["reopens_in"] <= 60
    assert (aside["openings"], aside["probed_by"]) == (1, "")


async def unreachable(members, url):
    """Have two machines report a host that refuses connections; return its port."""
    nobody = SimpleNamespace(port=free_port())
    for machine in ("one", "two"):
        reg = members(url, {"a": nobody}, cooldown=60)
        await reg._resources._member.open()
        reg._resources._member.machine = machine
        with pytest.raises(FailoverError):
            await reg.generate("a/m", "hi", max_wait=0)
    known = reg._resources._member.health._known
    await until(lambda: any(key.endswith("}h") for key in known))
    return nobody.port


async def test_a_host_that_two_machines_cannot_reach_is_shown_with_all_models(
    redis, members, capsys
):
    url = redis.url
    port = await unreachable(members, url)
    assert await run("fleet", url) == cli.OK
    shown = capsys.readouterr().out
    assert re.search(rf"^http://127.0.0.1:{port} +all +all +ConnectError +", shown, re.MULTILINE)


async def test_an_empty_fleet_is_no_error(redis, capsys):
    assert await run("fleet", redis.url) == cli.OK
    assert "nothing is set aside" in capsys.readouterr().out


async def test_looking_joins_nothing_and_leaves_nothing(redis, members, server):
    url = redis.url
    reg = members(url, {"a": server}, cooldown=60)
    await opened(reg)
    namespace = reg.fleet.namespace
    before = [await redis.ask("KEYS", f"*:{namespace}*"), reg._resources._member.health._known]
    found = await look(parse_address(url))
    assert [each.name for each in found.processes] == [reg.fleet.process]
    after = [await redis.ask("KEYS", f"*:{namespace}*"), reg._resources._member.health._known]
    assert [sorted(map(str, each)) for each in after] == [sorted(map(str, each)) for each in before]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), cli.USAGE, "AIOLLM_FLEET"),
        (("http://h",), cli.USAGE, "no known scheme"),
        (("redis://127.0.0.1:9",), cli.FAILED, "does not answer"),
        (("redis://u:secret@127.0.0.1:9",), cli.FAILED, "redis://127.0.0.1:9"),
    ],
    ids=["none", "scheme", "away", "password"],
)
async def test_what_is_wrong_is_said_and_the_exit_code_says_it_too(arguments, code, words, capsys):
    assert await run("fleet", *arguments) == code
    shown = capsys.readouterr()
    assert not shown.out
    assert words in shown.err
    assert "secret" not in shown.err


async def test_a_password_that_redis_refuses_is_a_mistake_in_the_settings(own_redis, capsys):
    redis = own_redis("--requirepass", "right")
    assert await run("fleet", f"redis://:wrong@127.0.0.1:{redis.port}") == cli.USAGE
    assert "refuses the user or password" in capsys.readouterr().err


async def test_names_that_others_wrote_cannot_control_the_terminal(redis, capsys):
    url = redis.url
    namespace = url.partition("namespace=")[2].partition("&")[0]
    await redis.ask("ZADD", f"{{aiollm:1:{namespace}}}p", "9e15", "\x1b]0;owned\x07\nfake")
    assert await run("fleet", url) == cli.OK
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert r"]0;owned\nfake" in shown


def test_watching_goes_on_while_redis_is_away_until_it_is_ended(own_redis):
    redis = own_redis()
    command = (sys.executable, "-m", "aiollm", "fleet", redis.url, "--watch", "--json")
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert watching.stdout.readline()
        redis.kill()
        assert "does not answer" in watching.stderr.readline()
        redis.start()
        assert json.loads(watching.stdout.readline())["processes"] == []
        watching.terminate()
        watching.communicate()
        assert watching.returncode == cli.TERMINATED
    finally:
        watching.kill()
        watching.communicate()


async def test_health_shows_what_the_fleet_sets_aside(redis, members, server, capsys, monkeypatch):
    url = redis.url
    await opened(members(url, {"a": server}, cooldown=60))
    monkeypatch.setenv("AIOLLM_FLEET", url)
    monkeypatch.setenv("LLM_A", f"openai+http://secret-key@127.0.0.1:{server.port}/v1")
    monkeypatch.setenv("LLM_B", f"openai+http://another@127.0.0.1:{server.port}/v1")
    assert await run("health", "a", "b") == cli.OK
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.split()[:2] == ["a", "up"]
    assert re.fullmatch(
        r"a  set aside +m +by the fleet: OverloadedError 503, reopens in .* s", second
    )
    assert third.split()[:2] == ["b", "up"]
    assert await run("health", "a", "--json") == cli.OK
    (state,) = json.loads(capsys.readouterr().out)
    assert [each["model"] for each in state["set_aside"]] == ["m"]


async def test_health_does_not_depend_on_redis(server, capsys, monkeypatch):
    monkeypatch.setenv("AIOLLM_FLEET", "redis://127.0.0.1:9")
    monkeypatch.setenv("LLM_A", f"openai+http://key@127.0.0.1:{server.port}/v1")
    assert await run("health", "a") == cli.OK
    shown = capsys.readouterr()
    assert shown.out.split()[:2] == ["a", "up"]
    assert "does not answer" in shown.err


async def test_health_shows_a_host_that_the_fleet_sets_aside_with_any_key(
    redis, members, capsys, monkeypatch
):
    url = redis.url
    port = await unreachable(members, url)
    monkeypatch.setenv("AIOLLM_FLEET", url)
    monkeypatch.setenv("LLM_B", f"openai+http://another@127.0.0.1:{port}/v1")
    assert await run("health", "b") == cli.FAILED
    down, aside = capsys.readouterr().out.splitlines()
    assert down.split()[:2] == ["b", "down"]
    assert re.match("b +set aside +all models +by the fleet: ConnectError, ", aside)
