"""A FastAPI application with rooms, served by uvicorn with zcws: python fastapi_app.py 8765

The same from the command line: uvicorn fastapi_app:app --port 8765 --ws zcws.asgi.uvicorn:WebSocketProtocol
"""

from __future__ import annotations

import contextlib
import sys

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI()
rooms: dict[str, set[WebSocket]] = {}


@app.get("/")
async def names() -> list[str]:
    return sorted(rooms)


@app.websocket("/rooms/{name}")
async def room(ws: WebSocket, name: str) -> None:
    await ws.accept()
    members = rooms.setdefault(name, set())
    members.add(ws)
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            text = await ws.receive_text()
            for member in list(members):
                with contextlib.suppress(WebSocketDisconnect):  # this one is about to leave
                    await member.send_text(f"{name}: {text}")
    members.discard(ws)
    if not members:
        rooms.pop(name, None)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), ws="zcws.asgi.uvicorn:WebSocketProtocol", log_level="warning")
