"""OpenAI's wires, Chat Completions and Responses, and all that speak them."""
