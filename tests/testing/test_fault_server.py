"""Each fault, observed from the other end of a TCP connection."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest

from aiollm.dsn import parse_dsn
from aiollm.testing import (
    Answer,
    Cut,
    End,
    EndlessHeaders,
    FaultServer,
    Flood,
    Gate,
    Hang,
    Pause,
    Raw,
    ReplayServer,
    Reset,
    Serve,
    Stale,
    Trickle,
    Truncate,
    Unsolicited,
    chat,
    html,
    ndjson,
    redirect,
    sse,
)

TEN = Serve(b"0123456789")


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


class TestAnswersWell:
    async def test_a_chat_stream_is_whole_and_ends_with_done(self):
        async with (
            FaultServer(chat("Hel", "lo")) as server,
            aiohttp.ClientSession() as session,
            session.post(f"{server.url}/v1/chat/completions", json={}) as reply,
        ):
            body = await reply.text()
            assert reply.content_type == "text/event-stream"
        events = [line.removeprefix("data: ") for line in body.split("\n\n") if line]
        *frames, done = events
        assert done == "[DONE]"
        decoded = [msgspec.json.decode(frame) for frame in frames]
        deltas = [choice["delta"] for frame in decoded for choice in frame["choices"]]
        assert "".join(delta.get("content", "") for delta in deltas) == "Hello"
        assert decoded[-2]["choices"][0]["finish_reason"] == "stop"
        assert decoded[-1]["usage"]["total_tokens"] == 5

    async def test_status_headers_and_reason_are_those_given(self, connect):
        answer = Answer(429, [("Retry-After", "3"), ("set-cookie", "a=1"), ("set-cookie", "b=2")])
        async with FaultServer(answer) as server, connect(server) as peer:
            peer.ask()
            head, body = await peer.answer()
        assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
        assert b"Retry-After: 3\r\n" in head
        assert head.count(b"set-cookie") == 2
        assert body == b""

    @pytest.mark.parametrize("status", [200, 418, 529, 599])
    async def test_any_status_goes(self, connect, status):
        async with FaultServer(Answer(status)) as server, connect(server) as peer:
            peer.ask()
            assert (await peer.head()).startswith(b"HTTP/1.1 %d " % status)

    @pytest.mark.parametrize(
        ("body", "sent", "kind"),
        [
            (b"\x00\xff", b"\x00\xff", b""),
            ("grün", "grün".encode(), b"text/plain; charset=utf-8"),
            ({"error": "x"}, b'{"error":"x"}', b"application/json"),
            ((b"a", b"bc"), b"abc", b"text/event-stream"),
        ],
    )
    async def test_a_body_may_be_bytes_text_json_or_pieces(self, connect, body, sent, kind):
        async with FaultServer(Answer(200, {}, body)) as server, connect(server) as peer:
            peer.ask()
            head, received = await peer.answer()
        assert received == sent
        assert (b"content-type: " + kind in head) == bool(kind)

    async def test_each_piece_is_one_http_chunk(self, connect):
        async with FaultServer(Answer(200, {}, (b"a", b"bc"))) as server, connect(server) as peer:
            peer.ask()
            await peer.head()
            assert await peer.until(b"0\r\n\r\n") == chunk(b"a") + chunk(b"bc") + b"0\r\n\r\n"

    async def test_an_empty_200_has_length_zero(self, connect):
        async with FaultServer(Answer()) as server, connect(server) as peer:
            peer.ask()
            assert b"content-length: 0" in await peer.head()

    async def test_framing_close_ends_the_body_with_a_fin(self, connect):
        answer = Answer(200, {}, b"abc", "close")
        async with FaultServer(answer) as server, connect(server) as peer:
            peer.ask()
            head = await peer.head()
            assert b"content-length" not in head
            assert b"chunked" not in head
            assert await peer.rest() == b"abc"
            assert server.counts.closed_by_server == 1

    @pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("POST", 204), ("GET", 304)])
    async def test_an_answer_that_has_no_body_by_rule_gets_none(self, connect, method, status):
        two = [Answer(status, {}, (b"x", b"y")), Answer(200, {}, b"next")]
        async with FaultServer(*two) as server, connect(server) as peer:
            peer.ask(method=method)
            await peer.head()
            peer.ask()
            assert (await peer.answer())[1] == b"next"

    async def test_serve_cuts_its_bytes_into_chunks_of_the_size_given(self, connect):
        async with FaultServer(Serve(b"abcde", size=2)) as server, connect(server) as peer:
            peer.ask()
            await peer.head()
            expected = chunk(b"ab") + chunk(b"cd") + chunk(b"e") + b"0\r\n\r\n"
            assert await peer.exactly(len(expected)) == expected

    async def test_gates_and_pauses_may_stand_among_events_and_lines(self, connect):
        gate = Gate(opened=True)
        two = [sse(b"a", Pause(0), "b"), ndjson("{}", gate, "[]")]
        async with FaultServer(*two) as server, connect(server) as peer:
            peer.ask()
            assert (await peer.answer())[1] == b"data: a\n\ndata: b\n\n"
            peer.ask()
            assert (await peer.answer())[1] == b"{}\n[]\n"
            assert gate.arrivals == 1

    async def test_sse_names_events_and_ndjson_ends_lines(self, connect):
        two = [sse(("ping", {"a": 1}), "[DONE]"), ndjson({"done": False}, b'{"done":true}')]
        async with FaultServer(*two) as server, connect(server) as peer:
            peer.ask()
            events = await peer.answer()
            peer.ask()
            lines = await peer.answer()
        assert events[1] == b'event: ping\ndata: {"a":1}\n\ndata: [DONE]\n\n'
        assert lines[1] == b'{"done":false}\n{"done":true}\n'

    async def test_connections_are_kept_alive_unless_the_peer_says_close(self, connect):
        async with FaultServer(default=TEN) as server, connect(server) as peer:
            peer.ask()
            await peer.answer()
            peer.ask(extra="connection: close\r\n")
            await peer.answer()
            assert await peer.rest() == b""
            assert (server.counts.opened, server.counts.requests) == (1, 2)

    async def test_a_page_and_a_redirect_to_another_origin(self, connect):
        answers = [html(), redirect("http://elsewhere.example/v1", 308)]
        async with FaultServer(*answers) as server, connect(server) as peer:
            peer.ask()
            head, page = await peer.answer()
            assert b"text/html" in head
            assert page.startswith(b"<!doctype html>")
            peer.ask()
            head, _ = await peer.answer()
            assert head.startswith(b"HTTP/1.1 308 ")
            assert b"location: http://elsewhere.example/v1\r\n" in head

    async def test_an_error_event_stands_after_the_chunks_and_ends_the_stream(self, connect):
        answer = chat("a", "b", error={"message": "boom", "code": "server_error"})
        async with FaultServer(answer) as server, connect(server) as peer:
            peer.ask()
            _, body = await peer.answer()
        *chunks, error = body.decode().strip().split("\n\n")
        assert len(chunks) == 3
        assert error == 'data: {"error":{"message":"boom","code":"server_error"}}'

    async def test_a_chat_stream_may_lack_finish_usage_and_done(self, connect):
        answer = chat("a", {"tool_calls": []}, finish=None, usage=None, done=False)
        async with FaultServer(answer) as server, connect(server) as peer:
            peer.ask()
            _, body = await peer.answer()
        assert body.count(b"data: ") == 3
        assert b'"delta":{"tool_calls":[]}' in body
        assert b"[DONE]" not in body
        assert b"usage" not in body

    async def test_a_gate_among_the_pieces_holds_the_rest_until_it_opens(self, connect):
        gate = Gate()
        answer = Answer(200, {}, (b"a", gate, b"b"))
        async with FaultServer(answer) as server, connect(server) as peer:
            peer.ask()
            await peer.head()
            assert await peer.exactly(6) == chunk(b"a")
            await gate.reached()
            sent = server.connections[0].sent
            gate.open()
            assert await peer.exactly(6) == chunk(b"b")
            assert server.connections[0].sent > sent


class TestConnecting:
    async def test_a_refused_origin_refuses(self):
        async with FaultServer() as server:
            place = urlsplit(server.refused_url())
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(place.hostname, place.port)
            assert server.refused_url() != server.refused_url()

    async def test_connecting_to_an_unanswered_origin_hangs(self):
        async with FaultServer() as server:
            place = urlsplit(server.unanswered_url())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await asyncio.open_connection(place.hostname, place.port)

    async def test_close_on_connect_is_a_fin_before_any_byte(self, connect):
        async with FaultServer(on_connect="close") as server, connect(server) as peer:
            assert await peer.rest() == b""
            assert server.counts.closed_by_server == 1

    async def test_reset_on_connect_is_a_rst(self, connect):
        async with FaultServer(on_connect="reset") as server:
            with pytest.raises(ConnectionResetError):
                async with connect(server) as peer:
                    await peer.rest()
            assert server.counts.reset_by_server == 1

    async def test_a_deaf_server_stalls_an_upload(self, connect):
        async with FaultServer(on_connect="deaf") as server, connect(server) as peer:
            peer.ask(body=bytes(32 * 1024 * 1024))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await peer.writer.drain()
            assert server.counts.requests == 0

    @pytest.mark.loops
    async def test_a_deaf_server_ignores_what_came_before_it_accepted(self):
        async with FaultServer(on_connect="deaf") as server:
            with socket.create_connection(("127.0.0.1", server.port)) as peer:
                peer.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                while not server.counts.opened:
                    await asyncio.sleep(0)
                for _ in range(20):
                    await asyncio.sleep(0)
                assert server.counts.requests == 0

    async def test_a_server_may_answer_before_the_body_has_come(self, connect):
        answer = Answer(413, {}, b"too large")
        async with FaultServer(answer, read_bodies=False) as server, connect(server) as peer:
            peer.writer.write(b"POST / HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 10)
            assert (await peer.answer())[1] == b"too large"
            peer.writer.write(bytes(999_990))
            await peer.writer.drain()
            assert await peer.rest() == b""
            assert server.requests[0].body == b""

    async def test_ipv6_works_where_the_machine_has_it(self, connect):
        if not socket.has_ipv6:
            pytest.skip("no IPv6")
        async with FaultServer(TEN, host="[::1]") as server, connect(server) as peer:
            assert server.url.startswith("http://[::1]:")
            peer.ask()
            assert (await peer.answer())[1] == b"0123456789"

    async def test_a_dsn_names_the_server_and_quotes_the_token(self):
        async with FaultServer() as server:
            dsn = parse_dsn(server.dsn("anthropic", "a/b@c", "/v1", idle_timeout=0.5))
        assert dsn.base_url() == f"{server.url}/v1"
        assert dsn.token is not None
        assert dsn.token.reveal() == "a/b@c"
        assert dsn.options.idle_timeout == 0.5

    def test_outside_its_block_a_server_has_no_port(self):
        with pytest.raises(RuntimeError, match="not running"):
            _ = FaultServer().url


class TestHanging:
    async def test_before_the_headers_not_a_byte_is_sent(self, connect):
        async with FaultServer(Hang()) as server, connect(server) as peer:
            peer.ask()
            await server.wait_requests()
            peer.writer.close()
            await server.wait_closed()
            assert server.connections[0].sent == 0
            assert server.counts.closed_by_peer == 1

    async def test_after_the_headers_only_they_are_sent(self, connect):
        gate = Gate()
        async with FaultServer(Hang(0, TEN, gate)) as server, connect(server) as peer:
            peer.ask()
            head = await peer.head()
            await gate.reached()
            assert server.connections[0].sent == len(head)

    async def test_after_some_bytes_of_the_body_and_the_rest_follows_the_gate(self, connect):
        gate = Gate()
        async with FaultServer(Hang(4, TEN, gate)) as server, connect(server) as peer:
            peer.ask()
            head = await peer.head()
            assert await peer.exactly(9) == chunk(b"0123")
            await gate.reached()
            assert server.connections[0].sent == len(head) + 9
            gate.open()
            assert await peer.until(b"0\r\n\r\n") == chunk(b"456789") + b"0\r\n\r\n"

    async def test_before_the_headers_a_gate_lets_the_whole_answer_through(self, connect):
        gate = Gate()
        async with FaultServer(Hang(gate=gate, answer=TEN)) as server, connect(server) as peer:
            peer.ask()
            await gate.reached()
            assert server.connections[0].sent == 0
            gate.open()
            assert (await peer.answer())[1] == b"0123456789"

    async def test_headers_never_end(self, connect):
        async with FaultServer(EndlessHeaders()) as server, connect(server) as peer:
            peer.ask()
            assert await peer.reader.readline() == b"HTTP/1.1 200 OK\r\n"
            for number in range(5000):
                assert await peer.reader.readline() == b"x-filler-%d: filler\r\n" % number

    async def test_a_gate_trickles_the_body_byte_by_byte(self, connect):
        gate = Gate()
        async with FaultServer(Trickle(gate, answer=TEN)) as server, connect(server) as peer:
            peer.ask()
            await peer.head()
            for number in range(10):
                await gate.reached(number + 1)
                gate.let()
                assert await peer.exactly(6) == chunk(b"%d" % number)
            assert await peer.exactly(5) == b"0\r\n\r\n"

    async def test_a_trickle_in_seconds_asks_the_sleep_it_was_given(self, connect):
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        trickle = Trickle(7.5, size=4, answer=TEN)
        async with FaultServer(trickle, sleep=sleep) as server, connect(server) as peer:
            peer.ask()
            assert (await peer.answer())[1] == b"0123456789"
        assert slept == [7.5, 7.5, 7.5]

    async def test_comments_come_for_ever(self, connect):
        async with FaultServer(Flood()) as server, connect(server) as peer:
            peer.ask()
            assert b"text/event-stream" in await peer.head()
            for _ in range(1000):
                assert await peer.exactly(19) == chunk(b": keep-alive\n\n")

    async def test_a_flood_stops_while_the_peer_does_not_read(self, connect):
        """The server must not fill memory: it waits for the kernel to take each piece."""
        flood = Flood(bytes(1024 * 1024))
        async with FaultServer(flood) as server, connect(server) as peer:
            peer.writer.transport.pause_reading()
            peer.ask()
            await server.wait_requests()
            sent = 0
            while sent == 0 or sent != server.connections[0].sent:
                sent = server.connections[0].sent
                assert sent < 64 * 1024 * 1024
                await asyncio.sleep(0.05)


class TestBreaking:
    async def test_a_cut_before_the_headers_is_a_fin_without_a_byte(self, connect):
        async with FaultServer(Cut()) as server, connect(server) as peer:
            peer.ask()
            assert await peer.rest() == b""
            assert server.counts.closed_by_server == 1

    @pytest.mark.parametrize("after", [0, 1, 7, 10])
    async def test_a_cut_in_chunks_leaves_out_the_last_chunk(self, connect, after):
        async with FaultServer(Cut(after, TEN)) as server, connect(server) as peer:
            peer.ask()
            await peer.head()
            assert await peer.rest() == (chunk(b"0123456789"[:after]) if after else b"")

    async def test_a_cut_of_a_body_of_known_length_is_short(self, connect):
        answer = Answer(200, {}, b"0123456789")
        async with FaultServer(Cut(3, answer)) as server, connect(server) as peer:
            peer.ask()
            assert b"content-length: 10\r\n" in await peer.head()
            assert await peer.rest() == b"012"

    async def test_a_cut_waits_for_its_gate(self, connect):
        gate = Gate()
        async with FaultServer(Cut(3, TEN, gate)) as server, connect(server) as peer:
            peer.ask()
            await gate.reached()
            assert server.counts.open == 1
            gate.open()
            await peer.head()
            assert await peer.rest() == chunk(b"012")

    async def test_a_truncated_body_is_whole_to_http(self, connect):
        async with FaultServer(Truncate(3, TEN), TEN) as server, connect(server) as peer:
            peer.ask()
            assert (await peer.answer())[1] == b"012"
            peer.ask()
            assert (await peer.answer())[1] == b"0123456789"

    async def test_a_reset_before_the_headers_is_a_rst(self, connect):
        async with FaultServer(Reset()) as server, connect(server) as peer:
            peer.ask()
            with pytest.raises(ConnectionResetError):
                await peer.rest()
            assert server.counts.reset_by_server == 1

    async def test_a_reset_in_the_body_comes_after_its_bytes(self, connect):
        gate = Gate()
        async with FaultServer(Reset(4, TEN, gate)) as server, connect(server) as peer:
            peer.ask()
            await peer.head()
            assert await peer.exactly(9) == chunk(b"0123")
            gate.open()
            with pytest.raises(ConnectionResetError):
                await peer.rest()

    async def test_a_reset_without_a_gate_still_delivers_what_was_sent_before(self):
        """On Linux a RST does not overtake data that the receiver has in its buffer."""
        body = bytes(range(256)) * 100
        reset = Reset(len(body), Serve(body))
        async with FaultServer(reset) as server:
            loop = asyncio.get_running_loop()
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, ("127.0.0.1", server.port))
                await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\n\r\n")
                await server.wait_closed()
                received = b""
                with pytest.raises(ConnectionResetError):
                    while data := await loop.sock_recv(sock, 65536):
                        received += data
        assert body in received

    async def test_raw_steps_are_sent_as_they_are(self, connect):
        raw = Raw((b"HTTP/9 \xff\r\n", Pause(0), b"nonsense", End("close")))
        async with FaultServer(raw) as server, connect(server) as peer:
            peer.ask()
            assert await peer.rest() == b"HTTP/9 \xff\r\nnonsense"

    async def test_raw_may_hang(self, connect):
        async with FaultServer(Raw((b"x", End("hang")))) as server, connect(server) as peer:
            peer.ask()
            assert await peer.exactly(1) == b"x"
            assert server.counts.open == 1


class TestKeptAlive:
    async def test_a_stale_connection_closes_on_idle_when_its_gate_opens(self, connect):
        gate = Gate()
        async with FaultServer(Stale(TEN, gate)) as server, connect(server) as peer:
            peer.ask()
            await peer.answer()
            await gate.reached()
            assert server.counts.open == 1
            gate.open()
            assert await peer.rest() == b""
            assert server.counts.closed_by_server == 1

    @pytest.mark.parametrize("how", ["close", "reset"])
    async def test_a_stale_connection_ends_without_a_byte_when_it_is_used_again(self, connect, how):
        async with FaultServer(Stale(TEN, how=how), TEN) as server:
            async with connect(server) as peer:
                peer.ask()
                await peer.answer()
                peer.ask("/again")
                if how == "close":
                    assert await peer.rest() == b""
                else:
                    with pytest.raises(ConnectionResetError):
                        await peer.rest()
            async with connect(server) as peer:
                peer.ask("/again")
                assert (await peer.answer())[1] == b"0123456789"
            assert [request.connection for request in server.requests] == [0, 0, 1]
            assert server.unscripted == 0

    async def test_a_second_answer_comes_unasked(self, connect):
        gate = Gate()
        fault = Unsolicited(TEN, Answer(200, {}, b"evil"), gate)
        async with FaultServer(fault) as server, connect(server) as peer:
            peer.ask()
            assert (await peer.answer())[1] == b"0123456789"
            gate.open()
            assert (await peer.answer())[1] == b"evil"
            assert server.counts.requests == 1

    async def test_the_test_may_end_all_connections_at_any_moment(self, connect):
        async with (
            FaultServer(default=Hang()) as server,
            connect(server) as one,
            connect(server) as two,
        ):
            one.ask()
            await server.wait_requests()
            await server.wait_opened(2)
            server.drop()
            assert await one.rest() == b""
            assert await two.rest() == b""
            await server.wait_idle()
            assert server.counts.closed_by_server == 2
            async with connect(server) as three:
                three.ask()
                await server.wait_requests(2)
                server.drop("reset")
                with pytest.raises(ConnectionResetError):
                    await three.rest()
            assert server.counts.reset_by_server == 1


class TestScripts:
    async def test_scripts_are_used_in_order_and_then_comes_a_500(self, connect):
        one, two = Answer(200, {}, b"one"), Answer(200, {}, b"two")
        async with FaultServer(one, two) as server, connect(server) as peer:
            answers = []
            for _ in range(3):
                peer.ask()
                answers.append(await peer.answer())
            server.push(Answer(200, {}, b"four"))
            peer.ask()
            answers.append(await peer.answer())
        assert [body for _, body in answers[:2]] == [b"one", b"two"]
        assert answers[2][0].startswith(b"HTTP/1.1 500")
        assert answers[3][1] == b"four"
        assert server.unscripted == 1

    async def test_after_the_scripts_the_default_answers_every_request(self, connect):
        first, rest = Answer(200, {}, b"first"), Answer(200, {}, b"rest")
        async with FaultServer(first, default=rest) as server, connect(server) as peer:
            for expected in (b"first", b"rest", b"rest"):
                peer.ask()
                assert (await peer.answer())[1] == expected
            server.push(Answer(200, {}, b"pushed"))
            for expected in (b"pushed", b"rest"):
                peer.ask()
                assert (await peer.answer())[1] == expected
        assert server.unscripted == 0

    async def test_paths_have_scripts_of_their_own(self, connect):
        scripts = {"/a b": Answer(200, {}, b"a"), "/b": lambda _: Answer(200, {}, b"b")}
        async with FaultServer(paths=scripts) as server, connect(server) as peer:
            for path, expected in (("/a%20b?x=1", b"a"), ("/b", b"b"), ("/a%20b", b"a")):
                peer.ask(path)
                assert (await peer.answer())[1] == expected
            peer.ask("/c")
            assert (await peer.answer())[0].startswith(b"HTTP/1.1 404")
            server.push(Answer(200, {}, b"once"), path="/b")
            peer.ask("/b")
            assert (await peer.answer())[1] == b"once"
            assert server.unscripted == 1

    async def test_one_script_answers_every_request_and_those_of_a_list_one_each(self, connect):
        async with FaultServer(Answer(200, {}, b"a")) as server, connect(server) as peer:
            for _ in range(2):
                peer.ask("/")
                assert (await peer.answer())[1] == b"a"
            assert server.unscripted == 0
        async with FaultServer([Answer(200, {}, b"a")]) as server, connect(server) as peer:
            for expected in (b"200", b"500"):
                peer.ask("/")
                assert expected in (await peer.answer())[0]

    async def test_other_paths_get_the_scripts_that_have_none(self, connect):
        scripts = {"/a": Answer(200, {}, b"a")}
        other = Answer(200, {}, b"other")
        async with FaultServer(other, paths=scripts) as server, connect(server) as peer:
            for path, expected in (("/a", b"a"), ("/b", b"other")):
                peer.ask(path)
                assert (await peer.answer())[1] == expected

    @pytest.mark.parametrize(
        "arguments",
        [
            ("x", {}),
            (["x"], {}),
            (None, {}),
            (TEN, {"default": "x"}),
            (TEN, {"paths": {"/a": [TEN]}}),
        ],
    )
    async def test_what_is_no_script_is_a_type_error(self, arguments):
        script, options = arguments
        with pytest.raises(TypeError, match="is not a script: pass faults"):
            FaultServer(script, **options)
        with pytest.raises(TypeError, match="is not a script: pass faults"):
            FaultServer().push("x")

    async def test_a_function_that_returns_no_fault_fails_the_block(self, connect):
        with pytest.raises(TypeError, match="a script returned None, not a fault"):
            async with FaultServer(lambda _: None) as server, connect(server) as peer:
                peer.ask()
                assert (await peer.head()).startswith(b"HTTP/1.1 500")

    async def test_behaviour_may_change_while_it_runs(self, connect):
        async with FaultServer(default=Answer(500)) as server, connect(server) as peer:
            peer.ask()
            await peer.answer()
            server.behave(Answer(200, {}, b"well"))
            server.behave(Answer(200, {}, b"models"), "/v1/models")
            peer.ask()
            assert (await peer.answer())[1] == b"well"
            peer.ask("/v1/models")
            assert (await peer.answer())[1] == b"models"

    async def test_a_callable_chooses_by_the_request(self, connect):
        def choose(request):
            return Answer(200, {}, request.json()["model"])

        async with FaultServer(choose) as server, connect(server) as peer:
            peer.ask(body=b'{"model":"m1"}')
            assert (await peer.answer())[1] == b"m1"

    async def test_a_script_that_raises_answers_500_and_fails_the_block(self, connect):
        def choose(request):
            raise LookupError("a bug in the script")

        with pytest.raises(LookupError, match="a bug in the script"):
            async with FaultServer(choose) as server, connect(server) as peer:
                peer.ask()
                assert (await peer.head()).startswith(b"HTTP/1.1 500")

    async def test_the_blocks_own_error_is_not_hidden_by_the_scripts(self, connect):
        def choose(request):
            raise LookupError

        with pytest.raises(ZeroDivisionError):
            async with FaultServer(choose) as server, connect(server) as peer:
                peer.ask()
                await peer.head()
                raise ZeroDivisionError


class TestRequests:
    async def test_a_request_is_recorded_as_it_came(self, connect):
        async with FaultServer(TEN) as server, connect(server) as peer:
            before = asyncio.get_running_loop().time()
            peer.ask("/v1/x%2Fy?key=a&b=", b'{"n":1}', extra="X-Api-Key: k\r\nA: 1\r\na: 2\r\n")
            await peer.answer()
        (request,) = server.requests
        assert (request.method, request.path) == ("POST", "/v1/x/y")
        assert request.raw_path == "/v1/x%2Fy?key=a&b="
        assert request.query == {"key": "a", "b": ""}
        assert request.headers["x-api-key"] == "k"
        assert request.headers["a"] == "1, 2"
        assert request.json() == {"n": 1}
        assert b"X-Api-Key: k\r\n" in request.head
        assert request.at >= before

    async def test_a_chunked_body_is_joined_whatever_its_cuts(self, connect):
        sent = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
        sent += b"3;x=1\r\nabc\r\n2\r\nde\r\n0\r\ntrailer: 1\r\n\r\n"
        async with FaultServer(TEN) as server, connect(server) as peer:
            for index in range(len(sent)):
                peer.writer.write(sent[index : index + 1])
                await asyncio.sleep(0)
            await peer.answer()
        assert server.requests[0].body == b"abcde"

    async def test_pipelined_requests_are_answered_in_turn(self, connect):
        queue = [Answer(200, {}, b"one"), Answer(200, {}, b"two")]
        async with FaultServer(*queue) as server, connect(server) as peer:
            peer.ask("/1")
            peer.ask("/2")
            assert (await peer.answer())[1] == b"one"
            assert (await peer.answer())[1] == b"two"

    async def test_a_peer_that_waits_for_100_continue_gets_it(self, connect):
        async with FaultServer(TEN) as server, connect(server) as peer:
            peer.writer.write(
                b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
            )
            assert await peer.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
            peer.writer.write(b"ok")
            await peer.answer()
            assert server.requests[0].body == b"ok"

    @pytest.mark.parametrize(
        "garbage",
        [
            b"\x16\x03\x01\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        ],
    )
    async def test_what_is_no_http_is_answered_400(self, connect, garbage):
        async with FaultServer(TEN) as server, connect(server) as peer:
            peer.writer.write(garbage)
            assert (await peer.rest()).startswith(b"HTTP/1.1 400 ")
            assert server.counts.requests == 0

    async def test_a_body_of_megabytes_arrives(self, connect):
        body = bytes(8 * 1024 * 1024)
        async with FaultServer(TEN) as server, connect(server) as peer:
            peer.ask(body=body)
            await peer.answer()
        assert server.requests[0].body == body


class TestCounts:
    async def test_a_peers_fin_and_a_peers_rst_are_told_apart(self, connect):
        async with FaultServer(Hang()) as server:
            async with connect(server) as peer:
                peer.ask()
                await server.wait_requests()
                peer.writer.close()
                await server.wait_closed(1)
            with socket.socket() as sock:
                sock.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(sock, ("127.0.0.1", server.port))
                await server.wait_opened(2)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await server.wait_closed(2)
            counts = server.counts
        assert (counts.closed_by_peer, counts.reset_by_peer) == (1, 1)
        assert (counts.opened, counts.open, counts.closed) == (2, 0, 2)
        first, second = server.connections
        assert (first.end, first.by, first.requests) == ("closed", "peer", 1)
        assert (second.end, second.by, second.requests) == ("reset", "peer", 0)
        assert first.ended is not None
        assert first.ended >= first.opened

    async def test_a_peer_that_leaves_in_mid_stream_ends_the_script_at_once(self, connect):
        gate = Gate()
        async with FaultServer(Answer(200, {}, (b"a", gate, b"b"))) as server:
            async with connect(server) as peer:
                peer.ask()
                await gate.reached()
            await server.wait_closed()
            sent = server.connections[0].sent
            gate.open()
            await asyncio.sleep(0)
            assert server.connections[0].sent == sent

    async def test_many_connections_are_counted_exactly(self, connect):
        async def visit(server) -> None:
            async with connect(server) as peer:
                peer.ask()
                await peer.answer()

        async with FaultServer(default=TEN) as server:
            await asyncio.gather(*(visit(server) for _ in range(50)))
            await server.wait_closed(50)
            await server.wait_idle()
            counts = server.counts
        assert (counts.opened, counts.closed, counts.requests) == (50, 50, 50)
        assert counts.closed_by_server == 0

    async def test_leaving_the_block_closes_what_is_open_and_counts_it(self, connect):
        async with connect_later(connect) as late:
            async with FaultServer(Hang()) as server:
                peer = await late(server)
                peer.ask()
                await server.wait_requests()
            assert await peer.rest() == b""
            assert server.counts.closed_by_server == 1
            with pytest.raises(ConnectionRefusedError):
                await late(server)

    @pytest.mark.loops
    async def test_leaving_at_once_closes_a_connection_that_was_just_accepted(self, connect):
        async with connect_later(connect) as late:
            async with FaultServer(Hang()) as server:
                peer = await late(server)
            with pytest.raises(ConnectionError):
                if not await peer.rest():
                    raise ConnectionError
            assert server.counts.open == 0

    @pytest.mark.loops
    async def test_a_connection_that_comes_just_as_the_block_ends_is_no_error(self):
        loop, seen = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, context: seen.append(context))
        async with FaultServer() as server:
            for _ in range(3):  # until it accepts
                await asyncio.sleep(0)
            peer = socket.create_connection(("127.0.0.1", server.port))
            await asyncio.sleep(0)
        peer.close()
        await asyncio.sleep(0)
        assert not seen

    async def test_a_wait_that_fails_says_what_was_counted(self):
        async with FaultServer() as server:
            with pytest.raises(TimeoutError, match=r"2 requests; so far Counts\(opened=0"):
                await server.wait_requests(2, within=0.01)

    async def test_a_server_may_be_entered_again(self, connect):
        server = FaultServer(default=TEN)
        for opened in (1, 2):
            async with server, connect(server) as peer:
                peer.ask()
                await peer.answer()
                assert server.counts.opened == opened

    async def test_a_wait_for_what_is_already_so_returns(self):
        async with FaultServer() as server:
            await server.wait_requests(0)
            await server.wait_idle()


class connect_later:  # noqa: N801
    """Connections that outlive the server's block."""

    def __init__(self, connect) -> None:
        self._connect = connect
        self._open: list = []

    async def __aenter__(self):
        return self._one

    async def _one(self, server):
        manager = self._connect(server)
        peer = await manager.__aenter__()
        self._open.append(manager)
        return peer

    async def __aexit__(self, *error) -> None:
        for manager in self._open:
            await manager.__aexit__(None, None, None)


class TestTls:
    async def test_it_speaks_tls(self, server_tls, client_tls):
        async with FaultServer(chat("hi"), ssl=server_tls) as server:
            assert server.url.startswith("https://127.0.0.1:")
            async with (
                aiohttp.ClientSession() as session,
                session.post(server.url, ssl=client_tls) as reply,
            ):
                assert b"hi" in await reply.read()
            await server.wait_closed()
            assert server.counts.closed_by_peer == 1

    async def test_a_cut_and_a_reset_work_under_tls(self, server_tls, client_tls, connect):
        gate = Gate()
        queue = [Cut(3, TEN), Reset(3, TEN, gate)]
        async with FaultServer(*queue, ssl=server_tls) as server:
            async with connect(server, client_tls) as peer:
                peer.ask()
                await peer.head()
                assert await peer.rest() == chunk(b"012")
            async with connect(server, client_tls) as peer:
                peer.ask()
                await peer.head()
                gate.open()
                with pytest.raises(ConnectionResetError):
                    await peer.rest()
            assert server.counts.closed_by_server == 1
            assert server.counts.reset_by_server == 1

    async def test_a_failed_handshake_is_told_apart(self, server_tls, connect):
        async with FaultServer(ssl=server_tls) as server, connect(server) as peer:
            peer.ask()
            await peer.rest()
            await server.wait_closed()
            assert server.connections[0].end == "handshake"

    async def test_leaving_in_the_middle_of_a_handshake_leaves_nothing(self, server_tls, connect):
        async with connect_later(connect) as late:
            async with FaultServer(ssl=server_tls) as server:
                peer = await late(server)
                await server.wait_opened()
            assert await peer.rest() == b""
            assert server.counts.open == 0

    async def test_plain_text_behind_an_https_url_fails_the_peers_handshake(self, client_tls):
        async with FaultServer() as server, aiohttp.ClientSession() as session:
            url = server.url.replace("http:", "https:")
            with pytest.raises((aiohttp.ClientError, TimeoutError)):
                await session.get(url, ssl=client_tls, timeout=aiohttp.ClientTimeout(0.3))


class TestInThread:
    def test_it_serves_from_a_thread_and_waits_work_from_outside(self):
        gate = Gate()

        async def visit(server) -> bytes:
            async with aiohttp.ClientSession() as session, session.get(server.url) as reply:
                first = await reply.content.readexactly(1)
                await gate.reached()
                gate.open()
                rest = await reply.read()
            await server.wait_requests(1)
            return first + rest

        with FaultServer(Answer(200, {}, (b"a", gate, b"b"))).in_thread() as server:
            assert asyncio.run(visit(server)) == b"ab"
        assert server.counts.open == 0

    def test_behaviour_and_connections_may_be_changed_from_outside(self):
        async def visit(server) -> None:
            async with aiohttp.ClientSession() as session:
                server.behave(Hang())
                asking = asyncio.create_task(session.post(server.url))
                await server.wait_requests(1)
                server.drop()
                with pytest.raises(aiohttp.ServerDisconnectedError):
                    await asking
            await server.wait_idle()

        with FaultServer().in_thread() as server:
            asyncio.run(visit(server))
            server.drop()
        assert server.counts.closed_by_server == 1

    def test_an_error_of_its_script_is_raised_when_it_ends(self):
        def choose(request):
            raise LookupError("a bug")

        async def visit(server) -> int:
            async with aiohttp.ClientSession() as session, session.get(server.url) as reply:
                return reply.status

        served = FaultServer(choose).in_thread()
        with pytest.raises(LookupError, match="a bug"), served as server:
            assert asyncio.run(visit(server)) == 500

    def test_a_file_that_is_missing_is_raised_when_it_ends(self, tmp_path):
        served = ReplayServer(tmp_path / "missing.json").in_thread()
        with pytest.raises(FileNotFoundError), served as server:
            assert server.port

    def test_an_error_at_the_start_is_raised(self):
        served = FaultServer(host="192.0.2.1").in_thread()
        with pytest.raises(OSError, match="assign requested address"), served:
            pytest.fail("it must not start")
