"""The mean squared error, the loss of Eq. 14."""


def mean_squared_error(prediction, target):
    """mean((prediction - target)^2) over all elements. Two arrays of one shape -> a number"""
    if prediction.shape != target.shape:
        raise ValueError(f"mean_squared_error: the prediction is {prediction.shape}, the target {target.shape}")
    difference = prediction - target
    return (difference * difference).mean(), difference


def mean_squared_error_backward(dloss, difference):
    """dloss, a number -> dprediction, shaped like the prediction"""
    return difference * (2 / difference.size * dloss)
