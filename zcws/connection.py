"""One WebSocket connection without its socket: a reader, a writer and the bridge between them.

Bytes go in (`receive_bytes`, or `get_buffer` and `received` without a copy), frames come out (`read_frame`);
messages go in (`send`, `write_frame`), bytes come out (`bytes_to_send`). There is no socket here, no clock and no
randomness; whoever drives a connection owns those, and closes the socket when `wants_close` says so.

Who owns what. Nothing is shared but the bridge, so nothing needs a lock:

    thing                                                       owner      others
    ring lease, scan table, inflater, UTF-8 and fragment state  reader     never
    "close received"                                            reader     never
    deflater, masking keys, output, "close sent"                writer     never
    agreement, limits, role                                     frozen     read by both
    bridge slot                                                 reader puts, writer takes
    `state`, once our Close is out                              who sees the end notes it: `note_end`

An unsplit connection drains the bridge the moment something is put there; that is all that being unsplit means.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from zcws.annotations import Buffer
from zcws.bridge import Bridge, Reply
from zcws.buffer import PayloadBuffer
from zcws.closing import Event, State, close_payload, code_and_reason, next_state
from zcws.codec import Deflater, Inflater
from zcws.codes import CloseCode, OpCode
from zcws.deflate import Deflate
from zcws.errors import Closer, ConnectionClosed, ConnectionClosedError, closed_error
from zcws.extensions import Agreement, DeflateParameters
from zcws.frame import Frame, NeedMore, PayloadOrigin, check_frame, check_origin
from zcws.keys import MaskingKeys
from zcws.messages import MessageReader
from zcws.options import checked_limits
from zcws.payloads import as_bytes, as_control_payload, as_payload, flat, let_go
from zcws.pool import Pool
from zcws.reader import Reader
from zcws.ring_frame import RingFrame
from zcws.writer import Writer

__all__ = ["MAX_FRAGMENTS", "MAX_SIZE", "AlreadySplit", "Connection"]

#: Bytes of a message that are accepted when the caller does not say: 16 MiB (the conformance suite sends that much).
MAX_SIZE = 16 * 1024 * 1024

#: Frames of a message that are accepted: the conformance suite sends 4 MiB in 65,536, and an empty one to end it.
MAX_FRAGMENTS = 65_536

#: What `options.py` says for no limit; it fits into the words of the C core.
_MOST = sys.maxsize

# These are used all the time, and looking up a member of an Enum takes several steps.
_ADAPTIVE = PayloadOrigin.ADAPTIVE
_OPEN, _CLOSED, _RECEIVED, _CLOSE = State.OPEN, State.CLOSED, State.CLOSE_RECEIVED, OpCode.CLOSE
_SEND_CLOSE, _RECEIVE_CLOSE, _FAIL = Event.SEND_CLOSE, Event.RECEIVE_CLOSE, Event.FAIL

#: The socket should be closed, or is: RFC 6455 7.1.1.
_ENDS = frozenset({State.CLOSED, State.FAILED, State.LOST})

#: Who ended a connection whose first event this is. When the peer breaks a rule, it is us: our Close says so.
_CLOSERS: dict[Event, Closer] = {
    Event.SEND_CLOSE: "us",
    Event.RECEIVE_CLOSE: "peer",
    Event.FAIL: "us",
    Event.END: "network",
}

#: Close codes of the faults that the reader finds but the peer is not to blame for.
_OWN_FAULTS = frozenset({CloseCode.MESSAGE_TOO_BIG, CloseCode.INTERNAL_ERROR})


class AlreadySplit(RuntimeError):
    """A connection that is split was used as if it were whole."""

    def __init__(self) -> None:
        super().__init__("this connection is split: its halves read and write")


class Connection:
    """Both halves of one connection after its opening handshake.

    Args:
        is_client: our role. A client masks, a server does not. RFC 6455 5.1.
        entropy: gives random bytes for masking keys (`os.urandom`), or `MaskingKeys` to share a block of them;
            needed by a client.
        agreement: what the handshake settled.
        deflate: our settings for permessage-deflate, where it was agreed.
        pool: rings and other memory to share with the connections of the same loop or thread.
        max_size: bytes of a message to accept; None for as many as there can be.
        max_fragments: frames of a message to accept.
        shows_messages: whether a driver that shows what arrives to a function (`reader.show_waiting`) shows messages,
            not frames.

    Raises:
        ValueError: a client without entropy. TypeError, ValueError: an argument is invalid.

    Attributes:
        state: which Close frames have passed; after `split` it belongs to the writer's side until our Close is out.
        is_client: our role.
        is_split: whether replies stay on the bridge until somebody takes them (`split`).
        agreement: what the handshake settled.
        reader: the reading half; a table at the top of zcws/connection.py says who owns what.
        writer: the writing half.
        bridge: what is between them.
        compressor: the writer's, where permessage-deflate was agreed; else None.
        began_end: the first event that ended it; None while it is open.
        hold_replies: while true, Pongs wait in the bridge, where a later one replaces them; for a peer that does not
            read.
    """

    __slots__ = (
        "_failure",
        "agreement",
        "began_end",
        "bridge",
        "compressor",
        "hold_replies",
        "is_client",
        "is_split",
        "reader",
        "state",
        "writer",
    )

    def __init__(
        self,
        *,
        is_client: bool,
        entropy: Callable[[int], bytes] | MaskingKeys | None = None,
        agreement: Agreement | None = None,
        deflate: Deflate | None = None,
        pool: Pool | None = None,
        max_size: int | None = MAX_SIZE,
        max_fragments: int = MAX_FRAGMENTS,
        shows_messages: bool = False,
    ) -> None:
        # A driver has checked its own limits once, for all of its connections.
        are_int = type(max_size) is int and type(max_fragments) is int
        if not (are_int and 0 <= max_size <= _MOST and 0 < max_fragments <= _MOST):  # type: ignore[operator]
            limits = checked_limits(max_size, max_fragments)
            max_size, max_fragments = limits["max_size"], limits["max_fragments"]
        agreement = agreement or Agreement()
        pool = pool or Pool()
        self.is_client: bool = is_client
        self.agreement: Agreement = agreement
        self.state: State = _OPEN
        self.began_end: Event | None = None
        self.hold_replies: bool = False
        self.is_split: bool = False
        self._failure: tuple[int, str] | None = None
        self.bridge: Bridge = Bridge()
        parameters = agreement.deflate
        self.compressor: Deflater | None = (
            None if parameters is None else _deflater(parameters, deflate or Deflate(), is_client, pool)
        )
        self.reader: Reader = (MessageReader if shows_messages else Reader)(
            pool,
            self.bridge,
            masked=not is_client and not agreement.no_masking,
            inflate=None if parameters is None else Inflater(parameters, is_client=is_client),
            max_size=max_size,  # type: ignore[arg-type]  # an int
            max_fragments=max_fragments,
        )
        self.writer: Writer = Writer(
            pool,
            next_key=_keys(entropy).next if is_client and not agreement.no_masking else None,
            compressor=self.compressor,
        )
        self.bridge.on_put = self.drain_bridge

    # ---- the network's side ----

    def receive_bytes(self, data: Buffer) -> int:
        """Takes bytes from the peer. Returns how many: fewer than all when frames have to be read first."""
        view = flat(data)
        used = 0
        while used < len(view):
            count = self.reader.receive_bytes(view[used:])
            if count == 0:
                break
            used += count
        return used

    def get_buffer(self) -> memoryview:
        """Memory to receive the next bytes into; empty when frames have to be read first. See `Reader`."""
        # The caller gets a view of its own to release: the reader's serves every connection of the pool.
        return self.reader.get_buffer()[:]

    def received(self, count: int) -> None:
        """`count` bytes have been received into the last buffer."""
        self.reader.received(count)

    def receive_eof(self) -> None:
        """The peer has ended the stream."""
        self.reader.receive_eof()

    def end(self) -> None:
        """The socket is gone: nothing more can be sent or received."""
        self.reader.receive_eof()
        if self.state is not _CLOSED:
            self.lose()

    def lose(self, failure: tuple[int, str] | None = None) -> None:
        """The writer's part of `end`: nothing more can be sent. What has arrived can still be read.

        Args:
            failure: the code and the reason, where they are ours.
        """
        if self.state is State.OPEN:
            self._failure = failure
        self._move(Event.END)

    def note_end(self) -> None:
        """After a split: if our Close is out, that the reader has come to its end, or the socket has. RFC 6455 7.1.4.

        Either half may do this, and both at once: they come to the same, which is what the reader has found.
        """
        reader, state = self.reader, self.state
        if state is not State.CLOSE_SENT:
            return
        if reader.is_failed:
            self._move(_FAIL, state)
        else:
            self._move(Event.END if reader.peer_close is None else _RECEIVE_CLOSE, state)
        self.bridge.take()  # it needs no answer

    def take(self) -> list[Buffer]:
        """What has to be sent, in order; the segments belong to the caller. See `Writer`."""
        return self.writer.take()

    def bytes_to_send(self) -> bytes:
        """The same as one piece."""
        return self.writer.take_bytes()

    @property
    def wants_close(self) -> bool:
        """Whether the socket should be closed once everything has been sent: RFC 6455 7.1.1, the server first."""
        return self.state in _ENDS

    @property
    def awaits_writer(self) -> bool:
        """Whether the writer's half may still have something to send, at least a Close: when the reader has come to its
        end, a reply may be on its way from the bridge to the writer."""
        return self.is_split and self.writer.sent_close is None

    # ---- reading ----

    def read_frame(
        self, buffer: PayloadBuffer | None = None, origin: PayloadOrigin = PayloadOrigin.ADAPTIVE
    ) -> Frame | NeedMore:
        """The next message or control frame, or NEED_MORE. Replies to it have been written already.

        Raises:
            ProtocolError: the peer broke a rule; the Close that says so has been written.
            ConnectionClosed: the connection is over.
            TypeError: `origin` is no PayloadOrigin.
        """
        if origin is not _ADAPTIVE:
            check_origin(origin)
        return self.reader.read_frame(buffer, origin)

    def read_message(self) -> str | bytes | NeedMore:
        """The next message, or NEED_MORE: str or bytes of the caller's own. Raises: as `read_frame`."""
        return self.reader.read_message()

    # ---- writing ----

    def send(self, message: str | Buffer, *, compress: bool | None = None) -> None:
        """A whole message: text for str, binary for bytes-like.

        Raises:
            ConnectionClosed: a Close has been sent or the socket is gone.
            ValueError: the text has lone surrogates; or a message is going out in fragments.
        """
        if isinstance(message, str):
            payload = message.encode()
            self.check_writable()
            self.writer.write_message(OpCode.TEXT, payload, compress=compress)
        else:
            self.send_bytes(message, compress=compress)

    def send_bytes(self, message: Buffer, *, text: bool = False, compress: bool | None = None) -> None:
        """A whole message of bytes: binary, or text that is encoded already. Raises: as `send`."""
        payload = as_payload(message, text=text)
        try:
            self.check_writable()
            self.writer.write_message(OpCode.TEXT if text else OpCode.BINARY, payload, compress=compress)
        finally:
            let_go(payload)

    def send_fragment(
        self, data: str | Buffer, *, text: bool, last: bool, compress: bool | None = None
    ) -> None:
        """The next fragment of a message; `text` and `compress` count on its first one. Raises: as `send`."""
        self.check_writable()
        what = "a fragment, such as an item of a list,"
        payload = data.encode() if isinstance(data, str) else as_bytes(data, what)
        try:
            self.writer.write_fragment(
                OpCode.TEXT if text else OpCode.BINARY, payload, last=last, compress=compress
            )
        finally:
            let_go(payload)

    def write_frame(self, frame: Frame) -> None:
        """A frame as it is, a received one included. Raises: as `Writer.write_frame`."""
        if type(frame) is RingFrame and self.state is _OPEN and frame.opcode < _CLOSE:
            self.writer.write_message(frame.opcode, frame._peek())  # it is a whole message, and was checked
            return
        check_frame(frame)
        self.check_writable()
        if frame.opcode is OpCode.CLOSE:
            if not len(frame):
                self.close(None)
            else:
                self.close(frame.close_code, frame.close_reason)
        else:
            self.writer.write_frame(frame)

    def ping(self, payload: Buffer = b"") -> None:
        """A Ping. Raises: as `Writer.write_control`."""
        self.check_writable()
        self.writer.write_control(OpCode.PING, as_control_payload(payload))

    def pong(self, payload: Buffer = b"") -> None:
        """A Pong that nobody asked for: a heartbeat. RFC 6455 5.5.3."""
        self.check_writable()
        self.writer.write_control(OpCode.PONG, as_control_payload(payload))

    @property
    def is_over(self) -> bool:
        """Whether it is ending or has ended, for either half: then a ConnectionClosed from it says nothing else."""
        return self.state is not _OPEN or self.reader.is_concluded

    @property
    def may_send(self) -> bool:
        """Whether messages may be sent: no Close of ours is out, and the socket takes them."""
        return self.state is _OPEN or self.state is _RECEIVED

    def check_writable(self) -> None:
        """Raises ConnectionClosed when nothing can be sent any more."""
        if not self.may_send:
            raise self.error()

    # ---- closing ----

    def close(self, code: int | None = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Begins or completes the closing handshake. Data that arrives from now on is dropped. RFC 6455 7.1.2.

        Does nothing when our Close is out already.

        Raises:
            ValueError: the code must not be sent, or the reason is over 123 bytes.
        """
        close_payload(code, reason)  # wrong arguments raise, whether or not there is anything left to close
        if self.send_close(code, reason):
            self.reader.discard()

    def send_close(self, code: int | None = CloseCode.NORMAL_CLOSURE, reason: str = "") -> bool:
        """The writer's part of `close`: whether there was a Close to send. The reader's part is `reader.discard`."""
        if not self.may_send:
            return False
        if self.writer.sent_close is None:  # else a signal handler raised after it was written, the last time
            self.writer.write_close(code, reason)
        self._move(Event.SEND_CLOSE)
        return True

    def fail(self, code: int, reason: str) -> None:
        """Ends the connection for a reason of ours: sends a Close, and nothing that arrives counts. RFC 6455 7.1.7."""
        if self.state is State.OPEN:
            self._failure = (code, reason)
            self.writer.write_close(code, reason)
            self._move(Event.FAIL)
            self.reader.stop(code, reason)

    def drain_bridge(self) -> None:
        """Writes the reply that the reader has put on the bridge."""
        if self.hold_replies and not self.reader.is_concluded:
            return
        reply = self.bridge.take()
        if reply is not None:
            self.write_reply(reply)

    def write_reply(self, reply: Reply) -> bool:
        """Writes what the reader put on the bridge. Returns True when it was the last: a Close is out."""
        # Once the socket is gone nobody can be answered, once we have failed the connection nothing counts, and the
        # end of a connection in halves may have been noted already.
        writer, state = self.writer, self.state
        if state not in _ENDS:
            if reply.is_last:
                self._move(_FAIL if self.reader.is_failed else _RECEIVE_CLOSE, state)
            writer.write_reply(reply)
            if writer.sent_close is not None and self.state is _RECEIVED:
                self._move(_SEND_CLOSE)
        return writer.sent_close is not None

    def split(self) -> None:
        """From now on replies stay on the bridge until somebody takes them, and `state` belongs to the writer's side.

        The reader then answers a Ping when its frame is read, and not before: the slot holds one reply.

        Raises:
            RuntimeError: it is split already.
        """
        if self.is_split:
            raise AlreadySplit
        self.is_split = True
        self.bridge.on_put = None
        self.reader.defer_replies()

    def _move(self, event: Event, state: State | None = None) -> None:
        """`state`: from which, where the other half may be noting the same event."""
        if self.began_end is None:
            self.began_end = event
            self.bridge.closer = _CLOSERS[event]
        self.state = after = next_state(state or self.state, event)
        if after is State.LOST:
            self.writer.bar()

    def __repr__(self) -> str:
        return f"<Connection {'client' if self.is_client else 'server'}, {self.state.value}>"

    # ---- how it ended ----

    @property
    def close_code(self) -> int | None:
        """Why the connection ended; None while it is open. RFC 6455 7.1.5."""
        return None if self.state is State.OPEN else self.error().code

    @property
    def close_reason(self) -> str | None:
        """The reason that came with it; None while it is open. RFC 6455 7.1.6."""
        return None if self.state is State.OPEN else self.error().reason

    @property
    def failure(self) -> tuple[int, str] | None:
        """The code and the reason, where the connection was ended for a reason of ours."""
        return self._failure

    @property
    def closed_by(self) -> Closer | None:
        """Whose Close came first, ours where the peer broke a rule; None while it is open."""
        if self.began_end is None:
            return None
        return "us" if self._failure is not None else self.reader.closed_by

    @property
    def limit(self) -> ConnectionClosed | None:
        """The error, if a limit of ours or a lack of memory ended the connection: whoever set the limit, or gave too
        little memory, should know."""
        error = self.error() if self.reader.is_faulty and self._failure is None else None
        return error if error is not None and error.code in _OWN_FAULTS else None

    def error(self) -> ConnectionClosed:
        """A new exception that says how the connection ended, and whose doing it was."""
        if self._failure is not None:
            return ConnectionClosedError(*self._failure, by="us")
        close = self.reader.peer_close
        if close is not None and not self.reader.is_faulty:
            # The peer's Close has come. If ours is out, the handshake is complete, even if `state` does not say so yet.
            is_clean = self.state in (State.CLOSED, State.CLOSE_SENT)
            return closed_error(*close, clean=is_clean, by=self.reader.closed_by)
        if self.state is State.CLOSE_SENT:
            return closed_error(*code_and_reason(self.writer.sent_close or b""), clean=True, by="us")
        return self.reader.error()


def _deflater(parameters: DeflateParameters, settings: Deflate, is_client: bool, pool: Pool) -> Deflater:
    return Deflater(
        parameters,
        is_client=is_client,
        level=settings.level,
        mem_level=settings.mem_level,
        threshold=settings.threshold,
        shared=pool.compressors,
        idle_timeout=settings.idle_timeout,
        watch=pool.watch,
    )


def _keys(entropy: Callable[[int], bytes] | MaskingKeys | None) -> MaskingKeys:
    if entropy is None:
        raise ValueError("a client needs entropy for its masking keys (RFC 6455 5.3): pass os.urandom")
    if isinstance(entropy, MaskingKeys):
        return entropy
    if not callable(entropy):
        raise TypeError(
            f"entropy is a function that gives n random bytes, such as os.urandom, not {entropy!r}"
        )
    return MaskingKeys(entropy)
