"""Responses: what the last event adds to what streamed; tests/fixtures/ends has the plain cases."""

from __future__ import annotations

from typing import Any

import pytest

from aiollm.errors import ServerError, StreamInterrupted
from aiollm.providers.decoding import MAX_PARTS
from aiollm.providers.openai.responses_outputs import MAX_ITEMS
from aiollm.types import Finish, OpaquePart, ProviderData, Response, TextPart, ToolCallPart

CALL = {"type": "function_call", "id": "fc", "call_id": "c1", "name": "f"}
CUSTOM = {"type": "custom_tool_call", "id": "ct", "call_id": "c2", "name": "g"}


def event(kind: str, index: int | None = 0, **fields: Any) -> dict[str, Any]:
    known = {} if index is None else {"output_index": index}
    return {"type": f"response.{kind}"} | known | fields


def ended(*items: dict[str, Any], status: str = "completed", **more: Any) -> dict[str, Any]:
    return event(status, None, response={"status": status, "output": [*items]} | more)


def added(item: dict[str, Any], index: int | None = 0) -> dict[str, Any]:
    return event("output_item.added", index, item=item)


def done(item: dict[str, Any], index: int | None = 0) -> dict[str, Any]:
    return event("output_item.done", index, item=item)


def arguments(piece: str, index: int = 0) -> dict[str, Any]:
    return event("function_call_arguments.delta", index, delta=piece)


def message(*texts: str, **fields: Any) -> dict[str, Any]:
    parts = [{"type": "output_text", "text": text} for text in texts]
    return {"type": "message", "content": parts} | fields


@pytest.mark.parametrize(
    "events",
    [
        [arguments('{"a":')],
        [arguments('{"a":'), done(CALL | {"arguments": ""})],
        [arguments('{"a":'), event("function_call_arguments.done", arguments='{"b":1}')],
        [event("function_call_arguments.done")],
        [done(CALL | {"arguments": "", "status": "incomplete"})],
    ],
    ids=["half", "half, then nothing", "half, then others", "done without any", "incomplete"],
)
def test_a_call_whose_arguments_were_lost_is_an_interruption(responses: Any, events: Any) -> None:
    read = responses.read(added(CALL | {"arguments": ""}), *events, ended())
    assert type(read.error) is StreamInterrupted
    assert read.finish is None


def test_a_custom_call_whose_input_was_lost_is_an_interruption(responses: Any) -> None:
    assert type(responses.read(added(CUSTOM), ended()).error) is StreamInterrupted
    assert responses.read(added(CUSTOM), done(CUSTOM | {"input": ""}), ended()).error is None


def test_arguments_that_the_model_wrote_wrongly_are_the_models_not_lost(responses: Any) -> None:
    whole = CALL | {"arguments": '{"a":'}
    read = responses.read(added(CALL), arguments('{"a":'), done(whole), ended(whole))
    assert read.finish == Finish("tool_calls", "completed")
    assert not read.response.tool_calls[0].valid


def test_a_cut_response_may_have_a_cut_call(responses: Any) -> None:
    cut = ended(status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    read = responses.read(added(CALL), arguments('{"a":'), cut)
    assert read.finish == Finish("length", "max_output_tokens")


def test_a_response_that_the_server_broke_off_is_an_error(responses: Any) -> None:
    broken = ended(status="incomplete", incomplete_details={"reason": "network_error"})
    assert type(responses.read(broken).error) is ServerError


def test_every_item_of_the_last_event_comes_once(responses: Any) -> None:
    """By id, by place, by order; items that nothing streamed are new."""
    items = [
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]},
        message("one", id="m1"),
        message("two", "three", id="m2"),
        CALL | {"arguments": '{"a":1}'},
        CALL | {"id": "fd", "call_id": "c9", "arguments": '{"a":2}'},
        {"type": "web_search_call", "id": "w"},
    ]
    whole = responses.read(ended(*items)).response
    assert whole.text == "onetwothree"
    for streamed in range(len(items) + 1):
        for strip in (set(), {"id"}):
            bare = [{k: v for k, v in item.items() if k not in strip} for item in items]
            events = [done(item, at) for at, item in enumerate(bare[:streamed])]
            said = responses.read(*events, ended(*items)).response
            assert (said.text, said.reasoning) == (whole.text, whole.reasoning)
            assert [call.arguments for call in said.tool_calls] == ['{"a":1}', '{"a":2}']
            assert _others(said) == _others(whole)


def _others(response: Response) -> list[type]:
    """The kinds of parts but texts, which are joined where they have no ids."""
    return [type(part) for part in response.message.parts if not isinstance(part, TextPart)]


def test_text_that_does_not_continue_what_streamed_is_not_repeated(responses: Any) -> None:
    delta = event("output_text.delta", delta="two ", item_id="m")
    read = responses.read(delta, ended(message("one", "two ", id="m")))
    assert read.response.text == "two one"


def test_text_that_the_last_event_words_otherwise_is_not_said_twice(responses: Any) -> None:
    delta = event("output_text.delta", delta="It worked.", item_id="m")
    final = message("It worked in the container.", id="m")
    assert responses.read(delta, done(final), ended(final)).response.text == "It worked."


def test_citations_come_once(responses: Any) -> None:
    cited = message("a", id="m")
    cited["content"][0]["annotations"] = [{"type": "url_citation", "url": "https://x/"}]
    read = responses.read(done(cited), ended(cited))
    assert len(read.response.citations) == 1


def test_half_a_surrogate_is_completed_by_the_last_event(responses: Any) -> None:
    half = '{"type":"response.output_text.delta","output_index":0,"delta":"a\\ud83e"}'
    read = responses.read(half, ended(message("a\U0001f9ea")))
    assert read.response.text == "a\U0001f9ea"


def test_the_most_items_that_there_may_be_need_not_match(responses: Any) -> None:
    items = [{"type": f"x{at}"} for at in range(MAX_PARTS)]
    begun = [added({"type": f"y{at}"}, at) for at in range(MAX_ITEMS)]
    assert responses.read(*begun, ended(*items)).error is None


@pytest.mark.parametrize(
    ("status", "items", "finish"),
    [
        ("complete", [message("a", status="complete")], Finish("stop", "complete")),
        ("done", [CALL | {"arguments": "{}"}], Finish("tool_calls", "done")),
        ("complete", [message("a", status="in_progress")], None),
        ("complete", [], None),
        ("expired", [], None),
        ("aborted", [message("a")], None),
    ],
)
def test_a_status_of_a_relays_own_is_an_end_if_the_output_is_complete(
    responses: Any, status: str, items: Any, finish: Finish | None
) -> None:
    read = responses.whole({"object": "response", "status": status, "output": items})
    assert read.finish == finish
    assert type(read.error) is (type(None) if finish else ServerError)


ASKED = CALL | {"arguments": '{"a":1}', "status": "completed"}
RESULT = {"type": "function_call_output", "id": "o", "call_id": "c1", "output": "7"}
LISTED = CUSTOM | {"input": "abc"}
LISTED_RESULT = {"type": "custom_tool_call_output", "call_id": "c2", "output": "8"}


def opaque(item: dict[str, Any]) -> OpaquePart:
    return OpaquePart(ProviderData("openai-responses", item))


@pytest.mark.parametrize(
    "events",
    [
        [added(CALL), arguments('{"a":1}'), done(ASKED), added(RESULT, 1), done(RESULT, 1)],
        [added(CALL), done(ASKED), done(RESULT, 1), done(ASKED)],
        [added(CALL), arguments('{"a":1}'), done(RESULT, 1), done(ASKED)],
        [done(ASKED)],
        [],
    ],
    ids=["in order", "the call twice", "the call ends last", "the result at the end", "at the end"],
)
def test_a_call_that_the_server_ran_itself_is_not_given_to_run_again(
    responses: Any, events: Any
) -> None:
    """Its result is in the same answer; both go back as they came."""
    read = responses.read(*events, done(message("seven"), 2), ended(ASKED, RESULT))
    assert read.error is None
    assert read.finish == Finish("stop", "completed")
    assert not read.response.tool_calls
    call, result = (part for part in read.response.message.parts if type(part) is OpaquePart)
    assert {"call_id": "c1", "name": "f", "arguments": '{"a":1}'}.items() <= (
        call.provider_data.data.items()
    )
    assert result == opaque(RESULT)


def test_of_two_calls_only_the_one_without_a_result_is_to_be_run(responses: Any) -> None:
    wanted = {"type": "function_call", "call_id": "c3", "name": "h", "arguments": "{}"}
    read = responses.read(ended(LISTED, wanted, LISTED_RESULT))
    assert read.finish == Finish("tool_calls", "completed")
    assert read.response.message.parts == (
        opaque(LISTED),
        ToolCallPart("c3", "h"),
        opaque(LISTED_RESULT),
    )


def test_the_result_of_an_unknown_call_takes_nothing_back(responses: Any) -> None:
    other = RESULT | {"call_id": "c9"}
    read = responses.read(ended(ASKED, other, RESULT | {"call_id": ""}))
    assert [call.id for call in read.response.tool_calls] == ["c1"]


def began(id_: str | None) -> dict[str, Any]:
    return event("created", None, response={"id": id_, "status": "in_progress", "output": []})


def test_another_response_in_the_middle_of_the_first_is_an_interruption(responses: Any) -> None:
    """A proxy that goes on with another model's answer would add up two halves."""
    half = [added(message()), event("output_text.delta", delta="Half an")]
    read = responses.read(began("r1"), *half, began("r2"), *half, ended(message("Half an")))
    assert type(read.error) is StreamInterrupted
    assert read.response.text == "Half an"
    assert read.finish is None


@pytest.mark.parametrize(("first", "second"), [("r1", "r1"), (None, "r2"), (None, None)])
def test_a_response_may_be_begun_again_with_its_id_or_if_nothing_had_one(
    responses: Any, first: Any, second: Any
) -> None:
    delta = event("output_text.delta", delta="A")
    read = responses.read(began(first), delta, began(second), delta, ended(message("AA")))
    assert (read.error, read.response.text) == (None, "AA")


def test_another_response_before_anything_was_said_changes_nothing(responses: Any) -> None:
    delta = event("output_text.delta", delta="A")
    read = responses.read(began("r1"), began("r2"), delta, ended(message("A")), began("r3"))
    assert (read.error, read.response.text) == (None, "A")
