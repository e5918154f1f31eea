"""What each wire is told of the tools that its provider runs, and of which may be called."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aiollm import (
    CachePoint,
    CodeExecution,
    FileSearch,
    HostedTool,
    Request,
    Tool,
    UnsupportedError,
    UserLocation,
    WebSearch,
    from_json,
    system,
    to_json,
    user,
)
from aiollm.types import AnyTool

OSLO = UserLocation("Oslo", country="NO", timezone="Europe/Oslo")
PLACE = {"type": "approximate", "city": "Oslo", "country": "NO", "timezone": "Europe/Oslo"}
F, G = Tool("f"), Tool("g")
EVERY: tuple[AnyTool, ...] = (
    WebSearch(3, "a.test"),
    CodeExecution("c1"),
    FileSearch(["s1", "s2"], 5),
    HostedTool({"type": "x"}),
)

TOOLS: list[tuple[str, AnyTool, dict[str, Any]]] = [
    ("responses", WebSearch(), {"type": "web_search"}),
    (
        "responses",
        WebSearch(None, ["a.test", "b.test"], location=OSLO),
        {
            "type": "web_search",
            "filters": {"allowed_domains": ["a.test", "b.test"]},
            "user_location": PLACE,
        },
    ),
    (
        "responses",
        CodeExecution(),
        {"type": "code_interpreter", "container": {"type": "auto"}},
    ),
    ("responses", CodeExecution("c1"), {"type": "code_interpreter", "container": "c1"}),
    (
        "responses",
        FileSearch("vs_1", 5),
        {"type": "file_search", "vector_store_ids": ["vs_1"], "max_num_results": 5},
    ),
    ("responses", HostedTool({"type": "image_generation"}), {"type": "image_generation"}),
    ("anthropic", WebSearch(), {"type": "web_search_20250305", "name": "web_search"}),
    (
        "anthropic",
        WebSearch(3, blocked_domains="a.test", location=OSLO),
        {
            "type": "web_search_20250305",
            "name": "web_search",
            "max_uses": 3,
            "blocked_domains": ["a.test"],
            "user_location": PLACE,
        },
    ),
    (
        "anthropic",
        CodeExecution("c1"),
        {"type": "code_execution_20250825", "name": "code_execution"},
    ),
    ("google", WebSearch(), {"googleSearch": {}}),
    ("google", CodeExecution(), {"codeExecution": {}}),
    (
        "google",
        FileSearch("fileSearchStores/s"),
        {"fileSearch": {"fileSearchStoreNames": ["fileSearchStores/s"]}},
    ),
    ("google", FileSearch("s", 5), {"fileSearch": {"fileSearchStoreNames": ["s"], "topK": 5}}),
    (
        "google",
        HostedTool({"wire:anthropic": {}, "wire:google": {"urlContext": {}}}),
        {"urlContext": {}},
    ),
    ("chat", HostedTool({"wire:openai-chat": {"type": "x"}}), {"type": "x"}),
    ("responses", HostedTool({"wire:openai": {"type": "x"}}), {"type": "x"}),
]


@pytest.mark.parametrize(("name", "tool", "expected"), TOOLS)
def test_a_hosted_tool_goes_out_in_the_form_of_its_wire(wire_of, name, tool, expected) -> None:
    http = wire_of(name).encode(Request("hi", tools=tool))
    assert json.loads(bytes(http.body))["tools"] == [expected]
    assert http.warnings == ()


REFUSED = [
    ("responses", WebSearch(blocked_domains="a.test")),
    ("anthropic", FileSearch("s")),
    ("google", WebSearch(None, "a.test")),
    ("google", WebSearch(blocked_domains="a.test")),
    ("google", CodeExecution("c1")),
    ("google", HostedTool({"wire:openai": {"type": "x"}})),
    ("chat", WebSearch()),
    ("chat", CodeExecution()),
    ("chat", FileSearch("s")),
    ("llama-swap", WebSearch()),
    ("ollama", WebSearch()),
    ("ollama", CodeExecution()),
    ("ollama", HostedTool({"type": "x"})),
]


@pytest.mark.parametrize(("name", "tool"), REFUSED)
def test_a_target_that_cannot_run_a_tool_as_it_is_asked_to_is_not_asked(
    wire_of, name, tool
) -> None:
    with pytest.raises(UnsupportedError, match=f"cannot run {tool.name!r}"):
        wire_of(name).encode(Request("hi", tools=[F, tool]))


DROPPED = [
    ("google", WebSearch(3, location=OSLO), 2, {}),
    ("responses", WebSearch(3), 0, {"max_tool_calls": 3}),
]


@pytest.mark.parametrize(("name", "tool", "warnings", "fields"), DROPPED)
def test_an_option_that_is_no_promise_is_dropped_with_a_warning(
    wire_of, name, tool, warnings, fields
) -> None:
    http = wire_of(name).encode(Request("hi", tools=tool))
    assert len(http.warnings) == warnings
    assert json.loads(bytes(http.body)).items() >= fields.items()


def test_a_limit_of_all_hosted_tools_is_not_taken_for_that_of_one(wire_of) -> None:
    http = wire_of("responses").encode(Request("hi", tools=[WebSearch(3), CodeExecution()]))
    assert "max_tool_calls" not in json.loads(bytes(http.body))
    assert len(http.warnings) == 1


def test_what_openai_leaves_out_of_results_is_asked_for_beside_the_reasoning(wire_of) -> None:
    request = Request("hi", tools=[F, CodeExecution(), FileSearch("s")])
    included = [
        "reasoning.encrypted_content",
        "code_interpreter_call.outputs",
        "file_search_call.results",
    ]
    assert wire_of("responses").body(request)["include"] == included
    assert "include" not in wire_of("responses").body(request, host="llm.test")


def test_code_runs_in_the_container_that_is_named(wire_of) -> None:
    request = Request([system("s", CachePoint()), user("hi")], tools=CodeExecution("c1"))
    assert wire_of("anthropic").body(request)["container"] == "c1"
    assert wire_of("anthropic").body(Request("hi", tools=CodeExecution("c1")))["container"] == "c1"
    assert "container" not in wire_of("anthropic").body(Request("hi", tools=CodeExecution()))


def test_a_cache_point_may_follow_a_hosted_tool(wire_of) -> None:
    body = wire_of("anthropic").body(Request("hi", tools=[F, WebSearch(cache_point=True), G]))
    assert ["cache_control" in tool for tool in body["tools"]] == [False, True, False]


@pytest.mark.parametrize("name", ["responses", "anthropic"])
def test_functions_and_hosted_tools_keep_their_order(wire_of, name) -> None:
    tools = wire_of(name).body(Request("hi", tools=[F, WebSearch(), G]))["tools"]
    assert [_name(tool) for tool in tools] == ["f", "web_search", "g"]


class TestGemini:
    def test_functions_beside_googles_tools_need_a_setting(self, wire_of) -> None:
        body = wire_of("google").body(Request("hi", tools=[WebSearch(), F]))
        assert [*body["tools"][0]] == ["functionDeclarations"]
        assert body["tools"][1] == {"googleSearch": {}}
        assert body["toolConfig"] == {"includeServerSideToolInvocations": True}

    def test_each_kind_alone_needs_none(self, wire_of) -> None:
        for tool in (F, WebSearch()):
            assert "toolConfig" not in wire_of("google").body(Request("hi", tools=tool))

    def test_vertex_does_not_have_it(self, wire_of) -> None:
        request = Request("hi", tools=[WebSearch(blocked_domains="a.test"), F])
        body = wire_of("google").body(request, host="eu-aiplatform.googleapis.com")
        assert body["tools"][1] == {"googleSearch": {"excludeDomains": ["a.test"]}}
        assert "toolConfig" not in body
        with pytest.raises(UnsupportedError, match="Vertex"):
            wire_of("google").body(
                Request("hi", tools=FileSearch("s")), host="aiplatform.googleapis.com"
            )

    def test_models_before_the_third_take_one_kind(self, wire_of) -> None:
        google = wire_of("google")
        assert google.body(
            Request("hi", tools=[WebSearch(), CodeExecution()]), model="gemini-2.5-pro"
        )
        with pytest.raises(UnsupportedError, match="not both"):
            google.body(Request("hi", tools=[WebSearch(), F]), model="gemini-2.5-pro")

    @pytest.mark.parametrize(
        ("choice", "calling"),
        [
            ("auto", {"mode": "VALIDATED"}),
            ("required", {"mode": "ANY"}),
            ("f", {"mode": "ANY", "allowedFunctionNames": ["f"]}),
            (("f", "g"), {"mode": "ANY", "allowedFunctionNames": ["f", "g"]}),
        ],
    )
    def test_a_choice_beside_googles_tools_is_of_functions(self, wire_of, choice, calling) -> None:
        body = wire_of("google").body(Request("hi", tools=[F, G, WebSearch()], tool_choice=choice))
        assert body["toolConfig"]["functionCallingConfig"] == calling
        assert len(body["tools"]) == 2

    @pytest.mark.parametrize("choice", ["web_search", ("f", "web_search"), ("web_search",)])
    def test_nothing_makes_it_call_what_google_runs(self, wire_of, choice) -> None:
        with pytest.raises(UnsupportedError, match="cannot be made to call"):
            wire_of("google").body(Request("hi", tools=[F, WebSearch()], tool_choice=choice))
        with pytest.raises(UnsupportedError, match="cannot be made to call"):
            wire_of("google").body(Request("hi", tools=WebSearch(), tool_choice="required"))

    def test_none_leaves_googles_tools_out(self, wire_of) -> None:
        body = wire_of("google").body(Request("hi", tools=[F, WebSearch()], tool_choice="none"))
        assert len(body["tools"]) == 1
        assert body["toolConfig"] == {"functionCallingConfig": {"mode": "NONE"}}

    def test_auto_without_functions_says_nothing_of_functions(self, wire_of) -> None:
        body = wire_of("google").body(Request("hi", tools=WebSearch(), tool_choice="auto"))
        assert "toolConfig" not in body


def _name(tool: dict[str, Any]) -> str:
    name: str = tool.get("name") or tool["type"]
    return name


def _allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [
        {"type": name} if name == "web_search" else {"type": "function", "name": name}
        for name in names
    ]
    return {"type": "allowed_tools", "mode": mode, "tools": tools}


SEARCH = "web_search"
ALL = ["f", "g", "h", SEARCH]
CHOICES: list[tuple[str, str, Any, Any, list[str]]] = [
    ("responses", "", ("f", "g"), _allowed("required", "f", "g"), ALL),
    ("responses", "", ("auto", "f", SEARCH), _allowed("auto", "f", SEARCH), ALL),
    ("responses", "", SEARCH, _allowed("required", SEARCH), ALL),
    ("responses", "", "f", {"type": "function", "name": "f"}, ALL),
    ("responses", "llm.test", ("f", SEARCH), "required", ["f", SEARCH]),
    ("responses", "llm.test", (SEARCH,), "required", [SEARCH]),
    ("responses", "api.x.ai", SEARCH, "required", [SEARCH]),
    ("responses", "api.x.ai", "f", {"type": "function", "name": "f"}, ALL),
    ("anthropic", "", ("f", "g"), {"type": "any"}, ["f", "g"]),
    ("anthropic", "", ("auto", SEARCH), {"type": "auto"}, [SEARCH]),
    ("anthropic", "", (SEARCH,), {"type": "tool", "name": SEARCH}, [SEARCH]),
    ("anthropic", "", SEARCH, {"type": "tool", "name": SEARCH}, ALL),
]


@pytest.mark.parametrize(("name", "host", "choice", "sent", "tools"), CHOICES)
def test_a_choice_among_several_is_a_list_or_leaves_the_others_out(
    wire_of, name, host, choice, sent, tools
) -> None:
    request = Request("hi", tools=[F, G, Tool("h"), WebSearch()], tool_choice=choice)
    body = wire_of(name).body(request, host=host)
    assert body["tool_choice"] == sent
    assert [_name(tool) for tool in body["tools"]] == tools


def test_chat_completions_choose_by_a_list_where_the_host_has_one(wire_of) -> None:
    request = Request("hi", tools=[F, G, Tool("h")], tool_choice=["auto", "f", "g"])
    named = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
    listed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": named}}
    body = wire_of("chat").body(request)
    assert (body["tool_choice"], len(body["tools"])) == (listed, 3)
    body = wire_of("chat").body(request, host="llm.test")
    assert (body["tool_choice"], len(body["tools"])) == ("auto", 2)


def test_ollama_gets_the_tools_that_may_be_called(wire_of) -> None:
    body = wire_of("ollama").body(Request("hi", tools=[F, G], tool_choice=("auto", "g")))
    assert [tool["function"]["name"] for tool in body["tools"]] == ["g"]
    with pytest.raises(UnsupportedError, match="cannot force"):
        wire_of("ollama").body(Request("hi", tools=[F, G], tool_choice=("f", "g")))


def test_openais_hosted_tools_are_chosen_by_their_types(wire_of) -> None:
    tools = [CodeExecution(), FileSearch("s"), HostedTool({"type": "mcp", "server_label": "wiki"})]
    chosen = [
        {"type": "code_interpreter"},
        {"type": "file_search"},
        {"type": "mcp", "server_label": "wiki"},
    ]
    for tool, sent in zip(tools, chosen, strict=True):
        request = Request("hi", tools=tools, tool_choice=tool.name)
        assert wire_of("responses").body(request)["tool_choice"] == sent


def test_anthropic_is_told_the_name_in_the_tools_own_form(wire_of) -> None:
    forms = {
        "wire:google": {"urlContext": {}},
        "wire:anthropic": {"type": "t", "name": "web_fetch"},
    }
    request = Request("hi", tools=HostedTool(forms, name="fetch"), tool_choice="fetch")
    assert wire_of("anthropic").body(request)["tool_choice"] == {
        "type": "tool",
        "name": "web_fetch",
    }


def test_a_tool_in_extra_cannot_be_one_of_several(wire) -> None:
    request = Request(
        "hi", tools=F, tool_choice=("auto", "f", "x"), extra={"tools": [{"type": "x"}]}
    )
    if wire.model == "qwen3:8b":
        return  # Ollama's own form of tools is that of functions
    with pytest.raises(UnsupportedError, match="cannot be chosen among several: x"):
        wire.encode(request)


def test_openrouter_and_openais_search_models_search_in_chat_completions(wire_of) -> None:
    chat = wire_of("chat")
    tool = WebSearch(blocked_domains="a.test", location=OSLO)
    body = chat.body(Request("hi", tools=[F, tool]), host="openrouter.ai")
    options = {"excluded_domains": ["a.test"], "user_location": PLACE}
    assert body["tools"][1] == {"type": "openrouter:web_search", "parameters": options}
    body = chat.body(Request("hi", tools=WebSearch(location=OSLO)), model="gpt-5-search-api")
    place = {"city": "Oslo", "country": "NO", "timezone": "Europe/Oslo"}
    assert body["web_search_options"] == {
        "user_location": {"type": "approximate", "approximate": place}
    }
    assert "tools" not in body
    with pytest.raises(UnsupportedError, match="no domains"):
        chat.body(Request("hi", tools=tool), model="gpt-5-search-api")


def test_openais_search_in_chat_completions_is_no_tool_to_choose(wire_of) -> None:
    """OpenAI refuses a choice and its settings where the body lists no tools."""
    for choice in (None, "auto", "required", SEARCH):
        request = Request("hi", tools=WebSearch(), tool_choice=choice, parallel_tool_calls=False)
        body = wire_of("chat").body(request, model="gpt-5-search-api")
        assert body["web_search_options"] == {}
        assert not {"tool_choice", "parallel_tool_calls"} & body.keys()


@pytest.mark.parametrize("choice", ["none", ("auto", "f"), ("f",)])
def test_openais_search_goes_where_a_choice_leaves_it_out(wire_of, choice) -> None:
    request = Request("hi", tools=[F, WebSearch()], tool_choice=choice)
    body = wire_of("chat").body(request, model="gpt-5-search-api")
    assert "web_search_options" not in body
    assert [tool["function"]["name"] for tool in body["tools"]] == ["f"]


def test_a_cache_point_follows_a_hosted_tool_at_openrouter(wire_of) -> None:
    request = Request("hi", tools=[WebSearch(cache_point=True), F])
    body = wire_of("chat").body(request, host="openrouter.ai", model="anthropic/claude-x")
    assert ["cache_control" in tool for tool in body["tools"]] == [True, False]


def test_a_request_with_hosted_tools_is_saved_and_restored() -> None:
    request = Request("hi", tools=[F, *EVERY, WebSearch(location=OSLO)], tool_choice=("auto", "f"))
    assert from_json(to_json(request), Request) == request


def test_a_hosted_tool_has_the_name_that_its_form_has() -> None:
    forms = [
        {"type": "x"},
        {"type": "x", "name": "n"},
        {"type": "mcp", "server_label": "l"},
        {"urlContext": {}},
    ]
    assert [HostedTool(form).name for form in forms] == ["x", "n", "l", "urlContext"]
    assert HostedTool({"wire:google": {"googleMaps": {}}}).name == "googleMaps"
