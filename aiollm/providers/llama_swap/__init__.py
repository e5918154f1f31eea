"""llama-swap: OpenAI's wire with loading states, and image routes."""
