"""The C library as cffi shows it; made by the build from include/hybrid (tools/gen_cdef.py)."""

from typing import Any

ffi: Any
lib: Any
