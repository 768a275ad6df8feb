"""MNIST, Fashion-MNIST and the embedded digits: images and labels from IDX files."""

import io
from pathlib import Path

import numpy as np

from tinyddpm import files
from tinyddpm.data.download import cache_folder, fetch, md5

# The MD5 of each file: for MNIST that of its content, since copies differ in how they are compressed;
# for Fashion-MNIST that of the .gz as its authors publish it.
CHECKSUMS = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
}
MIRRORS = {
    "mnist": ["https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"],
    "fashion-mnist": ["http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
                      "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"],
}
CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
                      "Ankle boot"),
}
LARGEST = 10**8             # bytes of a file


def load_digits(split="train", data_dir=None):
    """The 5,000 digits of MNIST that come with the package, 500 of each: (5000, 28, 28, 1) uint8, labels (5000,)."""
    if split != "train":
        raise ValueError("the embedded digits are training images; MNIST's test images come with --dataset mnist")
    folder = Path(__file__).parent / "digits"
    return _pair((folder / "images-idx3-ubyte.gz").read_bytes(), (folder / "labels-idx1-ubyte.gz").read_bytes(), folder)


def load(dataset, split="train", data_dir=None):
    """The images (N, 28, 28, 1) uint8 and labels (N,) of "mnist" or "fashion-mnist", split "train" or "test".

    data_dir: a folder with the four files as published, .gz or unpacked; without it they are
    downloaded once into the cache. Raises ValueError for a missing, damaged or wrong file.
    """
    prefix = {"train": "train", "test": "t10k"}[split]
    contents = [_content(dataset, f"{prefix}-{kind}-ubyte.gz", data_dir) for kind in ("images-idx3", "labels-idx1")]
    return _pair(*contents, data_dir or dataset)


def _content(dataset, name, data_dir):
    """The checked bytes of a file, from data_dir or from the cache."""
    def accept(raw):
        if CHECKSUMS[dataset][name] not in (md5(raw), md5(_unpack(raw, name))):
            raise ValueError(f"{name} is not the file of {dataset} (its checksum differs): damaged, renamed or wrong")

    if data_dir is None:
        folder = cache_folder() / dataset
        path = fetch(name, MIRRORS[dataset], accept, folder)
    else:
        path = Path(data_dir) / name
        if not path.exists():
            path = path.with_suffix("")
        if not path.exists():
            raise ValueError(f"{data_dir} holds neither {name} nor {path.name}; expected the four files of {dataset}")
    with files.opened(path, f"the file of {dataset}", LARGEST) as file:
        raw = file.read()
        accept(raw)
    return raw


def _unpack(raw, name):
    """The content of a gzip file; other bytes are returned unchanged."""
    if raw[:2] != b"\x1f\x8b":
        return raw
    with files.parsing(name, "a gzip file"):
        return files.unzipped(io.BytesIO(raw), LARGEST)


def parse_idx(raw, dimensions, name):
    """The uint8 array in the bytes of an IDX file: 0, 0, type 8, the number of dimensions, their sizes, the values."""
    header = 4 + 4 * dimensions
    if raw[:4] != bytes([0, 0, 8, dimensions]) or len(raw) < header:
        raise ValueError(f"{name}: not an IDX file of bytes in {dimensions} dimensions (it starts with "
                         f"{raw[:4].hex()})")
    shape = tuple(int.from_bytes(raw[i:i + 4], "big") for i in range(4, header, 4))
    if len(raw) - header != np.prod(shape, dtype=object):
        raise ValueError(f"{name}: {len(raw) - header} bytes of values; expected {' x '.join(map(str, shape))}")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _pair(images, labels, where):
    """Parse images and labels, and check that they belong together."""
    images, labels = (parse_idx(_unpack(raw, where), d, f"{what} of {where}")
                      for raw, d, what in ((images, 3, "images"), (labels, 1, "labels")))
    if not 0 < len(images) == len(labels) or images.shape[1:] != (28, 28) or labels.max() > 9:
        raise ValueError(f"{where}: images {images.shape}, labels {labels.shape} up to {labels.max(initial=0)}; "
                         "expected (N, 28, 28), N > 0, and N labels 0..9")
    return images[..., None], labels.astype(np.int64)
