"""Bounds of what is read of a reply."""

from __future__ import annotations

MAX_ANSWER = 128 * 1024 * 1024
"""Bytes of a model's answer at most."""

MAX_IMAGE_REPLY = 256 * 1024 * 1024
"""Bytes of a reply with images at most: ten large ones in base64."""

MAX_UNARY_REPLY = 64 * 1024 * 1024
"""Bytes of a reply that is not an answer, such as a model list."""

ERROR_BODY_SECONDS = 1.0
"""How long an error body is read."""
