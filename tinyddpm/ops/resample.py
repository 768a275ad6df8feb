"""Changes of resolution without parameters: upsampling, folding patches into channels, the mean over all pixels."""

from tinyddpm import ops
from tinyddpm.backend import array_module


def upsample(x):
    """Each pixel becomes a 2x2 square. x (N, H, W, C) -> y (N, 2H, 2W, C)"""
    return x.repeat(2, axis=1).repeat(2, axis=2), None


def upsample_backward(dy, cache):
    """Each pixel collects the gradient of its square. dy (N, 2H, 2W, C) -> dx (N, H, W, C)"""
    N, H, W, C = dy.shape
    return dy.reshape(N, H // 2, 2, W // 2, 2, C).sum(axis=(2, 4))


def patchify(x, size):
    """Fold each size x size patch into the channels. x (N, H, W, C) -> y (N, H / size, W / size, size size C)"""
    N, H, W, C = x.shape
    if H % size or W % size:
        raise ValueError(f"patchify: x is {x.shape}; its sides are not divisible by the patch size {size}")
    y = x.reshape(N, H // size, size, W // size, size, C).swapaxes(2, 3)
    return y.reshape(N, H // size, W // size, size * size * C), size


def patchify_backward(dy, size):
    """Unfold the channels again. dy (N, H, W, size size C) -> dx (N, size H, size W, C)"""
    N, H, W, C = dy.shape
    dx = dy.reshape(N, H, W, size, size, C // size**2).swapaxes(2, 3)
    return dx.reshape(N, size * H, size * W, C // size**2)


def unpatchify(x, size):
    """The inverse of patchify, which is also its transpose. x (N, H, W, size size C) -> y (N, size H, size W, C)"""
    N, H, W, C = x.shape
    _, cache = ops.patchify(array_module(x).zeros((N, size * H, size * W, C // size**2), x.dtype), size)
    return ops.patchify_backward(x, cache), size


def unpatchify_backward(dy, size):
    """dy (N, size H, size W, C) -> dx (N, H, W, size size C)"""
    return ops.patchify(dy, size)[0]


def mean_pool(x):
    """The mean over all pixels. x (N, H, W, C) -> y (N, C)"""
    return x.mean(axis=(1, 2)), x.shape


def mean_pool_backward(dy, shape):
    """dy (N, C) -> dx (N, H, W, C)"""
    N, H, W, C = shape
    return array_module(dy).broadcast_to(dy[:, None, None] / (H * W), shape)
