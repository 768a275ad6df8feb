"""Join two feature maps by adding them, or by concatenating their channels, as the skip connections of a U-Net do."""

from tinyddpm.backend import array_module


def add(a, b):
    """a + b, two arrays of the same shape. There is no backward: the gradient of the sum is that of both terms."""
    check_add(a, b)
    return a + b


def concatenate(a, b):
    """Concatenate the channels. a (..., C1), b (..., C2) -> y (..., C1 + C2)"""
    check_concatenate(a, b)
    return array_module(a).concatenate([a, b], axis=-1), a.shape[-1]


def concatenate_backward(dy, channels):
    """dy (..., C1 + C2) -> da (..., C1), db (..., C2)"""
    return dy[..., :channels], dy[..., channels:]


def check_add(a, b):
    """Raise ValueError if the shapes differ."""
    if a.shape != b.shape:
        raise ValueError(f"add: a is {a.shape}, b {b.shape}; expected one shape")


def check_concatenate(a, b):
    """Raise ValueError if the shapes differ in any axis but the last."""
    if a.shape[:-1] != b.shape[:-1]:
        raise ValueError(f"concatenate: a is {a.shape}, b {b.shape}; expected them to differ in the last axis only")
