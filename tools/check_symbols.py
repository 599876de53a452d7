#!/usr/bin/env python3
"""Compares the library's exported symbols with the committed list and with the headers; run by `meson
test`.

    check_symbols.py build/lib/libhybrid.so                # 0: equal; 1: prints what differs
    check_symbols.py build/lib/libhybrid.so --update       # rewrites lib/symbols.txt, on purpose

The list is the ABI's table of contents: a line that goes, or changes its meaning, raises HYB_ABI_VERSION.
In the static library, every global name must begin with hyb_, so that it cannot clash with a program's own.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "lib" / "symbols.txt"
SKIPPED = 77  # meson's exit code for a skipped test
#: Version symbols of the linker, sanitisers' and profilers' own names: not ours to list.
FOREIGN = re.compile(
    r"^(_init|_fini|__gcov|__asan|__tsan|__ubsan|__odr_asan|__sanitizer|__start_|__stop_|_edata|_end"
    r"|__bss_start|__llvm|__covrec|__profc|DW\.ref)"
)


def global_symbols(nm: str, library: Path) -> set[str]:
    """Returns the global symbols that a library defines: of a shared one, those that it exports."""
    flags = ["--defined-only", "--extern-only"] + (["--dynamic"] if ".so" in library.name else [])
    out = subprocess.run([nm, *flags, str(library)], check=True, capture_output=True, text=True).stdout
    names = {line.split()[-1].split("@")[0] for line in out.splitlines() if len(line.split()) == 3}
    return {name for name in names if not FOREIGN.match(name)}


def header_functions() -> set[str]:
    """Returns the functions that the public headers declare."""
    sys.path.insert(0, str(ROOT / "tools"))
    import gen_cdef

    headers = sorted(path for path in (ROOT / "include" / "hybrid").glob("*.h") if path.name != "hybrid.h")
    return set(gen_cdef.functions(gen_cdef.read_headers(headers)))


def difference(left: set[str], left_name: str, right: set[str], right_name: str) -> list[str]:
    """Returns a line for each name that only one side has."""
    lines = [f"{name}: in {left_name}, not in {right_name}" for name in sorted(left - right)]
    return lines + [f"{name}: in {right_name}, not in {left_name}" for name in sorted(right - left)]


def main() -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("library", type=Path, help="libhybrid.so or libhybrid.a")
    parser.add_argument("--update", action="store_true", help="rewrite lib/symbols.txt")
    parser.add_argument("--nm", default="nm", help="the symbol lister to use")
    arguments = parser.parse_args()
    nm = shutil.which(arguments.nm)
    if nm is None:
        print(f"SKIPPED: no {arguments.nm}")
        return SKIPPED
    symbols = global_symbols(nm, arguments.library)
    if ".so" not in arguments.library.name:
        clashing = sorted(name for name in symbols if not name.startswith("hyb_"))
        print("\n".join(f"{name}: a global name that does not begin with hyb_" for name in clashing))
        return 1 if clashing or not symbols else 0
    if arguments.update:
        LIST.write_text("\n".join(sorted(symbols)) + "\n", encoding="utf-8")
    listed = set(LIST.read_text(encoding="utf-8").split())
    lines = difference(symbols, arguments.library.name, listed, "lib/symbols.txt")
    lines += difference(symbols, arguments.library.name, header_functions(), "the headers")
    print("\n".join(lines) if lines else f"{len(symbols)} symbols, as listed and as declared")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
