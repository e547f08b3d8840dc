"""Writes the small .safetensors files of this folder with the reference library.

    python tests/golden/io/make_safetensors.py

Each tensor's bytes are 0, 1, 2, ... in the order of the file, so that a test needs no second copy.
Names and shapes are listed in tests/io/test_safetensors.c."""
import ctypes
import pathlib

import safetensors
from safetensors import TensorSpec, serialize

HERE = pathlib.Path(__file__).parent
BITS = dict(bool=8, float4_e2m1fn_x2=8, uint8=8, int8=8, float8_e5m2=8, float8_e4m3fn=8,
            float8_e8m0fnu=8, float8_e4m3fnuz=8, float8_e5m2fnuz=8, int16=16, uint16=16,
            float16=16, bfloat16=16, int32=32, uint32=32, float32=32, complex64=64, float64=64,
            int64=64, uint64=64)


def save(name, tensors, metadata=None):
    """tensors: name -> (dtype, shape). The library chooses the order; bytes are filled in later."""
    blank, keep = {}, []
    for key, (dtype, shape) in tensors.items():
        count = BITS[dtype] // 8
        for dim in shape:
            count *= dim
        keep.append(ctypes.create_string_buffer(count + 1))
        blank[key] = TensorSpec(dtype=dtype, shape=shape, data_ptr=ctypes.addressof(keep[-1]),
                                data_len=count)
    raw = bytearray(serialize(blank, metadata=metadata))
    begin = 8 + int.from_bytes(raw[:8], "little")
    raw[begin:] = bytes(i % 256 for i in range(len(raw) - begin))
    (HERE / name).write_bytes(raw)


save("empty.safetensors", {})
save("empty_with_metadata.safetensors", {}, {"format": "pt"})
save("all_dtypes.safetensors", {f"t.{dtype}": (dtype, [3, 2]) for dtype in BITS})
save("shapes.safetensors", {"scalar": ("float32", []), "none": ("float32", [4, 0, 3]),
                            "also_none": ("float16", [0]), "eight": ("uint8", [1, 1, 2, 1, 1, 3, 1, 1]),
                            "b": ("bfloat16", [5]), "a": ("bfloat16", [2, 3]), "B": ("bfloat16", [1])},
     {"format": "pt"})
save("names.safetensors", {"\u00e9\"\\/\n\t\u2028\x7f\x01": ("int8", [2]), "\U0001f600": ("int8", [1]),
                           "": ("int8", [1]), " blank ": ("int8", [3])}, {"ke\"y": "va\\l\u00fce"})
print("safetensors", safetensors.__version__)
