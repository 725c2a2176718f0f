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
    "on_reconnect",
)


@pytest.mark.parametrize(
    ("function", "name"),
    [*product(["connect", "serve"], EVERYWHERE), *product(["connect"], OF_CLIENTS)],
)
def test_options_of_another_library(function: str, name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{function}\(\) has no option '{name}': \w"):
        check_names(function, [name])
