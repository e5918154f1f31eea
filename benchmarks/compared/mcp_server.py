"""An MCP server with three tools: one works, one kills the server, one never returns.

`mcp_server.py FOLDER` notes its process id there, and when a call hangs.
"""

import json
import os
import sys
import time
from pathlib import Path

TOOLS = {"weather": {"city": {"type": "string"}}, "die": {}, "hang": {}}


def main(folder: Path) -> None:
    (folder / f"{os.getpid()}.pid").touch()
    for line in sys.stdin:
        request = json.loads(line)
        if "id" not in request:
            continue
        answer = answered(request["method"], request.get("params", {}), folder)
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], **answer}), flush=True)


def answered(method: str, params: dict, folder: Path) -> dict:
    match method, params.get("name"):
        case "initialize", _:
            about = {"name": "forecaster", "version": "1"}
            version = params["protocolVersion"]
            result = {"protocolVersion": version, "capabilities": {"tools": {}}}
            return {"result": {**result, "serverInfo": about}}
        case "tools/list", _:
            return {"result": {"tools": [listed(name) for name in TOOLS]}}
        case "tools/call", "weather":
            city = params["arguments"]["city"]
            return {"result": {"content": [{"type": "text", "text": f"{city}: 21 degrees"}]}}
        case "tools/call", "die":
            os._exit(3)
        case "tools/call", "hang":
            (folder / "hanging").touch()
            time.sleep(600)
    return {"error": {"code": -32601, "message": "no such method"}}


def listed(name: str) -> dict:
    schema = {"type": "object", "properties": TOOLS[name], "required": [*TOOLS[name]]}
    return {"name": name, "description": f"Do {name}.", "inputSchema": schema}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
