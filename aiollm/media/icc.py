"""Tell by its numbers whether a colour profile is sRGB: its name may say so and be wrong."""

from __future__ import annotations

import struct
from functools import lru_cache
from struct import unpack_from

MOST = 64 * 1024
"""Bytes of a profile that are looked at; those of RGB without large tables have 0.5 to 4 KB."""

_TAGS = 100
_PRIMARIES = {
    b"rXYZ": (0.4361, 0.2225, 0.0139),
    b"gXYZ": (0.3851, 0.7169, 0.0971),
    b"bXYZ": (0.1431, 0.0606, 0.7141),
}
"""Those of sRGB, adapted to D50 as profiles have them."""
_NEAR = 0.004
"""How far a primary may be off; vendors differ by 0.0005, the nearest other space by 0.03."""
_LEVELS = tuple(level / 16 for level in range(1, 17))
_ALIKE = 3 / 255
"""How far a grey may be off. A plain gamma of 2.2 differs by 8/255, which can be seen."""
_TABLES = {b"A2B0", b"A2B1", b"D2B0"}
"""Tables that replace primaries and curves."""


@lru_cache(maxsize=16)
def needs_conversion(profile: bytes) -> bool:
    """Return whether pixels with this profile, or the start of it, look wrong if taken as sRGB.

    That is False for bytes that are not a profile, since nothing can be converted by them.
    """
    if profile[36:40] != b"acsp":
        return False
    try:
        return not _is_srgb(profile)
    except (struct.error, IndexError, KeyError, ArithmeticError, ValueError):
        return True  # a profile of some other kind, or one that is not all here


def _is_srgb(profile: bytes) -> bool:
    tags = _tags(profile)
    if tags.keys() & _TABLES:
        return False
    match profile[16:20]:
        case b"GRAY":
            return _is_srgb_curve(profile, tags[b"kTRC"])
        case b"RGB ":
            starts = {tags[name] for name in (b"rTRC", b"gTRC", b"bTRC")}
            return _has_primaries(profile, tags) and all(
                _is_srgb_curve(profile, start) for start in starts
            )
        case _:
            return False


def _tags(profile: bytes) -> dict[bytes, int]:
    """Return where each tag's data starts."""
    (count,) = unpack_from(">I", profile, 128)
    entries = (unpack_from(">4sI", profile, 132 + 12 * at) for at in range(min(count, _TAGS)))
    return dict(entries)


def _has_primaries(profile: bytes, tags: dict[bytes, int]) -> bool:
    for name, wanted in _PRIMARIES.items():
        kind, *found = unpack_from(">4s4xiii", profile, tags[name])
        if kind != b"XYZ ":
            return False
        if any(abs(each / 65536 - old) > _NEAR for each, old in zip(found, wanted, strict=True)):
            return False
    return True


def _is_srgb_curve(profile: bytes, start: int) -> bool:
    kind, count = unpack_from(">4s4xI", profile, start)
    if kind == b"para":
        return all(_alike(level, _parametric(profile, start, level)) for level in _LEVELS)
    if kind != b"curv" or count == 0:  # 0 is linear
        return False
    if count == 1:
        gamma = unpack_from(">H", profile, start + 12)[0] / 256
        return all(_alike(level, level**gamma) for level in _LEVELS)
    return all(_alike(level, _sampled(profile, start + 12, count, level)) for level in _LEVELS)


def _alike(level: float, light: float) -> bool:
    """Return whether sRGB shows this amount of light at the same level."""
    wanted: float = light * 12.92 if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055
    return abs(wanted - level) <= _ALIKE


def _sampled(profile: bytes, first: int, count: int, level: float) -> float:
    place = level * (count - 1)
    at = min(int(place), count - 2)
    low, high = unpack_from(">HH", profile, first + 2 * at)
    light: float = (low + (high - low) * (place - at)) / 65535
    return light


def _parametric(profile: bytes, start: int, x: float) -> float:
    """Evaluate a curve of the types 0 to 4: a power, with a straight piece below `d`."""
    (kind,) = unpack_from(">H", profile, start + 8)
    fields = (1, 3, 4, 5, 7)[kind]
    values = [each / 65536 for each in unpack_from(f">{fields}i", profile, start + 12)]
    gamma, a, b, c, d, e, f = values + [0.0] * (7 - fields)
    match kind:
        case 0:
            a = 1.0
        case 1:
            d = -b / a
        case 2:
            d, e, f = -b / a, c, c
            c = 0.0
        case _:
            pass
    light: float = (a * x + b) ** gamma + e if x >= d else c * x + f
    return light
