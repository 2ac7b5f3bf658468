"""Packed number formats of GGUF files, unpacked by gguf.quants (gguf 0.19.0). Seed 0.

Where the package can pack, the blocks are packed from numbers; the K formats are random bytes with ordinary 16-bit factors, since it
only unpacks them. The numbers are f32 and are to be met bit for bit.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize
from golden import header, tensor, write

ROWS = 2
generator = np.random.default_rng(0)


def packed(kind):
    """Two rows of two blocks (eight numbers where a block is one number)."""
    block, _ = GGML_QUANT_SIZES[kind]
    numbers = generator.normal(0, 0.05, (ROWS, 2 * block if block > 1 else 8)).astype(np.float32)
    if kind == GGMLQuantizationType.F16:
        numbers[0, :6] = [0.0, -0.0, 6e-8, -5e-5, 65504.0, np.float32(2**-14)]  # with subnormal numbers
    return quantize(numbers, kind)


def random(kind, factors):
    """As `packed`, from random bytes with 16-bit factors at these offsets of a block."""
    _, size = GGML_QUANT_SIZES[kind]
    data = generator.integers(0, 256, (ROWS, 2, size), dtype=np.uint8)
    for offset in factors:
        factor = generator.normal(0, 0.01, (ROWS, 2, 1)).astype(np.float16)
        data[:, :, offset : offset + 2] = factor.view(np.uint8)
    return data.reshape(ROWS, -1)


def case(name, data):
    kind = GGMLQuantizationType[name]
    numbers = dequantize(data, kind)
    assert np.isfinite(numbers).all()
    return {
        "name": name,
        "config": {"ggml": int(kind)},
        "inputs": {"bytes": data.tobytes().hex()},
        "expected": {"numbers": tensor(numbers)},
    }


cases = [
    case(name, packed(GGMLQuantizationType[name]))
    for name in ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
]
for name, factors in [("Q2_K", [80, 82]), ("Q3_K", [108]), ("Q4_K", [0, 2]), ("Q5_K", [0, 2]), ("Q6_K", [208])]:
    cases.append(case(name, random(GGMLQuantizationType[name], factors)))
write("kernels/packed", header(__file__, "gguf", 0, {"f32": 0.0}), cases)
