"""The file format: what is written is read back, and damaged files are refused."""

import json

import numpy as np
import pytest

from tinyddpm import safetensors

TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(2.5), "empty": np.zeros((0, 4), np.int64),
           "bytes": np.array([1, 255], np.uint8)}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.write(path, TENSORS, {"text": "ü", "format": "1"})
    return path


def test_what_is_written_is_read(path):
    tensors, metadata = safetensors.read(path)
    assert metadata == {"text": "ü", "format": "1"} and list(tensors) == list(TENSORS)
    for name, a in TENSORS.items():
        assert tensors[name].dtype == a.dtype and tensors[name].shape == a.shape
        np.testing.assert_array_equal(tensors[name], a)


def test_the_bytes_are_the_formats(path):
    """Read by hand, as any other reader of the format would."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + length])
    assert length % 8 == 0 and header["b"]["dtype"] == "F32" and header["b"]["shape"] == [2, 3]
    start, stop = header["b"]["data_offsets"]
    assert np.frombuffer(raw[8 + length + start:8 + length + stop], "<f4").tolist() == [0, 1, 2, 3, 4, 5]
    assert all(isinstance(v, str) for v in header["__metadata__"].values())


def test_every_flipped_bit_is_noticed(path):
    raw = path.read_bytes()
    for position in range(len(raw)):
        for bit in (0, 5):
            damaged = bytearray(raw)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                tensors, metadata = safetensors.read(path)
            except ValueError as error:
                assert str(path) in str(error)
                continue
            # JSON can write some escapes in two ways (in lower or upper case): then nothing has changed.
            assert metadata == {"text": "ü", "format": "1"}
            assert all(np.array_equal(tensors[name], a) for name, a in TENSORS.items())


def test_every_truncation_is_noticed(path):
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(ValueError, match="damaged"):
            safetensors.read(path)
    path.write_bytes(raw + b"\0")
    with pytest.raises(ValueError, match="damaged"):
        safetensors.read(path)


def write_header(path, header, payload=b""):
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + payload)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize("header", [
    [], {"a": 3}, {"a": ENTRY | {"dtype": "F7"}}, {"a": ENTRY | {"shape": [3]}}, {"a": ENTRY | {"shape": [-2]}},
    {"a": ENTRY | {"shape": ["2"]}}, {"a": ENTRY | {"shape": None}}, {"a": ENTRY | {"data_offsets": [4, 12]}},
    {"a": ENTRY | {"data_offsets": [8, 0]}}, {"a": ENTRY | {"shape": [10**18]}}, {"a": ENTRY, "b": ENTRY},
    {"a": ENTRY, "__metadata__": 5}, {"a": ENTRY | {"shape": [2.0]}}, {"a": ENTRY | {"shape": [[2]]}},
])
def test_hostile_headers_are_refused(tmp_path, header):
    path = tmp_path / "x.safetensors"
    write_header(path, header, bytes(8))
    with pytest.raises(ValueError, match="damaged"):
        safetensors.read(path, checked=False)


def test_a_huge_header_length_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\xff" * 8 + b"{}")
    with pytest.raises(ValueError, match="damaged"):
        safetensors.read(path)


def test_a_file_of_others_has_no_checksum(tmp_path):
    path = tmp_path / "x.safetensors"
    write_header(path, {"a": ENTRY}, np.array([1, 2], "<f4").tobytes())
    assert safetensors.read(path, checked=False)[0]["a"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="no checksum"):
        safetensors.read(path)


def test_a_failed_write_leaves_the_old_file_and_no_leftovers(path, monkeypatch):
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(safetensors.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        safetensors.write(path, {"a": np.zeros(3)}, {})
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]
