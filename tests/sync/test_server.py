from __future__ import annotations

import asyncio
import builtins
import contextlib
import gc
import logging
import math
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import net
import pytest
import raw
import trustme
import wire
from joined import connected
from looks import at_look, knows_looks
from net import Certificates
from raw import echo, port_of, swallow
from receiver import NoMemory

import zcws
import zcws.sync
from zcws.sync.channel import Channel
from zcws.sync.plain import open_channel
from zcws.sync.polled import begin_tls

from .conftest import Serving


@contextlib.contextmanager
def dialled(server: zcws.sync.Server) -> Iterator[socket.socket]:
    """A TCP connection, and nothing else."""
    with socket.create_connection(("127.0.0.1", port_of(server)), raw.LONG) as sock:
        yield sock


# ---- connections ----


def test_echo_both_sides_ours(serving: Serving) -> None:
    with serving(echo, compression=zcws.Deflate()) as server:
        with zcws.sync.connect(f"ws://127.0.0.1:{port_of(server)}/", compression=zcws.Deflate()) as ws:
            for message in ("é" * 1000, bytes(1_000_000), "", b"x"):
                with raw.thread(lambda message=message: ws.send(message)):
                    assert ws.recv() == message
            assert ws.ping() > 0
    assert ws.close_code == 1000


def test_tls(serving: Serving, certificates: Certificates) -> None:
    with serving(echo, ssl=certificates.server, no_masking=True) as server:
        uri = f"wss://localhost:{port_of(server)}/"
        with zcws.sync.connect(uri, ssl=certificates.client, no_masking=True) as ws:
            assert ws.connection.agreement.no_masking  # which in the clear takes more
            ws.send("secret")
            assert ws.recv() == "secret"
        with raw.client(port_of(server), context=certificates.client) as peer:
            peer.send(wire.CLOSE)
            assert peer.rest() == [wire.Seen(wire.CLOSE, b"")]


def test_frames_behind_the_request_are_kept(serving: Serving) -> None:
    with serving(echo) as server:
        with raw.client(port_of(server), behind=wire.frame(wire.TEXT, b"early", key=wire.KEY)) as peer:
            assert peer.read().payload == b"early"
            peer.send(wire.CLOSE)
            peer.rest()


def test_what_the_handler_knows(serving: Serving) -> None:
    seen: list[Any] = []

    def handler(ws: zcws.sync.WebSocket) -> None:
        assert ws.request is not None
        seen.extend([ws.request.path, ws.subprotocol, ws.remote_address[0]])

    with serving(handler, subprotocols=["b", "a"]) as server:
        with zcws.sync.connect(f"ws://127.0.0.1:{port_of(server)}/x?y", subprotocols=["a", "b"]) as ws:
            with pytest.raises(zcws.ConnectionClosedOK):
                ws.recv()
    assert seen == ["/x?y", "b", "127.0.0.1"]


@pytest.mark.parametrize("how", ["our Close", "their Close", "end", "reset"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_who_it_was_is_known_when_it_is_over(
    how: str, secure: bool, serving: Serving, certificates: Certificates
) -> None:
    """Both addresses were None from where a handler wants to log who has left."""
    seen: list[Any] = []

    entered = threading.Event()

    def handler(ws: zcws.sync.WebSocket) -> None:
        entered.set()
        try:
            if how == "our Close":
                ws.close()
            for _ in ws:
                pass
        except zcws.ConnectionClosedError:
            pass
        finally:
            ws.abort()  # the socket is gone in any case
            seen.append((ws.local_address, ws.remote_address))

    with serving(handler, ssl=certificates.server if secure else None) as server:
        with raw.client(port_of(server), context=certificates.client if secure else None) as peer:
            name = peer.sock.getsockname()
            assert entered.wait(raw.LONG)
            if how == "reset":
                peer.reset()
            elif how == "end":
                peer.close()
            else:
                peer.send(wire.CLOSE, wire.close_payload(1000))
                peer.rest()
        raw.until(lambda: seen)
        assert seen == [(("127.0.0.1", port_of(server)), name)]


# ---- handlers ----


@pytest.mark.parametrize("bug", [LookupError, SystemExit, asyncio.CancelledError])
def test_a_handler_that_raises_is_1011_and_a_log(
    serving: Serving, caplog: pytest.LogCaptureFixture, bug: type[BaseException]
) -> None:
    """Also what is no Exception: it ended nothing but the thread, the peer saw 1006, and nobody heard of it."""

    def handler(ws: zcws.sync.WebSocket) -> None:
        raise bug("a bug")

    with serving(handler) as server, raw.client(port_of(server)) as peer:
        close = peer.read()
        assert close == wire.Seen(wire.CLOSE, wire.close_payload(1011))  # nothing of the bug is told
        peer.send(wire.CLOSE, close.payload)
        assert peer.rest() == []
    (record,) = caplog.records
    assert record.exc_info is not None and "a bug" in str(record.exc_info[1])


def test_a_handler_that_fails_on_another_connection(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(ws: zcws.sync.WebSocket) -> None:
        raise zcws.ConnectionClosedError(1006)

    with serving(handler, close_timeout=0.05) as server, raw.client(port_of(server)) as peer:
        assert peer.read().payload == wire.close_payload(1011)
        peer.rest()
    assert len(caplog.records) == 1


def test_a_handler_that_fails_behind_the_end(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    def handler(ws: zcws.sync.WebSocket) -> None:
        with pytest.raises(zcws.ConnectionClosed):
            ws.recv()
        raise LookupError("a bug")

    with serving(handler) as server, raw.client(port_of(server)) as peer:
        peer.send(wire.CLOSE)
        peer.rest()
    assert "a bug" in caplog.text


def test_a_handler_that_ends_with_its_peer_is_no_failure(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(ws: zcws.sync.WebSocket) -> None:
        while True:
            ws.recv()

    with serving(handler) as server:
        with raw.client(port_of(server)) as peer:
            peer.send(wire.CLOSE, wire.close_payload(1000))
            peer.rest()
        with raw.client(port_of(server)) as peer:
            raw.until(lambda: server.connections)
            peer.reset()
        raw.until(lambda: not server.connections)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no groups")
def test_a_group_of_ends_is_no_failure(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    def handler(ws: zcws.sync.WebSocket) -> None:
        try:
            ws.recv()
        except zcws.ConnectionClosed as error:
            raise builtins.ExceptionGroup("of tasks", [error]) from None  # type: ignore[attr-defined]

    with serving(handler) as server:
        with raw.client(port_of(server)) as peer:
            peer.send(wire.CLOSE, wire.close_payload(1000))
            peer.rest()
        raw.until(lambda: not server.connections)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_what_the_system_said_of_the_end(secure: bool, serving: Serving, certificates: Certificates) -> None:
    said: list[str] = []

    def handler(ws: zcws.sync.WebSocket) -> None:
        for use in (ws.recv, ws.recv, lambda: ws.send("x")):
            with pytest.raises(zcws.ConnectionClosedError) as caught:
                use()
            said.append(str(caught.value))

    with serving(handler, ssl=certificates.server if secure else None) as server:
        with raw.client(port_of(server), context=certificates.client if secure else None) as peer:
            if secure:
                with socket.socket(fileno=os.dup(peer.sock.fileno())) as below:
                    below.sendall(b"this is no record of TLS")
            else:
                peer.reset()
            raw.until(lambda: len(said) == 3)
    # OpenSSL 3.6 says it more vaguely, and PyPy in small letters.
    reason = "WRONG_VERSION_NUMBER|(?i:RECORD.LAYER.FAILURE)" if secure else "Connection reset by peer"
    assert all(re.search(reason, each) for each in said), said


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_what_the_system_said_when_we_sent(client: bool, serving: Serving) -> None:
    with connected(client=client) as (ws, peer):
        peer.close()
        with pytest.raises(zcws.ConnectionClosedError, match="Broken pipe"):
            ws.send(bytes(1_000_000))
        with pytest.raises(zcws.ConnectionClosedError, match="Broken pipe"):
            ws.recv()


def test_a_handler_that_never_reads(serving: Serving) -> None:
    with serving(lambda ws: ws.send("hello and goodbye")) as server, raw.client(port_of(server)) as peer:
        peer.send(wire.TEXT, b"unread" * 1000)
        assert peer.read().payload == b"hello and goodbye"
        assert peer.read().payload == wire.close_payload(1000)
        peer.send(wire.CLOSE, wire.close_payload(1000))
        assert peer.rest() == []


# ---- the bound ----


def test_no_more_than_max_connections(serving: Serving) -> None:
    with serving(echo, max_connections=2) as server, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(raw.client(port_of(server))) for _ in range(2)]
        sock = stack.enter_context(dialled(server))
        sock.sendall(net.request())
        sock.settimeout(net.SHORT)
        with pytest.raises(TimeoutError):
            sock.recv(1)  # it waits in the kernel's backlog
        assert len(server.connections) == 2
        peers[0].send(wire.CLOSE)
        peers[0].rest()
        peers[0].close()
        sock.settimeout(raw.LONG)
        assert raw.head_of(sock).startswith(b"HTTP/1.1 101 ")
        third = stack.enter_context(dialled(server))
        third.sendall(net.request())
        third.settimeout(net.SHORT)
        with pytest.raises(TimeoutError):
            third.recv(1)  # one that ended made room for one


def test_who_never_reads_does_not_keep_a_slot(serving: Serving) -> None:
    """A thousand such clients, and nobody else was served for as long as they liked."""
    options: dict[str, Any] = {"ping_interval": 0.05, "ping_timeout": 0.05, "close_timeout": 0.05}
    with serving(lambda ws: ws.send(bytes(20_000_000)), max_connections=1, **options) as server:
        with raw.client(port_of(server)), dialled(server) as sock:
            sock.sendall(net.request())
            assert raw.head_of(sock).startswith(b"HTTP/1.1 101 ")


def test_slots_come_back_whatever_happens(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    def handler(ws: zcws.sync.WebSocket) -> None:
        raise SystemExit  # even this

    # What pytest hears of a thread later is the next test's fault.
    with raw.no_thread_left(), serving(handler, max_connections=1, close_timeout=0.05) as server:
        for _ in range(3):
            with dialled(server) as sock:
                sock.sendall(b"nonsense\r\n\r\n")
                assert sock.recv(100).startswith(b"HTTP/1.1 400")
            # Slower than open_timeout; the others have all the time they need.
            with monkeypatch.context() as patch:
                patch.setattr(server, "_open_timeout", 0.05)
                with dialled(server) as sock:
                    assert sock.recv(1) == b""
            with contextlib.suppress(ConnectionError), raw.client(port_of(server)) as peer:
                peer.rest()
    assert not server._opening


# ---- requests that are refused ----


def test_respond_sends_what_it_is_given(serving: Serving) -> None:
    with serving(echo, process_request=lambda server, _: server.respond(403, "no\n")) as server:
        assert server.fileno() == server.sock.fileno()
        with dialled(server) as sock:
            sock.sendall(net.request())
            head = raw.head_of(sock)
            assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n") and b"Content-Length: 3\r\n" in head
            assert sock.recv(100) == b"no\n"


def test_process_request(serving: Serving) -> None:
    def process(server: zcws.sync.Server, request: zcws.Request) -> zcws.Response | None:
        if request.path == "/health":
            return zcws.Response(200, "OK", zcws.Headers({"Content-Length": "3"}), b"up\n")
        return None

    with serving(echo, process_request=process) as server:
        with dialled(server) as sock:
            sock.sendall(net.request(target="/health"))
            assert raw.head_of(sock).startswith(b"HTTP/1.1 200 OK\r\n")
            assert sock.recv(100) == b"up\n"
            assert sock.recv(1) == b""
        with raw.client(port_of(server)) as peer:
            peer.send(wire.CLOSE)
            peer.rest()


@pytest.mark.parametrize(("path", "status"), [("/well", 200), ("/bug", 500), ("/", 400)])
def test_a_head_is_answered_without_a_body(serving: Serving, path: str, status: int) -> None:
    """RFC 9110 9.3.2, whoever has made the answer: a hook, its failure, or nobody."""
    answer = zcws.Response(200, "OK", zcws.Headers({"Content-Length": "3"}), b"up\n")

    def process(server: zcws.sync.Server, request: zcws.Request) -> zcws.Response | None:
        return {"/well": answer, "/": None}[request.path]

    with serving(echo, process_request=process) as server, dialled(server) as sock:
        sock.sendall(net.request(target=path).replace(b"GET", b"HEAD", 1))
        head = raw.head_of(sock)
        assert head.startswith(b"HTTP/1.1 %d " % status) and b"Content-Length: " in head
        assert sock.recv(1) == b""
    assert answer.body == b"up\n"


def test_a_head_that_is_refused_before_it_is_a_request(serving: Serving) -> None:
    with serving(echo) as server, dialled(server) as sock:
        sock.sendall(b"HEAD / HTTP/1.1\r\nno colon\r\n\r\n")
        assert raw.head_of(sock).startswith(b"HTTP/1.1 400 ")
        assert sock.recv(1) == b""


def test_an_answer_is_made_into_bytes_once(serving: Serving) -> None:
    times: list[int] = []

    class Counted(zcws.Response):
        def serialize(self, method: str = "GET") -> bytes:
            times.append(self.status_code)
            return super().serialize(method)

    with serving(echo, process_request=lambda *_: Counted(402, "Pay first")) as server:
        with dialled(server) as sock:
            sock.sendall(net.request())
            assert raw.head_of(sock).startswith(b"HTTP/1.1 402 Pay first\r\n")
    assert times == [402]


@pytest.mark.parametrize("how", ["raises", "cancels", "accepts"])
def test_process_request_that_fails(serving: Serving, caplog: pytest.LogCaptureFixture, how: str) -> None:
    def process(server: zcws.sync.Server, request: zcws.Request) -> zcws.Response | None:
        if how == "raises":
            raise LookupError("a bug")
        if how == "cancels":
            raise asyncio.CancelledError("a bug")  # of a loop that it ran
        return zcws.Response(101, "Switching Protocols", zcws.Headers())

    with serving(echo, process_request=process) as server, dialled(server) as sock:
        sock.sendall(net.request())
        head = raw.head_of(sock)
        assert head.startswith(b"HTTP/1.1 500 ") and b"bug" not in head
    assert "process_request or select_subprotocol failed" in caplog.text
    assert ("must not accept the connection" in caplog.text) == (how == "accepts")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"426"),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
        # What is not read has the end be a reset, unless the server waits for the client's.
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000), b"400"),
    ],
)
def test_what_is_no_websocket_request(serving: Serving, data: bytes, status: bytes) -> None:
    with serving(echo) as server, dialled(server) as sock:
        sock.sendall(data)
        answer = raw.read_to_end(sock)
        assert answer.split(b" ", 2)[1] in (status, b"405"), answer


def test_origins(serving: Serving) -> None:
    with serving(echo, origins=["https://good.example"]) as server:
        for origin, status in (("https://good.example", b"101"), ("https://bad.example", b"403")):
            with dialled(server) as sock:
                sock.sendall(net.request(f"Origin: {origin}"))
                assert raw.head_of(sock).split(b" ")[1] == status


def test_a_silent_client_costs_open_timeout_and_no_more(serving: Serving) -> None:
    with serving(echo, open_timeout=0.05) as server:
        with dialled(server) as sock:
            assert sock.recv(1) == b""
        with dialled(server) as sock, contextlib.suppress(ConnectionError):
            sock.sendall(b"GET / HTTP/1.1\r\nX: ")
            for _ in range(2000):  # a drip does not put it off
                sock.sendall(b"x")
                threading.Event().wait(0.005)
            raise AssertionError("ten seconds")


def test_a_client_that_says_nothing_of_tls(serving: Serving, certificates: Certificates) -> None:
    with serving(echo, ssl=certificates.server, open_timeout=0.05) as server, dialled(server) as sock:
        assert sock.recv(1) == b""


def test_a_client_that_has_reset_before_tls_begins(serving: Serving, certificates: Certificates) -> None:
    """Its socket is closed, for want of which pytest would fail the test."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = raw.Peer(socket.create_connection(listening.getsockname()), masks=True)
        peer.reset()  # in the backlog
        with serving(echo, sock=listening.dup(), ssl=certificates.server) as server:
            with dialled(server) as sock, certificates.client.wrap_socket(sock, server_hostname="localhost"):
                pass  # this one came behind it
            raw.until(lambda: not server._threads)


@pytest.mark.parametrize("says", [b"", b"x"])
def test_a_refused_client_that_stays(serving: Serving, monkeypatch: pytest.MonkeyPatch, says: bytes) -> None:
    """It has a second to read its answer in, whatever else it does, and no thread for longer."""
    monkeypatch.setattr("zcws.sync.server._LINGER", 0.3)
    with serving(echo, open_timeout=None) as server, dialled(server) as sock:
        sock.sendall(b"SSH-2.0-x\r\n")
        assert raw.read_to_end(sock).startswith(b"HTTP/1.1 400 ")
        with contextlib.suppress(ConnectionError):
            while says and server._threads:
                sock.sendall(says)
        raw.until(lambda: not server._threads)


def test_no_tls_where_tls_is_spoken(
    serving: Serving, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "zcws.server")
    with serving(echo, ssl=certificates.server, open_timeout=raw.LONG) as server:
        with dialled(server) as sock:
            sock.sendall(net.request())
            assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
        with dialled(server):
            pass
        with dialled(server) as sock:
            stream = certificates.client.wrap_socket(sock, server_hostname="localhost")
            stream.close()  # TLS, and then nothing
        raw.until(lambda: not server._threads)
    # Who only looks whether somebody is there, as load balancers do every few seconds, is not worth a line.
    assert len(caplog.records) == 1, caplog.text


def test_a_request_that_is_decrypted_in_one_piece_and_read_in_several(
    serving: Serving, certificates: Certificates
) -> None:
    """What TLS has decrypted already is in no socket, where more would be waited for."""
    with serving(echo, ssl=certificates.server) as server, dialled(server) as sock:
        with certificates.client.wrap_socket(sock, server_hostname="localhost") as stream:
            stream.sendall(net.request(f"X-A: {'a' * 5000}", f"X-B: {'b' * 5000}"))
            assert stream.recv(4096).startswith(b"HTTP/1.1 101 ")


def test_a_client_that_leaves_in_the_middle_of_its_request(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(echo) as server, dialled(server) as sock:
        sock.sendall(net.request()[:20])
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]


# ---- shutdown ----


class TestShutdown:
    def test_everybody_gets_1001_and_every_thread_ends(self, serving: Serving) -> None:
        codes = list[int | None]()

        def handler(ws: zcws.sync.WebSocket) -> None:
            echo(ws)
            codes.append(ws.close_code)

        with raw.no_thread_left(), serving(handler) as server, contextlib.ExitStack() as stack:
            peers = [stack.enter_context(raw.client(port_of(server))) for _ in range(5)]
            raw.until(lambda: len(server.connections) == 5)

            def answer(peer: raw.Peer) -> None:
                close = peer.read()
                assert close.payload == wire.close_payload(1001, b"restart")
                peer.send(wire.CLOSE, close.payload)
                assert peer.rest() == []
                peer.close()

            for peer in peers:
                stack.enter_context(raw.thread(lambda peer=peer: answer(peer)))
            server.shutdown(reason="restart")
            assert not server.connections and not server._threads
        assert codes == [1001] * 5  # nobody was cut off instead of waited for

    def test_a_client_that_was_refused_and_stays(
        self, serving: Serving, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is read on for a moment, and a shutdown does not wait for that."""
        monkeypatch.setattr("zcws.sync.server._LINGER", 1000)
        with serving(echo, close_timeout=None) as server, dialled(server) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            assert raw.read_to_end(sock).startswith(b"HTTP/1.1 426 ")
            with raw.thread(server.shutdown):
                pass

    def test_who_waits_while_there_is_no_thread_for_him(self, serving: Serving) -> None:
        """Nor is there while others finish by themselves."""
        with serving(echo, max_connections=1) as server, raw.client(port_of(server)) as first:
            with dialled(server) as second:
                second.sendall(net.request())
                with raw.thread(lambda: server.shutdown(drain=None)):
                    with pytest.raises(ConnectionError):
                        second.recv(1)
                    first.send(wire.CLOSE)
                    assert first.rest() == [wire.Seen(wire.CLOSE, b"")]

    def test_who_waits_at_a_server_that_does_not_serve(self) -> None:
        """Nobody drains what has not been accepted."""
        with zcws.sync.serve(echo, "127.0.0.1", 0) as server, dialled(server) as sock:
            sock.sendall(net.request())
            with raw.thread(lambda: server.shutdown(drain=None)):
                with pytest.raises(ConnectionError):
                    sock.recv(1)

    def test_peers_that_do_not_answer(self, serving: Serving) -> None:
        with serving(swallow, close_timeout=0.05) as server, raw.client(port_of(server)) as peer:
            raw.until(lambda: server.connections)
            server.shutdown()
            assert not server.connections
            assert peer.rest()[-1].payload == wire.close_payload(1001)

    def test_a_handler_that_is_stuck_in_a_send(self, serving: Serving) -> None:
        def handler(ws: zcws.sync.WebSocket) -> None:
            while True:
                ws.send(bytes(1_000_000))

        with serving(handler, close_timeout=0.1) as server, raw.client(port_of(server)):
            with raw.client(port_of(server)) as other:
                raw.until(lambda: len(server.connections) == 2)
                server.shutdown()
                assert not server.connections
                other.close()

    def test_who_cannot_be_written_to_gets_its_close_later(self, serving: Serving) -> None:
        is_full = threading.Event()

        def handler(ws: zcws.sync.WebSocket) -> None:
            while ws._channel.is_writable:
                ws.send(bytes(10_000))
            is_full.set()
            swallow(ws)

        with serving(handler, close_timeout=raw.LONG) as server, raw.client(port_of(server)) as peer:
            assert is_full.wait(raw.LONG)
            with raw.thread(server.shutdown):
                raw.until(lambda: server._sends_away)
                while (frame := peer.read()).opcode == wire.BINARY:
                    pass
                assert frame == wire.Seen(wire.CLOSE, wire.close_payload(1001))
                peer.send(wire.CLOSE, frame.payload)
                assert peer.rest() == []
                peer.half_close()

    def test_a_handler_that_never_returns_ends_with_the_process(self) -> None:
        program = """
import threading, zcws.sync

entered = threading.Event()

def handler(ws):
    entered.set()
    threading.Event().wait()

server = zcws.sync.serve(handler, "127.0.0.1", 0, close_timeout=0.01)
threading.Thread(target=server.serve_forever).start()
ws = zcws.sync.connect("ws://127.0.0.1:%d/" % server.sock.getsockname()[1], proxy=None)
entered.wait()
server.shutdown()
ws.abort()
"""
        subprocess.run([sys.executable, "-c", program], check=True, timeout=raw.LONG)

    def test_the_others_get_their_close_at_once(self, serving: Serving) -> None:
        """One connection is stuck; that does not take the time of the others."""

        def handler(ws: zcws.sync.WebSocket) -> None:
            while ws.recv() == "flood":
                ws.send(bytes(50_000_000))

        with serving(handler, close_timeout=raw.LONG) as server, raw.client(port_of(server)) as stuck:
            stuck.send(wire.TEXT, b"flood")
            with raw.client(port_of(server)) as good:
                raw.until(lambda: len(server.connections) == 2)
                raw.until(lambda: any(not ws._channel.is_writable for ws in server.connections))
                with raw.thread(server.shutdown):
                    close = good.read()
                    assert close.payload == wire.close_payload(1001)
                    good.send(wire.CLOSE, close.payload)
                    assert good.rest() == []
                    good.close()
                    raw.until(lambda: len(server.connections) == 1)
                    stuck.reset()

    @pytest.mark.parametrize("begun", [b"", net.request()[:20]])
    def test_a_handshake_that_is_not_over(self, serving: Serving, begun: bytes) -> None:
        """The client was told nothing."""
        with serving(echo, open_timeout=raw.LONG) as server, dialled(server) as sock:
            sock.sendall(begun)
            raw.until(lambda: server._opening)
            server.shutdown()
            assert not server._threads
            answer = raw.read_to_end(sock)
            assert answer.startswith(b"HTTP/1.1 503 ") and answer.endswith(
                b"\r\n\r\nthe server is shutting down\n"
            )

    def test_a_handshake_over_tls(self, serving: Serving, certificates: Certificates) -> None:
        with serving(echo, ssl=certificates.server, open_timeout=raw.LONG) as server:
            with dialled(server) as silent, dialled(server) as sock:
                with certificates.client.wrap_socket(sock, server_hostname="localhost") as stream:
                    stream.sendall(net.request()[:20])
                    raw.until(lambda: sorted(server._opening.values()) == [socket.SHUT_RD, socket.SHUT_RDWR])
                    server.shutdown()
                    assert not server._threads
                    assert stream.recv(4096).startswith(b"HTTP/1.1 503 ")
                    assert silent.recv(1) == b""

    @pytest.mark.parametrize("said", [None, 404])
    def test_a_hook_that_thinks_until_it_is_too_late(self, serving: Serving, said: int | None) -> None:
        """What it has said was not heard."""

        def think(server: zcws.sync.Server, _: zcws.Request) -> zcws.Response | None:
            raw.until(lambda: server._sends_away)
            return None if said is None else server.respond(said, "no")

        with serving(echo, process_request=think) as server, dialled(server) as sock:
            sock.sendall(net.request())
            raw.until(lambda: server._opening)
            server.shutdown()
            assert raw.head_of(sock).startswith(b"HTTP/1.1 503 ")

    def test_while_the_bound_is_reached(self, serving: Serving) -> None:
        """`serve_forever` waits for a slot then, and has to hear of it."""
        release = threading.Event()
        with serving(lambda ws: release.wait(), max_connections=1, close_timeout=0.02) as server:  # type: ignore[arg-type, return-value]
            with raw.client(port_of(server)):
                raw.until(lambda: server.connections)
                server.shutdown()  # gives up on the handler
                raw.until(lambda: not server._is_serving)
                release.set()

    def test_by_a_handler(self, serving: Serving) -> None:
        servers: list[zcws.sync.Server] = []
        with serving(lambda ws: servers[0].shutdown(), close_timeout=0.05) as server:
            servers.append(server)
            with raw.client(port_of(server)) as peer:
                assert peer.rest()[-1].payload == wire.close_payload(1001)

    def test_before_it_serves_and_twice(self) -> None:
        with zcws.sync.serve(echo, "127.0.0.1", 0) as server:
            server.shutdown()
            server.serve_forever()  # returns at once
            server.shutdown()
            with pytest.raises(ValueError):
                server.shutdown(1005)

    def test_nothing_is_accepted_any_more(self, serving: Serving) -> None:
        with serving(echo) as server:
            port = port_of(server)
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port))

    def test_a_listening_socket_that_others_share_goes_on(self, serving: Serving) -> None:
        """As with several processes: only our descriptor is closed."""
        with socket.create_server(("127.0.0.1", 0)) as shared:
            with serving(echo, sock=shared.dup()):
                pass
            with serving(echo, sock=shared.dup()), raw.client(shared.getsockname()[1]) as peer:
                peer.send(wire.CLOSE)
                peer.rest()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of descriptors that could be lowered")
def test_no_descriptor_left(
    serving: Serving, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looked after the server could not know why clients waited. It is said, and not with every try."""
    tries: list[OSError] = []
    pause = zcws.sync.Server._pause

    def counted(self: zcws.sync.Server, error: OSError) -> None:
        tries.append(error)
        pause(self, error)

    monkeypatch.setattr("zcws.sync.server.SAID", math.inf)
    monkeypatch.setattr(zcws.sync.Server, "_pause", counted)
    with serving(echo) as server, raw.client(port_of(server)) as peer, socket.socket() as sock:
        with net.no_descriptor_left():
            sock.connect(server.sock.getsockname())
            raw.until(lambda: len(tries) >= 3)
        sock.sendall(net.request())
        assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
        peer.half_close()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("zcws.server", "ERROR")
    assert "cannot accept connections" in record.getMessage()


def test_no_thread_to_be_had(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(echo, max_connections=1) as server:
        with monkeypatch.context() as patch:

            def start(self: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            patch.setattr(threading.Thread, "start", start)
            with dialled(server) as sock, contextlib.suppress(ConnectionError):
                assert sock.recv(1) == b""
        with raw.client(port_of(server)) as peer:
            peer.send(wire.CLOSE)
            peer.rest()
    assert "no thread can be started" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="no limit there")
def test_no_descriptor_to_be_had(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever dialled waits, the server too, and no slot is lost."""
    import resource

    has_waited = threading.Event()

    def sleep(seconds: float) -> None:
        has_waited.set()
        time.sleep(seconds)

    with serving(echo, max_connections=1) as server, socket.socket() as sock:
        monkeypatch.setattr("zcws.sync.server.time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
        raw.until(lambda: server._is_serving)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            sock.connect(("127.0.0.1", port_of(server)))
            assert has_waited.wait(raw.LONG)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        sock.sendall(net.request())
        assert raw.head_of(sock).startswith(b"HTTP/1.1 101 ")


def test_handlers_may_finish_while_the_server_drains(serving: Serving) -> None:
    def work(ws: zcws.sync.WebSocket) -> None:
        ws.recv()
        ws.send("done")

    with serving(work) as server:
        with zcws.sync.connect(f"ws://127.0.0.1:{port_of(server)}/") as ws:
            ws.ping()
            with raw.thread(lambda: server.shutdown(drain=60)):
                ws.send("the last one")
                assert ws.recv() == "done"
                with pytest.raises(zcws.ConnectionClosedOK) as closed:
                    ws.recv()
                assert closed.value.code == 1000


def test_whoever_has_been_accepted_is_let_in_while_the_server_drains(serving: Serving) -> None:
    """He was cut off, where another process had taken over and would have had him."""
    head = net.request()
    with serving(echo) as server, dialled(server) as sock:
        sock.sendall(head[:20])
        raw.until(lambda: server._opening)
        with raw.thread(lambda: server.shutdown(drain=60)):
            raw.until(lambda: server.sock.fileno() < 0)
            sock.sendall(head[20:])
            assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
            sock.sendall(wire.frame(wire.TEXT, b"x", key=wire.KEY))
            assert wire.parse(sock.recv(100))[0].payload == b"x"
            sock.sendall(wire.frame(wire.CLOSE, key=wire.KEY))
            assert wire.parse(sock.recv(100))[0].opcode == wire.CLOSE
            sock.shutdown(socket.SHUT_WR)  # which the server waits for


def test_a_drain_that_is_none_is_no_end(serving: Serving) -> None:
    with serving(echo) as server:
        for wrong in ("x", -1, math.nan):
            with pytest.raises((TypeError, ValueError), match=r"^drain is a number of seconds"):
                server.shutdown(drain=wrong)  # type: ignore[arg-type]
        with raw.client(port_of(server)) as peer:
            raw.until(lambda: server.connections)
            with raw.thread(lambda: server.shutdown(drain=None)):
                raw.until(lambda: server.sock.fileno() < 0)
                peer.send(wire.TEXT, b"still here")
                assert peer.read().payload == b"still here"
                peer.send(wire.CLOSE)
                assert peer.rest() == [wire.Seen(wire.CLOSE, b"")]
                peer.half_close()


def test_a_shutdown_right_behind_the_101_says_goodbye(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client was cut from an open connection, where its thread had not come any further than the answer."""
    with serving(echo) as server:

        def late(stream: socket.socket) -> Channel:
            raw.until(lambda: server.sock.fileno() < 0)
            with server._lock:  # `shutdown` has it until nobody is let in any more
                return open_channel(stream)

        monkeypatch.setattr("zcws.sync.server.open_channel", late)
        with raw.client(port_of(server)) as peer, raw.thread(server.shutdown):
            assert peer.read() == wire.Seen(wire.CLOSE, (1001).to_bytes(2, "big"))
            peer.send(wire.CLOSE, (1001).to_bytes(2, "big"))
            assert peer.rest() == []
            peer.half_close()


def test_limits_do_not_let_a_client_write_the_log(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic()
    with serving(swallow, max_size=10) as server:
        for _ in range(20):
            with raw.client(port_of(server)) as peer:
                peer.send(wire.TEXT, b"x" * 11)
                assert peer.read().opcode == wire.CLOSE
    seconds = time.monotonic() - began
    assert 1 <= len(caplog.records) <= 1 + seconds


@pytest.mark.parametrize("secure", [False, True])
def test_a_scanner_does_not_write_the_log(
    serving: Serving, certificates: Certificates, caplog: pytest.LogCaptureFixture, secure: bool
) -> None:
    """One line a second; the others are DEBUG."""
    caplog.set_level(logging.DEBUG, "zcws.server")
    began = time.monotonic()
    with serving(echo, ssl=certificates.server if secure else None) as server:
        for _ in range(20):
            with dialled(server) as sock:
                sock.sendall(b"SSH-2.0-scanner\r\n")
                raw.read_to_end(sock)
    seconds = time.monotonic() - began
    told = [record for record in caplog.records if "handshake, from ('127.0.0.1'" in record.getMessage()]
    assert len(told) == 20
    assert 1 <= len([record for record in told if record.levelno == logging.INFO]) <= 1 + seconds


def test_a_limit_that_closed_a_connection_is_a_warning(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(swallow, max_size=10) as server:
        for payload, code in ((b"x" * 11, 1009), (b"\xff", 1007)):
            with raw.client(port_of(server)) as peer:
                peer.send(wire.TEXT, payload)
                assert peer.read().payload[:2] == code.to_bytes(2, "big")
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("zcws.server", "WARNING")
    assert "closed here by a limit: 1009" in record.getMessage() and "max_size=10" in record.getMessage()
    assert "<WebSocket server with ('127.0.0.1', " in record.getMessage()


def test_no_memory_for_more_of_a_large_message(
    serving: Serving, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zcws.buffer.PayloadBuffer.slot", NoMemory())
    with serving(swallow) as server, raw.client(port_of(server)) as peer:
        peer.send(wire.BINARY, bytes(2_000_000))
        assert peer.read().payload == b"\x03\xf3no memory for what was received"
    assert ["no memory for what was received" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("data", "said", "logged"),
    [
        (b"\x16\x03\x01\x02\x00", b"is the URI wss:// where ws://", "TLS"),
        (b"SSH-2.0-x\r\n", b"this is not HTTP", "it began with b'SSH-2.0-x"),
        (b"GET / HTTP/1.1\nHost: a\n", b"ends in LF alone", "LF alone"),
    ],
)
def test_what_cannot_become_a_request_is_refused_at_once(
    serving: Serving, caplog: pytest.LogCaptureFixture, data: bytes, said: bytes, logged: str
) -> None:
    caplog.set_level(logging.INFO, "zcws.server")
    with serving(echo, open_timeout=None) as server, dialled(server) as sock:
        sock.sendall(data)
        answer = sock.recv(4096)
        assert answer.startswith(b"HTTP/1.1 400 ") and said in answer and b"SSH" not in answer
    message = caplog.records[0].getMessage()
    assert logged in message and "127.0.0.1" in message


def test_a_client_without_a_certificate_hears_why(
    serving: Serving, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In TLS 1.3 its handshake is over before ours is: what it said next, unread, had its end be a reset."""
    monkeypatch.setattr("zcws.sync.server._LINGER", raw.LONG)
    caplog.set_level(logging.INFO, "zcws.server")
    certificates = Certificates()
    certificates.server.verify_mode = ssl.CERT_REQUIRED
    with serving(echo, ssl=certificates.server) as server, dialled(server) as below:
        with certificates.client.wrap_socket(below, server_hostname="localhost") as sock:
            raw.until(lambda: caplog.records)
            with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
                for _ in range(10):
                    sock.sendall(b"GET / HTTP/1.1\r\n")
                sock.recv(1)
    (record,) = caplog.records
    assert record.levelname == "INFO" and "no TLS handshake, from ('127.0.0.1'," in record.getMessage()


def test_a_handler_knows_the_certificate_of_its_client(serving: Serving) -> None:
    authority = trustme.CA()
    server_side, client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    server_side.verify_mode = ssl.CERT_REQUIRED
    for context, name in ((server_side, "localhost"), (client_side, "ann@example.com")):
        authority.issue_cert(name).configure_cert(context)
        authority.configure_trust(context)

    def handler(ws: zcws.sync.WebSocket) -> None:
        ((kind, name),) = ws.get_extra_info("peercert")["subjectAltName"]
        ws.send(f"{kind} {name}")

    with serving(handler, ssl=server_side) as server:
        with zcws.sync.connect(f"wss://localhost:{port_of(server)}/", ssl=client_side) as ws:
            assert ws.recv() == "email ann@example.com"


def test_a_client_that_speaks_http_to_tls_hears_so(
    serving: Serving, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """And nobody else hears of HTTP."""
    caplog.set_level(logging.INFO, "zcws.server")
    with serving(echo, ssl=certificates.server) as server:
        with dialled(server) as sock:
            sock.sendall(b"SSH-2.0-x\r\n")
            assert b"HTTP" not in sock.recv(4096)
    caplog.clear()
    with serving(echo, ssl=certificates.server) as server:
        with dialled(server) as sock:
            sock.sendall(net.request())
            answer = sock.recv(4096)
        assert answer.startswith(b"HTTP/1.1 400 ") and b"TLS is spoken here: is the URI ws://" in answer
    (record,) = caplog.records
    assert "no TLS handshake, from ('127.0.0.1'," in record.getMessage()


# ---- functions that are mistakes ----


async def asynchronous(*_: Any) -> Any:
    return True


def raises(*_: Any) -> Any:
    raise LookupError("a bug")


def test_the_log_says_why_a_client_was_refused(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    """It said "connection rejected: 403", whatever the reason."""
    caplog.set_level(logging.DEBUG, "zcws.server")
    with serving(echo, origins=["https://a.example"]) as server, pytest.raises(zcws.HandshakeError):
        zcws.sync.connect(f"ws://127.0.0.1:{port_of(server)}/", open_timeout=raw.LONG)
    (said,) = [line for _, _, line in caplog.record_tuples if "rejected" in line]
    assert said.startswith("connection of ('127.0.0.1', ")
    assert said.endswith(" rejected: 403 (connections from this Origin are not accepted)")


@pytest.mark.parametrize(
    "hooks",
    [
        *({"select_subprotocol": each} for each in (raises, lambda offered: "other")),
        {"process_request": lambda server, request: "hello"},
        {"process_request": lambda server, request: asynchronous()},
        {"process_request": lambda server, request: zcws.Response(200, "OK", None, "text")},  # type: ignore[arg-type]
        {"process_request": zcws.basic_auth("r", check_credentials=raises)},
        {"process_request": zcws.basic_auth("r", check_credentials=lambda *pair: asynchronous(*pair))},
        {"process_request": [zcws.health("/", check=lambda: asynchronous())]},
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_hook_that_is_a_mistake(
    serving: Serving, hooks: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever asks gets an answer, and the log says why it is that one."""
    with serving(echo, **hooks) as server:
        with pytest.raises(zcws.HandshakeError) as refused:
            uri = f"ws://a:b@127.0.0.1:{port_of(server)}/"
            zcws.sync.connect(uri, subprotocols=["chat"], open_timeout=raw.LONG)
        assert refused.value.status == 500
        assert not server.connections
    gc.collect()  # a coroutine that was left behind would warn
    assert [(record.name, record.levelname) for record in caplog.records] == [("zcws.server", "ERROR")]


@pytest.mark.filterwarnings("error")
def test_a_handler_that_would_have_to_be_awaited(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    with serving(lambda ws: asynchronous(ws)) as server:  # type: ignore[arg-type, return-value]
        with raw.client(port_of(server)) as peer:
            assert peer.read().payload[:2] == b"\x03\xf3"
            peer.send(wire.CLOSE)
            peer.rest()
    assert "zcws.sync has no event loop" in caplog.text
    caplog.clear()  # its record has the frames, and they the coroutine
    gc.collect()


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="everything waits for the collector there")
def test_a_dead_connection_does_not_wait_for_the_collector(serving: Serving) -> None:
    # It has rings and a compressor, and the collector counts objects: a few of those are much memory.
    gc.collect()
    gc.disable()
    try:
        with serving(echo, compression="deflate") as server:
            with zcws.sync.connect(f"ws://127.0.0.1:{port_of(server)}/", compression="deflate") as ws:
                ws.send("é" * 1000)
                ws.recv()
            ours = weakref.ref(ws.connection.reader)
            del ws
            assert ours() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("is_full", [False, True])
def test_ctrl_c_ends_serve_forever(is_full: bool) -> None:
    """On Windows a signal ends no wait: it went on until the next connection came, or one had ended."""
    been = threading.Event()

    def stop(_number: int, _frame: object) -> None:
        if not been.is_set():
            been.set()
            raise KeyboardInterrupt

    def press() -> None:
        raw.until(lambda: server._is_serving and server._taken == len(clients))
        while not been.wait(0.05):  # again: it may come right before a wait
            os.kill(os.getpid(), signal.SIGINT) if os.name == "posix" else signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, stop)
    try:
        with (
            zcws.sync.serve(swallow, "127.0.0.1", 0, max_connections=1) as server,
            contextlib.ExitStack() as clients_left,
        ):
            clients = [clients_left.enter_context(dialled(server))] if is_full else []
            with raw.thread(press), pytest.raises(KeyboardInterrupt):
                server.serve_forever()
            with raw.thread(server.serve_forever):  # it can go on
                raw.until(lambda: server._is_serving)
                server.shutdown()
    finally:
        signal.signal(signal.SIGINT, before)


# Between the making of a socket and `with`, it is the collector that closes it, and Python says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@knows_looks
def test_wherever_ctrl_c_comes_nothing_stays_open() -> None:
    """Before the first wait it did: who shut the server down took it for one that is served still."""

    def press() -> None:
        raise KeyboardInterrupt

    def stop() -> None:
        raw.until(lambda: server._is_serving or fired)
        server.shutdown()

    for number in count(1):
        fired: list[None] = []
        with zcws.sync.serve(echo, "127.0.0.1", 0) as server, raw.thread(stop):
            with contextlib.suppress(KeyboardInterrupt), at_look(number, press) as fired:
                server.serve_forever()
        assert server._wake is None or server._wake.fileno() == -1, number
        assert not server._is_serving, number
        if not fired:
            break


def test_a_tls_client_that_is_accepted_while_it_shuts_down(
    monkeypatch: pytest.MonkeyPatch, certificates: Certificates
) -> None:
    """Its thread waited for a client that says nothing: `shutdown` had woken those that it knew of before."""
    begun = threading.Event()

    def begin(*words: Any, **options: Any) -> ssl.SSLSocket:
        begun.set()
        raw.until(lambda: server._sends_away)
        return begin_tls(*words, **options)

    monkeypatch.setattr("zcws.sync.server.begin_tls", begin)
    options: dict[str, Any] = {"ssl": certificates.server, "open_timeout": None, "close_timeout": None}
    with zcws.sync.serve(echo, "127.0.0.1", 0, **options) as server, raw.no_thread_left():
        with raw.thread(server.serve_forever), dialled(server) as sock:
            assert begun.wait(raw.LONG)
            server.shutdown()
            assert sock.recv(1) == b""


def test_it_is_served_once() -> None:
    """A second thread took the same number of connections again, and `shutdown` did not wake the first."""
    with zcws.sync.serve(echo, "127.0.0.1", 0) as server, raw.thread(server.serve_forever):
        raw.until(lambda: server._is_serving)
        with pytest.raises(RuntimeError, match=r"^serve_forever\(\) runs already, in another thread$"):
            server.serve_forever()
        with raw.client(port_of(server)) as peer:
            peer.send(wire.TEXT, b"x")
            assert peer.read().payload == b"x"
        server.shutdown()


def test_two_handlers_shut_it_down() -> None:
    """Each waited for the other to return."""
    both = threading.Barrier(2)

    def stop(ws: zcws.sync.WebSocket) -> None:
        both.wait(raw.LONG)
        server.shutdown(drain=None)

    with zcws.sync.serve(stop, "127.0.0.1", 0, close_timeout=None) as server:
        with raw.thread(server.serve_forever), raw.client(port_of(server)) as one:
            with raw.client(port_of(server)) as other:
                for peer in (one, other):
                    assert peer.read() == wire.Seen(wire.CLOSE, wire.close_payload(1001))
                    peer.send(wire.CLOSE, wire.close_payload(1001))
        raw.until(lambda: not server._threads)


@knows_looks
def test_wherever_a_signal_handler_shuts_it_down_handlers_return() -> None:
    """Where the thread that accepts was about to begin a connection, it held a lock that others needed for their end:
    with `close_timeout=None` the handler waited for ever."""

    def visit(sock: socket.socket) -> None:
        with contextlib.suppress(OSError, zcws.HandshakeError, zcws.ConnectionClosed):
            with zcws.sync.connect(f"ws://127.0.0.1:{port_of(server)}/", sock=sock) as ws:
                ws.recv()

    def stop() -> None:
        server.shutdown()
        assert not [thread for thread in server._threads if thread.ident]

    for number in count(1):
        with zcws.sync.serve(swallow, "127.0.0.1", 0, close_timeout=1) as server:
            with dialled(server) as first, dialled(server) as second:
                with (
                    raw.thread(partial(visit, first)),
                    raw.thread(partial(visit, second)),
                    at_look(number, stop) as fired,
                ):
                    server.serve_forever()
            assert fired
            raw.until(lambda: not server._threads)
        if server._taken > 1:
            break


def test_the_set_of_connections_is_the_callers() -> None:
    """It was the server's own: a loop over it failed when a client came, and who was lost from it got no Close."""
    with zcws.sync.serve(swallow, "127.0.0.1", 0) as server, raw.thread(server.serve_forever):
        uri = f"ws://127.0.0.1:{port_of(server)}/"
        with zcws.sync.connect(uri) as ws:
            raw.until(lambda: server.connections)
            server.connections.clear()
            for _ in server.connections:
                with zcws.sync.connect(uri):
                    raw.until(lambda: len(server.connections) == 2)
            server.shutdown()
            with pytest.raises(zcws.ConnectionClosedOK):
                ws.recv()
        assert not server.connections


def test_what_is_shown_of_a_server() -> None:
    server = zcws.sync.serve(echo, "127.0.0.1", 0)
    at = f"<Server at ('127.0.0.1', {port_of(server)}), "
    assert repr(server) == at + "not serving, 0 open>"
    with raw.thread(server.serve_forever):
        with zcws.sync.connect(f"ws://127.0.0.1:{port_of(server)}/") as ws:
            ws.send("a")
            ws.recv()
            assert repr(server) == at + "serving, 1 open>"
        server.shutdown()
    raw.until(lambda: not server._threads)
    assert repr(server) == "<Server, closed, 0 open>"


def test_who_waits_when_a_server_that_drains_is_shut_down() -> None:
    """The kernel reset all of its queue, and who had been accepted in that moment was hung up on."""
    server = zcws.sync.serve(echo, "127.0.0.1", 0)
    with raw.thread(server.serve_forever), contextlib.ExitStack() as stack:
        raw.until(lambda: server._is_serving)
        with server._lock:  # who accepts needs it for each
            peers = [stack.enter_context(dialled(server)) for _ in range(20)]
            stack.enter_context(raw.thread(lambda: server.shutdown(drain=None)))
        for peer in peers:
            peer.sendall(net.request() + wire.frame(wire.TEXT, b"mine", key=wire.KEY))
            answer = b""
            while not answer.endswith(b"mine"):
                answer += (data := peer.recv(4096))
                assert data
            peer.close()


@pytest.mark.parametrize("secure", [False, True])
def test_whoever_takes_a_long_answer_has_the_time_for_that(
    serving: Serving, certificates: Certificates, secure: bool
) -> None:
    """All of it had to be taken within what was left of `open_timeout`. Who takes nothing is cut off all the same."""
    size = 8 * 1024 * 1024

    def page(*_: object) -> zcws.Response:
        return zcws.Response(200, "OK", {"Connection": "close"}, bytes(size))

    context = certificates.server if secure else None
    with serving(echo, process_request=page, open_timeout=0.5, ssl=context) as server:
        with dialled(server) as plain, dialled(server) as silent:
            sock = certificates.client.wrap_socket(plain, server_hostname="localhost") if secure else plain
            sock.sendall(net.request())
            silent.sendall(net.request())
            began, seen = time.monotonic(), 0
            while data := sock.recv(128 * 1024):
                seen += len(data)
                if time.monotonic() - began < 1:
                    time.sleep(0.01)
            assert seen > size
            sock.close()
            raw.until(lambda: not server._threads)
