"""The activation function of the whole network: SiLU, also called swish."""

from tinyddpm.backend import array_module


def sigmoid(x):
    """1 / (1 + exp(-x)), written with tanh, which cannot overflow."""
    return 0.5 * array_module(x).tanh(0.5 * x) + 0.5


def silu(x):
    """y = x sigmoid(x), elementwise. x and y have the same shape."""
    return x * sigmoid(x), x


def silu_backward(dy, x):
    """dx = dy s (1 + x (1 - s)) with s = sigmoid(x)."""
    s = sigmoid(x)
    return dy * s * (1 + x * (1 - s))
