"""The mean squared error in one pass."""

import cupy

from tinyddpm.kernels.gpu.launch import launch_each
from tinyddpm.kernels.gpu.product import column_sums
from tinyddpm.ops.loss import check_mean_squared_error


def mean_squared_error(prediction, target):
    check_mean_squared_error(prediction, target)
    prediction, target = map(cupy.ascontiguousarray, (prediction, target))
    size, dtype = prediction.size, prediction.dtype
    difference, sums = cupy.empty(prediction.shape, dtype), cupy.empty((1, -(-size // 256), 1), dtype)
    launch_each("squared_error", dtype, size, prediction, target, difference, sums)
    return column_sums(sums)[0, 0] / size, difference
