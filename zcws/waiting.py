"""Rows that wait: what C has found on one connection, in order, and nobody has read yet.

They are not kept as objects: the iterator `_batch` makes each when it is asked for. It draws on the iterator `_words`,
which has one item for each row that is left, so that its length hint is their number. They have one of four shapes:

    few, or not alike      three columns of a list
    many that are alike    a copy of C's table: unfolded when somebody wants one of its rows (`_alike` knows the table)
    made messages          the same table, behind a list of the messages (`ready`)
    more behind others     columns that can be added to (`_columns` knows them)
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import chain
from operator import length_hint
from typing import Any

from zcws.frame import Frame
from zcws.rows import CONTROL, ROW, Rows, kinds_of, spans_of

__all__ = ["NO_ROWS", "Waiting"]

#: An iterator at its end stays there: all who have no rows can share it.
NO_ROWS: Iterator[Any] = iter(())
next(NO_ROWS, None)


class Waiting:
    """The rows of one connection that wait to be read.

    Attributes:
        ready: messages that can be had past the reader; most often none. It draws on the same columns as `_batch`, so
            it is at its end when all rows have been taken there.
        ready_frames: the same for frames. There are some only while a frame is handed out, never beside messages.
    """

    __slots__ = ("_alike", "_batch", "_columns", "_words", "ready", "ready_frames")

    def __init__(self) -> None:
        self._batch: Iterator[Sequence[int]] = NO_ROWS  # the rows
        self._words: Iterator[object] = NO_ROWS  # one item for each of them: empty when there are none
        # Many rows that are alike, with those that have been read since: valid while `_words` is the second item.
        self._alike: tuple[Rows, Iterator[object]] | None = None
        # The columns of rows to which more can be added: valid while `_words` is the first item.
        self._columns: tuple[Iterator[int], list[int], array[int], array[int]] | None = None
        self.ready: Iterator[str | bytes] = NO_ROWS
        self.ready_frames: Iterator[Frame] = NO_ROWS

    @property
    def rows_waiting(self) -> int:
        """How many rows wait to be read."""
        return length_hint(self._words)

    def _data_waits(self) -> bool:
        """Whether there is data among the rows that wait; only right after `_add_rows`."""
        kinds = self._columns[1]  # type: ignore[index]  # `_add_rows` has made them
        return any(not what & CONTROL for what in kinds[len(kinds) - length_hint(self._words) :])

    def _pending_words(self) -> list[int]:
        """The rows that have not been read, three words each; none are left after this."""
        return [word for row in self._batch for word in row]

    def _set_rows(self, words: list[int]) -> None:
        """These rows wait to be read, and no others."""
        self._words = left = iter(words[::ROW])
        self._batch = zip(left, words[1::ROW], words[2::ROW])  # noqa: B905  `strict` costs as much as a row

    def _set_many(self, rows: Rows) -> None:
        """The same for many."""
        kinds = kinds_of(rows)
        if kinds.count(kinds[0]) != len(kinds):
            self._set_rows(list(rows))
            return
        self._words = left = iter(kinds)
        self._alike = rows, left
        # Made from the table with the first step.
        self._batch = chain.from_iterable(map(_unfolded, (rows,), (left,)))

    def _set_made(self, rows: memoryview, messages: list[str | bytes]) -> None:
        """The same for many that are alike, whose messages have been made already."""
        left = iter(messages)
        batch = chain.from_iterable(map(_unread, (rows,), (left,)))
        # No call in between, so that no signal handler can raise there.
        self.ready = self._words = left
        self._batch = batch

    def _add_rows(self, words: list[int]) -> None:
        """Adds rows behind those that wait. The cost does not depend on how many wait, which is the peer's choice where
        nobody reads; and they take 24 bytes each."""
        columns, waiting = self._columns, length_hint(self._words)
        if columns is not None and columns[0] is self._words and len(columns[1]) <= 2 * waiting:
            # An iterator that is not at its end sees what is appended. It asks for the kinds first, so they come last.
            _, kinds, starts, stops = columns
            stops.extend(words[2::ROW])
            starts.extend(words[1::ROW])
            kinds += words[::ROW]
            return
        # There are no columns to add to yet; or most of their rows have been read, and are let go of here.
        words[:0] = self._pending_words()
        kinds, starts, stops = words[::ROW], array("Q", words[1::ROW]), array("Q", words[2::ROW])
        self._words = left = iter(kinds)
        self._batch = zip(left, starts, stops)  # noqa: B905  `strict` costs as much as a row
        self._columns = left, kinds, starts, stops

    def _take_alike(self) -> Rows:
        """Those of the many rows that are alike that still wait; no rows, if others wait."""
        rows, left = self._alike  # type: ignore[misc]  # the caller has looked
        self._alike = None
        return rows[len(rows) - ROW * length_hint(left) :] if left is self._words else rows[:0]

    def _drop_rows(self) -> None:
        """No row waits any more."""
        self._words = self._batch = self.ready = self.ready_frames = NO_ROWS


def _unfolded(rows: Rows, left: Iterator[int]) -> Iterator[Sequence[int]]:
    """The rows of a table, one by one; `left` has one item for each."""
    starts, stops = spans_of(rows)
    return zip(left, starts, stops)  # noqa: B905


def _unread(rows: memoryview, left: Iterator[object]) -> Iterator[Sequence[int]]:
    """The rows of a table that are still to be read, one by one; `left` has a message for each, which is dropped."""
    rows = rows[-ROW * length_hint(left) :]
    what: int = rows[0]
    return _unfolded(rows, map(lambda _: what, left))
