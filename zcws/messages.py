"""A reading half that shows messages to a function, where `Reader` shows frames.

A message is an object of the function's own: nothing of it goes stale, and its bytes are free before the function is
called. Fragments have been put together, and Ping, Pong and Close are not shown. What a driver calls here is described
where the frames are shown: `show` and `show_few` in alone.py, `show_waiting` in reader.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, islice
from typing import Any

from zcws.frame import DECODE_IN_PLACE, NEED_MORE
from zcws.reader import Reader
from zcws.ring import Ring
from zcws.rows import WHOLE_TEXT

__all__ = ["MessageReader"]

#: What is shown is a frame elsewhere.
_Look = Callable[[Any, Any], object]


class MessageReader(Reader):
    """The reading half of one connection whose messages are shown to a function."""

    __slots__ = ()

    def show(
        self,
        call: Callable[..., object],
        look: _Look,
        owner: Any,
        ring: Ring,
        what: int,
        begin: int,
        start: int,
        stop: int,
    ) -> None:
        # `message_of`, inlined.
        message: str | bytes
        if what != WHOLE_TEXT:
            message = ring.copies[start:stop]
        elif stop - start < DECODE_IN_PLACE:
            message = ring.copies[start:stop].decode()
        else:
            message = str(ring.memory[start:stop], "utf-8")
        if ring is not self.pool.common:
            self.pool.take_back(ring)
        call(look, owner, message)

    def show_few(
        self,
        look: _Look,
        owner: Any,
        failed: Callable[[BaseException], object],
        ring: Ring,
        begin: int,
        rows: Iterable[tuple[int, int, int]],
    ) -> int:
        shown = 0
        self.is_showing = True
        try:
            for what, start, stop in rows:
                message = self.message_of(ring, what, start, stop)
                if message is None:
                    break
                shown += 1
                try:
                    look(owner, message)
                except BaseException as error:
                    failed(error)
                del message  # see `show_waiting`
                if not self.is_showing:
                    break
        finally:
            self.is_showing = False
        return shown

    def show_waiting(
        self,
        look: _Look,
        owner: Any,
        failed: Callable[[BaseException], object],
        most: int,
        most_inflated: int,
    ) -> bool:
        enough = self.inflated[1] + most_inflated
        self.is_showing = not self.is_closed_here
        try:
            while self.is_showing:
                first = [self.read_message()]
                if first[0] is NEED_MORE:
                    return self.gives_way
                # Those that are ready behind it are had without a call. It is popped, because a tuple would hold it.
                for message in chain(map(list.pop, (first,)), islice(self.ready, most - 1)):
                    most -= 1
                    try:
                        look(owner, message)
                    except BaseException as error:
                        failed(error)
                    # Before the next is made: the memory of a long one is used again, not given back page by page.
                    del message
                    if not self.is_showing:
                        return False
                if not most or (self.inflates and self.inflated[1] >= enough):
                    return True
            return False
        finally:
            self.is_showing = False
