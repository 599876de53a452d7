"""The build: binding, symbol list and file lists follow the headers and the disk; drift stops the build."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

from pyhybrid._native import ffi, lib

ROOT = Path(__file__).resolve().parent.parent.parent
INCLUDE = ROOT / "include" / "hybrid"
#: In the order of include/meson.build: each includes earlier ones only.
HEADERS = (
    "base",
    "quantize",
    "matmul",
    "optimize",
    "compress",
    "codec",
    "features",
    "cluster",
    "tokenizer",
    "language_model",
    "mlp",
    "file",
    "limits",
    "cuda",
)


def load_tool(name: str) -> ModuleType:
    """Returns a script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gen_cdef = load_tool("gen_cdef")


def header_paths(folder: Path = INCLUDE) -> list[Path]:
    return [folder / f"{name}.h" for name in HEADERS]


@pytest.fixture
def headers(tmp_path: Path) -> Path:
    """A copy of the public headers that a test may change."""
    return Path(shutil.copytree(INCLUDE, tmp_path / "include" / "hybrid"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_build_lists_every_header() -> None:
    """The headers on disk are those that the build installs and binds."""
    listed = re.findall(r"'hybrid/(\w+)\.h'", (ROOT / "include" / "meson.build").read_text(encoding="utf-8"))
    assert tuple(name for name in listed if name != "hybrid") == HEADERS
    assert {path.stem for path in INCLUDE.glob("*.h")} == {*HEADERS, "hybrid"}


def test_build_umbrella_includes_every_header() -> None:
    """hybrid.h gives everything."""
    included = re.findall(r"#include <hybrid/(\w+)\.h>", (INCLUDE / "hybrid.h").read_text(encoding="utf-8"))
    assert set(included) == set(HEADERS)


def test_build_binds_every_function() -> None:
    """Each function that the headers declare can be called from Python."""
    names = {name for path in header_paths() for name in gen_cdef.exported(path)}
    assert len(names) > 50
    assert not {name for name in names if not callable(getattr(lib, name, None))}


def test_build_binds_every_number() -> None:
    """Each #define and enumerator of the headers has its value in Python."""
    text = gen_cdef.read_headers(header_paths())
    numbers = re.findall(r"^#define (\w+) (\w+)$", text, flags=re.MULTILINE)
    numbers += re.findall(r"\b(HYB_[A-Z0-9_]+) = (-?\d+)", text)
    assert len(numbers) > 40
    assert {name: getattr(lib, name) for name, _ in numbers} == {
        name: int(value, 0) for name, value in numbers
    }


def test_build_versions_agree() -> None:
    """The header, meson.build and the library that runs state one version and one ABI."""
    project = re.search(
        r"^\s*version: '([\d.]+)'", (ROOT / "meson.build").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert project is not None
    assert project[1] == ffi.string(lib.hyb_version_string()).decode()
    assert project[1] == f"{lib.HYB_VERSION_MAJOR}.{lib.HYB_VERSION_MINOR}.{lib.HYB_VERSION_PATCH}"
    assert lib.hyb_abi_version() == lib.HYB_ABI_VERSION


def test_build_symbol_list_is_current() -> None:
    """lib/symbols.txt, which the shared library is compared with, holds the headers' functions."""
    listed = (ROOT / "lib" / "symbols.txt").read_text(encoding="utf-8").split()
    assert listed == sorted(gen_cdef.functions(gen_cdef.read_headers(header_paths())))


def test_build_lists_every_python_file() -> None:
    """pyhybrid/meson.build installs each file of the package: none is forgotten in a wheel."""
    package = ROOT / "pyhybrid"
    text = (package / "meson.build").read_text(encoding="utf-8")
    listed = set(re.findall(r"^  '([\w/]+\.(?:pyi?|typed))',$", text, flags=re.MULTILINE))
    found = {
        path.relative_to(package).as_posix() for path in package.rglob("*") if path.suffix in {".py", ".pyi"}
    }
    assert listed == found | {"py.typed"}


def test_build_lists_every_source_file() -> None:
    """lib/meson.build and tests/c/meson.build name each C file."""
    for folder, pattern in (("lib", r"'([\w/]+\.c)'"), ("tests/c", r"^  '(\w+)',$")):
        text = (ROOT / folder / "meson.build").read_text(encoding="utf-8")
        listed = {name.removesuffix(".c") for name in re.findall(pattern, text, flags=re.MULTILINE)}
        found = {path.relative_to(ROOT / folder).as_posix()[:-2] for path in (ROOT / folder).rglob("*.c")}
        assert listed == found


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("/* hyb: cdef end */", "/* hyb: cdef end */\nHYB_API int hyb_stray(void);", "outside the marks"),
        ("/* hyb: cdef end */", "", "needs one"),
        ("HYB_API uint32_t hyb_abi_version", "uint32_t hyb_abi_version", "HYB_API is missing"),
        ("/* hyb: cdef end */", "#ifdef HYB_MORE\n#endif\n/* hyb: cdef end */", "cffi knows #define only"),
    ],
    ids=["outside", "no mark", "hidden", "directive"],
)
def test_gen_cdef_refuses(headers: Path, old: str, new: str, complaint: str) -> None:
    """A header that the binding would not follow stops the generator."""
    edit(headers / "base.h", old, new)
    with pytest.raises(gen_cdef.HeaderError, match=complaint):
        gen_cdef.read_headers(header_paths(headers))


@pytest.mark.parametrize(
    ("header", "old", "new"),
    [
        ("base.h", "#define HYB_ABI_VERSION 0", "#define HYB_ABI_VERSION 1"),
        ("base.h", "HYB_API uint32_t hyb_abi_version(void);", "HYB_API const char *hyb_abi_version(void);"),
        ("optimize.h", "hyb_sum_squares(hyb_ctx *ctx, ", "hyb_sum_squares("),
        ("optimize.h", "    float weight_decay;", "    float decay;"),
        ("base.h", "int level, const char *message);", "const char *message, int level);"),
    ],
    ids=["number", "result", "arguments", "field", "callback"],
)
def test_drift_stops_the_build(headers: Path, tmp_path: Path, header: str, old: str, new: str) -> None:
    """The generated source compiles against the headers it was made from, and not against changed ones."""
    compiler = shutil.which("cc")
    python_include = sysconfig.get_path("include")
    if compiler is None or not Path(python_include, "Python.h").exists():
        pytest.skip("needs a C compiler and Python.h")
    source = tmp_path / "_native.c"
    gen_cdef.write_source(header_paths(headers), source)
    command = [
        compiler,
        "-fsyntax-only",
        "-Werror=incompatible-pointer-types",
        "-Werror=int-conversion",
        "-Werror=implicit-function-declaration",
        f"-I{headers.parent}",
        f"-I{python_include}",
        str(source),
    ]
    before = subprocess.run(command, capture_output=True, text=True, check=False)
    assert before.returncode == 0, before.stderr
    edit(headers / header, old, new)
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode != 0


@pytest.mark.parametrize(("command", "standard"), [("cc", "c99"), ("c++", "c++11")])
def test_headers_compile_alone(command: str, standard: str) -> None:
    """Each public header compiles by itself, twice included, as C99 and as C++."""
    compiler = shutil.which(command)
    if compiler is None:
        pytest.skip(f"needs {command}")
    script = ROOT / "tests" / "abi" / "check_headers.py"
    arguments = ["--include", str(INCLUDE.parent), "--standard", standard, "--", compiler]
    result = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
