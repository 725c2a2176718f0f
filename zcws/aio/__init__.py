"""zcws on asyncio: the driver (stream.py), and `connect` and `serve` on top of it."""
