"""The readable operations: each is a forward and its backward, in array code that runs on both NumPy and CuPy.

`y, cache = op(x, ...)` and `dx, ... = op_backward(dy, cache)`, with one gradient for each array
argument. They are pure: they hold no parameters, draw no random numbers and change no argument
(except dropout, which draws its mask, and adam_ema, which updates its arguments in place).
Letters: N batch, H, W, C input channels, K output channels, G groups, L = H W positions.

This package is also the table of operations: layers call `ops.conv2d(...)`, and `tinyddpm.use` can replace
the function of that name by a faster twin or by your own. The files, such as ops/conv.py, always
hold the readable operations.
"""

from tinyddpm.ops.activation import silu, silu_backward
from tinyddpm.ops.attention import attention, attention_backward, softmax, softmax_backward
from tinyddpm.ops.concatenate import add, concatenate, concatenate_backward
from tinyddpm.ops.conv import conv2d, conv2d_add, conv2d_add_backward, conv2d_backward
from tinyddpm.ops.dropout import dropout, dropout_backward
from tinyddpm.ops.embedding import embedding, embedding_backward, time_embedding
from tinyddpm.ops.linear import linear, linear_backward
from tinyddpm.ops.loss import cross_entropy, cross_entropy_backward, mean_squared_error, mean_squared_error_backward
from tinyddpm.ops.norm import group_norm, group_norm_backward, group_norm_silu, group_norm_silu_backward
from tinyddpm.ops.precision import narrow, narrow_backward, widen, widen_backward
from tinyddpm.ops.resample import (mean_pool, mean_pool_backward, patchify, patchify_backward, unpatchify,
                                   unpatchify_backward, upsample, upsample_backward)
from tinyddpm.ops.update import adam_ema, squared_norm
