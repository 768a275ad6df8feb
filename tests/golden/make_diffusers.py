"""Make the golden arrays of tests/test_interop.py: what UNet2DModel of diffusers computes with seeded weights.

    python -m pip install torch diffusers && python tests/golden/make_diffusers.py

Only this script needs torch and diffusers. It also compares every output and every gradient with ours in full, and
prints the largest differences. The arrays it stores hold no weights: the test draws them again, by `draw`.
"""

import json
import tempfile
import zlib
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
PAPER = dict(sample_size=32, in_channels=3, out_channels=3,
             block_out_channels=(128, 256, 256, 256), layers_per_block=2,
             down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
             up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), attention_head_dim=None,
             norm_num_groups=32, norm_eps=1e-6, flip_sin_to_cos=False, freq_shift=1, downsample_padding=0)
CASES = {                                                   # name -> settings of UNet2DModel, times from 0
    "cifar10": (PAPER, [500]),
    "three_levels": (PAPER | dict(
        sample_size=16, in_channels=1, out_channels=1, block_out_channels=(32, 64, 96), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), norm_num_groups=16), [0, 417, 999]),
    "four_heads": (PAPER | dict(
        sample_size=12, out_channels=6, block_out_channels=(24, 48), layers_per_block=2, norm_num_groups=6,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=12), [3, 999]),
    "wide_attention": (PAPER | dict(
        sample_size=16, in_channels=2, out_channels=2, block_out_channels=(16, 16, 32, 64), layers_per_block=3,
        down_block_types=("AttnDownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "AttnUpBlock2D"), norm_num_groups=8), [10, 700]),
}


def uniform(name, shape):
    """float32 numbers of mean 0 and variance 1 that depend on the name and the shape alone."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return (rng.random(shape, np.float32) * 2 - 1) * np.float32(np.sqrt(3))


def draw(shapes):
    """Weights for every key, none of them 0 or 1 throughout. With 0.7 the outputs stay of the order of 1."""
    weights = {}
    for key, shape in shapes.items():
        weights[key] = uniform(key, shape) * np.float32(0.3 if len(shape) == 1 else 0.7 * np.prod(shape[1:]) ** -0.5)
        if "norm" in key and key.endswith("weight"):
            weights[key] += 1
    return weights


def inputs(config, times):
    """x and dy (N, H, W, C), and the times counted from 1 as ours are."""
    N, size = len(times), config["sample_size"]
    x, dy = (uniform(which, (N, size, size, config[f"{which}_channels"])) for which in ("in", "out"))
    return x, np.array(times) + 1, dy


def summary(gradients):
    """Of each gradient its norm and its products with two random directions: (keys, 3). A wrong element shows."""
    return np.array([[np.linalg.norm(g), *(np.vdot(g, uniform(key + which, g.shape)) for which in "ab")]
                     for key, g in gradients.items()])


def scales(norms):
    """What the error of each gradient is relative to, from the norms (key -> norm): its own norm.

    Softmax ignores what is added to all logits, so that the gradient of a key's bias is 0 but for rounding:
    the query's stands for it.
    """
    return np.array([norms[key.replace("to_k.bias", "to_q.bias")] for key in norms])


def theirs(model, x, t, dy):
    """y, dx and the gradients (key -> array) of UNet2DModel, images (N, H, W, C) and times from 1."""
    import torch

    x = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().requires_grad_()
    y = model(x, torch.from_numpy(t - 1)).sample
    y.backward(torch.from_numpy(dy).permute(0, 3, 1, 2).contiguous())
    return (y.detach().permute(0, 2, 3, 1).numpy(), x.grad.permute(0, 2, 3, 1).numpy(),
            {key: p.grad.numpy() for key, p in model.named_parameters()})


def ours(model, x, t, dy):
    """The same of a UNet."""
    from tinyddpm.interop import published_views

    y = model.train().forward(x, t)
    dx = model.backward(dy)
    model.flat_values[...] = model.flat_grads               # to see the gradients in the published layout
    return y, dx, published_views(model)


def main():
    import torch
    from diffusers import UNet2DModel

    import tinyddpm
    from tinyddpm.interop import load_diffusers, save_diffusers

    print("largest differences: of y absolute, of dx and of every gradient relative to its largest value")
    for name, (settings, times) in CASES.items():
        model = UNet2DModel(**settings).eval()
        shapes = {key: tuple(a.shape) for key, a in model.state_dict().items()}
        model.load_state_dict({key: torch.from_numpy(a) for key, a in draw(shapes).items()})
        batch = inputs(settings, times)
        y, dx, gradients = theirs(model, *batch)
        peaks = scales({key: abs(g).max() for key, g in gradients.items()})
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder + "/theirs")
            config = Path(folder, "theirs", "config.json").read_text()
            save_diffusers(load_diffusers(folder + "/theirs"), folder + "/ours")
            again = UNet2DModel.from_pretrained(folder + "/ours", low_cpu_mem_usage=False).state_dict()
            assert all(torch.equal(again[key], a) for key, a in model.state_dict().items())
            for backend in ("numpy", "numba"):
                tinyddpm.use(backend)
                our_y, our_dx, found = ours(load_diffusers(folder + "/theirs"), *batch)
                errors = np.array([abs(found[key] - g).max() for key, g in gradients.items()]) / peaks
                print(f"{name:15} {backend:6} y {abs(our_y - y).max():.1e} (of {abs(y).max():.1f})  "
                      f"dx {abs(our_dx - dx).max() / abs(dx).max():.1e}  "
                      f"{len(errors)} gradients {errors.max():.1e}, the worst {list(gradients)[errors.argmax()]}")
        np.savez_compressed(FOLDER / f"diffusers_{name}.npz", y=y, dx=dx, gradients=summary(gradients),
                            config=config, shapes=json.dumps(shapes))


if __name__ == "__main__":
    main()
