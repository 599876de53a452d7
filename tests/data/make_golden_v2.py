"""Write golden_v2.hyb: a perceptron of format version 2, made from the words of include/hybrid/file.h.

When to use it: never, unless golden_v2.hyb got lost. Packing and checksum are those of make_golden_v1.py.

    python tests/data/make_golden_v2.py [PATH]
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from make_golden_v1 import F32, INT8, PACKING, TERNARY, Tensor, align, crc32c, tensor_data

METADATA = b'{"name": "golden file of format version 2"}'
TENSORS = (  # sizes 9-7-7-4: the layer in the middle is residual and has a norm
    Tensor("layer.0.weight", INT8, 0, 7, 9),
    Tensor("layer.0.bias", F32, 0, 1, 7),
    Tensor("layer.1.gain", F32, 0, 1, 7),
    Tensor("layer.1.weight", TERNARY, 0, 7, 7),
    Tensor("layer.1.bias", F32, 0, 1, 7),
    Tensor("layer.2.weight", TERNARY, 0, 4, 7),
    Tensor("layer.2.bias", F32, 0, 1, 4),
)
RELU, RESIDUAL_NORM, CROSS_ENTROPY, MLP = 2, 0, 1, 1


def golden() -> bytes:
    """Build the whole file."""
    config = struct.pack("<I28xf", 3, 1e-5)
    config += bytes((RELU, RESIDUAL_NORM, 1, TERNARY, 0, 0, CROSS_ENTROPY, MLP, INT8 + 1, 0)) + bytes(18)
    metadata_offset = 128 + len(config)
    directory_offset = metadata_offset + len(align(METADATA, 8))
    data_offset = -(-(directory_offset + 64 * len(TENSORS)) // 32) * 32
    directory, data = b"", b""
    for index, tensor in enumerate(TENSORS):
        payload = tensor_data(index, tensor)
        data = align(data, 32)
        kind = (tensor.format, PACKING[tensor.format], tensor.per_row, 0)
        place = (data_offset + len(data), len(payload))
        directory += struct.pack(
            "<32s4B3I2Q", tensor.name.encode(), *kind, tensor.rows, tensor.columns, 0, *place
        )
        data += payload
    body = config + align(METADATA, 8) + directory
    body += bytes(data_offset - 128 - len(body)) + data
    header = b"\x89HYB\r\n\x1a\n" + struct.pack(
        "<2I10Q24xI",
        *(2, 128, 128 + len(body), 128, len(config), 0, 0),
        *(metadata_offset, len(METADATA), directory_offset, len(TENSORS), data_offset, crc32c(body)),
    )
    return header + struct.pack("<I", crc32c(header)) + body


if __name__ == "__main__":
    default = Path(__file__).with_name("golden_v2.hyb")
    (Path(sys.argv[1]) if len(sys.argv) > 1 else default).write_bytes(golden())
