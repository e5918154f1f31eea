"""Ollama's errors: rows that match its texts."""

from __future__ import annotations

from aiollm.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    QuotaError,
    UnsupportedFeatureError,
)
from aiollm.providers.error_replies import Rule
from aiollm.providers.shared_errors import RUNNER_TEXTS

RULES = (
    *RUNNER_TEXTS,
    Rule(UnsupportedFeatureError, texts=("does not support",)),
    Rule(UnsupportedFeatureError, texts=("missing data required for image input",)),
    Rule(InvalidRequestError, status=500, texts=("must be of type",)),
    Rule(OverloadedError, texts=("server busy",), retry_after=2.0),
    Rule(OverloadedError, texts=("requires more system memory",), retry_after=60.0),
    Rule(QuotaError, status=429, texts=("usage limit",)),
    Rule(ModelNotFoundError, texts=("requires a subscription, upgrade for access",)),  # 2026
    Rule(UnsupportedFeatureError, status=400, texts=("invalid think value",)),  # 2026
)
"""Ollama's errors are texts without codes or delays, so two rows have their own (seconds)."""
