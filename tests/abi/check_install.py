#!/usr/bin/env python3
"""Installs the library into a new folder, and builds and runs the two C programs against what was
installed.

Through pkg-config and through CMake's find_package, with the shared and with the static library. hybrid-
train makes a model, hybrid-run writes text with it, and every way of linking must give the same bytes. Run
by `meson test`; or by hand, when something about installation changed:

    check_install.py                          # configures and builds the library first
    check_install.py --build-dir build        # installs what is built there
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = ("hybrid_train", "hybrid_run")
TEXT = "The quick brown fox jumps over the lazy dog. " * 40
STEPS = "12"

CMAKE_LISTS = """cmake_minimum_required(VERSION 3.16)
project(hybrid_check C)
set(CMAKE_C_STANDARD 99)
find_package(Hybrid 0.1 REQUIRED)
foreach(name hybrid_train hybrid_run)
  add_executable(${name} ${SOURCES}/${name}.c)
  target_link_libraries(${name} PRIVATE hybrid::hybrid)
  add_executable(${name}_static ${SOURCES}/${name}.c)
  target_link_libraries(${name}_static PRIVATE hybrid::static)
endforeach()
"""


def run(command: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Returns what a command printed; stops with its output if it fails."""
    result = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",  # generated text need not be valid UTF-8
        check=False,
    )
    if result.returncode != 0:
        sys.exit(f"failed ({result.returncode}): {' '.join(map(str, command))}\n{result.stdout}")
    return result.stdout


def exercise(train: Path, generate: Path, folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Trains a model and generates from it; returns a digest of the model file and the text."""
    folder.mkdir(parents=True, exist_ok=True)
    text, model = folder / "text.txt", folder / "model.hyb"
    text.write_text(TEXT, encoding="ascii")
    run([train, text, model, STEPS], env)
    written = run([generate, model, "The ", "--tokens", "40", "--seed", "1"], env)
    return hashlib.sha256(model.read_bytes() + written.encode()).hexdigest()[:16]


def build_with_pkg_config(prefix: Path, work: Path, static: bool) -> dict[str, str]:
    """Builds both programs with the flags that pkg-config gives; returns the environment that they run in."""
    (pc_file,) = prefix.rglob("hybrid.pc")
    env = {"PKG_CONFIG_LIBDIR": str(pc_file.parent)}
    flags = run(
        ["pkg-config", *(["--static"] if static else []), "--cflags", "--libs", "hybrid"], env
    ).split()
    if (
        static
    ):  # pkg-config names what a static link needs; which of the two files is taken is the linker's choice
        flags = ["-l:libhybrid.a" if flag == "-lhybrid" else flag for flag in flags]
    for name in PROGRAMS:
        compiler = os.environ.get("CC", "cc").split()
        run(
            [
                *compiler,
                "-std=c99",
                "-Wall",
                "-Wextra",
                "-Werror",
                ROOT / "tools" / f"{name}.c",
                "-o",
                work / name,
                *flags,
            ]
        )
    (library,) = prefix.rglob("libhybrid.so")
    return {} if static else {"LD_LIBRARY_PATH": str(library.parent)}


def check_linkage(program: Path, static: bool) -> None:
    """Stops if a program needs the shared library although it was linked statically, or vice versa."""
    if shutil.which("readelf") is None:
        return
    needed = [line for line in run(["readelf", "-d", program]).splitlines() if "libhybrid.so" in line]
    if bool(needed) == static:
        sys.exit(f"{program}: linked {'statically' if static else 'dynamically'}, yet: {needed}")


def check_pkg_config(prefix: Path, work: Path) -> dict[str, str]:
    """Returns digests of programs that were built through pkg-config."""
    digests = {}
    for kind in ("shared", "static"):
        folder = work / f"pkg-config-{kind}"
        folder.mkdir()
        env = build_with_pkg_config(prefix, folder, kind == "static")
        check_linkage(folder / "hybrid_run", kind == "static")
        digests[f"pkg-config, {kind}"] = exercise(folder / "hybrid_train", folder / "hybrid_run", folder, env)
    return digests


def check_cmake(prefix: Path, work: Path) -> dict[str, str]:
    """Returns digests of programs that were built through CMake."""
    source, build = work / "cmake", work / "cmake-build"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(CMAKE_LISTS, encoding="ascii")
    run(["cmake", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}", f"-DSOURCES={ROOT / 'tools'}"])
    run(["cmake", "--build", build])
    digests = {}
    for kind, suffix in (("shared", ""), ("static", "_static")):
        train, generate = build / f"hybrid_train{suffix}", build / f"hybrid_run{suffix}"
        check_linkage(generate, kind == "static")
        digests[f"CMake, {kind}"] = exercise(train, generate, build / kind)
    return digests


def install(work: Path, build_dir: Path | None, meson: str) -> Path:
    """Installs the library; returns the prefix."""
    if build_dir is None:
        build_dir = work / "build"
        options = ["-Dtests=false", "-Dbuildtype=plain", "-Dc_args=-O1"]
        run([meson, "setup", build_dir, ROOT, "--prefix", work / "installed", *options])
        run([meson, "compile", "-C", build_dir])
    # Staged below DESTDIR and then used from there: as a package that was moved.
    run([meson, "install", "-C", build_dir, "--no-rebuild", "--destdir", work / "stage"])
    (header,) = (work / "stage").rglob("include/hybrid/hybrid.h")
    return header.parent.parent.parent


def relocate(prefix: Path) -> None:
    """Lets the staged .pc file point to where it lies; the CMake files find themselves."""
    (pc_file,) = prefix.rglob("hybrid.pc")
    lines = pc_file.read_text(encoding="utf-8").splitlines()
    lines = [f"prefix={prefix}" if line.startswith("prefix=") else line for line in lines]
    pc_file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build-dir", type=Path, help="a configured and built folder of meson")
    parser.add_argument("--meson", default="meson", help="the meson that configured it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hybrid-install-") as name:
        work = Path(name)
        prefix = install(work, arguments.build_dir, arguments.meson)
        relocate(prefix)
        digests = {
            "installed programs": exercise(
                prefix / "bin/hybrid-train", prefix / "bin/hybrid-run", work / "own"
            )
        }
        checks = {"pkg-config": check_pkg_config, "cmake": check_cmake}
        for tool, check in checks.items():
            if shutil.which(tool) is None:
                print(f"SKIPPED: no {tool} on this machine")
                continue
            digests |= check(prefix, work)
    for how, digest in digests.items():
        print(f"{how}: trained, saved and generated, digest {digest}")
    if len(set(digests.values())) != 1:
        print("the digests differ: the ways of linking do not give the same model and text")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
