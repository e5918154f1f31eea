"""Run llmock on a free port, tell its address, and end when standard input closes."""

from __future__ import annotations

import json
import os
import sys

from llmock.testing import LLMockServer

# Without a pause a whole stream is sent before anyone can leave it, and leaving goes unseen.
os.environ["LLMOCK_STREAM_CHUNK_DELAY_MS"] = "2"

with LLMockServer() as server:
    sys.stdout.write(json.dumps({"url": server.url}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
