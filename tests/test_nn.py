"""Layers and networks: gradients, parameter counts, and how modules behave."""

import numpy as np
import pytest

from tinyddpm import presets
from tinyddpm.gradcheck import check_network
from tinyddpm.nn import MLP, Module, UNet, UNetConfig, layers
from tinyddpm.nn.unet import Downsample, Upsample

RNG = np.random.default_rng(0)


def small(**changes):
    fields = dict(image_size=8, image_channels=1, base_channels=8, channel_multipliers=(1, 2), blocks_per_level=1,
                  attention_resolutions=(4,), heads=2, groups=4, dropout=0.0)
    return UNetConfig(**fields | changes)


def randomized(model):
    """The same model with every parameter random: no near-zero layer hides a wrong gradient."""
    model.flat_values[...] = np.random.default_rng(1).standard_normal(model.flat_values.size) * 0.3
    return model


class Wrapped(Module):
    """A layer with flat buffers, so that check_network can be used; extra inputs are passed on."""

    def __init__(self, layer):
        self.layer = layer
        self.flatten(np.float64)

    def forward(self, x, *inputs):
        return self.layer.forward(x, *inputs)

    def backward(self, dy):
        dx = self.layer.backward(dy)
        return dx[0] if isinstance(dx, tuple) else dx


class Single(Module):
    """A part of the U-Net's path by itself: its skip connection receives no gradient."""

    def __init__(self, part):
        self.part = part

    def forward(self, x):
        return self.part.forward(x, [], None, None)

    def backward(self, dy):
        return self.part.backward(dy, [np.zeros_like(dy)], [])


LAYERS = {
    "Linear": (lambda: layers.Linear(RNG, 6, 4), (3, 2, 6)),
    "Conv2d": (lambda: layers.Conv2d(RNG, 6, 4), (2, 5, 4, 6)),
    "Conv2d 5x5 stride 2": (lambda: layers.Conv2d(RNG, 6, 4, kernel=5, stride=2), (1, 5, 8, 6)),
    "GroupNorm": (lambda: layers.GroupNorm(6, 3), (2, 3, 5, 6)),
    "GroupNormSiLU": (lambda: layers.GroupNormSiLU(6, 1), (1, 3, 5, 6)),
    "SiLU": (lambda: layers.Operation("silu"), (2, 3)),
    "Patchify": (lambda: layers.Operation("patchify", 2), (2, 4, 6, 3)),
    "Attention": (lambda: layers.Attention(RNG, 6, 2, 3), (2, 3, 5, 6)),
    "ResBlock": (lambda: layers.ResBlock(RNG, 6, 6, 5, 0.0, 3), (2, 5, 3, 6)),
    "ResBlock with shortcut": (lambda: layers.ResBlock(RNG, 6, 4, 5, 0.0, 2), (1, 2, 3, 6)),
    "Downsample": (lambda: Single(Downsample(RNG, 3)), (2, 6, 4, 3)),
    "Upsample": (lambda: Single(Upsample(RNG, 3)), (2, 3, 5, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_gradients(name):
    make, shape = LAYERS[name]
    layer = make()
    if not layer.parameters():
        layer.unused = layers.Parameter(np.zeros(1))
    model = randomized(Wrapped(layer))
    x = np.random.default_rng(2).standard_normal(shape)
    inputs = (np.random.default_rng(3).standard_normal((shape[0], 5)),) if "ResBlock" in name else ()
    assert check_network(model, x, *inputs, tolerance=1e-7) < 1e-7

    class Wrong(Wrapped):
        def backward(self, dy):
            return super().backward(dy) * 0
    with pytest.raises(AssertionError, match="the input x"):
        wrong = Wrong(make()) if layer.parameters() and not hasattr(layer, "unused") else Wrong(layer)
        check_network(randomized(wrong), x, *inputs, tolerance=1e-7)


def test_resblock_time_gradient():
    block = layers.ResBlock(RNG, 6, 4, 5, 0.0, 2)
    x, temb = RNG.standard_normal((2, 3, 3, 6)), RNG.standard_normal((2, 5))

    class ByTime(Wrapped):
        def forward(self, temb):
            return block.forward(x, temb)

        def backward(self, dy):
            return block.backward(dy)[1]

    assert check_network(randomized(ByTime(block)), temb) < 1e-6


@pytest.mark.parametrize("config, labels", [
    (small(), None),
    (small(image_channels=3, channel_multipliers=(1, 1, 2), attention_resolutions=(), blocks_per_level=2), None),
    (small(num_classes=3), [0, 3]),
    (small(num_classes=3), None),
    (small(patch_size=2, learned_variance=True, attention_resolutions=(4, 2)), None),
    (small(channel_multipliers=(1,), image_size=5), None),
])
def test_unet_gradients(config, labels):
    model = randomized(UNet(config, dtype=np.float64))
    x = np.random.default_rng(2).standard_normal((2, config.image_size, config.image_size, config.image_channels))
    labels = None if labels is None else np.array(labels)
    assert check_network(model, x, np.array([1, 777]), labels) < 1e-6


def test_unet_gradients_with_dropout():
    """The generator of the masks is an argument, so that the same ones can be drawn again."""
    class Fixed(UNet):
        def forward(self, x, t):
            return super().forward(x, t, rng=np.random.default_rng(5))

    model = randomized(Fixed(small(dropout=0.4), dtype=np.float64))
    x = np.random.default_rng(2).standard_normal((2, 8, 8, 1))
    assert check_network(model, x, np.array([1, 777])) < 1e-6
    y = model.forward(x, np.array([1, 777]))
    assert not np.allclose(y, model.eval().forward(x, np.array([1, 777])))


def test_a_unet_that_loses_one_skip_gradient_is_found(monkeypatch):
    from tinyddpm import ops

    def lossy(dy, channels):
        return dy[..., :channels], 0 * dy[..., channels:]

    model = randomized(UNet(small(), dtype=np.float64))
    monkeypatch.setattr(ops, "concatenate_backward", lossy)
    with pytest.raises(AssertionError):
        check_network(model, np.random.default_rng(2).standard_normal((2, 8, 8, 1)), np.array([1, 777]))


@pytest.mark.parametrize("depth", [1, 3])
def test_mlp_gradients(depth):
    model = randomized(MLP((3, 2), hidden=7, dtype=np.float64, depth=depth))
    assert check_network(model, RNG.standard_normal((4, 3, 2)), np.array([1, 2, 500, 1000])) < 1e-6


def test_the_papers_model_has_its_parameters():
    """35,746,307 in 328 arrays, stage by stage as counted from the authors' code."""
    model = UNet(presets.get("cifar10").model)
    parameters = model.parameters()
    assert (model.flat_values.size, len(parameters)) == (35_746_307, 328)
    stages = {"time": 328_704, "conv_in": 3_584, "down.0": 870_272, "down.1": 3_480_320, "down.2": 3_215_104,
              "down.3": 2_625_024, "middle": 2_888_704, "up.3": 6_692_608, "up.2": 6_692_608, "up.1": 7_155_712,
              "up.0": 1_789_952, "norm_out": 256, "conv_out": 3_459}
    counted = {stage: sum(p.value.size for name, p in parameters.items() if name.startswith(stage)) for stage in stages}
    assert counted == stages
    assert sum(stages.values()) == 35_746_307


def test_initial_weights():
    """Uniform, variance scale / mean fan; zero biases; near-zero ends of the branches, so the output starts near 0."""
    model = UNet(UNetConfig(base_channels=64, groups=32, image_size=8, attention_resolutions=(8,)))
    p = model.parameters()
    w = p["down.1.1.res.conv1.weight"].value                       # 128 -> 128, 3x3
    assert np.std(w) == pytest.approx((1 / (9 * 128)) ** 0.5, rel=0.02)
    assert np.abs(w).max() <= (3 / (9 * 128)) ** 0.5
    assert not any(np.any(q.value) for name, q in p.items() if name.endswith(("bias", "beta")))
    y = model.eval().forward(np.ones((1, 8, 8, 3), np.float32), np.array([5]))
    assert np.abs(y).max() < 1e-3


def test_flat_buffers_are_views():
    model = UNet(small())
    total = sum(p.value.size for p in model.parameters().values())
    assert model.flat_values.shape == model.flat_grads.shape == (total,)
    model.flat_values[...] = 7
    model.flat_grads[...] = 8
    assert all(np.all(p.value == 7) and np.all(p.grad == 8) for p in model.parameters().values())


def test_gradients_accumulate():
    model = randomized(UNet(small(), dtype=np.float64))
    x, t = RNG.standard_normal((2, 8, 8, 1)), np.array([3, 4])
    dy = RNG.standard_normal(x.shape)
    model.forward(x, t)
    model.backward(dy)
    once = model.flat_grads.copy()
    model.forward(x, t)
    model.backward(dy)
    np.testing.assert_allclose(model.flat_grads, 2 * once, rtol=1e-12)


def test_backward_needs_a_forward():
    model = UNet(small())
    x, t = np.zeros((1, 8, 8, 1), np.float32), np.array([1])
    with pytest.raises(RuntimeError, match="without a forward"):
        model.backward(x)
    model.forward(x, t)
    model.backward(x)
    with pytest.raises(RuntimeError, match="without a forward"):
        model.backward(x)
    model.eval().forward(x, t)
    with pytest.raises(RuntimeError, match="without a forward"):
        model.backward(x)


def test_evaluation_mode_remembers_nothing():
    model = UNet(small(dropout=0.5))
    model.train().forward(np.zeros((1, 8, 8, 1), np.float32), np.array([1]))
    model.eval().forward(np.zeros((1, 8, 8, 1), np.float32), np.array([1]))

    def memories(module):
        return [module._memory, *(m for _, child in module.children() for m in memories(child))]
    assert all(m is None for m in memories(model))


def test_dropout_keeps_the_mean():
    layer = layers.Dropout(0.3)
    y = layer.forward(np.ones((100, 1000)), np.random.default_rng(0))
    assert set(np.unique(y)) == {0, 1 / 0.7}
    assert y.mean() == pytest.approx(1, abs=0.01)
    np.testing.assert_array_equal(layer.backward(np.ones_like(y)), y)


def test_time_and_label_matter_and_no_label_is_a_class_of_its_own():
    model = randomized(UNet(small(num_classes=3), dtype=np.float64)).eval()
    x, one = RNG.standard_normal((1, 8, 8, 1)), np.array([1])
    plain = model.forward(x, one)
    np.testing.assert_array_equal(plain, model.forward(x, one, np.array([3])))
    assert not np.allclose(plain, model.forward(x, one, np.array([2])))
    assert not np.allclose(plain, model.forward(x, np.array([2])))


@pytest.mark.parametrize("field, value", [
    ("image_size", 10), ("base_channels", 6), ("groups", 3), ("heads", 3), ("dropout", 1.0),
    ("channel_multipliers", ()),
    ("blocks_per_level", 0), ("num_classes", 0), ("patch_size", 8)])
def test_impossible_configurations_are_refused(field, value):
    with pytest.raises(ValueError, match="UNetConfig"):
        small(**{"channel_multipliers": (1, 2, 2)} | {field: value})


@pytest.mark.parametrize("x, t, labels", [
    ((2, 8, 8, 3), [1, 2], None), ((2, 8, 4, 1), [1, 2], None), ((2, 8, 8, 1), [1], None), ((2, 8, 8, 1), [0, 1], None),
    ((2, 8, 8, 1), [0.5, 2], None), ((2, 8, 8, 1), [np.nan, 2], None), ((2, 8, 8, 1), [1, 2], [0, 0])])
def test_inputs_that_do_not_fit_are_refused(x, t, labels):
    with pytest.raises(ValueError, match="UNet: "):
        UNet(small()).forward(np.zeros(x, np.float32), np.array(t), None if labels is None else np.array(labels))


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match="labels"):
        UNet(small(num_classes=3)).forward(np.zeros((1, 8, 8, 1), np.float32), np.array([1]), np.array([4]))
