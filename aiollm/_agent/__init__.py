"""The agent loop: tools, their calls, and typed answers."""
