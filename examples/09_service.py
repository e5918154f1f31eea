"""An aiohttp service that streams answers as SSE; when a client leaves, the upstream is closed."""

from __future__ import annotations

import json
import os

from aiohttp import web

from aiollm import LLMError, Registry

REGISTRY = web.AppKey("registry", Registry)


async def ask(request: web.Request) -> web.StreamResponse:
    reg, question = request.app[REGISTRY], request.query["q"]
    reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    async with reg.stream("m5/qwen3:30b,m1/qwen3:30b", question) as stream:
        try:
            async for chunk in stream:
                if chunk.text:  # until there is some, a failed call can be a 502
                    await reply.prepare(request)  # the first time; later this does nothing
                    await reply.write(f"data: {json.dumps({'text': chunk.text})}\n\n".encode())
        except LLMError as error:
            if not reply.prepared:
                return web.json_response({"error": str(error)}, status=502)
            await reply.write(f"event: error\ndata: {json.dumps(str(error))}\n\n".encode())
    return reply


async def close(app: web.Application) -> None:
    await app[REGISTRY].aclose()


if __name__ == "__main__":
    app = web.Application()
    app[REGISTRY] = Registry()
    app.router.add_get("/ask", ask)
    app.on_cleanup.append(close)
    web.run_app(app, port=int(os.environ.get("PORT", "8000")), handler_cancellation=True)
