"""A wrong setting of a fleet is a clear ConfigError before any request; none shows a password."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aiollm import ConfigError, FailoverError, Registry
from aiollm._fleet.address import parse_address
from aiollm._fleet.overview import look
from aiollm.testing import Answer, FaultServer, chat
from tests.fleet.conftest import until


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "redis",
        "redis://",
        "redis://h:port",
        "redis://h?namespace=",
        "redis://h?namespace=a b",
        "redis://h?namespace=" + "n" * 65,
        "redis://h?timeout=0",
        "redis://h?timeout=soon",
        "redis://h?timeout=nan",
        "redis+sentinel://h:1,i:2",
        "redis+sentinel://h:1,i:2/",
        7,
        b"redis://h",
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_address_is_refused_when_the_registry_is_made(url):
    with pytest.raises(ConfigError, match="fleet"):
        Registry(env={}, fleet=url)


def test_the_address_may_come_from_the_environment():
    assert Registry(env={}).fleet is None
    made = Registry(env={"AIOLLM_FLEET": "redis://u:secret@h/3?namespace=prod"})
    assert made.fleet.place == "redis://h/3"
    assert made.fleet.namespace == "prod"
    assert "secret" not in repr(made.fleet) + repr(made._resources._member.address)
    assert Registry(env={"AIOLLM_FLEET": "redis://h"}, fleet="").fleet is None


@pytest.mark.parametrize(
    ("arguments", "login", "query", "words"),
    [
        (("--requirepass", "right"), ":wrong@", "", "refuses the user or password"),
        (("--requirepass", "right"), "", "", "password"),
        ((), "", "&unheard_of=1", "setting"),
        (("--databases", "1"), "", "db=7", "no database"),
        (("--replicaof", "127.0.0.1 1"), "", "", "read-only replica"),
        (
            ("--user", "u", "on", ">p", "~*", "-@all", "+@connection"),
            "u:p@",
            "",
            "does not let this user",
        ),
    ],
    ids=["wrong password", "no password", "option", "database", "replica", "rights"],
)
async def test_what_only_a_person_can_mend_ends_the_first_call(
    own_redis, members, arguments, login, query, words
):
    redis = own_redis(*arguments)
    path = query.removeprefix("db=") if query.startswith("db=") else "0"
    more = "" if query.startswith("db=") else query
    url = f"redis://{login}127.0.0.1:{redis.port}/{path}?namespace=x{more}"
    async with FaultServer(chat("x")) as server:
        reg = members(url, {"a": server})
        for _ in range(2):
            with pytest.raises(ConfigError, match=words) as caught:
                await reg.generate("a/m", "hi")
            assert "wrong@" not in str(caught.value)
        assert not server.requests


@pytest.mark.parametrize("option", ["protocol=2", "socket_timeout=0.01"])
async def test_options_that_other_clients_need_do_not_break_the_link(redis, members, option):
    async with FaultServer(chat("well")) as server:
        reg = members(f"{redis.url}&{option}", {"a": server})
        assert (await reg.generate("a/m", "hi")).text == "well"
        assert reg.fleet.state == "linked"
        connection = reg._resources._member._link._connection
        assert (connection.protocol, connection.socket_timeout) == (3, None)


async def test_keys_of_another_program_are_named(redis, members):
    url = redis.url
    namespace = url.partition("namespace=")[2].partition("&")[0]
    await redis.ask("SET", f"{{aiollm:1:{namespace}}}p", "mine")
    async with FaultServer(chat("x")) as server:
        with pytest.raises(ConfigError, match="another program"):
            await members(url, {"a": server}).generate("a/m", "hi")


async def test_the_rights_that_the_guide_names_are_enough(own_redis, members):
    page = (Path(__file__).parents[2] / "docs" / "fleet.md").read_text()
    rights = re.search(r"^ACL SETUSER aiollm (.*)$", page, re.MULTILINE)[1].split()
    redis = own_redis("--user", "aiollm", *(each.replace("PASSWORD", "pw") for each in rights))
    url = f"redis://aiollm:pw@127.0.0.1:{redis.port}?namespace=x&timeout=5"
    async with FaultServer(Answer(503)) as server:
        reg = members(url, {"a": server}, cooldown=0.01)
        with pytest.raises(FailoverError):
            await reg.generate("a/m", "hi", max_wait=0)
        await until(lambda: reg._resources._member.health._known)
        server.behave(chat("well"))
        assert (await reg.generate("a/m", "hi")).text == "well"
        await look(parse_address(url))
    assert (reg.fleet.state, reg.fleet.reason) == ("linked", "")
