"""Weights to and from the diffusers library, in the layout of google/ddpm-cifar10-32 (its class UNet2DModel).

A model is a folder of two files, config.json and diffusion_pytorch_model.safetensors. Two conventions are left to the
caller: images are (N, C, H, W) there, and times count from 0, so that forward(x, t) here is model(x, t - 1) there.
"""

import json
from pathlib import Path

import numpy as np

from tinyddpm import files, nn, safetensors
from tinyddpm.backend import from_numpy, to_numpy
from tinyddpm.nn import UNet, UNetConfig
from tinyddpm.nn.layers import NORM_EPS, Conv2d
from tinyddpm.nn.unet import Block

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"

# Our names of layers -> theirs. Older files use other names for the parts of attention.
UNET = {"time0": "time_embedding.linear_1", "time1": "time_embedding.linear_2", "conv_in": "conv_in",
        "norm_out": "conv_norm_out", "conv_out": "conv_out"}
RESBLOCK = {"norm1": "norm1", "conv1": "conv1", "time": "time_emb_proj", "norm2": "norm2", "conv2": "conv2",
            "shortcut": "conv_shortcut"}
ATTENTION = {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
OLDER = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

# Blocks without and with attention; what our UNet computes, as config.json describes it; and the defaults of
# UNet2DModel for settings missing from config.json (None: no default). No other settings are known.
DOWN, UP = ("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D")
COMPUTED = {"_class_name": "UNet2DModel", "act_fn": "silu", "add_attention": True, "attn_norm_num_groups": None,
            "center_input_sample": False, "class_embed_type": None, "downsample_padding": 0,
            "downsample_type": "conv", "flip_sin_to_cos": False, "freq_shift": 1, "mid_block_scale_factor": 1,
            "mid_block_type": "UNetMidBlock2D", "norm_eps": NORM_EPS, "num_class_embeds": None,
            "resnet_time_scale_shift": "default", "time_embedding_dim": None, "time_embedding_type": "positional",
            "upsample_type": "conv"}
ASSUMED = COMPUTED | {"_class_name": None, "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0,
                      "norm_eps": 1e-5, "attention_head_dim": 8, "block_out_channels": None, "down_block_types": None,
                      "dropout": 0.0, "in_channels": 3, "layers_per_block": 2, "norm_num_groups": 32,
                      "num_train_timesteps": None, "out_channels": 3, "sample_size": None, "up_block_types": None}


def load_diffusers(path):
    """The UNet of a published file, in evaluation mode.

    path: the .safetensors file, or a folder that holds it directly or in a subfolder unet. A config.json beside the
        file describes the model; without one, the paper's CIFAR10 model is assumed.
    Raises ValueError for files that are missing or damaged, and for a model that our UNet does not implement.
    """
    weights = Path(path)
    if weights.is_dir():
        weights = weights / WEIGHTS if (weights / WEIGHTS).exists() else weights / "unet" / WEIGHTS
    if not weights.is_file():
        raise ValueError(f"{path}: expected a .safetensors file, or a folder with {WEIGHTS}; found none")
    described = weights.with_name(CONFIG)
    config = _read_config(described) if described.exists() else UNetConfig()
    tensors, _ = safetensors.read(weights, checked=False)
    with files.parsing(weights, "the model that its configuration describes"):
        nn.require_size(config, tensors)
    model = UNet(config).eval()
    for key, view in published_views(model).items():
        older = key
        for new, old in OLDER.items():
            older = older.replace(new, old)
        a = tensors.pop(key if key in tensors else older, None)
        if a is not None and view.ndim == 2 and a.shape[2:] == (1, 1):      # attention as convolutions of size 1
            a = a[:, :, 0, 0]
        if a is None or a.dtype != np.float32 or a.shape != view.shape:
            raise ValueError(f"{weights}: {key} is {'missing' if a is None else f'{a.dtype} {a.shape}'}; "
                             f"expected float32 {view.shape} for {config}")
        view[...] = from_numpy(a)
    if tensors:
        raise ValueError(f"{weights}: expected no more arrays for {config}; found also {', '.join(tensors)}")
    return model


def save_diffusers(model, path):
    """Write a UNet for load_diffusers and, if path is a folder, for UNet2DModel.from_pretrained of diffusers.

    path: a folder, or a .safetensors file; config.json is written beside the weights. The layout stores neither
        schedule nor prediction: a reader assumes the paper's, a linear schedule and eps.
    Raises ValueError for a model that the layout cannot express.
    """
    if model.flat_values.dtype != np.float32:
        raise ValueError(f"save_diffusers: the model is {model.flat_values.dtype}; expected float32")
    settings = json.dumps(_settings(model.config), indent=2) + "\n"
    weights = Path(path) if Path(path).suffix == ".safetensors" else Path(path) / WEIGHTS
    weights.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: to_numpy(view) for key, view in published_views(model).items()}
    safetensors.write(weights, tensors, {"format": "pt"})
    with files.replacing(weights.with_name(CONFIG), "w") as file:
        file.write(settings)


def published_views(model):
    """All parameters of a UNet under their published names, as views in the published layout: key -> view.

    A convolution's weight is (K, C, kh, kw) there, a linear layer's (K, C), a shortcut's (K, C, 1, 1).
    """
    views = {}
    for key, layer in _layers(model):
        weight, bias = (p.value for p in layer.own_parameters().values())
        if weight.ndim > 1:
            weight = weight.transpose(3, 2, 0, 1) if isinstance(layer, Conv2d) else weight.T
        if key.endswith("conv_shortcut"):
            weight = weight[:, :, None, None]
        views |= {f"{key}.weight": weight, f"{key}.bias": bias}
    return views


def _layers(model):
    """Yield all layers with parameters, as (published name, layer)."""
    yield from ((key, getattr(model, name)) for name, key in UNET.items())
    levels = [(f"down_blocks.{i}", "downsamplers", level) for i, level in enumerate(model.down)]
    levels += [("mid_block", None, model.middle)]
    levels += [(f"up_blocks.{i}", "upsamplers", level) for i, level in enumerate(reversed(model.up))]
    for prefix, resamplers, level in levels:
        for j, module in enumerate(level):
            if isinstance(module, Block):
                parts = (module.res, "resnets", RESBLOCK), (module.attention, "attentions", ATTENTION)
                yield from ((f"{prefix}.{kind}.{j}.{key}", getattr(part, name)) for part, kind, names in parts
                            for name, key in names.items() if getattr(part, name, None))
            else:
                yield f"{prefix}.{resamplers}.0.conv", module


def _read_config(path):
    """The UNetConfig of a config.json. Raises ValueError for a setting that our UNet does not implement."""
    def expect(name, right, what):
        if not right:
            raise ValueError(f"{path}: {name} is {c[name]!r}; expected {what}")

    with files.opened(path, "JSON", safetensors.MAX_HEADER) as file:
        given = files.parse_json(file.read())
    if not isinstance(given, dict):
        raise ValueError(f"{path}: expected a table of settings; found {given!r}")
    c = ASSUMED | given
    for name in given:
        expect(name, name in ASSUMED or name.startswith("_"), "no such setting")
    for name, value in COMPUTED.items():
        expect(name, c[name] == value, repr(value))
    for name in ("sample_size", "in_channels", "out_channels", "layers_per_block", "norm_num_groups"):
        expect(name, type(c[name]) is int, "an integer")
    expect("out_channels", c["out_channels"] in (c["in_channels"], 2 * c["in_channels"]), "in_channels or twice that")
    expect("dropout", type(c["dropout"]) in (int, float), "a number")

    widths, down, d = c["block_out_channels"], c["down_block_types"], c["attention_head_dim"]
    expect("block_out_channels", isinstance(widths, list) and widths
           and all(type(w) is int and w >= widths[0] > 0 and w % widths[0] == 0 for w in widths),
           "a list of integers, multiples of the first")
    expect("down_block_types", isinstance(down, list) and len(down) == len(widths) and all(k in DOWN for k in down),
           f"a list of {len(widths)}, each of them {' or '.join(DOWN)}")
    attention = [DOWN.index(kind) for kind in down]
    mirrored = [UP[has] for has in reversed(attention)]
    expect("up_block_types", c["up_block_types"] == mirrored, mirrored)
    attended = _attended(widths, attention)
    equal = type(d) is int and d > 0 and all(w == attended[0] and w % d == 0 for w in attended)
    expect("attention_head_dim", d is None or equal,
           f"None, or a width that splits the channels {attended} of attention into one number of heads")
    return UNetConfig(
        image_size=c["sample_size"], image_channels=c["in_channels"], base_channels=widths[0],
        channel_multipliers=tuple(w // widths[0] for w in widths), blocks_per_level=c["layers_per_block"],
        attention_resolutions=tuple(c["sample_size"] >> level for level, has in enumerate(attention) if has),
        heads=attended[0] // d if d else 1, dropout=c["dropout"], groups=c["norm_num_groups"],
        learned_variance=c["out_channels"] > c["in_channels"])


def _settings(config):
    """The content of a config.json for a UNetConfig. Raises ValueError for what it cannot express."""
    widths = [config.base_channels * m for m in config.channel_multipliers]
    attention = [config.image_size >> level in config.attention_resolutions for level in range(len(widths))]
    attended = _attended(widths, attention)
    for name, right, what in (
            ("patch_size", config.patch_size == 1, "1"),
            ("num_classes", config.num_classes is None, "None"),
            ("channel_multipliers", config.channel_multipliers[0] == 1, "1 for the first level"),
            ("heads", config.heads == 1 or len(attended) == 1, f"1 where attention has {attended} channels")):
        if not right:
            raise ValueError(f"save_diffusers: {name} is {getattr(config, name)}; the layout can express {what}")
    return COMPUTED | {
        "sample_size": config.image_size, "in_channels": config.image_channels,
        "out_channels": config.image_channels * (2 if config.learned_variance else 1), "block_out_channels": widths,
        "layers_per_block": config.blocks_per_level, "down_block_types": [DOWN[has] for has in attention],
        "up_block_types": [UP[has] for has in reversed(attention)], "dropout": config.dropout,
        "attention_head_dim": None if config.heads == 1 else widths[-1] // config.heads,
        "norm_num_groups": config.groups}


def _attended(widths, attention):
    """The numbers of channels at which attention is applied: at the levels that have it and in the middle."""
    return sorted({width for width, has in zip(widths, attention) if has} | {widths[-1]})
