"""The pytest plugin, used as its users do: in a pytest run of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

FAILOVER = """
from aiollm.testing import Reset, chat

async def test_failover(fault_server, registry):
    down, up = fault_server(Reset()), fault_server(chat("Hel", "lo"))
    async with registry({"m5": down, "m1": up}) as reg:
        response = await reg.generate("m5/qwen3,m1/qwen3", "hi")
    assert response.text == "Hello"
    assert [attempt.outcome for attempt in response.attempts] == ["failed", "success"]
    assert down.counts.reset_by_server == 1
    await up.wait_closed()
"""

FAKE = """
from aiollm import RateLimitError

async def test_failover(fake_provider, registry):
    down, up = fake_provider(RateLimitError("slow down")), fake_provider("Hello")
    async with registry({"m5": down, "m1": up}) as reg:
        response = await reg.generate("m5/qwen3,m1/qwen3", "hi")
    assert response.text == "Hello"
    assert str(down.calls[0].target) == "m5/qwen3"
"""

REPLAY = """
from aiollm.testing import exchange
import urllib.request

def test_without_a_loop(replay_server):
    server = replay_server(exchange("GET", "/models", b"{}", content_type="application/json"))
    assert urllib.request.urlopen(server.url + "/models").read() == b"{}"

def test_nothing_is_left_of_the_test_before(replay_server):
    assert replay_server().counts.opened == 0
"""

BROKEN = """
import urllib.error
import urllib.request
import pytest

def bug(request):
    raise LookupError("a bug in the script")

def test_script(fault_server):
    server = fault_server(bug)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(server.url)
    caught.value.close()

def test_file(replay_server, tmp_path):
    replay_server(tmp_path / "missing.json")
"""

SHAPE = """
import pytest
from aiollm.testing import Answer, chat

@pytest.mark.parametrize("name", ["fault_server", "replay_server", "fake_provider", "registry"])
def test_an_unknown_keyword_is_a_type_error(name, request):
    with pytest.raises(TypeError, match="unexpected keyword argument 'port'"):
        request.getfixturevalue(name)(port=1)

async def test_scripts_come_one_by_one(fault_server, registry):
    server = fault_server(Answer(503), default=chat("fine"), paths={"/v1/models": Answer(404)})
    async with registry({"m5": server, "m1": server}) as reg:
        assert (await reg.generate("m5/a,m1/a", "hi")).text == "fine"
    assert server.counts.requests == 2
"""


@pytest.fixture
def run(pytester):
    def run(*sources: str):
        pytester.makepyfile(**{f"test_{index}": source for index, source in enumerate(sources)})
        options = ["-p", "aiollm.testing.plugin", "-W", "error", "-p", "no:cacheprovider"]
        mode = ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]
        return pytester.runpytest_subprocess(*options, *mode)

    return run


def test_chains_are_tested_in_ten_lines_and_servers_need_no_loop(run):
    run(FAILOVER, FAKE, REPLAY).assert_outcomes(passed=4)


def test_the_fixtures_have_the_shape_of_the_classes(run):
    run(SHAPE).assert_outcomes(passed=5)


def test_errors_of_a_script_or_a_source_fail_the_test(run):
    result = run(BROKEN)
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["*LookupError: a bug in the script*"])
    result.stdout.fnmatch_lines(["*FileNotFoundError: *missing.json*"])


def test_loading_the_plugin_loads_no_aiohttp_and_none_of_the_kit():
    code = (
        "import sys, aiollm.testing.plugin\n"
        "kit = [n for n in sys.modules if n.startswith('aiollm.testing.') and 'plugin' not in n]\n"
        "print(sorted(kit), 'aiohttp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"
