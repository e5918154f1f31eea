"""The parser of HTTP/1.1: what a broken or malicious server sends is read, or a ValueError."""

from __future__ import annotations

import pytest

from aiollm.testing.http1 import Parser

INTERIM = b"HTTP/1.1 103 Early Hints\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


def test_any_number_of_interim_responses_may_come_first():
    answer = INTERIM * 5000 + OK + b"content-length: 2\r\n\r\nhi"
    (message,) = Parser(reply_to="POST").feed(answer)
    assert (message.status, message.body) == (200, b"hi")


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"content-length: -5\r\n\r\nhello",
        OK + b"content-length: 1_0\r\n\r\nhello",
        OK + b"content-length: \xb2\r\n\r\nhello",
        OK + b"content-length: " + b"9" * 5000 + b"\r\n\r\n",
        CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"junk\r\n\r\n",
    ],
    ids=range(10),
)
def test_a_number_that_is_none_is_an_error_that_says_so(answer):
    with pytest.raises(ValueError, match="not HTTP"):
        Parser(reply_to="POST").feed(answer)
