"""Dropout (Srivastava et al. 2014). The mask is an argument, so that nothing here is random."""


def dropout(x, mask):
    """y = x mask. The mask holds 0 with probability p and 1 / (1 - p) otherwise, so that E[y] = x."""
    return x * mask, mask


def dropout_backward(dy, mask):
    """dx = dy mask"""
    return dy * mask
