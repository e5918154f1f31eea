"""The codes that commands exit with."""

from __future__ import annotations

OK, FAILED, USAGE, STOPPED, INTERRUPTED, BROKEN_PIPE, TERMINATED = 0, 1, 2, 3, 130, 141, 143
