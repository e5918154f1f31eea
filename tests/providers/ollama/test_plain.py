"""Lines read the short way give what they give when each is read in full."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aiollm._wire.lenient import SurrogateJoiner
from aiollm.errors import LLMError
from aiollm.providers.ollama.decode import OllamaDecoder
from aiollm.types import Item


def maybe(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects that have each of the fields with one of its values, or lack it."""
    return st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in fields.items()})


TEXTS = ("", "a", "b", "\ud83e", "\udd2f", None)
CALL = {"function": {"name": "f", "arguments": {"x": 1}}}
LINE = st.builds(
    lambda message, rest: {"message": message} | rest,
    maybe(content=TEXTS, thinking=TEXTS, tool_calls=([], [CALL], None)) | st.none(),
    maybe(
        done=(False, False, True, None),
        done_reason=("stop", "length", None),
        eval_count=(3,),
        error=("", "e", None),
    ),
)
FRAMES = st.lists(LINE.map(lambda line: json.dumps(line).encode()), max_size=8)


def read(frames: list[bytes], *, short: bool) -> tuple[str, str]:
    """Return the items, ids that are made up at random masked, and how the reply ended."""
    decoder, out, end = OllamaDecoder(), list[Item](), ""
    if not short:
        decoder._joiner = SurrogateJoiner()
    try:
        decoder.feed(frames, out)
        decoder.close(out)
    except LLMError as error:
        end = repr(error)
    return re.sub(r"call_[0-9a-f]{16}", "call", repr(out)), end


@given(frames=FRAMES)
def test_the_short_way_gives_what_the_long_one_gives(frames) -> None:
    assert read(frames, short=True) == read(frames, short=False)
