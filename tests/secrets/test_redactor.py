"""The redactor finds a key in every form, wherever a text is cut, in linear time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm import Secret
from aiollm._settings.redactor import Redactor, is_secret, secrets_of_url
from aiollm._wire.redaction import redacted
from aiollm.errors import MAX_BODY, ServerError


def test_a_key_is_masked_in_every_form(form, key, find_leaks):
    text = f'{{"error": "wrong key {form} used"}}'
    assert find_leaks(text)
    for redactor in (Secret(key), Secret(f"Bearer {key}")):
        masked = redactor.redact(text)
        assert not find_leaks(masked)
        assert masked.startswith('{"error": "wrong key ')
        assert masked.endswith(' used"}')
        assert "***" in masked


def test_no_cut_leaves_enough_of_a_key_to_use(form, key, find_leaks):
    data = f"wrong key {form} used".encode()
    redact = Redactor([key]).data
    for at in range(0, len(data), 2):
        assert not find_leaks(redact(data[:at]).decode("utf-8", "replace"))
        assert not find_leaks(redact(data[at:]).decode("utf-8", "replace"))


def test_what_is_passed_on_of_a_stream_has_no_key_however_it_is_cut(form, key, find_leaks):
    if form == key[-14:]:
        return  # only what begins as the key does is waited for
    whole = f"log {form} and {form}\nmore".encode()
    redactor = Redactor([key])
    for size in (1, 7, 13):
        said, held = b"", b""
        for at in range(0, len(whole), size):
            ready, held = redactor.masked_start(held + whole[at : at + size])
            said += ready
        said += redactor.data(held)
        assert not find_leaks(said.decode("utf-8", "replace"))
        assert said.endswith(b"\nmore")


def test_a_short_password_is_masked_in_a_stream_however_it_is_cut():
    whole = rb"it is hunter2, \u0068unter2 or hunter3"
    redactor = Redactor(["hunter2"])
    for size in (1, 3, 5, 8):
        said, held = b"", b""
        for at in range(0, len(whole), size):
            ready, held = redactor.masked_start(held + whole[at : at + size])
            said += ready
        assert said + redactor.data(held) == b"it is ***, *** or hunter3"


def test_escapes_in_braces_are_masked_in_a_stream_however_it_is_cut():
    key = "sk-AbC12xYz9QwE7rT5y"
    whole = "".join(f"\\u{{{ord(letter):04x}}}" for letter in key).encode()
    redactor = Redactor([key])
    for size in range(1, 12):
        said, held = b"", b""
        for at in range(0, len(whole), size):
            ready, held = redactor.masked_start(held + whole[at : at + size])
            said += ready
        assert said + redactor.data(held) == b"***"


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_masking_the_start_of_a_stream_masks_what_is_passed_on_and_nothing_else(form, key, cut):
    redactor = Redactor([key])
    for data in (f"a {form} b".encode()[:cut], f"a {form} b {form}".encode()[:-cut]):
        ready, held = redactor.masked_start(data)
        assert data.endswith(held)
        assert ready == redactor.data(data[: len(data) - len(held)])


def test_a_stream_waits_only_for_what_may_become_a_key(key):
    redactor = Redactor([key])
    assert redactor.masked_start(b"loading model") == (b"loading model", b"")
    assert redactor.masked_start(b"lines\n") == (b"lines\n", b"")
    assert redactor.masked_start(b"key " + key[:9].encode()) == (b"key ", key[:9].encode())


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-***********zW6. You can find yours at https://x/keys",
        'a plain \\u20ac text, 100 % fine & "quoted"\r\n\tline',
        "sk-proj",
        "",
    ],
)
def test_what_vendors_show_on_purpose_stays(text, key):
    assert Secret(key).redact(text) == text


@pytest.mark.parametrize(
    ("value", "text", "masked"),
    [
        ("hunter2", "it is hunter2", "it is ***"),
        ("hunter2", r"it is \u0068unter2", "it is ***"),
        ("hunter2", "it is %u0068unter2", "it is ***"),
        ("Ollama", "ollama says Ollama", "ollama says ***"),
        ("Basic dXNlcjpzZXNhbWU5OQ==", "password sesame99", "password ***"),
        ("Basic !", "Basic !", "Basic !"),
        ("a%2Fb&amp;\\/cdefgh", "a%2Fb&amp;\\/cdefgh or a/b&/cdefgh", "*** or ***"),
    ],
)
def test_short_and_odd_credentials(value, text, masked):
    assert Secret(value).redact(text) == masked


@pytest.mark.parametrize(
    "unit",
    [
        b'{"text": "some words\\n of a \\u20ac text"} ',
        b"\\u0061",
        b"&#97;",
        b"%25",
        b"&amp;",
        b"\\",
        b"sk-p",
        b"sk-proj-Ab3",
        b"\r\n",
        b"\\u002",
        b"sk-proj-Ab3/Xy+9_Qw7RtZ0",
    ],
)
def test_the_time_grows_with_the_length_alone(unit, key, work):
    """Counted in calls and lines, because time would depend on the machine."""
    few = work(lambda: Redactor([key]).data(unit * (4096 // len(unit))))
    many = work(lambda: Redactor([key]).data(unit * (32768 // len(unit))))
    assert many <= 9 * few + 1000


@pytest.mark.parametrize("junk", [b"a", b"%", b"%g", b"\n", b"\0", b"\\", b"<", b"&", b"\xc2"])
def test_what_is_no_part_of_a_key_takes_a_step_in_four_bytes(junk, key, work):
    """A reply that an error keeps is searched in one go, on the loop."""
    size = 32768
    text = junk * (size // len(junk)) + b" ."  # at the very end it may be an escape that is cut
    assert work(lambda: Redactor([key]).data(text)) <= size // 4 + 4000


@pytest.mark.parametrize("unit", ["\\n", '\\"', "%41", "&#65;", "{part}", "{part} "])
def test_of_a_body_that_takes_long_to_search_an_error_keeps_the_start(unit, key, work, find_leaks):
    unit = unit.format(part=key[:9])
    body = (unit * (MAX_BODY // len(unit))).encode()
    error = ServerError("no", status=500, body=key.encode() + b" " + body)
    assert work(lambda: redacted(error, [Secret(key)])) <= MAX_BODY
    assert error.body.startswith(b"*** ")
    assert not find_leaks(error.body.decode())


@given(st.binary(max_size=300), st.integers(0, 10**6))
def test_any_bytes_around_a_key_stay_what_they_are(noise, seed):
    rng = random.Random(seed)
    key = "".join(rng.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOP0123456789", k=40))
    data = noise + b" " + key.encode() + b" " + noise
    assert Redactor([key]).data(data) == noise + b" *** " + noise


def test_credentials_are_known_by_name_or_by_looks():
    assert is_secret("x-api-key", "abc")
    assert is_secret("X-Custom", "q8Zk2LmN0pQrS4tU")
    assert not is_secret("anthropic-version", "2023-06-01")
    assert not is_secret("max_tokens", "100")
    url = "https://user:p%40ss@host/v1?alt=sse&key=abc123"
    assert list(secrets_of_url(url)) == ["p@ss", "abc123"]
