"""What is said of options that there are not. That all four entrances say it: test_options.py."""

from __future__ import annotations

from itertools import product

import pytest

from zcws.hints import check_names


def test_names() -> None:
    check_names("connect", ["family"], {"family"})
    with pytest.raises(TypeError, match=r"^connect\(\) has no option 'famly'$"):
        check_names("connect", ["family", "famly"], {"family"})
    with pytest.raises(
        TypeError, match=r"^serve\(\) has no option 'additional_headers': it is called extra_headers$"
    ):
        check_names("serve", ["additional_headers"])


EVERYWHERE = (
    # `websockets`, and before its version 14
    *("max_queue", "create_connection", "logger", "extensions", "timeout", "create_protocol", "klass"),
    # aiohttp
    *("heartbeat", "max_msg_size", "protocols", "compress", "autoping", "autoclose"),
    *("receive_timeout", "writer_limit"),
    # picows
    *("enable_auto_ping", "auto_ping_idle_timeout", "auto_ping_reply_timeout", "enable_auto_pong"),
    *("disconnect_on_exception", "ws_listener_factory", "max_frame_size", "ssl_context"),
)
OF_CLIENTS = ("auth", "params", "proxy_auth", "socket_factory", "trust_env")


@pytest.mark.parametrize(
    ("function", "name"),
    [*product(["connect", "serve"], EVERYWHERE), *product(["connect"], OF_CLIENTS)],
)
def test_options_of_another_library(function: str, name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{function}\(\) has no option '{name}': \w"):
        check_names(function, [name])
