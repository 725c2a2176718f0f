"""The body of a response that is not a 101. RFC 9112 6, 7."""

from __future__ import annotations

import pytest
from heads import head
from hypothesis import given
from hypothesis import strategies as st

from zcws.body import MAX_BODY, BodyReader
from zcws.headers import Headers
from zcws.http import Response
from zcws.http1 import parse_response


def reader(status: int = 404, **headers: str) -> BodyReader:
    lines = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return BodyReader(Response(status, "", Headers(lines)))


def chunked() -> BodyReader:
    return reader(transfer_encoding="chunked")


def both_ways(make: BodyReader, again: BodyReader, data: bytes) -> BodyReader:
    """Feeds `data` whole and byte by byte; the outcome must be the same."""
    make.feed(data)
    for at in range(len(data)):
        again.feed(memoryview(data)[at : at + 1])
    assert (again.body, again.done) == (make.body, make.done)
    return make


class TestLength:
    """RFC 9112 6.3"""

    def test_content_length(self) -> None:
        body = both_ways(reader(content_length="4"), reader(content_length="4"), b"body and more")
        assert (body.body, body.done) == (b"body", True)

    def test_not_all_of_it(self) -> None:
        body = both_ways(reader(content_length="5"), reader(content_length="5"), b"body")
        assert (body.body, body.done) == (b"body", False)

    def test_no_bytes(self) -> None:
        body = reader(content_length="0")
        assert body.done
        body.feed(b"more")
        assert body.body == b""

    @pytest.mark.parametrize(
        "headers", [{}, {"content_length": "x"}, {"content_length": "-1"}, {"content_length": ""}]
    )
    def test_until_the_end(self, headers: dict[str, str]) -> None:
        body = both_ways(reader(404, **headers), reader(404, **headers), b"body")
        assert (body.body, body.done) == (b"body", False)

    def test_lengths_that_disagree(self) -> None:
        body = BodyReader(Response(404, "", Headers([("Content-Length", "1"), ("Content-Length", "2")])))
        body.feed(b"body")
        assert (body.body, body.done) == (b"body", False)

    def test_an_encoding_goes_before_a_length(self) -> None:
        body = reader(content_length="1", transfer_encoding="chunked")
        body.feed(b"4\r\nbody\r\n0\r\n\r\n")
        assert body.body == b"body"

    def test_an_unknown_encoding_ends_with_the_connection(self) -> None:
        body = reader(content_length="1", transfer_encoding="gzip")
        body.feed(b"body")
        assert (body.body, body.done) == (b"body", False)

    @pytest.mark.parametrize("status", [200, 203, 205, 303, 305])
    def test_statuses_beside_those_without_one(self, status: int) -> None:
        body = reader(status, content_length="4")
        body.feed(b"body")
        assert (body.body, body.done) == (b"body", True)

    @pytest.mark.parametrize("status", [101, 199, 204, 304])
    def test_statuses_without_a_body(self, status: int) -> None:
        body = reader(status, content_length="4")
        assert body.done
        body.feed(b"body")
        assert body.body == b""

    @pytest.mark.parametrize(
        ("name", "size"), [("refusal-nginx-502", 157), ("refusal-python-404", 335), ("redirect-301", 0)]
    )
    def test_known_servers(self, name: str, size: int) -> None:
        data = head(name)
        body = BodyReader(parse_response(data, len(data)))
        body.feed(b"x" * 1000)
        assert (body.body, body.done) == (b"x" * size, True)


class TestLimit:
    def test_64_kib_are_kept(self) -> None:
        for body in (reader(), reader(content_length=str(10**17)), reader(content_length=str(10**30))):
            body.feed(b"x" * (MAX_BODY - 1))
            assert not body.done
            body.feed(b"xyz")
            body.feed(b"z")
            assert (body.body, body.done) == (b"x" * MAX_BODY, True)

    def test_of_chunks(self) -> None:
        body = chunked()
        for _ in range(20):
            body.feed(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
        assert (body.body, body.done) == (b"x" * MAX_BODY, True)
        body = chunked()
        body.feed(b"ffffffff\r\n" + b"x" * 100000)
        assert (body.body, body.done) == (b"x" * MAX_BODY, True)


class TestChunks:
    """RFC 9112 7.1"""

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"0\r\n\r\n", b""),
            (b"4\r\nbody\r\n0\r\n\r\n", b"body"),
            (b"1\r\nb\r\n3\r\nody\r\n0\r\n\r\nmore", b"body"),
            (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
            (b"0A\r\n0123456789\r\n000\r\nTrailer: x\r\n\r\n", b"0123456789"),
            (b'4;x="y"\r\nbody\r\n0;z\r\n\r\n', b"body"),
            (b"4 \r\nb\r\ny\r\n0\r\n\r\n", b"b\r\ny"),
        ],
    )
    def test_bodies(self, data: bytes, expected: bytes) -> None:
        body = both_ways(chunked(), chunked(), data)
        assert (body.body, body.done) == (expected, True)

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"x\r\n", b""),
            (b"\r\n4\r\nbody\r\n0\r\n\r\n", b""),
            (b"-1\r\n", b""),
            (b"0x4\r\nbody", b""),
            (b"4\r\nbody\r\nx\r\nmore", b"body"),
            (b"111111111\r\nbody", b""),
            (b"4" + b";" + b"x" * 300, b""),
        ],
    )
    def test_what_is_malformed_ends_there(self, data: bytes, expected: bytes) -> None:
        body = both_ways(chunked(), chunked(), data)
        assert (body.body, body.done) == (expected, True)

    @pytest.mark.parametrize(
        "data", [b"", b"4", b"4\r", b"4\r\n", b"4\r\nbo", b"4\r\nbody", b"4\r\nbody\r", b"4;"]
    )
    def test_not_all_of_it(self, data: bytes) -> None:
        assert not both_ways(chunked(), chunked(), data).done

    def test_chunked_is_the_last_of_several(self) -> None:
        body = reader(transfer_encoding="gzip, Chunked")
        body.feed(b"4\r\nbody\r\n0\r\n\r\n")
        assert (body.body, body.done) == (b"body", True)

    @given(st.lists(st.binary(min_size=1, max_size=50), max_size=5))
    def test_what_is_cut_comes_back(self, pieces: list[bytes]) -> None:
        data = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        body = both_ways(chunked(), chunked(), data)
        assert (body.body, body.done) == (b"".join(pieces), True)

    @given(
        st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"1", b"a", b"f", b";", b"x", b"0"])).map(b"".join)
    )
    def test_any_bytes(self, data: bytes) -> None:
        both_ways(chunked(), chunked(), data)
