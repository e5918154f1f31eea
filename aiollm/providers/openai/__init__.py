"""OpenAI's wires, Chat Completions, Responses and images, also for servers compatible with them."""
