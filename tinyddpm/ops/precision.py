"""Where the arrays of a network change their type, if a backend has a precision below that of its parameters."""


def narrow(x, values):
    """x in the type of the arrays within a network. Only a GPU's twin, with 16 bits, changes anything.

    values: the network's parameters in one buffer, which stay as they are until `widen`, so that a twin can narrow
        them at once
    """
    return x, None


def narrow_backward(dy, cache):
    """dx = dy, in the type of the parameters"""
    return dy


def widen(x):
    """x in the type of the parameters."""
    return x, None


def widen_backward(dy, cache):
    """dx = dy, in the type of the arrays within a network"""
    return dy
