"""Wrong settings: a ConfigError where they are written or at the call, never a foreign error."""

from __future__ import annotations

import base64
import functools
import inspect
import math

import msgspec
import pytest

from aiollm import (
    AudioPart,
    Capabilities,
    Citation,
    ConfigError,
    DocumentPart,
    ImagePart,
    ImageRequest,
    ImageResult,
    Limits,
    LLMError,
    Message,
    OpaquePart,
    Plan,
    Provider,
    ProviderData,
    ReasoningPart,
    RefusalPart,
    Registry,
    Request,
    Secret,
    SpecError,
    Step,
    Target,
    TextPart,
    Timeouts,
    Tool,
    ToolCallPart,
    ToolResultPart,
    assistant,
    from_json,
    system,
    to_json,
    tool,
    tool_results,
    user,
)
from aiollm._validation import check
from aiollm.codecs import codec_of
from aiollm.dsn import DsnOptions, parse_dsn
from aiollm.local import LocalServer
from aiollm.media import MediaPool, normalize
from aiollm.testing import FakeProvider

HUGE = "x" * 1_000_000
FAKE: list[Registry] = []
"""The registry of the test that runs."""
WRONG = (
    None, True, -1, 0, 1.5, math.nan, math.inf, 10**400, -(10**5000), "x", "", HUGE[:9999],
    "\ud800", b"x", [], [5], [None], {}, {"a": 5}, {5: 5}, object(), ("a",), (5,), {5}, len,
    TextPart("a"),
)  # fmt: skip
SHOWN = 1100
"""Characters of a message, and of the target before it."""
CALL = ToolCallPart("1", "f")
STATE = ProviderData("openai", {"id": "x"})
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
CODECS = [
    *map(codec_of, ("openai", "anthropic", "google", "ollama", "llama-swap")),
    codec_of("openai", "responses"),
]
GUEST = Provider("a", "openai", "http://127.0.0.1:1/v1", CODECS[0])


def parameters(make):
    if isinstance(make, type) and issubclass(make, msgspec.Struct):
        return [name for name in make.__struct_fields__ if not name.startswith("_")]
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = inspect.signature(make).parameters.values()
    return [each.name for each in found if each.kind not in kinds]


async def ask(request):
    """Do all that a call does with a request before it is sent, on every wire."""
    check(request)
    for codec in CODECS:
        try:
            codec.encode(GUEST, Target("a", "m"), request)
        except LLMError as error:
            assert len(str(error)) < SHOWN  # noqa: PT017 - a wire may refuse what another takes
    await FAKE[0].generate("a/m", request)


async def ask_for_images(request):
    for scheme in ("openai", "google", "llama-swap"):
        reg = Registry(env={"LLM_A": f"{scheme}+http://k@127.0.0.1:1"})
        for codec in reg.provider("a").operations["images"].codecs():
            try:
                codec.encode_images(reg.provider("a"), Target("a", "m"), request)
            except LLMError as error:
                assert len(str(error)) < SHOWN  # noqa: PT017 - as above


async def ask_with(message):
    calls = [message] if message.role == "assistant" else []
    asked = [each for each in calls if any(type(part) is ToolCallPart for part in each.parts)]
    if message.role == "tool":
        await ask(Request((user("hi"), assistant(CALL), message)))
    elif asked:
        await ask(Request((user("hi"), message, tool_results(ToolResultPart("1", "ok")))))
    else:
        await ask(Request((message, user("and?")) if calls else (message,)))


async def call(reg):
    reg.register("a", FakeProvider(default="fine").provider())
    async with reg:
        await reg.generate("a/m", "hi")


async def call_plan(plan):
    await FAKE[0].generate(plan, "hi")


async def fit(capabilities):
    images = [ImagePart(PNG), ImagePart(url="https://a/b.png")]
    await normalize(Request(user("hi", *images)), capabilities)


async def state(made):
    for part in (TextPart("a", provider_data=made), ReasoningPart("a", made), OpaquePart(made)):
        await ask_with(assistant(part))


async def limit(limits):
    FAKE[0].limit("a", limits)


async def resolve(provider):
    async with Registry(env={}, retries=0) as reg:
        reg.register("b", provider)
        reg.provider("b").capabilities("m")
        reg.provider("b").limits_of("m")
        reg.describe()
        reg.stream("b/m", "hi")


async def nothing(made):
    pass


async def run(made):
    await FAKE[0].run("a/m", "hi", tools=[made]).collect()


def said(by, part):
    return by(part)


def weather(city: str) -> str:
    """Return the forecast."""
    return city


def one(role):
    return lambda part: ask_with(Message(role, (part,)))


T = Target("a", "m")
ROWS = [
    (TextPart, {"text": "a"}, one("user")),
    (TextPart, {"text": "a"}, one("assistant")),
    (ImagePart, {"data": PNG}, one("user")),
    (ImagePart, {"url": "https://a/b.png"}, one("user")),
    (DocumentPart, {"data": b"%PDF"}, one("user")),
    (AudioPart, {"data": b"RIFF"}, one("user")),
    (ReasoningPart, {"text": "a"}, one("assistant")),
    (RefusalPart, {"text": "a"}, one("assistant")),
    (OpaquePart, {"provider_data": STATE}, one("assistant")),
    (ToolCallPart, {"id": "1", "name": "f"}, one("assistant")),
    (ToolResultPart, {"id": "1", "content": "ok"}, one("tool")),
    (ProviderData, {"family": "openai", "data": {}}, state),
    (Citation, {"url": "https://a"}, lambda made: ask_with(assistant(TextPart("a", (made,))))),
    (Message, {"role": "user", "parts": "a"}, ask_with),
    *((functools.partial(said, by), {"part": "a"}, ask_with) for by in (user, assistant, system)),
    (functools.partial(said, tool_results), {"part": ToolResultPart("1", "ok")}, ask_with),
    (Request, {"messages": "hi"}, ask),
    (Request, {"messages": "hi", "tools": (Tool("f"),)}, ask),
    (Tool, {"name": "f"}, lambda made: ask(Request("hi", tools=(made,)))),
    (functools.partial(tool, weather), {}, run),
    (ImageRequest, {"prompt": "a cat"}, ask_for_images),
    (ImageRequest, {"prompt": "a cat", "images": (ImagePart(PNG),)}, ask_for_images),
    (Timeouts, {}, lambda made: FAKE[0].generate("a/m", "hi", timeouts=made)),
    (Limits, {}, limit),
    (DsnOptions, {}, nothing),
    (Secret, {"value": "x"}, nothing),
    (parse_dsn, {"text": "openai://host"}, nothing),
    (Target, {"provider": "a", "model": "m"}, lambda made: call_plan(Plan(((made,),)))),
    (Step, {"targets": (T,)}, lambda made: call_plan(Plan((made,)))),
    (Step, {"targets": (T, Target("a", "n")), "mode": "spread"}, lambda x: call_plan(Plan((x,)))),
    (Plan, {"steps": ((T,),)}, call_plan),
    (Provider, {name: getattr(GUEST, name) for name in Provider.__struct_fields__}, resolve),
    (Capabilities, {}, fit),
    (Registry, {"env": {}}, call),
    (MediaPool, {}, MediaPool.aclose),
    (LocalServer, {}, nothing),
]


@pytest.fixture
async def fake():
    async with Registry(env={}, retries=0) as reg:
        reg.register("a", FakeProvider(default="fine").provider())
        FAKE[:] = [reg]
        yield


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(("make", "good", "use"), ROWS)
async def test_a_wrong_value_of_any_parameter_is_a_config_error_or_accepted(make, good, use):
    await use(make(**good))
    for name in parameters(make):
        for wrong in WRONG:
            try:
                made = make(**good | {name: wrong})
                await use(made)
            except LLMError as error:
                assert len(str(error)) < SHOWN, (name, wrong)  # noqa: PT017 - or it is accepted
            except Exception as error:
                error.add_note(f"{name}={type(wrong).__name__}")
                raise


METHODS = [
    (Registry.stream, {"spec": "a/m", "request": "hi"}),
    (Registry.generate, {"spec": "a/m", "request": "hi"}),
    (Registry.run, {"spec": "a/m", "request": "hi", "tools": []}),
    (Registry.stream_images, {"spec": "a/m", "request": "hi"}),
    (Registry.generate_images, {"spec": "a/m", "request": "hi"}),
    (Registry.register, {"name": "b", "provider": "openai://k@h"}),
    (Registry.limit, {"name": "a", "limits": Limits(rpm=1e6)}),
    (Registry.alias, {"name": "b", "spec": "a/m"}),
    (Registry.register_scheme, {"name": "b", "factory": lambda name, dsn: GUEST}),
    (Registry.provider, {"name": "a"}),
    (Registry.parse, {"spec": "a/m"}),
    (Registry.models, {"name": "a"}),
    (Registry.llama_swap, {"name": "l"}),
    (Registry.ollama, {"name": "o"}),
    (Registry.preload, {"spec": "a/m"}),
    (Registry.load_models, {"spec": "a/m"}),
    (Registry.refresh_capabilities, {"spec": "a/m"}),
    (Registry.reset_health, {"target": "a/m"}),
    (Registry.on_event, {"hook": lambda event: None}),
]


@pytest.mark.parametrize(("method", "good"), METHODS)
async def test_so_is_one_of_any_parameter_of_a_registrys_methods(method, good):
    env = {"LLM_L": "llama-swap://127.0.0.1:1", "LLM_O": "ollama+http://127.0.0.1:1"}
    for name in [each for each in parameters(method) if each != "self"]:
        for wrong in WRONG:
            async with Registry(env=env, retries=0) as reg:
                images = "images" in method.__name__
                answer = ImageResult((ImagePart(PNG),)) if images else "fine"
                reg.register("a", FakeProvider(default=answer).provider())
                try:
                    made = method(reg, **good | {name: wrong})
                    made = await made if inspect.isawaitable(made) else made
                    if hasattr(made, "collect"):
                        await made.collect()
                except LLMError as error:
                    assert len(str(error)) < SHOWN, (name, wrong)  # noqa: PT017 - or accepted
                except Exception as error:
                    error.add_note(f"{name}={type(wrong).__name__}")
                    raise


@pytest.mark.parametrize(
    "make",
    [
        lambda: Timeouts(total="5"),
        lambda: Timeouts(total=-1),
        lambda: Timeouts(total=math.nan),
        lambda: Timeouts(total=math.inf),
        lambda: Timeouts(total=True),
        lambda: ImagePart(b""),
        lambda: ImagePart("not base64"),
        lambda: ImagePart(PNG, detail="close"),
        lambda: Registry(env={}, retries="x"),
        lambda: Registry(env={}, cooldown=-1),
        lambda: Registry(env={}, image_workers=1.5),
        lambda: Registry(env={}, fetch_images="no"),
        lambda: Registry(env={"LLM_A": 5}),
        lambda: user({"type": "text"}),
        lambda: Request(5),
        lambda: Request("a", tools=5),
        lambda: Target("a", None),
        lambda: MediaPool(workers=True),
    ],
)
def test_a_wrong_setting_is_refused_where_it_is_written(make):
    with pytest.raises(ConfigError):
        make()


def test_an_unknown_keyword_is_a_type_error():
    with pytest.raises(TypeError):
        Timeouts(totle=5)
    with pytest.raises(TypeError):
        Registry(env={}, retry=5)


def test_a_saved_part_that_is_wrong_is_refused_as_broken_json():
    text = to_json(Request(user(ImagePart(PNG)))).replace(base64.b64encode(PNG), b"")
    with pytest.raises(ValueError, match="ImagePart"):
        from_json(text, Request)


@pytest.mark.parametrize("text", [HUGE, f"a/{HUGE}", f"{HUGE}/m", f"a/m,{HUGE}", f"a/m|{'b,' * 9}"])
def test_a_spec_of_any_length_has_a_short_error(text):
    reg = Registry(env={"LLM_A": "openai://k@h"})
    with pytest.raises(SpecError) as caught:
        reg.parse(text)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).endswith("^")
    for use in (reg.provider, reg.llama_swap, lambda name: reg.alias(name, "a/m")):
        with pytest.raises(ConfigError) as caught:
            use(text)
        assert len(str(caught.value)) < 1100


@pytest.mark.parametrize(
    "text",
    [HUGE, f"{HUGE}://h", f"openai://{HUGE}", f"openai://h:{HUGE}", f"openai://h?{HUGE}=1",
     f"openai://h?rpm={HUGE}", f"openai://h?api={HUGE}", f"{'a-' * 500_000}://h"],
)  # fmt: skip
def test_a_dsn_of_any_length_has_a_short_error(text):
    reg = Registry(env={"LLM_A": text})
    with pytest.raises(ConfigError) as caught:
        reg.provider("a")
    assert len(str(caught.value)) < 1000
    assert str(caught.value).startswith("LLM_A: ")
    assert len(reg.describe()) < 5000
