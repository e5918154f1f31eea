"""What a gateway of web servers answers in place of the model: named, and set aside or not."""

from __future__ import annotations

import pytest

from aiollm import FailoverError, classify
from aiollm.testing import Answer

HTML = {"content-type": "text/html"}
MEND = "remove +http after the DSN's scheme, or write +https"


def page(title: str, *, tag: str = "title") -> bytes:
    return f"<html>\r\n<head><{tag}>{title}</{tag}></head><body>nginx</body>".encode()


async def failure(serve, registry, answer: Answer) -> Exception:
    server = await serve(answer)
    with pytest.raises(FailoverError) as caught:
        await registry({"gw": server.dsn()}).generate("gw/m", "hi")
    return caught.value.last


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (400, page("No required SSL certificate was sent"), "AuthenticationError", "?cert=FILE"),
        (400, page("400 The SSL certificate error"), "AuthenticationError", "refuses the client"),
        (400, page("400 The plain HTTP request was sent to HTTPS port"), "ProviderError", MEND),
        (400, b"Client sent an HTTP request to an HTTPS server.\n", "ProviderError", MEND),
        (400, page("400") + b"You're speaking plain HTTP to an SSL-enabled server port.<br />",
         "ProviderError", MEND),
        (400, b"Bad Request\r\nThis combination of host and port requires TLS.\r\n",
         "ProviderError", MEND),
        (495, b"", "AuthenticationError", "refuses the client certificate"),
        (496, b"", "AuthenticationError", "wants a client certificate"),
        (497, b"", "ProviderError", MEND),
        (407, b"", "AuthenticationError", "HTTP 407"),
    ],
)  # fmt: skip
async def test_a_gateway_that_refuses_every_request_is_set_aside(
    serve, registry, status, body, kind, message
):
    error = await failure(serve, registry, Answer(status, HTML, body))
    assert type(error).__name__ == kind
    assert message in str(error)
    assert (error.status, classify(error).harms) == (status, "long")


async def test_the_same_words_from_a_model_server_are_of_its_own(serve, registry):
    body = {"error": {"message": "the image says: No required SSL certificate was sent"}}
    error = await failure(serve, registry, Answer(400, {}, body))
    assert type(error).__name__ == "InvalidRequestError"


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (page("413 Request Entity Too Large"), "an HTML page (413 Request Entity Too Large): a"),
        (page("503 Service Unavailable", tag="h1"), "an HTML page (503 Service Unavailable): a"),
        (page("\n Sign in &ndash; Corp\n SSO"), "an HTML page (Sign in \u2013 Corp SSO): a"),
        (page("x" * 101), "an HTML page: a"),
        (page("\x1b[31m"), "an HTML page: a"),
        (page(""), "an HTML page: a"),
        (b"<p>" + b" " * 5000 + page("late"), "an HTML page: a"),
    ],
)
@pytest.mark.parametrize("status", [200, 413])
async def test_a_page_is_shown_by_its_title(serve, registry, status, body, shown):
    error = await failure(serve, registry, Answer(status, HTML, body))
    assert shown in str(error)
    assert type(error).__name__ == {200: "ServerError", 413: "RequestTooLargeError"}[status]


async def test_a_gateway_that_speaks_too_old_an_http_may_recover(serve, registry):
    error = await failure(serve, registry, Answer(426))
    assert (type(error).__name__, classify(error).harms) == ("ServerError", "target")
