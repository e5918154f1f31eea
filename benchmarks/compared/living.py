"""Which MCP servers live, by the notes that they left in a folder."""

from __future__ import annotations

from pathlib import Path


def living(folder: Path) -> list[int]:
    """Return the ids of the processes that have not ended."""
    return [int(note.stem) for note in folder.glob("*.pid") if lives(note.stem)]


def lives(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # one that has ended, and that nobody has asked about
