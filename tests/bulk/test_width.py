"""How many rows are under way: as fast as a server takes them, and no more than it can use."""

from __future__ import annotations

import pytest

from aiollm import Target
from aiollm._bulk.width import MOST, RESERVE, START, Width

TARGET = Target("m", "x")


class Server:
    """Answers `slots` requests at a time, which begin and end after so many seconds."""

    def __init__(self, slots: int, begins: float, ends: float) -> None:
        self.slots, self.begins, self.ends = slots, begins, ends
        self.free = [0.0] * slots

    def ask(self, now: float) -> tuple[float, float]:
        """Return when a request that comes now has its first output, and its end."""
        self.free.sort()
        start = max(now, self.free[0])
        self.free[0] = start + self.ends
        return start + self.begins, start + self.ends


def widest(server: Server, rows: int) -> tuple[int, float, float]:
    """Run rows; return the most under way, the longest first output, and the time of it all."""
    width, now, most, longest = Width(None, 60.0), 0.0, 0, 0.0
    events: list[tuple[float, float, bool]] = []
    under_way = left = 0
    left = rows
    while left or events:
        while left and width.allows(under_way, 0, bounded=False):
            first, end = server.ask(now)
            events += [(first, now, True), (end, now, False)]
            under_way, left = under_way + 1, left - 1
            most = max(most, under_way)
        events.sort()
        now, asked_at, is_first = events.pop(0)
        if is_first:
            longest = max(longest, now - asked_at)
            width.first_output(TARGET, now - asked_at, under_way)
        else:
            under_way -= 1
    return most, longest, now


@pytest.mark.parametrize(
    ("server", "rows", "most", "waits"),
    [
        (Server(1, 0.5, 30.0), 30, 2, 60.0),
        (Server(4, 0.5, 20.0), 100, 10, 60.0),
        (Server(1000, 0.5, 5.0), 4000, MOST, 1.5),
    ],
)
def test_a_server_gets_what_it_can_use(server: Server, rows: int, most: int, waits: float) -> None:
    """One or four slots, whose requests queue; and one that takes a thousand."""
    wide, longest, _ = widest(server, rows)
    assert wide <= most
    assert longest < waits


def test_a_wide_server_is_found_in_a_few_rounds() -> None:
    _, _, took = widest(Server(500, 0.5, 5.0), 2000)
    assert took < 20 * 1.75  # 2,000 rows at 100 a second, and the ends of the last ones


def test_where_limits_are_known_only_those_in_line_are_bounded() -> None:
    width = Width(None)
    assert width.allows(500, RESERVE - 1, bounded=True)
    assert not width.allows(500, RESERVE, bounded=True)
    assert not width.allows(MOST, 0, bounded=True)
    assert width.allows(START - 1, RESERVE, bounded=True)


def test_a_number_is_kept() -> None:
    width = Width(5)
    assert width.allows(4, 1000, bounded=False)
    assert not width.allows(5, 0, bounded=True)
