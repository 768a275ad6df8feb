"""Answers to the homework questions that the library does not answer, as a learner would write them."""

import math

import numpy as np

# ---- 1 ----

def correlated(mean, covariance, z):
    return mean + z @ np.linalg.cholesky(covariance).T


def rescale(images, low, high):
    return low + (high - low) * (images.astype(np.float64) / 255)


# ---- 2 ----

def sigmoid_betas(T, start=-6, end=6, beta_1=1e-4, beta_T=0.02):
    u = np.linspace(start, end, T)
    return np.append(0.0, beta_1 + (beta_T - beta_1) / (1 + np.exp(-u)))


# ---- 3 ----

def mixture_eps(x, alpha_bar, means, sigma, weights):
    away = x[:, None] - math.sqrt(alpha_bar) * means
    variance = alpha_bar * sigma**2 + 1 - alpha_bar
    logits = np.log(weights) - (away**2).sum(axis=2) / (2 * variance)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return math.sqrt(1 - alpha_bar) / variance * (p[..., None] * away).sum(axis=1)


# ---- 4 ----

def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), x


def softplus_backward(dy, cache):
    return dy * 0.5 * (1 + np.tanh(0.5 * cache))


def unit_rows(x):
    length = np.sqrt((x**2).sum(axis=1, keepdims=True))
    y = x / length
    return y, (y, length)


def unit_rows_backward(dy, cache):
    y, length = cache
    return (dy - y * (dy * y).sum(axis=1, keepdims=True)) / length


# ---- 5 ----

def momentum_step(values, grads, velocity, lr, momentum):
    velocity *= momentum
    velocity += grads
    values -= lr * velocity


def learning_rate(step, total, lr, warmup):
    if step <= warmup:
        return lr * step / warmup
    return lr * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


def clip_by_norm(grads, largest):
    norm = math.sqrt(sum((g**2).sum() for g in grads))
    factor = min(1, largest / norm)
    return [factor * g for g in grads], norm


# ---- 6 ----

def dilated_conv2d(x, w, b, dilation):
    kh, kw = w.shape[:2]
    top, left = kh // 2 * dilation, kw // 2 * dilation
    padded = np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)))
    y = 0
    for p in range(kh):
        for q in range(kw):
            y = y + padded[:, p * dilation:p * dilation + x.shape[1], q * dilation:q * dilation + x.shape[2]] @ w[p, q]
    return y + b, (x, w, dilation)


def dilated_conv2d_backward(dy, cache):
    x, w, dilation = cache
    kh, kw, C, K = w.shape
    top, left = kh // 2 * dilation, kw // 2 * dilation
    padded = np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)))
    dpadded, dw = np.zeros_like(padded), np.zeros_like(w)
    for p in range(kh):
        for q in range(kw):
            place = slice(None), slice(p * dilation, p * dilation + x.shape[1]), slice(q * dilation,
                                                                                       q * dilation + x.shape[2])
            dw[p, q] = padded[place].reshape(-1, C).T @ dy.reshape(-1, K)
            dpadded[place] += dy @ w[p, q].T
    return dpadded[:, top:top + x.shape[1], left:left + x.shape[2]], dw, dy.sum(axis=(0, 1, 2))


# ---- 7 ----

def rms_group_norm(x, gamma, beta, groups, eps):
    grouped = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    scale = 1 / np.sqrt((grouped**2).mean(axis=(1, 3), keepdims=True) + eps)
    return (grouped * scale).reshape(x.shape) * gamma + beta, (x, gamma, scale)


def rms_group_norm_backward(dy, cache):
    x, gamma, scale = cache
    shape = len(x), -1, scale.shape[2], x.shape[-1] // scale.shape[2]
    normal, dnormal = x.reshape(shape) * scale, (dy * gamma).reshape(shape)
    dx = scale * (dnormal - normal * (dnormal * normal).mean(axis=(1, 3), keepdims=True))
    over = tuple(range(x.ndim - 1))
    return dx.reshape(x.shape), (dy * normal.reshape(x.shape)).sum(axis=over), dy.sum(axis=over)


def modulate(x, scale, shift):
    return x * (1 + scale[:, None, None]) + shift[:, None, None], (x, scale)


def modulate_backward(dy, cache):
    x, scale = cache
    return dy * (1 + scale[:, None, None]), (dy * x).sum(axis=(1, 2)), dy.sum(axis=(1, 2))


# ---- 8 ----

def warm_softmax(x, tau):
    logits = x / tau
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return p, (x, tau, p)


def warm_softmax_backward(dp, cache):
    x, tau, p = cache
    dlogits = p * (dp - (p * dp).sum(axis=-1, keepdims=True))
    return dlogits / tau, -(dlogits * x).sum() / tau**2


def masked_softmax(x, mask):
    x = np.where(mask, x, -np.inf)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return p, p


def masked_softmax_backward(dp, cache):
    return cache * (dp - (cache * dp).sum(axis=-1, keepdims=True))


# ---- 9 ----

def mean_downsample(x):
    N, H, W, C = x.shape
    return x.reshape(N, H // 2, 2, W // 2, 2, C).mean(axis=(2, 4)), None


def mean_downsample_backward(dy, cache):
    return dy.repeat(2, axis=1).repeat(2, axis=2) / 4


# ---- 10 ----

def huber(prediction, target, delta):
    d = prediction - target
    size = np.abs(d)
    return np.where(size <= delta, d**2 / 2, delta * (size - delta / 2)).mean(), (d, delta)


def huber_backward(dloss, cache):
    d, delta = cache
    return np.clip(d, -delta, delta) * (dloss / d.size)


# ---- 11 ----

def ddim_invert(eps, s, x, times):
    for now, after in zip(times[:-1], times[1:]):
        noise = eps(x, np.full(len(x), now))
        x0 = (x - np.sqrt(1 - s.alpha_bar[now]) * noise) / np.sqrt(s.alpha_bar[now])
        x = np.sqrt(s.alpha_bar[after]) * x0 + np.sqrt(1 - s.alpha_bar[after]) * noise
    return x


def slerp(a, b, weight):
    shape = -1, *[1] * (a.ndim - 1)
    flat_a, flat_b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    cosine = (flat_a * flat_b).sum(axis=1) / (np.linalg.norm(flat_a, axis=1) * np.linalg.norm(flat_b, axis=1))
    angle = np.arccos(cosine).reshape(shape)
    return (np.sin((1 - weight) * angle) * a + np.sin(weight * angle) * b) / np.sin(angle)


# ---- 12 ----

def decoder_of_levels(x0, mean, sigma, levels):
    half = 1 / (levels - 1)
    cdf = np.vectorize(lambda z: (1 + math.erf(z / math.sqrt(2))) / 2)
    low = np.where(x0 < -1 + half, 0.0, cdf((x0 - half - mean) / sigma))
    high = np.where(x0 > 1 - half, 1.0, cdf((x0 + half - mean) / sigma))
    return np.log(high - low)


# ---- 13 ----

def weights_of_x0(s, t):
    alpha_bar, before = s.alpha_bar[t], s.alpha_bar[t - 1]
    return alpha_bar / (1 - alpha_bar), 1 / (1 - alpha_bar), before * s.beta[t]**2 / (1 - alpha_bar)**2


def eps_from_v(s, xt, t, v):
    alpha_bar = np.asarray(s.alpha_bar[t]).reshape(-1, *[1] * (xt.ndim - 1))
    return np.sqrt(alpha_bar) * v + np.sqrt(1 - alpha_bar) * xt


def min_snr_weights(s, t, gamma):
    return np.minimum(s.snr[t], gamma) / s.snr[t]


# ---- 14 ----

def to_bf16(x):
    bits = x.view(np.uint32)
    rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000
    return rounded.astype(np.uint32).view(np.float32)


def next_scale(scale, good, finite, grow_after):
    if not finite:
        return scale / 2, 0
    if good + 1 == grow_after:
        return scale * 2, 0
    return scale, good + 1


def my_part(batch, rank, size):
    each = len(batch) // size
    return batch[rank * each:(rank + 1) * each]


# ---- 15 ----

def posterior_score(x, alpha_bar, means, sigma, weights, k):
    variance = alpha_bar * sigma**2 + 1 - alpha_bar
    scores = -(x[:, None] - np.sqrt(alpha_bar) * means) / variance
    share = weights * np.exp(-scores**2 * variance / 2)
    share = share / share.sum(axis=1, keepdims=True)
    return scores[:, k] - (share * scores).sum(axis=1)


def classifier_free(network, xt, t, labels, nothing, w, interval=None):
    N, none = len(xt), np.full(len(xt), nothing)
    if interval and not interval[0] <= t[0] <= interval[1]:
        w = 1
    if w in (0, 1):
        return network(xt, t, labels if w else none)
    both = network(np.concatenate([xt, xt]), np.concatenate([t, t]), np.concatenate([labels, none]))
    return both[N:] + w * (both[:N] - both[N:])


# ---- 16 ----

def midpoint(eps, y, sigmas):
    for sigma, after in zip(sigmas, sigmas[1:]):
        h = after - sigma
        y = y + h * eps(y + h / 2 * eps(y, sigma), sigma + h / 2)
    return y


def hutchinson(transposed, signs):
    each = np.stack([u * transposed(u) for u in signs])
    return each.reshape(*each.shape[:2], -1).sum(axis=2).mean(axis=0)


# ---- 17 ----

def conditional(mean, covariance, known, values):
    others = np.setdiff1d(np.arange(len(mean)), known)
    gain = covariance[np.ix_(others, known)] @ np.linalg.inv(covariance[np.ix_(known, known)])
    return (mean[others] + gain @ (values - mean[known]),
            covariance[np.ix_(others, others)] - gain @ covariance[np.ix_(known, others)])


# ---- 18 ----

def flow(velocity, z, positions):
    path = [z]
    for r, after in zip(positions, positions[1:]):
        path.append(path[-1] + (after - r) * velocity(path[-1], r))
    return np.stack(path)


def two_in_one(s, teacher, xt, t, after):
    def move(x, x0, t, after):
        eps = (x - column(s.alpha_bar[t]) * x0) / column(1 - s.alpha_bar[t])
        return column(s.alpha_bar[after]) * x0 + column(1 - s.alpha_bar[after]) * eps

    column = lambda values: np.sqrt(np.asarray(values))[:, None]
    middle = (t + after) / 2
    x = move(xt, teacher(xt, t), t, middle)
    end = move(x, teacher(x, middle), middle, after)
    kept = column((1 - s.alpha_bar[after]) / (1 - s.alpha_bar[t]))
    a, b = column(s.alpha_bar[t]), column(s.alpha_bar[after])
    return (end - kept * xt) / (b - kept * a)


# ---- 19 ----

def masked(x0, t, T, K, u):
    each = np.asarray(t).reshape(-1, *[1] * (x0.ndim - 1))
    return np.where(u < 1 - each / T, x0, K)


def posterior(x0, xt, t, T, K):
    values, ratio = np.arange(K), (1 - t / T) / (1 - (t - 1) / T)
    joint = ((ratio * (values == xt) + (1 - ratio) / K)
             * ((1 - (t - 1) / T) * (values == x0) + (t - 1) / T / K))
    return joint / joint.sum()


def bound(shares, T):
    entropy = lambda p: -(p * np.log2(np.where(p > 0, p, 1))).sum()
    H = entropy(shares)
    return H + (entropy(shares.sum(axis=0)) + entropy(shares.sum(axis=1)) - H) / T


# ---- 20 ----

def push(x, ends, symbol):
    start, f = ends[symbol], ends[symbol + 1] - ends[symbol]
    return x // f * ends[-1] + start + x % f


def pop(x, ends):
    M = ends[-1]
    symbol = sum(end <= x % M for end in ends) - 1
    return symbol, x // M * (ends[symbol + 1] - ends[symbol]) + x % M - ends[symbol]


def frequencies(p, M):
    found = np.floor((M - len(p)) * p).astype(int) + 1
    found[p.argmax()] += M - found.sum()
    return found


def send(stack, x, p_z, p_x, q):
    z = stack.pop(q(x))
    for value in x:
        stack.push(p_x[z], value)
    stack.push(p_z, z)


def receive(stack, D, p_z, p_x, q):
    z = stack.pop(p_z)
    x = [stack.pop(p_x[z]) for _ in range(D)][::-1]
    stack.push(q(x), z)
    return x


def net_length(p_z, p_x, q):
    joint = p_z[:, None] * p_x
    pairs = joint.sum(axis=0) * q
    bits = np.log2(np.where(q > 0, q, 1)) - np.log2(joint)
    return (pairs * bits).sum()
