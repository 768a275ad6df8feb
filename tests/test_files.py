"""Files that anybody may have made: crafted and damaged ones are one ValueError with the path; locks; atomic writes."""

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile

import fuzz
import numpy as np
import pytest

from tinyddpm import data, files, safetensors
from tinyddpm.data import cifar10, folder, mnist
from tinyddpm.interop import CONFIG, WEIGHTS, load_diffusers, save_diffusers
from tinyddpm.nn import UNet
from tinyddpm.presets import Preset, TrainingConfig
from tinyddpm.training import Trainer, load_checkpoint, load_model, save_checkpoint
from tinyddpm.training.fit import read_metrics

DEEP, PARSERS = "[" * 100_000, fuzz.parsers()
cifar10.RECORDS = 10_000            # which the fuzzer shrinks
ENTRY = '{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'


# ---- many damaged inputs ----

@pytest.mark.parametrize("name, parser", PARSERS.items(), ids=list(PARSERS))
def test_damaged_inputs_are_refused_by_value_error(tmp_path, name, parser, monkeypatch):
    monkeypatch.setattr(cifar10, "RECORDS", 1)
    before = signal.signal(signal.SIGALRM, fuzz.hang)
    peak = fuzz.peak_memory()
    accepted, problems = fuzz.attack(name, parser, 300, 0, tmp_path / "input")
    signal.signal(signal.SIGALRM, before)
    assert problems == [] and 0 < accepted < 300
    assert fuzz.peak_memory() - peak < 1024


def test_what_is_wrong_would_be_found(tmp_path):
    """A parser that raises another error, or hangs, is caught."""
    def careless(path):
        return {b"{": 1}[path.read_bytes()[:1]]

    def slow(path):
        while path.read_bytes()[:1] != b"{":
            pass

    before = signal.signal(signal.SIGALRM, fuzz.hang)
    for read, problem in ((careless, "KeyError"), (slow, "Hang")):
        fuzz.SECONDS = 0.05
        _, problems = fuzz.attack("x", fuzz.Parser([b"{}"], (fuzz.change_bytes,), read), 20, 0, tmp_path / "input")
        assert problems and all(problem in found for _, found in problems)
    fuzz.SECONDS = 20
    signal.signal(signal.SIGALRM, before)


# ---- crafted files ----

def header(text, payload=bytes(8)):
    raw = text.encode()
    return len(raw).to_bytes(8, "little") + raw + payload


HEADERS = {
    "deep": DEEP, "no table": "3", "three offsets": ENTRY.replace("8]", "8, 8]"),
    "mixed offsets": ENTRY.replace("8]", '"8"]'),
    "true in a shape": ENTRY.replace("[2]", "[true, 2]"), "beyond 64 bits": ENTRY.replace("[2]", f"[{2**63}, 0]"),
    "too large for an address": ENTRY.replace("[2]", f"[0, {2**62}, {2**62}]").replace("8]", "0]"),
    "70 dimensions": ENTRY.replace("[2]", str([1] * 69 + [2])), "a shape that is a table": ENTRY.replace("[2]", '{}'),
    "a size that is no integer": ENTRY.replace("[2]", "[2.0]")}


@pytest.mark.parametrize("text", [f'{{"a": {entry}}}' if entry[0] == "{" else entry for entry in HEADERS.values()]
                         + [f'{{"a": {ENTRY}, "a": {ENTRY}}}', f'{{"a": {ENTRY}, "__metadata__": {{"x": 1}}}}'],
                         ids=[*HEADERS, "a name twice", "metadata of numbers"])
def test_headers_of_safetensors(tmp_path, text):
    path = tmp_path / "x.safetensors"
    path.write_bytes(header(text))
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        safetensors.read(path, checked=False)
    path.write_bytes(header(f'{{"a": {ENTRY}}}'))                       # the right one
    assert safetensors.read(path, checked=False)[0]["a"].tolist() == [0, 0]


def test_the_size_of_a_header_is_checked_before_it_is_read(tmp_path):
    """Whole files, but for a header that is padded to more than 10 MB, or said to be longer than the file."""
    path, raw = tmp_path / "x.safetensors", header(f'{{"a": {ENTRY}}}' + " " * 10_000_000)
    for damaged in (raw, (2**63 - 1).to_bytes(8, "little") + raw[8:1000], raw[:8] + raw[8:9000], b"", b"1234567"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path} is damaged.* bytes, a header of"):
            safetensors.read(path, checked=False)


def test_nan_in_an_array_and_a_size_that_is_not_there(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(header(f'{{"a": {ENTRY}}}', np.array([1, np.nan], "<f4").tobytes()))
    with pytest.raises(ValueError, match="a holds NaN"):
        safetensors.read(path, checked=False)
    path.write_bytes(header(f'{{"a": {ENTRY}}}'.replace("[2]", "[25000000000]").replace("8]", "100000000000]")))
    os.truncate(path, 10**11)                                           # a hole; read, it would take 100 GB
    with pytest.raises(ValueError, match="arrays end at"):
        safetensors.read(path, checked=False)


PRESET = Preset("small", "digits", fuzz.SMALL, training=TrainingConfig(warmup=1))


@pytest.mark.parametrize("texts", [
    {"preset": None}, {"steps_done": None}, {"seconds": None}, {"steps_done": "NaN"}, {"steps_done": "-1"},
    {"steps_done": '"7"'},
    {"steps_done": "true"}, {"steps_done": "7.5"}, {"steps_done": DEEP}, {"seconds": "-0.5"}, {"seconds": "NaN"},
    {"seconds": "[]"},
    {"preset": PRESET.to_json().replace('"batch_size": 128', '"batch_size": 12.8')},
    {"preset": PRESET.to_json().replace('"batch_size": 128', '"batch_size": 1%s' % ("0" * 30))},
    {"preset": PRESET.to_json().replace('"blocks_per_level": 1', f'"blocks_per_level": {10**30}')},
    {"preset": PRESET.to_json().replace('"blocks_per_level": 1', '"blocks_per_level": 64')},
    {"preset": PRESET.to_json().replace('"base_channels": 4', '"base_channels": 60000')},
    {"preset": PRESET.to_json().replace('"T": 1000', f'"T": {10**12}')},
    {"preset": PRESET.to_json().replace('"flip": true', '"flip": 1')}, {"preset": DEEP}])
def test_checkpoints(tmp_path, texts):
    path, whole = tmp_path / "c", tmp_path / "whole"
    save_checkpoint(whole, Trainer(PRESET))
    assert load_checkpoint(whole).preset == PRESET
    tensors, metadata = safetensors.read(whole)
    safetensors.write(path, tensors, {name: text for name, text in (metadata | texts).items() if text is not None})
    assert texts.get("preset", "") != metadata["preset"]
    for load in [load_checkpoint] + [load_model] * ("preset" in texts):
        with pytest.raises(ValueError, match=f"{path} is damaged or not a checkpoint"):
            load(path)


def archive(*members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for info, raw in members:
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return file.getvalue()


def nested_long_names():
    """3,000 headers of GNU's kind for long names, each for the next."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1
    return gzip.compress((info.tobuf() + bytes(512)) * 3000)


def pax_of_8_gigabytes():
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8 * 2**30
    return gzip.compress(info.tobuf(format=tarfile.GNU_FORMAT) + bytes(30_000_000), 1)


def test_archives_of_cifar10(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "RECORDS", 1)
    monkeypatch.setattr(cifar10, "LARGEST", 20_000_000)
    record = [(tarfile.TarInfo(f"{cifar10.FOLDER}/{name}"), bytes(cifar10.RECORD)) for name in cifar10.FILES["train"]]
    for raw, problem in ((archive(*record, record[1]), "twice"), (nested_long_names(), "recursion"),
                         (pax_of_8_gigabytes(), "unpacks to more than")):
        (tmp_path / cifar10.ARCHIVE).write_bytes(raw)
        with pytest.raises(ValueError, match=f"{cifar10.ARCHIVE} is damaged.*{problem}"):
            cifar10.load("train", tmp_path)
    (tmp_path / cifar10.ARCHIVE).write_bytes(archive(*record))
    assert len(cifar10.load("train", tmp_path)[0]) == 5


def test_mnist_that_is_empty_or_a_bomb(monkeypatch):
    monkeypatch.setattr(mnist, "LARGEST", 1_000_000)
    image, label = fuzz.idx(np.zeros((0, 28, 28), np.uint8)), fuzz.idx(np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match="here.*N > 0"):
        mnist._pair(image, label, "here")
    with pytest.raises(ValueError, match="here.*unpacks to more than"):
        mnist._pair(gzip.compress(bytes(2_000_000), 1), label, "here")


def damaged(raw, old, new):
    assert old in raw and len(old) == len(new)
    return raw.replace(old, new)


def test_arrays_of_numpy(tmp_path):
    good, path = io.BytesIO(), tmp_path / "x.npy"
    np.save(good, np.zeros((3, 4, 4), np.uint8))
    good, zipped = good.getvalue(), io.BytesIO()
    np.savez(zipped, np.zeros((3, 4, 4), np.uint8))
    for raw in (zipped.getvalue()[:-40], damaged(good, b"'shape'", b"'shape("), damaged(good, b"'shape'", b"[[[[[[["),
                damaged(good, b"(3, 4, 4)", b"(9**9,4,)"), damaged(good, b"NUMPY\x01", b"NUMPY\x09"), good[:-1], good
                + b"\0",
                damaged(good, b"(3, 4, 4)", b"(3333,4,)"), damaged(good, b"|u1", b"|O8"), b"",
                damaged(good, b"False", b"9.0.0")):
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=str(path)):
            data.load_npy(path, fuzz.SMALL)
    path.write_bytes(good)
    assert data.load_npy(path, fuzz.SMALL).shape == (3, 4, 4, 1)
    deep = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {'-' * 9000}1}}\n".encode()
    path.write_bytes(good[:8] + len(deep).to_bytes(2, "little") + deep)
    with pytest.raises(ValueError, match=str(path)):
        data.load_npy(path, fuzz.SMALL)


def test_models_of_diffusers(tmp_path):
    model = UNet(fuzz.SMALL)
    save_diffusers(model, tmp_path)
    settings = (tmp_path / CONFIG).read_text()
    for text in (DEEP, settings.replace('"layers_per_block": 1', '"layers_per_block": 100000'),
                 settings.replace('"layers_per_block": 1', '"layers_per_block": 60'),
                 settings.replace('"sample_size": 4', f'"sample_size": {4 * 10**30}')):
        (tmp_path / CONFIG).write_text(text)
        with pytest.raises(ValueError):
            load_diffusers(tmp_path)
    (tmp_path / CONFIG).write_text(settings)
    load_diffusers(tmp_path)
    model.flat_values[7] = np.nan
    save_diffusers(model, tmp_path)
    with pytest.raises(ValueError, match=f"{WEIGHTS}.*holds NaN"):
        load_diffusers(tmp_path)


@pytest.mark.parametrize("read", [
    lambda path: safetensors.read(path), lambda path: load_model(path), lambda path: data.load_npy(path, fuzz.SMALL),
    lambda path: read_metrics(path), lambda path: folder.read(path, 4, 3), lambda path: folder.load(path.parent, 4, 3),
    lambda path: cifar10.load("train", path.parent), lambda path: mnist.load("mnist", "train", path.parent)])
def test_named_pipes_do_not_block(tmp_path, read):
    os.mkfifo(tmp_path / "a.png")
    for name in (cifar10.ARCHIVE, "train-images-idx3-ubyte"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="it is not a file"):
        read(tmp_path / "a.png")


# ---- JSON, locks, writing ----

def test_json_is_strict():
    assert files.parse_json('{"a": [1, {"b": null}]}') == json.loads('{"a": [1, {"b": null}]}')
    for text in ('{"a": 1, "a": 1}', DEEP, "{", '[{"b": 1, "c": {"d": 1, "d": 2}}]', b"\xff\xff\xff"):
        with pytest.raises(ValueError):
            files.parse_json(text)


def test_errors_of_the_system_remain_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError):
        with files.opened(tmp_path / "none", "a file"):
            pass
    with pytest.raises(PermissionError):
        with files.parsing(tmp_path, "a file"):
            raise PermissionError(13, "Permission denied")
    with pytest.raises(MemoryError):
        with files.parsing(tmp_path, "a file"):
            raise MemoryError("Unable to allocate 12 GiB")


def test_a_lock_ends_with_its_process(tmp_path):
    code = ("import sys; from tinyddpm import files; file = files.lock(sys.argv[1], 'busy'); "
            "print('has it', flush=True); sys.stdin.read()")
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path / "lock"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"has it\n"
    with pytest.raises(ValueError, match="busy"):
        files.lock(tmp_path / "lock", "busy")
    other.kill()
    other.communicate()
    files.lock(tmp_path / "lock", "busy").close()


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError):
        with files.replacing(path, "w") as file:
            file.write("half")
            raise KeyError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]
    with files.replacing(path, "w") as file:
        file.write("new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file"]
