"""Losses: the mean squared error of Eq. 14, and the cross entropy of a classifier."""

from tinyddpm import ops
from tinyddpm.backend import array_module


def mean_squared_error(prediction, target):
    """mean((prediction - target)^2) over all elements. Two arrays of the same shape -> a number, and the cache"""
    check_mean_squared_error(prediction, target)
    difference = prediction - target
    return (difference * difference).mean(), difference


def mean_squared_error_backward(dloss, difference):
    """dloss, a number -> dprediction, shaped like the prediction"""
    return difference * (2 / difference.size * dloss)


def check_mean_squared_error(prediction, target):
    """Raise ValueError if the shapes differ."""
    if prediction.shape != target.shape:
        raise ValueError(f"mean_squared_error: the prediction is {prediction.shape}, the target {target.shape}")


def cross_entropy(logits, labels):
    """The mean of -log softmax(logits)[label]. logits (N, K), labels (N,) integers 0..K-1 -> a number, and the cache"""
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"cross_entropy: logits are {logits.shape}, labels {labels.shape}; expected (N, K) and (N,)")
    xp = array_module(logits)
    logits = logits - logits.max(axis=1, keepdims=True)
    log_sum = xp.log(xp.exp(logits).sum(axis=1))
    return (log_sum - logits[xp.arange(len(labels)), labels]).mean(), (logits, labels)


def cross_entropy_backward(dloss, cache):
    """dloss, a number -> dlogits (N, K) = (softmax - one hot) / N"""
    logits, labels = cache
    dlogits, _ = ops.softmax(logits)
    dlogits = dlogits.copy()
    dlogits[array_module(logits).arange(len(labels)), labels] -= 1
    return dlogits * (dloss / len(labels))
