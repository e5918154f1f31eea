"""What Redis refuses for good: what only a person can mend, and keys that it keeps from us."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

_log = logging.getLogger("aiollm")

FIRST, LONGEST = 2.0, 60.0
"""Seconds until something that was refused is asked again; doubled each time."""

MOST = 4096
"""Keys that are remembered."""

_RIGHTS = "does not let this user run scripts, publish and subscribe, or use these keys"
_FOREIGN = "has keys of another program under this namespace: choose another"
_CLUSTER = "is a cluster: name a server that holds all keys"
_LOGIN = "refuses the user or password"

_CLASSES = {
    "AuthenticationError": _LOGIN,
    "AuthenticationWrongNumberOfArgsError": _LOGIN,
    "NoPermissionError": _RIGHTS,
    "ReadOnlyError": "is a read-only replica: name the primary",
    "MovedError": _CLUSTER,
    "ClusterDownError": _CLUSTER,
    "ClusterCrossSlotError": _CLUSTER,
}
"""What only a person can mend, by the classes of redis-py."""

_WORDS = {
    "WRONGTYPE": _FOREIGN,
    "NOPROTO": "is older than Redis 6",
    "NOAUTH": "wants a password",
    "NOPERM": _RIGHTS,
    "ACL failure": _RIGHTS,
    "The user executing the script can't": _RIGHTS,
    "WRONGPASS": _LOGIN,
    "CROSSSLOT": _CLUSTER,
    "DB index": "has no database of this number",
    "invalid DB": "has no database of this number",
    "unknown command": "lacks a command that a fleet needs (Redis 6 and Valkey have all)",
}
"""The same by words of the server's error."""


def mistake_in(error: BaseException) -> str:
    """Return what a person has to mend, "" where time may."""
    text = str(error)
    return _CLASSES.get(type(error).__name__) or next(
        (meaning for word, meaning in _WORDS.items() if word in text), ""
    )


class Refusals:
    """Keys that Redis refuses, while it takes others: this process decides alone about these.

    They are asked for again after growing waits, for a person may mend it at any time.
    """

    def __init__(self, place: str, now: Callable[[], float]) -> None:
        """Take the server's name for messages, and the clock."""
        self._place = place
        self._now = now
        # Of each key: until when it is left alone, for how long, and what it was refused to.
        self._waits: dict[str, tuple[float, float, str]] = {}
        self._said: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._waits)

    def __contains__(self, key: str) -> bool:
        """Return whether a key is not to be asked for now."""
        return key in self._waits and self._now() < self._waits[key][0]

    def note(self, keys: Sequence[str], error: BaseException, script: str = "") -> bool:
        """Note which keys were refused; return False where the server refused the command itself.

        What is refused alike is said once, however many keys it concerns.
        """
        meaning = mistake_in(error)
        if meaning not in (_RIGHTS, _FOREIGN):
            return False
        for key in keys:
            self._note(key, script)
            if meaning not in self._said:
                self._said.add(meaning)
                _log.warning(
                    "the fleet's Redis at %s %s; this process decides alone about %s and its like",
                    *(self._place, meaning, key),
                )
        return True

    def _note(self, key: str, script: str) -> None:
        if key in self:
            return  # an answer to another question of the same time
        before = self._waits.pop(key, None)
        wait = FIRST if before is None else min(LONGEST, 2 * before[1])
        self._waits[key] = self._now() + wait, wait, script
        if len(self._waits) > MOST:
            del self._waits[next(iter(self._waits))]

    def worked(self, keys: Sequence[str], script: str = "") -> None:
        """Note that keys were taken; another script than the one refused may do less with them."""
        found = [key for key in keys if key in self._waits and self._waits[key][2] == script]
        for key in found:
            del self._waits[key]
        if found and not self._waits:
            self._said.clear()
            _log.info("the fleet's Redis at %s takes all keys again", self._place)
