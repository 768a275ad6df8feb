"""Data sets: parsers that trust nothing, a downloader that recovers, batches, and folders of images."""

import gzip
import http.server
import io
import tarfile
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tinyddpm import data
from tinyddpm.data import cifar10, download, folder, mnist
from tinyddpm.nn import UNetConfig

MNIST = UNetConfig(image_size=28, image_channels=1, channel_multipliers=(1, 2))


def idx(a):
    return bytes([0, 0, 8, a.ndim]) + b"".join(n.to_bytes(4, "big") for n in a.shape) + a.tobytes()


@pytest.fixture
def tiny(monkeypatch):
    """A stand-in for MNIST, 12 images per split: file name -> bytes. Its checksums replace MNIST's."""
    rng, files = np.random.default_rng(0), {}
    for prefix in ("train", "t10k"):
        files[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(idx(rng.integers(0, 256,
                                                                                 (12, 28, 28)).astype(np.uint8)))
        files[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(idx(rng.integers(0, 10, 12).astype(np.uint8)))
    monkeypatch.setitem(mnist.CHECKSUMS, "mnist",
                        {name: download.md5(gzip.decompress(raw)) for name, raw in files.items()})
    return files


@pytest.fixture
def data_dir(tiny, tmp_path):
    for name, raw in tiny.items():
        (tmp_path / name).write_bytes(raw)
    return tmp_path


# ---- the embedded digits ----

def test_embedded_digits():
    images, labels = mnist.load_digits()
    assert images.shape == (5000, 28, 28, 1) and images.dtype == np.uint8 and images.max() == 255
    assert np.bincount(labels).tolist() == [500] * 10
    centre = images[labels == 0][:, 12:16, 12:16].mean(), images[labels == 1][:, 12:16, 12:16].mean()
    assert centre[0] < 40 < 150 < centre[1]                 # zeros are hollow, ones are not
    assert len({image.tobytes() for image in images}) == 5000


# ---- IDX files ----

def test_load_from_a_folder(tiny, data_dir):
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = mnist.load("mnist", split, data_dir)
        expected = gzip.decompress(tiny[f"{prefix}-images-idx3-ubyte.gz"])[16:]
        assert images.shape == (12, 28, 28, 1) and images.tobytes() == expected
        assert labels.shape == (12,) and labels.dtype == np.int64


def test_unpacked_files_and_other_compression_are_welcome(tiny, data_dir):
    for name, raw in tiny.items():
        (data_dir / name).unlink()
        (data_dir / name.removesuffix(".gz")).write_bytes(gzip.decompress(raw))
    plain = mnist.load("mnist", "train", data_dir)[0]
    for name, raw in tiny.items():
        (data_dir / name).write_bytes(gzip.compress(gzip.decompress(raw), compresslevel=1))
    np.testing.assert_array_equal(plain, mnist.load("mnist", "train", data_dir)[0])


def damage(kind, data_dir):
    images, labels, test = (data_dir / f"{n}-ubyte.gz"
                            for n in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3"))
    raw = images.read_bytes()
    if kind == "missing":
        images.unlink()
    elif kind == "truncated":
        images.write_bytes(raw[:-100])
    elif kind == "bit flipped":
        images.write_bytes(raw[:2000] + bytes([raw[2000] ^ 4]) + raw[2001:])
    elif kind == "swapped":
        images.write_bytes(labels.read_bytes())
    elif kind == "renamed":
        images.write_bytes(test.read_bytes())
    elif kind == "empty":
        images.write_bytes(b"")
    elif kind == "a web page":
        images.write_bytes(b"<html>404</html>")
    elif kind == "one pixel changed":
        content = bytearray(gzip.decompress(raw))
        content[500] ^= 1
        images.write_bytes(gzip.compress(bytes(content)))


@pytest.mark.parametrize("kind",
                         ["missing", "truncated", "bit flipped", "swapped", "renamed", "empty", "a web page",
                          "one pixel changed"])
def test_damaged_files_are_refused_by_name(data_dir, kind):
    damage(kind, data_dir)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
        mnist.load("mnist", "train", data_dir)


@pytest.mark.parametrize("raw", [
    b"", b"\0\0\x08", idx(np.zeros((2, 28), np.uint8)), b"\0\0\x0d\x03" + idx(np.zeros((2, 28, 28), np.uint8))[4:],
    idx(np.zeros((2, 28, 28), np.uint8))[:-1], idx(np.zeros((2, 28, 28), np.uint8)) + b"\0",
    b"\0\0\x08\x03" + b"\xff" * 12])
def test_the_parser_checks_magic_and_sizes(raw):
    with pytest.raises(ValueError, match="IDX|expected"):
        mnist.parse_idx(raw, 3, "images")


# ---- downloads ----

class Server(http.server.ThreadingHTTPServer):
    """Serves files from memory; supports ranges; stops after `limit` bytes if that is set."""

    def __init__(self, files):
        self.files, self.limit, self.requests, self.ranges = files, None, [], True
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        raw = self.server.files.get(self.path.strip("/"))
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        if raw is None:
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(raw):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(raw) - start))
        self.end_headers()
        self.wfile.write(raw[start:][:self.server.limit])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tiny, monkeypatch, tmp_path):
    server = Server(tiny)
    monkeypatch.setitem(mnist.MIRRORS, "mnist", [server.url])
    monkeypatch.setenv("TINYDDPM_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()


def test_a_download_happens_once(server):
    images, _ = mnist.load("mnist")
    assert len(images) == 12 and len(server.requests) == 2
    np.testing.assert_array_equal(mnist.load("mnist")[0], images)
    assert len(server.requests) == 2
    assert not list(download.cache_folder().rglob("*.part"))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on(server, ranges):
    server.limit, server.ranges = 3000, ranges
    with pytest.raises(ValueError, match="closed after 3000 of"):
        mnist.load("mnist")
    server.limit = None
    assert len(mnist.load("mnist")[0]) == 12
    assert server.requests[1][1] == "bytes=3000-"


def test_the_next_mirror_is_tried(server, monkeypatch):
    monkeypatch.setitem(mnist.MIRRORS, "mnist", [server.url + "/nothing-here", server.url])
    assert len(mnist.load("mnist")[0]) == 12


def test_a_wrong_file_is_not_kept(server):
    good = server.files["train-images-idx3-ubyte.gz"]
    server.files["train-images-idx3-ubyte.gz"] = b"<html>log in first</html>"
    with pytest.raises(ValueError, match="checksum differs"):
        mnist.load("mnist")
    server.files["train-images-idx3-ubyte.gz"] = good
    assert len(mnist.load("mnist")[0]) == 12


def test_a_damaged_cache_is_refused_by_path(server):
    mnist.load("mnist")
    path = download.cache_folder() / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=str(path)):
        mnist.load("mnist")


def test_without_a_home_downloads_go_to_a_temporary_folder(monkeypatch, capsys, tmp_path):
    def nobody():
        raise RuntimeError("Could not determine home directory.")
    monkeypatch.setattr(download.Path, "home", nobody)
    monkeypatch.setattr(download.tempfile, "gettempdir", lambda: str(tmp_path))
    for name in ("TINYDDPM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert download.cache_folder() == tmp_path / "tinyddpm"
    assert "set TINYDDPM_CACHE" in capsys.readouterr().err
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert download.cache_folder() == tmp_path / "own" / "tinyddpm" and capsys.readouterr().err == ""


def test_offline_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("TINYDDPM_CACHE", str(tmp_path))
    monkeypatch.setitem(mnist.MIRRORS, "mnist", ["http://127.0.0.1:9"])
    with pytest.raises(ValueError, match="--data-dir"):
        mnist.load("mnist")


# ---- CIFAR10 ----

@pytest.fixture
def cifar(monkeypatch):
    """A stand-in for CIFAR10 with 7 records per file: file name -> bytes."""
    monkeypatch.setattr(cifar10, "RECORDS", 7)
    rng, files = np.random.default_rng(0), {}
    for name in cifar10.FILES["train"] + cifar10.FILES["test"]:
        records = rng.integers(0, 256, (7, cifar10.RECORD), dtype=np.uint8)
        records[:, 0] %= 10
        files[name] = records.tobytes()
    return files


def archive(folder, files, prefix="cifar-10-batches-bin/", extra=()):
    with tarfile.open(folder / cifar10.ARCHIVE, "w:gz") as tar:
        for info, raw in [*extra, *((tarfile.TarInfo(prefix + name), raw) for name, raw in files.items())]:
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return folder


def test_cifar10_from_the_archive_and_unpacked(cifar, tmp_path):
    images, labels = cifar10.load("train", archive(tmp_path, cifar))
    assert images.shape == (35, 32, 32, 3) and images.dtype == np.uint8 and labels.dtype == np.int64
    third = np.frombuffer(cifar["data_batch_1.bin"], np.uint8).reshape(7, -1)[2]
    assert labels[2] == third[0]
    for channel in range(3):                                # planes of red, green and blue, rows from the top
        np.testing.assert_array_equal(images[2, :, :, channel].ravel(), third[1 + 1024 * channel:1025 + 1024 * channel])
    assert cifar10.load("test", tmp_path)[0].shape == (7, 32, 32, 3)
    (tmp_path / cifar10.ARCHIVE).unlink()
    unpacked = tmp_path / cifar10.FOLDER
    unpacked.mkdir()
    for name, raw in cifar.items():
        (unpacked / name).write_bytes(raw)
    np.testing.assert_array_equal(cifar10.load("train", tmp_path)[0], images)
    (unpacked / "data_batch_3.bin").write_bytes(cifar["data_batch_3.bin"][:-1])
    with pytest.raises(ValueError, match="data_batch_3.bin has"):
        cifar10.load("train", tmp_path)
    (unpacked / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_3.bin"):
        cifar10.load("train", tmp_path)


def link(name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


@pytest.mark.parametrize("member", [tarfile.TarInfo("../escaped.bin"), tarfile.TarInfo("/escaped.bin"),
                                    tarfile.TarInfo("cifar-10-batches-bin/../../escaped.bin"),
                                    link("cifar-10-batches-bin/data_batch_1.bin", "/etc/passwd")])
def test_an_archive_that_leads_outside_is_refused_and_nothing_is_written(cifar, tmp_path, member):
    inside = tmp_path / "inside"
    inside.mkdir()
    archive(inside, cifar, extra=[(member, b"")])
    with pytest.raises(ValueError, match="leads outside its folder"):
        cifar10.load("train", inside)
    assert [p.name for p in tmp_path.rglob("*")] == ["inside", cifar10.ARCHIVE]


def test_damaged_archives_are_refused(cifar, tmp_path):
    archive(tmp_path, cifar, prefix="cifar-10-batches-py/")             # as in the pickled version
    with pytest.raises(ValueError, match="has no file cifar-10-batches-bin/data_batch_1.bin"):
        cifar10.load("train", tmp_path)
    raw = archive(tmp_path, cifar).joinpath(cifar10.ARCHIVE).read_bytes()
    for damaged in (b"", raw[:len(raw) // 2], b"<html>404</html>", raw[:3000] + bytes(200) + raw[3200:]):
        (tmp_path / cifar10.ARCHIVE).write_bytes(damaged)
        with pytest.raises(ValueError, match="cifar-10-binary.tar.gz"):
            cifar10.load("train", tmp_path)
    (tmp_path / cifar10.ARCHIVE).unlink()
    with pytest.raises(ValueError, match="holds neither"):
        cifar10.load("train", tmp_path)
    with pytest.raises(ValueError, match="a label 77"):
        cifar10.parse([bytes([77]) + bytes(cifar10.RECORD * 7 - 1)], ["test_batch.bin"], "here")


def test_cifar10_is_downloaded_once_and_checked(cifar, tmp_path, monkeypatch):
    raw = archive(tmp_path, cifar).joinpath(cifar10.ARCHIVE).read_bytes()
    server = Server({cifar10.ARCHIVE: raw})
    monkeypatch.setattr(cifar10, "MIRRORS", [server.url])
    monkeypatch.setenv("TINYDDPM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="checksum differs"):
        cifar10.load("test")
    monkeypatch.setattr(cifar10, "CHECKSUM", download.md5(raw))
    assert cifar10.load("test")[0].shape == (7, 32, 32, 3)
    requests = len(server.requests)
    assert cifar10.load("train")[0].shape == (35, 32, 32, 3) and len(server.requests) == requests


# ---- folders of images ----

def test_a_folder_of_images(tmp_path):
    (tmp_path / "sub").mkdir()
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = (200, 100, 50)                          # the central square
    Image.fromarray(wide).save(tmp_path / "b.png")
    Image.fromarray(np.full((5, 5), 77, np.uint8)).save(tmp_path / "sub" / "c.PNG")
    Image.fromarray(np.full((20, 10, 3), 30, np.uint8)).save(tmp_path / "a.jpeg")
    (tmp_path / "notes.txt").write_text("not an image")
    images = folder.load(tmp_path, 4, 3)
    assert images.shape == (3, 4, 4, 3) and images.dtype == np.uint8
    assert np.all(images[1] == (200, 100,
                                50)) and np.all(images[2] == 77) and np.all(abs(images[0].astype(int) - 30) < 4)
    assert folder.load(tmp_path, 4, 1).shape == (3, 4, 4, 1)


def test_images_keep_what_they_show(tmp_path):
    """16 bits, transparency in each of its forms, palettes: what a viewer shows on white paper."""
    def read(image, channels=3, name="a.png"):
        image.save(tmp_path / name)
        return folder.read(tmp_path / name, 4, channels)

    for value, expected in ((20000, 78), (0, 0), (65535, 255), (257 * 9, 9)):
        assert np.all(read(Image.fromarray(np.full((16, 16), value, np.uint16)), 1) == expected)
    assert np.all(read(Image.new("RGBA", (8, 8), (10, 20, 30, 0))) == 255)
    assert np.all(read(Image.new("RGBA", (8, 8), (10, 20, 30, 255))) == (10, 20, 30))
    assert np.all(abs(read(Image.new("RGBA", (8, 8), (10, 20, 30, 102))).astype(int) - [157, 161, 165]) <= 1)
    assert np.all(read(Image.new("LA", (8, 8), (40, 0)), 1) == 255)
    palette = Image.fromarray(np.repeat([[0, 1]], 8, axis=0).repeat(4, axis=1).astype(np.uint8), "P")
    palette.putpalette([200, 0, 0, 0, 100, 0])
    palette.save(tmp_path / "p.png", transparency=0)
    found = folder.read(tmp_path / "p.png", 4, 3)
    assert np.all(found[:, :2] == 255) and np.all(found[:, 2:] == (0, 100, 0))
    grey = Image.fromarray(np.tile(np.array([0, 50], np.uint8), (8, 4)))
    grey.save(tmp_path / "g.png", transparency=0)
    assert np.all(abs(folder.read(tmp_path / "g.png", 4, 1).astype(int) - (255 + 50) // 2) <= 1)
    ramp = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    np.testing.assert_array_equal(read(ramp.convert("RGBA"), 1), read(ramp, 1))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "PPM", "ICO"])
def test_other_formats_are_refused_whatever_their_name(tmp_path, kind):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png", format=kind)
    with pytest.raises(ValueError, match="a.png is damaged or not a PNG or JPEG"):
        folder.read(tmp_path / "a.png", 4, 3)


def test_a_huge_image_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    Image.new("1", (13000, 13000)).save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.Image.Image.load", None)
    with pytest.raises(ValueError, match="a.png is damaged.*169000000 pixels"):
        folder.read(tmp_path / "a.png", 4, 3)


def test_a_large_folder_is_read_batch_by_batch(tmp_path, monkeypatch):
    for i in range(6):
        Image.fromarray(np.full((4, 4), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    whole = folder.load(tmp_path, 4, 1)
    monkeypatch.setattr(folder, "IN_MEMORY", 50)
    lazy = folder.load(tmp_path, 4, 1)
    assert isinstance(lazy, folder.Images) and lazy.shape == whole.shape and len(lazy) == 6
    a, b = (data.Dataset(images).batch(3, 4, seed=0)[0] for images in (whole, lazy))
    np.testing.assert_array_equal(a, b)
    (tmp_path / "2.png").write_bytes(b"")
    with pytest.raises(ValueError, match="2.png is damaged or not a PNG or JPEG image"):
        list(zip(range(2), data.Dataset(lazy).batches(0, 5, seed=0)))


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no PNG or JPEG"):
        folder.load(tmp_path, 4, 1)
    Image.fromarray(np.zeros((50, 50), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    with pytest.raises(ValueError, match="half.png"):
        folder.load(tmp_path, 4, 1)


# ---- data sets ----

def test_batches_cover_an_epoch_and_depend_on_seed_and_number_alone():
    dataset = data.Dataset(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), np.arange(10))
    epochs = [[dataset.batch(number, 3, seed=1)[1] for number in range(e * 3, e * 3 + 3)] for e in range(2)]
    for epoch in epochs:
        assert len(set(np.concatenate(epoch))) == 9
    assert not np.array_equal(*map(np.concatenate, epochs))
    images, labels = dataset.batch(4, 3, seed=1)
    np.testing.assert_array_equal(labels, epochs[1][1])
    np.testing.assert_array_equal(images.ravel(), labels)
    assert not np.array_equal(dataset.batch(4, 3, seed=2)[1], labels)
    with pytest.raises(ValueError, match="--batch-size"):
        dataset.batch(0, 11, seed=1)


def test_batches_from_the_background_are_the_same():
    dataset = data.Dataset(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), np.arange(10))
    batches = dataset.batches(2, 3, seed=1)
    for number in range(2, 9):
        for got, expected in zip(next(batches), dataset.batch(number, 3, seed=1)):
            np.testing.assert_array_equal(got, expected)
    batches.close()
    with pytest.raises(ValueError, match="--batch-size"):
        next(dataset.batches(0, 11, seed=1))


def test_the_embedded_digits_are_no_test_images():
    with pytest.raises(ValueError, match="--dataset mnist"):
        data.load("digits", MNIST, "test")


@pytest.mark.parametrize("name, config, message", [
    ("digits", UNetConfig(), "made for"), ("nothing", MNIST, "expected digits, mnist"),
    ("digits", UNetConfig(image_size=28, image_channels=1, channel_multipliers=(1, 2), num_classes=5),
     "digits has 10 classes, and the model has num_classes = 5")])
def test_what_does_not_fit_is_refused(name, config, message):
    with pytest.raises(ValueError, match=message):
        data.load(name, config)


def test_sub_folders_are_classes(tmp_path):
    """In the order of their names, whatever is below them; not where an image lies beside them, or in one alone."""
    def load(classes):
        return data.load(str(tmp_path), replace(MNIST, num_classes=classes))

    for i, name in enumerate(("b/1.png", "a/x/2.png", "b/3.png", "a/4.jpg", "c/5.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((28, 28), 20 * i, np.uint8)).save(tmp_path / name)
    assert data.classes(str(tmp_path)) == load(3).classes == ("a", "b", "c")
    assert load(3).labels.tolist() == [0, 0, 1, 1, 2]
    assert [int(image.mean()) for image in load(3).images] == [60, 20, 0, 40, 80]
    some = load(3).some(4, seed=1)
    assert {(int(image.mean()), label) for image, label in zip(some.images, some.labels)} < {
        (60, 0), (20, 0), (0, 1), (40, 1), (80, 2)} and len(some) == 4
    assert load(None).labels is None and load(None).classes == ()
    with pytest.raises(ValueError, match="has 3 classes, and the model has num_classes = 2"):
        load(2)
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "a.png")
    assert data.classes(str(tmp_path)) == () and len(load(None)) == 6
    with pytest.raises(ValueError, match="has no labels, and the model has num_classes = 3"):
        load(3)
    with pytest.raises(ValueError, match="in the sub-folder x: labels need two classes"):
        (tmp_path / "a" / "4.jpg").unlink()
        data.classes(str(tmp_path / "a"))


def test_other_classes_are_refused():
    dataset = data.Dataset(np.zeros((2, 1, 1, 1), np.uint8), np.arange(2), ("a", "b"))
    dataset.require_classes(("a", "b"), "letters")
    dataset.require_classes((), "letters")                      # of an old checkpoint, which does not name them
    with pytest.raises(ValueError, match="letters has the classes a, b; the model knows b, a"):
        dataset.require_classes(("b", "a"), "letters")


def test_the_classes_of_the_data_sets():
    assert data.classes("digits") == data.classes("mnist") == tuple("0123456789")
    assert data.classes("cifar10")[3] == "cat" and data.classes("fashion-mnist")[9] == "Ankle boot"
    assert data.classes("nothing") == () and data.classes("") == ()
    assert data.DATASETS.keys() == data.CLASSES.keys()

