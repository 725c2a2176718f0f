"""picows, both ways round: its own interface, which is frames without compression, and `picows.websockets`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from interop.talk import BYE, Message, check_echo, our_client, our_server, thirds, whole
from interop.websockets_api import their_client, their_server

import zcws

picows = pytest.importorskip("picows", reason="picows exists for CPython only")
their_websockets = pytest.importorskip("picows.websockets", reason="picows exists for CPython only")

# ---- picows.websockets ----

PARAMETERS = {
    "as they come": zcws.Deflate(),
    "small windows": zcws.Deflate(server_max_window_bits=9, client_max_window_bits=9),
    "large windows": zcws.Deflate(server_max_window_bits=15, client_max_window_bits=15),
    "no takeover": zcws.Deflate(server_no_context_takeover=True, client_no_context_takeover=True),
}


def test_our_client_and_their_server() -> None:
    async def run() -> None:
        async with their_server(their_websockets, compression=None) as theirs:
            assert await our_client(theirs.address) is None
            assert [await theirs.closes.get() for _ in range(4)] == [(1000, ""), (1000, ""), BYE, BYE]

    asyncio.run(run())


def test_their_client_and_our_server() -> None:
    async def run() -> None:
        async with our_server() as ours:
            await their_client(their_websockets, ours, compression=None)

    asyncio.run(run())


def test_our_client_and_their_server_compress() -> None:
    async def run() -> None:
        async with their_server(their_websockets) as theirs:
            assert await our_client(theirs.address, compression="deflate") is not None

    asyncio.run(run())


@pytest.mark.parametrize("deflate", PARAMETERS.values(), ids=PARAMETERS)
def test_their_client_and_our_server_compress(deflate: zcws.Deflate) -> None:
    async def run() -> None:
        async with our_server(compression=deflate) as ours:
            await their_client(their_websockets, ours)
            for agreed in ours.agreements:
                assert agreed is not None
                assert agreed.server_max_window_bits == (deflate.server_max_window_bits or 15)
                assert agreed.server_no_context_takeover == deflate.server_no_context_takeover

    asyncio.run(run())


# ---- picows ----


class Echo(picows.WSListener):  # type: ignore[misc, name-defined]
    """Follows the scripts of talk.py, frame by frame: fragments go back as fragments."""

    def __init__(self, path: str = "/") -> None:
        self.path = path
        self.parts: list[bytes] = []

    def on_ws_connected(self, transport: Any) -> None:
        if self.path == "/ping":
            transport.send_ping(b"are you there?")
        if self.path == "/close":
            transport.send_close(picows.WSCloseCode.OK, BYE[1].encode())

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        kinds = picows.WSMsgType
        if frame.msg_type is kinds.PONG and frame.get_payload_as_bytes() == b"are you there?":
            transport.send(kinds.TEXT, b"pong")
        elif frame.msg_type is kinds.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type not in (kinds.PING, kinds.PONG):
            self.echo(transport, frame)

    def echo(self, transport: Any, frame: Any) -> None:
        payload = frame.get_payload_as_bytes()
        if self.path != "/fragments":
            transport.send(frame.msg_type, payload, fin=frame.fin)
            return
        first, middle, last = thirds(payload)
        transport.send(frame.msg_type, first, fin=False)
        transport.send(picows.WSMsgType.CONTINUATION, middle, fin=False)
        transport.send(picows.WSMsgType.CONTINUATION, last)


def test_our_client_and_their_frames() -> None:
    async def run() -> None:
        server = await picows.ws_create_server(lambda request: Echo(request.path.decode()), "127.0.0.1", 0)
        address = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with zcws.connect(f"{address}/") as ws:
            await check_echo(ws.send, ws.recv)
            await ws.send(["one ", "two ", "three"])
            assert await ws.recv() == "one two three"
            await ws.ping(b"still there?")
        assert ws.close_code == 1000
        async with zcws.connect(f"{address}/fragments") as ws:
            await check_echo(ws.send, ws.recv)
        async with zcws.connect(f"{address}/ping") as ws:
            assert await ws.recv() == "pong"
        async with zcws.connect(f"{address}/close") as ws:
            with pytest.raises(zcws.ConnectionClosedOK) as closed:
                await ws.recv()
        assert (closed.value.code, closed.value.reason) == (1000, BYE[1])
        server.close()

    asyncio.run(run())


class Collect(picows.WSListener):  # type: ignore[misc, name-defined]
    """Puts whole messages, Pongs and the Close into a queue."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[Any] = asyncio.Queue()
        self.parts: list[Message] = []
        self.is_text = False

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        kinds = picows.WSMsgType
        if frame.msg_type is kinds.PONG:
            self.got.put_nowait(("pong", frame.get_payload_as_bytes()))
        elif frame.msg_type is kinds.CLOSE:
            self.got.put_nowait(("close", frame.get_close_code(), frame.get_close_reason()))
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type is not kinds.PING:
            if frame.msg_type is not kinds.CONTINUATION:
                self.is_text = frame.msg_type is kinds.TEXT
            self.parts.append(frame.get_payload_as_bytes())
            if frame.fin:
                message = b"".join(self.parts)  # type: ignore[arg-type]
                self.parts = []
                self.got.put_nowait(message.decode() if self.is_text else message)


def test_their_frames_and_our_server() -> None:
    async def connect(address: str) -> tuple[Any, Collect]:
        transport, listener = await picows.ws_connect(Collect, address)
        return transport, listener

    async def run() -> None:
        kinds = picows.WSMsgType
        async with our_server() as ours:
            transport, listener = await connect(f"{ours.address}/")

            async def send(message: Message) -> None:
                text = isinstance(message, str)
                transport.send(kinds.TEXT if text else kinds.BINARY, message.encode() if text else message)

            await check_echo(send, listener.got.get)
            transport.send(kinds.TEXT, "naï".encode()[:-1], fin=False)  # cut inside the letter
            transport.send_ping(b"still there?")
            transport.send(kinds.CONTINUATION, "ï".encode()[1:] + b"ve")
            assert await listener.got.get() == ("pong", b"still there?")
            assert await listener.got.get() == "naïve"
            transport.send_close(picows.WSCloseCode.OK, BYE[1].encode())
            assert await listener.got.get() == ("close", picows.WSCloseCode.OK, BYE[1])
            assert await ours.closes.get() == (1000, BYE[1])

            transport, listener = await connect(f"{ours.address}/fragments")
            transport.send(kinds.BINARY, b"abcdef")
            assert await listener.got.get() == whole(thirds(b"abcdef"))
            transport.disconnect()
            assert (await ours.closes.get())[0] == 1006

            transport, listener = await connect(f"{ours.address}/ping")
            assert await listener.got.get() == "pong"
            transport.disconnect()

            transport, listener = await connect(f"{ours.address}/close")
            assert (await listener.got.get())[2] == BYE[1]

    asyncio.run(run())
