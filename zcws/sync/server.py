"""A blocking server that runs: a listening socket, and a thread for each connection, up to a bound.

The bound is what keeps a flood of connections from becoming a flood of threads: when it is reached nothing more is
accepted until a connection ends, and clients wait in the kernel's backlog. Options and addresses are the business of
serving.py.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import logging
import os
import queue
import selectors
import socket
import ssl as ssl_module
import sys
import threading
import time
from collections.abc import Callable

from zcws.acceptor import IN_THE_CLEAR, AcceptorOptions, WebSocketAcceptor
from zcws.annotations import Self
from zcws.callables import abandon
from zcws.closing import close_payload
from zcws.codes import CloseCode
from zcws.connection import Connection
from zcws.errors import tells_only_of_an_end
from zcws.hooks import Hook, refusal_of
from zcws.http import HttpError, Request, Response, text_response
from zcws.options import Limits, Timeouts, checked_seconds
from zcws.pool import Pool
from zcws.seldom import SAID, Seldom
from zcws.stats import shown_server
from zcws.sync.deadline import after, is_past, left, socket_timeout
from zcws.sync.plain import open_channel
from zcws.sync.polled import begin_tls
from zcws.sync.stream import WebSocket

__all__ = ["Handler", "ProcessRequest", "Server"]

logger: logging.Logger = logging.getLogger("zcws.server")

Handler = Callable[[WebSocket], None]
ProcessRequest = Callable[["Server", Request], Response | None]

_CHUNK = 4096

_GOES_AWAY = "the server is shutting down"

#: Seconds to wait when the process has no descriptor left: until a connection ends, most likely.
_OUT_OF_DESCRIPTORS = 0.05

#: Seconds between two tries to send a Close to a connection that is in the middle of a send.
_NEXT_TRY = 0.01

#: Seconds of a wait that Ctrl-C must be able to end: on Windows a signal ends none, but its handler runs between two.
_WAIT = 0.5 if sys.platform == "win32" else None

#: Bytes of an answer that are given to OpenSSL, or to the system, at once: it takes them in time, or the send fails.
_PART = 64 * 1024

#: Seconds that a client may take to read the answer that it got instead of a connection.
_LINGER = 1.0


class Server:
    """A blocking WebSocket server that is listening. Made by `serve`.

    Attributes:
        sock: the listening socket.
    """

    def __init__(
        self,
        sock: socket.socket,
        handler: Handler,
        *,
        ssl: ssl_module.SSLContext | None,
        acceptor_options: AcceptorOptions,
        options: Timeouts,
        process_request: Hook | None,
        open_timeout: float | None,
        limits: Limits,
        max_connections: int,
        path: str | None,
    ) -> None:
        self.sock = sock
        self._path = path  # of the socket's file, which the server removes
        self._inode = None if path is None else os.stat(path).st_ino
        self._maker = os.getpid()  # children that it forks may serve as well: see `_is_the_last`
        self._connections: set[WebSocket] = set()
        self._handler = handler
        self._ssl = ssl
        self._acceptor_options = acceptor_options
        self._options = options
        self._process_request = process_request
        self._open_timeout = open_timeout
        self._limits = limits
        self._max_connections = max_connections
        # Logged seldom: nobody can be accepted; a limit has closed a connection; there was no opening handshake.
        self._out_of_descriptors, self._limited, self._refused = Seldom(SAID), Seldom(SAID), Seldom(SAID)
        self._taken = 0  # connections that have been accepted and are not known to have ended
        # One item for each that has ended. Not a semaphore: a signal handler that calls `shutdown` may interrupt the
        # thread that holds the semaphore's lock.
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._threads: set[threading.Thread] = set()
        self._ending: set[threading.Thread] = set()  # those that are in `shutdown`
        self._lock = threading.RLock()  # a signal handler that calls `shutdown` may interrupt its holder
        self._is_closing = False
        self._sends_away = False  # also clients that have been accepted, and are in the opening handshake
        sock.setblocking(False)
        # Wakes the thread that accepts. Shutting down the listening socket instead would stop every process that
        # shares it, and does nothing on macOS.
        self._wake: socket.socket | None = None
        # The process in which `serve_forever` runs, 0 for none: one that was forked from it has no such thread.
        self._served_by = 0
        # Sockets in the opening handshake, and how to shut each down in order to wake its thread, which answers with
        # 503 where it can.
        self._opening: dict[socket.socket, int] = {}

    @property
    def connections(self) -> set[WebSocket]:
        """The connections that are open or closing: a new set, which is the caller's."""
        return self._connections.copy()

    def respond(self, status: int, text: str) -> Response:
        """A plain text response, to be returned from `process_request`; `text` is sent as it is."""
        return text_response(status, text, end="")

    def fileno(self) -> int:
        """The descriptor of the listening socket."""
        return self.sock.fileno()

    def serve_forever(self) -> None:
        """Accepts connections until `shutdown` is called, from another thread or a signal handler.

        Raises:
            RuntimeError: another thread does it already.
        """
        waker, wake = socket.socketpair()
        with waker, wake, selectors.DefaultSelector() as selector:
            try:
                with self._lock:
                    if self._is_serving:
                        raise RuntimeError("serve_forever() runs already, in another thread")
                    self._served_by, self._wake = os.getpid(), wake
                    self._watch(selector, waker)
                while not self._is_closing:
                    if self._has_slot():
                        self._taken += self._accept(selector)
            finally:
                if self._wake is wake:
                    self._served_by = 0  # before anything in which a signal handler can raise
                    with self._lock:  # who has it may be using this
                        self._wake = None

    @property
    def _is_serving(self) -> bool:
        return self._served_by == os.getpid()

    def _watch(self, selector: selectors.BaseSelector, waker: socket.socket) -> None:
        selector.register(waker, selectors.EVENT_READ)
        try:
            selector.register(self.sock, selectors.EVENT_READ)
        except (ValueError, OSError):  # it is closed, before this call or in the middle of it
            if not self._is_closing:
                raise

    def _has_slot(self) -> bool:
        """Waits until there may be one more connection. False: ask again, unless we are closing."""
        if self._taken >= self._max_connections or not self._ended.empty():
            with contextlib.suppress(queue.Empty):
                self._ended.get(timeout=_WAIT)
                self._taken -= 1
            return False
        return True

    def _accept(self, selector: selectors.BaseSelector) -> bool:
        """Waits for a connection, or for `shutdown`. Returns whether it has a thread, which will report its end."""
        try:
            if not selector.select(_WAIT) or self._is_closing:
                return False
            sock, _ = self.sock.accept()
        except (BlockingIOError, ConnectionError):
            return False  # another process took it, or it has gone already
        except OSError as error:
            if not self._is_closing:
                self._pause(error)
            return False
        return self._start(sock)

    def _pause(self, error: OSError) -> None:
        """Logs the error and waits: most likely no descriptor is left, and the next `accept` would fail as well."""
        if self._out_of_descriptors.is_due(time.monotonic()):
            logger.error("cannot accept connections: %s", error)
        time.sleep(_OUT_OF_DESCRIPTORS)

    def _start(self, sock: socket.socket) -> bool:
        thread = threading.Thread(target=self._run, args=(sock,), daemon=True)
        with self._lock:
            if self._sends_away:
                sock.close()
                return False
            self._threads.add(thread)  # first: it may end before `start` returns
            try:
                thread.start()
            except RuntimeError:
                logger.error("no thread can be started for a connection", exc_info=True)
                self._threads.discard(thread)
                sock.close()
                return False
        return True

    def shutdown(
        self, code: int = CloseCode.GOING_AWAY, reason: str = "", *, drain: float | None = 0
    ) -> None:
        """Stops accepting, sends a Close to every connection, and waits until all handlers have returned.

        Before the Closes, handlers get `drain` seconds to finish by themselves; None: as long as they need. So do the
        handlers of clients that are still in the opening handshake; those that are in it after that get a 503.

        A connection whose peer does not answer is ended after `close_timeout`. A handler that goes on after that, and
        does not touch its connection, is left to itself: its thread ends with the process.
        """
        close_payload(code, reason)  # ValueError before anything happens
        drain = checked_seconds("drain", drain)
        self._ending.add(threading.current_thread())
        try:
            self._end(code, reason, drain)
        finally:
            self._ending.discard(threading.current_thread())

    def _end(self, code: int, reason: str, drain: float | None) -> None:
        with self._lock:
            if not self._is_closing:
                if drain != 0:
                    self._sweep()
                self._is_closing = True
                self._stop_accepting()
        if drain is None or drain > 0:
            self._join(after(drain))
        self._sends_away = True
        for sock, how in self._opening.copy().items():
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, how)
        timeout = self._options.close_timeout
        deadline = after(timeout)
        self._say_goodbye(code, reason, deadline)
        self._join(deadline)
        for ws in self.connections:
            ws.abort()
        self._join(after(timeout))

    def _sweep(self) -> None:
        """Accepts clients that wait in the kernel's queue, as far as there are threads: if no other process has the
        listening socket, the kernel would reset them. The lock is held."""
        with contextlib.suppress(OSError):  # nobody waits any more
            while self._is_serving and len(self._threads) < self._max_connections:
                sock, _ = self.sock.accept()
                self._start(sock)

    def _stop_accepting(self) -> None:
        self.sock.close()
        if self._wake is not None and self._is_serving:
            # Not its end: a child that was forked meanwhile holds that open.
            self._wake.send(b"\0")
        self._ended.put(None)  # `serve_forever` may wait for one
        if self._path is not None:
            with contextlib.suppress(OSError):
                # Another server may have taken the path over.
                if self._is_the_last(self._path) and os.stat(self._path).st_ino == self._inode:
                    os.unlink(self._path)

    def _is_the_last(self, path: str) -> bool:
        """Whether the file is ours to remove: we have made it; or its maker, who has forked us, has gone, as a daemon's
        has, and nobody else listens there any more. OSError: that is not known."""
        if self._maker == os.getpid():
            return True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._maker, 0)
            return False
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            return sock.connect_ex(path) == errno.ECONNREFUSED

    def _say_goodbye(self, code: int, reason: str, deadline: float | None) -> None:
        """Sends a Close to every client. Where a send is going on, tries again until `deadline`."""
        waiting = list(self.connections)
        while True:
            waiting = [ws for ws in waiting if not ws._try_close(code, reason, 0)]
            if not waiting or is_past(deadline):
                return
            time.sleep(_NEXT_TRY)

    def _join(self, deadline: float | None) -> None:
        """Waits until no thread is left, or until `deadline`. A client accepted before may get its thread only now."""
        while threads := self._others():
            for thread in threads:
                thread.join(left(deadline))
            if is_past(deadline):
                return

    def _others(self) -> set[threading.Thread]:
        """The threads of connections that have begun. Has one not, a signal handler that asks holds up its start."""
        me = threading.current_thread()
        with self._lock:
            threads = self._threads - {me}
            if me in self._threads:
                threads -= self._ending  # handlers that wait for us
        # In a forked child, those of its parent are not alive.
        return {thread for thread in threads if thread.is_alive()}

    # ---- one connection ----

    def _run(self, sock: socket.socket) -> None:
        """A connection's thread."""
        stream = sock
        try:
            sock.settimeout(self._open_timeout)  # also where it has inherited the listening socket's mode
            if self._ssl is not None:
                stream = begin_tls(self._ssl, sock, server_side=True)
            self._opening[stream] = socket.SHUT_RD if stream is sock else socket.SHUT_RDWR
            ws = self._open(stream)
            if ws is not None:
                self._handle(ws)
        except OSError as error:
            logger.debug("opening handshake failed: %s", error)
        except Exception:
            logger.error("opening handshake failed", exc_info=True)
        finally:
            self._opening.pop(stream, None)
            stream.close()
            # Without the lock: `shutdown` waits for this, and a signal handler may call it inside of `_start`.
            self._threads.discard(threading.current_thread())
            self._ended.put(None)

    def _open(self, stream: socket.socket) -> WebSocket | None:
        """The opening handshake. None: the answer was not a 101."""
        if isinstance(stream, ssl_module.SSLSocket) and not self._begin_tls(stream):
            return None
        self._opening[stream] = socket.SHUT_RD
        acceptor, data = WebSocketAcceptor(self._acceptor_options), bytearray()
        try:
            request = self._read_request(stream, acceptor, data)
            if request is None:
                return None
            response, answer = self._answer(acceptor, request)
            if response.status_code == 101:
                # After a 101 the connection is open, and ends with a Close: `shutdown` must not cut it off.
                self._opening.pop(stream, None)
            if self._sends_away:
                raise HttpError(503, _GOES_AWAY)
        except HttpError as error:
            response = acceptor.refuse(error)
            answer = response.serialize("HEAD" if data.startswith(b"HEAD ") else "GET")
            self._say_refused("no opening handshake", stream, error)
        if response.status_code != 101:
            why = acceptor.error or response.reason_phrase
            logger.debug(
                "connection of %s rejected: %s (%s)", stream.getpeername(), response.status_code, why
            )
        self._send(stream, answer)
        if response.status_code == 101:
            return self._make(stream, acceptor, request, response, bytes(data[acceptor.used :]))
        self._linger(stream)
        return None

    def _send(self, stream: socket.socket, answer: bytes) -> None:
        """Sends an answer. The client has `open_timeout` for each part of it, because it may be a page of many MB."""
        view = memoryview(answer)
        while view:
            stream.settimeout(socket_timeout(after(self._open_timeout)))
            view = view[stream.send(view[:_PART]) :]

    def _say_refused(self, what: str, stream: socket.socket, error: Exception) -> None:
        level = self._refused.level(logging.INFO, time.monotonic())
        logger.log(level, "%s, from %s: %s", what, stream.getpeername(), error)

    def _make(
        self,
        stream: socket.socket,
        acceptor: WebSocketAcceptor,
        request: Request | None,
        response: Response,
        received: bytes,
    ) -> WebSocket:
        """The connection, after a handshake that has succeeded."""
        connection = Connection(
            is_client=False,
            agreement=acceptor.agreement,
            deflate=self._acceptor_options.compression,
            pool=Pool(),
            **self._limits,
        )
        channel = open_channel(stream)
        return WebSocket(
            channel, connection, self._options, request=request, response=response, received=received
        )

    def _begin_tls(self, stream: ssl_module.SSLSocket) -> bool:
        """The TLS handshake. False: it has failed, and the client has been told why."""
        if self._sends_away:  # `shutdown` did not see it among `_opening`
            return False
        try:
            stream.do_handshake()
        except (ssl_module.SSLEOFError, ssl_module.SSLZeroReturnError):
            raise  # the client has gone; which of the two it is depends on the versions of Python and OpenSSL
        except ssl_module.SSLError as error:
            self._say_refused("no TLS handshake", stream, error)
            if error.reason == "HTTP_REQUEST":
                socket.socket.sendall(stream, IN_THE_CLEAR)  # past the TLS of the SSLSocket
            # In TLS 1.3 the client's request may be here already.
            self._linger(stream)
            return False
        return True

    def _read_request(
        self, stream: socket.socket, acceptor: WebSocketAcceptor, data: bytearray
    ) -> Request | None:
        """The request. None: the client has gone. Raises: HttpError."""
        deadline = after(self._open_timeout)
        while (request := acceptor.read_request(data)) is None:
            stream.settimeout(socket_timeout(deadline))
            if isinstance(stream, ssl_module.SSLSocket) and not stream.pending() and not self._sends_away:
                # `shutdown` ends this wait, without OpenSSL: that would see the end of the stream, and send nothing
                # after it.
                socket.socket.recv(stream, 1, socket.MSG_PEEK)
            chunk = b"" if self._sends_away else stream.recv(_CHUNK)
            if self._sends_away:
                raise HttpError(503, _GOES_AWAY)
            if not chunk:
                return None
            data += chunk
        return request

    def _answer(self, acceptor: WebSocketAcceptor, request: Request) -> tuple[Response, bytes]:
        """The response, and the bytes of it."""
        try:
            said = None if self._process_request is None else self._process_request(self, request)
            response = refusal_of(said) or acceptor.respond(request)
            # Raises if HTTP cannot express the response.
            return response, response.serialize(request.method)
        except BaseException:
            # CancelledError of asyncio, say, which is no Exception: the hook ran a loop. Nobody can cancel this thread,
            # and SystemExit ends nothing but it.
            logger.error("process_request or select_subprotocol failed", exc_info=True)
            response = acceptor.reject(500, "the server failed to answer; its log says more")
            return response, response.serialize(request.method)

    def _linger(self, stream: socket.socket) -> None:
        """Reads on after our answer: unread input would turn closing into a reset, and the answer would be lost."""
        deadline = time.monotonic() + _LINGER
        with contextlib.suppress(OSError):
            stream.shutdown(socket.SHUT_WR)
            stream.settimeout(_LINGER)
            while time.monotonic() < deadline and stream.recv(_CHUNK):
                pass

    def _handle(self, ws: WebSocket) -> None:
        self._connections.add(ws)
        try:
            if self._sends_away:
                ws.begin_close(CloseCode.GOING_AWAY)
            said = self._handler(ws)
            if inspect.isawaitable(said):
                abandon(said)
                raise TypeError(f"the handler returned {said!r}; zcws.sync has no event loop, zcws.serve has")
            ws.close()
        except BaseException as error:  # as in `_answer`
            if tells_only_of_an_end(error) and ws.connection.is_over:
                logger.debug("%r: %s", ws, error)
                ws.close()
                return
            # Also if the end of another connection was raised: ours would stay open with nobody behind it.
            logger.error("the handler of %r failed", ws, exc_info=True)
            ws.close(CloseCode.INTERNAL_ERROR)
        finally:
            ws.abort()
            self._connections.discard(ws)
            if (limit := ws.connection.limit) is not None:
                logger.log(self._limited.level(logging.WARNING, time.monotonic()), "%r: %s", ws, limit)

    def __repr__(self) -> str:
        if self._is_closing:
            state = "closing" if self._threads else "closed"
        else:
            state = "serving" if self._is_serving else "not serving"
        places = []
        with contextlib.suppress(OSError):  # it is closed
            places.append(self.sock.getsockname())
        return shown_server(places, state, len(self._connections))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.shutdown()
