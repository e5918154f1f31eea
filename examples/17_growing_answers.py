"""Show a typed answer while it is written, then use it as what it is."""

from __future__ import annotations

import asyncio

from msgspec import Struct
from stand_ins import stand_in

from aiollm import OutputError, Registry, StreamInterrupted


class Stop(Struct):
    """One place of a trip."""

    place: str
    days: int


class Trip(Struct):
    """What is asked for."""

    title: str
    stops: list[Stop]


async def main() -> None:
    stops = '[{"place": "Oslo", "days": 2}, {"place": "Bergen", "days": 1}]'
    script = [*f'{{"title": "North", "stops": {stops}}}']
    async with Registry() as reg:
        failure = StreamInterrupted("the server went away")
        stand_in(reg, openai=[[*script[:56], failure]], m5=[script])
        spec = "openai/gpt-6.1-sol,m5/qwen3:30b"
        stream = reg.stream(spec, "Norway by train, please.", output=Trip, on_interrupt="restart")
        shown = 0
        try:
            async with stream:
                async for partial in stream.partials():
                    if partial.data is None:
                        print("once more:")  # another target begins again
                        shown = 0
                        continue
                    seen = partial.data.get("stops", [])
                    while shown < len(seen) and partial.is_final("stops", shown):
                        print(f"- {seen[shown]['place']}")
                        shown += 1
        except OutputError as error:
            print(f"no trip: {error}")
            return
        trip = stream.value
        print(f"{trip.title}: {sum(stop.days for stop in trip.stops)} days by {stream.target}")


if __name__ == "__main__":
    asyncio.run(main())
