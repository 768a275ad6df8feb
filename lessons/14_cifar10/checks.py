"""The tasks of homework 14."""

import numpy as np
from tasks import library, question, refuses

from tinyddpm import evaluation

IMPORTS = """import numpy as np

from tinyddpm.backend import to_numpy
from tinyddpm.evaluation.fid import trace_sqrt_product       # tr((S1 S2)^(1/2))"""


def fid(f, rng):
    D = int(rng.integers(2, 6))
    a, b = evaluation.Statistics(), evaluation.Statistics()
    a.add(rng.standard_normal((20, D)))
    b.add(1 + 2 * rng.standard_normal((30, D)))
    yield f"the distance of features (20, {D}) and (30, {D})", f.fid(a, b)
    yield "the other way round", f.fid(b, a)
    one = evaluation.Statistics()
    one.add(rng.standard_normal((1, D)))
    yield "result errors: one sample", refuses(f.fid, a, one)


def inception_score(f, rng):
    p = rng.dirichlet(np.full(6, 0.3), 47)
    p[3] = np.eye(6)[2]
    for splits in (1, 5):
        mean, deviation = f.inception_score(p, splits)
        yield f"the mean, {splits} splits", mean
        yield f"the standard deviation, {splits} splits", deviation


def to_bf16(f, rng):
    x = np.concatenate([rng.standard_normal(50) * 10.0**rng.integers(-20, 20, 50),
                        [0, -0.0, 1, -2, 1.00390625, 1.01171875, np.inf, -np.inf]]).astype(np.float32)
    rounded = np.asarray(f.to_bf16(x))
    yield "the type is float32", rounded.dtype == np.float32
    yield "as bits", rounded.astype(np.float32).view(np.uint32).astype(np.int64)


def next_scale(f, rng):
    for scale, good, finite in ((1024.0, 5, True), (1024.0, 9, True), (1024.0, 9, False), (2.0, 0, False)):
        for grow_after in (10, 6):
            if good < grow_after:
                found = f.next_scale(scale, good, finite, grow_after)
                yield f"next_scale({scale}, {good}, {finite}, {grow_after})", np.array(found, float)


def my_part(f, rng):
    batch = rng.standard_normal((12, 2))
    for size in (1, 3, 4):
        for rank in range(size):
            yield f"rank {rank} of {size}", f.my_part(batch, rank, size)


def bf16_answer(x):
    """Of the two nearest numbers with eight bits, the nearer; of two equally near the one whose last bit is 0."""
    out = np.empty_like(x)
    for i, value in enumerate(x):
        if not np.isfinite(value) or value == 0:
            out[i] = value
            continue
        fraction, exponent = np.frexp(np.float64(value))
        out[i] = np.ldexp(np.rint(fraction * 256) / 256, exponent)
    return out


def scale_answer(scale, good, finite, grow_after):
    if not finite:
        return scale / 2, 0
    return (2 * scale, 0) if good + 1 == grow_after else (scale, good + 1)


OPEN = ("Plot the distance of real digits from real digits times the number of samples, and then over 1 / N. What "
        "would the distance be with infinitely many samples?",
        "Distance times N stays near 25 for 50 to 500 samples, so the distance is about 25 / N; over 1 / N it is a "
        "line through a number near 0, which is right, for both are real. With more samples the other set's own "
        "sampling error, 2,500 digits here, remains. For a model, extrapolating this line removes most of what the "
        "number of samples adds, and makes results with different N comparable.")

TASKS = [
    library("14.1", "The Frechet distance", 3, fid, [evaluation.fid],
            fid=["a.mean (D,) and a.covariance (D, D)",
                 "the squared distance of the means, two traces, and twice the trace of the root"]),
    library("14.2", "The Inception score", 3, inception_score, [evaluation.inception_score],
            inception_score=["cut the rows into `splits` parts: rows len(p) i // splits up to len(p) (i + 1) // splits",
                             "exp of the mean KL(p(y|x) || p(y)) in each part, with 0 log 0 = 0",
                             "mean and standard deviation over the parts"]),
    question("14.3", "bfloat16", 3, to_bf16, '''
def to_bf16(x):
    """float32 numbers rounded to bfloat16, to the nearest, ties to the even one, returned as float32. x (N,), no NaN
    -> (N,)

    bfloat16 is the first half of a float32's bits.
    """
''', {"to_bf16": bf16_answer}, to_bf16=["x.view(np.uint32) are the bits",
                                        "add half of what is cut off, a little less where the last kept bit is 0"]),
    question("14.4", "A loss scale that finds itself", 2, next_scale, '''
def next_scale(scale, good, finite, grow_after):
    """The loss scale for the next step, and the steps since its last change: (scale, good).

    Not finite: half of it, and count from 0. After grow_after good steps in a row (this one counts): twice of it,
    from 0.
    """
''', {"next_scale": scale_answer}, next_scale=["three cases"]),
    question("14.5", "Several GPUs", 2, my_part, '''
def my_part(batch, rank, size):
    """The part of a batch that belongs to a rank: `size` equal parts, in order. batch (N, ...), N a multiple of size"""
''', {"my_part": lambda batch, rank, size: np.split(batch, size)[rank]},
my_part=["the mean of the parts' gradients is then the batch's"]),
]
