"""The numeric cores on a GPU: an optional part, which needs the CUDA module and a device.

    >>> from pyhybrid import cuda                         # doctest: +SKIP
    >>> device = cuda.Device()                            # doctest: +SKIP
    >>> weights = device.array(host_weights)              # doctest: +SKIP

Arrays of CuPy and PyTorch go in and out without copies, on the stream that is current there. Nothing is
waited for unless a function says so: `Device.synchronize` waits, and reports what kernels met.
"""

from pyhybrid.cuda._arrays import DeviceArray
from pyhybrid.cuda._device import Device, DeviceInfo, default_device, unavailable

__all__ = ["Device", "DeviceArray", "DeviceInfo", "default_device", "unavailable"]
