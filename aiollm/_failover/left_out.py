"""Leave out the files that a target does not take, where the caller prefers that to a refusal."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from aiollm.capabilities import Capabilities
from aiollm.types import (
    AudioPart,
    DocumentPart,
    ImagePart,
    Notice,
    Request,
    TextPart,
    ToolResultPart,
)


def without_unsupported(
    request: Request, capabilities: Capabilities
) -> tuple[Request, list[Notice]]:
    """Return the request with a placeholder for each file of a kind that the target refuses.

    Also return notices about them. What needs no change is the same object.
    """
    kinds = {ImagePart: "image", DocumentPart: "document", AudioPart: "audio"}
    taken = {
        ImagePart: capabilities.images and capabilities.max_images_per_request != 0,
        DocumentPart: capabilities.documents,
        AudioPart: capabilities.audio,
    }
    refused: dict[type, str] = {
        kind: kinds[kind] for kind, is_taken in taken.items() if not is_taken
    }
    if not refused:
        return request, []
    counts: Counter[str] = Counter()

    def kept(part: Any) -> Any:
        if (name := refused.get(type(part))) is not None:
            counts[name] += 1
            return TextPart(f"[{name} left out: this model takes none]")
        if type(part) is ToolResultPart:
            content = tuple(map(kept, part.content))
            if any(new is not old for new, old in zip(content, part.content, strict=True)):
                return msgspec.structs.replace(part, content=content)
        return part

    messages = []
    for message in request.messages:
        parts = tuple(map(kept, message.parts))
        same = all(new is old for new, old in zip(parts, message.parts, strict=True))
        messages.append(message if same else msgspec.structs.replace(message, parts=parts))
    if not counts:
        return request, []
    notices = [
        Notice(f"{count} {name} part{'s' * (count > 1)} left out: this model takes none")
        for name, count in counts.items()
    ]
    return msgspec.structs.replace(request, messages=tuple(messages)), notices
