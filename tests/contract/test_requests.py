"""One canonical request per recorded one: the wire body is what the vendor's own library sends."""

from __future__ import annotations

import json
import tomllib
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from aiollm.types import (
    ImagePart,
    ProviderData,
    ReasoningPart,
    Request,
    Tool,
    ToolCallPart,
    ToolResultPart,
    assistant,
    tool_results,
    user,
)

if TYPE_CHECKING:
    from conftest import Case

HERE = Path(__file__).parent
RECORDED = HERE.parent / "fixtures" / "requests"
TABLE: dict[str, dict[str, Any]] = tomllib.loads((HERE / "requests.toml").read_text())

PNG = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Tool("get_weather", "d", CITY, strict=True)
COMMON: dict[str, Any] = {"system": "Be brief", "tools": (WEATHER,), "output": CITY, "stop": ("X",)}


def _call(id_: str, data: ProviderData | None = None) -> ToolCallPart:
    return ToolCallPart(id_, "get_weather", '{"city":"Łódź"}', provider_data=data)


def _result(id_: str, *, image: bool = False) -> ToolResultPart:
    content = ("12°C", ImagePart(PNG)) if image else ("12°C",)
    return ToolResultPart(id_, content, "get_weather")  # type: ignore[arg-type]


REQUESTS = {
    "openai_chat.json": Request(
        (
            user("Co to?", ImagePart(PNG, detail="high")),
            assistant(_call("call_1")),
            tool_results(_result("call_1")),
        ),
        **COMMON,
        max_output_tokens=500,
        parallel_tool_calls=True,
        seed=7,
        tool_choice="get_weather",
        extra={
            "service_tier": "auto",
            "prompt_cache_key": "k1",
            "safety_identifier": "u1",
            "verbosity": "low",
            "response_format": {"json_schema": {"name": "out"}},
        },
    ),
    "openai_responses.json": Request(
        (
            user("Co to?", ImagePart(PNG, detail="high")),
            assistant(
                ReasoningPart(
                    "",
                    ProviderData(
                        "openai-responses",
                        {
                            "item": {
                                "type": "reasoning",
                                "id": "rs_1",
                                "summary": [],
                                "encrypted_content": "gAAA",
                            }
                        },
                    ),
                ),
                ToolCallPart(
                    "call_A",
                    "get_weather",
                    "{}",
                    provider_data=ProviderData("openai-responses", {"id": "fc_1"}),
                ),
            ),
            tool_results(_result("call_A", image=True)),
        ),
        system="Be brief",
        tools=(WEATHER,),
        output=CITY,
        max_output_tokens=500,
        parallel_tool_calls=True,
        tool_choice="get_weather",
        reasoning="low",
        extra={"text": {"verbosity": "low", "format": {"name": "out"}}},
    ),
    "anthropic_messages.json": Request(
        (
            user(ImagePart(PNG), "Co to?"),
            assistant(
                ReasoningPart("", ProviderData("anthropic", {"signature": "Eo="})),
                _call("toolu_1"),
            ),
            tool_results(_result("toolu_1", image=True)),
        ),
        **COMMON,
        max_output_tokens=2000,
        parallel_tool_calls=False,
        reasoning="low",
        extra={
            "metadata": {"user_id": "u1"},
            "system": [
                {"type": "text", "text": "Be brief", "cache_control": {"type": "ephemeral"}}
            ],
        },
    ),
    "gemini_generate.json": Request(
        (
            user("Co to?", ImagePart(PNG)),
            assistant(_call("fc-1", ProviderData("google", {"thoughtSignature": "EjT__g=="}))),
            tool_results(_result("fc-1", image=True)),
        ),
        **COMMON,
        max_output_tokens=500,
        seed=7,
        tool_choice="get_weather",
        reasoning="low",
    ),
    "ollama_chat.json": Request(
        (
            user("Co to?", ImagePart(PNG)),
            assistant(ReasoningPart("hm"), _call("call_1")),
            tool_results(_result("call_1")),
        ),
        # Beside tools, a schema is not sent unless it is asked for in the provider's own form.
        **COMMON | {"tools": (msgspec.structs.replace(WEATHER, strict=False),), "output": None},
        max_output_tokens=100,
        temperature=0.1,
        seed=7,
        reasoning="low",
        extra={"options": {"num_ctx": 8192}, "keep_alive": "5m", "format": CITY},
    ),
}


@pytest.fixture(params=TABLE)
def recorded(request: pytest.FixtureRequest, find_case: Any) -> tuple[str, Case]:
    return request.param, find_case(f"{TABLE[request.param]['service']}/")


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return every leaf of a JSON value by its path; empty containers are leaves."""
    match value:
        case dict() if value:
            pairs = [(str(key), item) for key, item in value.items()]
        case list() if value:
            pairs = [(str(at), item) for at, item in enumerate(value)]
        case _:
            return {path: value}
    found: dict[str, Any] = {}
    for key, item in pairs:
        found |= _leaves(item, f"{path}.{key}" if path else key)
    return found


def _spelled(value: Any, spelling: dict[str, str]) -> Any:
    match value:
        case dict():
            return {spelling.get(k, k): _spelled(v, spelling) for k, v in value.items()}
        case list():
            return [_spelled(item, spelling) for item in value]
        case str():
            return spelling.get(value, value)
        case _:
            return value


def test_a_request_is_what_the_vendors_library_sends(recorded: tuple[str, Case]) -> None:
    name, case = recorded
    rules, theirs = TABLE[name], json.loads((RECORDED / name).read_text())
    http = case.codec.encode(case.provider, case.target_of(theirs), REQUESTS[name])
    assert http.body is not None
    spelling = rules.get("spelling", {})
    ours = _leaves(_spelled(json.loads(bytes(http.body)), spelling))
    expected = _leaves(_spelled(theirs["body"], spelling))
    for path in rules.get("ignored", {}):
        expected.pop(path)
    for path in rules.get("ours", {}):
        ours.pop(path)
    assert ours == expected
    assert http.warnings == ()


def test_a_request_goes_to_the_right_place_with_the_right_key(recorded: tuple[str, Case]) -> None:
    name, case = recorded
    rules, theirs = TABLE[name], json.loads((RECORDED / name).read_text())
    http = case.codec.encode(case.provider, case.target_of(theirs), REQUESTS[name])
    headers = {key.lower(): value for key, value in http.headers.items()}
    header, value = rules["header"]
    assert http.method == theirs["method"]
    assert http.url.endswith(rules["path"])
    assert headers[header] == value
    assert headers["content-type"].startswith("application/json")
    assert [place for place, held in headers.items() if "sk-test" in held] == [header]
    assert "sk-test" not in http.url


def test_the_canonical_requests_cover_every_recorded_chat() -> None:
    elsewhere = {
        "anthropic_auth_token.json",  # the other kind of token: the codec's own tests
        "gemini_image.json",
        "openai_images_edit.json",
        "openai_images_generate.json",
    }
    assert TABLE.keys() | elsewhere == {path.name for path in RECORDED.glob("*.json")}
    assert TABLE.keys() == REQUESTS.keys()


@pytest.mark.parametrize("service", ["openai_chat", "openai_responses", "anthropic", "gemini"])
@pytest.mark.parametrize(
    ("data", "mime"), [(b"\0\0\0\x18ftypavif", "image/avif"), (b"II*\0\x08\0\0\0", "image/tiff")]
)
def test_an_image_goes_out_under_the_type_of_its_bytes(
    service: str, data: bytes, mime: str, find_case: Any
) -> None:
    case = find_case(f"{service}/")
    asked = Request((user("Co to?", ImagePart(data, mime="image/jpeg")),))
    body = bytes(case.codec.encode(case.provider, case.target, asked).body)
    assert mime.encode() in body
    assert b"image/jpeg" not in body
