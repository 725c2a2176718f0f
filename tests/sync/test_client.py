from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import logging
import math
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import raw
import trustme
import wire
from net import Certificates, free_port, response

import zcws
import zcws.sync
from zcws.sync import client as module
from zcws.sync.client import ConnectOptions

from .conftest import Serving


def goodbye(peer: raw.Peer) -> None:
    """Answers the client's Close."""
    peer.send(wire.CLOSE, peer.read().payload)


@contextlib.contextmanager
def answering(*answers: bytes | Callable[[bytes], bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """A server that gives these answers, a connection each; its port and the heads of the requests."""
    heads: list[bytes] = []

    def run() -> None:
        for answer in answers:
            listening.settimeout(raw.LONG)
            sock, _ = listening.accept()
            with sock:
                heads.append(raw.head_of(sock))
                sock.sendall(answer if isinstance(answer, bytes) else answer(heads[-1]))

    with socket.create_server(("127.0.0.1", 0)) as listening, raw.thread(run):
        yield listening.getsockname()[1], heads


def connect(port: int, path: str = "/", **options: Any) -> zcws.sync.WebSocket:
    return zcws.sync.connect(f"ws://127.0.0.1:{port}{path}", **{"close_timeout": 0.5, **options})


# ---- a connection ----


def test_a_connection_and_what_is_known_of_it() -> None:
    def script(peer: raw.Peer) -> None:
        assert peer.read() == wire.Seen(wire.TEXT, b"hello", masked=True)
        peer.send(wire.TEXT, b"hi")
        goodbye(peer)

    with raw.server(script, headers=b"X-Answer: yes\r\n") as port:
        with connect(port, "/path?query", additional_headers={"X-Question": "who"}) as ws:
            assert ws.request is not None and ws.request.path == "/path?query"
            assert ws.request.headers["X-Question"] == "who"
            assert ws.response is not None and ws.response.headers["X-Answer"] == "yes"
            assert ws.remote_address == ("127.0.0.1", port)
            assert repr(ws) == f"<WebSocket client with ('127.0.0.1', {port}), blocking, open>"
            ws.send("hello")
            assert ws.recv() == "hi"
    assert ws.close_code == 1000


def test_frames_behind_the_response_are_kept() -> None:
    behind = wire.frame(wire.TEXT, b"first") + wire.frame(wire.PING, b"p") + wire.frame(wire.TEXT, b"second")

    def script(peer: raw.Peer) -> None:
        assert peer.read()[:2] == (wire.PONG, b"p")
        goodbye(peer)

    with raw.server(script, behind=behind) as port, connect(port) as ws:
        assert [ws.recv(), ws.recv()] == ["first", "second"]


@pytest.mark.parametrize("headers", [b"Sec-WebSocket-Extensions: permessage-deflate\r\n", b""])
def test_compression(headers: bytes) -> None:
    def script(peer: raw.Peer) -> None:
        frame = peer.read()
        assert frame.rsv == (4 if headers else 0)
        peer.send(wire.TEXT, frame.payload, rsv=frame.rsv)
        goodbye(peer)

    with raw.server(script, headers=headers) as port, connect(port, compression="deflate") as ws:
        ws.send("x" * 1000)
        assert ws.recv() == "x" * 1000


def test_a_subprotocol() -> None:
    with raw.server(goodbye, headers=b"Sec-WebSocket-Protocol: two\r\n") as port:
        with connect(port, subprotocols=["one", "two"]) as ws:
            assert ws.subprotocol == "two"


def test_a_socket_of_ones_own() -> None:
    with raw.server(goodbye) as port:
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setblocking(False)
        with zcws.sync.connect("ws://example.invalid/", sock=sock) as ws:
            assert ws.request is not None and ws.request.headers["Host"] == "example.invalid"


def test_a_unix_socket(socket_path: Path) -> None:
    def run() -> None:
        peer = raw.accept(listening)
        assert peer.read().payload == b"hello"
        goodbye(peer)
        peer.close()

    with socket.socket(socket.AF_UNIX) as listening:
        path = str(socket_path)
        listening.bind(path)
        listening.listen()
        with raw.thread(run), zcws.sync.unix_connect(path) as ws:
            ws.send("hello")
        with raw.thread(run), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            with zcws.sync.unix_connect(sock=sock) as ws:
                ws.send("hello")
        with pytest.raises(OSError):
            zcws.sync.unix_connect(path + "x")
        with pytest.raises(TypeError, match="unix_connect"):
            zcws.sync.unix_connect()


# ---- TLS ----


class TestTls:
    def test_trusted(self, certificates: Certificates) -> None:
        def script(peer: raw.Peer) -> None:
            peer.send(wire.TEXT, b"secret")
            goodbye(peer)

        with raw.server(script, context=certificates.server) as port:
            with zcws.sync.connect(f"wss://localhost:{port}/", ssl=certificates.client) as ws:
                assert ws.recv() == "secret"

    @pytest.mark.parametrize("why", ["authority", "name"])
    def test_not_trusted(self, certificates: Certificates, why: str) -> None:
        """By default the certificate and the name are checked."""
        failures: list[BaseException] = []

        def run() -> None:
            sock, _ = listening.accept()
            with sock, contextlib.suppress(ssl.SSLError, ConnectionError):
                certificates.server.wrap_socket(sock, server_side=True)

        options: dict[str, Any] = {"ssl": certificates.client, "server_hostname": "example.com"}
        with socket.create_server(("127.0.0.1", 0)) as listening, raw.thread(run):
            uri = f"wss://127.0.0.1:{listening.getsockname()[1]}/"
            hint = "; server_hostname= is" if why == "name" else '; ssl="authority.pem" trusts'
            with pytest.raises(ssl.SSLCertVerificationError, match=f"certificate verify failed.*{uri}{hint}"):
                zcws.sync.connect(uri, **(options if why == "name" else {}))
        assert not failures

    def test_a_certificate_that_the_server_wants(
        self, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """TLS 1.3 tells of it when the client's part of the handshake is over. RFC 8446 6.2."""
        monkeypatch.setattr(certificates.server, "verify_mode", ssl.CERT_REQUIRED)

        def run() -> None:
            sock, _ = listening.accept()
            with sock, contextlib.suppress(ssl.SSLError):
                certificates.server.wrap_socket(sock, server_side=True)

        with socket.create_server(("127.0.0.1", 0)) as listening, raw.thread(run):
            with pytest.raises(zcws.HandshakeError, match=r"handshake: .*certificate required") as failed:
                zcws.sync.connect(f"wss://localhost:{listening.getsockname()[1]}/", ssl=certificates.client)
        assert isinstance(failed.value.__cause__, ssl.SSLError)

    def test_a_server_that_chose_http2_and_goes(self) -> None:
        """The context offers it. Another attempt does no better."""
        certificates = Certificates()
        for context in (certificates.server, certificates.client):
            context.set_alpn_protocols(["h2"])

        def run() -> None:
            sock, _ = listening.accept()
            with certificates.server.wrap_socket(sock, server_side=True) as stream:
                raw.head_of(stream)

        with socket.create_server(("127.0.0.1", 0)) as listening, raw.thread(run):
            with pytest.raises(zcws.HandshakeError, match=r"HTTP/2, .* must not offer it \(ALPN\)") as failed:
                zcws.sync.connect(f"wss://localhost:{listening.getsockname()[1]}/", ssl=certificates.client)
        assert zcws.process_exception(failed.value) is failed.value

    def test_a_context_without_wss_is_a_mistake(self, certificates: Certificates) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            with pytest.raises(ValueError, match="wss"):
                connect(listening.getsockname()[1], ssl=certificates.client)

    def test_refused_over_tls(self, certificates: Certificates) -> None:
        """Nothing stays open (an unclosed socket is a failure here)."""

        def run() -> None:
            sock, _ = listening.accept()
            with certificates.server.wrap_socket(sock, server_side=True) as stream:
                raw.head_of(stream)
                stream.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

        with socket.create_server(("127.0.0.1", 0)) as listening, raw.thread(run):
            with pytest.raises(zcws.HandshakeError) as caught:
                uri = f"wss://localhost:{listening.getsockname()[1]}/"
                zcws.sync.connect(uri, ssl=certificates.client)
        assert caught.value.status == 404

    def test_what_breaks_tls_takes_back_nothing_that_the_server_has_said(
        self, certificates: Certificates
    ) -> None:
        """It hid the status, and `reconnect` tried a 401 again and again."""

        def run() -> None:
            sock, _ = listening.accept()
            with certificates.server.wrap_socket(sock, server_side=True) as stream:
                raw.head_of(stream)
                stream.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 1000\r\n\r\nno")
                socket.socket.sendall(stream, b"no record of TLS")
                with contextlib.suppress(OSError):
                    socket.socket.recv(stream, 1)  # until the client is gone

        with socket.create_server(("127.0.0.1", 0)) as listening, raw.thread(run):
            with pytest.raises(zcws.HandshakeError) as caught:
                uri = f"wss://localhost:{listening.getsockname()[1]}/"
                zcws.sync.connect(uri, ssl=certificates.client)
        assert (caught.value.status, caught.value.body) == (401, b"no")


# ---- what is no agreement ----


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno!\n", 403, b"no!\n"),
        (b"HTTP/1.1 500 Oh\r\n\r\nuntil the end", 500, b"until the end"),
        (b"HTTP/1.1 500 Oh\r\n\r\n" + bytes(10_000), 500, bytes(10_000)),
        (b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 400, b"abc"),
    ],
)
def test_another_status(answer: bytes, status: int, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_TIMEOUT", 1000)  # which ends none of these
    with answering(answer) as (port, _), pytest.raises(zcws.HandshakeError) as caught:
        connect(port, open_timeout=None)
    assert (caught.value.status, caught.value.body) == (status, body)


def test_who_has_the_whole_body_does_not_wait_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_TIMEOUT", 1000)

    def run() -> None:
        sock, _ = listening.accept()
        with sock:
            raw.head_of(sock)
            sock.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 10000\r\n\r\n" + bytes(10_000))
            assert sock.recv(1) == b""  # the client is the first to end it

    with socket.create_server(("127.0.0.1", 0)) as listening, raw.thread(run):
        with pytest.raises(zcws.HandshakeError) as caught:
            connect(listening.getsockname()[1], open_timeout=None)
    assert caught.value.body == bytes(10_000)


def test_a_body_that_is_there_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast it comes: no more than what came with the head."""
    monkeypatch.setattr(module, "BODY_TIMEOUT", 0)
    with answering(b"HTTP/1.1 500 Oh\r\n\r\n" + bytes(10_000)) as (port, _):
        with pytest.raises(zcws.HandshakeError) as caught:
            connect(port)
    assert caught.value.status == 500 and len(caught.value.body) < 4096


def test_a_body_that_never_ends() -> None:
    """It used up `open_timeout`, and the refusal was told as `TimeoutError`, after which `reconnect` tries again."""
    done = threading.Event()

    def run() -> None:
        sock, _ = listening.accept()
        with sock, contextlib.suppress(OSError):
            sock.sendall(b"HTTP/1.1 401 No\r\n\r\nno, ")
            while not done.wait(0.02):
                sock.sendall(b"and ")

    with socket.create_server(("127.0.0.1", 0)) as listening, raw.thread(run):
        with pytest.raises(zcws.HandshakeError) as caught:
            connect(listening.getsockname()[1], open_timeout=30)
        done.set()
    assert caught.value.status == 401
    assert caught.value.body.startswith(b"no, ")


def test_a_body_that_stops() -> None:
    done = threading.Event()

    def run() -> None:
        sock, _ = listening.accept()
        with sock:
            sock.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 9\r\n\r\nno")
            done.wait(raw.LONG)

    with socket.create_server(("127.0.0.1", 0)) as listening, raw.thread(run):
        with pytest.raises(zcws.HandshakeError) as caught:
            connect(listening.getsockname()[1], open_timeout=0.2)
        done.set()
    assert (caught.value.status, caught.value.body) == (401, b"no")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 101 Sw",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        lambda head: response(head).replace(b"Sec-WebSocket-Accept: ", b"Sec-WebSocket-Accept: x"),
        lambda head: response(head, b"Sec-WebSocket-Protocol: nobody-asked\r\n"),
        lambda head: response(head, b"Sec-WebSocket-Extensions: permessage-deflate\r\n"),
    ],
)
def test_no_agreement(answer: Any) -> None:
    with answering(answer) as (port, _), pytest.raises(zcws.HandshakeError):
        connect(port)


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 101 "])
def test_open_timeout(beginning: bytes) -> None:
    done = threading.Event()

    def run() -> None:
        sock, _ = listening.accept()
        with sock:
            sock.sendall(beginning)
            done.wait(raw.LONG)

    with socket.create_server(("127.0.0.1", 0)) as listening, raw.thread(run):
        with pytest.raises(TimeoutError):
            connect(listening.getsockname()[1], open_timeout=0.05)
        done.set()


def test_a_server_that_drips_does_not_put_the_timeout_off() -> None:
    def run() -> None:
        sock, _ = listening.accept()
        with sock, contextlib.suppress(OSError):
            sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nX: ")
            while True:
                sock.sendall(b"x")
                threading.Event().wait(0.005)

    with socket.create_server(("127.0.0.1", 0)) as listening, raw.thread(run):
        with pytest.raises(TimeoutError, match=r"in open_timeout=0\.5 seconds"):
            connect(listening.getsockname()[1], open_timeout=0.5)


def test_what_the_network_calls_a_timeout_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be long before `open_timeout`, or without one."""
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *_: errno.ETIMEDOUT)
    with pytest.raises(TimeoutError, match=r"^\[.*cannot connect to 127\.0\.0\.1:1: ") as caught:
        connect(1)
    assert caught.value.errno == errno.ETIMEDOUT


def test_a_server_that_leaves_in_the_middle_of_the_request() -> None:
    """What the system said of that is the cause."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def leave() -> None:
            peer = raw.Peer(listening.accept()[0], masks=False)
            peer.exactly(1)
            peer.reset()

        with raw.thread(leave), pytest.raises(zcws.HandshakeError, match="before it answered") as caught:
            # More than fits into the buffers of both.
            connect(listening.getsockname()[1], additional_headers={"X": "x" * 30_000_000})
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_nobody_there() -> None:
    with free_port() as port, pytest.raises(OSError):
        connect(port)


@pytest.mark.parametrize("uri", ["http://localhost/", "ws://", "ws://localhost/#fragment", "localhost"])
def test_no_uri(uri: str) -> None:
    with pytest.raises(ValueError):
        zcws.sync.connect(uri)


# ---- redirects ----


class TestRedirects:
    MOVED = b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"

    def test_followed_when_asked(self) -> None:
        with answering(self.MOVED, self.MOVED, response) as (port, heads):
            ws = connect(port, max_redirects=2)
            ws.abort()
        assert [head.split(b" ")[1] for head in heads] == [b"/", b"/there", b"/there"]

    def test_not_otherwise(self) -> None:
        with answering(self.MOVED) as (port, _), pytest.raises(zcws.HandshakeError) as caught:
            connect(port)
        assert caught.value.status == 302

    def test_too_many(self) -> None:
        with answering(self.MOVED, self.MOVED) as (port, _):
            with pytest.raises(zcws.HandshakeError, match="max_redirects=1"):
                connect(port, max_redirects=1)

    def test_a_socket_of_ones_own_leads_nowhere_else(self) -> None:
        with answering(self.MOVED) as (port, _):
            sock = socket.create_connection(("127.0.0.1", port))
            with pytest.raises(zcws.HandshakeError):
                zcws.sync.connect("ws://localhost/", sock=sock, max_redirects=3)

    def test_to_one_that_does_not_answer(self) -> None:
        """The first had not answered, said the error."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            there = f"127.0.0.1:{listening.getsockname()[1]}/"
            with answering(self.MOVED.replace(b"/there", b"http://" + there.encode())) as (port, _):
                said = f"^ws://{there} has not answered .* seconds; ws://[^ ]*:{port}/ redirects there$"
                with pytest.raises(TimeoutError, match=said):
                    connect(port, max_redirects=1, open_timeout=0.3)

    def test_to_tls_that_is_not_trusted(self, serving: Serving, certificates: Certificates) -> None:
        """The error advised `ssl=`, which is refused with ws://."""
        with serving(raw.echo, ssl=certificates.server) as server:
            there = f"https://localhost:{raw.port_of(server)}/".encode()
            with answering(self.MOVED.replace(b"/there", there)) as (port, _):
                with pytest.raises(ssl.SSLCertVerificationError, match=r"is that of wss://localhost:\d+/$"):
                    connect(port, max_redirects=1)

    def test_from_tls_to_the_clear(self, certificates: Certificates) -> None:
        def run() -> None:
            sock, _ = listening.accept()
            with certificates.server.wrap_socket(sock, server_side=True) as stream:
                raw.head_of(stream)
                stream.sendall(self.MOVED.replace(b"/there", b"http://127.0.0.1/"))

        with socket.create_server(("127.0.0.1", 0)) as listening, raw.thread(run):
            uri = f"wss://localhost:{listening.getsockname()[1]}/"
            with pytest.raises(zcws.HandshakeError, match="from wss to ws is not followed"):
                zcws.sync.connect(uri, ssl=certificates.client, max_redirects=5)

    @pytest.mark.parametrize("options", [{"bearer": "5ecret"}, {"basic_auth": ("u", "p")}])
    def test_credentials_stay_with_their_origin(self, options: dict[str, Any]) -> None:
        with answering(response) as (there, heads):
            moved = self.MOVED.replace(b"/there", f"http://127.0.0.1:{there}/".encode())
            with answering(moved) as (here, first):
                connect(here, max_redirects=1, additional_headers={"Cookie": "c"}, **options).abort()
        assert b"\r\nAuthorization: " in first[0] and b"\r\nCookie: c\r\n" in first[0]
        assert b"Authorization" not in heads[0] and b"Cookie" not in heads[0]


# ---- credentials, trust ----


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"basic_auth": ("user", "word")}, b"Authorization: Basic dXNlcjp3b3Jk"),
        ({"bearer": "token"}, b"Authorization: Bearer token"),
    ],
)
def test_credentials(options: dict[str, Any], line: bytes) -> None:
    with answering(response) as (port, heads):
        connect(port, **options).abort()
    assert line in heads[0].split(b"\r\n")


def test_credentials_are_not_in_errors() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:  # it accepts nobody
        uri = f"ws://user:5ecret@127.0.0.1:{listening.getsockname()[1]}/path?token=5ecret"
        with pytest.raises(TimeoutError, match=r"^ws://127.0.0.1:\d+/path has not answered") as caught:
            zcws.sync.connect(uri, open_timeout=0.05, proxy=None)
    assert "5ecret" not in str(caught.value)


def test_trust_by_path(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with raw.server(goodbye, context=context) as port:
        with zcws.sync.connect(f"wss://127.0.0.1:{port}/", ssl=str(tmp_path / "authority.pem")) as ws:
            assert ws.state is zcws.State.OPEN


# ---- reconnecting ----


#: Delays for tests.
at_once = functools.partial(itertools.repeat, 0.001)


BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"


class TestReconnecting:
    """`for ws in reconnect(...)`; what is decided when is in test_retry.py."""

    @pytest.mark.skipif(
        sys.implementation.name != "cpython", reason="a loop left early ends its generator late"
    )
    def test_after_whatever_passes(self, caplog: pytest.LogCaptureFixture) -> None:
        """Busy, hung up on, accepted and hung up on, and at last well."""
        caplog.set_level(logging.INFO, "zcws.client")

        def hello(head: bytes) -> bytes:
            return (
                response(head)
                + wire.frame(wire.TEXT, b"hello")
                + wire.frame(wire.CLOSE, wire.close_payload(1001))
            )

        connections = []
        with answering(BUSY, b"", response, hello) as (port, heads):
            uri = f"ws://user:5ecret@127.0.0.1:{port}/?token=5ecret"
            for ws in zcws.sync.reconnect(uri, reconnect_delays=at_once, close_timeout=0.5):
                connections.append(ws)
                try:
                    assert ws.recv() == "hello"
                    break
                except zcws.ConnectionClosed:
                    continue
        assert len(heads) == 4 and len(connections) == 2
        assert all(ws.state is not zcws.State.OPEN for ws in connections)
        reasons = ["status 503", "before it answered", "was lost: 1006"]
        assert [
            reason in record.getMessage() for reason, record in zip(reasons, caplog.records, strict=True)
        ] == [True] * 3
        assert "5ecret" not in caplog.text

    def test_the_last_one_is_closed_by_closing(self) -> None:
        """At once, and on PyPy, too."""
        with raw.server(goodbye) as port:
            uri = f"ws://127.0.0.1:{port}/"
            with contextlib.closing(zcws.sync.reconnect(uri)) as connections:
                for ws in connections:
                    assert not ws.closed
                    break
            assert ws.close_code == 1000

    @pytest.mark.skipif(
        sys.implementation.name != "cpython", reason="a loop left early ends its generator late"
    )
    def test_each_is_closed_before_the_next(self) -> None:
        def serve() -> None:
            for _ in range(3):
                peer = raw.accept(listening)
                assert peer.read()[:2] == (wire.CLOSE, wire.close_payload(1000))
                peer.send(wire.CLOSE, wire.close_payload(1000))
                peer.close()

        with socket.create_server(("127.0.0.1", 0)) as listening, raw.thread(serve):
            uri = f"ws://127.0.0.1:{listening.getsockname()[1]}/"
            for count, _ in enumerate(zcws.sync.reconnect(uri, reconnect_delays=at_once), 1):
                if count == 3:
                    break

    def test_delays_that_end(self) -> None:
        with answering(BUSY, BUSY, BUSY) as (port, heads):
            uri = f"ws://127.0.0.1:{port}/"
            with pytest.raises(zcws.HandshakeError, match="503"):
                for _ in zcws.sync.reconnect(uri, reconnect_delays=lambda: [0, 0]):
                    raise AssertionError
        assert len(heads) == 3

    def test_a_server_that_drops_everybody_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The delays go on, are waited, and end the loop: none of its connections lived longer than they."""
        slept: list[float] = []
        monkeypatch.setattr(time, "sleep", lambda delay: slept.append(0.0 + delay))
        with answering(*[response] * 3) as (port, _):
            uri = f"ws://127.0.0.1:{port}/"
            for ws in zcws.sync.reconnect(uri, reconnect_delays=lambda: [1000, 2000], open_timeout=1):
                with pytest.raises(zcws.ConnectionClosed):
                    ws.recv()
        assert slept == [0, 1000, 2000]

    @pytest.mark.parametrize("delay", [-1, math.nan])
    def test_a_delay_that_is_no_time(self, delay: float) -> None:
        """It was time.sleep that raised, and told of no option."""
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            uri = f"ws://127.0.0.1:{closed.getsockname()[1]}/"
            with pytest.raises(ValueError, match=r"^each delay of reconnect_delays is"):
                for _ in zcws.sync.reconnect(uri, reconnect_delays=lambda: [delay]):
                    raise AssertionError

    def test_fatal(self) -> None:
        with answering(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n") as (port, _):
            with pytest.raises(zcws.HandshakeError, match="404"):
                for _ in zcws.sync.reconnect(f"ws://127.0.0.1:{port}/", reconnect_delays=at_once):
                    raise AssertionError

    @pytest.mark.skipif(
        sys.implementation.name != "cpython", reason="a loop left early ends its generator late"
    )
    def test_what_is_raised_inside_is_the_programs(self) -> None:
        with raw.server(goodbye) as port, pytest.raises(ZeroDivisionError):
            for _ in zcws.sync.reconnect(f"ws://127.0.0.1:{port}/"):
                1 / 0  # noqa: B018

    def test_mistakes(self) -> None:
        with pytest.raises(TypeError, match=r"zcws\.backoff"):
            zcws.sync.reconnect("ws://a/", reconnect_delays=zcws.backoff())  # type: ignore[arg-type]

        async def judge(error: Exception) -> None: ...

        with pytest.raises(TypeError, match=r"^process_exception is a plain function"):
            zcws.sync.reconnect("ws://a/", process_exception=judge)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="scheme"):
            zcws.sync.reconnect("http://a/")
        with socket.socket() as sock, pytest.raises(ValueError, match="can be used once"):
            zcws.sync.reconnect("ws://a/", sock=sock)

    @pytest.mark.parametrize("options", [{"max_sise": 5}, {"max_size": "5"}, {"ssl": "missing.pem"}])
    def test_a_mistake_is_not_tried_again(self, options: dict[str, Any]) -> None:
        with pytest.raises((TypeError, ValueError), match=next(iter(options))):
            next(zcws.sync.reconnect("wss://a/", process_exception=lambda exc: None, **options))


def test_a_reset_takes_back_nothing_that_the_server_has_said() -> None:
    """It hid the status, and `reconnect` tried a 401 again and again."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            sock, _ = listening.accept()
            raw.head_of(sock)
            sock.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 1000\r\n\r\nno")
            sock.recv(1)  # the client has had it, or waits for the rest
            raw.Peer(sock, masks=False).reset()

        with raw.thread(refuse), pytest.raises(zcws.HandshakeError) as caught:
            port = listening.getsockname()[1]
            with pytest.MonkeyPatch.context() as patch:
                more = module._more

                def nudge(sock: socket.socket, deadline: float | None) -> bytes:
                    received = more(sock, deadline)
                    if received.endswith(b"no"):
                        sock.sendall(b"?")
                    return received

                patch.setattr(module, "_more", nudge)
                zcws.sync.connect(f"ws://127.0.0.1:{port}/", proxy=None)
        assert (caught.value.status, caught.value.body) == (401, b"no")


class TestReconnectChecks:
    """An option that means nothing was heard of when the loop began, and a type checker knew none of them."""

    @pytest.mark.parametrize(
        "options",
        [
            {"bogus": 1},
            {"http2": True},
            {"ping_interval": "x"},
            {"max_size": -1},
            {"compression": 3},
            {"port": 99999},
            {"path": "/x", "host": "h"},
        ],
    )
    def test_at_the_call(self, options: dict[str, Any]) -> None:
        with pytest.raises((TypeError, ValueError)) as there:
            zcws.sync.connect("ws://127.0.0.1:1/", **options)
        with pytest.raises(type(there.value)) as here:
            zcws.sync.reconnect("ws://127.0.0.1:1/", **options)
        assert str(here.value) == str(there.value)

    @pytest.mark.parametrize(
        ("options", "what"),
        [
            (
                {"source_address": "127.0.0.1"},
                "source_address is a pair of host and port, or None, not '127.0.0.1'",
            ),
            ({"source_address": ("127.0.0.1",)}, "source_address is a pair"),
            ({"source_address": (0, 0)}, "source_address is a pair"),
            (
                {"source_address": ("127.0.0.1", "0")},
                "the port of source_address is a whole number from 0 to 65535",
            ),
            ({"source_address": ("127.0.0.1", 65536)}, "the port of source_address .*, not 65536"),
            ({"family": "4"}, "family is socket.AF_INET, AF_INET6 or AF_UNSPEC, not '4'"),
            ({"happy_eyeballs_delay": "1"}, "happy_eyeballs_delay is a number of seconds"),
            ({"happy_eyeballs_delay": float("nan")}, "happy_eyeballs_delay is a number of seconds"),
        ],
    )
    def test_of_our_end_of_the_socket(self, options: dict[str, Any], what: str) -> None:
        """Who had one address to try never heard of it, and others what a system call thinks of it."""
        with pytest.raises((TypeError, ValueError), match=f"^{what}"):
            zcws.sync.reconnect("ws://127.0.0.1:1/", **options)

    def test_knows_every_option_of_connect(self) -> None:
        named = set(zcws.sync.connect.__kwdefaults__)
        assert ConnectOptions.__annotations__.keys() == named
