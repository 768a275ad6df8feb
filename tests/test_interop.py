"""The published layout: outputs equal those of diffusers, and what it cannot express is refused."""

import json
import re
import types

import numpy as np
import pytest
from golden.make_diffusers import CASES, FOLDER, draw, inputs, ours, scales, summary

import tinyddpm
from tinyddpm import interop, ops, safetensors
from tinyddpm.interop import load_diffusers, published_views, save_diffusers
from tinyddpm.nn import UNet, UNetConfig, layers

TOLERANCE = {"numpy": 5e-6, "numba": 5e-5}          # of outputs, absolute; they are on the order of 1
GRADIENTS = 1e-4                                    # relative

# config.json of google/ddpm-cifar10-32, which is older than some of the settings.
PUBLISHED = {
    "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256], "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"], "downsample_padding": 0,
    "flip_sin_to_cos": False, "freq_shift": 1, "in_channels": 3, "layers_per_block": 2, "mid_block_scale_factor": 1,
    "norm_eps": 1e-6, "norm_num_groups": 32, "out_channels": 3, "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]}


def small(**changes):
    fields = dict(image_size=8, image_channels=1, base_channels=8, channel_multipliers=(1, 2), blocks_per_level=1,
                  attention_resolutions=(4,), heads=2, groups=4, dropout=0.25)
    return UNetConfig(**fields | changes)


def randomized(config):
    model = UNet(config).eval()
    model.flat_values[...] = np.random.default_rng(1).standard_normal(model.flat_values.size) * 0.3
    return model


def output(model):
    c = model.config
    x = np.random.default_rng(2).standard_normal((2, c.image_size, c.image_size, c.image_channels)).astype(np.float32)
    return model.forward(x, np.array([1, 900]))


def write_foreign(path, tensors):
    """Write a file as other programs do: without our checksum."""
    header, start = {"__metadata__": {"format": "pt"}}, 0
    names = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16"}
    for key, a in tensors.items():
        header[key] = {"dtype": names[a.dtype], "shape": a.shape, "data_offsets": [start, start + a.nbytes]}
        start += a.nbytes
    encoded = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.writelines(a.tobytes() for a in tensors.values())


def published(name, folder):
    """The folder, with the model of a golden case written to it, and the golden arrays."""
    golden = dict(np.load(FOLDER / f"diffusers_{name}.npz"))
    golden["shapes"] = json.loads(str(golden["shapes"]))
    (folder / interop.CONFIG).write_text(str(golden["config"]))
    write_foreign(folder / interop.WEIGHTS, draw(golden["shapes"]))
    return folder, golden


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    return request.param, *published(request.param, tmp_path_factory.mktemp(request.param))


def gradient_errors(gradients, golden):
    """The error of every gradient's norm and products, relative to the norm."""
    assert gradients.keys() == golden["shapes"].keys()
    gradients = {key: gradients[key] for key in golden["shapes"]}
    norms = scales(dict(zip(gradients, golden["gradients"][:, 0])))
    return abs(summary(gradients) - golden["gradients"]) / norms[:, None]


@pytest.mark.parametrize("backend", TOLERANCE)
def test_outputs_and_gradients_are_those_of_diffusers(case, backend):
    name, folder, golden = case
    tinyddpm.use(backend)
    y, dx, gradients = ours(load_diffusers(folder), *inputs(*CASES[name]))
    assert abs(golden["y"]).max() > 1 and abs(y - golden["y"]).max() < TOLERANCE[backend]
    assert abs(dx - golden["dx"]).max() < GRADIENTS * abs(golden["dx"]).max()
    assert gradient_errors(gradients, golden).max() < GRADIENTS


def symmetric_padding(model, monkeypatch):
    for level in model.down[:-1]:
        level[-1].padding = (1, 1)


def embedding_of(slip):
    right = ops.time_embedding

    def tamper(model, monkeypatch):
        monkeypatch.setattr(ops, "time_embedding", lambda t, width, dtype: slip(right, t, width, dtype))
    return tamper


def cosines_first(right, t, width, dtype):
    return np.roll(right(t, width, dtype), width // 2, axis=1)


def no_frequency_shift(_, t, width, dtype):
    angles = (t - 1)[:, None] * np.exp(np.arange(width // 2) * -np.log(10000) / (width // 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(dtype)


def heads(number):
    def tamper(model, monkeypatch):
        for _, module in walk(model):
            if isinstance(module, layers.Attention):
                module.heads = number
    return tamper


def walk(module):
    for name, child in module.children():
        yield name, child
        yield from walk(child)


def larger_eps(model, monkeypatch):
    right = ops.group_norm
    monkeypatch.setattr(ops, "group_norm", lambda x, gamma, beta, groups, eps: right(x, gamma, beta, groups, 1e-5))


def skip_first(model, monkeypatch):
    right = ops.concatenate
    monkeypatch.setattr(ops, "concatenate", lambda x, skip: right(skip, x))


def transposed(kind):
    def tamper(model, monkeypatch):
        for key, view in published_views(model).items():
            if kind in key and key.endswith("weight") and view.shape[0] == view.shape[1]:
                view[...] = view.swapaxes(0, 1).copy()
    return tamper


def keys_for_queries(model, monkeypatch):
    for _, module in walk(model):
        if isinstance(module, layers.Attention):
            module.query, module.key = module.key, module.query


SLIPS = {
    "symmetric padding before downsampling": ("three_levels", symmetric_padding),
    "cosines before sines": ("three_levels", embedding_of(cosines_first)),
    "no frequency shift": ("three_levels", embedding_of(no_frequency_shift)),
    "times off by one": ("three_levels", embedding_of(lambda right, t, *rest: right(t + 1, *rest))),
    "eight heads instead of one": ("three_levels", heads(8)),
    "one head instead of four": ("four_heads", heads(1)),
    "eps 1e-5": ("three_levels", larger_eps),
    "the skip before the input": ("wide_attention", skip_first),
    "transposed convolutions": ("three_levels", transposed("conv1")),
    "transposed projections": ("three_levels", transposed("to_v")),
    "keys for queries": ("three_levels", keys_for_queries),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_the_goldens_find_a_slip(slip, tmp_path, monkeypatch):
    name, tamper = SLIPS[slip]
    folder, golden = published(name, tmp_path)
    x, t, _ = inputs(*CASES[name])
    model = load_diffusers(folder)
    assert abs(model.forward(x, t) - golden["y"]).max() < TOLERANCE["numpy"]
    tamper(model, monkeypatch)
    assert abs(model.forward(x, t) - golden["y"]).max() > 2 * TOLERANCE["numpy"]


def test_the_goldens_find_a_wrong_gradient(tmp_path):
    """One operation is 0.1% off: outputs stay right, gradients do not."""
    homework = types.ModuleType("homework")

    def silu_backward(dy, cache, right=ops.silu_backward):
        return right(dy, cache) * np.float32(1.001)

    def silu(x, right=ops.silu):
        return right(x)
    for f in (silu, silu_backward):
        f.__module__ = "homework"
        setattr(homework, f.__name__, f)
    folder, golden = published("three_levels", tmp_path)
    tinyddpm.use("numpy", overrides=homework)
    y, dx, gradients = ours(load_diffusers(folder), *inputs(*CASES["three_levels"]))
    assert abs(y - golden["y"]).max() < TOLERANCE["numpy"]
    assert abs(dx - golden["dx"]).max() > GRADIENTS * abs(golden["dx"]).max()
    assert gradient_errors(gradients, golden).max() > GRADIENTS


@pytest.mark.parametrize("name", [name for name in CASES if name != "cifar10"])
def test_what_is_loaded_is_saved(name, tmp_path):
    """The same keys, shapes and bits, and a config.json that agrees with theirs in every setting it has."""
    folder, _ = published(name, tmp_path)
    theirs, _ = safetensors.read(folder / interop.WEIGHTS, checked=False)
    save_diffusers(load_diffusers(folder), tmp_path / "again")
    again, metadata = safetensors.read(tmp_path / "again" / interop.WEIGHTS, checked=False)
    assert again.keys() == theirs.keys() and metadata == {"format": "pt"}
    for key, a in theirs.items():
        assert again[key].shape == a.shape and again[key].tobytes() == a.tobytes()
    their_config = json.loads((folder / interop.CONFIG).read_text())
    config = json.loads((tmp_path / "again" / interop.CONFIG).read_text())
    assert config == {key: their_config[key] for key in config}
    assert their_config.keys() - config.keys() == {"_diffusers_version", "num_train_timesteps"}


@pytest.mark.parametrize("config", [
    small(), small(heads=1), small(learned_variance=True), small(attention_resolutions=()),
    small(channel_multipliers=(1,), attention_resolutions=(8,)),
    small(image_channels=3, channel_multipliers=(1, 3, 2), blocks_per_level=2, attention_resolutions=(8, 2), heads=1),
])
@pytest.mark.parametrize("name", ["folder", "file.safetensors"])
def test_what_is_saved_is_loaded(config, name, tmp_path):
    model, path = randomized(config), tmp_path / "new" / name
    save_diffusers(model, path)
    loaded = load_diffusers(path)
    assert loaded.config == config and not loaded.training
    assert loaded.flat_values.tobytes() == model.flat_values.tobytes()
    assert output(loaded).tobytes() == output(model).tobytes()


@pytest.fixture
def saved(tmp_path):
    """A small model's folder, its model, and a function that changes its weights and its settings."""
    model = randomized(small())
    save_diffusers(model, tmp_path / "model")

    def change(tensors=lambda all_: all_, **settings):
        weights, config = tmp_path / "model" / interop.WEIGHTS, tmp_path / "model" / interop.CONFIG
        write_foreign(weights, tensors(dict(safetensors.read(weights)[0])))
        config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    return tmp_path / "model", model, change


def test_a_folder_unet_is_found(saved):
    folder, model, _ = saved
    (folder / "unet").mkdir()
    for name in (interop.CONFIG, interop.WEIGHTS):
        (folder / name).rename(folder / "unet" / name)
    assert load_diffusers(str(folder)).flat_values.tobytes() == model.flat_values.tobytes()


def older_names(tensors, as_convolutions=False):
    renamed = {}
    for key, a in tensors.items():
        for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            if new in key and as_convolutions and key.endswith("weight"):
                a = a[:, :, None, None]
            key = key.replace(new, old)
        renamed[key] = a
    return renamed


@pytest.mark.parametrize("as_convolutions", [False, True])
def test_older_names_are_read(saved, as_convolutions):
    folder, model, change = saved
    change(lambda tensors: older_names(tensors, as_convolutions))
    assert load_diffusers(folder).flat_values.tobytes() == model.flat_values.tobytes()


def test_the_published_settings_are_the_papers(tmp_path):
    (tmp_path / interop.CONFIG).write_text(json.dumps(PUBLISHED))
    assert interop._read_config(tmp_path / interop.CONFIG) == UNetConfig(dropout=0.0)


def test_without_settings_the_paper_is_assumed(saved, monkeypatch):
    folder, model, _ = saved
    (folder / interop.CONFIG).unlink()
    with pytest.raises(ValueError, match=": 44,969 numbers; expected more than 9,850,240"):
        load_diffusers(folder / interop.WEIGHTS)
    monkeypatch.setattr(interop, "UNetConfig", small)
    assert load_diffusers(folder / interop.WEIGHTS).flat_values.tobytes() == model.flat_values.tobytes()


@pytest.mark.parametrize("name, value", [
    ("_class_name", "UNet2DConditionModel"), ("act_fn", "mish"), ("norm_eps", 1e-5), ("flip_sin_to_cos", True),
    ("freq_shift", 0), ("downsample_padding", 1), ("time_embedding_type", "fourier"), ("time_embedding_dim", 64),
    ("resnet_time_scale_shift", "scale_shift"), ("class_embed_type", "timestep"), ("num_class_embeds", 10),
    ("add_attention", False), ("center_input_sample", True), ("mid_block_type", None), ("mid_block_scale_factor", 2),
    ("downsample_type", "resnet"), ("upsample_type", "resnet"), ("attn_norm_num_groups", 2), ("a_new_setting", 1),
    ("sample_size", None), ("sample_size", [8, 8]), ("in_channels", "1"), ("out_channels", 3), ("out_channels", None),
    ("layers_per_block", [1, 1]), ("norm_num_groups", None), ("dropout", None), ("dropout", "0"),
    ("block_out_channels", None), ("block_out_channels", []), ("block_out_channels", [8, 12]),
    ("block_out_channels", [0, 0]), ("block_out_channels", ["8", "16"]), ("block_out_channels", [16, 8]),
    ("down_block_types", None), ("down_block_types", ["DownBlock2D"] * 3),
    ("down_block_types", ["DownBlock2D", "ResnetDownsampleBlock2D"]), ("down_block_types", ["DownBlock2D", []]),
    ("up_block_types", ["UpBlock2D", "UpBlock2D"]), ("up_block_types", ["UpBlock2D", "AttnUpBlock2D"]),
    ("attention_head_dim", 0), ("attention_head_dim", 5), ("attention_head_dim", "8"),
])
def test_other_settings_are_refused(saved, name, value):
    folder, _, change = saved
    change(**{name: value})
    with pytest.raises(ValueError, match=re.escape(f"{interop.CONFIG}: {name} is {value!r}; expected ")):
        load_diffusers(folder)


@pytest.mark.parametrize("name, value, match", [
    ("sample_size", 7, "image_size is 7"), ("norm_num_groups", 3, "multiple of groups .3."),
    ("dropout", 1, "dropout is 1"),
    ("layers_per_block", 0, "blocks_per_level is 0"), ("block_out_channels", [8, 16, 16], "a list of 3"),
    ("layers_per_block", 2, "is missing"), ("in_channels", 2, "expected in_channels or")])
def test_settings_that_do_not_fit_together_are_refused(saved, name, value, match):
    folder, _, change = saved
    change(**{name: value})
    with pytest.raises(ValueError, match=match):
        load_diffusers(folder)


def test_heads_of_several_widths_are_refused(saved):
    folder, _, change = saved
    change(down_block_types=["AttnDownBlock2D"] * 2, up_block_types=["AttnUpBlock2D"] * 2)
    with pytest.raises(ValueError, match=r"attention_head_dim is 8; expected .* \[8, 16\]"):
        load_diffusers(folder)


@pytest.mark.parametrize("name", ["_class_name", "flip_sin_to_cos", "freq_shift", "downsample_padding", "norm_eps"])
def test_silence_means_what_diffusers_assumes(saved, name):
    folder, _, _ = saved
    config = json.loads((folder / interop.CONFIG).read_text())
    del config[name]
    (folder / interop.CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"{name} is .*; expected"):
        load_diffusers(folder)


def test_silence_about_heads_means_a_width_of_8(saved):
    folder, _, _ = saved
    config = json.loads((folder / interop.CONFIG).read_text())
    del config["attention_head_dim"], config["dropout"]
    (folder / interop.CONFIG).write_text(json.dumps(config))
    assert load_diffusers(folder).config == small(heads=2, dropout=0.0)


@pytest.mark.parametrize("content, match", [(b"{", "damaged or not JSON"), (b"\xff\xfe\xfd", "damaged or not JSON"),
                                            (b"[1]", "expected a table of settings")])
def test_unreadable_settings_are_refused(saved, content, match):
    folder, _, _ = saved
    (folder / interop.CONFIG).write_bytes(content)
    with pytest.raises(ValueError, match=match):
        load_diffusers(folder)


PROJECTION = "mid_block.attentions.0.to_q.weight"


@pytest.mark.parametrize("tensors, match", [
    (lambda all_: {key: all_[key] for key in all_ if key != PROJECTION}, f"{PROJECTION} is missing; expected float"),
    (lambda all_: all_ | {"ema.decay": np.float32([1])}, "expected no more arrays .* found also ema.decay"),
    (lambda all_: all_ | {PROJECTION.replace("to_q", "query"): all_[PROJECTION]}, "found also mid_block.*query"),
    (lambda all_: all_ | {PROJECTION: all_[PROJECTION][:8]},
     rf"{PROJECTION} is float32 \(8, 16\); expected float32 \(16, 16\)"),
    (lambda all_: all_ | {PROJECTION: np.zeros((16, 16, 3, 3), np.float32)},
     rf"{PROJECTION} is float32 \(16, 16, 3, 3\); expected float32 \(16, 16\)"),
    (lambda all_: {key: a.astype(np.float16) for key, a in all_.items()}, "is float16 .* expected float32"),
])
def test_other_weights_are_refused(saved, tensors, match):
    folder, _, change = saved
    change(tensors)
    with pytest.raises(ValueError, match=match):
        load_diffusers(folder)


def test_missing_and_damaged_files_are_refused(saved, tmp_path):
    folder, _, _ = saved
    weights = folder / interop.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        load_diffusers(folder)
    weights.unlink()
    for path in (folder, weights, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="expected a .safetensors file, or a folder with .* found none"):
            load_diffusers(path)


@pytest.mark.parametrize("config, match", [
    (small(patch_size=2), "patch_size is 2; .* 1"), (small(num_classes=3), "num_classes is 3; .* None"),
    (small(channel_multipliers=(2, 4)), r"channel_multipliers is \(2, 4\)"),
    (small(attention_resolutions=(8,)), r"heads is 2; .* \[8, 16\]")])
def test_what_the_layout_cannot_express_is_not_saved(config, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        save_diffusers(UNet(config), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_float64_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="float64; expected float32"):
        save_diffusers(UNet(small(), dtype=np.float64), tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("config", [small(), small(attention_resolutions=(8,), heads=1, learned_variance=True)])
def test_diffusers_reads_what_is_saved(config, tmp_path):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    model = randomized(config)
    save_diffusers(model, tmp_path)
    theirs = diffusers.UNet2DModel.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    x = np.random.default_rng(2).standard_normal((2, 8, 8, 1)).astype(np.float32)
    with torch.no_grad():
        y = theirs(torch.from_numpy(x).permute(0, 3, 1, 2), torch.tensor([0, 899])).sample.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(output(model), y, rtol=0, atol=2e-5 * abs(y).max())
