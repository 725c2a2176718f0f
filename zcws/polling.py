"""Whether a wait for bytes polls for a moment before it sleeps, where that is of use. `ZCWS_POLL=0`: none does.

It saves time, and on most machines CPU, where both ends are on one machine (docs/clients.md, "Waiting").
"""

from __future__ import annotations

import os

__all__ = ["may_poll"]


def may_poll() -> bool:
    """Asked for each engine and each blocking socket."""
    return os.environ.get("ZCWS_POLL") != "0"
