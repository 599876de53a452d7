"""What this machine offers, and whether the numerics contract holds on it: `pyhybrid doctor`."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from typing import Any

from pyhybrid._context import Context, cpu_name, detected_isa
from pyhybrid._native import ffi, lib

__all__ = ["diagnose"]

#: Optional packages: name on the index, what it is for.
OPTIONAL: dict[str, str] = {
    "matplotlib": "picture of the loss curve",
    "cupy-cuda13x": "arrays on a GPU",
    "tokenizers": "training of BPE vocabularies",
    "torch": "comparison with PyTorch in the benchmarks",
}


def _optional_parts() -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for name, purpose in OPTIONAL.items():
        try:
            version: str | None = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        mend = None if version else f"pip install {name}"
        parts.append({"name": name, "version": version, "purpose": purpose, "install": mend})
    return parts


def _gpu() -> dict[str, Any]:
    """The device that a kernel ran on, or why there is none."""
    from pyhybrid.cuda import default_device, unavailable

    reason = unavailable()
    about = {"available": reason is None, "reason": reason}
    return about if reason is not None else about | dataclasses.asdict(default_device().info)


def diagnose(context: Context | None = None) -> dict[str, Any]:
    """Looks at the machine and runs the known-answer test.

    Args:
        context: threads and instruction sets; None: a new one with the defaults.

    Returns:
        Plain values: version, abi, python, platform, processor, isa_detected, isa, threads, kernels (name to
        tier), environment, gpu (available, reason; name and more of one that is), optional (name, version,
        purpose, install), self_test ('passed' or the first failing check), ok.
    """
    context = context or Context()
    failure = context.self_test()
    return {
        "version": ffi.string(lib.hyb_version_string()).decode(),
        "abi": lib.hyb_abi_version(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "processor": cpu_name(),
        "processors": os.cpu_count(),
        "isa_detected": detected_isa(),
        "isa": context.isa,
        "threads": context.threads,
        "kernels": context.kernels(),
        "environment": {name: os.environ.get(name) for name in ("HYB_ISA", "HYB_NUM_THREADS")},
        "gpu": _gpu(),
        "optional": _optional_parts(),
        "self_test": failure or "passed",
        "ok": failure is None,
    }
