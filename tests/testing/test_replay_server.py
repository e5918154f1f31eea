"""Recorded exchanges come back byte by byte; what is recorded holds no secret."""

from __future__ import annotations

import asyncio
import base64
from array import array
from pathlib import Path

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm import Ranked, Registry
from aiollm._settings.redactor import Redactor
from aiollm.testing import (
    Answer,
    Cut,
    Exchange,
    FaultServer,
    Gate,
    Recorder,
    ReplayServer,
    Reset,
    Serve,
    chat,
    exchange,
    load_exchanges,
)
from aiollm.testing.cassette import dump, parse_response
from aiollm.testing.http1 import chunk_bytes
from aiollm.testing.masking import mask_body
from aiollm.testing.replay import cut

TESTS = Path(__file__).parent.parent
INDEX = TESTS / "fixtures" / "index.json"
CAPTURES = TESTS / "captures"


async def ask(server, path="/", body=b"", method="POST", headers=None):
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, server.url + path, data=body, headers=headers) as reply,
    ):
        return reply.status, await reply.read()


class TestFixtures:
    @pytest.mark.parametrize("pieces", ["recorded", "whole", 1, 7])
    async def test_a_body_comes_back_however_it_is_cut(self, pieces):
        name = "openai_chat/text_utf8_usage.sse"
        async with ReplayServer(INDEX, names=[name], pieces=pieces) as server:
            status, body = await ask(server, "/v1/chat/completions")
        assert status == 200
        assert body == (INDEX.parent / name).read_bytes()

    def test_every_fixture_of_an_index_parses_to_its_record(self):
        records = msgspec.json.decode(INDEX.read_bytes())
        exchanges = load_exchanges(INDEX)
        assert len(exchanges) == len(records)
        for record, one in zip(records, exchanges, strict=True):
            response = one.parsed()
            assert response.status == record["status"]
            assert response.header("content-type") == record["content_type"]
            assert response.body == (INDEX.parent / record["path"]).read_bytes()
            assert all(response.header(name) == text for name, text in record["headers"].items())

    async def test_status_and_headers_are_those_of_the_record(self):
        async with (
            ReplayServer(INDEX, names=["openai_errors/429_rate_limit.json"]) as server,
            aiohttp.ClientSession() as session,
            session.post(f"{server.url}/v1/chat/completions") as reply,
        ):
            assert reply.status == 429
            assert "retry-after" in reply.headers

    def test_an_unknown_name_is_named(self):
        with pytest.raises(LookupError, match=r"no exchange named nothing\.sse"):
            load_exchanges(INDEX, "nothing.sse")

    def test_another_kind_of_file_is_refused(self, tmp_path):
        (tmp_path / "x.json").write_text("{}")
        with pytest.raises(ValueError, match="neither a cassette nor an index"):
            load_exchanges(tmp_path / "x.json")


class TestCaptures:
    @pytest.mark.parametrize(
        "folder", ["llama-native", "llama-swap", "llama-xllama-tools", "ollama"]
    )
    def test_a_capture_is_kept_byte_by_byte(self, folder):
        captures = load_exchanges(CAPTURES / folder)
        assert captures
        for one in captures:
            raw = (CAPTURES / folder / f"{one.name}.raw").read_bytes()
            assert one.response == raw
            assert one.parsed().body == (CAPTURES / folder / f"{one.name}.body").read_bytes()
            asked = (CAPTURES / folder / f"{one.name}.req").read_bytes()
            assert asked.startswith(f"{one.method} {one.path} HTTP/1.1".encode())
            assert asked.endswith(one.body)

    async def test_a_capture_is_served_as_it_was_received(self, connect):
        path = CAPTURES / "llama-native" / "chat-think-stream.raw"
        async with ReplayServer(path) as server, connect(server) as peer:
            (one,) = server.exchanges
            peer.ask(one.path, one.body, one.method)
            assert await peer.rest() == path.read_bytes()
            assert server.counts.closed_by_server == 1

    def test_pieces_are_cut_where_the_capture_was(self):
        (one,) = load_exchanges(CAPTURES / "llama-native" / "chat-think-stream.raw")
        timing = CAPTURES / "llama-native" / "chat-think-stream.timing.json"
        sizes = [size for _, size in msgspec.json.decode(timing.read_bytes())["recv"]]
        assert [len(piece) for piece in one.pieces] == sizes

    async def test_a_capture_without_a_request_answers_anything(self, tmp_path):
        raw = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        (tmp_path / "x.raw").write_bytes(raw)
        async with ReplayServer(tmp_path / "x.raw") as server:
            assert await ask(server, "/any", method="GET") == (200, b"ok")

    async def test_a_capture_that_was_cut_is_cut_again(self, tmp_path, connect):
        raw = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"
        (tmp_path / "x.raw").write_bytes(raw)
        async with ReplayServer(tmp_path / "x.raw") as server, connect(server) as peer:
            assert server.exchanges[0].parsed().body == b"ok"
            peer.ask()
            assert await peer.rest() == raw

    def test_what_is_no_http_does_not_parse(self):
        with pytest.raises(ValueError, match="not HTTP: 'nonsense'"):
            Exchange("GET", "/", (b"nonsense",)).parsed()
        with pytest.raises(ValueError, match="not an HTTP response"):
            Exchange("GET", "/", (b"HTTP/1.1 100 Continue\r\n\r\n",)).parsed()

    def test_what_comes_before_the_final_head_is_skipped(self):
        pieces = (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n")
        assert Exchange("GET", "/", pieces).parsed().status == 204


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1), st.integers(1, 50))
def test_cutting_anew_changes_no_byte(pieces, size):
    whole = b"".join(pieces)
    for how in ("recorded", "whole", size):
        assert b"".join(cut(pieces, how)) == whole
    assert all(len(piece) == size for piece in list(cut(pieces, size))[:-1])


class TestMatching:
    async def test_exchanges_of_one_path_come_in_order_and_the_last_one_again(self):
        two = [exchange("POST", "/a", b"1"), exchange("POST", "/a", b"2")]
        async with ReplayServer(*two) as server:
            got = [(await ask(server, "/a?key=x"))[1] for _ in range(3)]
        assert got == [b"1", b"2", b"2"]

    async def test_method_and_path_must_fit(self):
        two = [exchange("GET", "/a%20b", b"get"), exchange("POST", "/a%20b", b"post")]
        async with ReplayServer(*two) as server:
            assert (await ask(server, "/a%20b"))[1] == b"post"
            assert (await ask(server, "/a%20b", method="GET"))[1] == b"get"
            status, body = await ask(server, "/c")
            assert status == 404
            assert msgspec.json.decode(body)["error"] == {
                "message": "nothing recorded for POST /c",
                "recorded": ["GET /a%20b", "POST /a%20b"],
            }
            assert server.unmatched == 1

    async def test_a_body_may_have_to_fit_too_as_json_or_as_bytes(self):
        one = Exchange("POST", "/", exchange("", "", b"json").pieces, body=b'{"a": 1, "b": 2}')
        two = Exchange("POST", "/", exchange("", "", b"bytes").pieces, body=b"\xff")
        async with ReplayServer(one, two, match="body") as server:
            assert (await ask(server, body=b'{"b":2,"a":1}'))[1] == b"json"
            assert (await ask(server, body=b"\xff"))[1] == b"bytes"
            assert (await ask(server, body=b"{}"))[0] == 404

    async def test_a_callable_may_decide(self):
        def by_model(request, one):
            return one.name == request.headers["x-case"]

        named = [exchange("POST", "/", name.encode(), name=name) for name in ("a", "b")]
        async with ReplayServer(*named, match=by_model) as server:
            assert (await ask(server, headers={"x-case": "b"}))[1] == b"b"

    async def test_a_gate_stands_before_each_piece(self, connect):
        gate = Gate()
        one = Exchange("POST", "/", (b"HTTP/1.1 200 OK\r\n\r\n", b"a", b"b"), "close")
        async with ReplayServer(one, between=gate) as server, connect(server) as peer:
            peer.ask()
            for piece in (b"HTTP/1.1 200 OK\r\n\r\n", b"a", b"b"):
                gate.let()
                assert await peer.exactly(len(piece)) == piece
            await gate.reached(3)
            assert await peer.rest() == b""

    async def test_a_recorded_reset_is_a_reset(self, connect):
        one = Exchange("POST", "/", (b"HTTP/1.1 200 OK\r\n\r\n",), "reset")
        async with ReplayServer(one) as server, connect(server) as peer:
            peer.ask()
            with pytest.raises(ConnectionResetError):
                await peer.rest()
            assert server.counts.reset_by_server == 1


class TestRecording:
    async def test_what_passes_through_is_what_the_upstream_sent(self, tmp_path):
        path = tmp_path / "deep" / "cassette.json"
        async with (
            FaultServer(default=chat("Hel", "grün")) as upstream,
            Recorder(f"{upstream.url}/base/", path) as proxy,
        ):
            direct = await ask(upstream, "/v1/chat?alt=sse", b'{"a":1}')
            through = await ask(proxy, "/v1/chat?alt=sse", b'{"a":1}')
            again = await ask(proxy, "/v1/models", method="GET")
        assert through == direct == again
        forwarded = upstream.requests[1]
        assert forwarded.raw_path == "/base/v1/chat?alt=sse"
        assert forwarded.body == b'{"a":1}'
        assert forwarded.headers["host"] == f"127.0.0.1:{upstream.port}"
        assert forwarded.headers["accept-encoding"] == "identity"
        assert "content-length" not in upstream.requests[2].headers
        first, second = await asyncio.to_thread(load_exchanges, path)
        assert (first.method, first.path, first.body) == ("POST", "/v1/chat?alt=sse", b'{"a":1}')
        assert (second.method, second.name) == ("GET", "002")
        assert first.parsed().body == direct[1]
        assert len(first.pieces) > 1
        async with ReplayServer(path) as replay:
            assert await ask(replay, "/v1/chat") == direct

    async def test_vectors_and_scores_come_back_number_by_number(self, tmp_path):
        vectors = [array("f", [0.1 * place, -1e-7]) for place in range(3)]
        data = [
            {"index": place, "embedding": base64.b64encode(each.tobytes()).decode()}
            for place, each in enumerate(vectors)
        ]
        ranked = {"results": [{"index": 0, "relevance_score": -3.25}]}
        upstream = FaultServer(Answer(200, {}, {"data": data}), Answer(200, {}, ranked))

        async def ask_both(server):
            async with Registry(env={"LLM_BOX": server.dsn("openai")}, retries=0) as reg:
                found = await reg.embed("box/m", ["one", "two", "three"])
                return found.vectors, (await reg.rerank("box/m", "q", ["a"])).ranked

        async with upstream, Recorder(upstream.url, tmp_path / "c.json") as proxy:
            recorded = await ask_both(proxy)
        async with ReplayServer(tmp_path / "c.json", pieces=1) as server:
            assert await ask_both(server) == recorded == (tuple(vectors), (Ranked(0, -3.25),))

    async def test_keys_cookies_and_identities_are_masked_everywhere(self, tmp_path):
        path = tmp_path / "cassette.json"
        secrets = {
            "Authorization": "Bearer sk-authorization/1",
            "x-api-key": "sk-ant-xapikey",
            "X-Goog-Api-Key": "AIza-goog",
            "Cookie": "session=cookie-jar",
            "OpenAI-Organization": "org-mine",
        }
        echo = " ".join((*secrets.values(), "sk-authorization/1", "query-key", "hunter22"))
        headers = [("Set-Cookie", "id=biscuit"), ("x-echo", "sk-ant-xapikey"), ("cf-ray", "r")]
        headers.append(("location", "/next?key=other-key&x=1"))
        upstream = FaultServer(Answer(200, headers, (echo.encode(), b"sk-ant-", b"xapikey")))
        async with upstream, Recorder(upstream.url, path, secrets=["hunter22"]) as proxy:
            url = "/v1beta/models?alt=sse&key=query-key"
            status, body = await ask(proxy, url, b'{"token":"AIza-goog"}', headers=secrets)
            assert status == 200
            assert echo.encode() in body
        written = path.read_text()
        hidden = ("sk-auth", "sk-ant", "AIza", "cookie-jar", "biscuit", "query-key")
        for word in (*hidden, "other-key", "hunter22", "xapikey"):
            assert word not in written, word
        assert "cf-ray: r" in written
        (one,) = await asyncio.to_thread(load_exchanges, path)
        assert one.path == "/v1beta/models?alt=sse&key=*********"
        assert dict(one.headers)["authorization"] == "***"
        assert dict(one.headers)["openai-organization"] == "***"
        assert one.body == b'{"token":"*********"}'
        whole = parse_response(one.response, "POST")
        assert whole is not None
        assert len(whole.body) == len(body)

    async def test_the_end_of_a_connection_is_recorded(self, tmp_path, connect):
        faults = [Cut(3, Serve(b"0123456789")), Answer(200, {}, b"abc", "close"), Answer()]
        async with (
            FaultServer(*faults) as upstream,
            Recorder(upstream.url, tmp_path / "c.json") as proxy,
        ):
            for _ in faults:
                async with connect(proxy) as peer:
                    peer.ask(extra="connection: close\r\n")
                    await peer.rest()
        recorded = await asyncio.to_thread(load_exchanges, tmp_path / "c.json")
        assert [one.end for one in recorded] == ["close", "close", "keep"]

    async def test_a_reset_is_passed_on_and_recorded(self, tmp_path, connect):
        gate = Gate()
        async with (
            FaultServer(Reset(3, Serve(b"0123456789"), gate)) as upstream,
            Recorder(upstream.url, tmp_path / "c.json") as proxy,
            connect(proxy) as peer,
        ):
            peer.ask()
            await peer.head()
            await peer.exactly(8)
            gate.open()
            with pytest.raises(ConnectionResetError):
                await peer.rest()
        (one,) = await asyncio.to_thread(load_exchanges, tmp_path / "c.json")
        assert one.end == "reset"
        assert one.parsed().body == b"3\r\n012\r\n"

    async def test_an_exchange_that_the_peer_leaves_is_not_recorded(self, tmp_path, connect):
        gate = Gate()
        async with (
            FaultServer(Answer(200, {}, (b"a", gate, b"b"))) as upstream,
            Recorder(upstream.url, tmp_path / "c.json") as proxy,
        ):
            async with connect(proxy) as peer:
                peer.ask()
                await peer.head()
            await upstream.wait_closed()
        assert await asyncio.to_thread(load_exchanges, tmp_path / "c.json") == ()

    async def test_an_upstream_that_refuses_fails_the_block(self, tmp_path):
        async with FaultServer() as nobody:
            with pytest.raises(ConnectionRefusedError):
                async with Recorder(nobody.refused_url(), tmp_path / "c.json") as proxy:
                    assert (await ask(proxy))[0] == 500

    async def test_an_upstream_may_speak_tls(self, tmp_path, server_tls, client_tls):
        async with (
            FaultServer(chat("hi"), ssl=server_tls) as upstream,
            Recorder(upstream.url, tmp_path / "c.json", upstream_ssl=client_tls) as proxy,
        ):
            _, body = await ask(proxy, "/v1/chat/completions")
            assert b"hi" in body

    def test_an_upstream_that_is_no_url_is_refused_without_its_key(self, tmp_path):
        with pytest.raises(ValueError, match="not an http or https URL") as caught:
            Recorder("ftp://x?key=secret", tmp_path / "c.json")
        assert "secret" not in str(caught.value)


@given(st.lists(st.binary(min_size=1, max_size=12)), st.integers(0, 40))
def test_masking_changes_payload_alone_and_keeps_every_length(pieces, lost):
    secret = "s3cret"
    payload = b"".join(pieces) + b" " + secret.encode() + b"end"
    halves = (*pieces, b" ", b"s3c", b"ret", b"end")
    wire = b"".join(map(chunk_bytes, halves)) + b"0\r\n\r\n"
    masked = mask_body(wire, Redactor([secret]), chunked=True)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    whole = parse_response(head + masked, "GET")
    assert whole.body == payload.replace(b"s3cret", b"******")
    cut_off = wire[: len(wire) - lost]
    assert len(mask_body(cut_off, Redactor([secret]), chunked=True)) == len(cut_off)


exchanges = st.builds(
    Exchange,
    method=st.sampled_from(["GET", "POST"]),
    path=st.text(),
    pieces=st.lists(st.binary(min_size=1)).map(tuple),
    end=st.sampled_from(["keep", "close", "reset"]),
    headers=st.lists(st.tuples(st.text(), st.text())).map(tuple),
    body=st.binary(),
    name=st.text(),
)


@given(st.lists(exchanges, max_size=3))
def test_a_cassette_reads_back_as_it_was_written(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("cassettes") / "c.json"
    path.write_bytes(dump(written))
    assert load_exchanges(path) == tuple(written)


async def test_many_readers_are_served_at_once():
    one = exchange("POST", "/", b"x" * 1000)
    async with ReplayServer(one, pieces=10) as server:
        answers = await asyncio.gather(*(ask(server) for _ in range(20)))
    assert answers == [(200, b"x" * 1000)] * 20
