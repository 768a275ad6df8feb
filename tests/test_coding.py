"""Progressive coding: what is sent, what it costs, and what the receiver knows at each step."""

import numpy as np

from tinyddpm.diffusion import coding, likelihood, process, schedule

S = schedule.linear(200, 5e-4, 0.1)
STD = 0.3


def p(xt, t):
    """The optimal reverse process for data from N(0, STD^2)."""
    alpha_bar = S.alpha_bar[t][:, None, None, None].astype(xt.dtype)
    return process.p_mean_variance(S, np.sqrt(alpha_bar) * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar) * xt, xt, t,
                                   clip=False)


def images(n):
    x = np.random.default_rng(1).normal(0, STD, (n, 4, 4, 1))
    return np.clip(np.rint((x + 1) * 127.5), 0, 255).astype(np.uint8)


def test_the_receiver_ends_with_the_data_and_pays_the_bound():
    data = images(400)
    x0 = data / 127.5 - 1
    estimates = list(coding.receive(p, coding.send(p, S, x0, np.random.default_rng(2))))
    assert [e.t for e in estimates] == list(range(200, -1, -1))
    np.testing.assert_array_equal(estimates[-1].x0, x0)
    np.testing.assert_allclose(estimates[0].bits, likelihood.prior_term(S, x0))
    bound = likelihood.evaluate(p, S, data)
    (sent, error), (expected, other) = map(likelihood.mean_and_error, (estimates[-1].bits, bound.total))
    assert abs(sent - expected) < 3 * np.hypot(error, other)


def test_the_estimate_becomes_better_with_the_bits():
    x0 = images(200) / 127.5 - 1
    estimates = list(coding.receive(p, coding.send(p, S, x0, np.random.default_rng(3))))
    errors = np.array([np.sqrt(((e.x0 - x0)**2).mean()) for e in estimates])
    bits = np.array([e.bits.mean() for e in estimates])
    assert np.all(np.diff(bits) > 0)
    assert np.all(np.diff(errors[100::10]) < 0) and errors[0] > 0.9 * STD and errors[-1] == 0


def test_what_is_sent_is_the_forward_process():
    """x_t as sent step by step from T has the distribution of q(x_t | x_0), Eq. 4."""
    x0 = np.full((4000, 1, 1, 1), 0.5)
    for message in coding.send(p, S, x0, np.random.default_rng(4)):
        if message.t in (150, 50, 1):
            alpha_bar = S.alpha_bar[message.t]
            spread = np.sqrt((1 - alpha_bar) / 4000)
            assert abs(message.x.mean() - np.sqrt(alpha_bar) * 0.5) < 4 * spread
            assert abs(message.x.std() / np.sqrt(1 - alpha_bar) - 1) < 4 / np.sqrt(2 * 4000)
