"""A fleet whose sentinels name the primary finds the next one when that changes."""

from __future__ import annotations

import asyncio

import pytest

from aiollm import Limits
from aiollm._fleet import link, member
from aiollm.testing import FaultServer, chat
from tests.fleet.conftest import Redis, until
from tests.programs import free_port


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(member, "BEAT", 0.05)
    monkeypatch.setattr(link, "RETRY_FIRST", 0.01)
    monkeypatch.setattr(link, "RETRY_MOST", 0.02)


@pytest.fixture
def primary_and_replica(own_redis):
    """Two servers and a sentinel that watches them; none is asked for before it is used."""
    primary = own_redis()
    replica = own_redis(
        "--replicaof", "127.0.0.1", str(primary.port), "--repl-diskless-sync-delay", "0"
    )
    return primary, replica


@pytest.fixture
def sentinel(primary_and_replica, tmp_path):
    primary, _ = primary_and_replica
    folder = tmp_path / "sentinel"
    folder.mkdir()
    config = folder / "sentinel.conf"
    config.write_text(
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds main 60000\n"
        "sentinel failover-timeout main 2000\n"
        "requirepass watcher\n"
    )
    server = Redis(folder, port=free_port(), config=config)
    yield server
    server.kill()


async def replicas(server):
    facts = await server.ask("INFO", "replication")
    return facts["connected_slaves"]


async def test_calls_go_on_when_a_replica_becomes_the_primary(
    primary_and_replica, sentinel, members
):
    primary, replica = primary_and_replica
    while await replicas(primary) != 1:
        await asyncio.sleep(0)
    await sentinel_knows(sentinel)
    nobody = free_port()
    url = (
        f"redis+sentinel://127.0.0.1:{nobody},127.0.0.1:{sentinel.port}/main"
        "?sentinel_password=watcher&timeout=5"
    )
    async with FaultServer(chat("well")) as server:
        reg = members(url, {"a": server})
        reg.limit("a", Limits(rpm=60_000))
        assert (await reg.generate("a/m", "hi")).text == "well"
        assert (reg.fleet.state, reg.fleet.reason) == ("linked", "")
        primary.kill()
        await until(lambda: reg.fleet.state == "away")
        down = ("SENTINEL", "SET", "main", "down-after-milliseconds", "200")
        await sentinel.ask(*down, password="watcher")  # not before: a pause would be an end
        assert (await reg.generate("a/m", "hi")).text == "well"
        await until(lambda: reg.fleet.state == "linked")
        assert (await reg.generate("a/m", "hi")).text == "well"
    assert await replica.ask("ROLE")
    assert (await replica.ask("ROLE"))[0] == "master"
    assert await replica.ask("KEYS", "*q")


async def sentinel_knows(sentinel):
    """Wait until the sentinel has found the replica, without which it promotes none."""
    while not await sentinel.ask("SENTINEL", "REPLICAS", "main", password="watcher"):
        await asyncio.sleep(0)
