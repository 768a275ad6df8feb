"""The checker itself: what it accepts, what it refuses, and what it tells a learner."""

import numpy as np
import pytest

from tinyddpm.gradcheck import check, check_network
from tinyddpm.nn import Module, Parameter


def square(x):
    return x * x, x


def square_backward(dy, x):
    return 2 * x * dy


RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 4))


def test_a_right_gradient_passes_with_its_error():
    assert 0 <= check(square, square_backward, X) < 1e-9


def test_the_message_names_argument_index_and_both_values():
    def wrong_in_one_place(dy, x):
        dx = 2 * x * dy
        dx[1, 2] += 0.25
        return dx

    with pytest.raises(AssertionError,
                       match=r"argument 0, shape \(3, 4\): worst at index \(1, 2\): expected .*, got .*"):
        check(square, wrong_in_one_place, X)


@pytest.mark.parametrize("backward, message", [
    (lambda dy, x: 0 * x, "worst at index"),
    (lambda dy, x: np.where(x > 1, np.nan, 2 * x * dy), "got nan"),
    (lambda dy, x: (2 * x * dy)[:1], "has shape"),
    (lambda dy, x: (2 * x * dy, None), "returned 2 gradients; expected 1"),
    (lambda dy, x: np.multiply(2 * x, dy, out=dy), "backward changed dy in place"),
    (lambda dy, x: (2 * x + 1e-5) * dy, "worst at index"),
])
def test_wrong_backwards_fail(backward, message):
    with pytest.raises(AssertionError, match=message):
        check(square, backward, X)


def test_an_argument_changed_in_place_fails():
    def forward(x):
        x += 1
        return x * x, x.copy()

    with pytest.raises(AssertionError, match="forward changed argument 0"):
        check(forward, square_backward, X)


def test_float32_is_refused():
    with pytest.raises(ValueError, match="float64"):
        check(square, square_backward, X.astype(np.float32))


def test_a_gradient_that_is_zero_in_truth_passes():
    assert check(lambda x: (x - x + 1.0, None), lambda dy, cache: 0 * dy, X) <= 1e-7


@pytest.mark.parametrize("factor, passes", [(1, True), (1.01, False), (0, False)])
def test_a_small_gradient_beside_a_large_value_is_checked_too(factor, passes):
    """1e-6 of the value: far above rounding, so an error of 1% is found."""
    run = lambda: check(lambda x: (1 + 1e-6 * np.sin(x), x), lambda dy, x: factor * 1e-6 * np.cos(x) * dy, X)
    if passes:
        run()
    else:
        with pytest.raises(AssertionError, match="allowed 1e-07, and below 9e-10 a difference is rounding"):
            run()


class Centred(Module):
    """y = w x + b - mean(w x + b): the true gradient with respect to b is zero, its rounded differences are not."""

    def __init__(self, wrong=0.0):
        self.weight, self.bias = Parameter(RNG.standard_normal((4, 6))), Parameter(RNG.standard_normal(1))
        self.wrong = wrong
        self.flatten(np.float64)

    def forward(self, x):
        self.x = x.copy()
        z = x @ self.weight.value + self.bias.value
        return z - z.mean(axis=1, keepdims=True)

    def backward(self, dy):
        dz = dy - dy.mean(axis=1, keepdims=True)
        self.weight.grad += self.x.T @ dz
        self.bias.grad += dz.sum() + self.wrong
        return dz @ self.weight.value.T


def test_a_parameter_without_influence_passes_and_a_small_wrong_gradient_does_not():
    for seed in range(20):
        assert check_network(Centred(), X, seed=seed) < 1e-6
        with pytest.raises(AssertionError, match="bias along"):
            check_network(Centred(1e-6), X, seed=seed)


def test_all_ones_would_miss_what_a_random_upstream_finds():
    """A softmax backward that returns zero has the right gradient for an upstream gradient of ones."""
    from tinyddpm.ops import softmax, softmax_backward

    ones = np.ones_like(X)
    np.testing.assert_allclose(softmax_backward(ones, softmax(X)[1]), 0, atol=1e-15)
    with pytest.raises(AssertionError):
        check(softmax, lambda dy, p: 0 * p, X)


class Scale(Module):
    """y = w x, with an optional error in either gradient."""

    def __init__(self, wrong):
        self.weight, self.wrong = Parameter(np.array([1.0, 2.0, 3.0, 4.0])), wrong
        self.flatten(np.float64)

    def forward(self, x):
        self.x = x.copy()
        return x * self.weight.value

    def backward(self, dy):
        self.weight.grad += (dy * self.x).sum(axis=0) * (1 + 1e-4 * (self.wrong == "weight"))
        return dy * self.weight.value * (1 + 1e-4 * (self.wrong == "x"))


def test_network_check_accepts_and_rejects():
    assert check_network(Scale(None), X) < 1e-6
    with pytest.raises(AssertionError, match="weight along a random direction"):
        check_network(Scale("weight"), X)
    with pytest.raises(AssertionError, match="the input x along"):
        check_network(Scale("x"), X)
