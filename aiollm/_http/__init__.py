"""HTTP: the one place that does IO; it owns aiohttp, translates its errors, and bounds replies."""

MAX_ANSWER = 128 * 1024 * 1024
"""The most bytes of a model's answer."""

MAX_IMAGE_REPLY = 256 * 1024 * 1024
"""The most bytes of a reply with images: ten large ones in base64."""

MAX_UNARY_REPLY = 4 * 1024 * 1024
"""The most bytes of a reply that is not an answer, such as a model list: the longest lists have one
MiB (OpenRouter, November 2026), and all of it is decoded in one go."""

MAX_VECTORS_REPLY = 64 * 1024 * 1024
"""The most bytes of a reply with vectors: 256 of 8,192 numbers with 30 digits each."""

ERROR_BODY_SECONDS = 5.0
"""Seconds to read an error body, which a busy loop or a slow proxy may hold up; of one that hangs,
what has arrived by then is used."""
