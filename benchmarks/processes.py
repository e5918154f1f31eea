"""The processes of a run: the replay server, and a worker for each contender."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from field import HERE, ROOT, Entry, python

TICK = 1 / os.sysconf("SC_CLK_TCK")
PATIENCE = 120.0
"""Seconds a contender has for one order."""

BLAST = 2000


class Server:
    """The replay server, with a certificate for TLS where openssl can make one."""

    def __init__(self, folder: Path) -> None:
        _allow_many_files()
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        made = _certificate(key, certificate)
        pair = [str(certificate), str(key)] if made else []
        self.env = {"SSL_CERT_FILE": str(certificate)} if made else {}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "replay.py"), *pair],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._ports = json.loads(self._process.stdout.readline())

    def root(self, wire: str, *, tls: bool = False) -> str:
        """Return the URL under which a wire is spoken."""
        if tls:
            return f"https://localhost:{self._ports['tls']}/{wire}"
        return f"http://127.0.0.1:{self._ports['plain']}/{wire}"

    def cpu(self) -> float:
        """Return the CPU seconds that the server has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK

    def speed(self, wire: str, streams: int = 50) -> float:
        """Return chunks a second that a socket reads which does nothing else."""
        ask = f"POST /{wire}/events/{BLAST}/x HTTP/1.1\r\nContent-Length: 0\r\n\r\n".encode()
        buffer = memoryview(bytearray(1 << 20))
        with socket.create_connection(("127.0.0.1", self._ports["plain"])) as line:
            began = time.perf_counter()
            for _ in range(streams):
                line.sendall(ask)
                tail = b""
                while tail != b"\r\n0\r\n\r\n":
                    size = line.recv_into(buffer)
                    tail = (tail + bytes(buffer[max(0, size - 7) : size]))[-7:]
            return streams * BLAST / (time.perf_counter() - began)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Worker:
    """A contender in a process of its own; one that does not answer in time is ended."""

    def __init__(self, entry: Entry, wire: str, model: str, root: str, env: dict[str, str]) -> None:
        command = [python(entry), str(HERE / "worker.py")]
        self._process = subprocess.Popen(
            [*command, entry.script, wire, model, root, entry.loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | env | {"PYTHONPATH": str(ROOT)},
        )

    def ask(self, **order: Any) -> dict[str, Any]:
        """Give an order and return its figures, or `error`."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(order) + "\n")
            stdin.flush()
        except OSError:
            return {"error": "it has died"}
        if not select.select([stdout], [], [], PATIENCE)[0]:
            self._process.kill()
            return {"error": f"no answer within {PATIENCE:.0f} s"}
        line = stdout.readline()
        return json.loads(line) if line else {"error": "it died"}

    def close(self) -> None:
        """End it."""
        self.ask(do="close")
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _certificate(key: Path, certificate: Path) -> bool:
    """Make a certificate for localhost; say whether that worked."""
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        " -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    )
    try:
        subprocess.run(
            [*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _allow_many_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
