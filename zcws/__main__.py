"""`zcws` and `python -m zcws`: see zcws/cli/."""

from __future__ import annotations

import sys

try:
    from zcws.cli import main
except KeyboardInterrupt:  # while it was still starting
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
