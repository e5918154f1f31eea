"""Names, schemas, addresses: what is made of what servers and users write."""

from __future__ import annotations

import pytest

from aiollm import ConfigError, FunctionTool, Registry, ServedTool, WebSearch
from aiollm._agent.served_tools import told_apart
from aiollm._mcp.address import Http, Stdio, parse
from aiollm._mcp.schemas import mended
from aiollm._mcp.tools import Remote, valid_name
from aiollm._validation import is_tool_name
from aiollm._wire.schema import json_schema
from aiollm.testing import FakeProvider

OBJECT = {"type": "object", "properties": {}}
STRING = {"type": "string"}


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"type": "object"}, OBJECT),
        ({"type": "object", "$schema": "http://json-schema.org/draft-07/schema#"}, OBJECT),
        ({"type": "object", "required": ["gone"]}, OBJECT),
        ({"type": "object", "required": None}, OBJECT),
        (
            {"type": "object", "properties": {"a": {"type": "array"}, "b": True}},
            {"type": "object", "properties": {"a": {"type": "array", "items": {}}, "b": {}}},
        ),
        (
            {
                "type": "object",
                "oneOf": [
                    {"properties": {"a": STRING, "b": STRING}, "required": ["a", "b"]},
                    {"properties": {"a": STRING, "c": STRING}, "required": ["a"]},
                ],
            },
            {
                "type": "object",
                "properties": {"a": STRING, "b": STRING, "c": STRING},
                "required": ["a"],
            },
        ),
        (
            {
                "type": "object",
                "allOf": [{"properties": {"a": STRING}, "required": ["a"]}, {"required": ["b"]}],
                "properties": {"b": STRING},
            },
            {"type": "object", "properties": {"b": STRING, "a": STRING}, "required": ["a", "b"]},
        ),
        (
            {
                "type": "object",
                "properties": {"n": {"type": "integer", "minimum": 0, "exclusiveMinimum": True}},
            },
            {"type": "object", "properties": {"n": {"type": "integer", "exclusiveMinimum": 0}}},
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"$ref": "#/definitions/a"}},
                "definitions": {"a": STRING},
            },
            {"type": "object", "properties": {"a": STRING}},
        ),
    ],
)
def test_a_schema_is_mended_to_what_providers_take(given, made):
    assert mended(given) == made
    assert json_schema(made) == made


@pytest.mark.parametrize(
    "given",
    [
        {"type": "array"},
        {"type": "object", "properties": {"a": {"$ref": "https://elsewhere"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/definitions/none"}}},
        {"type": "object", "properties": [1]},
        {"type": "object", "properties": {"a": {"anyOf": 3}}},
    ],
)
def test_a_schema_that_cannot_be_mended_is_refused(given):
    with pytest.raises(ConfigError):
        mended(given)


def test_a_schema_that_is_nested_too_deeply_is_refused():
    schema: dict = {"type": "object"}
    for _ in range(5000):
        schema = {"type": "object", "properties": {"a": schema}}
    with pytest.raises(ConfigError):
        mended(schema)


@pytest.mark.parametrize("name", ["a.b", "a/b c", "1", "", "ä", "x" * 100, "-", "files:read"])
def test_any_name_becomes_a_valid_one(name):
    assert is_tool_name(valid_name(name))
    assert is_tool_name(valid_name(name, {valid_name(name)}))
    assert valid_name(name, {valid_name(name)}) != valid_name(name)


def served(name: str, server: str) -> ServedTool:
    async def call(_name, _arguments):
        raise NotImplementedError

    return ServedTool(name, function=Remote(name, call), server=server)


def test_names_of_two_servers_get_the_servers_names_before_them():
    one, two, other = served("read", "files"), served("read", "git"), served("write", "git")
    assert [tool.name for tool in told_apart([one, two, other])] == [
        "files_read",
        "git_read",
        "write",
    ]


def test_a_function_of_the_users_own_keeps_its_name():
    own = FunctionTool("read", function=print)
    assert [tool.name for tool in told_apart([served("read", "files"), own])] == [
        "files_read",
        "read",
    ]


def test_what_the_provider_runs_keeps_its_name():
    tools = told_apart([served("web_search", "files"), WebSearch()])
    assert [tool.name for tool in tools] == ["files_web_search", "web_search"]


def test_one_tool_given_twice_is_there_once():
    tool = served("read", "files")
    assert len(told_apart([tool, tool])) == 1


def test_names_that_collide_again_are_numbered():
    tools = [served("read", "a"), served("read", "a"), served("a_read", "b")]
    names = [tool.name for tool in told_apart(tools)]
    assert len(set(names)) == 3
    assert all(map(is_tool_name, names))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("stdio:npx -y @modelcontextprotocol/server-filesystem /data", "filesystem"),
        ("stdio:npx -y @scope/server-git@1.2.3", "git"),
        ("stdio:uvx mcp-server-time", "time"),
        ("stdio:python3.12 -m mcp_server_git", "git"),
        ("stdio:/usr/bin/node /opt/weather-mcp.js", "weather"),
        ("stdio:docker run -i --rm mcp/fetch", "fetch"),
        ("https://mcp.example.com/mcp", "example"),
        ("http://127.0.0.1:8000/mcp", "mcp"),
    ],
)
def test_a_server_is_named_by_what_it_is(text, name):
    assert parse(text, {})[1] == name


def test_a_name_is_looked_up_in_the_environment():
    env = {"AIOLLM_MCP_MY_FILES": "stdio:TOKEN=$KEY server '/a b'", "KEY": "secret"}
    address, name = parse("my-files", env)
    assert isinstance(address, Stdio)
    assert (name, address.command, dict(address.env)) == (
        "my-files",
        ("server", "/a b"),
        {"TOKEN": "secret"},
    )


def test_a_login_in_a_url_is_a_bearer_token():
    address, _ = parse("https://s%2Fcret@host/mcp?x=1", {})
    assert isinstance(address, Http)
    assert address.url == "https://host/mcp?x=1"
    assert address.token is not None
    assert address.token.reveal() == "s/cret"
    assert "cret" not in repr(address)


@pytest.mark.parametrize(
    "text",
    [
        *("", "stdio:", "stdio:'a", "stdio:A=b", "stdio:A=$NONE x", "https://", "nothing", "a b"),
        *("http://h:99999/", "ftp://host", "stdio:a\0b", "http://ho st/", 7),
    ],
)
def test_a_bad_address_is_refused(text):
    with pytest.raises(ConfigError):
        parse(text, {"AIOLLM_MCP_OTHER": "x"})


def test_an_address_in_the_environment_is_never_shown():
    with pytest.raises(ConfigError) as caught:
        parse("files", {"AIOLLM_MCP_FILES": "secret-thing"})
    assert "AIOLLM_MCP_FILES" in str(caught.value)
    assert "secret-thing" not in str(caught.value)


async def test_a_server_in_place_of_its_tools_says_where_they_are() -> None:
    async with Registry(env={}) as reg:
        reg.register("fake", FakeProvider().provider())
        server = reg.mcp("stdio:no-such-command")
        with pytest.raises(ConfigError, match="McpServer: pass what its tools"):
            reg.run("fake/m", "hi", tools=[server])
