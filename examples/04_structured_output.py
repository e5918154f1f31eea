"""Ask for a type and get a value; a reply that does not fit goes back to the model once."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from msgspec import Meta, Struct
from stand_ins import stand_in

from aiollm import OutputError, Registry


class Ticket(Struct):
    """What an email becomes; the schema is made from the type hints."""

    summary: str
    urgency: Annotated[int, Meta(ge=1, le=5)]
    team: Literal["billing", "network", "other"]


async def main() -> None:
    wrong = '{"summary": "Nothing loads", "urgency": 9, "team": "network"}'
    async with Registry() as reg:
        stand_in(reg, openai=[wrong, wrong.replace("9", "5")], m5=[wrong])
        mail = "Since this morning nothing loads, and my customers are waiting."
        try:
            typed = await reg.generate(
                "openai/gpt-6.1-sol,m5/qwen3:30b", mail, output=Ticket, with_response=True
            )
        except OutputError as error:
            print(f"no ticket: {error}")
        else:
            ticket = typed.value
            print(f"{ticket.team}, urgency {ticket.urgency}: {ticket.summary}")
            print(f"by {typed.response.target}, replies that did not fit: {len(typed.rejected)}")


if __name__ == "__main__":
    asyncio.run(main())
