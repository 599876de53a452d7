"""What the sides of single operations share: an operation is called until a measurement is full.

Place in the data flow: matmul, gemm, quantize, pack and kernels derive their sides from `Operation`.
"""

from __future__ import annotations

import time
from typing import Any

from pyhybrid.benchmarks.registry import Answer, Options

__all__ = ["Operation", "hidden", "rounds"]


class Operation:
    """A side that times `call` on buffers made before.

    Args:
        amount: what one call does, in the row's unit times 1e9: operations, or bytes.
        seconds: least time of one measurement.
    """

    def __init__(self, amount: float, seconds: float) -> None:
        self.per_call, self.seconds, self.warm = amount, seconds, False

    def call(self) -> Any:
        """Does the operation once."""
        raise NotImplementedError

    def answer(self) -> Answer:
        """The operation's result; implemented by each family."""
        raise NotImplementedError

    def run(self, _: int) -> float:
        """Billions of operations or bytes a second, over as many calls as fill the measurement."""
        call, clock, calls = self.call, time.perf_counter, 0
        if not self.warm:
            call()
            self.warm = True
        start = clock()
        while (seconds := clock() - start) < self.seconds or not calls:
            call()
            calls += 1
        return self.per_call * calls / seconds / 1e9


def hidden(options: Options) -> dict[str, Any]:
    """Arguments of an `Operation` that no table prints."""
    return {"seconds": 0.05 if options.quick else 0.2}


def rounds(options: Options, operations: float = 0) -> int:
    """Rounds of a row; fewer where one call of a slow peer takes seconds.

    Args:
        options: what the user chose.
        operations: of one call.
    """
    if options.quick:
        return 2
    return 3 if operations > 1e10 else 5
