"""Lists of models in OpenAI's form: of each model only its name is decoded."""

from __future__ import annotations

from typing import Any

import msgspec

from aiollm._wire.lenient import decode, mend_all
from aiollm.errors import ProtocolError


class _Model(msgspec.Struct, gc=False):
    id: str | None = None


class _Page(msgspec.Struct, gc=False):
    object: Any = None
    data: list[_Model] | None = None
    models: list[_Model] | None = None


_BARE = msgspec.json.Decoder(list[_Model])
_PAGE = msgspec.json.Decoder(_Page)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def listed_names(body: bytes) -> tuple[str, ...]:
    """Read a list of models, bare or under `data` or `models`. Raises: ProtocolError."""
    models: list[_Model] | None = None
    data = body.removeprefix(_BYTE_ORDER_MARK).strip()  # each decoder would look at all of it
    try:
        if data.startswith(b"["):
            models = decode(data, _BARE)
        else:
            page = decode(data, _PAGE)
            models = page.models if page.data is None else page.data
            if models is None and page.object == "list":
                models = []  # Ollama writes null where it has none (0.23)
    except ProtocolError:
        pass
    if models is None:
        raise ProtocolError("the reply is not a list of models", frame=body)
    return tuple(mend_all([model.id for model in models if model.id]))
