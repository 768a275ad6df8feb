"""Joining two feature maps, as every skip connection of the U-Net does."""

from tinyddpm.backend import array_module


def concatenate(a, b):
    """Side by side in the channels. a (..., C1), b (..., C2) -> y (..., C1 + C2)"""
    return array_module(a).concatenate([a, b], axis=-1), a.shape[-1]


def concatenate_backward(dy, channels):
    """dy (..., C1 + C2) -> da (..., C1), db (..., C2)"""
    return dy[..., :channels], dy[..., channels:]
