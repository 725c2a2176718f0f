"""What annotations name is there when a program runs, whatever the Python."""

from __future__ import annotations

import subprocess
import sys
import typing

from zcws.annotations import Buffer, Self, Unpack


class Options(typing.TypedDict):
    size: int


class Builder:
    def add(self, data: Buffer) -> Self:
        return self

    def set(self, **options: Unpack[Options]) -> None: ...


def test_hints_can_be_looked_up() -> None:
    assert typing.get_type_hints(Builder.add) == {"data": Buffer, "return": Self}
    assert "options" in typing.get_type_hints(Builder.set)


def test_typing_extensions_need_not_be_there() -> None:
    without = "import sys; sys.modules['typing_extensions'] = None"
    subprocess.run(
        [sys.executable, "-c", f"{without}; import zcws.aio.serving, zcws.sync.serving"], check=True
    )
