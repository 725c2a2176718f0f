"""What browsers and tools really send, recorded, over a real socket: each is let in, and an echo comes back."""

from __future__ import annotations

import asyncio

import pytest
import wire
from heads import ACCEPT, head, names
from interop.talk import our_server

HELLO = "hello, naïve client".encode()


async def talk(port: int, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """The response to a request that arrives in pieces, and the frame that answers the one behind it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    response = await reader.readuntil(b"\r\n\r\n")
    echo = await reader.readexactly(2 + len(HELLO))
    writer.close()
    await writer.wait_closed()
    return response, echo


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("name", names("request"))
def test_recorded_request(name: str, compression: str | None) -> None:
    async def run() -> None:
        request = head(name).replace(request_target(name), b"/", 1)
        frame = wire.frame(wire.TEXT, HELLO, key=wire.KEY)
        # Whole, with the first frame right behind the head; and cut in the middle of the head.
        for cut in (0, len(request) // 2, len(request) - 2):
            async with our_server(compression=compression) as ours:
                port = int(ours.address.rpartition(":")[2])
                response, echo = await talk(port, [request[:cut], request[cut:] + frame])
            assert response.startswith(b"HTTP/1.1 101 ")
            assert f"\r\nSec-WebSocket-Accept: {ACCEPT}\r\n".encode() in response
            offered = b"permessage-deflate" in request
            assert (b"permessage-deflate" in response) == (offered and compression is not None)
            assert b"no-masking" not in response  # off unless a server asks for it
            assert echo == wire.frame(wire.TEXT, HELLO)

    asyncio.run(run())


def request_target(name: str) -> bytes:
    """Our server goes by the path."""
    return head(name).split(b" ", 2)[1]


def test_firefox_is_one_of_them() -> None:
    """`Connection: keep-alive, Upgrade` is a list; a server that compares it with "Upgrade" turns Firefox away."""
    assert b"\r\nConnection: keep-alive, Upgrade\r\n" in head("request-firefox")
