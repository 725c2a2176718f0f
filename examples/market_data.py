"""Prices for everybody who wants them, and only the newest for whoever is slow: python market_data.py [PORT]

Then, as often as you like: zcws connect ws://127.0.0.1:8765/prices/EURUSD
"""

from __future__ import annotations

import asyncio
import json
import random
import sys

import zcws

prices = {"EURUSD": 1.0842, "USDJPY": 154.76}
#: A price is old when there is a new one, so a slow connection gets the newest when it has caught up.
rooms = {symbol: zcws.Room(slow="latest") for symbol in prices}
router = zcws.Router()


@router.route("/prices/{symbol}")
async def subscribe(ws: zcws.WebSocket, symbol: str) -> None:
    if symbol not in rooms:
        await ws.close(4004, "no such symbol")
        return
    with rooms[symbol].join(ws):
        await ws.wait_closed()


async def publish() -> None:
    while True:
        for symbol, room in rooms.items():
            prices[symbol] *= 1 + random.gauss(0, 1e-4)
            # Made once, framed once; every connection is given the same bytes.
            room.broadcast(json.dumps({"symbol": symbol, "price": round(prices[symbol], 5)}))
        await asyncio.sleep(0.1)


async def main(port: int) -> None:
    async with zcws.serve(router, "127.0.0.1", port) as server:
        print(f"listening on ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/prices/EURUSD", flush=True)
        await asyncio.gather(publish(), server.serve_forever())


if __name__ == "__main__":
    try:
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8765))
    except KeyboardInterrupt:
        pass
