"""Frames of HTTP/2, by h2: what we ask of a peer, and where we differ from h2. RFC 9113, RFC 7541.

h2 is a state machine without I/O: bytes in, events out. It ends a connection where the RFC lets it go on, keeps without
limit what a peer can make it keep, and drops what came before a mistake. What this file decides: the limits, and how
this is corrected, each in a subclass of the class at fault. It refuses to know whose turn it is to send (http2.py) and
what a head means (../http2.py).
"""

from __future__ import annotations

from typing import Any

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, H2Connection, H2ConnectionStateMachine
from h2.events import Event
from h2.exceptions import DenialOfServiceError, FrameTooLargeError, ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import Decoder, Encoder, HeaderTuple
from hyperframe.exceptions import InvalidPaddingError
from hyperframe.frame import Frame, HeadersFrame

from zcws.http2 import PREFACE

__all__ = ["H2", "MOST_STREAMS", "WINDOW", "Going"]

#: Bytes of a frame before its payload; its length comes first. RFC 9113 4.1.
_FRAME_HEAD = 9

#: Streams that a peer may have open at once, and bytes that may be on their way to each: a ring of them.
MOST_STREAMS, WINDOW = 100, 256 * 1024

#: Bytes of the largest frame that we take: each costs h2 some 50 us at either end, and is kept until it is whole.
_LARGEST_FRAME = 64 * 1024

#: Bytes of names and values that our encoder remembers, to send them shorter the next time (RFC 7541 4.2): its default.
#: A peer may allow 4 GiB, and each field is searched for in all of them.
_REMEMBERED = 4096

#: The types of a frame that carries bytes of a stream, of a head, and of what continues it. RFC 9113 6.1, 6.2, 6.10.
_DATA, _HEADERS, _CONTINUATION = 0, 1, 9

#: In any frame but DATA, so many bytes count as one more frame: one byte of a head may be a field, which costs us 4 us,
#: and six bytes are a setting, which costs 6 (benchmarked on CPython 3.11, where a frame by itself costs 25).
_A_FRAME = 16

#: A head counts as so many frames more: 13 bytes may be a request, which costs us 300 us if it is refused, and 1 ms if
#: it is answered.
_A_HEAD = 16

#: What a peer may set.
_SETTINGS = frozenset(SettingCodes)

#: In place of a :status, which no request has: a name that h2 does not know.
_STATUS = HeaderTuple(b":Status", b"")


class Going(H2ConnectionStateMachine):  # type: ignore[misc]  # where h2 is not installed, it is Any
    """RFC 9113 6.8: after a GOAWAY the open streams go on. h2 takes it for the end of the connection."""

    def process_input(self, input_: ConnectionInputs) -> list[Event]:
        if input_ in (ConnectionInputs.SEND_GOAWAY, ConnectionInputs.RECV_GOAWAY):
            return []
        return super().process_input(input_)  # type: ignore[no-any-return]


class OurSettings(Settings):  # type: ignore[misc]  # as above
    """RFC 9113 5.1.2: a stream too many is refused, by itself (http2_accepting.py). h2 ends the connection, also of a
    client that has opened it before our limit could be known to it."""

    max_concurrent_streams = 2**31  # more than there are numbers


class KnownSettings(Settings):  # type: ignore[misc]  # as above
    """RFC 9113 6.5.2: an unknown setting is ignored. h2 keeps each of 65,536 possible ones in a deque of its own."""

    def __setitem__(self, setting: int, value: int) -> None:
        if setting in _SETTINGS:
            super().__setitem__(setting, value)


class Requests(Decoder):  # type: ignore[misc]  # as above
    """Heads of requests. RFC 9113 8.3: a request with a :status is malformed (http2.py: `check_request`); h2 would take
    it for an informational response."""

    def decode(self, data: bytes, raw: bool = False) -> list[HeaderTuple]:
        return [_STATUS if field[0] == b":status" else field for field in super().decode(data, raw)]


class Heads(Encoder):  # type: ignore[misc]  # as above
    """Our heads. RFC 7541 4.2: we choose the size of the table, up to what the peer allows; of all changes before the
    next head, the peer is told the least and the last. hpack tells all of them, and none where the last changes
    nothing."""

    def _allow(self, allowed: int) -> None:
        size = self.header_table.maxsize = min(allowed, _REMEMBERED)
        told: list[int] = self.table_size_changes
        least = min([*told, size])
        told[:] = [least, size] if least < size else [size]
        self.header_table.resized = True

    header_table_size = Encoder.header_table_size.setter(_allow)


class H2(H2Connection):  # type: ignore[misc]  # as above
    """One connection of h2's, with our settings ready to be sent."""

    def __init__(self, *, is_client: bool) -> None:
        # For a malformed head h2 ends the connection. A server's may carry streams of many users, so the server checks
        # heads itself.
        config = H2Configuration(
            client_side=is_client, header_encoding="latin-1", validate_inbound_headers=is_client
        )
        super().__init__(config)
        self.state_machine = Going()
        wanted = {
            SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
            SettingCodes.MAX_CONCURRENT_STREAMS: MOST_STREAMS,
            SettingCodes.MAX_FRAME_SIZE: _LARGEST_FRAME,
        }
        if is_client:
            wanted[SettingCodes.ENABLE_PUSH] = 0  # RFC 9113 8.4
        else:
            wanted[SettingCodes.ENABLE_CONNECT_PROTOCOL] = 1  # RFC 8441 3
            self.decoder = Requests(self.DEFAULT_MAX_HEADER_LIST_SIZE)
        self.local_settings = OurSettings(client=is_client, initial_values=wanted)
        self.remote_settings = KnownSettings(client=not is_client)
        self.encoder = Heads()
        self.max_inbound_frame_size = _LARGEST_FRAME
        self.is_over = False  # nothing can be answered any more; see `_is_in_vain`
        self._heads_left = MOST_STREAMS  # after that
        self._ahead = 0 if is_client else len(PREFACE)  # bytes until the next frame begins
        self._begun = b""  # the beginning of a frame, while its length or type is not there
        self._continued = 0  # bytes so far of frames that continue one head
        self.initiate_connection()
        self.increment_flow_control_window(MOST_STREAMS * WINDOW - self.inbound_flow_control_window)

    def clear_outbound_data_buffer(self) -> None:
        """RFC 9113 6.8: what is to be sent goes out after a GOAWAY as well. h2 drops it: heads, on which every later
        head depends (RFC 7541 2.2), window updates, answers to SETTINGS and Pings."""

    def hear(self, data: bytes, most: int) -> tuple[list[Event], bytes, ProtocolError | None]:
        """Returns the events of `most` frames, or of fewer that cost as much; the bytes behind them; and the error, if
        a frame breaks a rule. h2's `receive_data` drops what came before such a frame, and tells the peer first."""
        count, too_long = self._check_frames(data, most)
        events: list[Event] = []
        try:
            self.incoming_buffer.add_data(data[:count])
            self.incoming_buffer.max_frame_size = self.max_inbound_frame_size
            for frame in self.incoming_buffer:
                if not (self.is_over and self._is_in_vain(frame)):
                    events += self._receive_frame(frame)
        except InvalidPaddingError:
            return events, b"", ProtocolError("padding that is longer than its frame")
        except ProtocolError as error:
            return events, b"", error
        return events, b"" if too_long else data[count:], too_long

    def _is_in_vain(self, frame: Frame) -> bool:
        """Whether a frame means nothing when nothing can be answered: a client's head beyond as many as there may be
        streams, and what is for a stream that is not open. A WebSocket that a head opens has its messages. Those beyond
        are not even decoded, because no later one is either (RFC 7541 2.2)."""
        if isinstance(frame, HeadersFrame) and not self.config.client_side:
            self._heads_left -= 1
            return self._heads_left < 0
        return frame.stream_id != 0 and frame.stream_id not in self.streams

    def _check_frames(self, data: bytes, most: int) -> tuple[int, ProtocolError | None]:
        """RFC 9113 4.2: no frame may be longer than we allow. h2 notices one only when it has all of it: 16 MiB. Nor
        may the frames that continue a head be longer together; h2 keeps 63 of them. RFC 9113 10.5.1.

        Returns how many bytes are for this turn, and the error if a frame breaks one of these rules: all bytes, or
        those of `most` frames or of fewer that cost as much, or those before the frame at fault.
        """
        before, at, cost = len(self._begun), self._ahead, 0
        data = self._begun + data
        while at + 4 <= len(data):
            if cost >= most:
                self._begun, self._ahead = b"", 0
                return at - before, None
            length, kind = int.from_bytes(data[at : at + 3], "big"), data[at + 3]
            cost += 1 if kind == _DATA else 1 + length // _A_FRAME
            if kind == _HEADERS and not self.is_over:
                cost += _A_HEAD
            if length > self.max_inbound_frame_size:
                return max(at - before, 0), FrameTooLargeError(f"a frame of {length} bytes")
            self._continued = self._continued + length if kind == _CONTINUATION else 0
            if self._continued > _LARGEST_FRAME:
                return max(at - before, 0), DenialOfServiceError("a head that does not end")
            at += _FRAME_HEAD + length
        self._begun, self._ahead = data[at:], max(at - len(data), 0)
        return len(data) - before, None

    def _begin_new_stream(self, *args: Any, **options: Any) -> Any:
        """Looser than RFC 9113 8.1.1: nobody checks that a body is as long as its content-length says; h2 would end the
        connection. In the 2xx that answers a CONNECT the field means nothing (RFC 9110 9.3.6), in a handshake it is
        refused as over HTTP/1.1 (handshake.py), and part of a page that comes with a refusal is better than none."""
        stream = super()._begin_new_stream(*args, **options)
        stream._initialize_content_length = lambda _: None
        return stream
