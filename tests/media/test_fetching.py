"""Fetching image URLs: whatever a stranger writes, only public addresses are connected to."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver
from hypothesis import given
from hypothesis import strategies as st

from aiollm import UnsupportedError
from aiollm._http import fetching
from aiollm._http.public_addresses import is_public
from aiollm._http.receiving import connection_factory
from aiollm._http.transport import HttpTransport
from aiollm.testing import Answer, FaultServer, Raw, redirect
from tests.turns import turns

ROOT = Path(__file__).parents[2]
OLDEST = Path(os.environ.get("OLDEST_PYTHON", ROOT / ".venv-oldest" / "bin" / "python"))

PUBLIC = ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1",
    "127.255.255.254", "168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255",
    "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "::ffff:100.64.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::10.0.0.1", "100::1",
    "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:10::1", "2001:db8::1",
    "2002:7f00:1::1", "2002:a00:1::1", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1",
    "fd00:ec2::254", "fe80::1", "fe80::1%1", "fec0::1", "ff02::1", "2606:4700::1%1",
]  # fmt: skip
NOT_WRITTEN_IN_FULL = [
    "127.1", "2130706433", "017700000001", "0", "0x7f.1", "0x7f000001", "0177.0.0.1", "127.0.0.01",
    "127.0.1", "1.1", "134744072", "00.0.0.0", "127.0.0.1.", "127.0.0.256",
    "\uff11\uff12\uff17.0.0.1", "\u2460\u2461\u2466.0.0.1",
]  # fmt: skip
"""What some system reads as an address; the last two are digits in other scripts."""


class Table(AbstractResolver):
    """Answers as DNS would, from a table."""

    def __init__(self, **names):
        self.names = {name.replace("_", "."): found for name, found in names.items()}
        self.asked = []

    async def resolve(self, host, port=0, family=socket.AF_INET):
        self.asked.append(host)
        if host.rstrip(".") not in self.names:
            raise OSError(None, "unknown name")
        return [
            {"hostname": host, "host": each, "port": port, "family": 0, "proto": 0, "flags": 0}
            for each in self.names[host.rstrip(".")]
        ]

    async def close(self):
        pass


class Sockets:
    """Makes sockets that note where they would connect to, and reach a local server instead."""

    def __init__(self, server=None):
        self.places = []
        places = self.places

        class Led(socket.socket):
            def connect(self, address):
                places.append(address[0])
                if server is None:
                    raise ConnectionRefusedError
                super().connect(("127.0.0.1", int(server.url.rpartition(":")[2])))

        self.make = lambda family, kind, protocol: Led(socket.AF_INET, kind, protocol)


@asynccontextmanager
async def world(table, server=None):
    """Open a session in a world of names and one server; yield `fetch`, and where it connected."""
    sockets = Sockets(server)
    session = fetching.public_session(table, sockets.make)

    async def fetch(url):
        return await fetching.fetch(session, url)

    async with session:
        yield fetch, sockets.places


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address):
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC + NOT_WRITTEN_IN_FULL)
def test_every_other_address_is_not(address):
    assert not is_public(address)


@given(st.integers(0, 2**32 - 1))
def test_an_address_in_another_form_is_at_most_as_public_as_itself(number):
    plain = ipaddress.IPv4Address(number)
    for start in ("::", "::ffff:", "64:ff9b::", "64:ff9b:1::", "::ffff:0:"):
        assert is_public(f"{start}{plain}") <= is_public(str(plain))
    assert not is_public(f"2002:{number >> 16:x}:{number & 0xFFFF:x}::1")


@pytest.mark.loops
async def test_others_run_while_an_image_in_very_many_http_chunks_is_fetched():
    """Each of them takes time to parse; asyncio would read 256 KiB of them at once, as uvloop does.

    Each read has more than those from which on the next ones are smaller.
    """
    count, head = 100_000, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = Raw((head + b"1\r\nx\r\n" * count + b"0\r\n\r\n",))
    async with (
        FaultServer(answer) as server,
        world(Table(a_example=["8.8.8.8"]), server) as (fetch, _),
        turns() as seen,
    ):
        assert await fetch("http://a.example/x.png") == b"x" * count
        assert len(seen) >= 30  # 600 kB, of which the first read takes 64 KiB, each other 16


@pytest.mark.loops
async def test_images_are_fetched_over_connections_like_those_to_targets():
    """Which take little at a time, see `test_large_reads.py`."""
    async with FaultServer(default=Answer(200, {}, b"x")) as server:
        session = fetching.public_session(Table(a_example=["8.8.8.8"]), Sockets(server).make)
        async with session:
            await fetching.fetch(session, "http://a.example/x.png")
            ((connection, _),) = next(iter(session.connector._conns.values()))
            assert type(connection) is connection_factory(asyncio.get_running_loop()).func


async def test_a_connection_fetches_one_image_after_the_other():
    async with (
        FaultServer(default=Answer(200, {}, b"image")) as server,
        world(Table(a_example=["8.8.8.8"]), server) as (fetch, places),
    ):
        for _ in range(3):
            assert await fetch("http://a.example/x.png") == b"image"
    assert places == ["8.8.8.8"]


@pytest.mark.parametrize("behind", [b"junk", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake"])
async def test_what_is_behind_an_image_is_not_taken_for_the_next_one(behind):
    first = Raw((b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage" + behind,))
    async with (
        FaultServer(first, default=Answer(200, {}, b"next")) as server,
        world(Table(a_example=["8.8.8.8"]), server) as (fetch, places),
    ):
        assert await fetch("http://a.example/x.png") == b"image"
        assert await fetch("http://a.example/x.png") == b"next"
    assert len(places) == 2


@pytest.mark.parametrize(("size", "joined"), [(100_000, []), (2_000_000, [2_000_000])])
async def test_a_large_image_is_put_together_in_a_thread(size, joined):
    made = []

    class Threads(ThreadPoolExecutor):
        def submit(self, function, /, *args, **named):
            done = super().submit(function, *args, **named)
            made.append(done)
            return done

    asyncio.get_running_loop().set_default_executor(Threads(1))
    image = Answer(200, {}, os.urandom(size))
    async with (
        FaultServer(image) as server,
        world(Table(a_example=["8.8.8.8"]), server) as (fetch, _),
    ):
        assert len(await fetch("http://a.example/x.png")) == size
    assert [len(each.result()) for each in made] == joined


async def test_an_endless_row_of_interim_responses_is_refused():
    flood = Raw((b"HTTP/1.1 100 Continue\r\n\r\n" * 100,))
    async with (
        FaultServer(flood) as server,
        world(Table(a_example=["8.8.8.8"]), server) as (fetch, _),
    ):
        with pytest.raises(UnsupportedError, match=r"a\.example cannot.*64 interim responses"):
            await fetch("http://a.example/x.png")


async def test_no_socket_is_made_for_such_an_address_in_a_url():
    async with world(Table()) as (fetch, places):
        for address in NOT_PUBLIC + NOT_WRITTEN_IN_FULL:
            host = f"[{address.replace('%', '%25')}]" if ":" in address else address
            with pytest.raises(UnsupportedError, match=r"cannot be fetched"):
                await fetch(f"http://{host}:8080/x.png")
    assert places == []


async def test_no_socket_is_made_for_a_name_with_such_an_address():
    table = Table(**{f"e{at}_example": [each] for at, each in enumerate(NOT_PUBLIC)})
    async with world(table) as (fetch, places):
        for name in table.names:
            with pytest.raises(UnsupportedError, match=f"{name} cannot.*its address is not public"):
                await fetch(f"https://{name}/x.png")
    assert places == []


async def test_the_socket_is_the_last_guard():
    """Even where nothing before it looks: a connector may read a host in its own way."""
    async with fetching.public_session(Table()) as session:
        for address in NOT_PUBLIC + NOT_WRITTEN_IN_FULL:
            info = (socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 80))
            with pytest.raises(OSError, match="its address is not public"):
                session.connector._socket_factory(info)


@pytest.mark.parametrize("order", [["8.8.8.8", "10.0.0.1"], ["fd00::1", "8.8.8.8", "8.8.4.4"]])
async def test_a_name_that_mixes_public_and_private_addresses_is_refused(order):
    async with world(Table(mixed_example=order)) as (fetch, places):
        with pytest.raises(UnsupportedError, match="its address is not public"):
            await fetch("https://mixed.example/x.png")
    assert places == []


async def test_a_name_that_changes_its_address_is_checked_at_each_connection():
    table = Table(rebound_example=["8.8.8.8"])
    async with FaultServer(default=Answer(200, {"connection": "close"}, b"x")) as server:
        sockets = Sockets(server)
        async with fetching.public_session(table, sockets.make) as session:
            assert await fetching.fetch(session, "http://rebound.example/") == b"x"
            table.names["rebound.example"] = ["127.0.0.1"]
            session.connector.clear_dns_cache()
            with pytest.raises(UnsupportedError, match="its address is not public"):
                await fetching.fetch(session, "http://rebound.example/")
    assert sockets.places == ["8.8.8.8"]


LOCATIONS = [
    *(f"http://{f'[{each}]' if ':' in each else each}/" for each in NOT_PUBLIC),
    *(f"http://{each}:8080/" for each in NOT_WRITTEN_IN_FULL if each.isascii()),
    "http://inside.example/",
    "//inside.example/",
    "http://user:password@other.example/",
    "http://other.example:25/",
    "http://[::1",
    "http://:80/",
    "file:///etc/passwd",
    "gopher://other.example/",
    "",
]


async def test_a_redirect_is_followed_under_the_same_rules():
    table = Table(first_example=["8.8.8.8"], inside_example=["10.0.0.1"], other_example=["8.8.4.4"])
    async with FaultServer(*(redirect(each, 302) for each in LOCATIONS)) as server:
        async with world(table, server) as (fetch, places):
            for _ in LOCATIONS:
                with pytest.raises(UnsupportedError, match="cannot be fetched"):
                    await fetch("http://first.example/x")
    assert set(places) == {"8.8.8.8"}


async def test_redirects_to_public_places_are_followed_without_cookies_up_to_a_limit():
    table = Table(a_example=["8.8.8.8"], b_example=["8.8.4.4"])
    first = Answer(302, {"location": "http://b.example:8080/p.png", "set-cookie": "a=b"}, b"")
    async with FaultServer(first, default=Answer(200, {}, b"image")) as server:
        async with world(table, server) as (fetch, places):
            assert await fetch("http://a.example./x?y=z") == b"image"
    assert places == ["8.8.8.8", "8.8.4.4"]
    assert [each.headers["host"] for each in server.requests] == ["a.example", "b.example:8080"]
    assert not any("cookie" in each.headers for each in server.requests)
    async with FaultServer(default=redirect("/again", 307)) as server:
        async with world(table, server) as (fetch, places):
            with pytest.raises(UnsupportedError, match="too many redirects"):
                await fetch("http://a.example/")
    assert len(server.requests) == 1 + fetching.FETCH_REDIRECTS


def test_a_redirect_from_https_to_http_is_refused():
    secure, plain = (fetching.URL(f"{scheme}://a.example/") for scheme in ("https", "http"))
    with pytest.raises(OSError, match="from https to http"):
        fetching._checked(plain, secure)
    assert fetching._checked(secure, plain) == secure


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://user@a.example/", "a user name or password"),
        ("http://a.example@127.0.0.1/", "a user name or password"),
        ("http://:secret@a.example/", "a user name or password"),
        ("http://a.example:22/", "port 22 is not one of the web"),
        ("http://a.example:0/", "port 0 is not one of the web"),
        ("http://a.example:99999/", "ValueError"),
        ("http://[::1", "ValueError"),
        ("ftp://a.example/", "not an http or https URL"),
        ("file:///etc/passwd", "not an http or https URL"),
        ("a.example/x", "not an http or https URL"),
        ("http://", "ValueError|not an http or https URL"),
        ("", "not an http or https URL"),
        ("http://%31%32%37.0.0.1/", "not public|ValueError|Error"),
        ("http://" + "a" * 100_000, "Error"),
    ],
)
async def test_a_url_that_cannot_be_meant_is_refused_before_its_name_is_looked_up(url, reason):
    async with world(table := Table(a_example=["8.8.8.8"])) as (fetch, places):
        with pytest.raises(UnsupportedError, match=reason) as caught:
            await fetch(url)
    assert places == []
    assert "a.example" not in table.asked
    assert len(str(caught.value)) < 300
    assert "secret" not in str(caught.value)


async def test_the_limit_on_size_holds_for_what_was_sent_and_nothing_is_unpacked(monkeypatch):
    monkeypatch.setattr(fetching, "FETCH_BYTES", 1000)
    table = Table(a_example=["8.8.8.8"])
    packed = gzip.compress(bytes(1_000_000))
    answers = [
        (Answer(200, {}, bytes(1001)), "larger than 1000 bytes"),
        (Answer(200, {}, bytes(1001), "chunked"), "larger than 1000 bytes"),
        (Answer(200, {"content-encoding": "gzip"}, packed), "compressed"),
        (Answer(206, {}, b"x"), "HTTP 206"),
    ]
    for answer, reason in answers:
        async with FaultServer(default=answer) as server:
            async with world(table, server) as (fetch, _):
                with pytest.raises(UnsupportedError, match=reason):
                    await fetch("http://a.example/")
    async with FaultServer(default=Answer(200, {"content-encoding": "identity"}, b"x")) as server:
        async with world(table, server) as (fetch, _):
            assert await fetch("http://a.example/") == b"x"


async def test_proxies_of_the_environment_are_not_used(monkeypatch):
    """They would look the name up, and connect to an address that nobody has checked."""
    async with FaultServer(default=Answer(200, {}, b"x")) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with world(Table(a_example=["8.8.8.8"])) as (fetch, places):
            with pytest.raises(UnsupportedError, match="ConnectionRefusedError"):
                await fetch("http://a.example/")
    assert places == ["8.8.8.8"]
    assert not proxy.requests


async def test_a_transport_fetches_by_these_rules():
    transport = HttpTransport()
    try:
        for url in ("http://127.0.0.1/x", "http://localhost/x"):
            with pytest.raises(UnsupportedError, match="its address is not public"):
                await transport.fetch(url)
    finally:
        await transport.aclose()


@pytest.mark.skipif(not OLDEST.exists(), reason="scripts/setup oldest makes .venv-oldest")
@pytest.mark.skipif(OLDEST.is_relative_to(sys.prefix), reason="this is the oldest")
@pytest.mark.timeout(120)
def test_all_this_holds_with_the_oldest_versions_that_are_allowed():
    """What aiohttp refuses by itself differs between its versions; what aiollm refuses must not."""
    tests = [__file__, "tests/failover/test_transport.py"]
    command = [OLDEST, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
