"""Faster twins of the readable operations. Nothing but backend.py knows them."""

from numba import njit

# Multiply and add may be fused, and nothing else: more freedom would let the compiler's vector loops divide and add
# otherwise than its scalar ones, and which of them runs depends on where the arrays lie: the last bits would differ from
# run to run. It would not be faster either. Division by zero is NumPy's, without a check.
OPTIONS = {"fastmath": {"contract"}, "error_model": "numpy", "cache": True}

compiled = njit(**OPTIONS)
parallel = njit(parallel=True, **OPTIONS)
