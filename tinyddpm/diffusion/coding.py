"""Progressive coding: data sent as x_T, x_{T-1}, ..., x_0, each more detailed than the last (section 4.3, appendix A).

Minimal random coding could send a sample of q(x_{t-1} | x_t, x_0) to a receiver that knows p(x_{t-1} | x_t) in about
KL(q || p) bits. It is not practical in so many dimensions; as in the paper, its code lengths are counted and the
message is the sample itself.
"""

from collections import namedtuple

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion import process
from tinyddpm.diffusion.likelihood import bound_terms, prior_term

Message = namedtuple("Message", "t x bits")
Message.__doc__ = """What is sent for time t: x_t, and its code length (N,) in bits per dimension."""

Estimate = namedtuple("Estimate", "t x0 bits")
Estimate.__doc__ = """After a message: the receiver's estimate of x_0 (Eq. 15), and the bits (N,) received so far."""


def send(p, s, x0, rng):
    """Algorithm 3: yield the messages for t = T, T - 1, ..., 0 about data x0 (N, ...); the last is x0 itself.

    p(xt, t): the reverse process, which the receiver knows too. The code lengths are L_T, L_{T-1}, ..., L_0 (Eq. 5).
    """
    noise = lambda: rng.standard_normal(x0.shape, dtype=x0.dtype)
    x = process.q_sample(s, x0, s.T, noise())
    yield Message(s.T, x, prior_term(s, x0))                                                # Algorithm 3, line 1
    for t in range(s.T, 0, -1):
        times = np.full(len(x), t)
        mean, variance, _ = p(x, times)
        bits, _ = bound_terms(s, x0, x, times, mean, array_module(x).log(variance))
        mu, beta_tilde = process.q_posterior(s, x0, x, t)
        x = mu + array_module(x).sqrt(beta_tilde) * noise() if t > 1 else x0
        yield Message(t - 1, x, bits)                                                       # lines 3 and 5


def receive(p, messages):
    """Algorithm 4: yield an Estimate of the data after each message; at t = 0 it is the data, without loss."""
    bits = 0
    for message in messages:
        bits = bits + message.bits
        x0 = p(message.x, np.full(len(message.x), message.t))[2] if message.t > 0 else message.x
        yield Estimate(message.t, x0, bits)
