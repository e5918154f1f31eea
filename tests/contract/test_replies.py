"""Every recorded error reply and listing, through its codec."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from aiollm import errors
from aiollm.errors import ProtocolError, ProviderError

if TYPE_CHECKING:
    from conftest import Case


def test_an_error_reply_maps_to_its_class_and_wait(failure: Case) -> None:
    error, expected = failure.codec.error(failure.reply()), failure.expected
    assert type(error) is getattr(errors, expected["error"]), repr(error)
    assert isinstance(error, ProviderError)
    assert error.status == failure.record["status"]
    assert error.message
    assert error.request_id == expected.get("request_id", error.request_id)
    assert error.may_retry == expected.get("may_retry", True)
    if "retry" in expected:
        lowest, highest = expected["retry"]
        assert error.retry_after is not None
        assert lowest <= error.retry_after <= highest


def test_an_error_shows_the_words_of_the_provider(failure: Case) -> None:
    body = json.loads(failure.body)
    said = body[0] if isinstance(body, list) else body
    words = said["error"] if isinstance(said["error"], str) else said["error"]["message"]
    assert words in str(failure.codec.error(failure.reply()))


def test_a_listing_gives_the_names_of_the_models(listing: Case) -> None:
    assert list(listing.codec.model_names(listing.reply())) == listing.expected["models"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"3", b'{"data":3,"models":3}'])
def test_a_listing_that_is_none_is_a_protocol_error(listing: Case, body: bytes) -> None:
    with pytest.raises(ProtocolError):
        listing.codec.model_names(listing.reply(body))
