"""HTTP: the one place that does IO; it owns aiohttp and translates its errors."""
