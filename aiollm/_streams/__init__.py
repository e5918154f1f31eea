"""Streams: the handles that callers iterate, and the accumulator behind them."""
