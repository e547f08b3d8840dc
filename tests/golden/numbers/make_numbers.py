#!/usr/bin/env python3
"""Golden values of narrow floats, made by torch and (f6, f4) torchao.

    python3 make_numbers.py             writes numbers.h: decode tables and hashes
    python3 make_numbers.py --sweep     writes sweep.h: all 2^32 inputs, ten minutes of one core

The call behind each value: `.to(dtype)` on a contiguous tensor, `.to(torch.float32)` back, and
torchao.prototype.custom_fp_utils._f32_to_floatx_unpacked / _floatx_unpacked_to_f32.
NaN inputs are left out for f6 and f4, where torchao does not define them (hashed as input 0).
The sweep leaves out NaN for bf16 as well, whose code depends on torch's code path.

The hash of a run of codes is the sum over its places i of mix(i << 32 | code) modulo 2^64,
mix being the finisher of splitmix64: places count, and the sum may be made in any order.
"""
import os
import sys

import numpy as np
import torch
import torchao
from torchao.prototype.custom_fp_utils import _f32_to_floatx_unpacked, _floatx_unpacked_to_f32

HERE = os.path.dirname(os.path.abspath(__file__))
torch.set_num_threads(1)

# name, torch dtype or (exponent bits, fraction bits), sign-exponent-fraction bits of the f32 that
# the adversarial list enumerates: one more fraction bit than the format, so that ties are met
FORMATS = [
    ("f8_e4m3fn", torch.float8_e4m3fn, 13),
    ("f8_e5m2", torch.float8_e5m2, 13),
    ("f8_e4m3fnuz", torch.float8_e4m3fnuz, 13),
    ("f8_e5m2fnuz", torch.float8_e5m2fnuz, 13),
    ("f8_e8m0", torch.float8_e8m0fnu, 13),
    ("f6_e2m3", (2, 3), 13),
    ("f6_e3m2", (3, 2), 13),
    ("f4_e2m1", (2, 1), 13),
    ("f16", torch.float16, 20),
    ("bf16", torch.bfloat16, 17),
]
BLOCKS = 32  # of the adversarial list, one hash each


def mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hash_of(codes):
    place = np.arange(len(codes), dtype=np.uint64) << np.uint64(32)
    return int(mix(place | codes.astype(np.uint64)).sum(dtype=np.uint64))


def encode(dtype, bits):
    """Codes of the f32 whose bits are given."""
    if isinstance(dtype, tuple):
        nan = (bits & 0x7FFFFFFF) > 0x7F800000
        bits = np.where(nan, np.uint32(0), bits).astype(np.uint32)
        x = torch.from_numpy(bits.view(np.float32).copy())
        return _f32_to_floatx_unpacked(x, *dtype).numpy()
    x = torch.from_numpy(bits.view(np.float32).copy())
    return x.to(dtype).view(torch.uint8 if dtype.itemsize == 1 else torch.uint16).numpy()


def decode(dtype, codes):
    if isinstance(dtype, tuple):
        return _floatx_unpacked_to_f32(torch.from_numpy(codes.astype(np.uint8)), *dtype).numpy().view(np.uint32)
    narrow = torch.from_numpy(codes).view(dtype)
    return narrow.to(torch.float32).numpy().view(np.uint32)


def adversarial(top_bits):
    """Every pattern of the top bits, the rest in turn 0, 1, one below half, half, one above, ones."""
    low = 32 - top_bits
    half = 1 << (low - 1)
    rest = np.array([0, 1, half - 1, half, half + 1, (1 << low) - 1], dtype=np.uint32)
    top = np.arange(1 << top_bits, dtype=np.uint32) << np.uint32(low)
    return (top[:, None] | rest[None, :]).reshape(-1)


def c_array(out, kind, name, values, width):
    per_line = 6 if width == 8 else 4
    out.write(f"static const {kind} {name}[{len(values)}] = {{\n")
    for i in range(0, len(values), per_line):
        line = ", ".join(f"0x{v:0{width}x}" for v in values[i : i + per_line])
        out.write(f"    {line},\n")
    out.write("};\n")


def banner(out, what):
    out.write(f"/* {what}; made by make_numbers.py with torch {torch.__version__.split('+')[0]} and\n")
    out.write(f" * torchao {torchao.__version__.split('+')[0]}. What the values are stands there. */\n")
    out.write("#include <stdint.h>\n")


def numbers():
    with open(os.path.join(HERE, "numbers.h"), "w") as out:
        banner(out, "numbers.h: narrow floats as torch casts them")
        out.write(f"enum {{ GOLDEN_BLOCKS = {BLOCKS} }};\n")
        for name, dtype, top_bits in FORMATS:
            if name in ("f16", "bf16"):
                codes = np.arange(1 << 16, dtype=np.uint16)
                out.write(f"static const uint64_t decode_{name} = 0x{hash_of(decode(dtype, codes)):016x};\n")
            else:
                bits = 8 if name.startswith("f8") else int(name[1])
                codes = np.arange(1 << bits, dtype=np.uint8)
                c_array(out, "uint32_t", f"decode_{name}", decode(dtype, codes).tolist(), 8)
            codes = encode(dtype, adversarial(top_bits))
            size = len(codes) // BLOCKS
            hashes = [hash_of(codes[i * size : (i + 1) * size]) for i in range(BLOCKS)]
            c_array(out, "uint64_t", f"encode_{name}", hashes, 16)


def sweep():
    with open(os.path.join(HERE, "sweep.h"), "w") as out:
        banner(out, "sweep.h: hashes of all f32, 2^24 a block, narrowed as torch casts them")
        low = np.arange(1 << 24, dtype=np.uint32)
        for name, dtype, _ in FORMATS:
            hashes = []
            for block in range(256):
                bits = low | np.uint32(block << 24)
                if name == "bf16":
                    bits = np.where((bits & 0x7FFFFFFF) > 0x7F800000, np.uint32(0), bits)
                hashes.append(hash_of(encode(dtype, bits)))
            c_array(out, "uint64_t", f"sweep_{name}", hashes, 16)
            print(name, flush=True)


if __name__ == "__main__":
    sweep() if "--sweep" in sys.argv else numbers()
