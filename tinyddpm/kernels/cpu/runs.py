"""Add or copy rows of memory, divided among the threads.

A row is a run of `width` numbers; the rows of an array are `step` numbers apart.
"""

from tinyddpm.kernels.cpu.jit import parallel, part
from tinyddpm.kernels.cpu.simd import LANES, load, store


@parallel
def copy_rows(worker, workers, a, a_first, a_step, y, y_first, y_step, width, rows):
    vectors, (start, stop) = width - width % LANES, part(worker, workers, rows)
    for i in range(start, stop):
        source, target = a_first + i * a_step, y_first + i * y_step
        for k in range(0, vectors, LANES):
            store(y, (target + k,), load(a, (source + k,)))
        for k in range(vectors, width):
            y[target + k] = a[source + k]


@parallel
def add_rows(worker, workers, a, a_first, a_step, b, b_first, b_step, y, width, rows):
    """y = a + b; the rows of y are contiguous."""
    vectors, (start, stop) = width - width % LANES, part(worker, workers, rows)
    for i in range(start, stop):
        from_a, from_b, target = a_first + i * a_step, b_first + i * b_step, i * width
        for k in range(0, vectors, LANES):
            store(y, (target + k,), load(a, (from_a + k,)) + load(b, (from_b + k,)))
        for k in range(vectors, width):
            y[target + k] = a[from_a + k] + b[from_b + k]
