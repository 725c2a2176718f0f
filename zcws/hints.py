"""Options that `connect` and `serve` do not have, and what to write in their place.

What this file decides: which names of other libraries, of the other function and of the other driver are known here.
Those that it does not know are refused, too, with the nearest option that there is. What an option may be: options.py.
It also has the error for code that has forgotten to await either function.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import TypedDict

__all__ = ["NoOptions", "check_names", "not_awaited"]

# What several names get.
_TRUST = "ssl takes an ssl.SSLContext, or the path of a file with the certificates to trust"
_CERTIFICATE = "ssl takes an ssl.SSLContext: one after context.load_cert_chain(certfile, keyfile)"
_PROXY = "proxy takes it all: scheme://user:password@host:port"

#: Options that neither function has, or not in both drivers.
_OF_BOTH = {
    "auto_ping_idle_timeout": "it is called ping_interval",
    "auto_ping_reply_timeout": "it is called ping_timeout",
    "auto_ping_strategy": "any byte from the peer is a sign of life; a Ping goes out every ping_interval seconds",
    "autoclose": "a Close is always answered; after ws.split() you answer",
    "autoping": "a Ping is always answered; after ws.split() you answer",
    "compress": 'it is called compression, and takes "deflate"',
    "compression_options": "give compression=zcws.Deflate(...)",
    "connect_timeout": "it is called open_timeout",
    "create_connection": "there is one class; keep what belongs to a connection in a dict, or in the handler",
    "create_protocol": "there is one class; keep what belongs to a connection in a dict, or in the handler",
    "decode_text": "ws.recv(decode=False) gives bytes",
    "deflate": 'it is called compression, and takes "deflate"',
    "disconnect_on_exception": "an exception in on_message or on_frame always fails the connection, with 1011",
    "enable_auto_ping": "ping_interval and ping_timeout are on by default; None turns them off",
    "enable_auto_pong": "a Ping is always answered; after ws.split() you answer",
    "extensions": "give compression=zcws.Deflate(...)",
    "handshake_timeout": "it is called open_timeout",
    "heartbeat": "there are ping_interval and ping_timeout, on by default",
    "http2": "zcws.sync speaks HTTP/1.1 alone",
    "idle_timeout": "ping_interval and ping_timeout end a connection whose peer is silent",
    "keepalive": "there are ping_interval and ping_timeout, on by default",
    "klass": "there is one class; keep what belongs to a connection in a dict, or in the handler",
    "logger": 'the loggers are "zcws.client" and "zcws.server"',
    "logger_name": 'the loggers are "zcws.client" and "zcws.server"',
    "loop": "the running event loop is used",
    "max_frame_size": "it is called max_size, and counts a whole message",
    "max_message_size": "it is called max_size",
    "max_msg_size": "it is called max_size; None, and not 0, is no limit",
    "max_payload": "it is called max_size, and counts a whole message",
    "max_payload_size": "it is called max_size, and counts a whole message",
    "max_queue": "there is no queue; what is not read stays in a ring, and TCP holds the peer back",
    "on_frame": "zcws.sync has ws.read_frame() and ws.batches()",
    "per_message_deflate": 'it is called compression, and takes "deflate"',
    "permessage_deflate": 'it is called compression, and takes "deflate"',
    "protocols": "it is called subprotocols",
    "read_buffer_init_size": "there is no buffer of a connection; rings are lent to those that receive",
    "read_limit": "there is no queue; what is not read stays in a ring, and TCP holds the peer back",
    "read_timeout": "write asyncio.wait_for(ws.recv(), seconds), in zcws.sync ws.recv(timeout=seconds)",
    "receive_timeout": "write asyncio.wait_for(ws.recv(), seconds), in zcws.sync ws.recv(timeout=seconds)",
    "recv_timeout": "write asyncio.wait_for(ws.recv(), seconds), in zcws.sync ws.recv(timeout=seconds)",
    "ssl_context": "it is called ssl",
    "timeout": "there are open_timeout, close_timeout, ping_timeout and write_timeout",
    "uds": "it is called path",
    "unix_socket": "it is called path",
    "use_aiofastnet": "the event loop decides; aiofastnet's costs less with TLS",
    "websocket_handshake_timeout": "it is called open_timeout",
    "websocket_max_message_size": "it is called max_size",
    "websocket_ping_interval": "it is called ping_interval",
    "websocket_ping_timeout": "it is called ping_timeout",
    "write_limit": "a blocking send waits until the system has taken all of it; write_timeout bounds that",
    "writer_limit": "it is called write_limit",
    "ws_listener_factory": "on_message takes a function, which is called with each message; on_frame, with a frame",
}

#: Options that one of the two functions does not have.
_OF_ONE = {
    "connect": {
        "allow_redirects": "it is called max_redirects, and takes a number",
        "auth": "it is called basic_auth, and takes a pair of user name and password",
        "backoff": "reconnect_delays says when a loop over connections connects again",
        "ca_certs": _TRUST,
        "cafile": _TRUST,
        "cert": _TRUST,
        "certfile": _TRUST,
        "check_hostname": _TRUST,
        "class_": "there is one class; keep what belongs to a connection in a dict, or in the handler",
        "connection": "the handshake says Connection: Upgrade, and nothing else",
        "cookie": 'give additional_headers={"Cookie": "name=value"}',
        "cookies": 'give additional_headers={"Cookie": "name=value"}',
        "dispatcher": "a thread of yours reads; zcws.connect runs on asyncio",
        "enable_multithread": "any number of threads may send, and one may read",
        "extra_headers": "it is called additional_headers",
        "fingerprint": _TRUST,
        "fire_cont_frame": "ws.stream() gives a message as it arrives",
        "follow_redirects": "it is called max_redirects, and takes a number",
        "get_mask_key": "masking keys are random (RFC 6455 5.3)",
        "header": "it is called additional_headers, and takes a dict or pairs",
        "headers": "it is called additional_headers",
        "http_no_proxy": "the no_proxy of the environment counts; proxy=None goes without",
        "http_proxy": _PROXY,
        "http_proxy_auth": _PROXY,
        "http_proxy_host": _PROXY,
        "http_proxy_port": _PROXY,
        "http_proxy_timeout": "open_timeout bounds all of connecting",
        "keep_running": "leave the loop over zcws.sync.reconnect(); ws.close() ends a connection from any thread",
        "legacy": "zcws.sync.connect() always connects at once",
        "local_addr": "it is called source_address",
        "max_retries": "reconnect_delays says when a loop over connections connects again, and when no more",
        "on_close": "it is the line after the loop over the messages, which ends with the connection",
        "on_cont_message": "ws.stream() gives a message as it arrives",
        "on_data": "for message in ws gives messages, ws.read_frame() frames",
        "on_error": "errors are raised: zcws.ConnectionClosedError by the loop over the messages",
        "on_message": "for message in ws gives the messages; on asyncio there is on_message, too",
        "on_message_callback": "for message in ws gives the messages; on asyncio there is on_message, too",
        "on_open": "it is the line after connect()",
        "on_ping": "a Ping is answered for you; ws.read_frame() shows it",
        "on_pong": "ws.ping() waits for the Pong; ws.read_frame() shows it",
        "on_reconnect": "it is the first line of the loop over zcws.sync.reconnect()",
        "params": "write them into the URI",
        "password": "basic_auth takes a pair of user name and password",
        "ping_payload": "keepalive chooses it; ws.ping(payload) takes one",
        "process_exception": "it belongs to zcws.sync.reconnect()",
        "proxies": _PROXY,
        "proxy_auth": "the address of the proxy takes them: scheme://user:password@host",
        "proxy_headers": "a proxy gets the user and the password of its address, and no other headers",
        "proxy_host": _PROXY,
        "proxy_port": _PROXY,
        "proxy_ssl_context": "it is called proxy_ssl",
        "proxy_type": _PROXY,
        "reconnect": "async for ws in connect(...) connects again, in zcws.sync for ws in reconnect(...)",
        "reconnect_delays": "it belongs to zcws.sync.reconnect()",
        "redirect_limit": "it is called max_redirects",
        "retries": "reconnect_delays says when a loop over connections connects again, and when no more",
        "skip_utf8_validation": "text is always checked (RFC 6455 8.1)",
        "socket": "it is called sock, and takes a socket that is connected",
        "socket_factory": "sock takes a socket that is connected",
        "sockopt": "sock takes a socket that is connected, with the options that you have set",
        "source_address": "it is called local_addr",
        "ssl_verify": _TRUST,
        "sslopt": _TRUST,
        "suppress_host": "HTTP/1.1 wants a Host (RFC 9112 3.2)",
        "suppress_origin": "there is no Origin unless origin= gives one",
        "token": "it is called bearer",
        "trust_env": "proxy=True, the default, takes the environment's; None goes without",
        "user": "basic_auth takes a pair of user name and password",
        "user_agent": "it is called user_agent_header",
        "username": "basic_auth takes a pair of user name and password",
        "verify": _TRUST,
        "verify_ssl": _TRUST,
    },
    "serve": {
        "additional_headers": "it is called extra_headers",
        "auth": "give process_request=zcws.basic_auth(...)",
        "basic_auth": "give process_request=zcws.basic_auth(...)",
        "certfile": _CERTIFICATE,
        "header": "it is called extra_headers, and takes a dict or pairs",
        "headers": "it is called extra_headers",
        "keyfile": _CERTIFICATE,
        "max_connections": "it bounds the threads of zcws.sync; a process_request can refuse with a 503",
        "on_close": "it is the line after the handler's loop over the messages",
        "on_connect": "it is the first line of the handler",
        "on_disconnect": "it is the line after the handler's loop over the messages",
        "on_message": "the handler loops over the messages; on asyncio there is on_message, too",
        "on_open": "it is the first line of the handler",
        "process_response": "extra_headers adds to the 101, and process_request makes every other response",
        "ssl_cert": _CERTIFICATE,
        "ssl_certfile": _CERTIFICATE,
        "ssl_key": _CERTIFICATE,
        "ssl_keyfile": _CERTIFICATE,
        "start_serving": "nothing is accepted before serve_forever()",
        "workers": "reuse_port=True lets several processes listen on one port",
    },
}


class NoOptions(TypedDict):
    """For the type checker: a function has no options besides those in its signature."""


def check_names(
    function: str,
    given: Iterable[str],
    allowed: Collection[str] = (),
    *,
    named: Iterable[str] | None = (),
) -> None:
    """`TypeError` for an option that `function`, "connect" or "serve", does not have.

    Args:
        given: the names that it was called with.
        allowed: which of them it has.
        named: the options in its signature: one of them may have been meant.
    """
    for name in given:
        if name not in allowed:
            hint = (
                _OF_ONE[function].get(name)
                or _OF_BOTH.get(name)
                or _nearest(name, {*allowed, *(named or ())})
            )
            raise TypeError(f"{function}() has no option {name!r}{f': {hint}' if hint else ''}")


def not_awaited(function: str, result: str, name: str) -> AttributeError:
    """What to raise when a call of `connect` or `serve` was not awaited, and its result is asked for `name`."""
    return AttributeError(
        f"a {function}() that has not been awaited has no {name!r}: "
        f"write `async with zcws.{function}(...) as {result}:` or `{result} = await zcws.{function}(...)`"
    )


def _nearest(name: str, options: Collection[str]) -> str | None:
    found = get_close_matches(name, options, n=1, cutoff=0.75)
    return f"did you mean {found[0]}?" if found else None
