"""Writes the small .npy files of this folder with NumPy. Data counts up from 0 (bool: 0, 1, 0, ..).

    python tests/golden/io/make_npy.py"""
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent / "npy"
for code in "f2 f4 f8 c8 i1 i2 i4 i8 u1 u2 u4 u8".split():
    np.save(HERE / f"{code}.npy", np.arange(6).astype("<" + code).reshape(2, 3))
np.save(HERE / "b1.npy", np.arange(6).reshape(2, 3) % 2 == 1)
np.save(HERE / "scalar.npy", np.array(7, "<f4"))
np.save(HERE / "vector.npy", np.arange(12, dtype="<i2"))
np.save(HERE / "none.npy", np.zeros((3, 0, 2), "<f4"))
with open(HERE / "version2.npy", "wb") as f:
    np.lib.format.write_array(f, np.arange(3, dtype="<f4"), version=(2, 0))
with open(HERE / "version3.npy", "wb") as f:
    np.lib.format.write_array(f, np.arange(3, dtype="<f4"), version=(3, 0))
np.save(HERE / "fortran.npy", np.asfortranarray(np.arange(6, dtype="<f4").reshape(2, 3)))
np.save(HERE / "big_endian.npy", np.arange(3, dtype=">f4"))
np.save(HERE / "object.npy", np.array([None, 1]), allow_pickle=True)
np.save(HERE / "record.npy", np.zeros(2, [("a", "<f4"), ("b", "<i4")]))
np.save(HERE / "text.npy", np.array(["ab", "c"]))
arrays = {"x": np.arange(6, dtype="<f4").reshape(2, 3), "ids": np.arange(5), "flag": np.array(True),
          "none": np.zeros((0, 2), "<f2")}
np.savez(HERE.parent / "stored.npz", **arrays)
np.savez_compressed(HERE.parent / "compressed.npz", **arrays)
np.savez(HERE.parent / "object.npz", x=arrays["x"], bad=np.array([None, 1]))
print("numpy", np.__version__)
