"""Calls of the registry that return all of an answer at once."""
