"""Parameters, and modules: the parts that a network is composed of."""

import numpy as np

from tinyddpm.backend import from_numpy
from tinyddpm.ops.accumulate import Accumulating


class Parameter:
    """A learned array and its gradient, of the same shape. Gradients accumulate (+=)."""

    def __init__(self, value):
        self.value = value
        self.grad = np.zeros_like(value)


class Module:
    """A part of a network: y = forward(x), dx = backward(dy).

    Parameters and sub-modules are its attributes, in order of definition; lists may hold modules.
    In training mode, forward stores what backward needs; in evaluation mode, it stores nothing, unless asked to.
    """

    training = stores = True
    _memory = None

    def children(self):
        """The sub-modules, as (name, module) in order of definition."""
        for name, value in vars(self).items():
            yield from _modules(name, value)

    def own_parameters(self):
        """The parameters of the module itself, without those of its sub-modules: name -> Parameter."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Parameter)}

    def parameters(self):
        """All parameters of the module and its sub-modules: an ordered dict, name -> Parameter."""
        found = self.own_parameters()
        for name, child in self.children():
            found |= {f"{name}.{inner}": parameter for inner, parameter in child.parameters().items()}
        return found

    def train(self, training=True, stores=True):
        """Switch the module and its sub-modules to training mode, or to evaluation mode. Returns the module."""
        self.training, self.stores = training, stores
        self._memory = None
        for _, child in self.children():
            child.train(training, stores)
        return self

    def eval(self, gradients=False):
        """Switch to evaluation mode: no dropout, and nothing is stored for backward, unless gradients are wanted."""
        return self.train(False, gradients)

    def remember(self, result):
        """Return y of an operation's (y, cache), and store the cache if backward may follow."""
        y, cache = result
        self._memory = (cache,) if self.stores else None
        return y

    def recall(self):
        """The cache that forward stored; it can be read once."""
        if self._memory is None:
            raise RuntimeError(f"{type(self).__name__}.backward was called without a forward that stores "
                               "(each forward allows one backward)")
        (cache,), self._memory = self._memory, None
        return cache

    def accumulate(self, backward, dy):
        """Run an operation's backward, accumulate the gradients of the module's own parameters, and return the others.

        The operation takes (x, *own parameters) or (x, *own parameters, other): the others are dx, or dx and dother.
        """
        cache, grads = self.recall(), [parameter.grad for parameter in self.own_parameters().values()]
        if isinstance(backward, Accumulating):
            return backward.add(dy, cache, *grads)
        dx, *gradients = backward(dy, cache)
        for grad, gradient in zip(grads, gradients):
            grad += gradient
        others = gradients[len(grads):]
        return (dx, *others) if others else dx

    def flatten(self, dtype):
        """Move all values into one flat buffer and all gradients into another; parameters become views of them.

        The norm for clipping is then one dot product, an update is one pass, and a checkpoint is a loop over names.
        """
        parameters = self.parameters()
        flat = np.concatenate([p.value.ravel() for p in parameters.values()], dtype=dtype, casting="same_kind")
        self.flat_values, self.flat_grads = from_numpy(flat), from_numpy(np.zeros_like(flat))
        values, grads = self.views(self.flat_values), self.views(self.flat_grads)
        for name, p in parameters.items():
            p.value, p.grad = values[name], grads[name]

    def views(self, flat):
        """Views of a flat buffer, one for each parameter and in its shape: name -> view."""
        found, start = {}, 0
        for name, p in self.parameters().items():
            stop = start + p.value.size
            found[name] = flat[start:stop].reshape(p.value.shape)
            start = stop
        return found


def _modules(name, value):
    """Yield a module as (name, module), and those in (nested) lists as (name.0, module), (name.1.0, module), ..."""
    if isinstance(value, Module):
        yield name, value
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _modules(f"{name}.{i}", item)
