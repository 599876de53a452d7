"""Writes lib/unicode_tables.c: the character classes that the GPT-2 splitting pattern asks for.

When to use it: after a change of UNICODE_VERSION below, or with --check to see that the committed table is
current. The version is the one that the `tokenizers` library's regular expressions know (0.23 splits every
code point as Unicode 16.0 does; tests/python/test_tokenizer.py compares them), so it may be newer than
that of the Python that runs this: `pip install unicodedata2==16.0.0` brings it, Python 3.14 has it.

    python tools/gen_unicode.py            writes lib/unicode_tables.c
    python tools/gen_unicode.py --check    exit status 1 if the file differs
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

UNICODE_VERSION = "16.0.0"
TARGET = Path(__file__).resolve().parent.parent / "lib" / "unicode_tables.c"
OTHER, LETTER, NUMBER, SPACE = range(4)

# The property White_Space (PropList.txt), which neither module offers; unchanged since Unicode 6.3.
WHITE_SPACE = {
    *range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F,
    0x3000,
}  # fmt: skip

HEAD = f"""/* unicode_tables.c - character classes of Unicode {UNICODE_VERSION}, for splitting text.
 *
 * Written by tools/gen_unicode.py from the general categories L* and N* and the property White_Space; do not
 * edit. Each entry of the table begins a run of code points of one class; the run ends before the next entry.
 */
#include "unicode_tables.h"

/* clang-format off */
/* code point * 4 + class, ascending */
"""

TAIL = """
/* The class of each ASCII character, so that most text needs no search. */
const uint8_t hyb_unicode_ascii[128] = {
%s
};
/* clang-format on */

int hyb_unicode_class(uint32_t code_point) {
    size_t low = 0, high = sizeof unicode_runs / sizeof unicode_runs[0];
    if (code_point < 128) return hyb_unicode_ascii[code_point];
    if (code_point > 0x10ffff) return HYB_CHAR_OTHER;
    while (high - low > 1) { /* run [low] begins at or before code_point, run [high] behind it */
        size_t middle = low + (high - low) / 2;
        if (unicode_runs[middle] >> 2 <= code_point)
            low = middle;
        else
            high = middle;
    }
    return (int)(unicode_runs[low] & 3);
}
"""


def category_function() -> Callable[[str], str]:
    """Finds a module that knows UNICODE_VERSION.

    Returns: its function from a character to its general category.
    Raises: SystemExit if no module has this version.
    """
    found = []
    for name in ("unicodedata2", "unicodedata"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if module.unidata_version == UNICODE_VERSION:
            category: Callable[[str], str] = module.category
            return category
        found.append(f"{name} has {module.unidata_version}")
    command = f"pip install unicodedata2=={UNICODE_VERSION}"
    sys.exit(f"Unicode {UNICODE_VERSION} is needed ({', '.join(found)}): {command}")


def class_of(code_point: int, category: Callable[[str], str]) -> int:
    """The class of a code point: LETTER, NUMBER, SPACE or OTHER."""
    if code_point in WHITE_SPACE:
        return SPACE
    return {"L": LETTER, "N": NUMBER}.get(category(chr(code_point))[0], OTHER)


def rows(values: list[str]) -> str:
    """Joins C initialisers into lines of at most 120 columns, the last without a comma."""
    lines, line = [], "   "
    for i, value in enumerate(values):
        item = f" {value}" + ("," if i + 1 < len(values) else "")
        if len(line) + len(item) > 120:
            lines.append(line)
            line = "   "
        line += item
    return "\n".join([*lines, line])


def text() -> str:
    """The whole C file."""
    category = category_function()
    classes = [class_of(code_point, category) for code_point in range(0x110000)]
    starts = [c for c in range(0x110000) if c == 0 or classes[c] != classes[c - 1]]
    runs = [f"0x{c * 4 + classes[c]:x}" for c in starts]
    table = "static const uint32_t unicode_runs[] = {\n" + rows(runs) + "\n};\n"
    return HEAD + table + TAIL % rows([str(c) for c in classes[:128]])


def main() -> int:
    """Writes or checks the file; returns the exit status."""
    parser = argparse.ArgumentParser(description="Writes lib/unicode_tables.c.")
    parser.add_argument("--check", action="store_true", help="compare only; status 1 if the file differs")
    arguments = parser.parse_args()
    wanted = text()
    if arguments.check:
        same = TARGET.is_file() and TARGET.read_text(encoding="ascii") == wanted
        print(f"{TARGET.name}: {'current' if same else 'differs: run tools/gen_unicode.py'}")
        return 0 if same else 1
    TARGET.write_text(wanted, encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
