"""The mean squared error in one pass."""

import cupy

from tinyddpm.kernels.gpu.launch import launch_each
from tinyddpm.kernels.gpu.product import column_sums
from tinyddpm.ops.loss import check_mean_squared_error


def mean_squared_error(prediction, target):
    check_mean_squared_error(prediction, target)
    difference, sums = cupy.empty(prediction.shape, prediction.dtype), cupy.empty((1, -(-prediction.size // 256), 1), prediction.dtype)
    launch_each("squared_error", prediction.dtype, prediction.size, *map(cupy.ascontiguousarray, (prediction, target)), difference, sums)
    return column_sums(sums)[0, 0] / prediction.size, difference
