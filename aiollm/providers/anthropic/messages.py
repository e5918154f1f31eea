"""Encode conversations as Anthropic's messages: turns, blocks, ids, replayed state."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

from aiollm._wire.body import Blob
from aiollm._wire.image_type import image_mime
from aiollm._wire.lenient import load
from aiollm.errors import UnsupportedError
from aiollm.providers.anthropic.models import Model
from aiollm.providers.cache_points import CacheMarks, is_marked
from aiollm.providers.encoder import Encoder
from aiollm.providers.encoding import Warnings
from aiollm.providers.turns import OPENED, OPENING
from aiollm.types import (
    AudioPart,
    CachePoint,
    DocumentPart,
    ImagePart,
    Message,
    OpaquePart,
    Part,
    ProviderData,
    ReasoningPart,
    RefusalPart,
    Request,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

FAMILY = "anthropic"

Block: TypeAlias = dict[str, Any]

_WIRE_ROLES = {"user": "user", "tool": "user", "assistant": "assistant", "system": "system"}


UNMARKED = ("thinking", "redacted_thinking")
"""Blocks that cannot be the end of what is cached (Anthropic, November 2026)."""


def messages(
    request: Request, facts: Model, warnings: Warnings, marks: CacheMarks | None = None
) -> list[Any]:
    """Return the wire messages: turns alternate, and tool results come first in their turn.

    `marks` are put at the cache points; None leaves these out.
    Raises: UnsupportedError for what Anthropic does not accept.
    """
    turns = _Encoder(facts, warnings, marks).encode(request, facts)
    if not turns:
        raise UnsupportedError("Anthropic requires a message besides the system prompt")
    _check_prefill(turns[-1], facts)
    return turns


def _block_of(part: OpaquePart) -> Block:
    block = part.provider_data.data.get("block")
    return block if isinstance(block, dict) else {}


def _is_open(turns: list[Block]) -> bool:
    """Return whether a call of Anthropic's own tools has no result yet."""
    waiting: set[str] = set()
    for block in (block for turn in turns for block in turn["content"]):
        if block.get("type") in _OWN_CALLS:
            waiting.add(str(block.get("id")))
        elif _is_own_result(block):
            waiting.discard(str(block["tool_use_id"]))
    return bool(waiting)


def _add(turns: list[Block], role: str, blocks: list[Block]) -> None:
    """Add blocks to the last turn if that has their role, else as a new turn.

    What a user says after a system message goes before it: Anthropic accepts a system turn only
    after a user's turn, and before an answer or at the end (July 2026).
    """
    at = len(turns)
    if role == "user" and turns and turns[-1]["role"] == "system":
        at -= 1
    if at and turns[at - 1]["role"] == role:
        turns[at - 1]["content"] += blocks
    else:
        turns.insert(at, {"role": role, "content": blocks})


def _pair_hosted(turns: list[Block], warnings: Warnings) -> None:
    """Leave out halves of what Anthropic ran itself: calls without results, and the reverse.

    An answer that was cut ends in a call, and a history that was cut may begin with a result. The
    API refuses both, but for calls in a turn that goes on, in which only results of other tools may
    follow (Anthropic on stop reasons, 2026).
    """
    halves = set(_halves(turns))
    if not halves:
        return
    warnings.add("half of a call of Anthropic's own tools is left: dropped")
    for number, turn in enumerate(turns):
        blocks = enumerate(turn["content"])
        turn["content"] = [block for at, block in blocks if (number, at) not in halves]
    turns[:] = [turn for turn in turns if turn["content"]]


def _halves(turns: list[Block]) -> Iterator[tuple[int, int]]:
    """Yield the places of halves: the number of the turn, and that of the block in it."""
    waiting: dict[str, tuple[int, int]] = {}
    for number, turn in enumerate(turns):
        others = (each for each in turn["content"] if each.get("type") != "tool_result")
        if turn["role"] != "assistant" and any(others):
            yield from waiting.values()
            waiting = {}
        for at, block in enumerate(turn["content"]):
            if block.get("type") in _OWN_CALLS:
                id_ = str(block.get("id"))
                if (before := waiting.get(id_)) is not None:
                    yield before
                waiting[id_] = number, at
            elif _is_own_result(block) and waiting.pop(str(block["tool_use_id"]), None) is None:
                yield number, at


def _end_in_words(turns: list[Block], warnings: Warnings) -> None:
    """Leave out thoughts at the end of a turn, which the API refuses: the answer was cut there."""
    for turn in turns:
        blocks = turn["content"]
        while turn["role"] == "assistant" and blocks and blocks[-1].get("type") in UNMARKED:
            blocks.pop()
            warnings.add("thoughts without an answer after them are not sent back")
    turns[:] = [turn for turn in turns if turn["content"]]


_OWN_CALLS = ("server_tool_use", "mcp_tool_use")


def _is_own_result(block: Block) -> bool:
    return "tool_use_id" in block and block.get("type") != "tool_result"


def _check_prefill(last: Block, facts: Model) -> None:
    """Refuse an assistant turn at the end, unless the server itself paused it."""
    if last["role"] != "assistant":
        return
    final = last["content"][-1]
    if final["type"] != "text":
        return
    if not facts.prefill:
        raise UnsupportedError(
            "this model does not continue an assistant message: end with a user message"
        )
    # A new block, for it may be the caller's own, of a part that goes back as it came.
    last["content"][-1] = final | {"text": final["text"].rstrip()}


def container(request: Request) -> str:
    """Return the id of the container in which the turn that goes on ran code, "" for none.

    Calls that come from code are answered in the code's container (Anthropic, 2025). A later turn
    gets a new one, because an old container expires and its id would then end every request.
    """
    before = (message for message in reversed(request.messages) if message.role != "tool")
    last = next(before, None)
    if last is None or last.role != "assistant":
        return ""
    for part in reversed(last.parts):
        match part:
            case OpaquePart(
                provider_data=ProviderData(family="anthropic", data={"container": {"id": str(id_)}})
            ):
                return id_
            case _:
                pass
    return ""


class _Encoder(Encoder):
    """Parts to blocks, with one table of ids for the whole conversation."""

    def __init__(self, facts: Model, warnings: Warnings, marks: CacheMarks | None) -> None:
        super().__init__(warnings, marks)
        self._facts = facts
        self._ids: dict[str, str] = {}
        self._taken: set[str] = set()
        self._is_open = False
        self.ran = False
        """Whether there are calls of Anthropic's own tools."""
        self.thought = False
        """Whether there are thoughts."""

    @property
    def is_closed(self) -> bool:
        return not self._is_open

    def ends(self, messages: Sequence[Message]) -> bool:
        return not any(
            type(part) is OpaquePart and _block_of(part).get("type") in _OWN_CALLS
            for message in messages
            for part in message.parts
        )

    def separate(self) -> None:
        self._ids, self._taken = self._ids.copy(), self._taken.copy()

    def items(self, messages: tuple[Message, ...], *, is_first: bool) -> list[Any]:
        turns: list[Block] = []
        self.ran = self.thought = False
        for message in messages:
            role = self.role(message)
            before = turns[-1]["content"] if turns else []
            if blocks := self.blocks(message, role, before):
                _add(turns, role, blocks)
        self.settle(turns)
        if self.ran:
            _pair_hosted(turns, self.warnings)
            self._is_open = _is_open(turns)
        if self.thought:
            _end_in_words(turns, self.warnings)
        for turn in turns:
            # The API wants the results that answer a turn before anything else, in their order.
            turn["content"].sort(key=lambda block: block.get("type") != "tool_result")
        if is_first and turns and turns[0]["role"] == "assistant":
            # It must be the user's (November 2026).
            turns.insert(0, {"role": "user", "content": [{"type": "text", "text": OPENING}]})
            self.warnings.add(OPENED)
        return turns

    def role(self, message: Message) -> str:
        if message.role == "system" and not self._facts.system_turns:
            return self._fold("inside a conversation")
        return _WIRE_ROLES[message.role]

    def settle(self, turns: list[Block]) -> None:
        """Make a system turn the user's if no user's turn comes before it."""
        for at, turn in enumerate(turns):
            if turn["role"] == "system" and (not at or turns[at - 1]["role"] != "user"):
                turn["role"] = self._fold("except after a user's message")

    def _fold(self, where: str) -> str:
        self.warnings.add(
            f"this model does not accept a system message {where}: sent as the user's"
        )
        return "user"

    def blocks(self, message: Message, role: str, before: list[Block]) -> list[Block]:
        """Return the blocks of a message; a cache point at its start marks those before it."""
        encode = self._assistant if role == "assistant" else self._user
        blocks: list[Block] = []
        for part in message.parts:
            if type(part) is CachePoint:
                if self.marks is not None:
                    self.marks.end(blocks or before, UNMARKED)
            elif (block := encode(part)) is not None:
                blocks.append(block)
                if type(part) is ToolResultPart and self.marks is not None and is_marked(part):
                    self.marks.end(blocks)
        return blocks

    def _user(self, part: Part) -> Block | None:
        match part:
            case TextPart() | RefusalPart():
                return self._text(part)
            case ImagePart():
                return self._marked(_image(part), part)
            case DocumentPart():
                return self._marked(_document(part), part)
            case ToolResultPart():
                return self._result(part)
            case OpaquePart():
                return self._opaque(part)
            case AudioPart():
                raise UnsupportedError("Anthropic does not accept audio: send a transcript")
            case _:
                self._drop(part, "user")
                return None

    def _assistant(self, part: Part) -> Block | None:
        match part:
            case TextPart() | RefusalPart():
                return self._text(part)
            case ToolCallPart():
                return self._call(part)
            case ReasoningPart():
                return self._reasoning(part)
            case OpaquePart():
                return self._opaque(part)
            case _:
                self._drop(part, "assistant")
                return None

    def _opaque(self, part: OpaquePart) -> Block | None:
        own = self.warnings.own(part.provider_data, FAMILY, "a part")
        block = own.get("block") if own else None
        if block is not None and (block.get("type") in _OWN_CALLS or _is_own_result(block)):
            self.ran = True
        return block if block is None or self.marks is None else self.marks.note(dict(block))

    def _drop(self, part: Part, role: str) -> None:
        name = type(part).__name__.removesuffix("Part").lower()
        self.warnings.add(f"Anthropic accepts no {name} part in the {role}'s turn: dropped")

    def _marked(
        self, block: Block, part: TextPart | ImagePart | DocumentPart | ToolCallPart
    ) -> Block:
        """Add the block's own keys that the part carries, such as `cache_control`."""
        own = self.warnings.own(part.provider_data, FAMILY, "the state of a part")
        if not own:
            return block
        return block | own if self.marks is None else self.marks.note(block | own)

    def _text(self, part: TextPart | RefusalPart) -> Block | None:
        if not part.text.strip():
            return None
        block = {"type": "text", "text": part.text}
        return self._marked(block, part) if isinstance(part, TextPart) else block

    def _call(self, part: ToolCallPart) -> Block:
        block = {
            "type": "tool_use",
            "id": self._id(part.id),
            "name": self.call_name(part.name),
            "input": self._input(part),
        }
        return self._marked(block, part)

    def _input(self, part: ToolCallPart) -> Any:
        """Return the arguments unchanged if they are an object, as required, else `{}`."""
        text = part.arguments or "{}"
        try:
            if isinstance(msgspec.json.decode(text), dict):
                return msgspec.Raw(text.encode())
        except (ValueError, RecursionError):
            value = load(text.encode("utf-8", "surrogatepass"))
            if isinstance(value, dict):
                return value
        self.warnings.add(f"the arguments of call {part.id!r} are not a JSON object: sent as {{}}")
        return {}

    def _result(self, part: ToolResultPart) -> Block:
        block: Block = {"type": "tool_result", "tool_use_id": self._id(part.id)}
        content = [self._user(item) for item in part.content if type(item) is not CachePoint]
        if kept := [item for item in content if item is not None]:
            block["content"] = kept
        if part.is_error:
            block["is_error"] = True
        return block

    def _reasoning(self, part: ReasoningPart) -> Block | None:
        own = self.warnings.own(part.provider_data, FAMILY, "reasoning")
        self.thought = self.thought or own is not None
        match own:
            case {"redacted_thinking": data}:
                return {"type": "redacted_thinking", "data": data}
            case {"signature": signature}:
                return {"type": "thinking", "thinking": part.text, "signature": signature}
            case _ if part.provider_data is not None:
                return None
            case _ if self._facts.unsigned and part.text:
                self.thought = True
                return {"type": "thinking", "thinking": part.text, "signature": ""}
            case _:
                self.warnings.add("reasoning without a signature cannot be replayed: dropped")
                return None

    def _id(self, id_: str) -> str:
        """Replace characters that Anthropic refuses; the same id maps to the same result."""
        if id_ not in self._ids:
            clean = re.sub(r"[^a-zA-Z0-9_-]", "_", id_) or "call"
            taken = self._taken
            tries = (f"{clean}_{number}" for number in range(2, len(taken) + 3))
            self._ids[id_] = new = clean if clean not in taken else _first_free(tries, taken)
            taken.add(new)
        return self._ids[id_]


def _first_free(tries: Iterable[str], taken: set[str]) -> str:
    return next(name for name in tries if name not in taken)


def _image(part: ImagePart) -> Block:
    return {"type": "image", "source": _source(part, image_mime(part), "an image")}


def _document(part: DocumentPart) -> Block:
    if part.mime.startswith("text/") and part.data:
        text = part.data.decode("utf-8-sig", "replace")
        source = {"type": "text", "media_type": "text/plain", "data": text}
    elif part.data and part.mime != "application/pdf":
        raise UnsupportedError(f"Anthropic accepts documents as PDF or text, not {part.mime!r}")
    else:
        source = _source(part, part.mime, "a document")
    return {"type": "document", "source": source, "title": part.name}


def _source(part: ImagePart | DocumentPart, mime: str, what: str) -> Block:
    if part.url.startswith("data:"):
        head, _, data = part.url[5:].partition(",")
        if not head.endswith(";base64"):
            raise UnsupportedError(f"{what} as a data URL must be in base64")
        return {"type": "base64", "media_type": head.partition(";")[0], "data": data}
    if part.url:
        return {"type": "url", "url": part.url}
    if not mime:
        raise UnsupportedError(f"the format of {what} is not known: set its mime")
    media_type = "image/jpeg" if mime == "image/jpg" else mime
    return {"type": "base64", "media_type": media_type, "data": Blob(part.data)}
