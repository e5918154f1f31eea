"""The agent loop: tools, their calls, typed answers."""
