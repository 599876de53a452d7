#!/usr/bin/env python3
"""Compiles every public header alone, with all warnings as errors.

Run by `meson test`, once as C99 and once as C++:

    check_headers.py --include include --standard c99 -- cc [flags]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Runs the command line; returns the exit code: 0 if every header compiled, 1 if not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--include", type=Path, required=True, help="folder that holds hybrid/")
    parser.add_argument("--standard", required=True, help="c99, c++11, ...")
    parser.add_argument("compiler", nargs="+")
    arguments = parser.parse_args()
    language = "c++" if "++" in arguments.standard else "c"
    headers = sorted((arguments.include / "hybrid").glob("*.h"))
    n_failed = 0
    for header in headers:
        # Twice: the include guard has to hold. The name keeps the file from being an empty translation unit.
        program = f"#include <hybrid/{header.name}>\n#include <hybrid/{header.name}>\nint hyb_check_header;\n"
        command = [
            *arguments.compiler,
            f"-std={arguments.standard}",
            "-x",
            language,
            "-fsyntax-only",
            "-Wall",
            "-Wextra",
            "-pedantic",
            "-Werror",
            f"-I{arguments.include}",
            "-",
        ]
        result = subprocess.run(command, input=program, text=True, check=False)
        print(f"{header.name} as {arguments.standard}: {'ok' if result.returncode == 0 else 'FAILED'}")
        n_failed += result.returncode != 0
    return 0 if headers and n_failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
