"""What is said of options that there are not. That all four entrances say it: test_options.py."""

from __future__ import annotations

from itertools import product

import pytest

from zcws.hints import check_names, not_awaited


def test_names() -> None:
    check_names("connect", ["family"], {"family"})
    with pytest.raises(TypeError, match=r"^connect\(\) has no option 'famly': did you mean family\?$"):
        check_names("connect", ["family", "famly"], {"family"})
    with pytest.raises(TypeError, match=r"did you mean max_size\?$"):
        check_names("connect", ["max_sise"], named=["max_fragments", "max_size"])
    with pytest.raises(TypeError, match=r"^serve\(\) has no option 'colour'$"):
        check_names("serve", ["colour"], {"path"}, named=["port"])
    with pytest.raises(
        TypeError, match=r"^serve\(\) has no option 'additional_headers': it is called extra_headers$"
    ):
        check_names("serve", ["additional_headers"])


def test_what_has_not_been_awaited() -> None:
    assert str(not_awaited("connect", "ws", "send")) == (
        "a connect() that has not been awaited has no 'send': "
        "write `async with zcws.connect(...) as ws:` or `ws = await zcws.connect(...)`"
    )


EVERYWHERE = (
    # `websockets`, and before its version 14
    *("max_queue", "create_connection", "logger", "extensions", "timeout", "create_protocol", "klass"),
    # aiohttp
    *("heartbeat", "max_msg_size", "protocols", "compress", "autoping", "autoclose"),
    *("receive_timeout", "writer_limit", "decode_text"),
    # the other driver
    *("http2", "on_frame", "write_limit"),
    # picows
    *("enable_auto_ping", "auto_ping_idle_timeout", "auto_ping_reply_timeout", "enable_auto_pong"),
    *("disconnect_on_exception", "ws_listener_factory", "max_frame_size", "ssl_context"),
    *("auto_ping_strategy", "logger_name", "read_buffer_init_size", "use_aiofastnet"),
    # Tornado
    *("compression_options", "connect_timeout", "max_message_size"),
    *("websocket_max_message_size", "websocket_ping_interval", "websocket_ping_timeout"),
    # names that are near at hand
    *("deflate", "handshake_timeout", "idle_timeout", "keepalive", "max_payload", "max_payload_size"),
    *("per_message_deflate", "permessage_deflate", "read_timeout", "recv_timeout", "uds", "unix_socket"),
)
OF_CLIENTS = (
    "legacy",
    *("auth", "cookies", "params", "proxy_auth", "socket_factory", "trust_env", "proxy_ssl_context"),
    *("fingerprint", "proxy_headers", "verify_ssl"),
    # websocket-client: create_connection, WebSocketApp, run_forever
    *("class_", "connection", "cookie", "enable_multithread", "fire_cont_frame", "header", "http_no_proxy"),
    *("http_proxy_auth", "http_proxy_host", "http_proxy_port", "http_proxy_timeout", "proxy_type"),
    *("redirect_limit", "skip_utf8_validation", "socket", "sockopt", "sslopt", "suppress_host"),
    *("dispatcher", "get_mask_key", "keep_running", "ping_payload", "reconnect", "suppress_origin"),
    *("on_close", "on_cont_message", "on_data", "on_error", "on_message", "on_open", "on_ping", "on_pong"),
    *("on_reconnect", "on_message_callback"),
    *("allow_redirects", "backoff", "ca_certs", "cafile", "cert", "certfile", "check_hostname"),
    *("follow_redirects", "http_proxy", "max_retries", "password", "proxies", "proxy_host", "proxy_port"),
    *("retries", "ssl_verify", "token", "user", "username"),
)
OF_SERVERS = (
    *("auth", "basic_auth", "header", "on_close", "on_connect", "on_disconnect", "on_message", "on_open"),
    *("certfile", "keyfile", "ssl_cert", "ssl_certfile", "ssl_key", "ssl_keyfile", "workers"),
)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        *product(["connect", "serve"], EVERYWHERE),
        *product(["connect"], OF_CLIENTS),
        *product(["serve"], OF_SERVERS),
    ],
)
def test_options_of_another_library(function: str, name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{function}\(\) has no option '{name}': \w"):
        check_names(function, [name])


@pytest.mark.parametrize(
    ("function", "name", "hint"),
    [
        ("connect", "connect_timeout", "it is called open_timeout"),  # and not close_timeout
        ("serve", "read_timeout", "write asyncio.wait_for"),  # and not write_timeout
        ("connect", "max_retries", "reconnect_delays says"),  # and not max_redirects
        ("serve", "auth", "give process_request="),  # and not path
        ("connect", "reconnect", "async for ws in connect"),  # on asyncio, too
    ],
)
def test_the_nearest_name_is_another_matter(function: str, name: str, hint: str) -> None:
    """The name that looked most like it was suggested, which does something else."""
    near = ["close_timeout", "write_timeout", "max_redirects", "path"]
    with pytest.raises(TypeError, match=rf"has no option '{name}': {hint}"):
        check_names(function, [name], named=near)
