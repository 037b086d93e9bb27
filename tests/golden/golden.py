"""Golden files: named arrays in one small file, read by golden.h.

    "RKGOLD1\n", u32 count, then per array: u16 name length, name, u8 type (0 f32, 1 f64, 2 i64), u8 axes,
    u32 per axis, elements row-major. All little-endian.
"""
import struct

import numpy as np

TYPES = {"float32": 0, "float64": 1, "int64": 2}


def write(path, arrays):
    """arrays: {name: numpy array or torch tensor of f32, f64 or i64}."""
    with open(path, "wb") as f:
        f.write(b"RKGOLD1\n" + struct.pack("<I", len(arrays)))
        for name, a in arrays.items():
            a = np.asarray(a.detach().numpy() if hasattr(a, "detach") else a, order="C")
            key = name.encode()
            f.write(struct.pack("<H", len(key)) + key + struct.pack("<BB", TYPES[a.dtype.name], a.ndim))
            f.write(struct.pack("<%dI" % a.ndim, *a.shape) + a.astype(a.dtype.newbyteorder("<")).tobytes())
