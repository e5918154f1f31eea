"""DSN: what the settings are, what is refused and why, and that no token ever shows."""

from __future__ import annotations

import copy
import pickle
import re
import traceback
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aiollm._settings.redactor import Redactor
from aiollm.dsn import Dsn, DsnOptions, Secret, parse_dsn
from aiollm.errors import ConfigError
from aiollm.provider import HttpRequest, Provider
from aiollm.providers.ollama.codec import OllamaCodec

KEY = "sk-proj-Ab0_cd-Ef1"


@pytest.mark.parametrize(
    ("text", "dsn"),
    [
        ("openai://api.openai.com", Dsn("openai", "api.openai.com")),
        ("  OpenAI://API.OpenAI.com  ", Dsn("openai", "api.openai.com")),
        (f"openai://{KEY}@api.openai.com", Dsn("openai", "api.openai.com", token=Secret(KEY))),
        ("ollama://gpu1:11434", Dsn("ollama", "gpu1", 11434)),
        ("ollama://k@gpu1:80", Dsn("ollama", "gpu1", 80, token=Secret("k"))),
        ("llama-swap://10.0.0.1:8080", Dsn("llama-swap", "10.0.0.1", 8080)),
        ("llama-swaps://box.lan", Dsn("llama-swaps", "box.lan")),
        ("my_scheme://h", Dsn("my_scheme", "h")),
        ("openai://k@openrouter.ai/api/v1",
         Dsn("openai", "openrouter.ai", path="/api/v1", token=Secret("k"))),
        ("openai://h/api/v1//", Dsn("openai", "h", path="/api/v1")),
        ("openai://h/", Dsn("openai", "h")),
        ("openai://h/a%20b", Dsn("openai", "h", path="/a%20b")),
        ("openai+http://127.0.0.1:8080", Dsn("openai", "127.0.0.1", 8080, secure=False)),
        ("openai+https://h", Dsn("openai", "h", secure=True)),
        ("openai+HTTP://h", Dsn("openai", "h", secure=False)),
        ("openai://[::1]:8080/v1", Dsn("openai", "[::1]", 8080, "/v1")),
        ("openai://[2001:DB8::1]", Dsn("openai", "[2001:db8::1]")),
        ("openai://k@[fe80::1%25eth0]:1", Dsn("openai", "[fe80::1%25eth0]", 1, token=Secret("k"))),
        ("openai://a%40b%2Fc%3Fd%23e%5Cf%25@h", Dsn("openai", "h", token=Secret("a@b/c?d#e\\f%"))),
        ("openai://a@b@c@h", Dsn("openai", "h", token=Secret("a@b@c"))),
        ("openai://user:pass@h:1", Dsn("openai", "h", 1, token=Secret("user:pass"))),
        ("openai://a+b=c&d@h", Dsn("openai", "h", token=Secret("a+b=c&d"))),
        ("openai://@h", Dsn("openai", "h")),
        ("openai://my_box.local.:8080", Dsn("openai", "my_box.local.", 8080)),
        ("openai://xn--mnchen-3ya.de", Dsn("openai", "xn--mnchen-3ya.de")),
    ],
)  # fmt: skip
def test_what_a_dsn_says(text, dsn) -> None:
    assert parse_dsn(text) == dsn


@pytest.mark.parametrize(
    ("text", "plain", "url"),
    [
        ("openai://h", False, "https://h"),
        ("openai://h:8443/v1/", False, "https://h:8443/v1"),
        ("openai+http://h", False, "http://h"),
        ("llama-swap://h", True, "http://h"),
        ("llama-swap+https://h", True, "https://h"),
        (f"openai://{KEY}@[::1]:80/a", False, "https://[::1]:80/a"),
    ],
)
def test_the_base_url_is_https_unless_the_scheme_or_the_dsn_says_otherwise(text, plain, url):
    assert parse_dsn(text).base_url(plain=plain) == url
    if not plain:
        assert parse_dsn(text).base_url() == url


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", DsnOptions()),
        ("max_concurrency=4", DsnOptions(max_concurrency=4)),
        ("connect_timeout=0.5&first_output_timeout=120&idle_timeout=1e2",
         DsnOptions(connect_timeout=0.5, first_output_timeout=120.0, idle_timeout=100.0)),
        ("max_images=0&max_image_bytes=1000&max_image_dimension=2000",
         DsnOptions(max_images=0, max_image_bytes=1000, max_image_dimension=2000)),
        ("api=responses", DsnOptions(api="responses")),
        ("api=chat&", DsnOptions(api="chat")),
        ("rpm=500&tpm=2e5&itpm=1.5&otpm=1&wait=2",
         DsnOptions(rpm=500.0, tpm=200000.0, itpm=1.5, otpm=1.0, wait=2.0)),
        ("max_concurrency=auto", DsnOptions(max_concurrency="auto")),
        ("max%5Fimages=%37", DsnOptions(max_images=7)),
    ],
)  # fmt: skip
def test_options_are_typed(query, options) -> None:
    assert parse_dsn(f"openai://h/v1?{query}").options == options
    assert parse_dsn(f"openai://h?{query}").options == options


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a DSN"),
        (KEY, "not a DSN: expected scheme://"),
        (f"{KEY}@h", "not a DSN"),
        ("openai:h", "not a DSN"),
        ("://h", "the scheme is not a name"),
        (f"{KEY}@http://h", "the scheme is not a name"),
        ("open ai://h", "the scheme is not a name"),
        ("openai+ftp://h", "only \\+http, \\+https or"),
        ("openai+://h", "only \\+http, \\+https or"),
        (f"tok+{KEY}@http://h", "only \\+http, \\+https or"),
        ("openai://", "the host is missing or invalid"),
        ("openai:///v1", "the host is missing or invalid"),
        (f"openai://{KEY}@", "the host is missing or invalid"),
        (f"openai://{KEY}@/v1", "the host is missing or invalid"),
        ("openai://:80", "the host is missing or invalid"),
        ("openai://a..b", "the host is missing or invalid"),
        ("openai://.a", "the host is missing or invalid"),
        ("openai://-a", "the host is missing or invalid"),
        ("openai://a-.b", "the host is missing or invalid"),
        ("openai://a%20b", "the host is missing or invalid"),
        ("openai://" + "x" * 64, "the host is missing or invalid"),
        ("openai://" + "x." * 127 + "x", "the host is missing or invalid"),
        ("openai://[::1", "the host is missing or invalid"),
        ("openai://::1]", "the host is missing or invalid"),
        ("openai://[]", "the host is missing or invalid"),
        ("openai://[zzz]", "the host is missing or invalid"),
        ("openai://[1.2.3.4]", "the host is missing or invalid"),
        ("openai://[::1]x", "the host is missing or invalid"),
        ("openai://[::1]x:80", "the host is missing or invalid"),
        ("openai://::1", "the host is missing or invalid|port"),
        ("openai://h:", "the port"),
        ("openai://[::1]:", "the port"),
        ("openai://h:0", "the port"),
        ("openai://h:65536", "the port"),
        ("openai://h:0000065536", "the port"),
        ("openai://h:-1", "the port"),
        ("openai://h:8o", "the port"),
        ("openai://h:\u0661", "percent-encoded"),
        ("openai://h:80:90", "the port"),
        ("openai://h\u00fc", "percent-encoded"),
        ("openai://h/v1#x", "percent-encoded"),
        ("openai://h/a b", "percent-encoded"),
        ("openai://h\\x", "percent-encoded"),
        ("openai://h\x00", "percent-encoded"),
        ("openai://a b@h", "percent-encoded"),
        ("openai://sk-secret-key", "found an API key where the host should be"),
        ("openai://a#b@h", "percent-encoded"),
        ("openai://a\\b@h", "percent-encoded"),
        ("openai://a/b@h", "'@' after the host"),
        ("openai://a?b@h", "'@' after the host"),
        ("openai://k@h/a@b", "'@' after the host"),
        ("openai://a%0Ab@h", "control byte"),
        ("openai://a%00b@h", "control byte"),
        ("openai://a%7Fb@h", "control byte"),
        ("openai://%C3%A9@h", "outside ASCII"),
        ("openai://%FF@h", "outside ASCII"),
        ("openai://h?max_image=3", "unknown option 'max_image'; did you mean 'max_images'"),
        ("openai://h?zzz=3", r"unknown option 'zzz' \(known: max_concurrency, "),
        (f"openai://h?{KEY}", r"unknown option \(known"),
        (f"openai://h?{KEY}=x", r"unknown option \(known"),
        ("openai://h?sekret", r"unknown option \(known"),
        ("openai://h?api=chat&api=chat", "'api' is set twice"),
        ("openai://h?api=images", "'api': expected 'chat' or 'responses'"),
        ("openai://h?api=", "'api': expected 'chat' or 'responses'"),
        ("openai://h?max_images", "'max_images': expected an integer from 0 to 1e9"),
        ("openai://h?max_images=1.5", "'max_images': expected an integer from 0"),
        ("openai://h?max_images=-1", "'max_images': expected an integer from 0"),
        ("openai://h?max_image_bytes=0", "'max_image_bytes': expected an integer from 1"),
        ("openai://h?idle_timeout=0", "'idle_timeout': expected a number from 0.001 to 1e9"),
        ("openai://h?idle_timeout=nan", "'idle_timeout': expected a number from 0.001 to 1e9"),
        ("openai://h?idle_timeout=inf", "'idle_timeout': expected a number from 0.001 to 1e9"),
        ("openai://h?idle_timeout=-1", "'idle_timeout': expected a number from 0.001 to 1e9"),
        ("openai://h?idle_timeout=1e400", "'idle_timeout': expected a number from 0.001 to 1e9"),
    ],
)
def test_a_wrong_dsn_is_refused_with_a_reason(text, reason) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        parse_dsn(text, "LLM_BOX")
    assert str(caught.value).startswith("LLM_BOX: ")
    assert_hidden(KEY, caught.value)


def test_a_key_where_the_host_belongs_is_no_host() -> None:
    """A key is longer than a label of a host name may be, so it is never looked up."""
    with pytest.raises(ConfigError, match="the host is missing or invalid"):
        parse_dsn("openai://sk-proj-" + "a1B2" * 30)


# No token ever shows.

TOKEN = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=6, max_size=30).map(
    lambda text: "tok-" + text
)
REST = st.sampled_from(["h", "h:80", "h:x", "[::1]:80", "", "h/v1", "h?max_images=1", "h?zzz=1"])


def assert_hidden(token: str, *values: object) -> None:
    for value in values:
        shown = [str(value), repr(value), f"{value}", f"{value!r:.10000}"]
        if isinstance(value, BaseException):
            assert value.__context__ is None
            assert value.__cause__ is None
            shown += traceback.format_exception(value)
            shown += map(repr, value.args)
        for text in shown:
            assert token not in text
            assert quote(token, safe="") not in text


def outcome(text: str) -> Dsn | ConfigError:
    try:
        return parse_dsn(text, "LLM_X")
    except ConfigError as error:
        return error


@given(token=TOKEN, rest=REST, scheme=st.sampled_from(["openai", "openai+http", "x+y", "a b"]))
def test_a_quoted_token_is_understood_and_never_shown(token, rest, scheme) -> None:
    parsed = outcome(f"{scheme}://{quote(token, safe='')}@{rest}")
    assert_hidden(token, parsed)
    if isinstance(parsed, Dsn):
        assert parsed.token.reveal() == token
        assert_hidden(token, parsed.token, parsed.base_url(), parsed.options)


@given(token=TOKEN, rest=REST)
def test_a_raw_token_is_understood_or_refused_and_never_shown(token, rest) -> None:
    assume("%" not in token)
    parsed = outcome(f"openai://{token}@{rest}")
    assert_hidden(token, parsed)
    if isinstance(parsed, Dsn):
        assert not set(token) & set("/?#\\ ")
        assert parsed.token.reveal() == token
        assert_hidden(token, parsed.token, parsed.base_url())


@given(text=st.text())
def test_any_text_is_a_dsn_or_a_config_error(text) -> None:
    for candidate in (text, f"openai://{text}", f"openai://k@h/{text}", f"openai://h?{text}"):
        parsed = outcome(candidate)
        if isinstance(parsed, Dsn):
            assert re.fullmatch(r"https?://[\x21-\x7e]+", parsed.base_url())
        else:
            assert str(parsed).startswith("LLM_X: ")
            assert parsed.__context__ is None


class TestSecret:
    def test_shows_itself_to_reveal_alone(self) -> None:
        secret = Secret(KEY)
        assert secret.reveal() == KEY
        provider = Provider("x", "openai", "https://h", OllamaCodec(), token=secret)
        request = HttpRequest("https://h", {"Authorization": f"Bearer {KEY}"})
        assert_hidden(KEY, secret, [secret], provider, request, Dsn("openai", "h", token=secret))
        assert str(secret) == "***"

    def test_is_equal_to_the_same_credential(self) -> None:
        assert Secret(KEY) == Secret(KEY)
        assert Secret(KEY) != Secret("other")
        assert Secret(KEY) != KEY
        assert len({Secret(KEY), Secret(KEY)}) == 1

    def test_leaves_the_process_in_no_form(self) -> None:
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(Secret(KEY))
        with pytest.raises(TypeError, match="unsupported"):
            msgspec.json.encode(Secret(KEY))
        assert not hasattr(Secret(KEY), "__dict__")

    def test_is_its_own_copy(self) -> None:
        secret = Secret(KEY)
        assert copy.copy(secret) is secret
        assert copy.deepcopy(Dsn("openai", "h", token=secret)).token is secret

    @pytest.mark.parametrize("value", ["a\nb", "a\r\nX: y", "a\x00", "a\x7f", "\x1b", "caf\u00e9"])
    def test_refuses_what_could_smuggle_a_header(self, value) -> None:
        with pytest.raises(ConfigError, match="control byte or a character out") as caught:
            Secret(value)
        assert_hidden(value, caught.value)

    @pytest.mark.parametrize(
        ("value", "text", "redacted"),
        [
            (KEY, f"key {KEY} is wrong, {KEY}!", "key *** is wrong, ***!"),
            (KEY, "nothing here", "nothing here"),
            (KEY, "", ""),
            (f"Bearer {KEY}", f"key {KEY}", "key ***"),
            ("a+b/c==", "a%2Bb%2Fc%3D%3D", "***"),
            ("a+b/c==", "a%2Bb/c%3D%3D", "***"),
            ("a+b/c==", r'{"key": "a+b\/c=="}', '{"key": "***"}'),
            (KEY, f"cut {KEY[:12]}", "cut ***"),
            (KEY, f"cut {KEY[:-1]}", "cut ***"),
            (KEY, "just sk-pro", "just sk-pro"),
            ("abcd", "abcd", "***"),
            ("abc", "abc", "abc"),
            ("", "abc", "abc"),
        ],
    )
    def test_redacts_its_echo(self, value, text, redacted) -> None:
        assert Secret(value).redact(text) == redacted
        assert Redactor([value]).data(text.encode()) == redacted.encode()

    def test_redacts_bytes_that_are_no_text(self) -> None:
        assert Redactor([KEY]).data(b"\xff%s\xfe" % KEY.encode()) == b"\xff***\xfe"

    @given(token=TOKEN, before=st.text(), after=st.text(), size=st.integers(0, 80))
    def test_no_echo_survives_however_the_text_is_cut(self, token, before, after, size) -> None:
        echo = f"{before}{token}{after}"
        secret = Secret(token)
        assert token not in secret.redact(echo)
        cut = secret.redact(echo[:size])
        shown = max((n for n in range(len(token)) if cut.endswith(token[:n])), default=0)
        assert shown < 8
