"""Loading models ahead of use, and refreshing what is known of their capabilities."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aiollm.errors import (
    AuthenticationError,
    ClosedError,
    ConfigError,
    ConnectError,
    DeadlineError,
    FailoverError,
    ModelNotFoundError,
    ServerError,
    SpecError,
    UnsupportedError,
    UnsupportedFeatureError,
)
from aiollm.servers._warming import LOAD_SECONDS
from aiollm.testing import Answer, Gate, Hang, Raw, chat, load_exchanges, ndjson
from aiollm.types import ImagePart, Request, Target, Timeouts, Tool, user

CAPTURES = Path(__file__).parents[1] / "captures"
PNG = b"\x89PNG\r\n\x1a\n" + bytes.fromhex("0000000d49484452000000010000000108020000009077")

WELL = Answer(200, {}, {"status": "ok"})
LOADED = Answer(200, {}, {"model": "m", "response": "", "done": True, "done_reason": "load"})
NO_ROUTE = Answer(404, {"content-type": "text/plain"}, b"404 page not found\n")
PROPS = {
    "default_generation_settings": {"n_ctx": 8192},
    "total_slots": 1,
    "modalities": {"vision": True, "audio": False},
}
TOOL = Tool("weather")


def recorded(name: str) -> Raw:
    (exchange,) = load_exchanges(CAPTURES / f"{name}.raw")
    return Raw([exchange.response.replace(b"Connection: close\r\n", b"")])


PS = recorded("ollama/ps-1")
BROKEN = recorded("llama-swap/broken")


def own(status: int, message: str, code: str) -> Answer:
    body = {"src": "llama-swap", "error": {"message": message, "type": "x", "code": code}}
    return Answer(status, {}, body)


def listed(*models: dict[str, Any]) -> Answer:
    return Answer(200, {}, {"object": "list", "data": list(models)})


def running(*models: tuple[str, str]) -> Answer:
    return Answer(200, {}, {"running": [{"model": name, "state": how} for name, how in models]})


def swap(**more: Any) -> dict[str, Any]:
    """Return the script of a llama-swap with one model, `qwen`, also known as `q`."""
    entry = {"id": "qwen", "meta": {"llamaswap": {"aliases": ["q"]}}, "status": {"value": "loaded"}}
    return {
        "/upstream/qwen/health": WELL,
        "/upstream/qwen/props": Answer(200, {}, PROPS),
        "/v1/models": listed(entry),
        "/running": running(("qwen", "ready")),
    } | more


def box(capabilities: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """Return the script of an Ollama that has loaded `smol`, with 2048 tokens of context."""
    return {
        "/api/generate": LOADED,
        "/api/show": Answer(200, {}, {"capabilities": capabilities or ["completion"]}),
        "/api/ps": PS,
        "/api/chat": ndjson({"message": {"content": "Hi"}}, {"done": True, "done_reason": "stop"}),
    } | more


def targets(*names: str) -> tuple[Target, ...]:
    return tuple(Target(*name.split("/", 1)) for name in names)


async def test_every_server_of_a_chain_that_can_load_a_model_does(serve, registry):
    ls, m5, cloud = await serve(swap()), await serve(box()), await serve(chat("x"))
    dsns = {"ls": ls.dsn("llama-swap"), "m5": m5.dsn("ollama"), "cloud": cloud.dsn()}
    reg = registry(dsns)
    assert await reg.load_models("ls/qwen,cloud/gpt,m5/smol") == targets("ls/qwen", "m5/smol")
    assert ls.requests[0].path == "/upstream/qwen/health"
    assert ls.requests[0].headers["authorization"] == "Bearer test-key"
    assert m5.requests[0].json() == {"model": "smol", "stream": False}
    assert cloud.counts.requests == 0
    assert {each.state for each in reg.health()} == {"healthy"}


async def test_without_a_spec_nothing_is_asked(registry):
    reg = registry({"m5": "ollama+http://127.0.0.1:9"})
    assert await reg.load_models() == ()


async def test_a_closed_registry_loads_no_model(registry):
    reg = registry({"m5": "ollama+http://127.0.0.1:9"})
    await reg.aclose()
    with pytest.raises(ClosedError):
        await reg.load_models("m5/smol")


async def test_a_wrong_spec_is_refused_before_any_byte(serve, registry):
    m5 = await serve(box())
    reg = registry({"m5": m5.dsn("ollama")})
    for act in (reg.load_models, reg.refresh_capabilities):
        with pytest.raises(SpecError):
            await act("nobody/x")
    assert m5.counts.requests == 0


@pytest.mark.parametrize("scheme", ["ollama", "foreman"])
async def test_all_that_speak_ollamas_api_load_the_same_way(serve, registry, scheme):
    m5 = await serve(box())
    reg = registry({"m5": m5.dsn(scheme)})
    assert await reg.load_models("m5/smol") == targets("m5/smol")
    assert m5.requests[0].headers["authorization"] == "Bearer test-key"


@pytest.mark.parametrize(
    ("scheme", "model"), [("ollama-cloud", "gpt-oss:120b"), ("ollama", "gpt-oss:120b-cloud")]
)
async def test_a_cloud_loads_its_models_itself(serve, registry, scheme, model):
    server = await serve(box())
    reg = registry({"c": server.dsn(scheme)})
    assert await reg.load_models(f"c/{model}") == ()
    assert server.counts.requests == 0


async def test_one_that_fails_is_set_aside_and_the_others_are_warm(serve, registry):
    ls = await serve({"/upstream/broken/health": BROKEN})
    m5 = await serve(box())
    dsns = {"ls": ls.dsn("llama-swap"), "m5": m5.dsn("ollama")}
    reg = registry(dsns, cooldown=60)
    assert await reg.load_models("ls/broken,m5/smol") == targets("m5/smol")
    states = {str(each.target): each.state for each in reg.health()}
    assert states == {"ls/broken": "cooling", "m5/smol": "healthy"}
    await reg.generate("ls/broken,m5/smol", "hi")
    assert ls.counts.requests == 1


@pytest.mark.parametrize(
    ("scheme", "script", "kind"),
    [
        ("llama-swap", BROKEN, ServerError),
        ("llama-swap", recorded("llama-swap/never-ready"), ServerError),
        ("llama-swap", recorded("llama-swap/auth-wrong"), AuthenticationError),
        ("llama-swap", own(404, "model not found", "not_found"), ModelNotFoundError),
        ("llama-swap", NO_ROUTE, ModelNotFoundError),
        ("ollama", recorded("ollama/err-unknown"), ModelNotFoundError),
        ("ollama", recorded("ollama/err-no-tools"), UnsupportedFeatureError),
    ],
)
async def test_when_none_could_be_loaded_all_errors_are_raised(
    serve, registry, scheme, script, kind
):
    server = await serve(script)
    reg = registry({"x": server.dsn(scheme)})
    with pytest.raises(FailoverError) as caught:
        await reg.load_models("x/m")
    (error,) = caught.value.exceptions
    assert type(error) is kind
    assert error.target == Target("x", "m")
    assert [each.outcome for each in caught.value.attempts] == ["failed"]


async def test_a_server_that_is_not_there_fails(serve, registry):
    server = await serve(WELL)
    reg = registry({"x": server.refused_url().replace("http", "ollama+http", 1)})
    with pytest.raises(FailoverError) as caught:
        await reg.load_models("x/m")
    assert isinstance(caught.value.exceptions[0], ConnectError)


async def test_loading_has_a_deadline_of_its_own(serve, registry):
    server = await serve(Hang())
    reg = registry({"x": server.dsn("llama-swap")})
    with pytest.raises(FailoverError) as caught:
        await reg.load_models("x/m", timeouts=Timeouts(first_output=0.05))
    error = caught.value.exceptions[0]
    assert isinstance(error, DeadlineError)
    assert error.which == "first_output"


@pytest.mark.parametrize(("limit", "seconds"), [(0.01, LOAD_SECONDS), (900.0, 900.0), (None, None)])
async def test_a_load_waits_five_minutes_at_least_and_other_questions_do_not(
    serve, registry, limit, seconds
):
    server = await serve(swap())
    reg = registry({"ls": server.dsn("llama-swap")}, timeouts=Timeouts(first_output=limit))
    managed = reg.llama_swap("ls")
    assert managed._send_slow.args[1].first_output == seconds
    assert managed._send.args[1].first_output == limit


async def test_a_log_that_stays_quiet_is_waited_for(serve, registry):
    gate = Gate()
    server = await serve(Hang(answer=Answer(200, {}, "a line\n"), gate=gate))
    reg = registry({"ls": server.dsn("llama-swap")}, timeouts=Timeouts(first_output=7))
    managed = reg.llama_swap("ls")
    assert managed._stream.args[1] == Timeouts(first_output=None)
    lines = asyncio.create_task(anext(managed.logs(history=False)))
    await gate.reached()
    gate.open()
    assert await lines == "a line\n"


async def test_cancelling_a_load_harms_nobody_and_leaves_nothing(serve, registry):
    gate = Gate()
    server = await serve(Hang(gate=gate))
    reg = registry({"x": server.dsn("llama-swap")})
    task = asyncio.create_task(reg.load_models("x/m"))
    await gate.reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.wait_closed()
    assert [each.failures for each in reg.health()] == [0]


async def test_a_load_that_succeeds_closes_the_case_of_a_target(serve, registry):
    server = await serve(BROKEN, WELL, listed())
    reg = registry({"x": server.dsn("llama-swap")}, cooldown=60)
    with pytest.raises(FailoverError):
        await reg.load_models("x/m")
    assert [each.state for each in reg.health()] == ["cooling"]
    assert await reg.load_models("x/m") == targets("x/m")
    assert [each.state for each in reg.health()] == ["healthy"]


async def test_a_cancelled_load_gives_its_probe_back(serve, registry):
    gate = Gate()
    server = await serve(BROKEN, Hang(gate=gate))
    reg = registry({"x": server.dsn("llama-swap")}, cooldown=60)
    with pytest.raises(FailoverError):
        await reg.load_models("x/m")
    task = asyncio.create_task(reg.load_models("x/m"))
    await gate.reached()
    assert [each.state for each in reg.health()] == ["probing"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [each.state for each in reg.health()] == ["cooling"]


async def test_a_load_that_succeeds_lets_calls_go_that_wait_for_the_target(serve, registry):
    """They would else wait for the minute that the server named."""
    answers = iter([Answer(503, {"retry-after": "60"}, b"{}"), chat("well")])
    server = await serve(swap(**{"/v1/chat/completions": lambda _: next(answers)}))
    reg = registry({"x": server.dsn("llama-swap")}, retries=0, max_wait=120, patience=120)
    with pytest.raises(FailoverError):
        await reg.generate("x/qwen", "hi")
    waiting = asyncio.create_task(reg.generate("x/qwen", "hi"))
    while not reg.limits()[0].waiting:
        await asyncio.sleep(0)
    await reg.load_models("x/qwen")
    async with asyncio.timeout(20):
        assert (await waiting).text == "well"


async def test_health_that_is_reset_lets_calls_go_that_wait_for_the_target(serve, registry):
    answers = iter([Answer(503, {"retry-after": "60"}, b"{}"), chat("well")])
    server = await serve(swap(**{"/v1/chat/completions": lambda _: next(answers)}))
    reg = registry({"x": server.dsn("llama-swap")}, retries=0, max_wait=120, patience=120)
    with pytest.raises(FailoverError):
        await reg.generate("x/qwen", "hi")
    waiting = asyncio.create_task(reg.generate("x/qwen", "hi"))
    while not reg.limits()[0].waiting:
        await asyncio.sleep(0)
    reg.reset_health("x/qwen")
    async with asyncio.timeout(20):
        assert (await waiting).text == "well"


async def test_hosts_load_at_once_and_each_one_model_at_a_time_the_first_last(serve, registry):
    gate = Gate()
    ls = await serve(lambda _: Hang(answer=WELL, gate=gate))
    m5 = await serve(Hang(answer=LOADED, gate=gate))
    reg = registry({"ls": ls.dsn("llama-swap"), "m5": m5.dsn("ollama")})
    task = asyncio.create_task(reg.load_models("ls/a,ls/b,m5/smol"))
    await gate.reached(2)
    assert [each.path for each in ls.requests] == ["/upstream/b/health"]
    gate.open()
    assert await task == targets("ls/a", "ls/b", "m5/smol")
    loads = [each.path for each in ls.requests if each.path.endswith("/health")]
    assert loads == ["/upstream/b/health", "/upstream/a/health"]


async def test_a_name_with_slashes_is_one_segment_of_the_path(serve, registry):
    server = await serve(WELL)
    reg = registry({"ls": server.dsn("llama-swap")})
    await reg.llama_swap("ls").load("org/qwen:8b")
    assert server.requests[0].raw_path == "/upstream/org%2Fqwen:8b/health"


@pytest.mark.parametrize("model", ["", ".", ".."])
async def test_what_is_no_name_is_not_sent(serve, registry, model):
    server = await serve(WELL)
    reg = registry({"ls": server.dsn("llama-swap")})
    with pytest.raises(ConfigError):
        await reg.llama_swap("ls").load(model)
    assert server.counts.requests == 0


@pytest.mark.parametrize("model", ["qwen", "q"])
async def test_a_server_without_a_health_route_is_no_less_ready(serve, registry, model):
    page = Answer(404, {}, {"detail": "Not Found"})
    server = await serve(swap(**{f"/upstream/{model}/health": page}))
    reg = registry({"ls": server.dsn("llama-swap")})
    await reg.llama_swap("ls").load(model)


async def test_a_server_that_failed_behind_the_proxy_is_not_ready(serve, registry):
    script = swap(**{"/upstream/qwen/health": Answer(502), "/running": running()})
    server = await serve(script)
    reg = registry({"ls": server.dsn("llama-swap")})
    with pytest.raises(ServerError):
        await reg.llama_swap("ls").load("qwen")


@pytest.mark.parametrize("keep", ["30m", 90, -1, 0])
async def test_a_model_is_kept_as_long_as_is_said(serve, registry, keep):
    server = await serve(box())
    reg = registry({"m5": server.dsn("ollama")})
    await reg.ollama("m5").load("smol", keep_alive=keep)
    sent = {"model": "smol", "stream": False, "keep_alive": keep}
    assert server.requests[0].json() == sent


async def test_a_chat_may_say_how_long_its_model_is_kept(serve, registry):
    server = await serve(box())
    reg = registry({"m5": server.dsn("ollama")})
    await reg.generate("m5/smol", "hi", extra={"m5": {"keep_alive": "30m"}})
    assert server.requests[0].json()["keep_alive"] == "30m"


async def test_what_ollama_tells_of_a_model_holds_from_then_on(serve, registry):
    server = await serve(box(["completion", "tools"]))
    reg = registry({"m5": server.dsn("ollama")})
    before = reg.provider("m5").capabilities("smol")
    assert (before.images, before.tools, before.reasoning) == (True, True, True)
    learned = await reg.refresh_capabilities("m5/smol")
    after = reg.provider("m5").capabilities("smol")
    assert learned == {Target("m5", "smol"): after}
    assert (after.images, after.tools, after.reasoning) == (False, True, False)
    assert after.context_length == 2048
    assert reg.provider("m5").capabilities("other") == before


async def test_the_capabilities_of_a_loaded_model_are_known_too(serve, registry):
    ls, m5 = await serve(swap()), await serve(box())
    reg = registry({"ls": ls.dsn("llama-swap"), "m5": m5.dsn("ollama")})
    await reg.load_models("ls/qwen,m5/smol")
    qwen = reg.provider("ls").capabilities("qwen")
    smol = reg.provider("m5").capabilities("smol")
    assert (qwen.images, qwen.audio, qwen.context_length) == (True, False, 8192)
    assert (smol.images, smol.tools, smol.context_length) == (False, False, 2048)


async def test_refreshing_capabilities_loads_no_model(serve, registry):
    entry = {
        "id": "qwen",
        "architecture": {"input_modalities": ["text"]},
        "capabilities": {"function_calling": True},
        "context_length": 32768,
        "status": {"value": "unloaded"},
    }
    server = await serve({"/v1/models": listed(entry)})
    reg = registry({"ls": server.dsn("llama-swap")})
    facts = (await reg.refresh_capabilities("ls/qwen"))[Target("ls", "qwen")]
    assert [each.path for each in server.requests] == ["/v1/models"]
    assert (facts.images, facts.tools, facts.context_length) == (False, True, 32768)


async def test_a_server_behind_llama_swap_need_not_be_llama_cpp(serve, registry):
    server = await serve(swap(**{"/upstream/qwen/props": Answer(404, {}, {"detail": "no"})}))
    reg = registry({"ls": server.dsn("llama-swap")})
    before = reg.provider("ls").capabilities("qwen")
    assert await reg.refresh_capabilities("ls/q") == {Target("ls", "q"): before}


async def test_a_model_is_loaded_even_where_the_server_reports_no_capabilities(serve, registry):
    server = await serve(box(**{"/api/show": Answer(404, {}, b"no such route")}))
    reg = registry({"f": server.dsn("foreman")})
    assert await reg.load_models("f/smol") == targets("f/smol")
    with pytest.raises(FailoverError):
        await reg.refresh_capabilities("f/smol")
    assert {each.state for each in reg.health()} == {"healthy"}


async def test_a_server_without_a_list_of_running_models_tells_the_rest(serve, registry):
    server = await serve(box(["vision"], **{"/api/ps": Answer(404)}))
    reg = registry({"f": server.dsn("foreman")})
    facts = (await reg.refresh_capabilities("f/smol"))[Target("f", "smol")]
    assert (facts.images, facts.context_length) == (True, None)


async def test_facts_of_the_caller_and_options_of_the_dsn_still_win(serve, registry):
    server = await serve(box(["vision"]))
    reg = registry({"m5": server.dsn("ollama", max_images=2)})
    row = reg.provider("m5")
    reg.register("own", msgspec.structs.replace(row, facts={"tools": True}))
    learned = (await reg.refresh_capabilities("own/smol"))[Target("own", "smol")]
    assert (learned.tools, learned.images, learned.max_images_per_request) == (True, True, 2)


async def test_what_was_learned_survives_a_new_alias_and_goes_with_a_new_provider(serve, registry):
    server = await serve(box())
    reg = registry({"m5": server.dsn("ollama")})
    await reg.refresh_capabilities("m5/smol")
    reg.alias("small", "m5/smol")
    assert reg.provider("m5").capabilities("smol").tools is False
    reg.register("m5", server.dsn("ollama"))
    assert reg.provider("m5").capabilities("smol").tools is True


async def test_a_plan_that_was_resolved_before_heeds_what_is_learned(serve, registry):
    server = await serve(box())
    other = await serve(chat("Sunny."))
    reg = registry({"m5": server.dsn("ollama"), "b": other.dsn()})
    asked = Request("Weather?", tools=(TOOL,))
    await reg.generate("m5/smol,b/m", asked)
    await reg.refresh_capabilities("m5/smol")
    response = await reg.generate("m5/smol,b/m", asked)
    assert response.text == "Sunny."
    assert isinstance(response.attempts[0].error, UnsupportedError)
    assert sum(each.path == "/api/chat" for each in server.requests) == 1


async def test_a_model_that_sees_nothing_is_sent_no_image(serve, registry):
    server = await serve(box())
    reg = registry({"m5": server.dsn("ollama")})
    await reg.refresh_capabilities("m5/smol")
    with pytest.raises(FailoverError) as caught:
        await reg.generate("m5/smol", Request((user("What is it?", ImagePart(PNG)),)))
    assert isinstance(caught.value.exceptions[0], UnsupportedError)
    assert not any(each.path == "/api/chat" for each in server.requests)


async def test_a_model_that_does_not_think_is_not_asked_to(serve, registry):
    server = await serve(box())
    reg = registry({"m5": server.dsn("ollama")})
    await reg.refresh_capabilities("m5/smol")
    response = await reg.generate("m5/smol", Request("hi", reasoning="high"))
    assert response.warnings == ("smol does not think: reasoning is dropped",)
    await reg.generate("m5/smol", Request("hi", reasoning="none"))
    sent = [each.json() for each in server.requests if each.path == "/api/chat"]
    assert [body.get("think") for body in sent] == [None, False]


@pytest.mark.parametrize(("tokens", "cut"), [(2048, True), (1000, False)])
async def test_a_prompt_that_fills_the_context_learned_is_a_warning(serve, registry, tokens, cut):
    end = {"done": True, "done_reason": "stop", "prompt_eval_count": tokens, "eval_count": 1}
    server = await serve(box(**{"/api/chat": ndjson({"message": {"content": "Hi"}}, end)}))
    reg = registry({"m5": server.dsn("ollama")})
    assert (await reg.generate("m5/smol", "hi")).warnings == ()
    await reg.refresh_capabilities("m5/smol")
    warnings = (await reg.generate("m5/smol", "hi")).warnings
    assert any("2048" in warning for warning in warnings) is cut


async def test_a_server_of_another_kind_is_not_managed(registry):
    reg = registry({"m5": "ollama+http://127.0.0.1:9", "ls": "llama-swap://127.0.0.1:9"})
    with pytest.raises(ConfigError, match="'m5' is a provider of scheme 'ollama', not llama-swap"):
        reg.llama_swap("m5")
    with pytest.raises(ConfigError, match="not ollama or ollama-cloud or foreman"):
        reg.ollama("ls")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("llama-swap", "LLM_LLAMA_SWAP=llama-swap://"),
        ("foreman", "LLM_FOREMAN=foreman://TOKEN@host"),
    ],
)
async def test_a_built_in_without_a_server_says_on_use_what_to_set(registry, name, shown):
    reg = registry({})
    assert reg.providers()[name] == "built-in"
    ask = reg.llama_swap if name == "llama-swap" else reg.ollama
    with pytest.raises(ConfigError) as caught:
        ask(name)
    assert shown in str(caught.value)
    for act in (reg.load_models, reg.refresh_capabilities):
        with pytest.raises(ConfigError, match="set LLM_"):
            await act(f"{name}/qwen")
