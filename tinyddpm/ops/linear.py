"""The linear map (dense layer, and the 1x1 convolution)."""


def linear(x, w, b):
    """y = x w + b over the last axis.

    x (..., C), w (C, K), b (K,) -> y (..., K)
    """
    return x @ w + b, (x, w)


def linear_backward(dy, cache):
    """dy (..., K) -> dx (..., C), dw (C, K), db (K,)"""
    x, w = cache
    rows, drows = x.reshape(-1, w.shape[0]), dy.reshape(-1, w.shape[1])
    return dy @ w.T, rows.T @ drows, drows.sum(axis=0)
