"""A Starlette service that streams answers as SSE; when a client leaves, the upstream is closed.

Run it with `python 13_starlette.py`; it needs `pip install starlette uvicorn`.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from aiollm import LLMError, Registry, Status, Stream, http_status


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    async with Registry() as app.state.llm:
        from stand_ins import stand_in  # here: others may import this file

        stand_in(app.state.llm, m5=[["Blue light ", "is scattered most."]], m1=["Scattering."])
        yield


async def ask(request: Request) -> StreamingResponse:
    question = request.query_params["q"]
    stream = request.app.state.llm.stream("m5/qwen3:30b,m1/qwen3:30b", question)
    try:  # until a target answers, a failure can have a status of its own
        await stream.ready(unless=leaving(request))
    except LLMError as error:
        raise HTTPException(http_status(error), str(error)) from error
    return StreamingResponse(events(stream), media_type="text/event-stream")


async def leaving(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def events(stream: Stream) -> AsyncIterator[str]:
    try:
        async for chunk in stream.heartbeat(15):
            if chunk.text:
                yield f"data: {json.dumps({'text': chunk.text})}\n\n"
            elif isinstance(chunk, Status):
                yield ": still waiting\n\n"
    except LLMError as error:
        yield f"event: error\ndata: {json.dumps(str(error))}\n\n"


app = Starlette(routes=[Route("/ask", ask)], lifespan=lifespan)


if __name__ == "__main__":
    port = int(os.environ.get("PORT", "8000"))
    uvicorn.run(app, port=port, timeout_graceful_shutdown=5)
