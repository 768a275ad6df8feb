"""Damaged inputs for every parser: no error but ValueError and OSError, no hang, no memory beyond the file's need.

    python tests/fuzz.py --count 1000000 [--seed 1] [--only checkpoint]

test_fuzz.py tries a few of them. The changes are of bytes, and of values within JSON, with a checksum that fits again.
"""

import argparse
import collections
import functools
import gzip
import hashlib
import io
import json
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from tinyddpm import data, safetensors
from tinyddpm.data import cifar10, folder, mnist
from tinyddpm.diffusion.config import DiffusionConfig
from tinyddpm.evaluation.classifier import Classifier, ClassifierConfig, load_classifier, save_classifier
from tinyddpm.files import parse_json
from tinyddpm.interop import CONFIG, WEIGHTS, load_diffusers, save_diffusers
from tinyddpm.nn import UNet, UNetConfig
from tinyddpm.presets import Preset, TrainingConfig
from tinyddpm.training import Trainer, load_checkpoint, load_model, save_checkpoint
from tinyddpm.training.fit import COLUMNS, read_metrics

SECONDS = 20            # that an input may take
SMALL = UNetConfig(image_size=4, image_channels=1, base_channels=4, channel_multipliers=(1,), blocks_per_level=1,
                   attention_resolutions=(), groups=2, dropout=0.0)
NASTY = (None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**30, 10**400,
         "", "x",
         "1", "\0", "\ud800", [], {}, [[]], [1], [0, 8], [0, 8, 16], {"a": 1}, 100_000, [10**6] * 3, [1] * 70, ["a", 1])


# ---- changes ----

def change_bytes(raw, rng):
    """A few bytes changed, removed, repeated or cut off."""
    raw = bytearray(raw)
    for _ in range(rng.integers(1, 5)):
        i, n = int(rng.integers(0, len(raw) + 1)), int(rng.integers(1, 2 + len(raw) // 4))
        kind = rng.integers(6)
        if kind == 0 and i < len(raw):
            raw[i] ^= 1 << int(rng.integers(8))
        elif kind == 1 and i < len(raw):
            raw[i] = rng.choice([0, 1, 0x7f, 0x80, 0xff])
        elif kind == 2:
            del raw[i:i + n]
        elif kind == 3:
            raw[i:i] = raw[i:i + n]
        elif kind == 4:
            raw[i:i] = rng.bytes(min(n, 20))
        else:
            raw[i:i + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"NaN,", b"[" * 2000, b"\"\"{}"])
    return bytes(raw)


def change_value(value, rng):
    """JSON's values, with one of them changed: a nasty one in its place, or an entry removed, added or renamed."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        value = value.copy()
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[int(rng.integers(len(keys)))]
        kind = rng.integers(8)
        if kind == 0:
            del value[key]
        elif kind == 1 and isinstance(value, dict):
            value[rng.choice(["", "new", "__metadata__", "dtype", "T"])] = nasty(rng)
        elif isinstance(value[key],
                        str) and value[key][:1] in tuple("{[0123456789") and kind < 6:     # JSON within JSON
            value[key] = json.dumps(change_value(json.loads(value[key]), rng))
        else:
            value[key] = change_value(value[key], rng)
        return value
    return nasty(rng)


def nasty(rng):
    return NASTY[int(rng.integers(len(NASTY)))]


def change_json(raw, rng):
    text = json.dumps(change_value(json.loads(raw), rng))
    if rng.random() < 0.05:
        text = text.replace("1", "[" * 3000, 1)
    return text.encode("utf-8", "surrogatepass")


def change_tensors(raw, rng):
    """A file of safetensors with a changed header, the length and the checksum right again."""
    length = int.from_bytes(raw[:8], "little")
    header, payload = json.loads(raw[8:8 + length]), raw[8 + length:]
    ours = header.get("__metadata__", {}).pop("sha256", None)
    if ours and rng.random() < 0.7:
        header["__metadata__"] = change_value(header["__metadata__"], rng)
    else:
        header = change_value(header, rng)
    if rng.random() < 0.2:
        payload = change_bytes(payload, rng)
    if ours and isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode() + payload).hexdigest()
        header["__metadata__"]["sha256"] = digest
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + payload


def change_zipped(raw, rng):
    return gzip.compress(change_bytes(gzip.decompress(raw), rng), 1)


# ---- parsers: a good input, how it may change, and what reads it ----

Parser = collections.namedtuple("Parser", "good changes read share", defaults=(4,))        # share: of all inputs


def png(mode, **options):
    file = io.BytesIO()
    size = (9, 7)
    Image.fromarray(np.arange(63, dtype=np.uint8).reshape(7, 9)).convert(mode).resize(size).save(file, **options)
    return file.getvalue()


def archive():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in (*cifar10.FILES["train"], *cifar10.FILES["test"]):
            info = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            info.size = cifar10.RECORD
            tar.addfile(info, io.BytesIO(bytes(cifar10.RECORD)))
    return file.getvalue()


def written(write, name="file"):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def idx(a):
    return bytes([0, 0, 8, a.ndim]) + b"".join(n.to_bytes(4, "big") for n in a.shape) + a.tobytes()


def read_archive(path):
    shutil.copyfile(path, path.parent / cifar10.ARCHIVE)
    cifar10.load("train", path.parent)


def read_diffusers(path, model):
    """path holds the settings, or the weights of the model."""
    where = path.parent / "published"
    if not where.exists():
        save_diffusers(model, where)
        shutil.copytree(where, path.parent / "original")
    settings = path.read_bytes()[:1] in (b"{", b"[")
    for name in (CONFIG, WEIGHTS):
        changed = (name == CONFIG) == settings
        shutil.copyfile(path if changed else path.parent / "original" / name, where / name)
    load_diffusers(where)


def parsers():
    cifar10.RECORDS = 1
    preset = Preset("fuzz", "digits", SMALL, training=TrainingConfig(warmup=1))
    model, changed = UNet(SMALL), (change_bytes, change_tensors, change_tensors, change_tensors)
    checkpoint = written(lambda path: save_checkpoint(path, Trainer(preset)))
    published = written(lambda path: save_diffusers(model, path), "x.safetensors")
    tensors = written(lambda path: safetensors.write(path, {"a": np.ones((2, 3), np.float32), "b": np.zeros(0,
                                                                                                            np.int8)},
                                                                                                            {}))
    noisy = Classifier(ClassifierConfig(1, (8, 8), time_width=8))
    noisy.diffusion = DiffusionConfig()
    classifier, timed = (written(functools.partial(save_classifier, model))
                         for model in (Classifier(ClassifierConfig(1, (8, 8))), noisy))
    metrics = "\r\n".join([",".join(COLUMNS), *(f"{i},0.5,1,1e-3,{i / 2}" for i in range(1, 6)), ""]).encode()
    image = idx(np.zeros((3, 28, 28), np.uint8))
    npy = written(lambda path: np.save(path, np.zeros((3, 4, 4), np.uint8)), "x.npy")
    npz = written(lambda path: np.savez(path, np.zeros((3, 4, 4), np.uint8)), "x.npz")
    labels = idx(np.zeros(3, np.uint8))
    settings = json.dumps({"format": 1}).encode()
    with tempfile.TemporaryDirectory() as where:
        save_diffusers(model, where)
        settings = (Path(where) / CONFIG).read_bytes()
    return {
        "json": Parser([checkpoint[8:1000], b'{"a": [1, 2, {"b": null}], "c": "1e5"}'], (change_bytes,),
                       lambda path: parse_json(path.read_bytes())),
        "safetensors": Parser([tensors, checkpoint], changed, safetensors.read, share=1),
        "safetensors of others": Parser([tensors, published], changed,
                                        lambda path: safetensors.read(path, checked=False)),
        "preset": Parser([preset.to_json().encode()], (change_bytes, change_json, change_json),
                         lambda path: Preset.from_json(path.read_bytes())),
        "checkpoint": Parser([checkpoint], changed, load_checkpoint, share=1),
        "model": Parser([checkpoint, published], changed, load_model, share=1),
        "classifier": Parser([classifier, timed], changed, load_classifier, share=1),
        "diffusers": Parser([published], changed, lambda path: read_diffusers(path, model), share=1),
        "settings of diffusers": Parser([settings], (change_bytes, change_json, change_json, change_json),
                                        lambda path: read_diffusers(path, model)),
        "metrics": Parser([metrics], (change_bytes,), read_metrics),
        "idx": Parser([image, gzip.compress(image), gzip.compress(image, 0)], (change_bytes,),
                      lambda path: mnist._pair(path.read_bytes(), labels, path)),
        "idx within gzip": Parser([gzip.compress(image)], (change_zipped,),
                                  lambda path: mnist._pair(path.read_bytes(), labels, path)),
        "cifar10": Parser([archive()], (change_bytes, change_zipped), read_archive),
        "npy": Parser([npy, npy, npy, npz], (change_bytes,), lambda path: data.load_npy(path, SMALL)),
        "image": Parser([png(mode, format="PNG") for mode in ("L", "RGB", "RGBA", "LA", "P", "1", "I;16")]
                        + [png(mode, format="JPEG") for mode in ("L", "RGB", "CMYK")]
                        + [png("L", format="GIF"), png("RGB", format="TIFF")],
                        (change_bytes,), lambda path: folder.read(path, 4, 3)),
    }


def peak_memory():
    """Of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**(20 if sys.platform == "darwin" else 10)


class Hang(BaseException):
    pass


def hang(number, frame):
    raise Hang


def attack(name, parser, count, seed, path):
    """Try `count` inputs; return how many were accepted, and a list of (input, problem)."""
    rng, accepted, problems = np.random.default_rng([seed, *name.encode()]), 0, []
    for good in parser.good:                            # a parser that refuses all would seem perfect
        path.write_bytes(good)
        try:
            parser.read(path)
        except (ValueError, OSError):
            pass
        else:
            accepted += 1
    assert accepted, f"{name} accepts no input"
    for _ in range(count):
        raw = parser.good[int(rng.integers(len(parser.good)))]
        path.write_bytes(changed := parser.changes[int(rng.integers(len(parser.changes)))](raw, rng))
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            parser.read(path)
            accepted += 1
        except (ValueError, OSError):
            pass
        except (Exception, Hang) as error:
            problems.append((changed, repr(error)))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return accepted, problems


def main():
    found, flags = parsers(), argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--count", type=int, default=10_000)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--only", choices=found)
    args = flags.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, hang)
    names, failed = [args.only] if args.only else list(found), 0
    with tempfile.TemporaryDirectory() as where:
        for name in names:
            start, before = time.time(), peak_memory()
            (at := Path(where) / name.replace(" ", "_")).mkdir()
            count = args.count * found[name].share // sum(found[name].share for name in names) + 1
            accepted, problems = attack(name, found[name], count, args.seed, at / "input")
            grown = peak_memory() - before
            failed += len(problems) + (grown > 1024)
            print(f"{name:24} {count:9,} inputs, {accepted:8,} accepted, {len(problems)} problems, "
                  f"peak memory + {grown:.0f} MiB, {time.time() - start:.0f} s", flush=True)
            for kind, times in collections.Counter(problem for _, problem in problems).most_common(5):
                print(f"    {times} x {kind[:300]}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
