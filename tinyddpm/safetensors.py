"""The safetensors format: named arrays and a little text in one file, which cannot hold executable code.

8 bytes, the little-endian length of the header; the header, JSON: {name: {dtype, shape, data_offsets},
"__metadata__": {text: text}}; the raw bytes of the arrays, end to end.
"""

import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1"}
NAMES = {np.dtype(code): name for name, code in DTYPES.items()}
MAX_HEADER = 100_000_000
CHECKSUM = "sha256"


def write(path, tensors, metadata):
    """Write arrays and texts to path, with a checksum. The old file stays intact until the new one is complete."""
    path = Path(path)
    header, start = {"__metadata__": dict(metadata)}, 0
    arrays = [np.asarray(a, order="C") for a in tensors.values()]
    for name, a in zip(tensors, arrays):
        header[name] = {"dtype": NAMES[a.dtype], "shape": list(a.shape), "data_offsets": [start, start + a.nbytes]}
        start += a.nbytes
    header["__metadata__"][CHECKSUM] = _checksum(header, arrays)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)

    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            for a in arrays:
                file.write(a.data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        part.unlink(missing_ok=True)


def read(path, checked=True):
    """The arrays and texts of a file, (name -> array, text -> text).

    checked: refuse a file without this library's checksum; a published model has none.
    Raises ValueError for a file that is truncated, damaged or not in this format.
    """
    raw = Path(path).read_bytes()

    def refuse(what):
        raise ValueError(f"{path} is damaged or not a safetensors file: {what}")

    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or length > min(MAX_HEADER, len(raw) - 8):
        refuse(f"{len(raw)} bytes, a header of {length}")
    try:
        header = json.loads(raw[8:8 + length])
        metadata = header.get("__metadata__", {})
        entries = {name: (DTYPES[e["dtype"]], tuple(e["shape"]), *e["data_offsets"])
                   for name, e in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        refuse(f"its header cannot be read ({error!r})")
    if not isinstance(metadata, dict):
        refuse("its metadata is not a table")

    tensors, position = {}, 0
    for name, (dtype, shape, start, stop) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if not all(isinstance(n, int) and n >= 0 for n in (*shape, start, stop)):
            refuse(f"{name} has shape {shape} at {start}..{stop}")
        if start != position or stop - start != math.prod(shape) * np.dtype(dtype).itemsize:
            refuse(f"{name}, {dtype} {shape}, is at {start}..{stop}; expected it to start at {position}")
        if 8 + length + stop > len(raw):
            refuse(f"it ends within {name}")
        tensors[name] = np.frombuffer(raw, dtype, math.prod(shape), 8 + length + start).reshape(shape)
        position = stop
    if 8 + length + position != len(raw):
        refuse(f"{len(raw) - 8 - length - position} bytes follow the last array")

    checksum = metadata.pop(CHECKSUM, None)
    if checksum is None and checked:
        refuse("it has no checksum, so this library did not write it")
    if checksum is not None and checksum != _checksum(header, tensors.values()):
        refuse("its checksum does not match its content")
    return {name: tensors[name] for name in entries}, metadata


def _checksum(header, arrays):
    """The checksum over the header (without the checksum itself) and the bytes of the arrays."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for a in arrays:
        digest.update(a.data)
    return digest.hexdigest()
