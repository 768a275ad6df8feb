"""Faster twins of the readable operations. Nothing but backend.py knows them."""

# numba's fastmath for every kernel: multiply and add may be fused, and nothing else. More freedom would let the
# compiler's vector loops divide and add otherwise than its scalar ones, and which of them runs depends on where
# the arrays lie: the last bits would differ from run to run. It would not be faster either.
FUSED = {"contract"}
