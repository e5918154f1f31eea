"""A scripted MCP server in plain JSON-RPC, over its standard streams or over HTTP on loopback.

Run as a script, with how it starts as its only argument; each of its tools misbehaves in one way.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
NAMES = [
    "echo",
    "fail",
    "die",
    "hang",
    "big",
    "big_last",
    "many",
    "deep",
    "bad_result",
    "empty",
    "noise",
    "flood",
    "ask",
    "spawn",
    "env",
    "more",
    "image",
    "pdf",
    "broken_image",
    "audio",
    "link",
    "structured",
    "cut",
    "nan",
    "resource",
    "unknown",
    "secret",
    "half",
    "rpc_error",
    "logs",
    "mumble",
]


def listed(extra: tuple[str, ...] = ()) -> list[dict]:
    schemas = {"echo": SCHEMA}
    return [
        {
            "name": name,
            "description": f"Does {name}.",
            "inputSchema": schemas.get(name, {"type": "object"}),
            "outputSchema": {"type": "object", "required": ["never there"]},
        }
        for name in (*NAMES, *extra)
    ]


def text(words: str, **more: object) -> dict:
    return {"content": [{"type": "text", "text": words}], **more}


def blob(kind: str, data: bytes | str, mime: str) -> dict:
    encoded = data if isinstance(data, str) else base64.b64encode(data).decode()
    return {"content": [{"type": kind, "data": encoded, "mimeType": mime}]}


def embedded(data: bytes, mime: str, uri: str) -> dict:
    held = {"uri": uri, "mimeType": mime, "blob": base64.b64encode(data).decode()}
    return {"content": [{"type": "resource", "resource": held}]}


PLAIN = {
    "fail": lambda _: text("no such file", isError=True),
    "image": lambda _: blob("image", PNG, "image/png"),
    "broken_image": lambda _: blob("image", "not base64!", "image/png"),
    "audio": lambda _: blob("audio", b"RIFF" * 30, "audio/wav"),
    "pdf": lambda _: embedded(b"%PDF-1.4", "application/pdf", "file:///tmp/a.pdf"),
    "resource": lambda _: embedded(b"plain words", "text/plain", "file:///tmp/a.txt"),
    "unknown": lambda _: embedded(b"\0\1", "application/x-thing", "file:///tmp/a.bin"),
    "link": lambda _: {
        "content": [{"type": "resource_link", "name": "a.txt", "uri": "file:///a.txt"}]
    },
    "structured": lambda _: {"content": [], "structuredContent": {"celsius": 21.5}},
    "cut": lambda _: text("half of \ud83d"),
    "nan": lambda _: {"content": [], "structuredContent": {"celsius": float("nan")}},
    "empty": lambda _: {"content": []},
    "bad_result": lambda _: {"content": "no list"},
    "many": lambda _: {"content": [{"type": "text", "text": "x"}] * 1001},
    "deep": lambda _: {"content": [], "structuredContent": {"rows": [1] * 600_000}},
    "env": lambda _: text(json.dumps(dict(os.environ))),
    "big": lambda arguments: text("x" * int(arguments.get("bytes", 10_000_000))),
}


def plain(name: str, arguments: dict) -> dict:
    return PLAIN.get(name, lambda given: text(f"{name}: {given.get('text', '')}"))(arguments)


class Stdio:
    """Answers what comes in, one line after the other."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.extra: tuple[str, ...] = ()
        self.lock = threading.Lock()

    def write(self, message: dict) -> None:
        with self.lock:
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()

    def answer(self, request: dict, result: dict) -> None:
        self.write({"jsonrpc": "2.0", "id": request["id"], "result": result})

    def serve(self) -> None:
        for line in sys.stdin:
            request = json.loads(line)
            match request.get("method"):
                case "initialize":
                    self.initialize(request)
                case "tools/list":
                    self.list(request)
                case "tools/call":
                    self.call(request)
                case _ if "id" in request and "method" in request:
                    error = {"code": -32601, "message": "no such method"}
                    self.write({"jsonrpc": "2.0", "id": request["id"], "error": error})

    def initialize(self, request: dict) -> None:
        if self.mode == "never":
            return
        about = {"name": "fake", "version": "7"}
        known = {"tools": {"listChanged": True}}
        version = request["params"]["protocolVersion"]
        result = {"protocolVersion": version, "capabilities": known, "serverInfo": about}
        self.answer(request, result | {"instructions": "Be kind."})

    def list(self, request: dict) -> None:
        tools = listed(self.extra)
        match self.mode:
            case "pages":
                page = int(request.get("params", {}).get("cursor", 0))
                more = {"nextCursor": str(page + 1)} if page < 2 else {}
                self.answer(request, {"tools": tools[page * 10 : page * 10 + 10], **more})
            case "page":
                tools = [{"name": f"{x}_text_file", "inputSchema": {}} for x in ("read", "list")]
                self.answer(request, {"tools": tools})
            case "odd":
                self.answer(request, {"tools": odd_tools()})
            case _:
                self.answer(request, {"tools": tools})

    def call(self, request: dict) -> None:
        name, arguments = request["params"]["name"], request["params"].get("arguments") or {}
        special = getattr(self, f"do_{name}", None)
        if special is not None:
            special(request, arguments)
        elif name not in ("hang", *([] if self.mode != "mute" else NAMES)):
            self.answer(request, plain(name, arguments))

    def do_die(self, _request: dict, _arguments: dict) -> None:
        os._exit(3)

    def do_big_last(self, request: dict, arguments: dict) -> None:
        result = plain("big", arguments)
        self.write({"result": result, "jsonrpc": "2.0", "id": request["id"]})

    def do_noise(self, request: dict, _arguments: dict) -> None:
        for line in ("Hello!", "", "{", "[1, 2]", '{"jsonrpc": "2.0"}', "\0\0", "null"):
            sys.stdout.write(line + "\n")
        self.answer(request, text("after the noise"))

    def do_mumble(self, _request: dict, _arguments: dict) -> None:
        params = {"level": "info", "data": "still at it"}
        self.write({"jsonrpc": "2.0", "method": "notifications/message", "params": params})

    def do_flood(self, _request: dict, _arguments: dict) -> None:
        while True:
            sys.stdout.write("noise\n" * 1000)

    def do_half(self, request: dict, _arguments: dict) -> None:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": request["id"]})[:-1] + ', "resu')
        sys.stdout.flush()
        os._exit(0)

    def do_rpc_error(self, request: dict, _arguments: dict) -> None:
        error = {"code": -32602, "message": "bad arguments"}
        self.write({"jsonrpc": "2.0", "id": request["id"], "error": error})

    def do_logs(self, request: dict, _arguments: dict) -> None:
        for number in range(20_000):
            params = {"level": "info", "data": number}
            self.write({"jsonrpc": "2.0", "method": "notifications/message", "params": params})
        self.answer(request, text("after the logs"))

    def do_ask(self, _request: dict, _arguments: dict) -> None:
        for number in range(100_000):
            self.write({"jsonrpc": "2.0", "id": f"q{number}", "method": "ping"})

    def do_more(self, request: dict, arguments: dict) -> None:
        self.extra = (*self.extra, str(arguments.get("name", "another")))
        self.write({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        self.answer(request, text("more"))

    def do_spawn(self, request: dict, _arguments: dict) -> None:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.answer(request, text(f"{os.getpid()} {child.pid}"))


def odd_tools() -> list:
    return [
        {"name": "twice", "inputSchema": {"type": "object"}},
        {"name": "twice", "inputSchema": {"type": "object"}},
        {"name": "a.b/c d", "inputSchema": None},
        {"name": "a_b_c_d", "inputSchema": {"properties": {"x": True}}},
        {"name": "x" * 100, "inputSchema": {"type": "object"}},
        {"name": "", "inputSchema": {"type": "object"}},
        {"name": "away", "inputSchema": {"$ref": "https://elsewhere/schema.json"}},
        {"name": "list", "inputSchema": {"type": "array"}},
        {"name": "word", "inputSchema": "object"},
        {"name": "row", "inputSchema": {"properties": ["x"]}},
        {"name": "number", "inputSchema": {"properties": {"x": 7}}},
        {"name": "needs", "inputSchema": {"properties": {"x": {}}, "required": "x", "$schema": 7}},
        {"name": 7, "inputSchema": {"type": "object"}},
        "no tool",
        {"name": "hidden", "inputSchema": {}, "description": "a\U000e0041b\x1b[31m"},
    ]


def run(mode: str) -> None:
    match mode:
        case "exit":
            sys.stderr.write(f"the key is {os.environ.get('KEY')}\n")
            sys.exit(3)
        case "silent":
            time.sleep(600)
        case "garbage":
            while True:
                sys.stdout.write("noise\n" * 1000)
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            Stdio(mode).serve()
            time.sleep(600)
        case "polite":
            Stdio(mode).serve()
            Path(os.environ["GOODBYE"]).write_text("goodbye")
        case _:
            Stdio(mode).serve()


class Server(ThreadingHTTPServer):
    """Says nothing of a client that has gone, which tests do on purpose."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Http:
    """The same server over HTTP; `mode` says how it answers."""

    def __init__(self, mode: str = "json") -> None:
        self.mode = mode
        self.sessions: set[str] = set()
        self.seen: list[dict[str, str]] = []
        self.closing = threading.Event()
        self.connections: set[int] = set()
        """The ports of the clients that are connected."""
        self.kept: set[socket.socket] = set()
        self.hanging = self.notices = self.resumed = 0
        self.deleted = 0
        self.deleting = threading.Event()
        self.late: list[threading.Event] = []
        """Of each call that is answered once the session is being ended: whether it is."""
        self.unknown: tuple[int, bytes] = (404, b"")
        """What it says to a session that it does not know."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                fake.seen.append(dict(self.headers))
                fake.post(self, json.loads(body))

            def setup(self) -> None:
                super().setup()
                fake.connections.add(self.client_address[1])
                fake.kept.add(self.connection)

            def finish(self) -> None:
                fake.connections.discard(self.client_address[1])
                fake.kept.discard(self.connection)
                super().finish()

            def do_GET(self) -> None:
                fake.resumed += "last-event-id" in self.headers
                fake.reply(self, 405)

            def do_DELETE(self) -> None:
                fake.deleted += 1
                fake.deleting.set()
                for late in fake.late:
                    late.wait(5.0)
                fake.reply(self, 200)

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.socket.listen(128)  # its own five would cost those beyond them a second
        self.url = f"http://127.0.0.1:{self.server.server_port}/mcp"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        """Stop, and drop the connections that are kept; idempotent."""
        self.closing.set()
        for each in tuple(self.kept):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def reply(
        self, to: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str
    ) -> None:
        to.send_response(status)
        for name, value in headers.items():
            to.send_header(name.replace("_", "-"), value)
        to.send_header("content-length", str(len(body)))
        to.end_headers()
        to.wfile.write(body)

    def post(self, to: BaseHTTPRequestHandler, request: dict) -> None:
        method = request.get("method")
        if self.mode == "refuse":
            given = to.headers.get("authorization", "")
            self.reply(to, 401, f"who is {given} at {to.path}?".encode(), content_type="text/plain")
        elif method == "notifications/cancelled":
            self.notices += 1
            if self.mode == "deaf":
                self.hang(to, lambda: self.mode == "deaf")
            else:
                self.reply(to, 202)
        elif "id" not in request:
            self.reply(to, 202)
        elif method == "initialize":
            session = f"session-{len(self.seen)}"
            self.sessions.add(session)
            result = {
                "protocolVersion": request["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "fake", "version": "7"},
            }
            self.result(to, request, result, mcp_session_id=session)
        elif method == "server/discover":
            self.reply(to, 404)
        elif to.headers.get("mcp-session-id") not in self.sessions:
            status, body = self.unknown
            self.reply(to, status, body, content_type="application/json")
        elif method == "tools/list":
            self.result(to, request, {"tools": listed()})
        else:
            self.call(to, request)

    def call(self, to: BaseHTTPRequestHandler, request: dict) -> None:
        name, arguments = request["params"]["name"], request["params"].get("arguments") or {}
        match name:
            case "hang":
                self.hanging += 1
                if self.mode == "sse":
                    self.begin(to)
                self.hang(to)
            case "echo" if "late" in arguments:
                answered = threading.Event()
                self.late.append(answered)
                self.deleting.wait(20.0)
                self.result(to, request, plain(name, {"text": "late"}))
                answered.set()
            case "die":
                to.close_connection = True
            case "half":
                to.send_response(200)
                to.send_header("content-type", "application/json")
                to.send_header("content-length", "1000")
                to.end_headers()
                to.wfile.write(b'{"jsonrpc"')
                to.close_connection = True
            case "secret":
                self.reply(to, 500, to.headers["authorization"].encode())
            case "noise":
                self.reply(to, 200, b"<html>", content_type="text/html")
            case _:
                self.result(to, request, plain(name, arguments))

    def begin(self, to: BaseHTTPRequestHandler) -> None:
        """Begin an answer of events that can be asked for again, in the middle of one."""
        to.send_response(200)
        to.send_header("content-type", "text/event-stream")
        to.end_headers()
        to.wfile.write(b'id: 1\ndata: \n\nevent: message\ndata: {"json')

    def hang(self, to: BaseHTTPRequestHandler, holds: Callable[[], bool] = lambda: True) -> None:
        """Say nothing until the client, or the test, ends it; then close the connection."""
        while holds() and not self.closing.is_set():
            if select.select([to.connection], [], [], 0.05)[0]:
                break
        to.close_connection = True

    def result(
        self, to: BaseHTTPRequestHandler, request: dict, result: dict, **headers: str
    ) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode()
        kind = "application/json"
        if self.mode == "sse":
            body, kind = b"event: message\ndata: " + body + b"\n\n", "text/event-stream"
        self.reply(to, 200, body, content_type=kind, **headers)


if __name__ == "__main__":
    run(sys.argv[1])
