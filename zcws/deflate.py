"""permessage-deflate: its options, and how two sides agree on them. RFC 7692 7.

What this file decides: what a client offers, which offer a server takes, and whether a server's answer
belongs to what was offered. It refuses to know about headers, frames and messages.

A parameter in a server's answer binds somebody; a parameter in an offer asks for it:

    parameter                     in an offer               in the answer
    ----------------------------  ------------------------  ---------------------------------------------
    server_no_context_takeover    the server must           the server must; unasked, too (7.1.1.1)
    client_no_context_takeover    the client does anyway    the client must; unasked, too (7.1.1.2)
    server_max_window_bits=N      at most N, or decline     the server must; unasked, too (7.1.2.1)
    client_max_window_bits[=N]    the client can be told    the client must; never unasked (7.1.2.2)

Windows that we ask for are 9 to 15 bits: zlib cannot compress with 8 where there is no zlib header, though it can
inflate. So a server declines an offer of `server_max_window_bits=8`. A client that is told 8 may not refuse, because it
said that it can be told: it only shortens runs of one byte, and uses Huffman codes (zlib's Z_RLE).
"""

from __future__ import annotations

from collections.abc import Iterable

from zcws.errors import HandshakeError
from zcws.extensions import DeflateParameters, Extension, Parameters, build_extension
from zcws.options import check_range, checked_count, checked_seconds

__all__ = ["EXTENSION", "Deflate"]

#: RFC 7692 7: the extension's token.
EXTENSION = "permessage-deflate"
#: RFC 7692 7.1.2: "a decimal integer value without leading zeroes between 8 to 15, inclusive".
WINDOW_BITS: dict[str | None, int] = {str(bits): bits for bits in range(8, 16)}
#: RFC 7692 7.1.1: parameters without a value.
FLAGS = ("server_no_context_takeover", "client_no_context_takeover")
#: RFC 7692 7.1.2: parameters with a window's size.
WINDOWS = ("server_max_window_bits", "client_max_window_bits")
#: zlib's largest window, 32 KiB: what holds where nothing else was agreed.
MAX_BITS = 15
#: The smallest window that deflate without a zlib header can compress with.
MIN_BITS = 9


class Deflate:
    """Options of permessage-deflate.

    Args:
        level: 1 (fast) to 9 (small). Of 1 KiB of JSON in a feed, zlib-ng's level 1 leaves a quarter; level 2 leaves a
            fifth in three times the time, level 6 a little less in seven times.
        server_max_window_bits: the largest window of the server's compressor, 9 to 15. A client that sets it
            insists on it.
        client_max_window_bits: the same for the client's. A server that sets it gets it from those clients
            that allow it.
        server_no_context_takeover: the server forgets each message before the next: less memory, larger
            messages. A client that sets it insists on it.
        client_no_context_takeover: the same for the client.
        mem_level: zlib's memLevel, 1 to 9. 8 is zlib's own default; in zlib-ng less saves no more than
            8 KiB of at least 140.
        threshold: messages of fewer bytes are sent as they are: little can be saved there.
        idle_timeout: seconds without a compressed message, or up to half as long again, after which the memory of
            our compressor (200 KiB, with context takeover) is given back; None keeps it as long as the connection
            lives. The next message then needs a new compressor, and refers to nothing before it. The peer's history,
            in our decompressor, has to be kept: the peer may refer to it at any time.

    Raises:
        TypeError, ValueError: an argument is invalid.
    """

    level: int
    server_max_window_bits: int | None
    client_max_window_bits: int | None
    server_no_context_takeover: bool
    client_no_context_takeover: bool
    mem_level: int
    threshold: int
    idle_timeout: float | None

    def __init__(
        self,
        level: int = 1,
        server_max_window_bits: int | None = None,
        client_max_window_bits: int | None = None,
        server_no_context_takeover: bool = False,
        client_no_context_takeover: bool = False,
        mem_level: int = 8,
        threshold: int = 256,
        idle_timeout: float | None = 60,
    ) -> None:
        check_range("level", level, 1, 9)
        check_range("mem_level", mem_level, 1, 9)
        for name, bits in zip(WINDOWS, (server_max_window_bits, client_max_window_bits), strict=True):
            if bits is not None:
                check_range(name, bits, MIN_BITS, MAX_BITS)
        checked_count("threshold", threshold, "bytes", least=0)
        vars(self).update(
            level=level,
            server_max_window_bits=server_max_window_bits,
            client_max_window_bits=client_max_window_bits,
            server_no_context_takeover=server_no_context_takeover,
            client_no_context_takeover=client_no_context_takeover,
            mem_level=mem_level,
            threshold=threshold,
            idle_timeout=checked_seconds("idle_timeout", idle_timeout, zero=False),
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            "options of permessage-deflate do not change: they are checked when they are made"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Deflate) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        return f"Deflate({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    @staticmethod
    def of(compression: Deflate | str | None) -> Deflate | None:
        """The options that `compression=` stands for: "deflate" is all defaults, None is no compression."""
        if compression is None or isinstance(compression, Deflate):
            return compression
        if compression == "deflate":
            return Deflate()
        raise ValueError(f'compression must be None, "deflate" or a Deflate, not {compression!r}')

    def offers(self) -> list[Extension]:
        """What a client with these options offers, best first."""
        parameters: Parameters = [(name, None) for name in FLAGS if getattr(self, name)]
        if self.server_max_window_bits is not None:
            parameters.append(("server_max_window_bits", str(self.server_max_window_bits)))
        # RFC 7692 7.1.2.2: without a value it only says that we can be told.
        limit = self.client_max_window_bits
        parameters.append(("client_max_window_bits", None if limit is None else str(limit)))
        return [(EXTENSION, parameters)]

    def accept(self, offers: Iterable[Extension]) -> tuple[DeflateParameters, str] | None:
        """What a server with these options agrees to, and the header that says so; None for none of `offers`.

        RFC 7692 5: offers come in the client's order of preference; one that cannot be met is declined.
        """
        for name, parameters in offers:
            asked = read_parameters(parameters, bare="client_max_window_bits") if name == EXTENSION else None
            if asked is not None and asked.get("server_max_window_bits") != 8:
                return self._answer(asked)
        return None

    def _answer(self, asked: dict[str, int]) -> tuple[DeflateParameters, str]:
        server, client = (smaller(getattr(self, name), asked.get(name)) for name in WINDOWS)
        # RFC 7692 7.1.2.2: a client that did not say that it can be told must not be told.
        client = client if "client_max_window_bits" in asked else MAX_BITS
        agreed = DeflateParameters(
            server_no_context_takeover=self.server_no_context_takeover or FLAGS[0] in asked,
            client_no_context_takeover=self.client_no_context_takeover or FLAGS[1] in asked,
            server_max_window_bits=server,
            client_max_window_bits=client,
        )
        answer: Parameters = [(name, None) for name in FLAGS if getattr(agreed, name)]
        # A window that was asked for is always answered (7.1.2.1), even where it is zlib's own.
        if server < MAX_BITS or "server_max_window_bits" in asked:
            answer.append(("server_max_window_bits", str(server)))
        if client < MAX_BITS:
            answer.append(("client_max_window_bits", str(client)))
        return agreed, build_extension(EXTENSION, answer)

    def agreed(self, parameters: Parameters) -> DeflateParameters:
        """What a server's answer to `offers()` settles; `HandshakeError` where it is no answer to them."""
        told = read_parameters(parameters)
        if told is None:
            raise HandshakeError(
                "malformed permessage-deflate parameters in the response; compression=None does not ask for any"
            )
        if self.server_no_context_takeover and FLAGS[0] not in told:
            raise HandshakeError("the server did not agree to server_no_context_takeover")
        server, client = (told.get(name, MAX_BITS) for name in WINDOWS)
        if server > (self.server_max_window_bits or MAX_BITS):
            raise HandshakeError("the server did not agree to server_max_window_bits")
        # RFC 7692 7.1.2.2: the answer must not be larger than a value in the offer.
        if "client_max_window_bits" in told and client > (self.client_max_window_bits or MAX_BITS):
            raise HandshakeError("the server asks for a larger client_max_window_bits than was offered")
        return DeflateParameters(
            server_no_context_takeover=FLAGS[0] in told,
            # What we would do without being told, we do.
            client_no_context_takeover=self.client_no_context_takeover or FLAGS[1] in told,
            server_max_window_bits=server,
            client_max_window_bits=smaller(self.client_max_window_bits, client),
        )


def smaller(ours: int | None, theirs: int | None) -> int:
    """The smaller of two windows, where None is no wish."""
    return min(ours or MAX_BITS, theirs or MAX_BITS)


def read_parameters(parameters: Parameters, bare: str = "") -> dict[str, int] | None:
    """The parameters by name; None where one is repeated, unknown or out of range. RFC 7692 7.1.

    Args:
        parameters: as the header has them.
        bare: the window that may come without a value (7.1.2.2: the client's, in an offer).
    """
    values: dict[str, int] = {}
    for name, value in parameters:
        if name in values:
            return None
        if (name in FLAGS and value is None) or (name == bare and value is None):
            values[name] = MAX_BITS
        elif name in WINDOWS and value in WINDOW_BITS:
            values[name] = WINDOW_BITS[value]
        else:
            return None
    return values
