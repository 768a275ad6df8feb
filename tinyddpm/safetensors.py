"""The safetensors format: named arrays and a little text in one file, which cannot hold executable code.

8 bytes, the little-endian length of the header; the header, JSON: {name: {dtype, shape, data_offsets},
"__metadata__": {text: text}}; the raw bytes of the arrays, end to end.
"""

import hashlib
import json
import math
import os

import numpy as np

from tinyddpm import files

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1"}
NAMES = {np.dtype(code): name for name, code in DTYPES.items()}
MAX_HEADER, MAX_DIMENSIONS = 10_000_000, 16             # bytes of the header; dimensions of an array
CHECKSUM = "sha256"


def write(path, tensors, metadata):
    """Write arrays and texts to path, with a checksum. The old file stays intact until the new one is complete."""
    header, start = {"__metadata__": dict(metadata)}, 0
    arrays = [np.asarray(a, order="C") for a in tensors.values()]
    for name, a in zip(tensors, arrays):
        header[name] = {"dtype": NAMES[a.dtype], "shape": list(a.shape), "data_offsets": [start, start + a.nbytes]}
        start += a.nbytes
    header["__metadata__"][CHECKSUM] = _checksum(header, arrays)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)

    with files.replacing(path) as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for a in arrays:
            file.write(a.data)


def read(path, checked=True):
    """The arrays and texts of a file, (name -> array, text -> text).

    checked: refuse a file without this library's checksum; a published model has none.
    Raises ValueError for a file that is truncated, damaged or not in this format, and for NaN or infinity in an array.
    """
    tensors, position = {}, 0
    with files.opened(path, "a safetensors file") as file:
        size, length = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            raise ValueError(f"{size} bytes, a header of {length}")
        header = files.parse_json(file.read(length))
        metadata = header.get("__metadata__", {})
        places = sorted(_place(name, **e) for name, e in header.items() if name != "__metadata__")
        for start, stop, name, dtype, shape in places:
            if start != position or stop - start != math.prod(shape) * np.dtype(dtype).itemsize:
                raise ValueError(f"{name}, {dtype} {shape}, is at {start}..{stop}; expected it to start at {position}")
            position = stop
        if 8 + length + position != size or not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError(f"the arrays end at byte {8 + length + position} of {size}; the texts are {metadata}")
        raw = file.read(position)                               # only now, when its size is known to be honest
        for start, stop, name, dtype, shape in places:
            tensors[name] = np.frombuffer(raw, dtype, math.prod(shape), start).reshape(shape)
            if dtype[1] == "f" and not np.isfinite(tensors[name]).all():
                raise ValueError(f"{name} holds NaN or infinity")
        checksum = metadata.pop(CHECKSUM, None)
        if checksum is None and checked:
            raise ValueError("it has no checksum, so this library did not write it")
        if checksum is not None and checksum != _checksum(header, tensors.values()):
            raise ValueError("its checksum does not match its content")
    return {name: tensors[name] for name in header if name in tensors}, metadata


def _place(name, dtype, shape, data_offsets):
    """Where an array is in a file: start, stop, name, dtype and shape. Raises an error for other values."""
    start, stop = data_offsets
    whole = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in (start, stop, *shape))
    if not whole or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{name} has shape {shape} at {start}..{stop}")
    return start, stop, name, DTYPES[dtype], tuple(shape)


def _checksum(header, arrays):
    """The checksum over the header (without the checksum itself) and the bytes of the arrays."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for a in arrays:
        digest.update(a.data)
    return digest.hexdigest()
