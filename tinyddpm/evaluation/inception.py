"""Inception-v3 (Szegedy et al. 2015), in the version that defines the Frechet Inception distance. Evaluation only.

The network is the TensorFlow graph of 2015-12-05 that Heusel et al. (2017) used, in the form of its port to PyTorch,
pytorch-fid, whose array names are torchvision's. It differs from torchvision's own network: average pooling does
not count the padding, the last block uses max pooling, and there are 1008 classes. No weights are included in this
library; those that torchvision publishes can be loaded but give a different distance.
"""

import functools
from typing import NamedTuple

import numpy as np

from tinyddpm import ops, safetensors
from tinyddpm.backend import array_module, from_numpy
from tinyddpm.data import scaled

SIZE, FEATURES, CLASSES = 299, 2048, 1008
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
EPS = 1e-3                                      # of batch normalization
VALID = (0, 0)                                  # no padding; None pads to preserve the size, as in ops.conv2d


class Conv(NamedTuple):
    """Convolution without a bias, batch normalization and ReLU."""
    name: str
    K: int
    kernel: tuple = (1, 1)
    stride: int = 1
    padding: tuple | None = None


class Fork(NamedTuple):
    """Branches, each a list of parts, that read the same input; their outputs are concatenated along the channels."""
    name: str
    branches: list


# ---- pooling and resizing ----

def windows(x, stride=1):
    """The nine views of x, one for each position in a 3x3 window. x (N, H, W, C) -> nine (N, H', W', C)"""
    H, W = x.shape[1] - 2, x.shape[2] - 2
    return [x[:, p:p + H:stride, q:q + W:stride] for p in range(3) for q in range(3)]


def padded(x, value):
    return array_module(x).pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=value)


def halve(x):
    """The maximum of every other 3x3 window, without padding. x (N, H, W, C) -> (N, (H - 1) // 2, (W - 1) // 2, C)"""
    return functools.reduce(array_module(x).maximum, windows(x, stride=2))


def max_pool(x):
    """The maximum over the 3x3 pixels around each pixel. x (N, H, W, C) -> the same shape"""
    return functools.reduce(array_module(x).maximum, windows(padded(x, -np.inf)))


def average_pool(x):
    """The mean over the 3x3 pixels around each pixel that are inside the image. x (N, H, W, C) -> the same shape"""
    inside = array_module(x).ones((1, *x.shape[1:3], 1), x.dtype)
    return sum(windows(padded(x, 0))) / sum(windows(padded(inside, 0)))


def resize(x, size):
    """Bilinear interpolation between pixel centres, also when shrinking. x (N, H, W, C) -> (N, size, size, C)"""
    xp = array_module(x)
    for axis in (1, 2):
        n = x.shape[axis]
        position = xp.maximum((xp.arange(size) + 0.5) * (n / size) - 0.5, 0)
        low = xp.floor(position).astype(int)
        high = xp.minimum(low + 1, n - 1)
        fraction = (position - low).astype(x.dtype).reshape((-1, 1, 1) if axis == 1 else (-1, 1))
        below, above = x.take(low, axis=axis), x.take(high, axis=axis)
        x = below + (above - below) * fraction
    return x


# ---- the architecture; blocks are lettered like torchvision's classes ----

def block_a(name, pooled):
    return Fork(name, [
        [Conv("branch1x1", 64)],
        [Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))],
        [Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3))],
        [average_pool, Conv("branch_pool", pooled)]])


def block_b(name):
    return Fork(name, [
        [Conv("branch3x3", 384, (3, 3), 2, VALID)],
        [Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)),
         Conv("branch3x3dbl_3", 96, (3, 3), 2, VALID)],
        [halve]])


def block_c(name, c):
    return Fork(name, [
        [Conv("branch1x1", 192)],
        [Conv("branch7x7_1", c), Conv("branch7x7_2", c, (1, 7)), Conv("branch7x7_3", 192, (7, 1))],
        [Conv("branch7x7dbl_1", c), Conv("branch7x7dbl_2", c, (7, 1)), Conv("branch7x7dbl_3", c, (1, 7)),
         Conv("branch7x7dbl_4", c, (7, 1)), Conv("branch7x7dbl_5", 192, (1, 7))],
        [average_pool, Conv("branch_pool", 192)]])


def block_d(name):
    return Fork(name, [
        [Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2, VALID)],
        [Conv("branch7x7x3_1", 192), Conv("branch7x7x3_2", 192, (1, 7)), Conv("branch7x7x3_3", 192, (7, 1)),
         Conv("branch7x7x3_4", 192, (3, 3), 2, VALID)],
        [halve]])


def block_e(name, pool):
    return Fork(name, [
        [Conv("branch1x1", 320)],
        [Conv("branch3x3_1", 384),
         Fork("branch3x3_2", [[Conv("a", 384, (1, 3))], [Conv("b", 384, (3, 1))]])],
        [Conv("branch3x3dbl_1", 448), Conv("branch3x3dbl_2", 384, (3, 3)),
         Fork("branch3x3dbl_3", [[Conv("a", 384, (1, 3))], [Conv("b", 384, (3, 1))]])],
        [pool, Conv("branch_pool", 192)]])


NETWORK = [
    Conv("Conv2d_1a_3x3", 32, (3, 3), 2, VALID), Conv("Conv2d_2a_3x3", 32, (3, 3), 1, VALID),
    Conv("Conv2d_2b_3x3", 64, (3, 3)), halve,                                               # 299 -> 73 pixels
    Conv("Conv2d_3b_1x1", 80), Conv("Conv2d_4a_3x3", 192, (3, 3), 1, VALID), halve,         # -> 35
    block_a("Mixed_5b.", 32), block_a("Mixed_5c.", 64), block_a("Mixed_5d.", 64), block_b("Mixed_6a."),     # -> 17
    block_c("Mixed_6b.", 128), block_c("Mixed_6c.", 160), block_c("Mixed_6d.", 160), block_c("Mixed_6e.", 192),
    block_d("Mixed_7a."), block_e("Mixed_7b.", average_pool), block_e("Mixed_7c.", max_pool)]               # -> 8


def convolutions(parts=NETWORK, C=3, prefix=""):
    """The published shapes of the convolutions in parts that read C channels, and the number of output channels.

    Returns (name -> (K, C, kh, kw), number of channels).
    """
    shapes = {}
    for part in parts:
        if isinstance(part, Conv):
            shapes[prefix + part.name] = (part.K, C, *part.kernel)
            C = part.K
        elif isinstance(part, Fork):
            found = [convolutions(branch, C, prefix + part.name) for branch in part.branches]
            shapes |= {name: shape for inner, _ in found for name, shape in inner.items()}
            C = sum(width for _, width in found)
    return shapes, C


def published_shapes(classes=CLASSES):
    """The arrays that a file of weights must hold: key -> shape."""
    shapes = {}
    for name, shape in convolutions()[0].items():
        shapes |= {f"{name}.conv.weight": shape} | {f"{name}.bn.{key}": shape[:1] for key in BATCH_NORM}
    return shapes | {"fc.weight": (classes, FEATURES), "fc.bias": (classes,)}


class Inception:
    """Images -> features and class probabilities, in float32. There is no backward.

    path: a .safetensors file with the array names of pytorch-fid: Conv2d_1a_3x3.conv.weight, ..., fc.bias. Batch
        counters and the auxiliary classifier are ignored; the number of classes is the size of fc.bias.
    Raises ValueError for a file that is damaged or holds other arrays.
    """

    def __init__(self, path):
        tensors, _ = safetensors.read(path, checked=False)
        shapes = published_shapes(tensors["fc.bias"].size if "fc.bias" in tensors else CLASSES)
        for key, shape in shapes.items():
            a = tensors.get(key)
            if a is None or a.dtype.kind != "f" or a.shape != shape:
                raise ValueError(f"{path}: {key} is {'missing' if a is None else f'{a.dtype} {a.shape}'}; "
                                 f"expected floats {shape}, as pytorch-fid names and shapes them")
        for key in tensors.keys() - shapes.keys():
            if not key.startswith("AuxLogits.") and not key.endswith(".num_batches_tracked"):
                raise ValueError(f"{path}: {key} came unexpected; expected only the arrays of pytorch-fid's network")
        self.convs = {}
        for name in convolutions()[0]:
            scale, shift, mean, var = (tensors[f"{name}.bn.{key}"].astype(np.float64) for key in BATCH_NORM)
            scale = scale / np.sqrt(var + EPS)      # (w x - mean) scale + shift = (w scale) x + (shift - mean scale)
            weight = tensors[f"{name}.conv.weight"].transpose(2, 3, 1, 0) * scale           # (kh, kw, C, K)
            self.convs[name] = _float32(weight), _float32(shift - mean * scale)
        self.fc = _float32(tensors["fc.weight"].T), _float32(tensors["fc.bias"])

    def measure(self, images):
        """uint8 (N, H, W, 3), or (N, H, W, 1) for grey -> features (N, 2048), probabilities (N, classes)

        The last layer's bias is included, as in the graph's softmax; some implementations of the score omit it.
        Raises ValueError for images of another shape or type.
        """
        features = self._run(NETWORK, prepare(images)).mean(axis=(1, 2))
        probabilities, _ = ops.softmax(ops.linear(features, *self.fc)[0])
        return features, probabilities

    def _run(self, parts, x, prefix=""):
        xp = array_module(x)
        for part in parts:
            if isinstance(part, Conv):
                x, _ = ops.conv2d(x, *self.convs[prefix + part.name], part.stride, part.padding)
                x = xp.maximum(x, 0)
            elif isinstance(part, Fork):
                x = xp.concatenate([self._run(branch, x, prefix + part.name) for branch in part.branches], axis=-1)
            else:
                x = part(x)
        return x


def prepare(images):
    """uint8 (N, H, W, 1 or 3) -> float32 (N, 299, 299, 3) in [-1, 1], grey in all three channels."""
    if images.ndim != 4 or 0 in images.shape or images.shape[3] not in (1, 3) or images.dtype != np.uint8:
        raise ValueError(f"Inception: the images are {images.dtype} {images.shape}; expected uint8 (N, H, W, 1 or 3)")
    # The sampling points are those of pytorch-fid. The TensorFlow graph samples row i at i H / 299: different features.
    x = resize(scaled(images), SIZE)
    return x if x.shape[3] == 3 else x.repeat(3, axis=3)


def _float32(a):
    return from_numpy(np.ascontiguousarray(a, np.float32))
