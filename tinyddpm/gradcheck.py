"""Gradient checks: central differences in float64 against the gradient that the code computes.

A network with a wrong gradient still trains, only worse, so nothing else reveals the error. Three
habits make the check hard to fool: a random upstream gradient (with all ones, a softmax whose backward
returns zero passes), every element of every argument (with one random index, a group norm that divides
by n - 1 passes), and float64 (in float32, the noise of the differences is as large as many errors).
"""

import numpy as np

H = 1e-5            # the step: the truncation error, of order H^2, is far below the tolerances
UNITS = 16          # units of rounding error allowed in a difference; operations were seen to have 1, networks up to 5


def check(forward, backward, *arrays, tolerance=1e-7, seed=0):
    """Compare backward with differences of forward, for every element of every float argument.

    forward(*arrays) -> (y, cache), y an array or a number
    backward(dy, cache) -> one gradient for each floating-point array, in their order (a single one
        needs no tuple). Integer arrays, such as labels, have no gradient.
    Other arguments (a stride, a number of heads) are passed by a lambda.
    Returns the largest error: the largest difference in an argument relative to its largest
    gradient, or, if that is so small, to the gradients that differences can resolve (rounding_of).
    Raises AssertionError, with the argument, the worst index, expected and got, if the error exceeds
    the tolerance, if a shape is wrong or a gradient is missing, or if an argument was changed in
    place; ValueError for arrays that are not float64.
    """
    for i, a in enumerate(arrays):
        if not isinstance(a, np.ndarray) or a.dtype.kind == "f" and a.dtype != np.float64:
            raise ValueError(f"argument {i} is {getattr(a, 'dtype', type(a).__name__)}; a gradient check needs "
                             "NumPy arrays of float64 (or integers, which have no gradient)")
    arrays = [a.copy() for a in arrays]
    floating = [i for i, a in enumerate(arrays) if a.dtype.kind == "f"]

    names = [f"argument {i}" for i in range(len(arrays))]
    given = [a.copy() for a in arrays]
    y, cache = forward(*given)
    require_unchanged("forward", names, arrays, given)
    dy = np.asarray(np.random.default_rng(seed).standard_normal(np.shape(y)))
    passed = dy.copy()
    gradients = backward(passed if dy.ndim else float(dy), cache)
    require_unchanged("backward", ["dy", *names], [dy, *arrays], [passed, *given])

    gradients = gradients if isinstance(gradients, (tuple, list)) else (gradients,)
    require(len(gradients) == len(floating),
            f"backward returned {len(gradients)} gradients; expected {len(floating)}, one for each float argument")
    errors, rounding = [0.0], rounding_of(y, dy)
    for i, got in zip(floating, gradients):
        a = arrays[i]
        require(np.shape(got) == a.shape, f"{names[i]}: its gradient has shape {np.shape(got)}; expected {a.shape}")
        expected = np.empty_like(a)
        for index in np.ndindex(a.shape):
            expected[index] = central_difference(lambda: forward(*arrays)[0], a, index, dy)
        errors.append(compare(expected, np.asarray(got), names[i], tolerance, rounding))
    return max(errors)


def require(condition, message):
    """An assertion that python -O does not remove."""
    if not condition:
        raise AssertionError(message)


def require_unchanged(who, names, before, after):
    """Require that the arrays have not changed: an operation changes no argument."""
    for name, a, b in zip(names, before, after):
        require(np.array_equal(a, b), f"{who} changed {name} in place")


def central_difference(forward, a, index, dy, direction=1.0):
    """d sum(dy forward()) / d a[index], or its slope as a[index] moves along a direction; a is restored."""
    middle = np.array(a[index])
    a[index] = middle + H * direction
    above = np.array(forward())
    a[index] = middle - H * direction
    below = np.array(forward())
    a[index] = middle
    return np.sum(dy * (above - below)) / (2 * H)


def rounding_of(y, dy):
    """The size below which the difference quotient of sum(dy y) is rounding.

    Each y has an error of some units in its last place, eps y, independent of the others. The sum then has one of as
    many eps |dy y| (the Euclidean norm), and the quotient that over H. Only this remains where the gradient is zero.
    """
    return UNITS * np.finfo(np.float64).eps * np.linalg.norm(dy * y) / H


def compare(expected, got, what, tolerance, rounding):
    """The largest difference relative to the largest value. Raises AssertionError above the tolerance or for a NaN.

    Differences below `rounding` count as within the tolerance, whatever the values.
    """
    if expected.size == 0:
        return 0.0
    difference = np.abs(expected - got)
    largest = max(np.abs(expected).max(), np.abs(got).max())
    error = difference.max() / max(largest, rounding / tolerance, np.finfo(np.float64).tiny)
    if not error <= tolerance:
        nan_is_worst = np.where(np.isnan(difference), np.inf, difference)
        worst = tuple(int(i) for i in np.unravel_index(nan_is_worst.argmax(), difference.shape))
        raise AssertionError(f"{what}, shape {expected.shape}: worst at index {worst}: expected {expected[worst]:.10g} "
                             f"(differences), got {got[worst]:.10g} (backward); relative error "
                             f"{difference.max() / largest:.1e}, allowed {tolerance:.0e}, and below {rounding:.0e} a "
                             "difference is rounding")
    return float(error)


def check_network(model, x, *inputs, tolerance=1e-6, seed=0):
    """Compare model.backward with directional derivatives: one for x and one for each parameter.

    A network has too many elements to move one by one, so each array is moved along a random
    direction, and the slope of the output is compared with the inner product of direction and gradient.
    model: a Module in float64; y = model.forward(x, *inputs), dx = model.backward(dy)
    Returns the largest relative error; raises AssertionError with the parameter's name.
    """
    if x.dtype != np.float64:
        raise ValueError(f"x is {x.dtype}; a gradient check needs float64")
    rng = np.random.default_rng(seed)
    x = x.copy()
    y = model.forward(x, *inputs)
    dy = rng.standard_normal(y.shape)
    for parameter in model.parameters().values():
        parameter.grad[...] = 0
    dx = model.backward(dy)

    arrays = {"the input x": (x, dx)} | {name: (p.value, p.grad) for name, p in model.parameters().items()}
    errors, rounding = [], rounding_of(y, dy)
    for name, (a, gradient) in arrays.items():
        require(gradient.shape == a.shape, f"{name}: its gradient has shape {gradient.shape}; expected {a.shape}")
        direction = rng.standard_normal(a.shape)
        slope = central_difference(lambda: model.forward(x, *inputs), a, ..., dy, direction)
        errors.append(compare(np.array([slope]), np.array([np.sum(direction * gradient)]),
                              f"{name} along a random direction", tolerance, rounding))
    return max(errors)
