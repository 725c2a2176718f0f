"""A client over a socket of your own, since the core has no I/O: python own_loop.py [ADDRESS]"""

from __future__ import annotations

import os
import socket
import sys

import zcws


def open_connection(sock: socket.socket, connector: zcws.WebSocketConnector) -> zcws.Connection:
    sock.sendall(connector.request())
    received = bytearray()
    while (response := connector.read_response(received)) is None:
        received += sock.recv(4096) or sys.exit("the server closed the connection")
    agreement = connector.check(response)  # HandshakeError unless it is a 101 that answers this request
    ws = zcws.Connection(is_client=True, entropy=os.urandom, agreement=agreement)
    ws.receive_bytes(received[connector.used :])  # what came behind the head belongs to the first frames
    return ws


def read_frame(sock: socket.socket, ws: zcws.Connection) -> zcws.Frame:
    while (frame := ws.read_frame()) is zcws.NEED_MORE:
        sock.sendall(ws.bytes_to_send())  # what was written, and the core's own Pongs
        count = sock.recv_into(ws.get_buffer())  # into the ring: no copy
        ws.received(count) if count else ws.receive_eof()
    return frame


if __name__ == "__main__":
    connector = zcws.WebSocketConnector(*sys.argv[1:2] or ["ws://127.0.0.1:8765/"], entropy=os.urandom)
    with socket.create_connection((connector.uri.host, connector.uri.port)) as sock:
        ws = open_connection(sock, connector)
        ws.send("from my own loop")
        print(read_frame(sock, ws).text)
        ws.close()
        try:
            read_frame(sock, ws)
        except zcws.ConnectionClosedOK as end:
            print("the server answered the Close with", end.code)
