"""The numeric cores on a GPU: an optional part, which needs the CUDA module and a device.

    >>> from pyhybrid import cuda                         # doctest: +SKIP
    >>> device = cuda.Device()                            # doctest: +SKIP
    >>> weights = device.array(host_weights)              # doctest: +SKIP
    >>> quantized = cuda.quantize(weights)                # doctest: +SKIP
    >>> device.synchronize()                              # doctest: +SKIP

Arrays of CuPy and PyTorch go in and out without copies, on the stream that is current there. Nothing is
waited for unless a function says so: `Device.synchronize` waits, and reports what kernels met.
"""

from pyhybrid.cuda._arrays import DeviceArray
from pyhybrid.cuda._cluster import Clusters, kmeans, nearest
from pyhybrid.cuda._device import Device, DeviceInfo, default_device, unavailable
from pyhybrid.cuda._matmul import Weights, gemm, matmul
from pyhybrid.cuda._optimize import Constrained, adamw_update, constrain_norm, orthogonalize, sum_squares
from pyhybrid.cuda._quantize import (
    Activations,
    Quantized,
    dequantize,
    pack,
    quantize,
    quantize_activations,
    quantize_and_pack,
    quantize_levels,
    unpack,
)

__all__ = [
    "Activations",
    "Clusters",
    "Constrained",
    "Device",
    "DeviceArray",
    "DeviceInfo",
    "Quantized",
    "Weights",
    "adamw_update",
    "constrain_norm",
    "default_device",
    "dequantize",
    "gemm",
    "kmeans",
    "matmul",
    "nearest",
    "orthogonalize",
    "pack",
    "quantize",
    "quantize_activations",
    "quantize_and_pack",
    "quantize_levels",
    "sum_squares",
    "unavailable",
    "unpack",
]
