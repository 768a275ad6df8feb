"""The codec: stacks that give back what was pushed, costs that are those of the bound, files that are refused."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

from tinyddpm import codec, nn, presets, safetensors
from tinyddpm.diffusion import likelihood
from tinyddpm.diffusion.ans import LEAST, PRECISION, Stacks
from tinyddpm.diffusion.bits_back import PARTS, BitsBack, Bytes, Normal, shortened
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.training import Trainer, save_checkpoint

RNG = np.random.default_rng(0)
PRESET = presets.get("mnist").override(
    image_size=8, base_channels=8, groups=4, channel_multipliers=(1, 2), patch_size=1, attention_resolutions=(),
    blocks_per_level=1, num_classes=None, schedule="linear", prediction="eps", T=100, beta_1=1e-3, beta_T=0.2)
MODEL = nn.build(PRESET.model, 0)
MODEL.flat_values[...] = 0.05 * np.random.default_rng(1).standard_normal(MODEL.flat_values.shape)
IMAGES = np.clip(RNG.normal(60, 50, (40, 8, 8, 1)), 0, 255).astype(np.uint8)


def information(stacks):
    """Bits, to fractions of one, without those that were borrowed."""
    return 32 * (stacks.counts - stacks.borrowed).sum() + np.log2(stacks.heads.astype(float) / float(LEAST)).sum()


def symbols(n):
    """Ranges of random symbols, rare and frequent ones: start, frequency (n,)."""
    frequency = np.minimum(2 ** RNG.integers(1, PRECISION, n) + RNG.integers(0, 9, n), 2**PRECISION - 1)
    return RNG.integers(0, 2**PRECISION - frequency + 1), frequency


# ---- the stacks ----

def test_stacks_give_back_what_was_pushed_and_take_its_information():
    stacks, pushed = Stacks(5, RNG), [symbols(n) for n in [5] * 3000 + [2] * 500]
    heads = stacks.heads.copy()
    for start, frequency in pushed:
        stacks.push(start, frequency)
    expected = sum((PRECISION - np.log2(frequency)).sum() for _, frequency in pushed)
    assert information(stacks) == pytest.approx(expected, rel=1e-3) and (stacks.heads >= LEAST).all()
    assert (stacks.borrowed == 1).all()
    for start, frequency in reversed(pushed):
        position = stacks.peek(len(start))
        assert ((start <= position) & (position < start + frequency)).all()
        stacks.pop(start, frequency)
    assert (stacks.heads == heads).all() and not stacks.counts.any()


def test_what_was_popped_can_be_pushed_back():
    """From empty stacks: the borrowed words are what is left at the end."""
    stacks, popped = Stacks(3, np.random.default_rng(5)), []
    heads = stacks.heads.copy()
    for _ in range(400):
        _, frequency = symbols(3)
        start = stacks.peek(3) // frequency * frequency                 # the symbols are equal parts, the last cut off
        popped.append((start, np.minimum(frequency, 2**PRECISION - start)))
        stacks.pop(*popped[-1])
    for start, frequency in reversed(popped):
        stacks.push(start, frequency)
    assert (stacks.heads == heads).all() and (stacks.counts + 1 == stacks.borrowed).all() and stacks.borrowed.min() > 50


# ---- distributions ----

@pytest.mark.parametrize("drawn", [True, False])
def test_a_normal_on_a_grid(drawn):
    deviation, width = 0.3, 0.3 / 32
    grid = Normal(deviation, width, 3.0, drawn)
    frequency = np.diff(grid.ends)
    assert grid.ends[0] == 0 and grid.ends[-1] == 2**PRECISION and frequency.min() == (0 if drawn else 1)
    x = np.arange(-grid.reach, grid.reach + 1) * width
    density = np.exp(-(x / deviation)**2 / 2) / (deviation * math.sqrt(2 * math.pi))
    np.testing.assert_allclose(frequency / 2**PRECISION, density * width, atol=3e-6)
    steps, stacks = np.rint(RNG.normal(0, deviation / width, (4, 6))).astype(int), Stacks(4, RNG)
    heads = stacks.heads.copy()
    grid.push(stacks, steps)
    np.testing.assert_array_equal(grid.pop(stacks, 4, 6), steps)
    assert (stacks.heads == heads).all()
    with pytest.raises(ValueError, match="too far"):
        grid.push(stacks, np.full((1, 1), grid.reach + 1))


def test_bytes_have_the_probabilities_of_the_decoder():
    deviation, means = 0.03, np.array([[-40, 0, 128 * PARTS + 17, 255 * PARTS, 400 * PARTS]])
    coder, values = Bytes(deviation), np.arange(256)
    for mean in means[0]:
        ends = coder.ends(np.full(257, mean), np.arange(257))
        assert ends[0] == 0 and ends[-1] == 2**PRECISION and np.diff(ends).min() >= 1
        expected, _ = likelihood.decoder(values / 127.5 - 1, np.full(256, mean / PARTS / 127.5 - 1),
                                         np.full(256, 2 * math.log(deviation)))
        np.testing.assert_allclose(np.diff(ends) / 2**PRECISION, np.exp(expected), atol=2e-6)
    stacks, chosen = Stacks(1, RNG), np.array([[0, 3, 200, 255, 17]])
    heads = stacks.heads.copy()
    coder.push(stacks, means, chosen)
    np.testing.assert_array_equal(coder.pop(stacks, means), chosen)
    assert (stacks.heads == heads).all()


# ---- bits back ----

class Exact:
    """The reverse process of pixels from N(60, 50^2), as bytes; the network's answer is E[x_0 | x_t]."""

    s = PRESET.diffusion.make_schedule()

    def __call__(self, xt, t):
        a, mean, variance = self.s.alpha_bar[t[0]], 60 / 127.5 - 1, (50 / 127.5)**2
        gain = math.sqrt(a) * variance / (a * variance + 1 - a)
        return None, None, (mean + gain * (xt - math.sqrt(a) * mean)).astype(np.float32)


def test_the_bits_are_those_of_the_bound_and_the_images_come_back():
    p, s = shortened(Exact(), range(1, 101))
    bits_back, stacks = BitsBack(p, s, (8, 8, 1)), Stacks(20, RNG)
    heads = stacks.heads.copy()
    for start in (0, 20):
        bits_back.encode(IMAGES[start:start + 20], stacks)
    bound = likelihood.evaluate(p, s, IMAGES, s.T - 1).summary()["total"][0]
    assert information(stacks) / IMAGES.size == pytest.approx(bound, rel=0.03)         # 10.5 without mixing
    for start in (20, 0):
        np.testing.assert_array_equal(bits_back.decode(20, stacks), IMAGES[start:start + 20])
    assert (stacks.heads == heads).all() and (stacks.counts + 1 == stacks.borrowed).all()


def test_a_shorter_process():
    """All times are the process itself; of fewer, the Schedule has the alpha_bar of those."""
    p = reverse_process(MODEL.eval(), PRESET.diffusion)
    few, s = shortened(p, [2, 50, 100])
    np.testing.assert_allclose(s.alpha_bar, p.s.alpha_bar[[0, 2, 50, 100]])
    x = RNG.standard_normal((2, 8, 8, 1)).astype(np.float32)
    np.testing.assert_array_equal(few(x, np.full(2, 2))[2], p(x, np.full(2, 50))[2])
    whole, s = shortened(p, range(1, 101))
    small = reverse_process(MODEL, PRESET.override(variance="small").diffusion)
    for one, other in zip(whole(x, np.full(2, 40)), small(x, np.full(2, 40))):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


# ---- files ----

@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    path, seen = tmp_path_factory.mktemp("codec") / "few.ddpm", []
    borrowed = codec.compress(path, MODEL, PRESET, IMAGES[:7], 5, 3, lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)] and 0 < borrowed < 8 * path.stat().st_size
    return path


def test_a_file_gives_the_images_back(compressed):
    np.testing.assert_array_equal(codec.decompress(compressed, MODEL, PRESET), IMAGES[:7])


def test_a_damaged_file_is_refused(compressed, tmp_path):
    content, path, rng = compressed.read_bytes(), tmp_path / "bad.ddpm", np.random.default_rng(3)
    for _ in range(300):
        bad, place = bytearray(content), rng.integers(len(content))
        bad[place] ^= 1 << rng.integers(8)
        path.write_bytes(bad if rng.random() < 0.8 else content[:place])
        with pytest.raises(ValueError):
            codec.decompress(path, MODEL, PRESET)


def test_a_file_with_a_right_checksum_and_wrong_contents_is_refused(compressed, tmp_path):
    """Each is written anew: only what it says about itself, or the images' digest, can tell."""
    tensors, metadata = safetensors.read(compressed)
    path, settings = tmp_path / "bad.ddpm", metadata["settings"]
    changed = dict(tensors, words=tensors["words"] ^ (np.arange(len(tensors["words"])) == 5).astype(np.int32))
    short = dict(tensors, words=tensors["words"][1:])
    for its, says, match in ((changed, settings, "not the images"), (short, settings, "do not fit"),
                             (tensors, settings.replace('"T": 5', '"T": 101'), "do not fit"),
                             (tensors, settings.replace('"images": 7', '"images": 0'), "do not fit"),
                             (tensors, settings.replace('"images": 7', '"images": 7.5'), "do not fit"),
                             (tensors | {"counts": 2**62 * np.array([2, 1, 1])}, settings, "do not fit"),
                             (tensors | {"heads": tensors["heads"].astype(np.int32)}, settings, "do not fit"),
                             (tensors, settings.replace("numpy, NumPy", "cupy, NumPy"), "needs the backend"),
                             (tensors, settings[:-1], "damaged")):
        safetensors.write(path, its, {"kind": metadata["kind"], "settings": says})
        with pytest.raises(ValueError, match=match):
            codec.decompress(path, MODEL, PRESET)
    safetensors.write(path, tensors, {"kind": "else", "settings": settings})
    with pytest.raises(ValueError, match="something else"):
        codec.decompress(path, MODEL, PRESET)


def test_another_model_is_refused(compressed):
    other = nn.build(PRESET.model, 1)
    with pytest.raises(ValueError, match="needs the model"):
        codec.decompress(compressed, other, PRESET)


def test_the_program(tmp_path, monkeypatch, capsys):
    path = Path(__file__).parent.parent / "examples" / "compress.py"
    spec = importlib.util.spec_from_file_location("compress", path)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    monkeypatch.chdir(tmp_path)
    save_checkpoint("c.safetensors", Trainer(PRESET))
    np.save("in.npy", IMAGES[:3, :, :, 0])
    assert program.main(["c.safetensors", "encode", "in.npy", "o.ddpm", "--steps", "4", "--backend", "numpy"]) == 0
    shown = capsys.readouterr().out
    assert "3 images in o.ddpm" in shown and all(name in shown for name in ("PNG", "gzip", "bz2", "lzma", "borrowed"))
    assert program.main(["c.safetensors", "decode", "o.ddpm", "out.npy", "--backend", "numpy"]) == 0
    np.testing.assert_array_equal(np.load("out.npy"), IMAGES[:3])
    with pytest.raises(SystemExit):
        program.main(["c.safetensors", "decode", "o.ddpm", "out.png"])
