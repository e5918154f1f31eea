"""Every recorded stream, through its codec: what it gives, however it is cut or cut off."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiollm import errors
from aiollm.errors import StreamInterrupted
from aiollm.types import Finish, OpaquePart, Status

if TYPE_CHECKING:
    from conftest import Case, Reply

COMMON = settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def _check_end(reply: Reply, expected: dict[str, Any]) -> None:
    if "error" in expected:
        assert type(reply.error) is getattr(errors, expected["error"]), repr(reply.error)
        assert expected.get("message", "") in str(reply.error)
        assert reply.finish is None
        return
    assert reply.error is None, repr(reply.error)
    finishes = [item for item in reply.items if isinstance(item, Finish)]
    assert finishes == [reply.items[-1]], "one Finish, and it comes last"
    (finish,) = finishes
    assert finish.reason == expected["reason"]
    assert finish.raw_reason == expected.get("raw", finish.raw_reason)
    usage = finish.usage
    got = [usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens]
    assert [*got, usage.certainty] == expected.get("usage", [0, 0, 0, 0, "missing"])
    assert usage.cache_write_tokens == expected.get("written", usage.cache_write_tokens)
    assert usage.web_search_requests == expected.get("searches", 0)


def test_a_stream_gives_what_its_expectations_say(stream: Case) -> None:
    reply, expected = stream.read([stream.body]), stream.expected
    said = reply.response
    assert said.text == expected.get("text", "")
    assert said.reasoning == expected.get("reasoning", "")
    assert said.refusal == expected.get("refusal", "")
    calls = [(id_ or None, name, args) for id_, name, args in expected.get("calls", [])]
    assert [name for _, name, _ in reply.calls] == [name for _, name, _ in calls]
    for (id_, name, args), (want_id, want_name, want_args) in zip(reply.calls, calls, strict=True):
        assert (name, args) == (want_name, want_args)
        assert id_ == want_id if want_id else id_
    ids = [call.id for call in said.tool_calls]
    assert len(set(ids)) == len(ids)
    custom = [[call.name, call.arguments] for call in said.tool_calls if call.custom]
    assert custom == expected.get("custom", [])
    partial = [call.name for call in said.tool_calls if not call.valid]
    assert partial == expected.get("partial", partial)
    cited = [[each.url, each.title, each.text] for each in said.citations]
    assert cited == expected.get("citations", cited)
    opaque = sum(isinstance(part, OpaquePart) for part in said.message.parts)
    assert opaque == expected.get("opaque", opaque)
    assert [image.mime for image in said.images] == expected.get("images", [])
    status = "".join(item.message for item in reply.items if isinstance(item, Status))
    assert expected.get("status", "") in status
    assert bool(status) == ("status" in expected)
    _check_end(reply, expected)


def test_the_next_request_replays_opaque_state_unchanged_and_in_order(stream: Case) -> None:
    message = stream.read([stream.body]).response.message
    if not message.parts or "error" in stream.expected:
        return
    sent = list(_objects(stream.replayed(message)))
    for text in stream.expected.get("replayed", []):
        fragment = json.loads(text)
        places = [at for at, item in enumerate(sent) if _holds(item, fragment)]
        assert places, f"{fragment} is not sent, or not after those before it"
        del sent[: places[0] + 1]


def _objects(value: Any) -> Any:
    """Yield every JSON object inside `value`, in document order, parents first."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _objects(item)
    elif isinstance(value, list):
        for item in value:
            yield from _objects(item)


def _holds(item: dict[str, Any], fragment: dict[str, Any]) -> bool:
    return all(key in item and item[key] == value for key, value in fragment.items())


def test_one_byte_at_a_time_changes_nothing(stream: Case) -> None:
    whole = stream.read([stream.body])
    dribbled = stream.read(bytes([byte]) for byte in stream.body)
    assert dribbled.comparable == whole.comparable
    assert repr(dribbled.error) == repr(whole.error)


def test_other_line_ends_change_nothing(stream: Case) -> None:
    whole = stream.read([stream.body])
    for ending in (b"\n", b"\r\n") + ((b"\r",) if stream.is_sse else ()):
        body = re.sub(b"\r\n|\r|\n", ending, stream.body)
        assert stream.read([body]).comparable == whole.comparable
        assert stream.read(bytes([byte]) for byte in body).comparable == whole.comparable


@COMMON
@given(data=st.data())
def test_cuts_at_random_change_nothing(stream: Case, data: st.DataObject) -> None:
    body = stream.body
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=40)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    whole, cut = stream.read([body]), stream.read(pieces)
    assert cut.comparable == whole.comparable
    assert repr(cut.error) == repr(whole.error)


def test_a_stream_cut_off_anywhere_is_complete_or_an_interruption(stream: Case) -> None:
    """Success needs the terminal event; nothing but the stream's own error may replace it."""
    body = stream.body
    full = stream.read([body])
    own = type(full.error)
    for end in range(len(body)):
        cut = stream.read([body[:end]])
        if cut.error is None:
            assert full.error is None, f"cut at {end}: success, though the whole stream fails"
            if stream.expected.get("early"):
                continue
            assert cut.essence == full.essence, f"cut at {end}: other content"
        else:
            assert type(cut.error) in (StreamInterrupted, own), f"cut at {end}: {cut.error!r}"
            assert cut.finish is None


def test_every_fixture_is_expected_to_give_something(stream: Case) -> None:
    assert len({"error", "reason"} & stream.expected.keys()) == 1
    assert ("error" in stream.expected) == (stream.record["kind"] == "stream_error")
    known = {"text", "reasoning", "refusal", "calls", "images", "status", "reason", "raw", "usage"}
    known |= {"events", "citations", "opaque", "custom", "partial", "written", "searches"}
    assert stream.expected.keys() <= known | {"error", "message", "replayed", "early"}
