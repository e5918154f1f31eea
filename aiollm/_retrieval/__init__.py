"""Embedding and reranking: calls of one reply each, and the batches of many inputs."""
