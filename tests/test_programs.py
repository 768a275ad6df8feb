"""The programs as people run them: each in its own process, from another folder, with right and wrong flags."""

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyddpm import data, evaluation, presets, safetensors
from tinyddpm.figures import FIGURES, Figure
from tinyddpm.interop import save_diffusers
from tinyddpm.nn import UNet, UNetConfig
from tinyddpm.training import Trainer, load_checkpoint, load_model, save_checkpoint

ROOT = Path(__file__).parent.parent
SMALL = ["--quick", "--base-channels", "8", "--groups", "4", "--blocks-per-level", "1", "--attention-resolutions",
         "none", "--T", "20", "--backend", "numpy"]


def run(program, *flags, cwd):
    return subprocess.run([sys.executable, ROOT / "examples" / program, *map(str, flags)], cwd=cwd, capture_output=True,
                          text=True)

CHECKPOINT = "runs/digits/checkpoint.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which train_mnist.py has run once, and what it printed."""
    folder = tmp_path_factory.mktemp("user")
    done = run("train_mnist.py", *SMALL, "--steps", 20, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "greys").mkdir()
    for i in range(20):
        Image.fromarray(np.full((28, 28), 12 * i, np.uint8)).save(folder / "greys" / f"{i}.png")
        for name, shade in (("dark", i), ("light", 255 - i)):
            (folder / "shades" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((28, 28), shade, np.uint8)).save(folder / "shades" / name / f"{i}.png")
    return folder, done


def test_train_mnist_leaves_what_it_says(trained):
    folder, done = trained
    out = folder / "runs" / "digits"
    assert {p.name for p in out.iterdir()} == {".lock", "checkpoint.safetensors", "metrics.csv", "loss.png",
                                               "samples.png", "denoising.gif", "samples_000020.png"}
    for name in ("samples.png", "denoising.gif", "checkpoint.safetensors"):
        assert str(Path("runs/digits") / name) in done.stdout
    with Image.open(out / "denoising.gif") as film:
        assert film.n_frames >= 20
    for name, rows in (("samples.png", 7), ("samples_000020.png", 4)):
        with Image.open(out / name) as picture:             # a column for each digit
            assert picture.size[0] / picture.size[1] == pytest.approx((29 * 10 + 1) / (29 * rows + 1), rel=1e-3)
    assert load_model(out / "checkpoint.safetensors")[1].classes == tuple("0123456789")


def test_sub_folders_are_classes(trained):
    """They are named in the checkpoint; --num-classes none ignores them."""
    folder, _ = trained
    for flags, names in (([], ("dark", "light")), (["--num-classes", "none"], ())):
        done = run("train_mnist.py", *SMALL, "--dataset", "shades", "--steps", 3, "--T", 3, "--sample-every", 0, *flags,
                   "--out", f"of{len(names)}", cwd=folder)
        assert done.returncode == 0, done.stderr
        assert load_model(folder / f"of{len(names)}" / "checkpoint.safetensors")[1].classes == names
    done = run("sample.py", "of2/checkpoint.safetensors", "--label", "light,1", "--avoid", "dark", "--count", 4,
               "--out", "light.npy", "--backend", "numpy", cwd=folder)
    assert done.returncode == 0, done.stderr
    done = run("evaluate.py", "of2/checkpoint.safetensors", "nll", "--count", 4, "--backend", "numpy", cwd=folder)
    assert done.returncode == 0 and "4 images of shades, given their labels" in done.stdout, done.stderr
    done = run("train_mnist.py", *SMALL, "--dataset", "greys", "--from", "of2/checkpoint.safetensors", "--steps", 2,
               "--out", "more", cwd=folder)
    assert done.returncode == 0 and "in 2 classes" not in done.stdout, done.stderr
    model, preset = load_model(folder / "more" / "checkpoint.safetensors")
    assert preset.model.num_classes is None and preset.dataset == "greys" and preset.training.steps == 2
    start, _ = load_model(folder / "of2" / "checkpoint.safetensors")
    assert abs(model.conv_in.weight.value - start.conv_in.weight.value).max() < 0.02


@pytest.mark.parametrize("flags, suffix", [
    ([], ".png"), (["--sampler", "ddim", "--steps", 7, "--eta", 0.5], ".png"), (["--label", 3], ".png"),
    (["--label", "none", "--sampler", "ddpm"], ".png"), (["--label", "0,2", "--guidance", 0.5, "--no-clip"], ".png"),
    (["--avoid", 8, "--guidance", -1], ".png"),
    (["--sampler", "ddim", "--steps", 9], ".gif"),
    (["--count", 70, "--sampler", "ddim", "--steps", 2], ".npy")])
def test_sample(trained, flags, suffix):
    folder, _ = trained
    out = folder / ("out" + suffix)
    out.unlink(missing_ok=True)
    done = run("sample.py", "runs/digits/checkpoint.safetensors", "--count", 4, "--backend", "numpy", *flags, "--out",
               out.name, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == out.name
    if suffix == ".npy":
        images = np.load(out)
        assert images.shape == (70, 28, 28) and images.dtype == np.uint8 and images.std() > 0
    else:
        Image.open(out).verify()


@pytest.mark.parametrize("what, flags, keys", [
    ("nll", ["--times", 3, "--cdf", "tanh"], {"prior", "rate", "distortion", "total", "terms", "times"}),
    ("rate-distortion", ["--times", 0], {"rate_distortion"}),
    ("fid", ["--sampler", "ddim", "--steps", 2, "--dataset", "greys"], {"value", "measure", "read as asked"}),
    ("nll", ["--times", 3, "--ode", "--tolerance", 0.1], {"ode", "total"}),
    ("is", ["--samples", "out.npy"], {"value", "spread", "measure"})])
def test_evaluate(trained, what, flags, keys):
    folder, _ = trained
    np.save(folder / "out.npy", np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8))
    count = [] if "--samples" in flags else ["--count", 6]
    split = [] if what in ("is", "fid") else ["--split", "train"]
    done = run("evaluate.py", CHECKPOINT, what, *split, *count, "--backend", "numpy", *flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / f"{what}.json").read_text())
    assert keys < results.keys() and results["checkpoint"] == CHECKPOINT
    if what in ("nll", "rate-distortion"):
        assert results["T"] == 20 and results["images"] == 6
        assert results["total"][0] == pytest.approx(sum(results[part][0] for part in ("rate", "distortion")))
        assert f"{results['total'][0]:.5f}" in done.stdout
        assert len(results["terms"]["first_t"]) == (3 if what == "nll" else 19)
    else:
        assert results["measure"] in done.stdout and "not comparable with Inception" in results["measure"]
        assert ("30 images of out.npy" if what == "is" else "6 samples by DDIM with 2 steps") in done.stdout


@pytest.mark.parametrize("name", FIGURES)
def test_figures(trained, name):
    """Every figure, in this process; one of them also as a program, below."""
    folder, _ = trained
    out = folder / f"{name}{'.gif' if name == 'film' else '.png'}"
    dataset = folder / "greys" if name in ("nearest", "samplers") else None
    FIGURES[name](Figure(*load_model(folder / CHECKPOINT), out, rows=2, count=2, dataset=dataset and str(dataset)))
    with Image.open(out) as picture:
        assert max(picture.size) > 200
        columns, rows = {"progressive": (9, 2), "shared": (9, 4), "interpolation": (9, 2), "coarse-to-fine": (9, 9),
                         "nearest": (9, 2),
                         "samples": (10, 2)}.get(name, (0, 0))
        if rows:
            assert picture.size[0] / picture.size[1] == pytest.approx((29 * columns + 1) / (29 * rows + 1))


def test_figure_5_is_given_the_labels_of_its_images(trained, monkeypatch):
    folder, _ = trained
    given, bound = [], evaluation.bound
    monkeypatch.setattr(evaluation, "bound", lambda *arguments: given.append(arguments) or bound(*arguments))
    model, preset = load_model(folder / CHECKPOINT)
    Figure(model, preset, folder / "labels.png").rate_distortion()
    _, _, images, labels, *_ = given[0]
    dataset = data.load("digits", preset.model)
    found = [dataset.labels[(dataset.images == image).all(axis=(1, 2, 3))][0] for image in images]
    assert list(labels) == found and len(set(found)) > 5


def test_the_program_of_the_figures(trained):
    folder, _ = trained
    done = run("figures.py", CHECKPOINT, "progressive", "--rows", 1, "--backend", "numpy", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "progressive.png" and (folder / "progressive.png").exists()
    help = run("figures.py", "--help", cwd=folder).stdout
    assert all(name in help and f.__doc__ in help for name, f in FIGURES.items())


def test_train_cifar10_on_other_rows_of_table_2_and_other_images(tmp_path):
    """L on mu_tilde with a learned variance; then the trained model is evaluated."""
    (tmp_path / "pictures").mkdir()
    for i in range(9):
        picture = np.random.default_rng(i).integers(0, 256, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{i}.png")
    done = run("train_cifar10.py", *SMALL, "--preset", "cifar10-small", "--dataset", "pictures", "--loss", "L",
               "--prediction", "mu",
               "--variance", "learned", "--steps", 3, "--T", 5, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs" / "pictures"
    assert {p.name for p in out.iterdir()} == {".lock", "checkpoint.safetensors", "metrics.csv", "loss.png",
                                               "samples.png", "denoising.gif"}
    done = run("evaluate.py", out / "checkpoint.safetensors", "nll", "--count", 4, "--backend", "numpy", cwd=tmp_path)
    assert done.returncode == 0 and "4 images of pictures" in done.stdout, done.stderr


def test_a_published_model_is_drawn_from(tmp_path):
    save_diffusers(UNet(UNetConfig(image_size=8, base_channels=8, groups=4, channel_multipliers=(1, 2),
                                   blocks_per_level=1,
                                   attention_resolutions=())), tmp_path / "published")
    for path in ("published", "published/diffusion_pytorch_model.safetensors"):
        done = run("sample.py", path, "--count", 2, "--sampler", "ddim", "--steps", 2, "--backend", "numpy",
                   cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_the_same_seed_draws_the_same_images(trained):
    folder, _ = trained
    pictures = []
    for seed in (1, 1, 2):
        run("sample.py", "runs/digits/checkpoint.safetensors", "--count", 3, "--seed", seed, "--sampler", "ddim",
            "--steps", 3,
            "--backend", "numpy", "--out", "x.npy", cwd=folder)
        pictures.append(np.load(folder / "x.npy"))
    assert np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[0], pictures[2])


WRONG = [
    ("train_mnist.py", ["--colour", "red"], "--colour"), ("train_mnist.py", ["--steps", "many"], "--steps"),
    ("train_mnist.py", ["--steps", "0"], "steps is 0"),
    ("train_mnist.py", ["--steps", "5", "--minutes", "1"], "exclude each other"),
    ("train_mnist.py", ["--dataset", "nothing"], "nothing"),
    ("train_mnist.py", ["--dataset", "mnist", "--data-dir", "."], "train-images"),
    ("train_mnist.py", ["--backend", "torch"], "--backend"),
    ("train_mnist.py", ["--base-channels", "7"], "base_channels is 7"),
    ("train_mnist.py", ["--resume", "--out", "elsewhere"], "nothing to resume"),
    ("train_mnist.py", ["--out", "runs/digits"], "already holds a run"),
    ("train_mnist.py", ["--resume", "--lr", "0.5"], "lr would change it"),
    ("train_mnist.py", ["--ops", "none.py"], "none.py"),
    ("train_mnist.py", ["--ops", "broken.py"], "broken.py"),
    ("train_mnist.py", ["--batch-size", "6000", "--steps", "2"], "--batch-size"),
    ("train_mnist.py", ["--out", "file.txt/x"], "file.txt"),
    ("train_mnist.py", ["--image-size", "32"], "made for (32, 32, 1)"),
    ("sample.py", ["nothing.safetensors"], "nothing.safetensors"), ("sample.py", ["file.txt"], "file.txt"),
    ("sample.py", [CHECKPOINT, "--out", "x.jpg"], "x.jpg"),
    ("sample.py", [CHECKPOINT, "--out", "no/such/x.png"], "no/such"),
    ("sample.py", [CHECKPOINT, "--sampler", "ddpm", "--steps", "3"], "--steps does not belong to --sampler ddpm"),
    ("sample.py", [CHECKPOINT, "--sampler", "ddim", "--steps", "9999"], "steps is 9999"),
    ("sample.py", [CHECKPOINT, "--label", "12"], "--label 12: expected 0 to 9"),
    ("sample.py", [CHECKPOINT, "--label", "3,cat"], "--label 3,cat: expected 0 to 9"),
    ("sample.py", [CHECKPOINT, "--avoid", "10"], "--avoid 10: expected 0 to 9"),
    ("sample.py", [CHECKPOINT, "--avoid", "1,2"], "expected one class"),
    ("sample.py", [CHECKPOINT, "--avoid", "1", "--guidance", "1"], "it needs a --guidance other than 1"),
    ("sample.py", [CHECKPOINT, "--label", "none", "--guidance", "2"], "the images have no label"),
    ("sample.py", [CHECKPOINT, "--guidance", "nan"], "--guidance: nan"),
    ("sample.py", ["plain.safetensors", "--label", "1"], "the model has no classes"),
    ("sample.py", ["plain.safetensors", "--guidance", "2"], "the model has no classes"),
    ("sample.py", [CHECKPOINT, "--count", "0"], "--count: 0: expected at least 1"),
    ("evaluate.py", [CHECKPOINT, "nll", "--dataset", "shades"], "has 2 classes, and the model has num_classes = 10"),
    ("evaluate.py", [CHECKPOINT, "nll", "--split", "train", "--label", "3"], "a likelihood has the true labels"),
    ("evaluate.py", [CHECKPOINT, "nll", "--guidance", "2"], "--guidance does not belong to nll"),
    ("train_mnist.py", ["--dataset", "greys", "--num-classes", "3"], "greys has no labels"),
    ("train_mnist.py", ["--dataset", "greys", "--guidance", "3"], "guidance is 3.0, which needs a model with classes"),
    ("train_mnist.py", ["--num-classes", "7"], "num_classes is 7; the classes are 0, 1,"),
    ("train_mnist.py", ["--num-classes", "many"], "--num-classes"),
    ("train_mnist.py", ["--from", "file.txt"], "file.txt"),
    ("train_mnist.py", ["--from", "mnits"], "mnits does not exist"),
    ("train_mnist.py", ["--from", CHECKPOINT, "--resume"], "--from and --resume exclude each other"),
    ("train_mnist.py", ["--from", CHECKPOINT, "--base-channels", "12"], "does not fit the model"),
    ("train_cifar10.py", ["--from", CHECKPOINT, "--preset", "cifar10-small"], "--preset and --from exclude each other"),
    ("benchmark.py", ["--tasks", "quality", "--steps", "3", "--minutes", "1"], "exclude each other"),
    ("train_mnist.py", ["--dataset", "lonely"], "in the sub-folder dark: labels need two classes or more"),
    ("sample.py", [CHECKPOINT, "--sampler", "ddim", "--eta", "-2"], "eta is -2"),
    ("sample.py", ["truncated.safetensors"], "damaged"),
    ("train_mnist.py", ["--loss", "vlb"], "loss is 'vlb'"),
    ("train_mnist.py", ["--variance", "learned"], "--loss hybrid or L"),
    ("train_mnist.py", ["--resume", "--T", "500"], "T would change it"),
    ("train_mnist.py", ["--resume", "--prediction", "mu"], "prediction would"),
    ("train_cifar10.py", ["--preset", "imagenet"], "imagenet"),
    ("train_cifar10.py", ["--data-dir", "."], "cifar-10-binary.tar.gz"),
    ("train_cifar10.py", ["--preset", "lsun-256"], "a folder of images"),
    ("train_cifar10.py", ["--dataset", "digits"], "made for (32, 32, 3)"),
    ("evaluate.py", [CHECKPOINT, "nll"], "--dataset mnist"),
    ("evaluate.py", [CHECKPOINT, "nll", "--split", "train", "--times", "50"], "times is 50"),
    ("evaluate.py", [CHECKPOINT, "nll", "--dataset", "cifar10", "--data-dir", "."], "cifar-10-binary.tar.gz"),
    ("evaluate.py", [CHECKPOINT, "nll", "--sampler", "ddim"], "--sampler does not belong to nll"),
    ("evaluate.py", [CHECKPOINT, "fid", "--times", "3"], "--times does not belong to fid"),
    ("evaluate.py", [CHECKPOINT, "is", "--count", "5"], "too few"),
    ("evaluate.py", [CHECKPOINT, "nll", "--dataset", "runs", "--split", "train"], "no splits"),
    ("train_mnist.py", ["--ops", "file.txt"], ".py file"),
    ("evaluate.py", [CHECKPOINT, "is", "--samples", "many.npz"], "one array"),
    ("evaluate.py", [CHECKPOINT, "nll", "--split", "train", "--count", "1"], "at least two"),
    ("evaluate.py", [CHECKPOINT, "nll", "--split", "train", "--count", "9999"], "has 5000"),
    ("evaluate.py", [CHECKPOINT, "speed"], "speed"),
    ("evaluate.py", [CHECKPOINT, "fid", "--out", "no/such.json"], "no/such.json"),
    ("evaluate.py", [CHECKPOINT, "is", "--samples", "file.txt"], "file.txt"),
    ("evaluate.py", [CHECKPOINT, "is", "--samples", "bad.npy"], "(3, 5, 5, 1)"),
    ("evaluate.py", [CHECKPOINT, "is", "--inception", "file.txt"], "file.txt"),
    ("figures.py", [CHECKPOINT, "4"], "4"), ("figures.py", [CHECKPOINT, "shared", "--out", "x.gif"], ".png"),
    ("figures.py", [CHECKPOINT, "interpolation", "--dataset", "nothing"], "nothing"),
    ("train_mnist.py", ["--lr", "inf"], "lr is inf"), ("train_mnist.py", ["--adam-eps", "inf"], "adam_eps is inf"),
    ("train_mnist.py", ["--minutes", "inf"], "minutes is inf"),
    ("train_mnist.py", ["--T", "1" + "0" * 12], "T is 1000"),
    ("train_mnist.py", ["--attention-resolutions", "5"], "attention_resolutions is (5,)"),
    ("train_mnist.py", ["--attention-resolutions", "-1"], "attention_resolutions is (-1,)"),
    ("train_mnist.py", ["--blocks-per-level", "1" + "0" * 30], "blocks_per_level is 1000"),
    ("train_mnist.py", ["--dataset", ""], "--dataset is empty"),
    ("train_mnist.py", ["--out", ""], "--out is empty"),
    ("train_mnist.py", ["--ops", "exits.py"], "SystemExit"), ("train_mnist.py", ["--ops", ""], "--ops is empty"),
    ("train_mnist.py", ["--world-size", "2", "--port", "99999999"], "--port 99999999"),
    ("train_mnist.py", ["--timeout", "0"], "--timeout: 0: expected at least 1"),
    ("train_mnist.py", ["--dataset", "pictures", "--out", "pictures/run", "--image-size", "8"], "within pictures"),
    ("train_mnist.py", ["--dataset", "pipes", "--image-size", "8"], "a.png"),
    ("benchmark.py", ["--seconds", "nan"], "--seconds: nan: expected"), ("benchmark.py", ["--rounds", "0"], "--rounds"),
    ("sample.py", [CHECKPOINT, "--ops", "nan.py", "--count", "2"], "not finite at t = 20"),
    ("evaluate.py", [CHECKPOINT, "nll", "--ops", "nan.py", "--split", "train", "--count", "2"], "not finite at t = 1"),
    ("sample.py", ["nan.safetensors"], "holds NaN"), ("sample.py", ["pipes/a.png"], "it is not a file"),
    ("sample.py", [CHECKPOINT, "--label", "9" * 30], "expected 0 to 9"),
    ("sample.py", [CHECKPOINT, "--label", "-1"], "--label -1: expected 0 to 9"),
    ("evaluate.py", [CHECKPOINT, "nll", "--count", "-1"], "--count: -1: expected at least 1"),
    ("evaluate.py", [CHECKPOINT, "fid", "--count", "0"], "--count: 0: expected at least 1"),
    ("evaluate.py", [CHECKPOINT, "nll", "--out", CHECKPOINT], "ending in .json"),
    ("evaluate.py", ["input.json", "nll", "--out", "./input.json"], "an input (checkpoint)"),
    ("evaluate.py", [CHECKPOINT, "nll", "--out", ""], "--out is empty"),
    ("evaluate.py", [CHECKPOINT, "nll", "--dataset", ""], "--dataset is empty"),
    ("figures.py", [CHECKPOINT, "samples", "--dataset", "pictures", "--out", "pictures/a.png"], "an input (dataset)"),
    ("train_classifier.py", ["--out", "x.png"], "ending in .safetensors"),
]


@pytest.fixture(scope="module")
def wrong_files(trained):
    """The folder of the trained run, with more files, most of them wrong."""
    folder, _ = trained
    (folder / "file.txt").write_text("no checkpoint at all, but long enough to look like one")
    (folder / "broken.py").write_text("def silu(x:\n")
    np.savez(folder / "many.npz", np.zeros(3))
    np.save(folder / "bad.npy", np.zeros((3, 5, 5, 1), np.uint8))
    (folder / "exits.py").write_text("import sys; sys.exit(0)")
    (folder / "nan.py").write_text("def silu(x):\n    return x * float('nan'), x\n"
                                   "def silu_backward(dy, cache):\n    return dy\n")
    whole = (folder / CHECKPOINT).read_bytes()
    (folder / "truncated.safetensors").write_bytes(whole[:-1000])
    (folder / "input.json").write_bytes(whole)
    tensors, texts = safetensors.read(folder / CHECKPOINT)
    safetensors.write(folder / "nan.safetensors", tensors | {"ema/conv_in.bias": np.full(8, np.nan, np.float32)}, texts)
    save_checkpoint(folder / "plain.safetensors", Trainer(presets.get("mnist").override(num_classes=None, T=5)))
    (folder / "lonely" / "dark").mkdir(parents=True)
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(folder / "lonely" / "dark" / "a.png")
    for name in ("pictures", "pipes"):
        (folder / name).mkdir(exist_ok=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "pictures" / "a.png")
    os.mkfifo(folder / "pipes" / "a.png")
    return folder


@pytest.mark.parametrize("program, flags, expected", WRONG,
                         ids=[f"{p.split('.')[0]} {' '.join(f)}" for p, f, _ in WRONG])
def test_what_is_wrong_is_one_line_and_status_2(wrong_files, program, flags, expected, monkeypatch, capsys):
    """In this process, which saves starting one for each."""
    folder = wrong_files
    before = {p: p.stat().st_mtime_ns for p in (folder / "runs" / "digits").iterdir()}
    extra = ["--backend", "numpy"] if "--backend" not in flags and program != "benchmark.py" else []
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(ROOT / "examples")      # as for a script that is run
    monkeypatch.setattr(sys, "argv", [program, *flags, *extra])
    if "--resume" in flags:
        gc.collect()                                    # a run that failed in this process has its folder locked
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "examples" / program), run_name="__main__")
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.strip() and not line.startswith("step")]
    assert stopped.value.code == 2 and len(lines) == 1 and expected in lines[0], error
    assert {p: p.stat().st_mtime_ns for p in (folder / "runs" / "digits").iterdir()} == before


STREAMS = [">&- 2>&-", "2>&1 | head -1"] + ["> /dev/full 2> /dev/full"] * os.path.exists("/dev/full")


def test_a_run_needs_no_reader(tmp_path):
    """Closed or full streams, or a reader that leaves: the run ends as it would have, with all its files."""
    flags = " ".join(map(str, [*SMALL, "--steps", 3, "--T", 3]))
    program = f"{sys.executable} {ROOT / 'examples' / 'train_mnist.py'} {flags}"
    shells = [subprocess.Popen(["bash", "-c", f"set -o pipefail; {program} --out run{i} {streams}"], cwd=tmp_path,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
              for i, streams in enumerate(STREAMS)]
    for i, (streams, shell) in enumerate(zip(STREAMS, shells)):
        _, error = shell.communicate(timeout=120)
        assert shell.returncode == 0 and "Traceback" not in error and "Exception" not in error, (streams, error)
        assert (tmp_path / f"run{i}" / "samples.png").exists() and (tmp_path / f"run{i}" / "loss.png").exists()


def test_one_folder_belongs_to_one_run(tmp_path):
    """Two new runs, then two that resume, in one folder: one trains until SIGHUP, the other says so in one line."""
    for flags in ([*SMALL, "--steps", 100_000, "--sample-every", 0], ["--resume", "--backend", "numpy"]):
        command = [sys.executable, ROOT / "examples" / "train_mnist.py", *map(str, flags), "--out", "run"]
        pair = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                for _ in range(2)]
        deadline = time.time() + 60
        while all(process.poll() is None for process in pair) and time.time() < deadline:
            time.sleep(0.02)
        refused, trains = sorted(pair, key=lambda process: process.poll() is None)
        error = refused.communicate()[1]
        assert refused.returncode == 2 and "another process is training in run" in error.splitlines()[-1], error
        assert "files go to run" in trains.stdout.readline()
        trains.send_signal(signal.SIGHUP)
        trains.communicate(timeout=60)
        assert trains.returncode in (130, -signal.SIGHUP)       # before the first step, it has nothing to save
        steps = int(safetensors.read(tmp_path / "run" / "checkpoint.safetensors")[1]["steps_done"])
        assert steps < 100_000


def test_a_full_disk_is_one_line_and_leaves_the_old_checkpoint(tmp_path):
    """A file-size limit stands in for a full disk: the first checkpoint fits, the pictures or a later file do not."""
    code = ("import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); sys.argv = sys.argv[1:]; "
            "runpy.run_path(sys.argv[0], run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", code, str(ROOT / "examples" / "train_mnist.py"), *SMALL, "--out",
                           "run"],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "File too large" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "run").glob("*.part"))


@pytest.mark.parametrize("backend, signals", [("numpy", ["SIGINT", "SIGKILL"]), ("numba", ["SIGKILL"])])
def test_stopped_runs_end_with_the_bits_of_an_unbroken_one(tmp_path, backend, signals):
    flags = [*SMALL[:-1], backend, "--steps", 15, "--save-every", 1, "--sample-every", 0, "--batch-size", 4, "--T", 4]

    def start(folder):
        command = [sys.executable, ROOT / "examples" / "train_mnist.py", *map(str, flags), "--out", folder]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    whole = start(tmp_path / "whole")
    for sent in signals:
        folder = tmp_path / sent
        process = start(folder)
        metrics, deadline = folder / "metrics.csv", time.time() + 120
        while time.time() < deadline and not (metrics.exists() and len(metrics.read_text().splitlines()) > 4):
            time.sleep(0.01)
        process.send_signal(signal.Signals[sent])
        output, _ = process.communicate(timeout=60)
        assert process.returncode == {"SIGINT": 130, "SIGKILL": -9}[sent], output
        resumed = run("train_mnist.py", "--resume", "--out", folder, "--backend", backend, cwd=tmp_path)
        assert resumed.returncode == 0, resumed.stderr
    output, _ = whole.communicate(timeout=60)
    assert whole.returncode == 0, output
    expected, _ = safetensors.read(tmp_path / "whole" / "checkpoint.safetensors")
    for sent in signals:
        found, _ = safetensors.read(tmp_path / sent / "checkpoint.safetensors")
        assert found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in found)
        assert (tmp_path / sent / "samples.png").read_bytes() == (tmp_path / "whole" / "samples.png").read_bytes()


def test_a_learners_operations_run_the_real_training(tmp_path):
    (tmp_path / "homework.py").write_text(
        "import numpy as np\n"
        "def silu(x):\n    s = 1 / (1 + np.exp(-x))\n    return x * s, (x, s)\n"
        "def silu_backward(dy, cache):\n    x, s = cache\n    return dy * (s + x * s * (1 - s))\n")
    done = run("train_mnist.py", *SMALL, "--ops", "homework.py", "--steps", 5, "--T", 3, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0 and "with silu, silu_backward of homework.py" in done.stdout, done.stderr
    losses = np.loadtxt(tmp_path / "run" / "metrics.csv", delimiter=",", skiprows=1)[:, 1]
    trainer = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    trainer, digits = Trainer(trainer.preset), data.load("digits", trainer.preset.model)        # with our own
    np.testing.assert_allclose([trainer.step(*digits.batch(k, 16, 0)) for k in range(5)], losses, rtol=1e-4)


def test_minutes_and_folders_of_images(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(20):
        picture = np.random.default_rng(i).integers(0, 256, (30, 20, 3)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{i}.png")
    done = run("train_mnist.py", *SMALL, "--dataset", "pictures", "--image-channels", 3, "--image-size", 16,
               "--minutes", "0.02", "--T", 5,
               cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "runs" / "pictures" / "samples.png") as picture:
        assert picture.mode == "RGB"
