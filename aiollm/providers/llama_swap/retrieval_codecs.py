"""llama-swap, embeddings and reranking: OpenAI's wire under /v1, with llama-swap's own errors."""

from __future__ import annotations

from aiollm.errors import LLMError
from aiollm.provider import HttpRequest, HttpResponse, Provider
from aiollm.providers.llama_swap.codec import LlamaSwapCodec, openai_wire
from aiollm.providers.openai.embed_codec import OpenAIEmbeddings
from aiollm.providers.openai.rerank_codec import CohereRerank
from aiollm.retrieval import EmbedRequest, RerankRequest
from aiollm.types import Target


class LlamaSwapEmbeddings(OpenAIEmbeddings):
    """Embeddings of the upstreams, which are llama.cpp, vLLM and the like."""

    def encode(self, provider: Provider, target: Target, request: EmbedRequest) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError."""
        return super().encode(openai_wire(provider), target, request)

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply, llama-swap's own or the upstream's."""
        return LlamaSwapCodec().error(reply)


class PlainLlamaSwapEmbeddings(LlamaSwapEmbeddings):
    """For upstreams that refuse to be asked for base64."""

    asks_for_base64 = False


class LlamaSwapRerank(CohereRerank):
    """Reranking by the upstreams."""

    def encode(self, provider: Provider, target: Target, request: RerankRequest) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError."""
        return super().encode(openai_wire(provider), target, request)

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply, llama-swap's own or the upstream's."""
        return LlamaSwapCodec().error(reply)
