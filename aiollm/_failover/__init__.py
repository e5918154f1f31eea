"""Failover: which target is asked, when, and what is learned from it."""
