"""The official SDKs and aiollm, side by side: the same answers, and requests that the SDKs accept.

What may differ, because the SDK is wrong, stands in exceptions.toml.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Case, Ours, Outcome

pytestmark = pytest.mark.timeout(180)  # the first test asks both sides everything

SAID = ("text", "reasoning", "refusal", "calls", "ids", "images", "drafts", "names", "usage")
"""What an answer says; all but the finish reason and the errors."""

HTTP = ("status", "request_id")
"""What an error reply says; an error in a stream has no status of its own."""

WORDS = {
    "stop": "stop",
    "completed": "stop",
    "end_turn": "stop",
    "STOP": "stop",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "length": "length",
    "MAX_TOKENS": "length",
    "model_context_window_exceeded": "length",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "pause_turn": "other",
    None: "other",
}
"""The vendors' finish reasons in aiollm's words."""


def _differences(case: Case, ours: Ours, theirs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what aiollm and the SDK say differently, both sides of each."""
    names = (*SAID, "finish", "failed", *(HTTP if case.kind == "http_error" else ()))
    pairs = {name: (getattr(ours, name), theirs[name]) for name in names}
    found = {name: (one, other) for name, (one, other) in pairs.items() if one != other}
    if "failed" in found:
        # A failure has no end, and what an SDK has then is what came before it.
        part = set(found) if theirs["failed"] else {"finish", "usage"}
        found = {name: pair for name, pair in found.items() if name not in part - {"failed"}}
    if ours.failed and theirs["failed"] and theirs["message"] not in ours.message:
        found["message"] = ours.message, theirs["message"]
    return found


def test_an_answer_is_the_same(case: Case, outcome: Outcome, exempt: dict[str, str]) -> None:
    found = _differences(case, outcome.ours[case.path], outcome.theirs[case.path])
    wrong = {name: pair for name, pair in found.items() if name not in exempt}
    assert not wrong, f"aiollm and the {case.sdk} SDK ({outcome.theirs[case.path]['exception']})"
    stale = exempt.keys() - found.keys()
    assert not stale, "they agree by now: take it out of exceptions.toml"


def test_the_finish_reason_is_the_vendors_in_our_words(
    case: Case, outcome: Outcome, exempt: dict[str, str]
) -> None:
    """Calls make it `tool_calls`, whatever the vendor calls it, and nothing else does."""
    ours, theirs = outcome.ours[case.path], outcome.theirs[case.path]
    if ours.failed or ours.parts is None:
        assert ours.reason is None
        return
    word = WORDS.get(theirs["finish"])
    if word is None or theirs["failed"] or "finish" in exempt:
        return  # the contract's tests say what other words mean
    if word in {"stop", "other"} and ours.calls:
        word = "tool_calls"
    elif word == "tool_calls" and not ours.calls:
        word = "stop"
    assert ours.reason == word


def test_what_fails_is_what_was_recorded_as_a_failure(case: Case, outcome: Outcome) -> None:
    """Both sides could also agree because neither got the answer."""
    failing = case.kind in {"http_error", "stream_error"}
    assert outcome.ours[case.path].failed == failing, outcome.ours[case.path].message


def test_every_request_finds_its_recorded_answer(outcome: Outcome) -> None:
    assert outcome.unmatched == 0


@pytest.mark.parametrize("host", ["vendor", "loopback"])
def test_the_sdks_types_accept_a_request(api: str, host: str, outcome: Outcome) -> None:
    """System, image, two tools, a round trip with state, results with images, schema, effort."""
    assert outcome.complaints[f"{api} {host}"] == {}


@pytest.mark.parametrize("counting", ["openai_responses", "anthropic", "gemini"])
def test_the_sdks_types_accept_a_request_for_a_count(counting: str, outcome: Outcome) -> None:
    """The same request as that of a call, and a key that means nothing is refused."""
    assert outcome.complaints[f"{counting}_count vendor"] == {}
    spoiled = outcome.complaints[f"{counting}_count vendor nonsense"]
    assert "extra_forbidden" in spoiled.values()


@pytest.mark.parametrize("host", ["vendor", "loopback"])
def test_a_key_that_means_nothing_is_refused(api: str, host: str, outcome: Outcome) -> None:
    """Left as they are, the SDKs' types would take it."""
    assert "extra_forbidden" in outcome.complaints[f"{api} {host} nonsense"].values()


def test_what_the_sdks_types_do_not_know_is_excused_for_a_reason(
    excused: tuple[str, str], outcome: Outcome
) -> None:
    api, place = excused
    left = [outcome.complaints.get(f"{api} {host} {place}") for host in ("vendor", "loopback")]
    assert any(left), "the SDK knows it by now, or it is not sent: take it out of exceptions.toml"


def test_the_sdks_are_those_that_are_pinned(outcome: Outcome, pinned: dict[str, str]) -> None:
    assert outcome.versions == pinned


def test_every_exception_is_about_something(strangers: set[str]) -> None:
    assert not strangers
