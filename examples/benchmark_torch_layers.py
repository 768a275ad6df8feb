"""The layers of benchmark_models.py in PyTorch."""

import torch
import torch.nn.functional as F


def torch_layer(name, shapes, settings, channels_last):
    """A function that runs a layer forward and backward, in PyTorch's own layout."""
    def convolution(x, w, b, stride=1, padding=None):
        return F.conv2d(F.pad(x, padding * 2), w, b, stride) if padding else F.conv2d(x, w, b, stride, w.shape[2] // 2)

    def heads(z, n):
        return z.unflatten(2, (n, -1)).transpose(1, 2)

    def linear(x, w, b):
        return F.conv2d(x, w[..., None, None], b) if x.ndim == 4 else F.linear(x, w, b)

    layer = {"conv2d": convolution, "conv2d_add": lambda x, w, b, other: convolution(x, w, b) + other, "linear": linear,
             "group_norm": lambda x, gamma, beta, groups, eps: F.group_norm(x, groups, gamma, beta, eps),
             "group_norm_silu": lambda x, gamma, beta, groups, eps: F.silu(F.group_norm(x, groups, gamma, beta, eps)),
             "attention": lambda q, k, v, n: F.scaled_dot_product_attention(heads(q, n), heads(k, n), heads(v, n)),
             "concatenate": lambda a, b: torch.cat([a, b], 1),
             "upsample": lambda x: F.interpolate(x, scale_factor=2)}[name]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    arrays = []
    for i, shape in enumerate(shapes):
        array = torch.randn(shape)
        # (N, H, W, C) -> (N, C, H, W), or (kh, kw, C, K) -> (K, C, kh, kw)
        if array.ndim == 4:
            array = array.permute((3, 2, 0, 1) if name.startswith("conv2d") and i == 1 else (0, 3, 1, 2))
            array = array.contiguous(memory_format=layout)
        elif name == "linear" and i == 1:
            array = array.T.contiguous()
        arrays.append(array.requires_grad_())
    dy = torch.randn_like(layer(*arrays, *settings))

    def step():
        for array in arrays:
            array.grad = None
        layer(*arrays, *settings).backward(dy)

    return step
