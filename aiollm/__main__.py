"""`python -m aiollm` is the command `aiollm`."""

from __future__ import annotations

import sys

from aiollm.cli import main

if __name__ == "__main__":
    sys.exit(main())
