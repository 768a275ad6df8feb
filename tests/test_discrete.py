"""Discrete diffusion: against enumeration of tiny languages, gradients, sampling, the transformer, texts, programs."""

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from tinyddpm import data, gradcheck, interop, nn, presets
from tinyddpm.data import text
from tinyddpm.diffusion import discrete
from tinyddpm.diffusion.discrete import KINDS, LOSSES, Discrete, DiscreteConfig, one_hot
from tinyddpm.nn import Transformer, TransformerConfig
from tinyddpm.presets import Preset, TrainingConfig
from tinyddpm.sampling import unmask
from tinyddpm.training import Trainer, load_checkpoint, load_model, save_checkpoint
from tinyddpm.training.checkpoint import PRETRAINED
from tinyddpm.training.discrete import DiscreteTrainer, values

RNG = np.random.default_rng(0)
K, L = 3, 2
WORDS = np.array(list(itertools.product(range(K), repeat=L)))
SHARES = RNG.dirichlet(np.full(len(WORDS), 0.4))            # a language of nine words of two letters


def matrix(d, t, previous=0):
    """q(x_t | x_previous) of one position as a matrix (states, states), a product of single steps."""
    product = np.eye(d.states)
    for one in range(previous + 1, t + 1):
        kept = (d.T - one) / (d.T - one + 1)
        product = product @ (kept * np.eye(d.states) + (1 - kept) * np.ones((d.states, 1)) * d.noise)
    return product


class Exact:
    """The x_0 at each position given the whole x_t, of the language."""

    def __init__(self, d):
        self.d = d

    def __call__(self, xt, t):
        found = np.empty((*xt.shape, K))
        for n, (x, time) in enumerate(zip(xt, t)):
            likelihood = SHARES * np.prod([matrix(self.d, int(time))[WORDS[:, i], x[i]] for i in range(L)], axis=0)
            joint = likelihood / max(likelihood.sum(), 1e-300)
            found[n] = [[joint[WORDS[:, i] == k].sum() for k in range(K)] for i in range(L)]
        return found


def along(d):
    """All x_t of two positions."""
    return np.array(list(itertools.product(range(d.states), repeat=L)))


@pytest.mark.parametrize("kind", KINDS)
def test_posteriors_are_bayes_rule(kind):
    d = Discrete(K, kind, 6)
    for t, previous in ((6, 5), (4, 1), (3, 0), (1, 0)):
        for x0, xt in itertools.product(range(K), range(d.states)):
            joint = matrix(d, previous)[x0] * matrix(d, t, previous)[:, xt]
            if joint.sum():
                found, _ = d.posterior(one_hot(np.array([[x0]]), K, np.float64), np.array([[xt]]), t, previous)
                np.testing.assert_allclose(found[0, 0], joint / joint.sum(), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_q_sample_has_its_distribution(kind):
    d, x0 = Discrete(K, kind, 10), np.full((40000, 1), 1)
    for t in (1, 6, 10):
        xt = d.q_sample(x0, np.full(40000, t), RNG.random((40000, 1)))
        np.testing.assert_allclose(np.bincount(xt.ravel(), minlength=d.states) / 40000, matrix(d, t)[1], atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_is_that_of_the_whole_chain(kind):
    """-E_q log2 p(x_0..x_T) / q(x_1..x_T | x_0), over all chains of all words, and never less than the entropy."""
    d = Discrete(K, kind, 3)
    p, states = Exact(d), along(d)
    steps, forward = [], []                                 # p(x_{t-1} | x_t), q(x_t | x_{t-1}), over pairs of states
    for t in range(1, d.T + 1):
        each, _ = d.posterior(p(states, np.full(len(states), t)), states, t, t - 1)
        steps.append(np.array([[np.prod([each[i, pos, before[pos]] for pos in range(L)]) for before in states]
                               for i in range(len(states))]))
        one = matrix(d, t, t - 1)
        forward.append(np.array([[np.prod(one[before, after]) for after in states] for before in states]))
    last = np.prod(d.noise[states], axis=1)                 # p(x_T)
    expected = 0.0
    for word, share in zip(WORDS, SHARES):
        (begin,) = np.flatnonzero((states == word).all(axis=1))
        for chain in itertools.product(range(len(states)), repeat=d.T):
            path = (begin, *chain)
            q = np.prod([forward[t][path[t], path[t + 1]] for t in range(d.T)])
            if q:
                joint = last[path[-1]] * np.prod([steps[t][path[t + 1], path[t]] for t in range(d.T)])
                expected += share * q * np.log2(q / joint)
    found = enumerated_bound(d, p)
    assert found == pytest.approx(expected, rel=1e-9)
    assert found > entropy()


def enumerated_bound(d, p):
    """The bound in bits of a word, over all x_t."""
    total = 0.0
    for t, xt in itertools.product(range(1, d.T + 1), along(d)):
        for word, share in zip(WORDS, SHARES):
            q = np.prod(matrix(d, t)[word, xt])
            if q:
                now = np.array([xt])
                terms, _ = d.terms(word[None], now, np.array([t]), p(now, [t]))
                total += share * q * terms.sum()
    return total


def entropy():
    return -(SHARES * np.log2(SHARES)).sum()


def test_one_letter_at_a_time_is_autoregressive():
    """With many times no two masks fall at once, and the exact model's bound is the entropy."""
    gaps = [enumerated_bound(d, Exact(d)) - entropy() for d in (Discrete(K, "absorbing", T) for T in (4, 8, 16))]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.02) and gaps[1] / gaps[2] == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients(kind, loss):
    d, rng = Discrete(4, kind, 7), np.random.default_rng(5)
    x0, t = rng.integers(0, 4, (5, 3)), np.array([1, 2, 4, 6, 7])
    xt = d.q_sample(x0, t, rng.random((5, 3)))
    assert loss == "bound" or kind == "uniform" or (xt == 4).any() and (xt != 4).any()
    y = rng.standard_normal((5, 3, 4))
    gradcheck.check(lambda y: LOSSES[loss](d, x0, xt, t, y), lambda dy, cache: dy * cache, y)
    with pytest.raises(AssertionError):                             # without the sum in softmax's backward
        gradcheck.check(lambda y: LOSSES[loss](d, x0, xt, t, y), lambda dy, cache: dy * (cache - 0.01 * cache.max()), y)


def test_the_gradient_reaches_the_network():
    """As the difference of two losses says, times the loss scale."""
    d, rng = Discrete(3, "absorbing", 9), np.random.default_rng(1)
    model = Transformer(TransformerConfig(5, 4, 8, 1, 2, 2), seed=1, dtype=np.float64)
    model.flat_values[...] = 0.5 * rng.standard_normal(model.flat_values.size)
    x0, t, u = rng.integers(0, 3, (4, 5)), np.array([2, 4, 6, 9]), rng.random((4, 5))
    loss = lambda: discrete.loss_and_gradient(model, d, x0, t, u, loss_scale=8.0)
    loss()
    gradient, direction = model.flat_grads.copy(), rng.standard_normal(model.flat_values.size)
    kept, found = model.flat_values.copy(), []
    for h in (1e-5, -1e-5):
        model.flat_values[...] = kept + h * direction
        found.append(loss())
    assert gradient @ direction == pytest.approx(8 * (found[0] - found[1]) / 2e-5, rel=1e-5)


def test_cross_entropy_is_that_of_the_masked():
    """Weighted by 1 / t and summed over t, it is the bound of the absorbing process."""
    d, rng = Discrete(4, "absorbing", 9), np.random.default_rng(6)
    x0, y = rng.integers(0, 4, (6, 5)), rng.standard_normal((6, 5, 4))
    xt = d.q_sample(x0, 5, rng.random((6, 5)))
    p = np.exp(y) / np.exp(y).sum(-1, keepdims=True)
    masked = -np.log2(np.take_along_axis(p, x0[..., None], -1)[..., 0])[xt == 4].sum() / 30
    assert discrete.cross_entropy(d, x0, xt, 5, y)[0] == pytest.approx(masked)
    terms, _ = d.terms(x0, xt, 5, p)
    assert terms.mean() == pytest.approx(masked / 5)
    assert discrete.bound(d, x0, xt, np.full(6, 5), y)[0] == pytest.approx(9 * masked / 5)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_and_bits_of_the_exact_model(kind):
    """With a step for each time, the words are as frequent as in the language; few steps mix them up."""
    d, N = Discrete(K, kind, 20), 4000
    table = {t: Exact(d)(along(d), np.full(len(along(d)), t)) for t in range(1, 21)}

    def p(xt, t):
        return np.stack([table[int(one)][np.ravel_multi_index(x, (d.states,) * L)] for x, one in zip(xt, t)])

    def shares(steps):
        rng = np.random.default_rng(1)
        times = [d.T * k // steps for k in range(steps, 0, -1)]
        *_, before, step = (None, *unmask.unmask(p, d, unmask.start(d, (N, L), rng), rng, times))
        if before:
            np.testing.assert_array_equal(step.x0, p(before.x, np.full(N, step.t)).argmax(axis=2))
        return np.bincount(step.x[:, 0] * K + step.x[:, 1], minlength=K * K) / N

    assert abs(shares(20) - SHARES).sum() < 0.1 < abs(shares(1) - SHARES).sum()
    x0 = WORDS[np.random.default_rng(2).choice(len(WORDS), N, p=SHARES)]
    expected = enumerated_bound(d, p)
    found = discrete.bits(p, d, x0, np.random.default_rng(3), count=4)
    assert found.shape == (N,) and L * found.mean() == pytest.approx(expected, rel=0.05)
    rng = np.random.default_rng(4)                          # the same word, again and again: no t is left out
    one = np.mean([discrete.bits(p, d, x0[:1], rng, 1)[0] for _ in range(2000)])
    assert one == pytest.approx(discrete.bits(p, d, x0[[0] * 2000], rng, 8).mean(), rel=0.15)


def test_the_process_must_exist():
    for wrong in ((1, "absorbing", 10), (2, "swapped", 10), (2, "uniform", 0), (300, "uniform", 10)):
        with pytest.raises(ValueError, match="expected 2 to 256 values"):
            Discrete(*wrong)
    for count, alphabet in ((2, "abc"), (3, ""), (3, "aba")):
        with pytest.raises(ValueError, match=f"there are {count} values; expected 2, or a different letter"):
            DiscreteConfig(count, alphabet=alphabet)
    for model, alphabet in ((TransformerConfig(6, 3, 16), "abc"), (TransformerConfig(6, 3, 16), ""),
                            (nn.UNetConfig(8, 3), "ab")):
        with pytest.raises(ValueError, match="the network is made for"):
            Preset("a", "b", model, DiscreteConfig(len(alphabet) or 2, alphabet=alphabet))
    with pytest.raises(ValueError, match="cross-entropy, bound"):
        DiscreteConfig(loss="L")


# ---- the transformer ----

SMALL = TransformerConfig(length=5, channels=3, width=8, layers=2, heads=2, groups=2, dropout=0.5)


def test_the_gradients_of_the_transformer():
    model = Transformer(SMALL, seed=1, dtype=np.float64)
    model.flat_values[...] = 0.5 * RNG.standard_normal(model.flat_values.size)
    x, t, kept = RNG.standard_normal((2, 5, 3)), np.array([3, 700]), model.flat_values.copy()

    def forward(x, values):
        model.flat_values[...] = values
        return model.forward(x, t, rng=np.random.default_rng(4)), None          # the same mask each time

    def backward(dy, _):
        model.flat_grads.fill(0)
        dx = model.backward(dy)
        return dx, model.flat_grads.copy()

    gradcheck.check(forward, backward, x, kept)
    assert abs(model.forward(x, t) - model.forward(x, t)).max() > 1e-3          # by dropout
    model.eval()
    y = model.forward(x, t)
    for i in range(5):                                      # every position sees every other
        changed = x.copy()
        changed[0, i] += 1
        assert (abs(model.forward(changed, t) - y)[0].max(axis=1) > 1e-6).all()
        assert (model.forward(changed, t)[1] == y[1]).all()
    assert abs(model.forward(x, t + 100) - y).max() > 1e-3


def test_letters_begin_with_variance_1():
    """As what is added to them, the positions and the time, about has."""
    model = nn.build(TransformerConfig(64, 30, 128)).eval()
    letters = model.first.forward(model.neighbours.forward(np.eye(30, dtype=np.float32)[RNG.integers(0, 30, (8, 64))]))
    assert letters[:, 3:-3].var() == pytest.approx(1, rel=0.1)


def test_the_transformer_refuses():
    model = nn.build(SMALL)
    for wrong in ((np.zeros((2, 4, 3)), np.ones(2)), (np.zeros((2, 5, 3)), np.ones(3))):
        with pytest.raises(ValueError, match=r"expected \(N, 5, 3\)"):
            model.forward(*wrong)
    with pytest.raises(ValueError, match="labels"):
        model.forward(np.zeros((2, 5, 3)), np.ones(2), labels=[0, 1])
    for t in ([1, 0], [1, np.nan], ["a", "b"]):
        with pytest.raises(ValueError, match="counted from 1"):
            model.forward(np.zeros((2, 5, 3)), np.array(t))
    for wrong in ({"width": 9}, {"layers": 0}, {"dropout": 1.0}, {"heads": 3}):
        with pytest.raises(ValueError, match="TransformerConfig: " + next(iter(wrong)).replace("heads", "width")):
            TransformerConfig(**{"width": 8, "heads": 2, "groups": 2} | wrong)
    assert SMALL.least_parameters < model.flat_values.size < 1.3 * SMALL.least_parameters + 500


# ---- data, training and programs ----

def test_black_and_white_as_often_as_it_is_bright():
    images = np.broadcast_to(np.array([0, 51, 255], np.uint8)[:, None, None, None], (3, 80, 80, 1))
    x0 = values(images, np.random.default_rng(0))
    assert x0.shape == (3, 80, 80) and list(x0.mean(axis=(1, 2))) == pytest.approx([0, 0.2, 1], abs=0.02)
    assert (values(np.array([[7, 0]], np.uint8), None) == [[7, 0]]).all()


def test_texts(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abca" * 25 + "\r\nß", encoding="utf-8", newline="")
    windows, alphabet = text.load(path, 4)
    assert alphabet == "\nabcß" and windows.shape == (92 - 3, 4) and len(windows) == 89
    assert windows[[0, 2]].tolist() == [[1, 2, 3, 1], [3, 1, 1, 2]] and windows[[0]].dtype == np.uint8
    test, _ = text.load(path, 4, "test", "\nabcß!")
    assert test[[-1 + len(test)]].tolist() == [[3, 1, 0, 4]] and len(test) == 10 - 3
    for content, match in ((b"\xff\xfe\xff", "UTF-8"), (b"aaa", "1 different letters"), (b"ab", "expected 4 or more"),
                           (b"\xef\xbb\xbfa", "1 different letters"), (b"", "0 different letters")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=match):
            text.load(path, 4)
    path.write_text("xyz" * 20)
    with pytest.raises(ValueError, match="letters that the model does not know: 'xyz'"):
        text.load(path, 4, alphabet="abc")


def preset(**how):
    process = DiscreteConfig(3, alphabet="abc", T=20, **how)
    return Preset("text", "none", TransformerConfig(6, process.make_schedule().states, 16, 1, 2, 2), process,
                  TrainingConfig(batch_size=32, lr=1e-2, lr_final=1e-2, warmup=1, ema_decay=0.9))


def test_a_model_learns_and_is_stored(tmp_path):
    """A language of "abcabc", "bcabca" and "cabcab": one letter tells all. The bits come near log2(3) / 6 a letter."""
    trainer, rng = DiscreteTrainer(preset()), np.random.default_rng(0)
    draw = lambda: ((np.arange(6) + rng.integers(0, 3, (32, 1))) % 3).astype(np.uint8)
    for _ in range(120):
        trainer.step(draw())
    save_checkpoint(tmp_path / "c.safetensors", trainer)
    again = load_checkpoint(tmp_path / "c.safetensors", DiscreteTrainer)
    batch = draw()
    assert again.step(batch) == trainer.step(batch)
    model, stored = load_model(tmp_path / "c.safetensors", DiscreteConfig)
    assert stored == trainer.preset
    d = stored.diffusion.make_schedule()
    found = discrete.bits(discrete.reverse_process(model, d), d, draw().astype(int), rng, 8).mean()
    assert np.log2(3) / 6 < found < 1.6 * np.log2(3) / 6
    drawn = unmask.generate(model, d, 70, (6,), steps=20)
    assert drawn.shape == (70, 6) and ((np.diff(drawn, axis=1) % 3) == 1).mean() > 0.9
    with pytest.raises(ValueError, match="values instead of numbers"):
        load_model(tmp_path / "c.safetensors")
    seen = []
    again = unmask.generate(model, d, 70, (6,), steps=99, watch=lambda step, *numbers: seen.append(numbers))
    assert seen[-1] == (40, 40) and len(seen) == 40             # two batches, T = 20 steps at most
    np.testing.assert_array_equal(again, unmask.generate(model, d, 70, (6,), steps=20))
    assert (unmask.generate(model, d, 70, (6,), seed=1, steps=20) != again).any()
    with pytest.raises(ValueError, match="evaluation mode"):
        discrete.reverse_process(model.train(), d)
    model.eval().flat_values[...] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        unmask.generate(model, d, 1, (6,))


def test_noise_is_no_value(tmp_path):
    save_checkpoint(tmp_path / "c.safetensors",
                    Trainer(presets.get("mnist").override(base_channels=8, groups=4, T=40)))
    with pytest.raises(ValueError, match="adds noise to numbers"):
        load_model(tmp_path / "c.safetensors", DiscreteConfig)
    interop.save_diffusers(nn.build(nn.UNetConfig(8, 3, 8, (1, 1), 1, (), groups=4)), tmp_path / "published")
    with pytest.raises(ValueError, match="adds noise to numbers"):
        load_model(tmp_path / "published", DiscreteConfig)


def test_the_weights_of_the_package():
    """They are the U-Net of the preset mnist, and need about as many bits as their card says."""
    model, preset = load_model("masks", DiscreteConfig)
    card = PRETRAINED["masks"].with_suffix(".md").read_text()
    assert all(word in card for word in ("steps", "hours", "bits a pixel", "licence", "seed"))
    d, rng = preset.diffusion.make_schedule(), np.random.default_rng(0)
    x0 = values(data.load("digits", presets.get("mnist").model).images[::100], rng)
    assert 0.13 < discrete.bits(discrete.reverse_process(model, d), d, x0, rng, 12).mean() < 0.17


def program(name):
    path = Path(__file__).parent.parent / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_programs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train, draw = program("train_masks"), program("unmask")
    monkeypatch.setattr(train, "LENGTH", 8)
    Path("book.txt").write_text("the cat sat on the mat. " * 40)
    given = ["--steps", "2", "--backend", "numpy"]
    with pytest.raises(ValueError, match="nothing to resume"):
        train.main(["--resume"])
    Path("short.txt").write_text("the cat sat")
    with pytest.raises(ValueError, match="3 samples; expected at least a batch of 64"):
        train.main([*given, "--dataset", "short.txt"])
    assert not Path("runs").exists()
    assert train.main([*given, "--dataset", "book.txt"]) == 0
    assert Path("runs/text/samples.txt").read_text().count("\n\n") >= 5
    assert draw.main(["runs/text/checkpoint.safetensors", "--count", "2", "--steps", "3", "--out", "a.txt"]) == 0
    assert draw.main(["runs/text/checkpoint.safetensors", "--bits", "--count", "10"]) == 0
    assert "bits for each letter" in capsys.readouterr().out
    monkeypatch.setattr(train, "of_images", lambda args: Preset(
        "masks", "digits", nn.UNetConfig(28, 3, 8, (1, 1), 1, (), 1, 0.0, 4, patch_size=2), DiscreteConfig(T=30),
        train.training(args)))
    assert train.main(given) == 0 and Path("runs/masks/samples.png").exists()
    with pytest.raises(ValueError, match="already holds a run"):
        train.main([*given, "--out", "runs/masks"])
    with pytest.raises(SystemExit):
        train.main([*given, "--resume", "--process", "uniform"])
    assert train.main([*given[2:], "--steps", "3", "--resume"]) == 0
    assert Path("runs/masks/metrics.csv").read_text().count("\n") == 4
    Path("book.txt").rename("moved.txt")
    assert train.main([*given[2:], "--steps", "3", "--dataset", "moved.txt", "--resume"]) == 0
    Path("moved.txt").write_text("the cat sat on the dog. " * 40)
    for changed, match in (("moved.txt", "letters that the model does not know"), ("none.txt", "none.txt")):
        with pytest.raises((ValueError, OSError), match=match):
            train.main([*given[2:], "--steps", "4", "--dataset", changed, "--out", "runs/text", "--resume"])
    checkpoint = "runs/masks/checkpoint.safetensors"
    for out in ("b.png", "b.gif"):
        assert draw.main([checkpoint, "--count", "4", "--steps", "500", "--out", out]) == 0 and Path(out).exists()
    frames = [np.array(frame.convert("L")).astype(int) for frame in ImageSequence.all_frames(Image.open("b.gif"))]
    masked = [(abs(frame - 128) < 20).mean() for frame in frames]
    assert masked[0] > 0.2 and masked[-1] == 0
    for wrong in (["--bits", "--out", "c.png"], ["--dataset", "mnist"]):
        with pytest.raises(SystemExit):
            draw.main([checkpoint, *wrong])
    assert draw.main([checkpoint, "--bits", "--count", "9", "--split", "train"]) == 0
    assert "bits for each pixel" in capsys.readouterr().out
