"""The two processes: q adds noise, p removes it; and the formulas that relate x_0, eps, v and the mean.

Throughout, s is a Schedule, x0, xt, eps and the like are arrays (N, ...) of one shape, and t is an
integer 1..T or a NumPy array (N,) of them. The arguments come in the order s, x0, xt, t, then the rest.
"""

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion.schedule import per_sample


def q_step(s, x_previous, t, z):
    """x_t from x_{t-1}, with z standard normal (Eq. 2)."""
    beta = s.beta[t]
    return per_sample(np.sqrt(1 - beta), z) * x_previous + per_sample(np.sqrt(beta), z) * z      # Eq. 2


def q_sample(s, x0, t, eps):
    """x_t from x_0 in one jump, with eps standard normal (Eq. 4)."""
    alpha_bar = s.alpha_bar[t]
    return per_sample(np.sqrt(alpha_bar), x0) * x0 + per_sample(np.sqrt(1 - alpha_bar), x0) * eps      # Eq. 4


def posterior_coefficients(s, t):
    """The factors of x_0 and of x_t in mu_tilde_t (Eq. 7), in float64."""
    alpha_bar, previous = s.alpha_bar[t], s.alpha_bar[t - 1]
    from_x0 = np.sqrt(previous) * s.beta[t] / (1 - alpha_bar)                                    # Eq. 7
    from_xt = np.sqrt(s.alpha[t]) * (1 - previous) / (1 - alpha_bar)
    return from_x0, from_xt


def q_posterior(s, x0, xt, t):
    """The mean mu_tilde_t and the variance beta_tilde_t of q(x_{t-1} | x_t, x_0) (Eq. 6)."""
    return mu_from_x0(s, x0, xt, t), per_sample(s.beta_tilde[t], xt)                             # Eq. 6


def p_mean_variance(s, x0, xt, t, clip=True, variance="large", v=None):
    """The reverse step p(x_{t-1} | x_t) for a predicted x_0 (Eq. 1).

    clip: limit x_0 to the data's range [-1, 1] before the mean is computed
    variance: "large" or "small" as in Schedule.variance, or "learned", for which v is the network's output
    Returns the mean, the variance and the x_0 from which the mean was computed.
    """
    if clip:
        x0 = array_module(x0).clip(x0, -1, 1)
    if variance == "learned":
        sigma2 = array_module(xt).exp(learned_log_variance(s, t, v))
    else:
        sigma2 = per_sample(s.variance(variance)[t], xt)
    return mu_from_x0(s, x0, xt, t), sigma2, x0


def learned_log_variance(s, t, v):
    """log sigma_t^2, from log beta_tilde_t at v = -1 to log beta_t at v = 1 (Eq. 15 of Nichol and Dhariwal 2021)."""
    slope = log_variance_slope(s, t)
    return per_sample(np.log(s.beta[t]) - slope, v) + per_sample(slope, v) * v


def log_variance_slope(s, t):
    """The derivative of the learned log variance with respect to v: half of log beta_t - log beta_tilde_t."""
    return (np.log(s.beta[t]) - np.log(s.variance("small")[t])) / 2


def x0_from_eps(s, xt, t, eps):
    """The x_0 from which this noise leads to x_t (Eq. 15)."""
    alpha_bar = s.alpha_bar[t]
    return (xt - per_sample(np.sqrt(1 - alpha_bar), xt) * eps) / per_sample(np.sqrt(alpha_bar), xt)      # Eq. 15


def eps_from_x0(s, x0, xt, t):
    """The noise that leads from x_0 to x_t: Eq. 4 solved for eps."""
    alpha_bar = s.alpha_bar[t]
    return (xt - per_sample(np.sqrt(alpha_bar), xt) * x0) / per_sample(np.sqrt(1 - alpha_bar), xt)


def mu_from_x0(s, x0, xt, t):
    """mu_tilde_t(x_t, x_0), the mean of the reverse step for a known or predicted x_0 (Eq. 7)."""
    from_x0, from_xt = posterior_coefficients(s, t)
    return per_sample(from_x0, xt) * x0 + per_sample(from_xt, xt) * xt


def x0_from_mu(s, xt, t, mu):
    """The x_0 for which mu_tilde_t is mu: Eq. 7 solved for x_0."""
    from_x0, from_xt = posterior_coefficients(s, t)
    return (mu - per_sample(from_xt, xt) * xt) / per_sample(from_x0, xt)


def mu_from_eps(s, xt, t, eps):
    """The mean of the reverse step for a predicted noise (Eq. 11); for the true noise, the target of Eq. 9-10."""
    factor = s.beta[t] / np.sqrt(1 - s.alpha_bar[t])
    return (xt - per_sample(factor, xt) * eps) / per_sample(np.sqrt(s.alpha[t]), xt)             # Eq. 11


def v_from_x0(s, x0, t, eps):
    """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans and Ho 2022)."""
    alpha_bar = s.alpha_bar[t]
    return per_sample(np.sqrt(alpha_bar), x0) * eps - per_sample(np.sqrt(1 - alpha_bar), x0) * x0


def x0_from_v(s, xt, t, v):
    """x_0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v"""
    alpha_bar = s.alpha_bar[t]
    return per_sample(np.sqrt(alpha_bar), xt) * xt - per_sample(np.sqrt(1 - alpha_bar), xt) * v


def x0_from_u(s, xt, t, u):
    """The x_0 for the velocity u = eps - x_0 of the straight path (1 - w) x_0 + w eps, of which x_t is a multiple."""
    signal, noise = np.sqrt(s.alpha_bar[t]), np.sqrt(1 - s.alpha_bar[t])
    return (xt - per_sample(noise, xt) * u) / per_sample(signal + noise, xt)
