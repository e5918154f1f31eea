"""Bulk runs: many requests through one registry, none lost and none asked twice."""

from aiollm.bulk.report import (
    Bucket,
    Distribution,
    Interval,
    Report,
    RowReport,
    ScoreReport,
    TargetReport,
)

__all__ = [
    "Bucket",
    "Distribution",
    "Interval",
    "Report",
    "RowReport",
    "ScoreReport",
    "TargetReport",
]
