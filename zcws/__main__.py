"""`python -m zcws`: see cli.py."""

from __future__ import annotations

import sys

try:
    from zcws.cli import main

    sys.exit(main())
except KeyboardInterrupt:  # while it was still starting
    sys.exit(130)
