"""Invariant: any bytes, in any cut, are an HTTP head, or need more, or are an HttpError, the same one in any cut; a
head that was read can be written, and reads the same again.
"""

from __future__ import annotations

from fuzz.material import Material, cuts

from zcws.http import HttpError, Request, Response
from zcws.http1 import (
    MAX_HEAD,
    MAX_HEADERS,
    REQUEST,
    RESPONSE,
    HeadSearch,
    Start,
    parse_request,
    parse_response,
)

#: What a search came to: where the head ends (0: more is needed), or the error.
Found = tuple[int, "HttpError | None"]


def find_in_pieces(pieces: list[bytes], skip: int, start: Start | None = None) -> Found:
    search, arrived = HeadSearch(start), bytearray()
    if skip:
        search.skip(skip)
    for piece in pieces:
        arrived += piece
        try:
            end = search.find(arrived)
        except HttpError as error:
            return 0, error
        if end:
            return end, None
    return 0, None


def same_error(one: HttpError | None, other: HttpError | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.status, one.reason) == (other.status, other.reason)


def check_request(data: bytes, end: int) -> None:
    request = parse_request(data, end)
    lines = list(request.headers.raw_items())
    assert len(lines) <= MAX_HEADERS
    request.headers.release()
    assert list(request.headers.raw_items()) == lines
    written = request.serialize()
    again: Request = parse_request(written, len(written))
    assert (again.method, again.path, again.version) == (request.method, request.path, request.version)
    assert list(again.headers.raw_items()) == lines


def check_response(data: bytes, end: int) -> None:
    response = parse_response(data, end)
    lines = list(response.headers.raw_items())
    assert len(lines) <= MAX_HEADERS and 100 <= response.status_code <= 999
    written = response.serialize()
    again: Response = parse_response(written, len(written))
    assert (again.status_code, again.reason_phrase) == (response.status_code, response.reason_phrase)
    assert list(again.headers.raw_items()) == lines


def check(data: bytes) -> None:
    material = Material(data)
    chance = material.random()
    head = material.stretched(unit=2000)
    skip = chance.choice((0, 0, 0, len(head) // 2))
    found = find_in_pieces([head], skip)
    pieces = list(cuts(head, chance))
    again = find_in_pieces(pieces, skip)
    assert found[0] == again[0] and same_error(found[1], again[1]), (found, again)
    for start in (REQUEST, RESPONSE):
        judged, again = find_in_pieces([head], skip, start), find_in_pieces(pieces, skip, start)
        assert judged[0] == again[0] and same_error(judged[1], again[1]), (judged, again)
        assert judged[1] is not None or judged[0] == found[0], (judged, found)
    end = found[0]
    if not end or skip:
        return
    assert end <= MAX_HEAD and head[end - 4 : end] == b"\r\n\r\n" and head.find(b"\r\n\r\n") == end - 4
    for check_kind in (check_request, check_response):
        try:
            check_kind(head, end)
        except HttpError as error:
            assert error.status in (400, 431, 505)
