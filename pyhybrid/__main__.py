"""`python -m pyhybrid` is the command `pyhybrid`."""

from __future__ import annotations

from pyhybrid.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
