"""`kosoku` 0.1.0 with two of its bugs fixed. Runs in kosoku's own environment, with its arguments.

Both are in groups 12 and 13 (permessage-deflate), and in both the original suite behaves as kosoku does with the fix:

* The cases compare a SHA-1 of every echo. kosoku gives them a `str` if a message arrived uncompressed, which RFC 7692 6
  leaves to the sender, and which makes sense for a small or an incompressible message. Hashing a `str` raises in
  Python 3, and the case ends as ERROR. In Python 2, for which the cases were written, that `str` was the bytes.
* As a server kosoku sends a client `client_no_context_takeover` only if the client has offered it. By RFC 7692 7.1.1.2
  the client accepts it without having offered it; without it 13.2, 13.5 and 13.6 decline compression and end as
  UNIMPLEMENTED.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kosoku._caseindex import initialize_shims
from kosoku._cli import main
from kosoku._kosoku import PerMessageDeflateOffer

OnMessage = Callable[[Any, "str | bytes", bool], None]
Accept = Callable[[Any, list[Any]], Any]


def with_bytes(on_message: OnMessage) -> OnMessage:
    """The case's `onMessage`, always called with bytes: kosoku decodes binary as Latin-1 and text as UTF-8."""

    def on_bytes(case: Any, message: str | bytes, binary: bool) -> None:
        if isinstance(message, str):
            message = message.encode("latin-1" if binary else "utf-8")
        on_message(case, message, binary)

    return on_bytes


def with_hint(accept: Accept) -> Accept:
    """The case's choice among the client's offers, as if each of them allowed `client_no_context_takeover`."""

    def accept_hinted(case: Any, offers: list[Any]) -> Any:
        return accept(
            case,
            [
                PerMessageDeflateOffer(
                    acceptNoContextTakeover=True,
                    acceptMaxWindowBits=offer.acceptMaxWindowBits,
                    requestNoContextTakeover=offer.requestNoContextTakeover,
                    requestMaxWindowBits=offer.requestMaxWindowBits,
                )
                for offer in offers
            ],
        )

    return accept_hinted


def mend_cases() -> None:
    """Fixes every case of groups 12 and 13; the runner imports the same module later."""
    initialize_shims()  # puts the cases on sys.path
    import case12_x_x

    for case in [*case12_x_x.Case12_X_X, *case12_x_x.Case13_X_X]:
        case.onMessage = with_bytes(case.onMessage)
        case.SERVER_ACCEPT = with_hint(case.SERVER_ACCEPT)


if __name__ == "__main__":
    mend_cases()
    main()
