"""Names for annotations that the `typing` of older Pythons lacks.

`typing.get_type_hints` looks up the names in annotations, and libraries that inject, validate or document call it: so
these names exist when a program runs. Older Pythons have them only in typing_extensions, which takes longer to import
than the core and need not be installed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

__all__ = ["Buffer", "Self", "Unpack"]

if TYPE_CHECKING:
    from typing_extensions import Buffer as Buffer
    from typing_extensions import Self as Self
    from typing_extensions import Unpack as Unpack
else:  # pragma: no cover - one half of it in each Python
    if sys.version_info >= (3, 11):
        from typing import Self, Unpack
    else:
        from typing import TypeVar

        Self = TypeVar("Self")

        class Unpack:
            def __class_getitem__(cls, options):
                return options

    if sys.version_info >= (3, 12):
        from collections.abc import Buffer
    else:
        Buffer = bytes | bytearray | memoryview
