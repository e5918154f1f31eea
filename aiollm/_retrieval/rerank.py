"""Reranking: one request to the first target that answers."""

from __future__ import annotations

from aiollm._failover.keywords import CallOptions
from aiollm._retrieval.calls import Calls
from aiollm._retrieval.openers import RerankOpener
from aiollm.retrieval import Ranking, RerankRequest
from aiollm.spec import Plan


async def rerank(
    calls: Calls, spec: str | Plan, request: RerankRequest, options: CallOptions
) -> Ranking:
    """Return the documents, best first. Raises: LLMError, FailoverError."""
    policy, (plan, providers, deadlines) = calls.resolve(spec, options)
    opener = RerankOpener(request, providers, deadlines, calls.resources)
    ranking: Ranking = await calls.ask(plan, opener, policy)
    return ranking
