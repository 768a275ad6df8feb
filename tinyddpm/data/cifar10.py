"""CIFAR10: 60,000 colour photographs of 32x32 pixels in ten classes (Krizhevsky 2009), from the binary version.

The archive holds five files of training images and one of test images: 10,000 records each, of one byte for the
label and 3 x 1024 for the red, green and blue planes. It is read in place; nothing is unpacked to disk.
"""

import io
import tarfile
from pathlib import Path, PurePosixPath

import numpy as np

from tinyddpm import files
from tinyddpm.data.download import cache_folder, fetch, md5

ARCHIVE, FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
CHECKSUM = "c32a1d4ab5d03f1284b67883e8d87530"
MIRRORS = ["https://www.cs.toronto.edu/~kriz"]
FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORDS, RECORD = 10_000, 1 + 3 * 32 * 32
LARGEST = 200_000_000       # bytes of the unpacked archive
EXPECTED = "expected the binary version of CIFAR10"


def load(split="train", data_dir=None):
    """The images (N, 32, 32, 3) uint8 and labels (N,) of a split: 50,000 "train" or 10,000 "test".

    data_dir: a folder with the archive, or with the unpacked cifar-10-batches-bin; without it the archive is
    downloaded once into the cache and its checksum compared. Raises ValueError for files that are
    damaged or of another shape, and for an archive that points outside its own folder.
    """
    if data_dir is None:
        archive = fetch(ARCHIVE, MIRRORS, _accept, cache_folder() / "cifar10")
        contents = _from_archive(archive, FILES[split])
    else:
        archive, folder = Path(data_dir) / ARCHIVE, Path(data_dir) / FOLDER
        if archive.exists():
            contents = _from_archive(archive, FILES[split])
        elif folder.is_dir():
            contents = [files.read(folder / name, "of CIFAR10", RECORDS * RECORD) for name in FILES[split]]
        else:
            raise ValueError(f"{data_dir} holds neither {ARCHIVE} nor the folder {FOLDER}: {EXPECTED}")
    return parse(contents, FILES[split], data_dir or archive)


def parse(contents, names, where):
    """The images and labels in the contents of such files."""
    for raw, name in zip(contents, names):
        if len(raw) != RECORDS * RECORD:
            raise ValueError(f"{where}: {name} has {len(raw)} bytes; expected {RECORDS} records of {RECORD}")
    records = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        raise ValueError(f"{where}: there is a label {labels.max()}; expected 0..9")
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _accept(raw):
    if md5(raw) != CHECKSUM:
        raise ValueError(f"{ARCHIVE} is not the published file (its checksum differs)")


def _from_archive(path, names):
    """The bytes of those files in the archive."""
    wanted = {f"{FOLDER}/{name}": None for name in names}
    with files.opened(path, "a gzipped tar archive") as file:
        with tarfile.open(fileobj=io.BytesIO(files.unzipped(file, LARGEST)), mode="r:") as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts
                if member.name.startswith("/") or ".." in parts or member.islnk() or member.issym():
                    raise ValueError(f"it holds {member.name!r}, which leads outside its folder: {EXPECTED}")
                if wanted.get(member.name):
                    raise ValueError(f"it holds {member.name} twice")
                if member.name in wanted and member.isfile() and member.size == RECORDS * RECORD:
                    wanted[member.name] = tar.extractfile(member).read()
    for name, raw in wanted.items():
        if raw is None:
            raise ValueError(f"{path} has no file {name} of {RECORDS * RECORD} bytes: {EXPECTED}")
    return list(wanted.values())
