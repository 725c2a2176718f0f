"""The holes of other libraries before a connection is open, and around it: heads, secrets, redirects, TLS, Origin."""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from typing import Any

import net
import pytest
import trustme
from heads import ACCEPT, KEY, request, response
from net import Place, RawPeer, port_of, soon

import zcws
from zcws.acceptor import WebSocketAcceptor
from zcws.connector import WebSocketConnector
from zcws.errors import HandshakeError
from zcws.handshake import same_text
from zcws.hooks import basic_auth
from zcws.http import HttpError, Request
from zcws.http1 import MAX_HEAD

PLACE = Place("asyncio", None)


def connector(uri: str = "ws://server.example.com/chat", **options: Any) -> WebSocketConnector:
    return WebSocketConnector(uri, entropy=lambda size: base64.b64decode(KEY), **options)


def accepted(data: bytes, **options: Any) -> Any:
    """The server's answer to these bytes."""
    acceptor = WebSocketAcceptor(**options)
    asked = acceptor.read_request(data)
    assert asked is not None
    return acceptor.respond(asked)


# ---- what was negotiated ----


@pytest.mark.parametrize(
    "bits", ["7", "16", "abc", "999", "-1", "08", "", '"16"', "15; server_max_window_bits=15"]
)
def test_cve_2026_2229_parameters_that_are_none_a_client_refuses(bits: str) -> None:
    """undici passed the server's window to zlib, which threw where nobody caught it."""
    line = ("Sec-WebSocket-Extensions", f"permessage-deflate; server_max_window_bits={bits}")
    client = connector(compression="deflate")
    granted = client.read_response(response(line))
    assert granted is not None
    with pytest.raises(HandshakeError):
        client.check(granted)


@pytest.mark.parametrize(
    "bits", ["7", "16", "abc", "999", "-1", "08", '"16"', "15; server_max_window_bits=15"]
)
def test_cve_2026_2229_parameters_that_are_none_a_server_declines(bits: str) -> None:
    line = ("Sec-WebSocket-Extensions", f"permessage-deflate; server_max_window_bits={bits}")
    answer = accepted(request(line), compression="deflate")
    assert answer.status_code == 101 and "sec-websocket-extensions" not in answer.headers


# ---- heads ----


@pytest.mark.parametrize("piece", [1, 1000])
@pytest.mark.parametrize("what", ["line", "lines", "nothing"])
def test_cve_2023_43669_a_head_without_end(piece: int, what: str) -> None:
    """tungstenite parsed it again for each of its bytes: 20 MB took minutes. Here it ends with 16 KiB."""
    endless = {"line": b"x" * 100, "lines": b"X: y\r\n" * 20, "nothing": b"\n" * 100}[what]
    data = bytearray(b"GET / HTTP/1.1\r\nX: ")

    def feed(read: Any) -> None:
        with pytest.raises((HttpError, HandshakeError)):
            while len(data) < 20 << 20:
                data.extend((endless * 10)[:piece])
                read(data)

    for read in (WebSocketAcceptor().read_request, connector().read_response):
        del data[19:]
        if read.__name__ == "read_response":
            data[:] = b"HTTP/1.1 101 OK\r\nX: "
        feed(read)
        assert len(data) <= MAX_HEAD + piece


@pytest.mark.parametrize("count", [129, 1000])
def test_cve_2024_37890_more_headers_than_the_limit(count: int) -> None:
    """ws crashed on the header that it had counted away."""
    lines = tuple((f"X-{i}", "y") for i in range(count))
    with pytest.raises(HttpError) as caught:
        WebSocketAcceptor().read_request(request(*lines))
    assert caught.value.status == 431
    with pytest.raises(HandshakeError):
        connector().read_response(response(*lines))


ADVERSARIAL = [
    "a" + " " * 15_000 + "b",
    "a," * 7_500,
    "a; b" * 3_700,
    'a; b="' + "\\" * 15_000,
    'a; b="' + '\\"' * 7_000,
    ";" * 15_000,
    '"' * 15_000,
    "a;" + " " * 7_000 + "=" * 7_000,
]


@pytest.mark.parametrize("advisory", ["CVE-2021-32640", "CVE-2020-7662", "CVE-2020-7663"])
@pytest.mark.parametrize("name", ["Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"])
def test_cve_2021_32640_headers_that_make_patterns_slow(advisory: str, name: str) -> None:
    """ws, faye: exponential or cubic patterns. Not timed; what is worse than linear does not end within this test."""
    for value in ADVERSARIAL:
        for part in (value[:8000], value[-8000:]):
            answer = accepted(request((name, part)), compression="deflate", subprotocols=["chat"])
            assert answer.status_code in (101, 400)


@pytest.mark.parametrize("value", [",", "", " , ", ",,chat,,"])
def test_cve_2026_45541_a_list_of_subprotocols_without_any(value: str) -> None:
    """ESP-IDF looked at what is not there."""
    answer = accepted(request(("Sec-WebSocket-Protocol", value)), subprotocols=["chat"])
    assert answer.status_code == 101
    assert answer.headers.get("sec-websocket-protocol") == ("chat" if "chat" in value else None)
    client = connector(subprotocols=["chat"])
    granted = client.read_response(response(("Sec-WebSocket-Protocol", value)))
    assert granted is not None
    if "," in value:
        with pytest.raises(HandshakeError):
            client.check(granted)


INJECTIONS = ["a\r\nX-Admin: yes", "a\nb", "a\rb", "a\0b", "a\r\n\r\nGET / HTTP/1.1"]


@pytest.mark.parametrize("advisory", ["CVE-2020-35678", "CVE-2026-1527"])
@pytest.mark.parametrize("bad", INJECTIONS)
def test_cve_2020_35678_nothing_that_is_sent_can_hold_another_line(advisory: str, bad: str) -> None:
    """autobahn's redirects, undici's `upgrade`: wherever the caller's text goes into a head."""
    for options in (
        {"additional_headers": {"X": bad}},
        {"additional_headers": {bad: "x"}},
        {"origin": bad},
        {"subprotocols": [bad]},
        {"user_agent_header": bad},
        {"bearer": bad},
    ):
        with pytest.raises(ValueError):
            connector(**options).request()
    with pytest.raises(ValueError):
        connector(f"ws://server.example.com/{bad}")
    for settings in (
        {"extra_headers": {"X": bad}},
        {"extra_headers": {bad: "x"}},
        {"server_header": bad},
        {"subprotocols": [bad]},
    ):
        with pytest.raises(ValueError):
            WebSocketAcceptor(**settings)
    with pytest.raises(ValueError):
        WebSocketAcceptor().reject(302, "elsewhere", {"Location": bad})
    with pytest.raises(ValueError):
        basic_auth(bad, ("user", "word"))


# ---- requests that are not over ----


@pytest.mark.parametrize(
    "line",
    [("Content-Length", "45"), ("Transfer-Encoding", "chunked"), ("Sec-WebSocket-Version", "8")],
    ids=lambda line: line[0],
)
def test_cve_2026_69243_what_follows_a_refused_upgrade_is_no_request(line: tuple[str, str]) -> None:
    """aiohttp left the body of a refused upgrade in the stream, and read it as the next request."""
    smuggled = b"GET /admin HTTP/1.1\r\nHost: localhost\r\n\r\n"
    asked: list[str] = []

    def refuse(handshake: Any, what: Request) -> Any:
        asked.append(what.path)
        return handshake.respond(403, "no")

    async def main() -> None:
        async with zcws.serve(net.echo, "127.0.0.1", 0, process_request=refuse) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            writer.write(net.request(": ".join(line)) + smuggled)
            answer = await soon(reader.readuntil(b"\r\n\r\n"))
            writer.write(smuggled)
            rest = await soon(reader.read())
            await net.hang_up(writer)
        assert answer.startswith(b"HTTP/1.1 403 ") and b"Connection: close" in answer
        assert b"HTTP/" not in rest
        assert asked == ["/"]

    asyncio.run(main())


def test_cve_2026_69243_a_client_reads_nothing_behind_a_refusal() -> None:
    """The other way round: a refusal, and behind it what would be a 101."""
    client = connector()
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n" + response()
    granted = client.read_response(refusal)
    assert granted is not None and granted.status_code == 403
    with pytest.raises(HandshakeError):
        client.check(granted)


def test_ghsa_c4j6_fc7j_m34r_a_request_for_somewhere_else_stays_here() -> None:
    """Next.js fetched what an absolute target named. Does not apply: nothing here connects for a request."""
    asked = WebSocketAcceptor().read_request(request(first="GET http://169.254.169.254/secret HTTP/1.1"))
    assert asked is not None and asked.path == "/secret"
    asked = WebSocketAcceptor().read_request(request(first="CONNECT evil.example:80 HTTP/1.1"))
    assert asked is not None and WebSocketAcceptor().respond(asked).status_code == 400


# ---- credentials ----


def test_cve_2021_33880_credentials_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """websockets stopped at the first letter that was wrong; and could not compare what is not ASCII."""
    import hmac

    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def watched(ours: bytes, theirs: bytes) -> bool:
        compared.append((ours, theirs))
        return real(ours, theirs)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    check = basic_auth("here", [("us", "wrong"), ("für", "Élise")])

    def ask(pair: str) -> Any:
        token = base64.b64encode(pair.encode()).decode()
        asked = WebSocketAcceptor().read_request(request(("Authorization", f"Basic {token}")))
        assert asked is not None
        return check(None, asked)

    assert ask("für:Élise") is None
    assert len(compared) == 4, "every pair is compared, name and password, whatever came of the first"
    assert ask("für:elise").status_code == 401
    assert ask("nobody:\N{GRINNING FACE}").status_code == 401
    assert len(compared) == 12
    assert not same_text("secret", "secre")


@pytest.mark.parametrize(
    "location", ["ws://evil.example/", "ws://server.example.com:81/", "//evil.example/x"]
)
def test_redirects_do_not_take_credentials_to_another_origin(location: str) -> None:
    """websockets 16.1."""
    headers = {"Cookie": "session=1", "Authorization": "Bearer secret", "X-Plain": "yes"}
    client = connector(additional_headers=headers)
    moved = client.read_response(response(("Location", location), first="HTTP/1.1 302 Found"))
    assert moved is not None
    other = client.redirect(moved)
    assert other is not None
    sent = other.request().lower()
    assert b"secret" not in sent and b"session" not in sent and b"x-plain: yes" in sent
    same = client.read_response(response(("Location", "/other"), first="HTTP/1.1 302 Found"))
    assert same is not None
    kept = client.redirect(same)
    assert kept is not None and b"secret" in kept.request().lower()


def test_redirects_do_not_leave_tls() -> None:
    client = connector("wss://server.example.com/")
    moved = client.read_response(
        response(("Location", "ws://server.example.com/"), first="HTTP/1.1 302 Found")
    )
    assert moved is not None
    with pytest.raises(HandshakeError):
        client.redirect(moved)


# ---- TLS ----


@pytest.mark.parametrize("advisory", ["CVE-2020-15133", "CVE-2020-11050"])
@pytest.mark.parametrize("trouble", ["unknown authority", "another name"])
def test_cve_2020_15133_certificates_are_verified_by_default(advisory: str, trouble: str) -> None:
    """faye, Java-WebSocket: the chain or the host's name was not looked at."""
    authority = trustme.CA()
    name = "127.0.0.1" if trouble == "unknown authority" else "elsewhere.example"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    trust = None
    if trouble == "another name":
        trust = ssl.create_default_context()
        authority.configure_trust(trust)

    async def main() -> None:
        async with zcws.serve(net.echo, "127.0.0.1", 0, ssl=context) as server:
            with pytest.raises(ssl.SSLCertVerificationError):
                await zcws.connect(f"wss://127.0.0.1:{port_of(server)}/", ssl=trust, proxy=None)

    asyncio.run(main())


# ---- Origin ----


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://ours.example", 101),
        ("https://a.ours.example", 101),
        ("https://evil.example", 403),
        ("https://ours.example.evil.example", 403),
        ("https://xours.example", 403),
        ("http://ours.example", 403),
        ("null", 403),
        (None, 403),
    ],
)
def test_cwe_1385_origins(origin: str | None, status: int) -> None:
    """Cross-site WebSocket hijacking: a page of another site connects, with the user's cookies. RFC 6455 10.2."""
    origins = ["https://ours.example", re.compile(r"https://[a-z]+\.ours\.example")]
    assert accepted(request(("Origin", origin)), origins=origins).status_code == status


# ---- what a peer makes us keep ----


@pytest.mark.parametrize("who", ["server", "client"])
def test_rustsec_2020_0043_a_peer_that_never_reads(who: str) -> None:
    """ws-rs grew without bound. Here `send` waits: what has been accepted stays under a bound of kernel buffers."""
    sent = 0

    async def firehose(ws: zcws.WebSocket) -> None:
        nonlocal sent
        while True:
            await ws.send(bytes(100_000))
            sent += 1

    async def stuck(ws: zcws.WebSocket) -> None:
        sending = asyncio.ensure_future(firehose(ws))
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(2 * net.SHORT)
        assert 0 < sent < 1000  # 100 MB: loopback's buffers are a tenth of that
        sending.cancel()
        ws.abort()

    async def main() -> None:
        if who == "server":
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            async def handler(ws: zcws.WebSocket) -> None:
                await stuck(ws)
                done.set_result(None)

            async with PLACE.serve(handler) as server, PLACE.raw_client(server):
                await soon(done)
        else:

            async def silent(peer: RawPeer) -> None:
                await over.wait()

            over = asyncio.Event()
            async with PLACE.raw_server(silent) as port:
                async with PLACE.connect(port, proxy=None) as ws:
                    await stuck(ws)
                over.set()

    asyncio.run(main())


# ---- closing inside of a callback ----


@pytest.mark.parametrize("how", ["abort", "begin_close", "both"])
def test_socketify_197_closing_and_sending_inside_a_message_callback(how: str) -> None:
    """A use after free in a binding of uWebSockets."""
    heard: list[str] = []

    def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
        if frame.opcode is not zcws.OpCode.TEXT:
            return
        heard.append(frame.text)
        if how != "abort":
            ws.begin_close(4000)
        if how != "begin_close":
            ws.abort()
        for _ in range(3):
            try:
                ws.send_nowait("after the end")
            except zcws.ConnectionClosed:
                continue

    async def main() -> None:
        async with zcws.serve(None, "127.0.0.1", 0, on_frame=on_frame) as server:
            async with PLACE.raw_client(server) as peer:
                texts = peer.frame(net.wire.TEXT, b"one") + peer.frame(net.wire.TEXT, b"two")
                await peer.send_bytes(texts + peer.frame(net.wire.CLOSE))
                try:
                    await soon(peer.reader.read())
                except ConnectionError:
                    pass
        assert heard[0] == "one"
        if how != "abort":
            assert heard == ["one"]

    asyncio.run(main())


def test_the_key_of_the_tests_is_answered_as_the_rfc_says() -> None:
    """What the others here stand on: RFC 6455 1.3."""
    assert accepted(request()).headers["sec-websocket-accept"] == ACCEPT
