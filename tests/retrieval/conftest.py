"""Servers and registries for the tests of embedding and reranking: those of images."""

from tests.images.conftest import registry, serve

__all__ = ["registry", "serve"]
