"""Every operation: its gradient against finite differences, and wrong gradients that the same check must reject."""

import numpy as np
import pytest

from tinyddpm import ops
from tinyddpm.dispatch import READABLE
from tinyddpm.gradcheck import check
from tinyddpm.ops.accumulate import Accumulating
from tinyddpm.ops.conv import conv2d_loops

TOLERANCE = 1e-7


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def times_backward(backward, i, wrong):
    """backward with its gradient number i replaced by wrong(gradient)."""
    def mutant(dy, cache):
        gradients = backward(dy, cache)
        if not isinstance(gradients, tuple):
            return wrong(gradients)
        return tuple(wrong(g) if j == i else g for j, g in enumerate(gradients))
    return mutant


def zero(g):
    return np.zeros_like(g)


def slightly(g):
    return g * (1 + 1e-6)


IMAGES = [(2, 5, 4, 6), (1, 1, 7, 12), (3, 2, 3, 6), (1, 6, 6, 6)]


def cases():
    for shape in ((7, 3), (2, 3, 4, 5), (1, 1)):
        yield f"linear {shape}", ops.linear, ops.linear_backward, (normal(*shape), normal(shape[-1], 4), normal(4))
        yield f"silu {shape}", ops.silu, ops.silu_backward, (5 * normal(*shape),)
        yield f"softmax {shape}", ops.softmax, ops.softmax_backward, (normal(*shape[:-1], 4),)
        yield (f"dropout {shape}", lambda x: ops.dropout(x, np.random.default_rng(2), 0.3), ops.dropout_backward,
               (normal(*shape),))
        target = normal(*shape, seed=1)
        yield (f"mean_squared_error {shape}", lambda p, y=target: ops.mean_squared_error(p, y),
               ops.mean_squared_error_backward, (normal(*shape),))
        yield f"concatenate {shape}", ops.concatenate, ops.concatenate_backward, (normal(*shape),
                                                                                  normal(*shape[:-1], 3))
    for x, kernel, K, stride, padding in [
            ((2, 5, 4, 3), (3, 3), 2, 1, None), ((1, 1, 1, 1), (3, 3), 3, 1, None), ((1, 7, 6, 2), (3, 3), 3, 2, None),
            ((2, 6, 5, 2), (3, 3), 2, 2, (0, 1)), ((1, 5, 6, 2), (5, 3), 2, 1, None),
            ((2, 4, 3, 3), (1, 1), 4, 1, None),
            ((1, 5, 5, 2), (1, 1), 2, 2, None), ((1, 9, 8, 1), (7, 5), 2, 2, (2, 3)),
            ((1, 4, 4, 2), (2, 2), 2, 2, (0, 0))]:
        yield (f"conv2d {x} {kernel} stride {stride} padding {padding}",
               lambda x, w, b, s=stride, p=padding: ops.conv2d(x, w, b, s, p), ops.conv2d_backward,
               (normal(*x), normal(*kernel, x[3], K), normal(K)))
    for other in ((2, 5, 4, 3), (2, 1, 1, 3)):
        yield (f"conv2d_add {other}", ops.conv2d_add, ops.conv2d_add_backward,
               (normal(2, 5, 4, 2), normal(3, 3, 2, 3), normal(3), normal(*other, seed=1)))
    for shape, groups in [(IMAGES[0], 3), (IMAGES[1], 4), (IMAGES[2], 1), (IMAGES[3], 6), ((2, 9, 6), 2)]:
        for name in ("group_norm", "group_norm_silu"):
            yield (f"{name} {shape} G {groups}", lambda x, g, b, n=name, G=groups: getattr(ops, n)(x, g, b, G, 1e-6),
                   getattr(ops, name + "_backward"),
                   (normal(*shape) + 0.5, normal(shape[-1]), normal(shape[-1], seed=1)))
    for shape, heads in [((2, 5, 4), 1), ((1, 7, 6), 3), ((3, 1, 4), 2)]:
        yield (f"attention {shape} heads {heads}", lambda q, k, v, h=heads: ops.attention(q, k, v, h),
               ops.attention_backward, tuple(normal(*shape, seed=s) for s in range(3)))
    for shape in IMAGES[:2]:
        yield f"upsample {shape}", ops.upsample, lambda dy, cache: ops.upsample_backward(dy, cache), (normal(*shape),)
        yield f"mean_pool {shape}", ops.mean_pool, ops.mean_pool_backward, (normal(*shape),)
    for shape, size in [((2, 4, 6, 3), 2), ((1, 3, 9, 1), 3), ((2, 2, 3, 2), 1)]:
        yield f"patchify {shape} by {size}", lambda x, s=size: ops.patchify(x,
                                                                            s), ops.patchify_backward, (normal(*shape),)
        yield (f"unpatchify {shape} by {size}", lambda x, s=size: ops.unpatchify(x, s), ops.unpatchify_backward,
               (normal(*shape[:3], size**2 * shape[3]),))
    for shape in ((4, 3), (1, 2), (5, 7)):
        yield (f"cross_entropy {shape}", lambda x, labels=np.arange(shape[0]) % shape[1]: ops.cross_entropy(x, labels),
               ops.cross_entropy_backward, (normal(*shape),))
    for name in ("narrow", "widen"):
        yield (name, lambda x, f=getattr(ops, name), more=(None,) * (name == "narrow"): f(x, *more),
               getattr(ops, name + "_backward"), (normal(3, 4),))
    yield "embedding", ops.embedding, ops.embedding_backward, (normal(5, 3), np.array([4, 0, 4, 2]))


CASES = {name: rest for name, *rest in cases()}


def test_every_operation_is_among_the_cases():
    assert {name.split()[0] for name in CASES} == {name.removesuffix("_backward") for name in READABLE
                                                   if name.endswith("_backward")}


@pytest.mark.parametrize("name", CASES)
def test_gradient(name):
    forward, backward, arrays = CASES[name]
    assert check(forward, backward, *arrays, tolerance=TOLERANCE) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_the_check_rejects_wrong_gradients(name):
    """A gradient that is zero, or one part in a million too large, fails for each argument of each case."""
    forward, backward, arrays = CASES[name]
    for i in range(sum(a.dtype.kind == "f" for a in arrays)):
        if name.startswith("attention (3, 1") and i < 2:
            continue                            # with one key only, the true gradients of q and k are zero
        for wrong in (zero, slightly):
            with pytest.raises(AssertionError, match=f"argument {i}.*worst at index"):
                check(forward, times_backward(backward, i, wrong), *arrays, tolerance=TOLERANCE)


def conv_that_forgets_the_edge(dy, cache):
    dx, dw, db = ops.conv2d_backward(dy, cache)
    dx[:, 0] = 0
    return dx, dw, db


def conv_with_rotated_kernel(dy, cache):
    dx, dw, db = ops.conv2d_backward(dy, cache)
    return dx, dw[::-1, ::-1], db


def silu_without_its_second_term(dy, x):
    return dy / (1 + np.exp(-x))


def softmax_without_the_sum(dp, p):
    return p * dp


def norm_without(term):
    """group_norm_backward with one of its two subtractions dropped, or with n - 1 instead of n."""
    def backward(dy, cache):
        x, gamma, mean, rstd = cache
        shape = (len(x), -1, mean.shape[2], x.shape[-1] // mean.shape[2])
        n = x[0].size // mean.shape[2]
        normal = (x.reshape(shape) - mean) * rstd
        dn = (dy * gamma).reshape(shape)
        average = lambda a: a.sum(axis=(1, 3), keepdims=True) / (n - 1 if term == "n - 1" else n)
        dx = dn - (0 if term == "mean" else average(dn)) - (0 if term == "variance" else normal * average(dn * normal))
        _, dgamma, dbeta = ops.group_norm_backward(dy, cache)
        return (rstd * dx).reshape(x.shape), dgamma, dbeta
    return backward


def attention_without_scale(dy, cache):
    dq, dk, dv = ops.attention_backward(dy, (*cache[:5], 1.0))
    return dq, dk, dv


def attention_with_q_and_k_swapped(dy, cache):
    dq, dk, dv = ops.attention_backward(dy, cache)
    return dk, dq, dv


def embedding_that_overwrites(dy, cache):
    table, index = cache
    dtable = np.zeros_like(table)
    dtable[index] = dy
    return dtable


def upsample_that_averages(dy, cache):
    return ops.upsample_backward(dy, cache) / 4


MUTANTS = [("conv2d (2, 5, 4, 3) (3, 3) stride 1 padding None", conv_that_forgets_the_edge),
           ("conv2d (2, 6, 5, 2) (3, 3) stride 2 padding (0, 1)", conv_with_rotated_kernel),
           ("silu (7, 3)", silu_without_its_second_term), ("softmax (7, 3)", softmax_without_the_sum),
           ("group_norm (2, 5, 4, 6) G 3", norm_without("mean")),
           ("group_norm (2, 5, 4, 6) G 3", norm_without("variance")),
           ("group_norm (2, 5, 4, 6) G 3", norm_without("n - 1")),
           ("attention (2, 5, 4) heads 1", attention_without_scale),
           ("attention (1, 7, 6) heads 3", attention_with_q_and_k_swapped), ("embedding", embedding_that_overwrites),
           ("upsample (2, 5, 4, 6)", upsample_that_averages)]


@pytest.mark.parametrize("name, mutant", MUTANTS, ids=[f"{n.split()[0]}-{i}" for i, (n, _) in enumerate(MUTANTS)])
def test_the_check_rejects_common_mistakes(name, mutant):
    forward, _, arrays = CASES[name]
    with pytest.raises(AssertionError, match="worst at index"):
        check(forward, mutant, *arrays, tolerance=TOLERANCE)


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith("conv2d ")])
def test_conv2d_equals_the_loops(name):
    forward, _, arrays = CASES[name]
    stride, padding = forward.__defaults__
    np.testing.assert_allclose(forward(*arrays)[0], conv2d_loops(*arrays, stride, padding), rtol=1e-12, atol=1e-12)


def test_conv2d_add_is_a_sum():
    x, w, b, other = normal(2, 5, 4, 3), normal(3, 3, 3, 2), normal(2), normal(2, 1, 1, 2)
    np.testing.assert_allclose(ops.conv2d_add(x, w, b, other)[0], conv2d_loops(x, w, b) + other, rtol=1e-12, atol=1e-12)
    for wrong in ((2,), (1, 1, 1, 2), (2, 5, 4, 3)):
        with pytest.raises(ValueError, match="expected other"):
            ops.conv2d_add(x, w, b, normal(*wrong))


@pytest.mark.parametrize("kernel", [(1, 1), (3, 7), (5, 3), (7, 1)])
def test_without_a_padding_the_size_stays(kernel):
    x, w = np.zeros((1, 6, 5, 2)), normal(*kernel, 2, 3)
    x[0, 3, 2] = 1, 2                                                   # the only pixel
    y = ops.conv2d(x, w, np.zeros(3))[0]
    assert y.shape == (1, 6, 5, 3)
    np.testing.assert_allclose(y[0, 3, 2], x[0, 3, 2] @ w[kernel[0] // 2, kernel[1] // 2], rtol=1e-12)


def test_values_by_their_definitions():
    """Sum by sum: a gradient check accepts a wrong forward with the gradient that belongs to it."""
    x, w, b = normal(2, 3, 4), normal(4, 5), normal(5)
    expected = [[[b[k] + sum(x[n, i, c] * w[c, k] for c in range(4)) for k in range(5)] for i in range(3)]
                for n in range(2)]
    np.testing.assert_allclose(ops.linear(x, w, b)[0], expected, rtol=1e-12)

    a, target = normal(3, 2), normal(3, 2, seed=1)
    assert ops.mean_squared_error(a, target)[0] == pytest.approx(
        sum((a[i, j] - target[i, j])**2 for i in range(3) for j in range(2)) / 6, rel=1e-12)

    q, k, v = (normal(2, 3, 4, seed=s) for s in range(3))
    y = ops.attention(q, k, v, 2)[0]
    for n, head, i in np.ndindex(2, 2, 3):
        its = slice(2 * head, 2 * head + 2)
        scores = [np.exp(q[n, i, its] @ k[n, j, its] / np.sqrt(2)) for j in range(3)]
        mixed = sum(score * v[n, j, its] for j, score in enumerate(scores)) / sum(scores)
        np.testing.assert_allclose(y[n, i, its], mixed, rtol=1e-12)

    x, gamma, beta = normal(2, 3, 2, 6), normal(6), normal(6, seed=1)
    normed, activated = ops.group_norm(x, gamma, beta, 2, 0.3)[0], ops.group_norm_silu(x, gamma, beta, 2, 0.3)[0]
    for n, i, j, c in np.ndindex(x.shape):
        group = x[n, :, :, c // 3 * 3:c // 3 * 3 + 3].ravel()
        mean = sum(group) / 18
        value = (x[n, i, j, c] - mean) / (sum((z - mean)**2 for z in group) / 18 + 0.3)**0.5 * gamma[c] + beta[c]
        assert normed[n, i, j, c] == pytest.approx(value, rel=1e-10)
        assert activated[n, i, j, c] == pytest.approx(value / (1 + np.exp(-value)), rel=1e-10)

    x = normal(1, 4, 6, 3)
    doubled, folded = ops.upsample(x)[0], ops.patchify(x, 2)[0]
    for i, j, c in np.ndindex(8, 12, 3):
        assert doubled[0, i, j, c] == x[0, i // 2, j // 2, c]
    for i, j, c in np.ndindex(4, 6, 3):
        assert folded[0, i // 2, j // 2, (i % 2 * 2 + j % 2) * 3 + c] == x[0, i, j, c]
    np.testing.assert_array_equal(ops.unpatchify(folded, 2)[0], x)
    np.testing.assert_allclose(ops.mean_pool(x)[0][0], [x[..., c].sum() / 24 for c in range(3)], rtol=1e-12)
    np.testing.assert_array_equal(ops.embedding(x[0, 0], np.array([2, 2, 5]))[0], x[0, 0][[2, 2, 5]])
    kept, _ = ops.dropout(np.full(10_000, 3.0), np.random.default_rng(0), 0.25)
    assert set(kept) == {0, 4} and abs((kept == 0).mean() - 0.25) < 0.02
    assert [part.tolist() for part in np.split(ops.concatenate(x, 2 * x)[0], 2, axis=3)] == [x.tolist(),
                                                                                             (2 * x).tolist()]
    np.testing.assert_array_equal(ops.add(x, 2 * x), 3 * x)


def test_gradients_that_accumulate():
    @Accumulating
    def add(dy, cache, dw, db):
        dw += 2
        db += dy.sum()
        return cache[0]

    w, dw, db = np.zeros((3, 2, 4), np.float32), np.ones((3, 2, 4)), np.ones(4)
    assert add.add(np.ones(2), ("dx", w), dw, db) == "dx" and (dw == 3).all() and (db == 3).all()
    dx, dw, db = add(np.ones(2), ("dx", w))
    assert dx == "dx" and dw.shape == (3, 2, 4) and (dw == 2).all() and db.shape == (4,) and (db == 2).all()
    dx, dw, db, dother = Accumulating(lambda *arguments: ("dx", "dother"))(np.ones(2), (None, w))
    assert (dx, dother) == ("dx", "dother") and dw.shape == (3, 2, 4)


def test_group_norm_normalizes():
    x = 3 * normal(2, 5, 4, 6) + 7
    y, _ = ops.group_norm(x, np.ones(6), np.zeros(6), 3, 1e-6)
    groups = y.reshape(2, 20, 3, 2)
    np.testing.assert_allclose(groups.mean(axis=(1, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(groups.var(axis=(1, 3)), 1, rtol=1e-5)


def test_silu_and_softmax_far_from_zero():
    """No overflow, in value or gradient, where exp would overflow."""
    x = np.array([[-1e4, -800.0, 0.0, 800.0, 1e4]])
    with np.errstate(all="raise"):
        y, cache = ops.silu(x)
        dx = ops.silu_backward(np.ones_like(x), cache)
    np.testing.assert_allclose(y, [[0, 0, 0, 800, 1e4]], atol=1e-12)
    np.testing.assert_allclose(dx, [[0, 0, 0.5, 1, 1]], atol=1e-12)
    np.testing.assert_allclose(ops.softmax(x)[0], [[0, 0, 0, 0, 1]])


def test_cross_entropy():
    """It follows its definition, without overflow."""
    logits, labels = normal(4, 3), np.array([2, 0, 1, 1])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert ops.cross_entropy(logits, labels)[0] == pytest.approx(-np.log(p[range(4), labels]).mean(), rel=1e-12)
    assert ops.cross_entropy(np.array([[1e4, -1e4]]), np.array([1]))[0] == pytest.approx(2e4)


def test_time_embedding_is_sines_then_cosines():
    t, width = np.array([1, 2, 1000]), 128
    frequency = np.exp(-np.arange(64) * np.log(10000) / 63)
    angles = np.array([0, 1, 999])[:, None] * frequency
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(ops.time_embedding(t, width, np.float64), expected, rtol=1e-13, atol=1e-13)
    assert ops.time_embedding(t, width).dtype == np.float32
    np.testing.assert_allclose(ops.time_embedding(np.array([3]), 4, np.float64),
                               [[np.sin(2), np.sin(2e-4), np.cos(2), np.cos(2e-4)]], rtol=1e-13)


def test_adam_ema_equals_the_published_algorithm():
    """Three steps, element by element, by Kingma and Ba's Algorithm 1."""
    rng = np.random.default_rng(0)
    values, ema, m, v = rng.standard_normal(5), np.zeros(5), np.zeros(5), np.zeros(5)
    theta, average, moment1, moment2 = values.copy(), [0.0] * 5, [0.0] * 5, [0.0] * 5
    lr, beta1, beta2, eps, scale, decay = 0.1, 0.8, 0.95, 1e-3, 0.5, 0.7
    for step in (1, 2, 3):
        grads = rng.standard_normal(5)
        ops.adam_ema(values, grads, m, v, ema, step, lr, beta1, beta2, eps, scale, decay)
        for i in range(5):
            g = scale * grads[i]
            moment1[i] = beta1 * moment1[i] + (1 - beta1) * g
            moment2[i] = beta2 * moment2[i] + (1 - beta2) * g**2
            theta[i] -= lr * (moment1[i] / (1 - beta1**step)) / ((moment2[i] / (1 - beta2**step)) ** 0.5 + eps)
            average[i] = decay * average[i] + (1 - decay) * theta[i]
    np.testing.assert_allclose(values, theta, rtol=1e-12)
    np.testing.assert_allclose(ema, average, rtol=1e-12)


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_adam_ema_without_a_finite_scale_changes_nothing(scale):
    arrays = [normal(5, seed=s) for s in range(5)]
    before = [a.copy() for a in arrays]
    ops.adam_ema(*arrays, 1, 0.1, 0.9, 0.99, 1e-8, scale, 0.9)
    np.testing.assert_array_equal(arrays, before)


@pytest.mark.parametrize("call", [
    lambda: ops.conv2d(normal(1, 4, 4, 3), normal(3, 3, 2, 2), normal(2)),
    lambda: ops.conv2d(normal(1, 4, 4, 2), normal(3, 3, 2, 2), normal(3)),
    lambda: ops.conv2d(normal(1, 4, 4, 2), normal(2, 2, 2, 2), normal(2)),
    lambda: ops.conv2d(normal(1, 4, 4, 2), normal(3, 2, 2, 2), normal(2)),
    lambda: ops.conv2d(normal(1, 4, 4, 2), normal(2, 3, 2, 2), normal(2)),
    lambda: ops.conv2d(normal(1, 2, 9, 9), normal(5, 5, 9, 2), normal(2), 1, (0, 0)),
    lambda: ops.conv2d(normal(1, 9, 2, 9), normal(5, 5, 9, 2), normal(2), 1, (0, 0)),
    lambda: ops.group_norm(normal(1, 4, 4, 6), normal(6), normal(6), 4, 1e-6),
    lambda: ops.attention(normal(1, 4, 6), normal(1, 4, 6), normal(1, 4, 6), 4),
    lambda: ops.attention(normal(1, 4, 6), normal(1, 5, 6), normal(1, 5, 6)),
    lambda: ops.patchify(normal(1, 5, 4, 1), 2),
    lambda: ops.time_embedding(np.array([1]), 7),
    lambda: ops.mean_squared_error(normal(3, 1), normal(3)),
    lambda: ops.cross_entropy(normal(3, 2), np.array([0, 1])),
])
def test_shapes_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError, match="is|are"):
        call()
