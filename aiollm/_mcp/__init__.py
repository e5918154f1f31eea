"""MCP servers: their processes and connections, and their tools as tools of agents."""
