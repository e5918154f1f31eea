"""The registry's calls that return all of an answer at once, and what starts all calls."""
