"""A provider behind a proxy: by its DSN or the environment, and whose fault a failure is."""

from __future__ import annotations

import socket

import pytest

from aiollm import ConfigError, ConnectError, FailoverError, Registry, classify
from aiollm.testing import FaultServer, chat


@pytest.fixture
async def gateway(serve, pki):
    """Serve https for gw.test, which only the proxy knows."""
    return await serve(chat("well"), ssl=pki.context())


async def failure(reg: Registry, spec: str = "gw/m") -> Exception:
    with pytest.raises(FailoverError) as caught:
        await reg.generate(spec, "hi")
    return caught.value.last


def dsn(pki, proxy: str) -> str:
    return f"openai://5ekret-key@gw.test/v1?ca={pki.path('ca.pem')}&proxy={proxy}"


@pytest.mark.parametrize("password", ["pw", "p%40ss%2Fw:rd"])
async def test_https_goes_through_a_tunnel_that_never_sees_the_key(
    gateway, registry, pki, password, make_proxy
):
    plain = password.replace("%40", "@").replace("%2F", "/")
    async with make_proxy(gateway.port, login=f"me:{plain}") as proxy:
        reg = registry({"gw": dsn(pki, f"http://me:{password}@{proxy.place}")})
        for _ in range(2):
            assert (await reg.generate("gw/m", "hi")).text == "well"
        assert proxy.tunnels == 1, "the connection was not reused"
        assert proxy.heads[0].startswith(b"CONNECT gw.test:443 ")
        assert b"5ekret" not in b"".join(proxy.heads)
        assert "authorization" in gateway.requests[0].headers
        assert "proxy-authorization" not in gateway.requests[0].headers
        assert f"via http://{proxy.place}" in reg.describe()
        assert plain not in reg.describe()


async def test_a_proxy_may_speak_tls_itself(gateway, registry, pki, make_proxy):
    async with make_proxy(gateway.port, context=pki.context()) as proxy:
        reg = registry({"gw": dsn(pki, f"https://{proxy.place}")})
        assert (await reg.generate("gw/m", "hi")).text == "well"
        untrusting = dsn(pki, f"https://{proxy.place}").replace("/ca.pem", "/other-ca.pem")
        reg.register("other", untrusting)
        assert f"that of the proxy https://{proxy.place}" in str(await failure(reg, "other/m"))


async def test_plain_http_is_sent_to_the_proxy_with_its_login(serve, registry, make_proxy):
    server = await serve(chat("well"))
    async with make_proxy(server.port, login="me:pw") as proxy:
        reg = registry({"gw": f"openai+http://k@gw.test/v1?proxy=http://me:pw@{proxy.place}"})
        for _ in range(2):
            assert (await reg.generate("gw/m", "hi")).text == "well"
        assert len(proxy.heads) == 1
        assert server.requests[0].raw_path == "http://gw.test/v1/chat/completions"
        assert all("proxy-authorization" in each.headers for each in server.requests)


@pytest.mark.parametrize(
    ("status", "reason", "harms"),
    [
        (407, "wants a login", "long"),
        (401, "wants a login", "long"),
        (403, "does not let this host through", "long"),
        (429, "is busy", "target"),
        (502, "cannot reach the host", "target"),
        (302, "wants a login to the network on a web page", "target"),
        (511, "wants a login to the network on a web page", "target"),
    ],
)
async def test_a_refusal_of_the_proxy_is_named(
    gateway, registry, pki, status, reason, harms, make_proxy
):
    async with make_proxy(gateway.port, answer=status) as proxy:
        reg = registry({"gw": dsn(pki, f"http://{proxy.place}")})
        error = await failure(reg)
        assert f"the proxy http://{proxy.place} {reason} (HTTP {status})" in str(error)
        assert classify(error).harms == harms
    assert not gateway.requests


@pytest.mark.parametrize("scheme", ["openai", "openai+http"])
async def test_a_wrong_login_says_so_and_is_not_shown(gateway, registry, scheme, make_proxy):
    async with make_proxy(gateway.port, login="me:right") as proxy:
        reg = registry({"gw": f"{scheme}://k@gw.test?proxy=http://me:5ekret@{proxy.place}"})
        error = await failure(reg)
        assert "refuses the login in its URL (HTTP 407)" in str(error)
        assert "5ekret" not in f"{error!r}{error}{reg.describe()}"


@pytest.mark.parametrize("scheme", ["openai", "openai+http"])
@pytest.mark.parametrize(
    ("offers", "hint"),
    [
        (["Negotiate", "NTLM"], "it takes Negotiate or NTLM alone, of which none is supported"),
        (['Digest realm="basic", nonce="x"'], "it takes Digest alone"),
        (["Negotiate", 'Basic realm="corp"'], "write user:password@ before its host"),
        (['Negotiate, NTLM, Basic realm="a, b"'], "write user:password@ before its host"),
        (['Odd "'], "write user:password@ before its host"),
    ],
)
async def test_a_proxy_that_takes_no_password_is_named_so(
    gateway, registry, scheme, offers, hint, make_proxy
):
    headers = b"".join(b"Proxy-Authenticate: %b\r\n" % each.encode() for each in offers)
    async with make_proxy(gateway.port, answer=407, headers=headers) as proxy:
        error = await failure(registry({"gw": f"{scheme}://k@gw.test?proxy=http://{proxy.place}"}))
        assert f"wants a login (HTTP 407): {hint}" in str(error)


@pytest.mark.parametrize(("status", "kind"), [(403, "ConnectError"), (503, "ConnectError"),
                                              (413, "RequestTooLargeError")])  # fmt: skip
async def test_what_squid_answers_to_plain_http_is_its_own(
    gateway, registry, status, kind, make_proxy
):
    headers = b"X-Squid-Error: ERR_SOMETHING 0\r\n"
    async with make_proxy(gateway.port, answer=status, headers=headers) as proxy:
        error = await failure(
            registry({"gw": f"openai+http://k@gw.test?proxy=http://{proxy.place}"})
        )
        assert type(error).__name__ == kind
        assert (f"the proxy http://{proxy.place}" in str(error)) == (kind == "ConnectError")


@pytest.mark.parametrize("scheme", ["openai", "openai+http"])
@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (b"", "closed unanswered"),
        (b"SSH-2.0-x\r\n\r\n", "does not answer in HTTP"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "speaks TLS: write https:// before its host"),
    ],
)
async def test_a_server_that_is_no_http_proxy_is_named(registry, scheme, says, reason, make_proxy):
    async with make_proxy(0, says=says) as proxy:
        error = await failure(registry({"gw": f"{scheme}://k@gw.test?proxy=http://{proxy.place}"}))
        assert type(error) is ConnectError
        assert f"the proxy http://{proxy.place}" in str(error)
        assert reason in str(error)


async def test_a_tunnel_that_is_cut_at_once_names_the_proxy(registry, make_proxy):
    async with make_proxy(0, says=b"HTTP/1.1 200 OK\r\n\r\n") as proxy:
        error = await failure(registry({"gw": f"openai://k@gw.test?proxy=http://{proxy.place}"}))
        assert f"through the proxy http://{proxy.place}" in str(error)


async def test_an_unreachable_proxy_is_at_fault_and_the_direct_way_is_not(
    serve, registry, pki, gateway
):
    direct = gateway.dsn(ca=pki.path("ca.pem"))
    with socket.socket() as bound:  # nobody else gets its port, and it does not listen
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        reg = registry({"gw": f"{direct}&proxy=http://localhost:{port}", "direct": direct})
        error = await failure(reg)
    assert f"the proxy http://localhost:{port} cannot be reached" in str(error)
    assert classify(error).harms == "target", "an outage may pass soon"
    assert (await reg.generate("direct/m", "hi")).attempts[0].queued == 0
    reg.register("lost", "openai://k@gw.test?proxy=http://proxy.invalid")
    assert "name of the proxy http://proxy.invalid" in str(await failure(reg, "lost/m"))


async def test_a_proxy_that_never_answers_meets_the_connect_deadline(registry, pki):
    async with FaultServer(on_connect="deaf") as deaf:
        options = f"connect_timeout=0.2&proxy=http://localhost:{deaf.port}"
        error = await failure(registry({"gw": f"openai://k@gw.test?{options}"}))
        assert "within 0.2 s through the proxy" in str(error)


async def test_other_proxies_never_share_a_connection(serve, registry, make_proxy):
    server = await serve(chat("well"))
    base = f"openai+http://k@localhost:{server.port}/v1"
    async with make_proxy(server.port) as one, make_proxy(server.port) as two:
        ways = [f"?proxy=http://{one.place}", f"?proxy=http://{two.place}", ""]
        reg = registry({name: base + way for name, way in zip("abc", ways, strict=True)})
        for spec in ("a/m", "b/m", "c/m", "a/m"):
            await reg.generate(spec, "hi")
        assert [each.connection for each in server.requests] == [0, 1, 2, 0]


# The environment


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy"])
async def test_the_environment_is_asked_only_where_it_is_trusted(serve, registry, name, make_proxy):
    server = await serve(chat("well"))
    async with make_proxy(server.port) as proxy:
        env = {"LLM_GW": "openai+http://k@gw.invalid/v1", name: proxy.place}
        assert (await registry(env=env, trust_env=True).generate("gw/m", "hi")).text == "well"
        await failure(registry(env=env))
        assert len(proxy.heads) == 1


async def test_the_process_is_asked_where_the_mapping_names_no_proxy(
    serve, registry, monkeypatch, tmp_path, make_proxy
):
    server = await serve(chat("well"))
    netrc = tmp_path / "netrc"
    netrc.write_text("machine gw.invalid login me password 5ekret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with make_proxy(server.port) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.place}")
        monkeypatch.setenv("no_proxy", "")
        reg = registry({"gw": "openai+http://k@gw.invalid/v1"}, trust_env=True)
        assert (await reg.generate("gw/m", "hi")).text == "well"
        assert server.requests[0].headers["authorization"] == "Bearer k", "a .netrc was read"


@pytest.mark.parametrize(
    ("url", "no_proxy", "is_proxied"),
    [
        ("https://gw.corp", "", True),
        ("https://gw.corp", "other.corp, *.lab", True),
        ("https://gw.corp", "*", False),
        ("https://gw.corp", "GW.corp", False),
        ("https://gw.corp", ".corp", False),
        ("https://gw.corp", "*.corp", False),
        ("https://gw.corp", "x,corp", False),
        ("https://gw.corp", "gw.corp.", False),
        ("https://gw.corp", "other.corp gw.corp", False),
        ("https://gw.corp", "other.corp,\n.corp", False),
        ("https://gw.corp", ".", True),
        ("https://gwcorp", "corp", True),
        ("https://gw.corp", "gw.corp:443", False),
        ("https://gw.corp:8443", "gw.corp:443", True),
        ("https://10.1.2.3", "10.0.0.0/8", False),
        ("https://11.1.2.3", "10.0.0.0/8", True),
        ("https://[fd00::1]", "fd00::/8", False),
        ("https://[fd00::1]", "[fd00::1]:443", False),
        ("https://[fd00::1]", "fd00::1", False),
        ("https://gw.corp", "not/anetwork", True),
        ("https://localhost:1", "", False),
        ("https://127.0.0.1:1", "", False),
        ("https://[::1]:1", "", False),
    ],
)
def test_no_proxy_leaves_hosts_out(url, no_proxy, is_proxied):
    env = {
        "HTTPS_PROXY": "proxy:3128",
        "NO_PROXY": no_proxy,
        "LLM_GW": url.replace("https", "openai"),
    }
    found = Registry(env=env, trust_env=True).provider("gw").network.proxy
    assert found == ("http://proxy:3128" if is_proxied else "")


@pytest.mark.parametrize(
    ("env", "proxy"),
    [
        ({"ALL_PROXY": "all:1"}, "http://all:1"),
        ({"all_proxy": "all:1", "ALL_PROXY": "upper:1"}, "http://all:1"),
        ({"ALL_PROXY": "all:1", "HTTPS_PROXY": "https:1"}, "http://https:1"),
        ({"ALL_PROXY": "all:1", "https_proxy": ""}, ""),
        ({"ALL_PROXY": "all:1", "NO_PROXY": "gw.corp"}, ""),
        ({"ALL_PROXY": "socks5://all:1", "HTTPS_PROXY": "https:1"}, "http://https:1"),
    ],
)
def test_all_proxy_is_for_what_has_no_variable_of_its_own(env, proxy):
    reg = Registry(env={**env, "LLM_GW": "openai://k@gw.corp"}, trust_env=True)
    assert reg.provider("gw").network.proxy == proxy


def test_a_provider_keeps_its_own_proxy_and_code_gets_that_of_the_environment():
    env = {"https_proxy": "http://proxy:3128", "LLM_GW": "openai://k@h?proxy=http://own:1"}
    reg = Registry(env=env, trust_env=True)
    assert reg.provider("gw").network.proxy == "http://own:1"
    reg.register("coded", "anthropic://k@h")
    assert reg.provider("coded").network.proxy == "http://proxy:3128"


@pytest.mark.parametrize("name", ["https_proxy", "ALL_PROXY"])
def test_a_proxy_that_is_not_supported_is_named_by_its_variable(name):
    env = {name: "socks5://u:5ekret@h", "LLM_GW": "openai://k@h"}
    with pytest.raises(ConfigError, match=f"{name}: proxy: only proxies that speak") as caught:
        Registry(env=env, trust_env=True).provider("gw")
    assert "5ekret" not in str(caught.value)


def test_a_request_of_cgi_sets_no_proxy():
    env = {"HTTP_PROXY": "evil:1", "REQUEST_METHOD": "GET", "LLM_GW": "openai+http://k@h"}
    assert Registry(env=env, trust_env=True).provider("gw").network.proxy == ""
