"""Model servers that can be managed: llama-swap and Ollama."""
