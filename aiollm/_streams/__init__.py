"""The stream handles that callers iterate, and the accumulator behind them."""
