"""Bodies that are not an answer: nothing at all, and a proxy's web page."""

from __future__ import annotations

import pytest

from aiollm._wire.web_page import check_answer, is_web_page
from aiollm.errors import ServerError


@pytest.mark.parametrize(
    ("body", "shown"),
    [(b"", "empty"), (b" \r\n", "empty"), (b"<html>", "HTML page"), (b"\n <?xml", "HTML page")],
)
def test_nothing_and_a_web_page_are_not_an_answer(body, shown) -> None:
    with pytest.raises(ServerError, match=shown) as raised:
        check_answer(body, 200)
    assert (raised.value.status, raised.value.body) == (200, body)


@pytest.mark.parametrize("body", [b"{}", b"x <b>", b"null"])
def test_anything_else_may_be_one(body) -> None:
    check_answer(body, 200)
    assert not is_web_page(body)
    assert is_web_page(body, "application/xhtml+xml")
