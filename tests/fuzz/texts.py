"""Targets: text that people and models write: DSNs, specs, schemas, JSON, terminal output."""

from __future__ import annotations

import email.parser
import email.policy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import msgspec
from yarl import URL

from aiollm import Timeouts
from aiollm._agent.typed_output import shape_of
from aiollm._wire.durations import duration, number
from aiollm._wire.growing_json import GrowingJson
from aiollm._wire.lenient import SurrogateJoiner, mend
from aiollm._wire.multipart import File, multipart
from aiollm._wire.schema import bounded, json_schema, strict
from aiollm.cli.emphasis import BOLD, CODE, RESET, Emphasis
from aiollm.cli.safe_text import one_line, printable
from aiollm.dsn import Dsn, DsnOptions, parse_dsn
from aiollm.errors import ConfigError, LLMError, OutputError, SpecError, UnsupportedError
from aiollm.providers.catalog import Catalog
from aiollm.providers.openai.chat_think import ThinkBlock, ThinkTags
from aiollm.spec import KnownNames, parse_spec
from aiollm.types import Response, TextPart, assistant
from tests.fuzz.oracles import bounded_memory, check_error, cuts, rng_of

ROOT = Path(__file__).parents[2]

KEY = "sk-proj-T0p53cr3t"
"""The key that stands where an input says KEY."""

MAX_TEXT = 1500
"""Characters of the message of an error in what a user set."""


def text_of(data: bytes) -> str:
    """Return an input as text, as the environment and command lines hold it."""
    return data.decode("utf-8", "surrogateescape")


def check_config_error(error: LLMError, start: str = "") -> None:
    """An error about a setting is short, and never holds the key, nor do errors behind it."""
    check_error(error)
    assert error.message.startswith(start)
    assert len(str(error)) <= MAX_TEXT, f"{len(str(error))} characters"
    behind: BaseException | None = error
    while behind is not None:
        assert KEY not in f"{behind} {behind.args!r}", "the key is shown"
        behind = behind.__cause__ or behind.__context__


_NAMES = re.compile(rf"(?:header|query)\.[^=&]*{KEY}")


def dsn(data: bytes) -> None:
    """Parse a DSN, in which KEY is a key.

    A DSN that parses is the same when it is written and parsed again, has a URL that can be called,
    and shows its key to nobody. An error is short, names the variable, and never holds the key,
    wherever it stands.
    """
    text = text_of(data).replace("KEY", KEY)
    if _NAMES.search(unquote(text)):
        return  # the names of headers and parameters are shown on purpose
    try:
        made = parse_dsn(text, "LLM_BOX")
    except ConfigError as error:
        check_config_error(error, "LLM_BOX: ")
        return
    assert parse_dsn(_dsn_text(made)) == made
    for plain in (False, True):
        url = URL(made.base_url(plain=plain))
        assert url.raw_host, url
        assert url.explicit_port == made.port or made.port in (80, 443)
        assert url.raw_path.isascii()
        assert url.raw_path.isprintable()
        assert not url.query_string
    assert made.token is None or KEY not in str(made.token) + repr(made.token)


def _dsn_text(made: Dsn) -> str:
    """Write a DSN, with everything escaped that may be."""
    network = msgspec.structs.asdict(made.network)
    socket, verify = network.pop("socket"), network.pop("verify")
    kind = "+unix" if socket else {None: "", True: "+https", False: "+http"}[made.secure]
    token = quote(made.token.reveal(), safe="") + "@" if made.token is not None else ""
    port = f":{made.port}" if made.port is not None else ""
    place = quote(socket, safe="") if socket else f"{made.host}{port}"
    given = {k: v for k, v in msgspec.structs.asdict(made.options).items() if v is not None}
    given |= {k: v for k, v in network.items() if v} | ({} if verify else {"verify": "off"})
    given |= {f"header.{k}": v for k, v in made.headers.items()}
    given |= {f"query.{k}": v for k, v in made.query.items()}
    query = "&".join(f"{quote(k, safe='')}={quote(str(v), safe='')}" for k, v in given.items())
    return f"{made.scheme}{kind}://{token}{place}{made.path}{query and '?'}{query}"


def dsn_seeds() -> Iterator[bytes]:
    text = "".join(
        path.read_text()
        for path in (ROOT / "tests/core/test_dsn.py", *(ROOT / "docs").glob("*.md"))
    )
    found = re.findall(r"[a-z0-9+-]+://[^\s\"'`)]+", text)
    yield from (each.encode() for each in sorted(set(found))[:150])
    for option in DsnOptions.__struct_fields__:
        yield f"openai://KEY@[::1]:8080/v1/x?{option}=auto&{option}=1.5".encode()
    yield b"openai+http://KEY%2F%40@h%31/KEY?KEY=KEY&rpm=KEY"
    yield b"openai://KEY"
    yield b"KEY"
    yield b"openai://h?header.x-team=KEY&query.key=KEY&proxy=http://u:KEY@p:8&verify=off&ca=~/c.pem"
    yield b"openai://h?header.a=KEY&header.a=KEY&query.b=KEY&query.b=KEY&cert=KEY&key=/KEY.pem"
    yield b"ollama+unix:///run/KEY.sock?proxy=KEY"


def environment(data: bytes) -> None:
    """Read an environment of `NAME=value` lines, in which KEY is a key.

    Only ConfigErrors are raised; no error, description or repr holds the key; a provider that
    resolves has a URL that can be called.
    """
    lines = text_of(data).replace("KEY", KEY).replace("\0", "").split("\n")
    pairs = [line.partition("=") for line in lines]
    if any(KEY in name for name, _, _ in pairs):
        return  # nobody names a variable so
    catalog = Catalog({name: value for name, _, value in pairs if name}, Timeouts())
    hidden = [catalog.describe()] if not _misplaced(lines) else []
    for name in [*catalog.providers(), *catalog.aliases()]:
        try:
            provider = catalog.provider(name)
        except ConfigError as error:
            check_config_error(error)
            continue
        assert URL(provider.base_url).raw_host
        catalog.timeouts_of(provider)
        catalog.limits_of(msgspec.structs.replace(_TARGET, provider=name))
        provider.capabilities("some-model")
        if not _misplaced(lines):
            hidden.append(repr(provider))
    assert not any(KEY in each for each in hidden), "the key is shown"


_TARGET = parse_spec("a/b", KnownNames(lambda _: None, lambda _: True, lambda: ())).targets[0]


def _misplaced(lines: list[str]) -> bool:
    """Return whether a key is where no key belongs: in a name, a host, a path or a spec."""
    return any(KEY in re.sub(rf"^\w+=(\w+://{KEY}@|{KEY}$)", "", line) for line in lines)


def environment_seeds() -> Iterator[bytes]:
    yield b"LLM_BOX=openai://KEY@host:80/v1?rpm=5\nLLM_FAST=alias:box/a|openai/b\nOPENAI_API_KEY=KEY"
    yield b"OPENAI_BASE_URL=https://h/v1/chat/completions\nOPENAI_API_KEY=KEY\nOPENAI_ORG_ID=o"
    yield b"OLLAMA_HOST=0.0.0.0:1234\nOLLAMA_API_KEY=KEY\nOLLAMA_CLOUD_BASE_URL=https://ollama.com"
    yield b"OLLAMA_HOST=[::]:1\nLLM_BOX=llama-swaps://KEY@h\nLLM_A_B=foreman://h\nLLM_X=alias:x"
    yield b"OLLAMA_HOST=::1\nANTHROPIC_AUTH_TOKEN=KEY\nANTHROPIC_BASE_URL=http://h:8"
    yield b"GEMINI_API_KEY=KEY\nGOOGLE_GEMINI_BASE_URL=https://h/v1beta/models/x\nLLM_G=gemini://h"
    yield b"LLM_BOX=nothing://h\nLLM_W=https://KEY@h\nLLM_Z=openai://KEY\nLLM_R=ollama://h?api=chat"


def spec(data: bytes) -> None:
    """Parse a spec, the first line, whose aliases are `name=spec` in the lines after it.

    A plan is the same when it is written and parsed again, and its targets are distinct. An error
    is short. Aliases cannot make a spec expensive.
    """
    text, *lines = text_of(data).split("\n")
    pairs = (line.partition("=") for line in lines)
    aliases = {name: value for name, equals, value in pairs if equals}
    providers = ("openai", "box", "anthropic")
    names = KnownNames(aliases.get, providers.__contains__, lambda: [*aliases, *providers])
    try:
        with bounded_memory(data):
            plan = parse_spec(text, names)
    except SpecError as error:
        check_config_error(error)
        return
    assert parse_spec(str(plan), names) == plan
    assert len(set(plan.targets)) == len(plan.targets) <= 64
    assert all(step.targets for step in plan.steps)


def spec_seeds() -> Iterator[bytes]:
    yield b"openai/gpt-5|box/qwen3:8b,anthropic/claude-sonnet"
    yield b"3*box/a & 2 * openai/b,fast\nfast=box/c,slow\nslow=openai/x&anthropic/y"
    yield b"a\na=b,b\nb=c,c\nc=d|d\nd=box/x"
    yield b"a&box/b\na=4*openai/m&6*box/n"
    yield b"gpt-5"
    yield b"(box/a),"
    text = (ROOT / "tests/core/test_spec.py").read_text()
    found = re.findall(r'"([^"\n]*[/|,&*][^"\n]*)"', text)
    yield from (each.encode() for each in sorted(set(found))[:150])


class _Row(msgspec.Struct):
    name: str
    count: int = 0
    tags: list[str] = []
    inner: _Row | None = None


_SHAPES = tuple(map(shape_of, (_Row, int, list[int], dict[str, float], {"type": "object"})))


def typed_answers(data: bytes) -> None:
    """Read a model's text as several types.

    It is a value of the type or an OutputError, and memory is linear in the text.
    """
    text = mend(data.decode("utf-8", "replace"))
    response = Response(assistant(TextPart(text)), "stop")
    for shape, kind in zip(_SHAPES, (_Row, int, list, dict, dict), strict=True):
        with bounded_memory(data):
            try:
                value = shape.read(response)
            except OutputError as error:
                check_error(error)
                continue
        assert isinstance(value, kind), (value, kind)


def typed_answer_seeds() -> Iterator[bytes]:
    yield b'{"name": "x", "count": 3, "tags": ["a"], "inner": {"name": "y"}}'
    yield b'<think>{"name": 1}</think> Here: ```json\n{"name": "x", "count": "3",}\n```'
    yield b'"{\\"name\\": \\"x\\"}" // note\n/* more */ [1, 2.0, "3"] {"value": 7}'
    yield b'[1, 2, "3"] and {"a": "1.5", "b": None}'
    text = (ROOT / "tests/core/test_loose_json.py").read_text()
    yield from (each.encode() for each in re.findall(r"'([^'\n]*[{\[][^'\n]*)'", text)[:100])


def growing_values(data: bytes) -> None:
    """Read a model's text in pieces, with a value after each.

    Each value is a beginning of the next, however the text is cut, and what is strict JSON is read
    as such.
    """
    text = mend(data.decode("utf-8", "replace"))
    ends = []
    for pieces in cuts(text.encode("utf-32-le")):
        growing, last = GrowingJson(), None
        rest = b""
        for piece in pieces:
            rest += piece
            whole = len(rest) - len(rest) % 4
            growing.feed(rest[:whole].decode("utf-32-le"))
            rest = rest[whole:]
            while not growing.read():
                pass
            if growing.is_due:
                last, before = growing.value(), last
                assert before is None or _begins(before, last), (before, last)
                assert growing.whole == (growing.growing() is None)
        ends.append((growing.began, growing.whole, growing.value() if growing.began else None))
    assert ends[0] == ends[1]
    if text[:1] in ("{", "["):
        _check_strict(text, *ends[0][1:])


def _check_strict(text: str, whole: bool, value: Any) -> None:
    try:
        strictly = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return
    if whole:
        assert value == strictly


def _begins(part: Any, whole: Any) -> bool:
    match part, whole:
        case str(), str():
            return whole.startswith(part)
        case list(), list():
            return len(part) <= len(whole) and all(map(_begins, part, whole))
        case dict(), dict():
            return list(part) == list(whole)[: len(part)] and all(
                _begins(part[name], whole[name]) for name in part
            )
        case _:
            return type(part) is type(whole) and part == whole


def schemas(data: bytes) -> None:
    """Adapt a JSON schema to each strict mode.

    Errors are of ours; a schema that was adapted can be adapted again, is JSON, and is not much
    larger than references allow.
    """
    try:
        value = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(value, dict):
        return
    try:
        inlined = json_schema(value)
    except ConfigError as error:
        check_error(error)
        return
    for adapted in (strict, bounded):
        try:
            made = adapted(inlined)
        except (ConfigError, UnsupportedError) as error:
            check_error(error)
            continue
        json.dumps(made)
        assert made.get("type") == "object" or "anyOf" in made or "$ref" in made, made


def schema_seeds() -> Iterator[bytes]:
    node: dict[str, Any] = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    yield json.dumps({"$ref": "#/$defs/Node", "$defs": {"Node": node}}).encode()
    yield msgspec.json.encode(msgspec.json.schema(_Row))
    keywords = {"minimum": 1, "multipleOf": 2, "format": "uuid", "const": 1, "minItems": 2}
    fields = {
        "a": {"type": ["string", "null"], "enum": ["x", None], **keywords},
        "b": {"allOf": [{"properties": {"c": {}}}, {"required": ["c"]}]},
        "c": {"oneOf": [{"type": "integer"}, {"prefixItems": [{"type": "string"}]}]},
        "d": {"enum": [1, "x", None]},
    }
    yield json.dumps({"properties": fields, "additionalProperties": True}).encode()
    text = (ROOT / "tests/test_schema.py").read_text()
    yield from (each.replace("'", '"').encode() for each in re.findall(r"\{[^\n]*\}", text)[:80])


def figures(data: bytes) -> None:
    """Read numbers and durations: a finite number from 0 up, or None."""
    text = text_of(data)
    for read in (number, duration):
        value = read(text)
        assert value is None or (type(value) is float and 0 <= value < float("inf"))


def figure_seeds() -> Iterator[bytes]:
    yield from (
        b"38.2s",
        b"6m0s",
        b"1h2m3.5s",
        b"340ms",
        b"1e400",
        b"-0",
        b"1_0",
        b"9" * 320 + b"h",
    )


def terminal(data: bytes) -> None:
    """Show a model's text in a terminal.

    What is shown has no character that controls it, but for the emphasis, without which the text is
    as it was. Cuts change nothing.
    """
    text = data.decode("utf-8", "replace")
    shown = printable(text)
    assert printable(shown) == shown
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2028]", shown)
    assert "\n" not in one_line(text)
    outputs = set()
    for pieces in ([data], *cuts(data)):
        emphasis = Emphasis()
        parts = "".join(emphasis.feed(piece) for piece in _text_pieces(shown, pieces))
        outputs.add(parts + emphasis.close())
    assert len({_plain(each) for each in outputs}) == 1
    assert {_plain(each) for each in outputs} == {shown}
    assert len(outputs) == 1, outputs


def _plain(text: str) -> str:
    for code in (BOLD, CODE, RESET):
        text = text.replace(code, "")
    return text


def _text_pieces(text: str, pieces: list[bytes]) -> Iterator[str]:
    """Cut a text like bytes."""
    at = 0
    for piece in pieces:
        yield text[at : at + len(piece)]
        at += len(piece)
    yield text[at:]


def terminal_seeds() -> Iterator[bytes]:
    yield b"# Title\n**bold** and `code` and ``a`b``\n```py\nx = '**'\n```\n~~~~\n~~~\n~~~~\n"
    yield "\x1b[31mred\x1b[0m \u202ereversed \u2028 line \ufeff \x9b1m".encode()
    yield b"**not ended\n#not a title\n   ### title `x`\n*` **`*` ** `"


def text_pieces(data: bytes) -> None:
    """Join surrogates and split think blocks of a text that is cut anywhere: cuts change nothing.

    A text without a think block is left as it is.
    """
    text = data.decode("utf-16-le", "surrogatepass" if len(data) % 2 == 0 else "replace")
    joined = set()
    for pieces in ([data], *cuts(data)):
        joiner = SurrogateJoiner()
        parts = [joiner.feed("x", piece) for piece in _text_pieces(text, pieces)]
        joined.add("".join(parts) + joiner.flush("x"))
    assert joined == {mend(text)}
    words = data.decode("utf-8", "replace")
    split = set()
    for pieces in ([data], *cuts(data)):
        block = ThinkBlock(ThinkTags())
        items = [item for piece in _text_pieces(words, pieces) for item in block.feed(piece)]
        items += block.close()
        said = "".join(item.text for item in items if hasattr(item, "text"))
        thought = "".join(item.reasoning for item in items if hasattr(item, "reasoning"))
        split.add((said, thought))
    assert len(split) == 1, split
    ((said, thought),) = split
    if "<think>" not in words:
        assert (said, thought) == (words, ""), "text is lost"


def text_piece_seeds() -> Iterator[bytes]:
    yield "\ud83e\udd2f a\ud83e b\udd2f".encode("utf-16-le", "surrogatepass")
    yield b"  <think>\n let me </thin see </think> \n The answer </think>"
    yield b"<thi"
    yield b"<think>not ended"


def forms(data: bytes) -> None:
    """Write a form of the input's parts: it reads back as it was, and no part makes another."""
    rng = rng_of(data)
    texts = [each.decode("utf-8", "replace") for each in data.split(b"\n\n")][:8]
    fields = [(texts[rng.randrange(len(texts))] or "x", text) for text in texts]
    files = [File("image", texts[0], "image/png", data)]
    kind, body = multipart(fields, files)
    head = f"Content-Type: {kind}\r\n\r\n".encode()
    read = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + bytes(body))
    assert read.is_multipart()
    raw = bytes(body).split(f"--{kind.partition('boundary=')[2]}".encode())
    assert len(raw) == len(fields) + len(files) + 2
    contents = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in raw[1:-1]]
    assert contents == [value.encode() for _, value in fields] + [data]
    heads = [part.partition(b"\r\n\r\n")[0] for part in raw[1:-1]]
    assert [part.count(b"\r\n") for part in heads] == [1] * len(fields) + [2]
    for part, (name, _) in zip(heads, fields, strict=False):
        quoted = re.search(rb'name="([^"]*)"', part)
        assert quoted
        assert unquote(quoted[1].decode()) == unquote(name)


def form_seeds() -> Iterator[bytes]:
    yield b'a"b\r\n\n\nvalue\n\n--\r\n'
    yield b"prompt\n\na cat\n\nsize\n\n1024x1024"
