"""The peer ggml (llama.cpp): its ternary and 4-bit products and its quantisers, through the C interface.

Place in the data flow: matmul.py and pack.py use it in their peers. The shared libraries are those that the
package llama-cpp-python brings; signatures follow its ggml.h and ggml-cpu.h. A graph of several equal
products is computed in one call, so that the cost of starting one is spread; each quantises the
activations anew.
"""

from __future__ import annotations

import ctypes
import importlib.util
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint8, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyhybrid.benchmarks.registry import UnavailableError

__all__ = ["TYPES", "Product", "dequantize", "quantize", "row_bytes"]

#: enum ggml_type of ggml.h.
TYPES = {"F32": 0, "Q4_0": 2, "TQ1_0": 34, "TQ2_0": 35}
_MAX_THREADS = 512  # GGML_MAX_N_THREADS
# Memory of a context beside the data: objects of a graph of at most a hundred nodes, and ggml's own rounding.
_OVERHEAD_BYTES = 4 << 20


class _InitParams(Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


class _Plan(Structure):
    _fields_ = (
        ("work_size", c_size_t),
        ("work_data", c_void_p),
        ("n_threads", c_int),
        ("threadpool", c_void_p),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("use_ref", c_bool),
    )


class _PoolParams(Structure):
    _fields_ = (
        ("cpumask", c_bool * _MAX_THREADS),
        ("n_threads", c_int),
        ("prio", c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", c_bool),
        ("paused", c_bool),
    )


_ToFloat = ctypes.CFUNCTYPE(None, c_void_p, POINTER(c_float), c_int64)


class _Traits(Structure):
    _fields_ = (
        ("type_name", c_char_p),
        ("blck_size", c_int64),
        ("blck_size_interleave", c_int64),
        ("type_size", c_size_t),
        ("is_quantized", c_bool),
        ("to_float", _ToFloat),
    )


_P, _I = c_void_p, c_int
_BASE: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_init": (_P, (_InitParams,)),
    "ggml_new_tensor_2d": (_P, (_P, _I, c_int64, c_int64)),
    "ggml_get_data": (_P, (_P,)),
    "ggml_mul_mat": (_P, (_P, _P, _P)),
    "ggml_new_graph": (_P, (_P,)),
    "ggml_build_forward_expand": (None, (_P, _P)),
    "ggml_row_size": (c_size_t, (_I, c_int64)),
    "ggml_quantize_chunk": (c_size_t, (_I, _P, _P, c_int64, c_int64, c_int64, _P)),
    "ggml_get_type_traits": (POINTER(_Traits), (_I,)),
    "ggml_threadpool_params_default": (_PoolParams, (_I,)),
}
_CPU: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_cpu_init": (None, ()),
    "ggml_graph_plan": (_Plan, (_P, _I, _P)),
    "ggml_graph_compute": (_I, (_P, POINTER(_Plan))),
    "ggml_threadpool_new": (_P, (POINTER(_PoolParams),)),
}


@cache
def _library() -> Any:
    """The functions of both libraries, with their signatures.

    Raises:
        UnavailableError: the package is not installed, or it lacks a library or a function.
    """
    package = importlib.util.find_spec("llama_cpp")
    if package is None or package.origin is None:
        raise UnavailableError("not installed: llama-cpp-python")
    folder = Path(package.origin).parent / "lib"

    class Functions:
        pass

    functions: Any = Functions()
    for stem, signatures in (("libggml-base", _BASE), ("libggml-cpu", _CPU)):
        found = sorted(path for path in folder.glob(f"{stem}.*") if path.suffix in (".so", ".dylib", ".dll"))
        if not found:
            raise UnavailableError(f"llama-cpp-python has no {stem} in its folder lib")
        library = ctypes.CDLL(str(found[0]), mode=ctypes.RTLD_GLOBAL)
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name, None)
            if function is None:
                raise UnavailableError(f"this {stem} has no {name}")
            function.restype, function.argtypes = result, arguments
            setattr(functions, name, function)
    functions.ggml_cpu_init()
    return functions


def row_bytes(kind: str, columns: int) -> int:
    """Bytes of a quantised row; columns must be a multiple of the type's block (256 for TQ1_0 and TQ2_0)."""
    return int(_library().ggml_row_size(TYPES[kind], columns))


def quantize(kind: str, weights: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
    """Quantises and packs a matrix.

    Args:
        kind: key of TYPES.
        weights: float32 [rows, columns], contiguous.
        out: uint8 [rows, row_bytes].
    """
    n_rows, columns = weights.shape
    _library().ggml_quantize_chunk(
        TYPES[kind], weights.ctypes.data, out.ctypes.data, 0, n_rows, columns, None
    )


def dequantize(kind: str, data: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.float32]:
    """The values that packed bytes stand for, float32 [rows, columns]."""
    out = np.empty(shape, np.float32)
    traits = _library().ggml_get_type_traits(TYPES[kind]).contents
    for row in range(shape[0]):
        target = ctypes.cast(out[row].ctypes.data, POINTER(c_float))
        traits.to_float(data[row].ctypes.data, target, shape[1])
    return out


class Product:
    """y = x W^T by ggml_mul_mat on `threads` threads.

    Args:
        kind: type of W, key of TYPES.
        weights: float32 [rows, columns].
        x: float32 [tokens, columns].
        threads: of ggml's own pool.
        copies: equal products of one graph.
    """

    def __init__(
        self, kind: str, weights: NDArray[np.float32], x: NDArray[np.float32], threads: int, copies: int
    ) -> None:
        library = self.library = _library()
        (n_rows, columns), n_tokens = weights.shape, x.shape[0]
        n_bytes = row_bytes(kind, columns) * n_rows + x.nbytes + copies * n_tokens * n_rows * 4
        context = library.ggml_init(_InitParams(n_bytes + _OVERHEAD_BYTES, None, False))
        w = library.ggml_new_tensor_2d(context, TYPES[kind], columns, n_rows)
        data = (c_uint8 * (row_bytes(kind, columns) * n_rows)).from_address(library.ggml_get_data(w))
        quantize(kind, weights, np.frombuffer(data, np.uint8).reshape(n_rows, -1))
        tokens = library.ggml_new_tensor_2d(context, TYPES["F32"], columns, n_tokens)
        ctypes.memmove(library.ggml_get_data(tokens), x.ctypes.data, x.nbytes)
        self.graph = library.ggml_new_graph(context)
        for _ in range(copies):
            product = library.ggml_mul_mat(context, w, tokens)
            library.ggml_build_forward_expand(self.graph, product)
        floats = (c_float * (n_tokens * n_rows)).from_address(library.ggml_get_data(product))
        self.result: NDArray[np.float32] = np.frombuffer(floats, np.float32).reshape(n_tokens, n_rows)
        pool = None
        if threads > 1:
            pool = library.ggml_threadpool_new(library.ggml_threadpool_params_default(threads))
        self.plan = library.ggml_graph_plan(self.graph, threads, pool)
        self.work = np.empty(max(64, self.plan.work_size), np.uint8)
        self.plan.work_data = self.work.ctypes.data

    def compute(self) -> None:
        """Computes every copy.

        Raises:
            RuntimeError: ggml refused.
        """
        if self.library.ggml_graph_compute(self.graph, ctypes.byref(self.plan)) != 0:
            raise RuntimeError("ggml_graph_compute failed")
