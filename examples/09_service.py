"""An aiohttp service that streams answers as SSE; when a client leaves, the upstream is closed."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiohttp import web

from aiollm import LLMError, Registry, Status, http_status

REGISTRY = web.AppKey("registry", Registry)
SSE = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}


async def ask(request: web.Request) -> web.StreamResponse:
    reg, reply = request.app[REGISTRY], web.StreamResponse(headers=SSE)
    async with reg.stream("m5/qwen3:30b,m1/qwen3:30b", request.query["q"]) as stream:
        try:
            await stream.ready()  # until a target answers, a failure can have a status of its own
            await reply.prepare(request)
            async for chunk in stream.heartbeat(15):
                if chunk.text:
                    await reply.write(f"data: {json.dumps({'text': chunk.text})}\n\n".encode())
                elif isinstance(chunk, Status):
                    await reply.write(b": still waiting\n\n")
        except LLMError as error:
            if not reply.prepared:
                return web.json_response({"error": str(error)}, status=http_status(error))
            await reply.write(f"event: error\ndata: {json.dumps(str(error))}\n\n".encode())
    return reply


@asynccontextmanager
async def start_and_stop(app: web.Application) -> AsyncGenerator[None]:
    async with Registry() as app[REGISTRY]:
        from stand_ins import stand_in  # here: others may import this file

        stand_in(app[REGISTRY], m5=[["Blue light ", "is scattered most."]], m1=["Scattering."])
        yield


if __name__ == "__main__":
    app = web.Application()
    app.router.add_get("/ask", ask)
    app.cleanup_ctx.append(start_and_stop)
    port = int(os.environ.get("PORT", "8000"))
    web.run_app(app, host="127.0.0.1", port=port, handler_cancellation=True)
