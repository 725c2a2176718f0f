"""HTTP/1.1 heads. RFC 9112."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from heads import TRAILING, Reader, head, in_every_way, names, request, response, wire
from hypothesis import given
from hypothesis import strategies as st
from test_headers import LINES

from zcws.headers import Headers
from zcws.http import HttpError, Request, Response
from zcws.http1 import (
    MAX_HEAD,
    MAX_HEADERS,
    MAX_LINE,
    REQUEST,
    RESPONSE,
    HeadSearch,
    ResponseSearch,
    Start,
    parse_request,
    parse_response,
)

Data = bytes | bytearray | memoryview


def reader(parse: Callable[[Data, int], object]) -> Callable[[], Reader[object]]:
    """Makes readers: each finds the end of a head, and parses what is before it."""

    def make() -> Reader[object]:
        search = HeadSearch()

        def read(data: Data) -> object | None:
            end = search.find(data)
            return parse(data, end) if end else None

        return read

    return make


def read_request(data: bytes) -> Request:
    return parse_request(data, HeadSearch().find(data))


def read_response(data: bytes) -> Response:
    return parse_response(data, HeadSearch().find(data))


def padded(size: int, *, line: int = 4000) -> bytes:
    """A request of exactly `size` bytes, in lines of at most `line` bytes."""
    start = "GET / HTTP/1.1\r\n"
    left = size - len(start) - 2
    lines = []
    while left:
        length = min(line + 2, left) if not 0 < left - line - 2 < 6 else left - 6
        lines.append("a: " + "b" * (length - 5) + "\r\n")
        left -= length
    data = (start + "".join(lines) + "\r\n").encode()
    assert len(data) == size
    return data


class Counted(bytearray):
    """Received bytes, and how many of all such have been looked at, as often as that was done."""

    looked_at = 0

    def find(self, what: bytes, start: int = 0, end: int = 0) -> int:  # type: ignore[override]
        Counted.looked_at += max(0, min(end, len(self)) - start)
        return super().find(what, start, end)

    def __getitem__(self, which: slice) -> bytearray:  # type: ignore[override]
        piece = super().__getitem__(which)
        Counted.looked_at += len(piece)
        return piece


class TestKnownHeads:
    @pytest.mark.parametrize("name", names("request"))
    def test_requests(self, name: str) -> None:
        data = head(name)
        for found in in_every_way(reader(parse_request), data):
            assert isinstance(found, Request)
            assert found.method == "GET"
            assert found.headers["Sec-WebSocket-Version"] == "13"
            assert found.serialize() == data

    @pytest.mark.parametrize("name", [*names("response"), *names("refusal"), *names("redirect")])
    def test_responses(self, name: str) -> None:
        data = head(name)
        for found in in_every_way(reader(parse_response), data):
            assert isinstance(found, Response)
            assert found.serialize().replace(b" \r\n", b"\r\n") == data.replace(b" \r\n", b"\r\n")

    @pytest.mark.parametrize("name", ["response-tomcat-empty-reason", "response-no-reason"])
    def test_an_empty_reason_phrase(self, name: str) -> None:
        """RFC 9112 4: the space before it is required of senders; some leave it out."""
        found = read_response(head(name))
        assert (found.status_code, found.reason_phrase) == (101, "")

    def test_repeated_headers(self) -> None:
        found = read_response(head("refusal-cloudflare-403"))
        assert [cookie[:6] for cookie in found.headers.get_all("Set-Cookie")] == ["__cf_b", "_cfuvi"]


class TestFirstLine:
    @pytest.mark.parametrize(
        ("line", "method", "path"),
        [
            ("GET / HTTP/1.1", "GET", "/"),
            ("GET /a?b=c%20d HTTP/1.1", "GET", "/a?b=c%20d"),
            ("OPTIONS * HTTP/1.1", "OPTIONS", "*"),
            ("CONNECT host:80 HTTP/1.1", "CONNECT", "host:80"),
            ("GET http://host/a?b HTTP/1.1", "GET", "/a?b"),  # RFC 9112 3.2.2
            ("GET HTTPS://host:1 HTTP/1.1", "GET", "/"),
            ("GET http://host?b HTTP/1.1", "GET", "/?b"),
            ("\r\nGET / HTTP/1.1", "GET", "/"),  # RFC 9112 2.2
        ],
    )
    def test_request_lines(self, line: str, method: str, path: str) -> None:
        for found in in_every_way(reader(parse_request), f"{line}\r\nHost: host\r\n\r\n".encode()):
            assert isinstance(found, Request)
            assert (found.method, found.path, found.version) == (method, path, "HTTP/1.1")
            assert list(found.headers.raw_items()) == [("Host", "host")]

    @pytest.mark.parametrize(
        "line",
        [
            "",
            "GET",
            "GET /",
            "GET  / HTTP/1.1",
            "GET /  HTTP/1.1",
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "GET / http/1.1",
            "GET / HTTP/1",
            "GET / HTTP/11",
            "GET / HTTP/1.10",
            "GET /a b HTTP/1.1",
            "GET /\t HTTP/1.1",
            "GET /\x7f HTTP/1.1",
            "GET /\xe4 HTTP/1.1",
            "GET /a#b HTTP/1.1",
            "GET http://host/#b HTTP/1.1",
            "G(T / HTTP/1.1",
            "GET / HTTP/1.1\nHost: a",
            "GET / HTTP/1.1\r",
            "\r\n\r\nGET / HTTP/1.1",
            "HTTP/1.1 200 OK",
        ],
    )
    def test_malformed_request_lines(self, line: str) -> None:
        with pytest.raises(HttpError, match="malformed request line") as caught:
            read_request(f"{line}\r\nHost: host\r\n\r\n".encode("latin-1"))
        assert caught.value.status == 400

    @pytest.mark.parametrize("line", ["GET / HTTP/2.0", "GET / HTTP/0.9", "PRI * HTTP/2.0"])
    def test_another_major_version(self, line: str) -> None:
        """RFC 9112 2.3; the last is how HTTP/2 begins (RFC 9113 3.4)."""
        with pytest.raises(HttpError, match=r"only HTTP/1\.1") as caught:
            read_request(wire(line))
        assert caught.value.status == 505

    def test_another_minor_version(self) -> None:
        assert read_request(wire("GET / HTTP/1.0")).version == "HTTP/1.0"
        assert read_request(wire("GET / HTTP/1.2")).version == "HTTP/1.2"

    @pytest.mark.parametrize(
        ("line", "status", "reason"),
        [
            ("HTTP/1.1 200 OK", 200, "OK"),
            ("HTTP/1.0 404 Not Found", 404, "Not Found"),
            ("HTTP/1.1 599 \tw\xe4rs ", 599, "\tw\xe4rs "),
        ],
    )
    def test_status_lines(self, line: str, status: int, reason: str) -> None:
        for found in in_every_way(reader(parse_response), f"{line}\r\nA: b\r\n\r\n".encode("latin-1")):
            assert isinstance(found, Response)
            assert (found.status_code, found.reason_phrase) == (status, reason)

    @pytest.mark.parametrize(
        "line",
        [
            "",
            "HTTP/1.1",
            "HTTP/1.1 ",
            "HTTP/1.1 20 OK",
            "HTTP/1.1 2000 OK",
            "HTTP/1.1 099 OK",
            "HTTP/1.1  200 OK",
            "HTTP/1.1 200OK",
            "HTTP/1.1 200 \x7f",
            "\r\nHTTP/1.1 200 OK",
            "GET / HTTP/1.1",
        ],
    )
    def test_malformed_status_lines(self, line: str) -> None:
        with pytest.raises(HttpError, match="malformed status line"):
            read_response(f"{line}\r\n\r\n".encode() if line else b"\r\n\r\n")

    def test_a_response_of_another_version(self) -> None:
        with pytest.raises(HttpError, match=r"only HTTP/1\.1"):
            read_response(wire("HTTP/2.0 200 OK"))


class TestHeaderLines:
    @pytest.mark.parametrize(
        ("line", "reason"),
        [("a : b", "not a token"), (" a: b", "folded"), ("a", "no colon"), ("a: \0", "control character")],
    )
    def test_what_is_wrong_is_said(self, line: str, reason: str) -> None:
        """RFC 9112 5; all of it is in test_headers.py."""
        for parse in (
            lambda: read_request(wire(f"GET / HTTP/1.1\n{line}")),
            lambda: read_response(wire(f"HTTP/1.1 200 OK\n{line}")),
        ):
            with pytest.raises(HttpError, match=reason) as caught:
                parse()
            assert caught.value.status == 400

    @pytest.mark.parametrize("fold", ["\n ", " \n\t", "\n  \n ", "\n \t\n \n\t "])
    def test_folded(self, fold: str) -> None:
        """RFC 9112 5.2: a server may refuse it, a user agent must not."""
        lines = f"X: a{fold}b\nEmpty:{fold}\nY: c"
        for found in in_every_way(reader(parse_response), wire(f"HTTP/1.1 200 OK\n{lines}")):
            assert isinstance(found, Response)
            found.headers.release()
            items = [(name, value.split()) for name, value in found.headers.raw_items()]
            assert items == [("X", ["a", "b"]), ("Empty", []), ("Y", ["c"])]
        with pytest.raises(HttpError, match="folded"):
            read_request(wire(f"GET / HTTP/1.1\n{lines}"))

    def test_folded_behind_the_first_line(self) -> None:
        """RFC 9112 2.2: that is no line which goes on."""
        with pytest.raises(HttpError, match="folded"):
            read_response(wire("HTTP/1.1 200 OK\n a: b\n c\nX: a"))

    def test_none(self) -> None:
        for found in in_every_way(reader(parse_request), wire("GET / HTTP/1.1")):
            assert isinstance(found, Request)
            assert len(found.headers) == 0

    def test_bare_line_ends_do_not_end_a_head(self) -> None:
        assert HeadSearch().find(b"GET / HTTP/1.1\nHost: a\n\n") == 0


class TestStart:
    """What cannot become a head is refused at the first byte that says so: who speaks another protocol waits for us."""

    def verdict(self, start: Start, chunks: Iterable[bytes]) -> tuple[object, int]:
        """The end of the head, or the error's reason; and after how many bytes."""
        search, arrived = HeadSearch(start), bytearray()
        for chunk in chunks:
            arrived += chunk
            try:
                if end := search.find(arrived):
                    return end, len(arrived)
            except HttpError as error:
                assert error.status in (400, 431)
                return error.reason, len(arrived)
        return 0, len(arrived)

    def check(self, start: Start, data: bytes, expected: object, after: int) -> None:
        bytewise = [data[at : at + 1] for at in range(len(data))]
        assert self.verdict(start, bytewise) == (expected, after)
        for kind in (bytes, bytearray, memoryview):
            try:
                assert HeadSearch(start).find(kind(data)) == expected
            except HttpError as error:
                assert error.reason == expected

    @pytest.mark.parametrize(
        ("data", "reason", "after"),
        [
            (b"\x16\x03\x01\x02\x00", "TLS is not spoken here", 1),
            (b"\x00\x00", "not HTTP", 1),
            (b" / HTTP/1.1\r\n", "not HTTP", 1),
            (b"\n", "not HTTP", 1),
            (b"\r\r", "not HTTP", 2),
            (b"\r\n\r\n", "not HTTP", 3),
            (b"SSH-2.0-x\r\n", "not HTTP", 10),
            (b"hello\n", "not HTTP", 6),
            (b"G\xc3\x9cT /", "not HTTP", 2),
            (b"GET / HTTP/1.1\nHost: a\n\n", "LF alone", 15),
            (b"GET /\n", "LF alone", 6),
            (b"\r\nGET / HTTP/1.1\n", "LF alone", 17),
            (b"EHLO me\r\n", "malformed request line", 9),
            (b"GET  / HTTP/1.1\r\n", "malformed request line", 17),
            (b"x" * 20_000, "over a limit", MAX_LINE + 2),
            (b"GET /" + b"x" * 20_000, "over a limit", MAX_LINE + 2),
        ],
    )
    def test_no_request(self, data: bytes, reason: str, after: int) -> None:
        with pytest.raises(HttpError, match=reason) as caught:
            HeadSearch(REQUEST).find(data)
        self.check(REQUEST, data, caught.value.reason, after)

    @pytest.mark.parametrize(
        ("data", "reason", "after"),
        [
            (b"\x15\x03\x03\x00", "TLS", 1),
            (b"\x00\x00\x12\x04", "may be HTTP/2", 1),
            (b"\r\n", "not HTTP", 1),
            (b"HTTPS", "not HTTP", 5),
            (b"HTTP/1.1 101 Yes\nUpgrade: websocket\n\n", "LF alone", 17),
            (b"HTTP/1.1 Yes\r\n", "malformed status line", 14),
            (b"HTTP/1.1 200 " + b"x" * 20_000, "over a limit", MAX_LINE + 2),
        ],
    )
    def test_no_response(self, data: bytes, reason: str, after: int) -> None:
        with pytest.raises(HttpError, match=reason) as caught:
            HeadSearch(RESPONSE).find(data)
        self.check(RESPONSE, data, caught.value.reason, after)

    @pytest.mark.parametrize(
        "first", ["GET / HTTP/1.1", "\nGET / HTTP/1.1", f"{'x' * 100} / HTTP/1.1", "GET / HTTP/3.0"]
    )
    def test_a_request(self, first: str) -> None:
        data = wire(f"{first}\na: b")
        self.check(REQUEST, data, len(data), len(data))

    def test_a_line_behind_another_head_begins_there(self) -> None:
        search = HeadSearch(RESPONSE)
        first = b"HTTP/1.1 103 Early Hints\r\n" + b"Link: a\r\n" * 600 + b"\r\n"
        assert search.find(first) == len(first) < MAX_LINE
        search.skip(len(first))
        data = first + b"HTTP/1.1 101 " + b"x" * 6000 + b"\r\n" + b"X: " + b"y" * 3000 + b"\r\n\r\n"
        assert search.find(data[:-4]) == 0
        assert search.find(data) == len(data) < MAX_HEAD

    @pytest.mark.parametrize("before", [b"", b"\r\n"])
    def test_the_shortest_method(self, before: bytes) -> None:
        data = before + b"M / HTTP/1.1\r\nHost: a\r\n\r\n"
        assert HeadSearch(REQUEST).find(data) == len(data)

    def test_heads_behind_each_other(self) -> None:
        first, then = wire("HTTP/1.1 100 Continue"), b"no head"
        search = HeadSearch(RESPONSE)
        assert search.find(first + then) == len(first)
        search.skip(len(first))
        with pytest.raises(HttpError, match="not HTTP") as caught:
            search.find(first + then)
        assert caught.value.seen == repr(then)

    @pytest.mark.parametrize(("room", "then"), [(0, b"\0"), (5, b"HTTP/1.1 101\n"), (5, b"HTTP/1.1 1x\r\n")])
    def test_the_limit_of_all_heads_comes_first(self, room: int, then: bytes) -> None:
        """What lies behind it is not looked at, in whatever cut."""
        sizes = [8000, 8000, MAX_HEAD - 16_000 - room]
        data = b"".join(b"HTTP/1.1 100 " + b"x" * (size - 17) + b"\r\n\r\n" for size in sizes) + then
        for split in (len(data), *range(MAX_HEAD - 10, len(data))):
            search = HeadSearch(RESPONSE)
            with pytest.raises(HttpError, match="over a limit"):
                for arrived in (data[:split], data):
                    while end := search.find(arrived):
                        search.skip(end)

    @pytest.mark.parametrize("step", [1, 7, 1000])
    def test_no_byte_is_looked_at_often(self, step: int) -> None:
        """Linear, as without it: twice to find the end of the head, and as often for the line and its grammar."""
        Counted.looked_at = 0
        whole = b"GET /" + b"a" * (MAX_LINE - 20) + b" HTTP/1.1\r\na: b\r\n\r\n"
        search, reads = HeadSearch(REQUEST), 0
        for size in [*range(step, len(whole), step), len(whole)]:
            reads += 1
            end = search.find(Counted(whole[:size]))
        assert end == len(whole)
        assert Counted.looked_at <= 4 * len(whole) + 6 * reads + 64 * 64


class TestLimits:
    """A head over 16 KiB, a line over 8 KiB, more than 128 headers: 431, nothing more buffered."""

    def refused(self, data: bytes) -> None:
        for kind in (bytes, bytearray, memoryview):
            with pytest.raises(HttpError) as caught:
                parse_request(data, HeadSearch().find(kind(data)))
            assert caught.value.status == 431
            assert str(caught.value) == "the head is over a limit: 16384 bytes, 8192 a line, 128 headers"

    def refused_after(self, data: bytes, step: int = 1) -> int:
        """How many bytes have to arrive before `data` is refused."""
        search = HeadSearch()
        for size in range(0, len(data) + 1, step):
            try:
                assert search.find(data[:size]) == 0
            except HttpError as error:
                assert error.status == 431
                return size
        raise AssertionError("never refused")

    def test_a_head_of_the_limit(self) -> None:
        data = padded(MAX_HEAD)
        search = HeadSearch()
        assert search.find(data) == MAX_HEAD
        assert search.find(data + TRAILING) == MAX_HEAD
        assert read_request(data).path == "/"

    def test_a_head_over_the_limit(self) -> None:
        data = padded(MAX_HEAD + 1)
        self.refused(data)
        assert self.refused_after(data) == MAX_HEAD

    def test_a_head_without_end(self) -> None:
        data = padded(MAX_HEAD + 100)[:-2] + b"a: b\r\n" * 10000
        self.refused(data)
        assert self.refused_after(data) == MAX_HEAD

    def test_a_line_of_the_limit(self) -> None:
        line = "a: " + "b" * (MAX_LINE - 3)
        data = wire(f"GET / HTTP/1.1\n{line}")
        for found in in_every_way(reader(parse_request), data):
            assert isinstance(found, Request)
            assert len(found.headers["a"]) == MAX_LINE - 3

    def test_a_line_over_the_limit(self) -> None:
        data = wire("GET / HTTP/1.1\na: " + "b" * (MAX_LINE - 2))
        self.refused(data)
        assert self.refused_after(data) == len(data) - 3  # its CR is the first byte that is too much

    def test_a_line_over_the_limit_among_others(self) -> None:
        long = "a: " + "b" * (MAX_LINE - 2)
        for lines in ([long, "c: d"], ["c: d", long], ["c: " + "d" * 7000, long]):
            data = wire("\n".join(["GET / HTTP/1.1", *lines]))
            self.refused(data)
            self.refused_after(data)

    def test_a_request_line_over_the_limit(self) -> None:
        data = wire("GET /" + "a" * MAX_LINE + " HTTP/1.1")
        self.refused(data)
        assert self.refused_after(data) == MAX_LINE + 2

    def test_a_line_without_end(self) -> None:
        data = b"GET /" + b"a" * 100000
        self.refused(data)
        assert self.refused_after(data) == MAX_LINE + 2
        assert self.refused_after(data, step=4096) <= MAX_HEAD

    def test_headers_of_the_limit(self) -> None:
        data = wire("GET / HTTP/1.1\n" + "\n".join(f"a{n}: b" for n in range(MAX_HEADERS)))
        for found in in_every_way(reader(parse_request), data):
            assert isinstance(found, Request)
            assert len(found.headers) == MAX_HEADERS

    def test_headers_over_the_limit(self) -> None:
        self.refused(wire("GET / HTTP/1.1\n" + "\n".join("a: b" for _ in range(MAX_HEADERS + 1))))

    def test_many_tiny_lines(self) -> None:
        self.refused(b"GET / HTTP/1.1\r\n" + b"\n" * 10000 + b"\r\n\r\n")

    def test_the_limits_hold_for_all_heads_together(self) -> None:
        """A server that sends interim responses for ever is refused."""
        first = wire("HTTP/1.1 100 Continue")
        search, data, at = HeadSearch(), first * 2000, 0
        with pytest.raises(HttpError):
            while end := search.find(data):
                assert end == at + len(first)
                at = end
                search.skip(end)
        assert at <= MAX_HEAD

    @pytest.mark.parametrize("step", [1, 7, 1000, MAX_HEAD])
    def test_no_byte_is_looked_at_more_than_twice(self, step: int) -> None:
        """Time is linear however the bytes are cut: counted in bytes, not in seconds. CVE-2023-43669."""
        Counted.looked_at = 0
        whole = padded(MAX_HEAD)
        search, reads = HeadSearch(), 0
        for size in [*range(step, len(whole), step), len(whole)]:
            search.find(Counted(whole[:size]))
            reads += 1
        # Once for its end and once for the length of its lines; the end may have been cut behind its third byte.
        assert Counted.looked_at <= 2 * len(whole) + 3 * reads


class TestBack:
    """What was written is read as the same."""

    @given(LINES, st.text("azAZ09/?%=&", max_size=30), st.sampled_from(["GET", "POST", "x!"]))
    def test_requests_come_back(self, lines: list[tuple[str, str]], path: str, method: str) -> None:
        made = Request("/" + path, Headers(lines), method)
        for found in in_every_way(reader(parse_request), made.serialize()):
            assert found == made

    @given(LINES, st.integers(100, 999), st.text(st.characters(min_codepoint=32, max_codepoint=126)))
    def test_responses_come_back(self, lines: list[tuple[str, str]], status: int, reason: str) -> None:
        made = Response(status, reason, Headers(lines))
        for found in in_every_way(reader(parse_response), made.serialize()):
            assert found == made


class TestResponseSearch:
    INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"

    @pytest.mark.parametrize("status", [101, 200, 404])
    @pytest.mark.parametrize("interim", [b"", INTERIM])
    def test_others_are_passed_over(self, interim: bytes, status: int) -> None:
        """RFC 9110 15.2."""
        data = interim + b"HTTP/1.1 %d x\r\nA: b\r\n\r\n" % status
        search = ResponseSearch()
        for size in range(len(data)):
            assert search.find(data[:size]) is None and search.used == 0
        response = search.find(data + b"behind")
        assert (response.status_code, response.headers["A"], search.used) == (status, "b", len(data))

    def test_what_is_none(self) -> None:
        with pytest.raises(HttpError, match="malformed status line"):
            ResponseSearch().find(self.INTERIM + b"HTTP/1.1 x\r\n\r\n")


def outcome(parse: Callable[[Data, int], object], chunks: list[bytes]) -> object:
    """What a stream of bytes comes to, whatever its cuts: a head and its end, an error, or nothing yet."""
    search, data = HeadSearch(), bytearray()
    try:
        for chunk in chunks:
            data += chunk
            if end := search.find(data):
                return parse(data, end), end
    except HttpError as error:
        return error.status, error.reason
    return None


PIECES = st.sampled_from(
    [
        b"GET / HTTP/1.1",
        b"HTTP/1.1 101 ",
        b"\r\n",
        b"\r\n\r\n",
        b"\r",
        b"\n",
        b" ",
        b":",
        b"a: b",
        b"\0",
        b"x" * 3000,
    ]
)


class TestAnyBytes:
    """Any bytes, any cut: a head or an HttpError, never another exception, and the cut makes no difference."""

    @pytest.mark.parametrize("parse", [parse_request, parse_response])
    @given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=12).map(b"".join)), st.data())
    def test_the_outcome(
        self, parse: Callable[[Data, int], object], stream: bytes, data: st.DataObject
    ) -> None:
        cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
        edges = [0, *cuts, len(stream)]
        chunks = [stream[a:b] for a, b in pairwise(edges)]
        assert outcome(parse, chunks) == outcome(parse, [stream])

    @given(st.binary(max_size=60), st.integers(0, 300), st.sampled_from([request(), response()]))
    def test_a_good_head_with_something_in_it(self, noise: bytes, at: int, good: bytes) -> None:
        stream = good[:at] + noise + good[at:]
        for parse in (parse_request, parse_response):
            assert outcome(parse, [stream]) == outcome(parse, [stream[i : i + 1] for i in range(len(stream))])
