"""`python -m eventflow` is the command `eventflow`."""

from __future__ import annotations

import sys

from eventflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
