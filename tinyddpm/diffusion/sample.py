"""From noise to data: the paper's Algorithm 2, and DDIM, which takes fewer steps.

Both are generators that yield a Step for each step of the way, so that the caller can watch, draw or
stop; `last` runs one to its end. p(xt, t), t (N,), is the reverse process: the mean, the variance and the
x_0 of p(x_{t-1} | x_t), see objective.reverse_process and process.p_mean_variance.
"""

import math
from collections import namedtuple

import numpy as np

from tinyddpm.backend import array_module, generator, state, to_numpy
from tinyddpm.diffusion.objective import reverse_process
from tinyddpm.diffusion.process import eps_from_x0
from tinyddpm.diffusion.schedule import per_sample

BATCH = 64                      # images that are sampled together
PIXELS_ON_GPU = 2**18           # or, on a GPU, in how many pixels: 256 images of 32x32

Step = namedtuple("Step", "t x x0")
Step.__doc__ = """After a step from time t: x, the new and less noisy image, and x0, the estimate of the data it was made from."""


def ddpm(p, xt, rng, start):
    """Algorithm 2, from t = start, T for new images, down to 1.

    xt (N, ...): x at that time, for T standard normal noise; rng: the generator of the noise of each step
    """
    x = xt
    for t in range(start, 0, -1):
        mean, sigma2, x0 = p(x, np.full(len(x), t))
        if t > 1:
            x = mean + array_module(x).sqrt(sigma2) * rng.standard_normal(x.shape, dtype=x.dtype)     # Algorithm 2, line 4
        else:
            x = mean                                                     # z = 0 at t = 1
        yield Step(t, x, x0)


def ddim(p, s, xT, rng, steps=50, eta=0.0):
    """DDIM (Song, Meng, Ermon 2020, their Eq. 12): `steps` times spread evenly over 1..T, T and 1 included.

    eta scales the noise of each step: 0 makes the result a function of xT, 1 makes the steps
    Algorithm 2's with the small variance. The last step goes from t = 1 to the data.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"ddim: eta is {eta}; expected 0 to 1")
    x, times = xT, ddim_times(s.T, steps)
    for t, previous in zip(times, [*times[1:], 0]):
        _, _, x0 = p(x, np.full(len(x), t))
        eps = eps_from_x0(s, x, t, x0)
        alpha_bar, alpha_bar_previous = s.alpha_bar[t], s.alpha_bar[previous]
        sigma = eta * np.sqrt((1 - alpha_bar_previous) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_previous))
        x = per_sample(np.sqrt(alpha_bar_previous), x) * x0 + per_sample(np.sqrt(1 - alpha_bar_previous - sigma**2), x) * eps
        if sigma > 0:
            x = x + per_sample(sigma, x) * rng.standard_normal(x.shape, dtype=x.dtype)
        yield Step(t, x, x0)


def ddim_times(T, steps):
    """The times of DDIM, falling from T."""
    if not 1 <= steps <= T:
        raise ValueError(f"ddim: steps is {steps}; expected 1 to T = {T}")
    return [int(t) for t in np.round(np.linspace(T, 1, steps))]


def last(steps):
    """The result of a sampler: x after its last step."""
    for step in steps:
        pass
    return step.x


def generate(model, diffusion, count, seed=0, sampler="ddpm", steps=50, eta=0.0, labels=None, watch=None):
    """`count` new images of a network in evaluation mode, in batches: a NumPy array (count, H, W, C).

    diffusion: the DiffusionConfig that the network was trained with
    sampler: "ddpm" (all T steps) or "ddim" (with steps and eta); labels: None, or (count,) classes
    watch(step, number, total) sees each Step of each batch
    The same seed and count give the same images.
    """
    if sampler not in ("ddpm", "ddim"):
        raise ValueError(f"sampler is {sampler!r}; expected ddpm or ddim")
    s, config = diffusion.make_schedule(), model.config
    batch = BATCH if state.xp is np else max(1, PIXELS_ON_GPU // config.image_size**2)
    total = math.ceil(count / batch) * (s.T if sampler == "ddpm" else steps)
    number, images = 0, []
    for start in range(0, count, batch):
        rng, stop = generator(seed, "sample", start), min(count, start + batch)
        shape = (stop - start, config.image_size, config.image_size, config.image_channels)
        xT = rng.standard_normal(shape, dtype=np.float32)
        p = reverse_process(model, s, diffusion.prediction, diffusion.variance,
                            labels=None if labels is None else labels[start:stop])
        for step in ddpm(p, xT, rng, s.T) if sampler == "ddpm" else ddim(p, s, xT, rng, steps, eta):
            number += 1
            if watch:
                watch(step, number, total)
        images.append(to_numpy(step.x))
    return np.concatenate(images)
