"""The tasks of homework 05."""

import math

import numpy as np
from tasks import library, question

from tinyddpm.ops import update

IMPORTS = "import math\n\nimport numpy as np\n\nfrom tinyddpm.backend import array_module"


def adam_ema(f, rng):
    names = "values", "m", "v", "ema"
    values, grads, m, ema = rng.standard_normal((4, 7))
    v = rng.uniform(0, 2, 7)
    for step in (1, 2, 500):
        f.adam_ema(values, grads, m, v, ema, step, 0.1, 0.9, 0.99, 1e-3, 0.5, 0.8)
        for name, a in zip(names, (values, m, v, ema)):
            yield f"{name} after step {step}", a.copy()
    for bad in (math.nan, math.inf):
        f.adam_ema(values, grads, m, v, ema, 3, 0.1, 0.9, 0.99, 1e-8, bad, 0.8)
        for name, a in zip((*names, "grads"), (values, m, v, ema, grads)):
            yield f"{name} after a step whose grad_scale is {bad}", a.copy()


def momentum_step(f, rng):
    values, velocity = rng.standard_normal((2, 6))
    for i in range(3):
        grads = rng.standard_normal(6)
        f.momentum_step(values, grads, velocity, 0.1, 0.9)
        yield f"grads after step {i + 1}", grads
        yield f"velocity after step {i + 1}", velocity.copy()
        yield f"values after step {i + 1}", values.copy()


def learning_rate(f, rng):
    lr = rng.uniform(0.01, 0.1)
    for total, warmup in ((100, 10), (int(rng.integers(40, 80)), int(rng.integers(2, 9))), (20, 0)):
        for step in (1, warmup or 2, warmup + 1, total // 2, total):
            what = f"learning_rate at step {step} of {total}, {warmup} of them warm-up"
            yield what, f.learning_rate(step, total, lr, warmup)


def clip_by_norm(f, rng):
    for scale in (0.01, 10.0):
        grads = [scale * rng.standard_normal(shape) for shape in ((3, 2), (4,))]
        largest = rng.uniform(0.5, 3)
        given = [g.copy() for g in grads]
        clipped, norm = f.clip_by_norm(given, largest)
        yield f"the gradients after the call, of size {scale}", np.concatenate([g.ravel() for g in given])
        yield f"the norm, gradients of size {scale}", norm
        for i, g in enumerate(clipped):
            yield f"array {i} after clipping, gradients of size {scale}", g


def momentum_answer(values, grads, velocity, lr, momentum):
    for i in range(len(values)):
        velocity[i] = momentum * velocity[i] + grads[i]
        values[i] = values[i] - lr * velocity[i]


def clip_answer(grads, largest):
    norm = math.sqrt(sum(float(x)**2 for g in grads for x in g.ravel()))
    return [g * (largest / norm if norm > largest else 1) for g in grads], norm


OPEN = ("Leave out the correction of Adam's moments in the valley of the lesson, and plot the first twenty steps of "
        "both. Are the uncorrected ones shorter or longer?",
        "Longer. Both moments start too small, but the root of the second is too small by more: after one step m is "
        "0.1 g and the root of v is sqrt(0.001) |g|, so the first step has the length 0.1 / sqrt(0.001) = 3.16 "
        "learning rates. It takes thousands of steps until v, with its decay of 0.999, has caught up. Without the "
        "correction, warm-up is not a luxury.")

TASKS = [
    library("5.1", "Adam and the moving average", 4, adam_ema, [update.adam_ema],
            adam_ema=["it writes into its arrays: use +=, not = ", "the two moments, as running means of g and g^2",
                      "both corrected for their start at 0",
                      "the update, and the average after it"]),
    question("5.2", "Momentum", 2, momentum_step, '''
def momentum_step(values, grads, velocity, lr, momentum):
    """velocity = momentum velocity + grads; values = values - lr velocity. Both are changed in place; (P,) each."""
''', {"momentum_step": momentum_answer}, momentum_step=["in place: the caller's arrays change"]),
    question("5.3", "Warm-up and a cosine", 2, learning_rate, '''
def learning_rate(step, total, lr, warmup):
    """For step = 1..total: lr step / warmup in the first `warmup` steps, then along half a cosine from lr to 0 at
    `total`."""
''', {"learning_rate": lambda step, total, lr, warmup: lr * step / warmup if step <= warmup
      else lr * math.cos(math.pi / 2 * (step - warmup) / (total - warmup))**2},
             learning_rate=["(1 + cos(pi u)) / 2 falls from 1 to 0 while u rises from 0 to 1"]),
    question("5.4", "Clipping by the norm", 2, clip_by_norm, '''
def clip_by_norm(grads, largest):
    """Scale a list of arrays down together where their common length exceeds `largest`. Returns the new list and the
    length before."""
''', {"clip_by_norm": clip_answer}, clip_by_norm=["one norm over all arrays together", "never scale up"]),
]
