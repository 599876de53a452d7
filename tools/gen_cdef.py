#!/usr/bin/env python3
"""Makes the C source of the Python extension from the public headers; the build runs it.

The text between the marks "hyb: cdef begin" and "hyb: cdef end" of each header is given to cffi, which
writes a module that is compiled against the same headers: what the binding says and what the library is
cannot differ. A declaration outside the marks, a number that the C compiler sees differently, or a callback
of another type stops the build.

    gen_cdef.py --source _native.c include/hybrid/base.h ...     # in an order in which includes come first
    gen_cdef.py --functions include/hybrid/*.h                   # the public functions, one a line
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

BEGIN, END = "hyb: cdef begin", "hyb: cdef end"

#: Python functions that C calls, and the field of the C struct whose type each must have, or the type itself.
CALLBACKS = (
    (
        "int pyhybrid_on_text(void *user, size_t sequence, const char *text, size_t n_bytes, uint32_t token,"
        " int finished, int stop_reason);",
        "hyb_generate_options",
        "callback",
    ),
    (
        "int pyhybrid_on_iteration(void *user, uint32_t iteration, double shift);",
        "hyb_kmeans_options",
        "on_iteration",
    ),
    (
        "int pyhybrid_on_loss(void *user, const float *outputs, size_t n_rows, size_t n_outputs,"
        " float *gradient, double *loss);",
        "hyb_mlp_loss_callback",
        None,
    ),
    ("void pyhybrid_on_log(void *user, int level, const char *message);", "hyb_ctx_options", "log"),
)


class HeaderError(Exception):
    """A header that the binding cannot be made from."""


def strip_comments(text: str) -> str:
    """Returns C text with each comment replaced by a space."""
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)


def marked_text(path: Path) -> str:
    """Returns the declarations between a header's marks, without comments and HYB_API.

    Raises:
        HeaderError: the marks are missing or twice, or something public stands outside them.
    """
    text = path.read_text(encoding="utf-8")
    pattern = rf"/\*[^/]*?{re.escape(BEGIN)}.*?\*/(.*)/\*\s*{re.escape(END)}\s*\*/"
    match = re.search(pattern, text, flags=re.DOTALL)
    if text.count(BEGIN) != 1 or text.count(END) != 1 or match is None:
        raise HeaderError(f"{path}: needs one '/* {BEGIN} */' and, after it, one '/* {END} */'")
    outside = strip_comments(text[: match.start()] + text[match.end() :])
    stray = re.search(r"^(?:HYB_API|typedef|struct|enum)\b.*", outside, flags=re.MULTILINE)
    if stray is not None:
        raise HeaderError(
            f"{path}: '{stray.group()}' stands outside the marks, where the binding does not see it"
        )
    body = strip_comments(match.group(1))
    directive = re.search(r"^\s*#\s*(?!define\b)\w+.*", body, flags=re.MULTILINE)
    if directive is not None:
        raise HeaderError(
            f"{path}: '{directive.group().strip()}' stands between the marks; cffi knows #define only"
        )
    body = re.sub(r"\bHYB_API\s+", "", body)
    return re.sub(r"\n\s*\n+", "\n", "\n".join(line.rstrip() for line in body.splitlines())).strip() + "\n"


def functions(text: str) -> list[str]:
    """Returns the names of the functions that marked text declares, in their order."""
    without_types = re.sub(r"typedef\b[^;{]*(?:\{[^}]*\}[^;]*)?;", "", text)
    return re.findall(r"\b(hyb_\w+)\s*\(", without_types)


def exported(path: Path) -> list[str]:
    """Returns the names that a header marks with HYB_API, comments left out, to compare with `functions`."""
    text = strip_comments(path.read_text(encoding="utf-8"))
    return re.findall(r"^HYB_API\b[^;(]*?\b(hyb_\w+)\s*\(", text, flags=re.MULTILINE)


def read_headers(paths: list[Path]) -> str:
    """Returns the marked text of all headers.

    Raises:
        HeaderError: see `marked_text`; or a function without HYB_API, which a shared library hides.
    """
    parts = []
    for path in paths:
        part = marked_text(path)
        hidden = set(functions(part)) ^ set(exported(path))
        if hidden:
            names = ", ".join(sorted(hidden))
            raise HeaderError(f"{path}: HYB_API is missing, or not at the beginning of a line: {names}")
        parts.append(part)
    return "\n".join(parts)


def assertions(text: str) -> str:
    """Returns C code that fails to compile when a #define of the text has another value in the headers."""
    lines = [
        f"typedef char hyb_check_{name}[({name}) == ({value}) ? 1 : -1];"
        for name, value in re.findall(r"^#define\s+(\w+)\s+(\S.*)$", text, flags=re.MULTILINE)
    ]
    for declaration, struct, field in CALLBACKS:  # an initialiser, so that the compiler compares the types
        name = declaration[: declaration.index("(")].split()[-1]
        lines.append(f"static {declaration}")
        value = name if field is None else f"{{.{field} = {name}}}"
        lines.append(f"static const {struct} hyb_check_{name} = {value};")
    return "\n".join(lines)


def write_source(paths: list[Path], output: Path) -> None:
    """Writes the extension's C source.

    Raises:
        HeaderError: see `read_headers`.
    """
    from cffi import FFI

    text = read_headers(paths)
    builder = FFI()
    builder.cdef(text)
    callbacks = "\n".join(declaration for declaration, _, _ in CALLBACKS)
    builder.cdef(f'extern "Python" {{\n{callbacks}\n}}')
    builder.set_source("pyhybrid._native", f"#include <hybrid/hybrid.h>\n{assertions(text)}\n")
    builder.emit_c_code(str(output))
    output.touch()  # cffi leaves an equal file as it is; the build must see that it is newer than the headers


def main() -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--source", metavar="FILE", type=Path, help="write the extension's C source")
    action.add_argument("--functions", action="store_true", help="print the public functions")
    parser.add_argument("headers", nargs="+", type=Path)
    arguments = parser.parse_args()
    try:
        if arguments.functions:
            print("\n".join(sorted(functions(read_headers(arguments.headers)))))
        else:
            write_source(arguments.headers, arguments.source)
    except (HeaderError, OSError) as error:
        print(f"gen_cdef.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
