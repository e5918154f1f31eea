"""Servers and registries for the tests of headers, TLS, proxies, sockets and tokens."""

from __future__ import annotations

import asyncio
import base64
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest

from aiollm._http import transport
from tests.registries import registries, servers


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait long for the end of an answer: what forwards it shares the loop, and its pauses."""
    monkeypatch.setattr(transport, "DRAIN_SECONDS", 5.0)


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """Start a FaultServer: scripts by path, one for every request, or several in order."""
    async with servers() as start:
        yield start


@pytest.fixture
async def registry() -> AsyncIterator[Callable[..., Any]]:
    """Make a registry of DSNs by name; it ends with the test."""
    async with registries() as make:
        yield make


_STRICT = """
basicConstraints=critical,CA:TRUE
subjectKeyIdentifier=hash
keyUsage=critical,keyCertSign
"""
"""Extensions of an authority that follows RFC 5280 to the letter."""


class Pki:
    """Certificates by openssl in a folder: `name.pem`, `name.key`, and both in `name-both.pem`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("ca", "other-ca"):
            self._authority(name, _STRICT)
        self._authority("old-ca", "basicConstraints=CA:TRUE")  # RFC 5280 wants it to be critical
        self.issue("old", by="old-ca")
        self.issue("server")
        self.issue("me")
        self.issue("late", days=-1)
        self.issue("stranger", by="other-ca")

    def path(self, file: str) -> str:
        return str(self.folder / file)

    def issue(self, name: str, *, by: str = "ca", days: int = 2) -> None:
        request, pem = self.path(f"{name}.csr"), self.path(f"{name}.pem")
        names = self.path("names")
        Path(names).write_text(
            "subjectAltName=DNS:localhost,DNS:gw.test,IP:127.0.0.1\n"
            "authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
        )
        self._openssl("req", *self._new(name), "-out", request)
        sign = partial(self._openssl, "x509", "-req", "-in", request, "-CA", self.path(f"{by}.pem"),
                       "-CAkey", self.path(f"{by}.key"), "-CAcreateserial",
                       "-extfile", names, "-out", pem)  # fmt: skip
        try:
            sign("-days", str(days))
        except subprocess.CalledProcessError:
            if days > 0:
                raise
            # OpenSSL 3.6 takes no days of the past, and those before 3.4 take no dates.
            sign("-not_before", "20200101000000Z", "-not_after", "20200102000000Z")
        key = Path(self.path(f"{name}.key")).read_text()
        Path(self.path(f"{name}-both.pem")).write_text(Path(pem).read_text() + key)

    def context(self, name: str = "server", *, wants_client: bool = False) -> ssl.SSLContext:
        """Return the context of a server."""
        context = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=self.path("ca.pem") if wants_client else None
        )
        context.load_cert_chain(self.path(f"{name}-both.pem"))
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _authority(self, name: str, extensions: str) -> None:
        config = self.path(f"{name}.cnf")
        Path(config).write_text(
            f"[req]\ndistinguished_name=d\nx509_extensions=e\n[d]\n[e]\n{extensions}\n"
        )
        self._openssl("req", "-x509", *self._new(name), "-days", "2", "-config", config,
                      "-out", self.path(f"{name}.pem"))  # fmt: skip

    def _new(self, name: str) -> list[str]:
        return ["-newkey", "rsa:2048", "-nodes", "-keyout", self.path(f"{name}.key"),
                "-subj", f"/CN={name}"]  # fmt: skip

    @staticmethod
    def _openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Return an authority, what it signed, and a stranger's certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return Pki(tmp_path_factory.mktemp("pki"))


class Proxy:
    """Forwards to `port`; `answer` refuses every request with a status; `login` is wanted.

    `headers` are complete lines of a refusal; `says` is sent to everybody in place of HTTP.
    """

    def __init__(
        self,
        port: int,
        *,
        answer: int = 0,
        login: str = "",
        context: ssl.SSLContext | None = None,
        headers: bytes = b"",
        says: bytes | None = None,
    ) -> None:
        self.heads: list[bytes] = []
        self.tunnels = 0
        self._port, self._answer, self._context = port, answer, context
        self._headers, self._says = headers, says
        self._login = base64.b64encode(login.encode())
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    @property
    def place(self) -> str:
        return f"localhost:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._forward(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        wanted = b"proxy-authorization: basic " + self._login.lower()
        if self._says is not None:
            writer.write(self._says)
            writer.close()
            await writer.wait_closed()
            return
        status = self._answer
        if self._login and wanted not in head.lower():
            status = 407
        if status:
            end = self._headers + b"Content-Length: 0\r\n\r\n"
            writer.write(b"HTTP/1.1 %d No\r\n%b" % (status, end))
            await writer.drain()
            await reader.read()
            return
        behind_reader, behind = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.add(behind)
        if head.startswith(b"CONNECT"):
            self.tunnels += 1
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            behind.write(head)
        await asyncio.gather(_copy(reader, behind), _copy(behind_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.transport.abort()


@pytest.fixture
def make_proxy() -> type[Proxy]:
    """Return the class of a small proxy."""
    return Proxy
