"""The response cache: complete answers in a file of the user's, replayed to equal requests."""
