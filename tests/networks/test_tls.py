"""TLS of one provider: its own authorities, a client certificate, no checks; clear errors."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import threading
from collections import Counter
from pathlib import Path

import pytest

from aiollm import ConfigError, ConnectError, FailoverError, LocalError, Registry, classify
from aiollm._http import certificates
from aiollm.dsn import Network
from aiollm.testing import FaultServer, Gate, Stale, chat


async def failure(reg: Registry, spec: str = "gw/m") -> Exception:
    with pytest.raises(FailoverError) as caught:
        await reg.generate(spec, "hi")
    return caught.value.last


async def test_a_provider_trusts_its_own_authority_and_another_does_not(serve, registry, pki):
    server = await serve(chat("well"), ssl=pki.context())
    reg = registry({"gw": server.dsn(ca=pki.path("ca.pem")), "plain": server.dsn()})
    assert (await reg.generate("gw/m", "hi")).text == "well"
    error = await failure(reg, "plain/m")
    assert "?ca=FILE" in str(error)
    assert (await reg.generate("gw/m", "hi")).text == "well", "one breaker served two trusts"
    assert server.counts.opened == 2
    assert f"ca {pki.path('ca.pem')}" in reg.describe()


async def test_an_authority_replaces_those_of_the_system(serve, registry, pki):
    server = await serve(chat("well"), ssl=pki.context())
    reg = registry({"gw": server.dsn(ca=pki.path("other-ca.pem"))})
    error = await failure(reg)
    assert f"ca={pki.path('other-ca.pem')}" in str(error)
    assert classify(error).harms == "long"


async def test_a_server_s_own_certificate_may_be_all_that_is_trusted(serve, registry, pki):
    server = await serve(chat("well"), ssl=pki.context())
    stranger = await serve(chat("well"), ssl=pki.context("stranger"))
    own = {"ca": pki.path("server.pem")}
    reg = registry({"gw": server.dsn(**own), "stranger": stranger.dsn(**own)})
    assert (await reg.generate("gw/m", "hi")).text == "well"
    assert "was refused" in str(await failure(reg, "stranger/m"))


async def test_an_authority_that_forgets_a_formality_is_trusted(serve, registry, pki):
    server = await serve(chat("well"), ssl=pki.context("old"))
    reg = registry({"gw": server.dsn(ca=pki.path("old-ca.pem"))})
    assert (await reg.generate("gw/m", "hi")).text == "well"


def test_formalities_are_not_asked_for_on_any_python(pki):
    context, _ = certificates.load_context(Network(ca=pki.path("old-ca.pem")))
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT, "the default from 3.13 on"


async def test_answers_that_come_at_the_same_time_do_not_mix(registry, pki):
    texts = [letter * 300_000 for letter in "abcdefgh"]
    async with FaultServer(*map(chat, texts), ssl=pki.context()) as server:
        reg = registry({"gw": server.dsn(ca=pki.path("ca.pem"))})
        answers = await asyncio.gather(*(reg.generate("gw/m", "hi") for _ in texts))
        assert server.counts.opened == len(texts)
    assert sorted(answer.text for answer in answers) == texts


@pytest.mark.parametrize(
    "files", [{"cert": "me-both.pem"}, {"cert": "me.pem", "key": "me.key"}], ids=["one", "two"]
)
async def test_a_client_certificate_is_shown(serve, registry, pki, files):
    server = await serve(chat("well"), ssl=pki.context(wants_client=True))
    paths = {name: pki.path(file) for name, file in files.items()}
    reg = registry({"gw": server.dsn(ca=pki.path("ca.pem"), **paths)})
    assert (await reg.generate("gw/m", "hi")).text == "well"


async def test_without_checks_there_is_one_warning_and_a_note(serve, registry, pki, caplog):
    server = await serve(chat("well"), ssl=pki.context())
    reg = registry({"gw": server.dsn(verify="off")})
    for _ in range(2):
        assert (await reg.generate("gw/m", "hi")).text == "well"
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("aiollm", "WARNING")
    assert "'gw' is not verified" in record.getMessage()
    assert "verify off" in reg.describe()


async def test_connections_are_shared_only_where_all_settings_are_the_same(serve, registry, pki):
    server = await serve(chat("well"), ssl=pki.context())
    ca = {"ca": pki.path("ca.pem")}
    me = ca | {"cert": pki.path("me-both.pem")}
    reg = registry({"a": server.dsn(**ca), "b": server.dsn(**ca), "c": server.dsn(**me)})
    for spec in ("a/m", "b/m", "c/m", "a/m", "c/m"):
        await reg.generate(spec, "hi")
    assert [each.connection for each in server.requests] == [0, 0, 1, 0, 1]


async def test_the_files_are_read_once_for_many_calls(serve, registry, pki, monkeypatch):
    read = []
    load = certificates.load_context
    monkeypatch.setattr(
        certificates, "load_context", lambda network: read.append(network) or load(network)
    )
    server = await serve(chat("well"), ssl=pki.context())
    reg = registry({"gw": server.dsn(ca=pki.path("ca.pem"))})
    await asyncio.gather(*(reg.generate("gw/m", "hi") for _ in range(20)))
    assert len(read) == 1


def broken(pki, case: str, folder: Path) -> dict[str, str]:
    """Return the options of a mistake."""
    text = folder / "text.pem"
    text.write_text("not a certificate")
    damaged = folder / "damaged.pem"
    lines = Path(pki.path("me-both.pem")).read_text().splitlines()
    damaged.write_text("\n".join([lines[0], lines[1][::-1], *lines[2:]]))
    locked = folder / "locked.pem"
    locked.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    der = folder / "ca.der"
    der.write_bytes(ssl.PEM_cert_to_DER_cert(Path(pki.path("ca.pem")).read_text()))
    me = pki.path("me.pem")
    return {
        "no ca": {"ca": str(folder / "none.pem")},
        "a folder": {"ca": str(folder)},
        "text for ca": {"ca": str(text)},
        "der for ca": {"ca": str(der)},
        "damaged ca": {"ca": str(damaged)},
        "no cert": {"cert": str(folder / "none.pem")},
        "text for cert": {"cert": str(text)},
        "damaged cert": {"cert": str(damaged)},
        "no key in cert": {"cert": me},
        "no key in key": {"cert": me, "key": me},
        "another's key": {"cert": me, "key": pki.path("server.key")},
        "locked key": {"cert": me, "key": str(locked)},
        "expired": {"cert": pki.path("late-both.pem")},
    }[case]


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("no ca", "No such file"),
        ("a folder", "Is a directory"),
        ("text for ca", "no certificate in PEM form"),
        ("der for ca", "openssl x509 -inform der"),
        ("damaged ca", "cannot be read"),
        ("no cert", "No such file"),
        ("text for cert", "no certificate in PEM form"),
        ("damaged cert", "cannot be used"),
        ("no key in cert", "set key=FILE"),
        ("no key in key", "no private key"),
        ("another's key", "does not belong to"),
        ("locked key", "passphrase"),
        ("expired", "expired on"),
    ],
)
async def test_a_broken_file_is_named_before_any_byte(serve, registry, pki, tmp_path, case, reason):
    server = await serve(chat("well"), ssl=pki.context())
    options = broken(pki, case, tmp_path)
    reg = registry({"gw": server.dsn(**options), "ok": server.dsn(ca=pki.path("ca.pem"))})
    error = await failure(reg)
    assert isinstance(error, LocalError)
    assert not error.may_retry
    assert reason in str(error)
    assert any(f"{name}={path}" in str(error) for name, path in options.items())
    assert server.counts.opened == 0
    assert [each.state for each in reg.health()] == ["healthy"]
    assert (await reg.generate("gw/m,ok/m", "hi")).target.provider == "ok"


async def test_a_mended_file_works_at_once(serve, registry, pki, tmp_path):
    server = await serve(chat("well"), ssl=pki.context())
    file = tmp_path / "ca.pem"
    reg = registry({"gw": server.dsn(ca=str(file))})
    await failure(reg)
    file.write_text(Path(pki.path("ca.pem")).read_text())
    assert (await reg.generate("gw/m", "hi")).text == "well"


async def test_an_expired_certificate_is_read_again(serve, registry, pki, tmp_path, monkeypatch):
    server = await serve(chat("well"), ssl=pki.context(wants_client=True))
    file = tmp_path / "me.pem"
    file.write_text(Path(pki.path("me-both.pem")).read_text())
    reg = registry({"gw": server.dsn(ca=pki.path("ca.pem"), cert=str(file))})
    await reg.generate("gw/m", "hi")
    now = certificates.time.time()
    monkeypatch.setattr(certificates.time, "time", lambda: now + 3 * 86400)
    assert "expired on" in str(await failure(reg))
    pki.issue("renewed", days=9)
    file.write_text(Path(pki.path("renewed-both.pem")).read_text())
    assert (await reg.generate("gw/m", "hi")).text == "well"


@pytest.fixture
def picky(pki):
    """Serve TLS as most servers do, which say why they refuse a client."""
    listeners = []

    def start(version: ssl.TLSVersion) -> int:
        context = pki.context(wants_client=True)
        context.maximum_version = version
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                tls = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                with tls, contextlib.suppress(OSError):
                    try:
                        tls.do_handshake()
                    finally:  # it has sent its alert, which a reset would overtake
                        tls.shutdown(socket.SHUT_WR)
                        while tls.recv(65536):
                            pass

        threading.Thread(target=serve, daemon=True).start()
        return listener.getsockname()[1]

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shown", ["", "stranger-both.pem"])
async def test_a_server_that_wants_another_certificate_is_understood(
    picky, registry, pki, version, shown
):
    options = f"ca={pki.path('ca.pem')}" + (f"&cert={pki.path(shown)}" if shown else "")
    reg = registry({"gw": f"openai://k@localhost:{picky(version)}/v1?{options}"})
    error = await failure(reg)
    assert not isinstance(error, LocalError)
    if shown:
        assert f"the server refused cert={pki.path(shown)}: unknown ca" in str(error)
    else:
        assert "set ?cert=FILE" in str(error)


@pytest.mark.parametrize("options", ["ca=/x.pem", "cert=/x.pem", "verify=off"])
def test_tls_settings_of_a_plain_server_are_a_mistake(options):
    with pytest.raises(ConfigError, match="settings of https"):
        Registry(env={"LLM_GW": f"openai+http://h?{options}"}).provider("gw")


async def test_code_sets_them_too(serve, registry, pki):
    server = await serve(chat("well"), ssl=pki.context())
    reg = registry()
    reg.register("gw", server.dsn(), network=Network(ca=Path(pki.path("ca.pem"))))
    assert (await reg.generate("gw/m", "hi")).text == "well"


class Holding:
    """Serves one answer that ends its connection, and then keeps its own side open."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._listener.settimeout(20)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.saw_the_end = False

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        sock.settimeout(20)  # seconds; OpenSSL's farewell alone is not the end
        with sock.dup() as raw, self._context.wrap_socket(sock, server_side=True) as tls:
            asked = b""
            while b'"messages"' not in asked:
                asked += tls.recv(65536)
            body = b'{"choices":[{"message":{"content":"well"},"finish_reason":"stop"}]}'
            head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n"
            tls.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            try:
                while raw.recv(65536):
                    pass
            except ConnectionResetError:
                pass
            except TimeoutError:
                return
            self.saw_the_end = True

    async def end(self) -> None:
        await asyncio.to_thread(self._thread.join)
        self._listener.close()


async def test_a_server_that_never_says_farewell_holds_no_connection(registry, pki):
    server = Holding(pki.context())
    reg = registry({"gw": f"openai://k@localhost:{server.port}/v1?ca={pki.path('ca.pem')}"})
    assert (await reg.generate("gw/m", "hi")).text == "well"
    await server.end()
    assert server.saw_the_end


@pytest.mark.parametrize("record", [b"\x15\x03\x01\x00\x02\x02\x46", b"\x16\x03\x03"])
async def test_plain_http_to_a_server_of_tls_says_so(registry, make_proxy, record):
    async with make_proxy(0, says=record) as server:
        error = await failure(registry({"gw": f"openai+http://k@{server.place}/v1"}))
        assert isinstance(error, ConnectError)
        assert "speaks TLS" in str(error)
        assert classify(error).harms == "long"


async def test_a_crowd_loses_no_call_to_a_server_that_closes_connections_as_it_likes(
    serve, registry, pki
):
    """Each call is answered once, whatever became of the connection that it was sent on."""
    random_one, answered = random.Random(7), Counter()
    opened = Gate(opened=True)

    def answer(request):
        text = request.json()["messages"][-1]["content"]
        said = chat(text)
        ways = [said, said, Stale(said), Stale(said, how="reset"), Stale(said, gate=opened)]
        answered[text] += 1
        return random_one.choice(ways)

    server = await serve(answer, ssl=pki.context())
    reg = registry({"gw": server.dsn(ca=pki.path("ca.pem"))})

    async def ask_one_after_another(number):
        for turn in range(6):
            question = f"{number}.{turn}"
            assert (await reg.generate("gw/m", question)).text == question

    async with asyncio.TaskGroup() as tasks:
        for number in range(32):
            tasks.create_task(ask_one_after_another(number))
    assert set(answered.values()) == {1}
    assert len(answered) == 192 < len(server.requests)
    await reg.aclose()
    await server.wait_closed()
    assert server.counts.open == 0
