"""Responses requests: items in order and verbatim, flat tools and formats, no stored state."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aiollm._validation import check
from aiollm.errors import UnsupportedError
from aiollm.provider import Provider
from aiollm.types import (
    AudioPart,
    DocumentPart,
    ImagePart,
    OpaquePart,
    ProviderData,
    ReasoningPart,
    RefusalPart,
    Request,
    Target,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    assistant,
    system,
    tool_results,
    user,
)

TESTS = Path(__file__).parents[2]
LOCAL = "http://127.0.0.1:8080/v1"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
PNG_URI = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
WEATHER = Tool(
    "get_weather",
    "d",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    strict=True,
)


def own(**data: Any) -> ProviderData:
    return ProviderData("openai-responses", data)


def items(responses, *history: Any, url: str = LOCAL, **fields: Any) -> list[dict[str, Any]]:
    return responses.send(url, messages=history, **fields).body["input"]


def test_a_request_is_what_the_official_library_sends(responses) -> None:
    recorded = json.loads((TESTS / "fixtures" / "requests" / "openai_responses.json").read_text())
    wanted = recorded["body"]
    schema = wanted["text"]["format"]["schema"]
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    sent = responses.send(
        model="gpt-6-sol",
        system="Be brief",
        messages=(
            user("Co to?", ImagePart(PNG, detail="high")),
            assistant(
                ReasoningPart("", own(item=thought)),
                ToolCallPart("call_A", "get_weather", "{}", provider_data=own(id="fc_1")),
            ),
            tool_results(ToolResultPart("call_A", ("12°C", ImagePart(PNG)))),
        ),
        tools=(WEATHER,),
        tool_choice="get_weather",
        parallel_tool_calls=True,
        output=schema | {"title": "out"},
        max_output_tokens=500,
        reasoning="low",
        extra={"text": {"verbosity": "low"}},
    )
    schema["title"] = "out"
    wanted["stream_options"] = {"include_obfuscation": False}
    assert sent.body == wanted
    assert sent.http.url == "https://api.openai.com/v1/responses"
    assert not sent.warnings


def test_a_plain_request_keeps_nothing_on_the_server(responses) -> None:
    assert responses.send(LOCAL, model="m").body == {
        "model": "m",
        "input": [{"role": "user", "content": "hi"}],
        "stream": True,
        "store": False,
    }


def test_a_reasoning_model_is_asked_for_what_can_be_read_and_replayed(responses) -> None:
    body = responses.send(model="gpt-6-sol").body
    assert body["reasoning"] == {"summary": "auto"}
    assert body["include"] == ["reasoning.encrypted_content"]
    off = responses.send(model="gpt-6-sol", reasoning=0).body
    assert (off["reasoning"], "include" in off) == ({"effort": "none"}, False)
    budget = responses.send(model="gpt-6-sol", reasoning=2000)
    assert budget.body["reasoning"] == {"effort": "low", "summary": "auto"}
    assert "budget" in budget.warnings[0]


@pytest.mark.parametrize("asked", [None, "high"])
def test_deepseek_does_not_reason_before_a_call_it_is_made_to_make(responses, asked) -> None:
    wish = {"tools": (WEATHER,), "reasoning": asked, "model": "deepseek-v4-pro"}
    forced = responses.send("https://api.deepseek.com", tool_choice="required", **wish)
    assert forced.body["reasoning"] == {"effort": "none"}
    assert "now off" in " ".join(forced.warnings)
    free = responses.send("https://api.deepseek.com", **wish)
    assert free.body.get("reasoning", {}).get("effort") == asked
    assert not free.warnings


@pytest.mark.parametrize(
    ("model", "is_asked"),
    [("grok-4.7", True), ("grok-4.5-fast", True), ("grok-4.3", True), ("grok-3", False)],
)
def test_grok_is_asked_for_reasoning_that_can_be_sent_back(responses, model, is_asked) -> None:
    body = responses.send("https://api.x.ai/v1", model=model).body
    assert ("include" in body, "reasoning" in body) == (is_asked, False)


def test_another_model_is_asked_for_no_reasoning(responses) -> None:
    """It would refuse both fields."""
    assert not responses.send(model="gpt-4.1").body.keys() & {"reasoning", "include"}


def test_stop_would_change_the_meaning_and_seed_would_not(responses) -> None:
    with pytest.raises(UnsupportedError, match="stop"):
        responses.send(stop="X")
    sent = responses.send(seed=7)
    assert "seed" not in sent.body
    assert "seed" in sent.warnings[0]


def test_a_reasoning_model_keeps_its_own_sampling(responses) -> None:
    sent = responses.send(model="gpt-6-sol", temperature=0.5)
    assert "temperature" not in sent.body
    assert sent.warnings
    assert responses.send(LOCAL, model="m", temperature=0.5).body["temperature"] == 0.5


def test_openai_takes_no_limit_below_sixteen(responses) -> None:
    sent = responses.send(max_output_tokens=5)
    assert (sent.body["max_output_tokens"], len(sent.warnings)) == (16, 1)
    assert responses.send(LOCAL, max_output_tokens=5).body["max_output_tokens"] == 5


def test_tools_are_flat_and_always_say_whether_they_are_strict(responses) -> None:
    loose = Tool("f", "", {"type": "object", "properties": {}})
    tools = responses.send(tools=(WEATHER, loose), tool_choice="required").body["tools"]
    assert [(tool["type"], tool["name"], tool["strict"]) for tool in tools] == [
        ("function", "get_weather", True), ("function", "f", False),
    ]  # fmt: skip
    assert tools[0]["parameters"]["additionalProperties"] is False
    assert "tools" not in responses.send(tool_choice="none", parallel_tool_calls=True).body


@pytest.mark.parametrize(
    ("choice", "wire"),
    [("auto", "auto"), ("none", "none"), ("f", {"type": "function", "name": "f"})],
)
def test_a_tool_choice_is_a_word_or_a_flat_function(responses, choice, wire) -> None:
    sent = responses.send(tools=(Tool("f"),), tool_choice=choice)
    assert sent.body["tool_choice"] == wire
    assert "tool_choice" not in responses.send(tools=(Tool("f"),)).body


def test_an_output_type_is_a_flat_format(responses) -> None:
    class City(msgspec.Struct):
        city: str

    form = responses.send(output=City).body["text"]["format"]
    assert (form["type"], form["name"], form["strict"]) == ("json_schema", "City", True)


def test_system_messages_later_on_keep_their_place(responses) -> None:
    history = (system("b"), user("q"), assistant("a"), system("c"))
    sent = responses.send(messages=history, system="a").body
    assert sent["instructions"] == "a\n\nb"
    assert sent["input"][2] == {"role": "developer", "content": "c"}
    assert items(responses, *history)[2] == {"role": "user", "content": "c"}


def test_user_parts_have_their_own_names(responses) -> None:
    (sent,) = items(
        responses,
        user("q", ImagePart(PNG), ImagePart(url="https://x/a.png", detail="low"),
             DocumentPart(b"%PDF", name="a.pdf"), DocumentPart(url="https://x/b.pdf")),
    )  # fmt: skip
    assert sent["content"] == [
        {"type": "input_text", "text": "q"},
        {"type": "input_image", "image_url": PNG_URI, "detail": "auto"},
        {"type": "input_image", "image_url": "https://x/a.png", "detail": "low"},
        {"type": "input_file", "filename": "a.pdf",
         "file_data": "data:application/pdf;base64,JVBERg=="},
        {"type": "input_file", "file_url": "https://x/b.pdf"},
    ]  # fmt: skip


def test_audio_is_asked_unless_the_provider_is_said_not_to_take_it(responses) -> None:
    (sent,) = items(responses, user(AudioPart(b"x")))
    assert sent["content"][0]["input_audio"] == {"data": "eA==", "format": "wav"}
    provider = Provider("x", "openai", LOCAL, responses.codec, facts={"audio": False})
    with pytest.raises(UnsupportedError, match="audio"):
        responses.codec.encode(provider, Target("x", "m"), Request(user(AudioPart(b"x"))))


def test_results_hold_documents_and_files_by_id(responses) -> None:
    call = assistant(ToolCallPart("a", "f"))
    content = ("see", DocumentPart(b"%PDF", name="a.pdf"), OpaquePart(own(**FILE)))
    result = items(responses, user("q"), call, tool_results(ToolResultPart("a", content)))[2]
    assert result["output"] == [
        {"type": "input_text", "text": "see"},
        {"type": "input_file", "filename": "a.pdf",
         "file_data": "data:application/pdf;base64,JVBERg=="},
        FILE,
    ]  # fmt: skip


FILE = {"type": "input_file", "file_id": "file-1"}


def test_results_alone_answer_calls_that_the_server_holds(responses) -> None:
    results = tool_results(ToolResultPart("call_a", "high tide"))
    for extra in ({"previous_response_id": "resp_1"}, {"conversation": "conv_1"}):
        request = Request(results, extra={"*": extra})
        check(request)
        sent = responses.send(messages=request.messages, extra=extra).body
        assert sent["input"] == [
            {"type": "function_call_output", "call_id": "call_a", "output": "high tide"}
        ]


def test_a_tool_choice_goes_with_hosted_tools(responses) -> None:
    hosted = {"tools": [{"type": "web_search"}]}
    sent = responses.send(tool_choice="required", extra=hosted).body
    assert (sent["tools"], sent["tool_choice"]) == (hosted["tools"], "required")


def test_results_with_images_go_as_they_are(responses) -> None:
    call = assistant(ToolCallPart("a", "f"), ToolCallPart("b", "f"))
    answers = tool_results(ToolResultPart("a", "one"), ToolResultPart("b", ("two", ImagePart(PNG))))
    assert items(responses, user("q"), call, answers)[3:] == [
        {"type": "function_call_output", "call_id": "a", "output": "one"},
        {"type": "function_call_output", "call_id": "b", "output": [
            {"type": "input_text", "text": "two"}, {"type": "input_image", "image_url": PNG_URI},
        ]},
    ]  # fmt: skip


def test_an_answer_of_another_provider_goes_in_the_short_form(responses) -> None:
    assert items(responses, user("q"), assistant("a", "b"), user("r"))[1] == {
        "type": "message", "role": "assistant", "content": "ab",
    }  # fmt: skip


def test_a_message_keeps_id_and_phase(responses) -> None:
    turn = assistant(
        TextPart("Let me", provider_data=own(id="m1", phase="commentary")), " look.",
        TextPart("Done", provider_data=own(id="m2")),
        TextPart("", provider_data=own(id="m2", phase="final_answer")),
    )  # fmt: skip

    def message(words: str, **state: str) -> dict[str, Any]:
        content = [{"type": "output_text", "text": words, "annotations": []}]
        base = {"type": "message", "role": "assistant", "status": "completed"}
        return base | {"content": content} | state

    assert items(responses, user("q"), turn, user("r"))[1:3] == [
        message("Let me look.", id="m1", phase="commentary"),
        message("Done", id="m2", phase="final_answer"),
    ]


def test_own_parts_of_other_kinds_go_where_they_stand(responses) -> None:
    search = {"type": "web_search_call", "id": "ws"}
    turn = assistant("a", OpaquePart(own(**search)), TextPart("", provider_data=own(id="m")), "b")
    sent = items(responses, user("q", OpaquePart(own(type="x"))), turn)
    assert sent[0]["content"][1] == {"type": "x"}
    assert sent[1:3] == [{"type": "message", "role": "assistant", "content": "a"}, search]
    assert (sent[3]["id"], sent[3]["content"][0]["text"]) == ("m", "b")


def test_a_refusal_goes_back_as_such_in_a_message_of_the_servers_own(responses) -> None:
    said = TextPart("Hm. ", provider_data=own(id="m"))
    sent = items(responses, user("q"), assistant(said, RefusalPart("no")), user("r"))[1]
    assert [part["type"] for part in sent["content"]] == ["output_text", "refusal"]
    sent = items(responses, user("q"), assistant("Hm. ", RefusalPart("no")), user("r"))[1]
    assert sent == {"type": "message", "role": "assistant", "content": "Hm. no"}


def test_what_was_read_is_sent_back_verbatim_and_in_order(responses) -> None:
    thought = {"id": "rs", "type": "reasoning", "summary": [], "encrypted_content": "gA=", "x": 1}
    search = {"id": "ws", "type": "web_search_call", "status": "completed", "action": {"q": "x"}}
    said = {"id": "m", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "hi", "annotations": []}]}  # fmt: skip
    call = {"id": "fc", "type": "function_call", "status": "completed", "call_id": "c1",
            "name": "f", "arguments": "{}", "namespace": "n"}  # fmt: skip
    custom = {"id": "ct", "type": "custom_tool_call", "call_id": "c2", "name": "sh", "input": "ls"}
    image = {"id": "ig", "type": "image_generation_call", "status": "completed", "result": "aGk="}
    output = [thought, search, said, image, call, custom]
    read = responses.whole({"status": "completed", "output": output})
    answers = tool_results(ToolResultPart("c1", "one"), ToolResultPart("c2", "two"))
    sent = items(responses, user("q"), read.response.message, answers)
    assert sent[1:7] == output
    assert [item["type"] for item in sent[7:]] == [
        "function_call_output", "custom_tool_call_output",
    ]  # fmt: skip


def test_reasoning_without_content_is_left_out_with_the_ids_that_hang_on_it(responses) -> None:
    bare = {"id": "rs", "type": "reasoning", "summary": []}
    turn = assistant(
        ReasoningPart("", own(item=bare)),
        TextPart("a", provider_data=own(id="m", phase="commentary")),
        ToolCallPart("c1", "f", provider_data=own(id="fc", status="completed")),
    )
    history = (user("q"), turn, tool_results(ToolResultPart("c1", "r")))
    sent = responses.send(messages=history)
    assert sent.body["input"][1:3] == [
        {"type": "message", "role": "assistant", "content": "a", "phase": "commentary"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}",
         "status": "completed"},
    ]  # fmt: skip
    assert "encrypted" in sent.warnings[0]
    stored = items(responses, *history, extra={"store": True})
    assert (stored[1], stored[3]["id"]) == (bare, "fc")


@pytest.mark.parametrize("last", [user("go on"), system("Hurry."), None])
def test_thoughts_of_an_answer_that_was_cut_are_left_out(responses, last) -> None:
    """OpenAI refuses reasoning without the item that it led to."""
    thoughts = [
        {"id": f"rs_{n}", "type": "reasoning", "summary": [], "encrypted_content": "g"}
        for n in range(3)
    ]
    first, *cut = (ReasoningPart("", own(item=item)) for item in thoughts)
    history = (user("q"), assistant(first, TextPart("So", provider_data=own(id="m")), *cut))
    sent = responses.send(messages=history if last is None else (*history, last))
    kinds = [item.get("type", item.get("role")) for item in sent.body["input"]]
    assert kinds[:3] == ["user", "reasoning", "message"]
    assert len(kinds) == 3 + (last is not None)
    assert "thoughts" in sent.warnings[0]


def test_ids_that_are_longer_than_openai_takes_are_left_out(responses) -> None:
    """GitHub Copilot gives such, and refuses them itself."""
    long = "x" * 65
    thought = {"id": long, "type": "reasoning", "summary": [], "encrypted_content": "g"}
    search = {"id": long, "type": "web_search_call", "status": "completed"}
    said = assistant(
        ReasoningPart("", own(item=thought)),
        OpaquePart(own(**search)),
        TextPart("a", provider_data=own(id=long, phase="commentary")),
        ToolCallPart("c1", "f", provider_data=own(id=long, status="completed")),
    )
    sent = items(responses, user("q"), said, tool_results(ToolResultPart("c1", "r")))
    assert [item["type"] for item in sent[1:5]] == [
        "reasoning", "web_search_call", "message", "function_call",
    ]  # fmt: skip
    assert not any("id" in item for item in sent[1:5])
    assert sent[3]["phase"] == "commentary"


def test_thoughts_before_the_next_message_of_an_answer_are_kept(responses) -> None:
    thought = {"id": "rs", "type": "reasoning", "summary": [], "encrypted_content": "g"}
    said = assistant(ReasoningPart("", own(item=thought)))
    sent = responses.send(messages=(user("q"), said, assistant("So."), user("r")))
    assert sent.body["input"][1] == thought
    assert not sent.warnings


def test_reasoning_in_the_clear_is_replayed_to_servers_that_do_not_encrypt(responses) -> None:
    said = [{"type": "reasoning_text", "text": "hm"}]
    item = {"id": "rs", "type": "reasoning", "summary": [], "content": said}
    turn = assistant(ReasoningPart("hm", own(item=item)), "a")
    assert items(responses, user("q"), turn, user("r"))[1] == item


def test_images_of_an_answer_come_before_what_follows(responses) -> None:
    history = (user("q"), assistant(ImagePart(PNG)))
    for last in (assistant("a duck"), system("s"), user("and?")):
        sent = responses.send("https://api.groq.com/openai/v1", messages=(*history, last)).body
        assert [item["role"] for item in sent["input"]] == ["user", "user", last.role]


def test_foreign_state_is_dropped_with_a_warning_each(responses) -> None:
    foreign = ProviderData("anthropic", {"signature": "s"})
    turn = assistant(
        ReasoningPart("hm", foreign), TextPart("x", provider_data=foreign),
        ToolCallPart("a", "f", provider_data=foreign), OpaquePart(foreign),
    )  # fmt: skip
    sent = responses.send(messages=(user("q"), turn, tool_results(ToolResultPart("a", "r"))))
    assert len(sent.warnings) == 4
    assert [item.get("type", item.get("role")) for item in sent.body["input"]] == [
        "user", "message", "function_call", "function_call_output",
    ]  # fmt: skip


def test_images_of_another_providers_answer_follow_it(responses) -> None:
    sent = items(responses, user("q"), assistant("look", ImagePart(PNG)), user("bigger"))
    assert [item["role"] for item in sent] == ["user", "assistant", "user", "user"]
    image = {"type": "input_image", "image_url": PNG_URI, "detail": "auto"}
    assert sent[2]["content"][1] == image


def test_audio_and_broken_arguments_of_earlier_turns_are_dropped_with_a_warning(responses) -> None:
    call = ToolCallPart("a", "f", '{"x', valid=False)
    turn = assistant(AudioPart(b"x"), call)
    sent = responses.send(messages=(user("q"), turn, tool_results(ToolResultPart("a", "r"))))
    assert len(sent.warnings) == 2
    assert sent.body["input"][1]["arguments"] == "{}"


def test_long_call_ids_are_shortened_alike_in_call_and_result(responses) -> None:
    long = "x" * 80
    answer = tool_results(ToolResultPart(long, "r"))
    sent = items(responses, user("q"), assistant(ToolCallPart(long, "f")), answer)
    assert sent[1]["call_id"] == sent[2]["call_id"]
    assert len(sent[1]["call_id"]) <= 64


def test_a_big_image_is_not_encoded_before_it_is_sent(responses) -> None:
    assert responses.send(messages=user(ImagePart(PNG * 1000))).http.body.simple is None
