"""Requests to bodies of generateContent: turns, tools, settings, replayed state."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from aiollm.dsn import Secret
from aiollm.errors import ProtocolError, UnsupportedError
from aiollm.provider import HttpRequest, HttpResponse, Provider
from aiollm.providers.google.codec import GoogleCodec
from aiollm.types import (
    AudioPart,
    DocumentPart,
    ImagePart,
    Message,
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

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
PNG64 = base64.b64encode(PNG).decode()
PROVIDER = Provider(
    "google", "google", "https://g.example/v1beta", GoogleCodec(), token=Secret("AIza-k")
)
SKIP = "skip_thought_signature_validator"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def http(request: Request, model: str = "gemini-3.8-flash") -> HttpRequest:
    return GoogleCodec().encode(PROVIDER, Target("google", model), request)


def body(request: Request, model: str = "gemini-3.8-flash") -> dict[str, Any]:
    sent = http(request, model).body
    assert sent is not None
    return json.loads(bytes(sent))  # type: ignore[no-any-return]


def asked(*messages: Message, **more: Any) -> Request:
    return Request(messages, **more)


def contents(*messages: Message, model: str = "gemini-3.8-flash") -> list[dict[str, Any]]:
    """Return what is sent of messages, without the user's turn before an answer that begins."""
    return body(asked(*messages), model)["contents"][messages[0].role == "assistant" :]  # type: ignore[no-any-return]


def own(**data: object) -> ProviderData:
    return ProviderData("google", data)


def result(id_: str, *content: object, **more: Any) -> ToolResultPart:
    return ToolResultPart(id_, content, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("model", "path"), [
    ("gemini-3.8-flash", "models/gemini-3.8-flash"),
    ("models/gemini-3.8-flash", "models/gemini-3.8-flash"),
    ("tunedModels/mine-1", "tunedModels/mine-1"),
    ("odd name?x=1", "models/odd%20name%3Fx%3D1"),
])  # fmt: skip
def test_the_model_stands_in_the_url_and_the_key_in_a_header(model: str, path: str) -> None:
    sent = http(asked(user("hi")), model)
    assert sent.url == f"https://g.example/v1beta/{path}:streamGenerateContent?alt=sse"
    assert sent.headers["x-goog-api-key"] == "AIza-k"
    assert sent.method == "POST"


def test_a_provider_without_a_key_sends_none_and_its_own_headers_win() -> None:
    bare = Provider("g", "google", "http://l/v1", GoogleCodec(), headers={"Content-Type": "x/y"})
    sent = GoogleCodec().encode(bare, Target("g", "m"), asked(user("hi")))
    assert sent.headers == {"Content-Type": "x/y"}


def test_the_system_prompt_is_an_instruction_and_not_a_turn() -> None:
    sent = body(asked(system("B"), user("hi"), system="A"))
    assert sent["systemInstruction"] == {"parts": [{"text": "A\n\nB"}]}
    assert sent["contents"] == [{"role": "user", "parts": [{"text": "hi"}]}]


def test_a_system_message_amid_the_talk_is_the_users_with_a_warning() -> None:
    sent = http(asked(user("hi"), assistant("yo"), system("be brief"), user("go")))
    assert any("system message" in warning for warning in sent.warnings)


def test_a_request_of_nothing_but_a_system_prompt_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="besides the system prompt"):
        body(asked(system("A")))


def test_files_go_inline_with_the_type_their_bytes_tell() -> None:
    (turn,) = contents(
        user(
            ImagePart(PNG, mime="image/jpeg"),
            DocumentPart(b"%PDF"),
            AudioPart(b"RIFF", mime="audio/wav"),
        )
    )
    assert turn["parts"] == [
        {"inlineData": {"mimeType": "image/png", "data": PNG64}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBERg=="}},
        {"inlineData": {"mimeType": "audio/wav", "data": "UklGRg=="}},
    ]


@pytest.mark.parametrize(("data", "mime"), [
    (b"\xff\xd8\xff\xe0", "image/jpeg"), (b"GIF89a", "image/gif"),
    (b"BM\x10" + bytes(7), "image/bmp"),
    (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"), (b"\0\0\0\x18ftypheic", "image/heic"),
    (b"\0\0\0\x18ftypmif1", "image/heif"),
])  # fmt: skip
def test_every_common_format_is_told_by_its_bytes(data: bytes, mime: str) -> None:
    (turn,) = contents(user(ImagePart(data)))
    assert turn["parts"][0]["inlineData"]["mimeType"] == mime


def test_an_image_of_no_known_format_needs_its_type() -> None:
    assert contents(user(ImagePart(b"????", mime="image/avif")))
    with pytest.raises(UnsupportedError, match="mime"):
        contents(user(ImagePart(b"????")))


@pytest.mark.parametrize(("part", "wire"), [
    (ImagePart(url="https://x/a.JPG?w=1"),
     {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://x/a.JPG?w=1"}}),
    (ImagePart(url="https://x/a", mime="image/webp"),
     {"fileData": {"mimeType": "image/webp", "fileUri": "https://x/a"}}),
    (ImagePart(url="https://g/v1beta/files/abc"),
     {"fileData": {"fileUri": "https://g/v1beta/files/abc"}}),
    (DocumentPart(url="gs://b/c.pdf"),
     {"fileData": {"mimeType": "application/pdf", "fileUri": "gs://b/c.pdf"}}),
    (ImagePart(url="data:image/gif;base64,R0lG"),
     {"inlineData": {"mimeType": "image/gif", "data": "R0lG"}}),
])  # fmt: skip
def test_urls_are_files_and_data_urls_are_inline(part: Any, wire: object) -> None:
    assert contents(user(part)) == [{"role": "user", "parts": [wire]}]


def test_the_detail_of_an_image_is_a_resolution_where_the_model_takes_one() -> None:
    request = asked(user(ImagePart(PNG, detail="low"), ImagePart(PNG, detail="auto")))
    (turn,) = body(request)["contents"]
    assert [part.get("mediaResolution") for part in turn["parts"]] == [
        {"level": "MEDIA_RESOLUTION_LOW"}, None,
    ]  # fmt: skip
    old = http(request, "gemini-2.5-flash")
    assert any("detail" in warning for warning in old.warnings)


def test_lone_surrogates_are_mended() -> None:
    assert contents(user("a\ud83e"))[0]["parts"] == [{"text": "a\ufffd"}]


TOOL = Tool("get_weather", "d", CITY)


def test_tools_are_declared_with_their_json_schema() -> None:
    sent = body(asked(user("hi"), tools=(TOOL,)))
    assert sent["tools"] == [{"functionDeclarations": [
        {"name": "get_weather", "description": "d", "parametersJsonSchema": CITY},
    ]}]  # fmt: skip
    assert "toolConfig" not in sent


@pytest.mark.parametrize("schema", [
    {"type": "object", "properties": {}},
    {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
    {"type": "object", "title": "Nothing"},
    {},
])  # fmt: skip
def test_a_tool_that_takes_nothing_has_no_parameters(schema: dict[str, Any]) -> None:
    sent = body(asked(user("hi"), tools=(Tool("now", parameters=schema),)))
    assert sent["tools"] == [{"functionDeclarations": [{"name": "now"}]}]


@pytest.mark.parametrize("schema", [{"type": "object", "additionalProperties": True},
                                    {"anyOf": [CITY]}])  # fmt: skip
def test_a_tool_with_free_arguments_keeps_its_schema(schema: dict[str, Any]) -> None:
    sent = body(asked(user("hi"), tools=(Tool("f", parameters=schema),)))
    assert sent["tools"][0]["functionDeclarations"][0]["parametersJsonSchema"] == schema


@pytest.mark.parametrize(("choice", "strict", "config"), [
    (None, False, None),
    (None, True, {"mode": "VALIDATED"}),
    ("auto", False, {"mode": "AUTO"}),
    ("auto", True, {"mode": "VALIDATED"}),
    ("none", True, {"mode": "NONE"}),
    ("required", True, {"mode": "ANY"}),
    ("get_weather", False, {"mode": "ANY", "allowedFunctionNames": ["get_weather"]}),
])  # fmt: skip
def test_the_tool_choice_is_a_mode(choice: str | None, strict: bool, config: object) -> None:
    tool = msgspec.structs.replace(TOOL, strict=strict)
    sent = body(asked(user("hi"), tools=(tool,), tool_choice=choice))
    assert sent.get("toolConfig") == (config and {"functionCallingConfig": config})


def test_parallel_calls_cannot_be_forbidden() -> None:
    sent = http(asked(user("hi"), tools=(TOOL,), parallel_tool_calls=False))
    assert any("parallel" in warning for warning in sent.warnings)


def test_settings_have_their_names() -> None:
    sent = body(
        asked(user("hi"), max_output_tokens=5, temperature=0.0, top_p=0.5, stop=("X",), seed=0)
    )
    assert sent["generationConfig"] == {
        "maxOutputTokens": 5, "temperature": 0.0, "topP": 0.5, "stopSequences": ["X"], "seed": 0,
    }  # fmt: skip


def test_more_stop_sequences_than_the_api_takes_are_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="5 stop"):
        body(asked(user("hi"), stop=tuple("abcdef")))


def test_reasoning_is_a_thinking_config_where_the_model_takes_one() -> None:
    config = body(asked(user("hi"), reasoning="low"))["generationConfig"]
    assert config == {"thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": True}}
    assert "generationConfig" not in body(asked(user("hi"), reasoning="none"), "gemini-2.0-flash")


class City(msgspec.Struct):
    city: str


@pytest.mark.parametrize("output", [City, CITY])
def test_an_output_type_or_schema_is_a_response_schema(output: Any) -> None:
    config = body(asked(user("hi"), output=output))["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    assert config["responseJsonSchema"]["properties"] == CITY["properties"]


def test_an_older_model_has_the_schema_in_its_prompt_beside_tools() -> None:
    request = asked(user("hi"), system="Be brief", tools=(TOOL,), output=City)
    assert "responseJsonSchema" in body(request, "gemini-3-pro-preview")["generationConfig"]
    sent = http(request, "gemini-2.5-pro")
    wire = json.loads(bytes(sent.body))
    assert wire["tools"]
    assert "generationConfig" not in wire
    (part,) = wire["systemInstruction"]["parts"]
    assert part["text"].startswith("Be brief\n\nCall tools as you need them.")
    assert '"city":{"type":"string"}' in part["text"]
    assert "either tools or an output schema" in sent.warnings[0]
    assert "generationConfig" in body(asked(user("hi"), output=City), "gemini-2.5-pro")


def test_extra_fields_are_merged_into_the_body() -> None:
    extra = {"generationConfig": {"topK": 3}, "tools": [{"googleSearch": {}}], "store": False}
    sent = body(asked(user("hi"), seed=1, extra=extra))
    assert sent["generationConfig"] == {"seed": 1, "topK": 3}
    assert (sent["tools"], sent["store"]) == ([{"googleSearch": {}}], False)


CALL = ToolCallPart("fc-1", "get_weather", '{"city":"Łódź"}')


def test_a_call_and_its_result_go_back_with_their_id() -> None:
    turns = contents(user("hi"), assistant("ok", CALL), tool_results(result("fc-1", "12°C")))
    assert turns[1:] == [
        {"role": "model", "parts": [
            {"text": "ok"},
            {"functionCall": {"name": "get_weather", "args": {"city": "Łódź"}, "id": "fc-1"},
             "thoughtSignature": SKIP},
        ]},
        {"role": "user", "parts": [{"functionResponse": {
            "name": "get_weather", "id": "fc-1", "response": {"output": "12°C"}}}]},
    ]  # fmt: skip


def test_an_id_of_ours_is_not_sent_back() -> None:
    call = ToolCallPart("call_1", "now", provider_data=own(synthetic_id=True))
    turns = contents(user("hi"), assistant(call), tool_results(result("call_1", "12:00")))
    assert turns[1]["parts"][0]["functionCall"] == {"name": "now", "args": {}}
    assert turns[2]["parts"][0]["functionResponse"] == {
        "name": "now", "response": {"output": "12:00"},
    }  # fmt: skip


def test_a_result_beside_words_of_the_user_goes_before_them() -> None:
    turns = contents(assistant(CALL), Message("user", (result("fc-1", "1"), TextPart("go"))))
    assert [next(iter(turn["parts"][0])) for turn in turns[1:]] == ["functionResponse", "text"]


def test_a_failed_result_is_an_error() -> None:
    turns = contents(assistant(CALL), tool_results(result("fc-1", "boom", is_error=True)))
    assert turns[1]["parts"][0]["functionResponse"]["response"] == {"error": "boom"}


def test_all_results_of_a_turn_go_in_one_content_in_the_order_of_the_calls() -> None:
    calls = [ToolCallPart(id_, "f", provider_data=own(synthetic_id=True)) for id_ in "abc"]
    turns = contents(
        assistant(*calls),
        tool_results(result("c", "3"), result("a", "1")),
        tool_results(result("b", "2")),
        user("go on"),
    )
    assert [turn["role"] for turn in turns] == ["model", "user", "user"]
    outputs = [part["functionResponse"]["response"]["output"] for part in turns[1]["parts"]]
    assert outputs == ["1", "2", "3"]


def test_a_result_of_an_unknown_call_needs_its_name() -> None:
    turns = contents(user("x"), tool_results(result("z", "1", name="f")))
    assert turns[1]["parts"][0]["functionResponse"]["name"] == "f"
    with pytest.raises(UnsupportedError, match="name"):
        contents(user("x"), tool_results(result("z", "1")))


def test_a_result_that_is_a_json_object_goes_back_as_that_object() -> None:
    history = (user("q"), assistant(ToolCallPart("a", "f")))
    for text, more, sent in (
        ('{"temp": 12.0, "unit": "C"}', {}, {"temp": 12.0, "unit": "C"}),
        ('{"why": "none"}', {"is_error": True}, {"error": {"why": "none"}}),
        ("[1, 2]", {}, {"output": "[1, 2]"}),
        ('{"cut": ', {}, {"output": '{"cut": '}),
        ("12", {}, {"output": "12"}),
    ):
        (part,) = contents(*history, tool_results(result("a", text, **more)))[2]["parts"]
        assert part["functionResponse"]["response"] == sent


def test_the_numbers_of_a_structured_result_keep_their_digits() -> None:
    text = '{"id": 12345678901234567890123, "share": 1.10}'
    request = asked(user("q"), assistant(ToolCallPart("a", "f")), tool_results(result("a", text)))
    assert text.encode() in bytes(http(request).body or b"")


def test_documents_of_results_stand_inside_them_or_follow_in_older_models() -> None:
    pdf = DocumentPart(b"%PDF")
    file = {"fileData": {"fileUri": "https://files/1", "mimeType": "application/pdf"}}
    answer = tool_results(result("a", "see", pdf, OpaquePart(own(part=file))))
    history = (user("q"), assistant(ToolCallPart("a", "f")), answer)
    inline = {"inlineData": {"mimeType": "application/pdf", "data": "JVBERg=="}}
    first, label, beside = contents(*history)[2]["parts"]
    assert first["functionResponse"]["parts"] == [inline]
    assert (label, beside) == ({"text": "The result of f comes with:"}, file)
    first, _, *after = contents(*history, model="gemini-2.5-pro")[2]["parts"]
    assert "parts" not in first["functionResponse"]
    assert after == [inline, file]


def test_a_type_that_contains_itself_is_sent_with_its_definition() -> None:
    leaf = {"type": "object", "properties": {"kids": {"items": {"$ref": "#/$defs/Leaf"}}}}
    schema = {"$ref": "#/$defs/Leaf", "$defs": {"Leaf": leaf}}
    sent = body(asked(user("q"), output=schema))["generationConfig"]["responseJsonSchema"]
    assert sent == leaf | {"$defs": {"Leaf": leaf}}


def test_a_tool_choice_goes_with_tools_in_the_providers_own_form() -> None:
    request = asked(user("q"), tool_choice="required", extra={"tools": [{"googleSearch": {}}]})
    sent = body(request)
    assert sent["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}
    assert sent["tools"] == [{"googleSearch": {}}]


def test_images_of_results_stand_inside_them_for_newer_models() -> None:
    turns = contents(assistant(CALL), tool_results(result("fc-1", "see", ImagePart(PNG))))
    (part,) = turns[1]["parts"]
    assert part["functionResponse"]["parts"] == [
        {"inlineData": {"mimeType": "image/png", "data": PNG64}}
    ]


@pytest.mark.parametrize(("model", "image"), [
    ("gemini-2.5-flash", ImagePart(PNG)),
    ("gemini-3.8-flash", ImagePart(url="https://x/a.png")),
])  # fmt: skip
def test_images_that_results_cannot_hold_follow_all_results(model: str, image: ImagePart) -> None:
    two = (CALL, msgspec.structs.replace(CALL, id="fc-2"))
    turns = contents(
        assistant(*two),
        tool_results(result("fc-1", image), result("fc-2", "plain")),
        model=model,
    )
    kinds = [next(iter(part)) for part in turns[1]["parts"]]
    kind = "inlineData" if image.data else "fileData"
    assert kinds == ["functionResponse", "functionResponse", "text", kind]
    assert turns[1]["parts"][0]["functionResponse"]["response"] == {"output": "1 image(s)"}


def test_signatures_go_back_on_exactly_their_parts() -> None:
    sig = "EjT__g=="
    turns = contents(
        user("hi"),
        assistant(
            ReasoningPart("One. Two.", own(thoughtSignature="R", text="Two.")),
            TextPart("a", provider_data=own(thoughtSignature=sig)),
            TextPart("b"),
            ImagePart(PNG, provider_data=own(thoughtSignature="I")),
            ToolCallPart("x", "f", provider_data=own(thoughtSignature="C")),
            ToolCallPart("y", "g"),
            TextPart("", provider_data=own(thoughtSignature="L")),
            TextPart(""),
        ),
        tool_results(result("x", ""), result("y", "")),
    )
    assert turns[1]["parts"] == [
        {"text": "Two.", "thought": True, "thoughtSignature": "R"},
        {"text": "a", "thoughtSignature": sig},
        {"text": "b"},
        {"inlineData": {"mimeType": "image/png", "data": PNG64}, "thoughtSignature": "I"},
        {"functionCall": {"name": "f", "args": {}, "id": "x"}, "thoughtSignature": "C"},
        {"functionCall": {"name": "g", "args": {}, "id": "y"}},
        {"text": "", "thoughtSignature": "L"},
    ]


def test_every_step_of_another_model_is_excused_from_its_signature() -> None:
    turns = contents(
        assistant(CALL, msgspec.structs.replace(CALL, id="fc-2")),
        tool_results(result("fc-1", ""), result("fc-2", "")),
        assistant(CALL),
        tool_results(result("fc-1", "")),
    )
    signatures = [
        [part.get("thoughtSignature") for part in turn["parts"]]
        for turn in turns
        if turn["role"] == "model"
    ]
    assert signatures == [[SKIP, None], [SKIP]]


def test_older_models_need_no_excuse() -> None:
    turns = contents(assistant(CALL), tool_results(result("fc-1", "")), model="gemini-2.5-pro")
    assert "thoughtSignature" not in turns[0]["parts"][0]


def test_foreign_state_is_dropped_with_a_warning() -> None:
    foreign = ProviderData("anthropic", {"signature": "x"})
    request = asked(
        user("hi"),
        assistant(
            ReasoningPart("hm", foreign),
            OpaquePart(foreign),
            TextPart("a", provider_data=foreign),
            RefusalPart("no"),
        ),
        user("go"),
    )
    sent = http(request)
    assert json.loads(bytes(sent.body or b""))["contents"][1]["parts"] == [
        {"text": "a"}, {"text": "no"},
    ]  # fmt: skip
    assert len([text for text in sent.warnings if "anthropic" in text]) == 3


def test_unsigned_thoughts_are_not_sent_back_and_no_turn_is_empty() -> None:
    turns = contents(user("hi"), assistant(ReasoningPart("hm")), user("go"))
    assert [turn["role"] for turn in turns] == ["user", "user"]


def test_a_part_of_another_kind_goes_back_as_it_came() -> None:
    part = {"executableCode": {"code": "1"}, "thoughtSignature": "S"}
    turns = contents(user("hi"), assistant(OpaquePart(own(part=part))), user("go"))
    assert turns[1]["parts"] == [part]


def test_a_call_of_an_unknown_form_is_excused_without_changing_the_callers_part() -> None:
    part = {"functionCall": {"name": "f", "args": {}}}
    turns = contents(user("hi"), assistant(OpaquePart(own(part=part))), user("go"))
    assert turns[1]["parts"] == [part | {"thoughtSignature": SKIP}]
    assert part == {"functionCall": {"name": "f", "args": {}}}


def test_arguments_that_are_no_json_object_are_sent_as_nothing_with_a_warning() -> None:
    cut = ToolCallPart("x", "f", '{"a":', valid=False)
    sent = http(asked(assistant(cut), tool_results(result("x", ""))))
    parts = json.loads(bytes(sent.body or b""))["contents"][1]["parts"]
    assert parts[0]["functionCall"]["args"] == {}
    assert any("'f'" in warning for warning in sent.warnings)


def test_the_models_are_listed_without_their_prefix() -> None:
    asked_ = GoogleCodec().models(PROVIDER)
    assert (asked_.method, asked_.url) == ("GET", "https://g.example/v1beta/models?pageSize=1000")
    assert asked_.headers["x-goog-api-key"] == "AIza-k"
    listing = b'{"models":[{"name":"models/gemini-4-argon"},{"name":"tunedModels/x"},{}]}'
    assert GoogleCodec().model_names(HttpResponse(200, {}, listing)) == (
        "gemini-4-argon", "tunedModels/x",
    )  # fmt: skip


def test_an_error_with_status_200_is_no_list_without_models() -> None:
    assert GoogleCodec().model_names(HttpResponse(200, {}, b"{}")) == ()
    reply = HttpResponse(200, {}, b'{"error":{"code":503,"message":"later"}}')
    with pytest.raises(ProtocolError, match="not a list of models"):
        GoogleCodec().model_names(reply)


def test_a_type_inside_itself_is_sent_in_the_form_that_the_api_takes() -> None:
    node = {"type": "object", "properties": {"kids": {"items": {"$ref": "#/$defs/Node"}}}}
    node["required"] = ["kids"]
    schema = {"type": "object", "properties": {"tree": {"$ref": "#/$defs/Node"}}}
    schema |= {"required": ["tree"], "$defs": {"Node": node}}
    sent = http(asked(user("hi"), output=schema, tools=(Tool("f", "", schema),)))
    assert "in optional properties: kids may be missing" in " ".join(sent.warnings)
    made = json.loads(bytes(sent.body))
    declared = made["tools"][0]["functionDeclarations"][0]["parametersJsonSchema"]
    for wire in (declared, made["generationConfig"]["responseJsonSchema"]):
        assert wire["required"] == ["tree"]
        assert wire["$defs"]["Node"] == node | {"required": []}
