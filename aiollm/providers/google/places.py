"""Gemini, where requests go: the URLs of models' methods, and headers with the key."""

from __future__ import annotations

from functools import lru_cache

from aiollm._settings.hidden import HiddenValues
from aiollm.provider import Provider
from aiollm.providers.google.models import resource
from aiollm.providers.urls import model_path


def method_url(provider: Provider, model: str, method: str) -> str:
    """Return the URL of a model's method. Raises: ConfigError."""
    return f"{provider.base_url}/{_path(model)}:{method}"


@lru_cache(maxsize=256)
def _path(model: str) -> str:
    return model_path(resource(model), slashes=True)


def key_headers(provider: Provider) -> dict[str, str]:
    """Return the headers of a JSON request, with the provider's key."""
    headers = HiddenValues({"Content-Type": "application/json"})
    if provider.token is not None:
        headers["x-goog-api-key"] = provider.token.reveal()
    if provider.headers:
        headers.update(provider.headers)
    return headers
