"""zcws behind uvicorn: `uvicorn app:app --ws zcws.asgi.uvicorn:WebSocketProtocol`.

uvicorn reads every request. One that asks for a WebSocket it writes out again, with header names in lower case, for the
class that `--ws` names:

    protocol = WebSocketProtocol(config=..., server_state=..., app_state=...)
    protocol.connection_made(transport)
    protocol.data_received(the head)            # the application must not run yet:
    transport.set_protocol(protocol)            # an accept would be undone by this

From then on uvicorn wants three things: that the connection is in `server_state.connections` while it lasts, that its
application is in `server_state.tasks` while it runs, and that `shutdown()` ends both. The rest is ASGI 2.5:

    phase        what the application may send                            what it receives
    ASKED        websocket.accept                           -> OPEN       websocket.connect, once; then it waits
                 websocket.close: a 403                     -> CLOSED
                 websocket.http.response.start              -> DENYING
    DENYING      websocket.http.response.body, to the last  -> CLOSED     it waits
    OPEN         websocket.send; websocket.close            -> CLOSED     messages, then websocket.disconnect
    CLOSED       nothing: RuntimeError, it said the last word itself      websocket.disconnect
    LOST         nothing: ClientDisconnected, which is an OSError         websocket.disconnect

After `shutdown()` it is ClientDisconnected as well, because the application did not say the last word.

There is no queue: a message stays in the ring until the application asks, and TCP holds back what comes after it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from zcws.aio.tasks import cancels
from zcws.asgi.opening import Event, Opening, Phase, acceptor_options, decoded, stream_options
from zcws.closing import State
from zcws.codes import CloseCode
from zcws.errors import ConnectionClosed
from zcws.http import Request, Response, reason_phrase, text_response
from zcws.options import checked_size
from zcws.seldom import SAID, Seldom

try:
    from uvicorn.protocols.utils import (
        ClientDisconnected,
        get_client_addr,
        get_local_addr,
        get_path_with_query_string,
        get_remote_addr,
        is_ssl,
    )
except ModuleNotFoundError as missing:
    raise ImportError("zcws.asgi.uvicorn needs uvicorn: pip install 'zcws[asgi]'") from missing
except ImportError as missing:
    version = sys.modules["uvicorn"].__version__
    raise ImportError(f"zcws.asgi.uvicorn needs uvicorn 0.36 or newer, and this is {version}") from missing

__all__ = ["WebSocketProtocol"]

#: Seconds that a client has for its answer when uvicorn shuts down. uvicorn waits for all clients, so that one that
#: does not answer would hold up a restart for as long as a closing handshake may take.
GOODBYE = 1.0

#: For each server, when the next warning is due that a limit has closed a connection.
_limited: WeakKeyDictionary[Any, Seldom] = WeakKeyDictionary()

#: How many events an application gets after the end before it is stopped: it ignores them, and would ask for ever.
PATIENCE = 100


class WebSocketProtocol(Opening):
    """One WebSocket connection of uvicorn's; see the top of this file.

    It uses uvicorn's settings `ws_max_size`, `ws_per_message_deflate`, `ws_ping_interval` and `ws_ping_timeout`.
    """

    def __init__(
        self,
        config: Any,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        super().__init__(
            _loop or asyncio.get_running_loop(), acceptor_options(bool(config.ws_per_message_deflate))
        )
        self.config = config
        self.server_state = server_state
        self.app_state = app_state
        self.logger: logging.Logger = logging.getLogger("uvicorn.error")
        self.scope: Event = {}
        self._told = False  # the application has its websocket.connect
        self._receiving = False
        self._turn: asyncio.Future[None] | None = None  # for tasks that want to receive while another does
        self._ends = 0
        # The server, not the application, has ended the connection: what came before that is still received.
        self._is_cut_off = False

    # ---- for Opening ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """For uvicorn."""
        super().connection_made(transport)
        self.server_state.connections.add(self)

    def asked(self, request: Request) -> None:
        """For Opening."""
        self.scope = self._make_scope(request)
        self.loop.call_soon(self._start)

    def forgotten(self) -> None:
        """For Opening."""
        self.server_state.connections.discard(self)
        if self.ws is not None:
            if (limit := self.ws.connection.limit) is not None:
                # Whoever set the limit should know, but no client should be able to fill the log.
                limited = _limited.setdefault(self.server_state, Seldom(SAID))
                told = f"{limit}; with uvicorn, max_size is --ws-max-size"
                self._log(told, limited.level(logging.WARNING, self.loop.time()))
            self.logger.info("connection closed")

    def default_headers(self) -> Iterable[tuple[bytes, bytes]]:
        """For Opening: Date and Server, unless uvicorn was told otherwise, and its `--header`s."""
        headers: list[tuple[bytes, bytes]] = self.server_state.default_headers
        return headers

    def _make_scope(self, request: Request) -> Event:
        transport, root_path = self.transport, self.config.root_path
        path, _, query = request.path.partition("?")
        headers = request.headers.raw_items()
        return {
            "type": "websocket",
            # 2.5: websocket.disconnect has a reason. 2.4: sending after it raises an OSError.
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.5"},
            "http_version": "1.1",
            "scheme": "wss" if is_ssl(transport) else "ws",
            "server": get_local_addr(transport),
            "client": get_remote_addr(transport),
            "root_path": root_path,
            "path": root_path + unquote(path),
            "raw_path": (root_path + path).encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
            "subprotocols": self.subprotocols,
            "state": self.app_state.copy(),
            "extensions": {"websocket.http.response": {}},
        }

    # ---- the application, from the request to the closed socket ----

    def _start(self) -> None:
        task = self.loop.create_task(self._run())
        self.server_state.tasks.add(task)
        task.add_done_callback(self.server_state.tasks.discard)

    async def _run(self) -> None:
        code = CloseCode.NORMAL_CLOSURE
        try:
            result = await self.config.loaded_app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass  # ASGI 2.4: the server, which raised it, must not log it
        except BaseException as error:
            if cancels(error) or isinstance(error, (KeyboardInterrupt, GeneratorExit)):
                self._abort()  # uvicorn does not wait for the shutdown any longer
                raise
            # Also a SystemExit, which would end the loop and all connections, and a CancelledError that is not for us.
            self.logger.exception("Exception in ASGI application\n")
            code = CloseCode.INTERNAL_ERROR
        else:
            if self.phase in (Phase.ASKED, Phase.DENYING):
                self.logger.error("the ASGI application returned without an answer to the WebSocket request")
            elif result is not None:
                self.logger.error("the ASGI application returned %r, and should return None", result)
        self._finish(code, text_response(500, "Internal Server Error"))

    def shutdown(self) -> None:
        """For uvicorn: the server is going away. RFC 6455 11.7, 1012: "service restart"."""
        self._is_cut_off = self.phase is not Phase.CLOSED
        self._finish(CloseCode.SERVICE_RESTART, text_response(503, "the server is shutting down"))
        if self.ws is not None:
            self.loop.call_later(GOODBYE, self.ws.abort)
        elif self.transport is not None:
            self.transport.close()  # what was written is sent first; there is no time for the client's end

    def _finish(self, code: int, refusal: Any) -> None:
        """Ends the connection in the way that its phase asks for."""
        if self.phase is Phase.OPEN:
            self._close(code, "")
        elif self.is_unanswered:
            self.refuse(refusal)
        elif self.phase is Phase.DENYING:
            self.hang_up()

    def _abort(self) -> None:
        if self.ws is not None:
            self.ws.abort()
        elif self.transport is not None:
            self.transport.abort()

    # ---- what the application sends ----

    async def send(self, message: Event) -> None:
        """ASGI's `send`: waits while the client is slow.

        Raises:
            ClientDisconnected: the client is gone; a subclass of OSError, as ASGI 2.4 asks for.
            RuntimeError: this event has no place in this phase.
            TypeError, ValueError: what is in it cannot be sent.
        """
        kind = message["type"]
        if self.phase is Phase.OPEN and kind == "websocket.send":
            await self._send(message)
        elif self.is_gone or self._is_cut_off:
            if kind != "websocket.close":  # the connection is closed, as was asked for
                raise ClientDisconnected
        elif act := ACTS.get((self.phase, kind)):
            await act(self, message)
        else:
            expected = [name for phase, name in ACTS if phase is self.phase]
            wanted = f"expected is {' or '.join(expected)}" if expected else "nothing can follow"
            raise RuntimeError(f"ASGI message {kind!r} for a WebSocket that is {self.phase.value}: {wanted}")

    async def _send(self, message: Event) -> None:
        data = message.get("bytes")
        is_text = data is None
        if is_text:
            data = message.get("text")
        if isinstance(data, str) is not is_text:
            given = f"{'text' if is_text else 'bytes'!r} of type {type(data).__name__}"
            raise TypeError(
                f"websocket.send needs 'bytes' that are bytes-like, or 'text' that is str, not {given}"
            )
        ws = self.ws
        assert ws is not None and data is not None
        try:
            if ws._obstacle is None:
                ws.send_nowait(data)  # saves a coroutine
            else:
                await ws.send(data)
        except ConnectionClosed:
            raise ClientDisconnected from None

    async def _accept(self, message: Event) -> None:
        lines = [decoded(line) for line in message.get("headers", ())]
        # A subprotocol given as a header means the same, and applications do that.
        headers = [line for line in lines if line[0] != "sec-websocket-protocol"]
        given = next((value for name, value in lines if name == "sec-websocket-protocol"), None)
        config = self.config
        interval = config.ws_ping_interval
        # As in uvicorn's own protocols: a negative interval means no Pings, and a `ws_max_size` of None no limit.
        timing = stream_options(interval if interval and interval > 0 else None, config.ws_ping_timeout)
        max_size = checked_size(config.ws_max_size)
        self.accept(message.get("subprotocol") or given, headers, max_size=max_size, timing=timing)
        self._log("[accepted]")
        self.logger.info("connection open")

    async def _reject(self, message: Event) -> None:
        self.refuse(text_response(403, "Forbidden"))

    async def _deny(self, message: Event) -> None:
        self.deny(message["status"], [decoded(line) for line in message.get("headers", ())])

    async def _deny_body(self, message: Event) -> None:
        body = bytes(message.get("body", b""))
        if self._denial is not None:
            self._log_refusal(self._denial.status_code)
        await self.deny_body(body, last=not message.get("more_body", False))

    async def _close_open(self, message: Event) -> None:
        code = message.get("code")
        self._close(CloseCode.NORMAL_CLOSURE if code is None else code, message.get("reason") or "")

    def _close(self, code: int, reason: str) -> None:
        ws = self.ws
        assert ws is not None
        if ws.state is State.OPEN:  # otherwise the peer was first, and there is nothing left to say
            ws.begin_close(code, reason)
            ws.when_closed()  # from now on a peer that hangs up is noticed even if nobody reads
            self.ended(code, reason)
            # Ends a receive that waits: the client may never answer.
            ws._wakeup.give_up(ws.connection.error())
            if self.phase is Phase.OPEN:  # the socket may be gone already
                self.phase = Phase.CLOSED

    # ---- what is logged: in the words of uvicorn's own protocols, for whoever looks for them there ----

    def refuse(self, response: Response) -> None:
        """As Opening does, and logs it."""
        if self.transport is not None:
            self._log_refusal(response.status_code)
        super().refuse(response)

    def _log_refusal(self, status: int) -> None:
        if self.scope:  # otherwise it was no request for the application
            self._log(str(status))
        self.logger.info("connection rejected (%d %s)", status, reason_phrase(status))

    def _log(self, outcome: str, level: int = logging.INFO) -> None:
        client, path = get_client_addr(self.scope), get_path_with_query_string(self.scope)
        self.logger.log(level, '%s - "WebSocket %s" %s', client, path, outcome)

    # ---- what the application receives ----

    async def receive(self) -> Event:
        """ASGI's `receive`. Any number of tasks may call it; each event goes to one of them.

        After the end it gives the same websocket.disconnect again. An application that ignores it a hundred times gets
        ClientDisconnected instead.
        """
        ws = self.ws
        has_ended = self.end is not None and not self._is_cut_off
        if ws is None or self._receiving or has_ended or not self._told:
            return await self._receive_other()
        self._receiving = True
        try:
            message = await ws.__anext__()
        except (StopAsyncIteration, ConnectionClosed):
            self.ended(ws.close_code or CloseCode.ABNORMAL_CLOSURE, ws.close_reason or "")
            return await self._receive_end()
        finally:
            self._receiving = False
            if self._turn is not None:
                self._turn.set_result(None)
                self._turn = None
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    async def _receive_other(self) -> Event:
        """Any event that is not a message, or has to wait for its turn."""
        if not self._told:
            self._told = True
            return {"type": "websocket.connect"}
        if self.end is not None:
            return await self._receive_end()
        if self._receiving:
            if self._turn is None:
                self._turn = self.loop.create_future()
            await asyncio.shield(self._turn)
        else:
            await asyncio.shield(self.decided)
        return await self.receive()

    async def _receive_end(self) -> Event:
        assert self.end is not None
        self._ends += 1
        if self._ends > PATIENCE:
            raise ClientDisconnected
        if self._ends > 1:
            # An application that ignores the end must not keep the loop from everybody else.
            await asyncio.sleep(0)
        return dict(self.end)


#: What an application may send in which phase, and what it does; websocket.send has a way of its own.
ACTS: dict[tuple[Phase, str], Callable[[WebSocketProtocol, Event], Any]] = {
    (Phase.ASKED, "websocket.accept"): WebSocketProtocol._accept,
    (Phase.ASKED, "websocket.close"): WebSocketProtocol._reject,
    (Phase.ASKED, "websocket.http.response.start"): WebSocketProtocol._deny,
    (Phase.DENYING, "websocket.http.response.body"): WebSocketProtocol._deny_body,
    (Phase.OPEN, "websocket.close"): WebSocketProtocol._close_open,
    (Phase.OPEN, "websocket.send"): WebSocketProtocol._send,
}
