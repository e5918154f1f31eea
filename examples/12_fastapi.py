"""A FastAPI service that streams answers as SSE; when a client leaves, the upstream is closed.

Run it with `python 12_fastapi.py`; it needs `pip install fastapi uvicorn`.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse

from aiollm import LLMError, Registry, Status, Stream, http_status


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with Registry() as app.state.llm:
        from stand_ins import stand_in  # here: others may import this file

        stand_in(app.state.llm, m5=[["Blue light ", "is scattered most."]], m1=["Scattering."])
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/ask")
async def ask(q: str, request: Request) -> StreamingResponse:
    stream = request.app.state.llm.stream("m5/qwen3:30b,m1/qwen3:30b", q)
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


if __name__ == "__main__":
    port = int(os.environ.get("PORT", "8000"))
    uvicorn.run(app, port=port, timeout_graceful_shutdown=5)
