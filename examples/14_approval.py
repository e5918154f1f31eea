"""An agent that pays what a person approves, days later: start it again with `yes` or `no`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from stand_ins import stand_in

from aiollm import ApprovalNeeded, Registry, SavedRun, from_json, to_json, tool
from aiollm.testing import tool_call

FILE = Path("run.json")


@tool
def bills() -> dict[str, float]:
    """List the open bills, in euros."""
    return {"Ann": 40.0, "Bo": 900.0}


@tool(approve=True)
def pay(to: str, euros: float) -> str:
    """Pay a bill."""
    return f"paid {euros:g} to {to}"


def keep(run: SavedRun) -> None:
    part = FILE.with_suffix(".part")
    part.write_bytes(to_json(run))
    part.replace(FILE)  # in one step


async def main() -> None:
    tools, answer = [bills, pay], sys.argv[1:]
    saved = from_json(FILE.read_bytes(), SavedRun) if answer else None  # noqa: ASYNC240
    async with Registry() as reg:
        paying = [tool_call("pay", {"to": "Ann", "euros": 40}), tool_call("bills")]
        stand_in(reg, openai=[paying], anthropic=["Ann's bill is settled as you said."])
        if saved:
            yes = answer == ["yes"] or "the owner said no"
            approvals = {call.id: yes for call in saved.calls if call.state == "waiting"}
            spec = "anthropic/claude-sonnet-5-5"  # another provider than before
            run = reg.run(spec, saved, tools=tools, approvals=approvals, save=keep)
        else:
            run = reg.run("openai/gpt-6.1-sol", "Pay all bills.", tools=tools, save=keep)
        async for event in run:
            match event:
                case ApprovalNeeded(calls=calls):
                    print("To approve:", *(call.name + call.arguments for call in calls))
                    print("Start this again with `yes` or `no`.", end="")
                case _:
                    print(event.text, end="")
    print()


if __name__ == "__main__":
    asyncio.run(main())
