"""llama-swap: OpenAI's wire with loading states, and its image routes."""
