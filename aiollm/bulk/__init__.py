"""Bulk runs: many requests through one registry, none lost and none asked twice."""
