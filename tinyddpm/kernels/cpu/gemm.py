"""The matrix product, for use inside the parallel loops, in three levels of blocks.

A core can multiply and add far more numbers than it can load, so every number that is loaded must be used many times:

- Registers: a block of c, a few rows by sixteen columns, stays in registers while p runs over the inner length. In each
  round 6 + 16 numbers are loaded for 96 products; 12 + 16 for 192 where there are twice the registers.
- L1: the sixteen columns of b are a panel, contiguous, which the cache holds while the blocks of rows go by.
- L2: the inner length is cut, so that a panel has 32 KB at most, and `a` up to the cut fits the second cache.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from tinyddpm.kernels.cpu.jit import compiled, inlined
from tinyddpm.kernels.cpu.simd import LANES, Vector, broadcast, gather, load, store

DEPTH = 512                     # of the inner length at a time
FEATURES = cpu_target.target_context.codegen().magic_tuple()[2]         # of the processor that numba compiles for
ROWS = 12 if "+avx512f" in FEATURES else 6                              # of a block, in float32


@inlined
def gemm(a, b, c, accumulate):
    """c = a b, or c += a b. a (n, m), b (m, K), c (n, K); a and b may be transposed views."""
    multiply(a, pack(b), c, accumulate)


@inlined
def pack(b):
    """The panels (ceil(K / 16), m, 16) of b (m, K): sixteen columns each, the last filled up with zeros."""
    return _pack(any_layout(b))


@compiled
def _pack(b):
    panels = panels_for(b)
    for block in range(len(panels)):
        pack_panel(b, block, panels)
    return panels


@compiled
def panels_for(b):
    """The array for the panels of b, whose contents are not yet set."""
    return np.empty(((b.shape[1] + LANES - 1) // LANES, b.shape[0], LANES), b.dtype)


@compiled
def pack_panel(b, block, panels):
    """Set the panel with that number."""
    first = block * LANES
    for p in range(len(b)):
        if first + LANES > b.shape[1]:
            for lane in range(LANES):
                panels[block, p, lane] = b[p, first + lane] if first + lane < b.shape[1] else 0
        elif b.strides[1] == b.itemsize:
            store(panels, (block, p, 0), load(b, (p, first)))
        else:
            store(panels, (block, p, 0), gather(b, (p, first), 1))


@inlined
def multiply(a, panels, c, accumulate):
    """c = a b, or c += a b, b given by its panels, each contiguous. Columns that c does not have are left out."""
    _multiply(any_layout(a), any_layout(panels), any_layout(c), bool(accumulate))


@compiled
def _multiply(a, panels, c, accumulate):
    rows, last = len(zeros(panels)), len(a) - 1
    for start in range(0, panels.shape[1], DEPTH):
        stop, adds = min(start + DEPTH, panels.shape[1]), accumulate or start > 0
        for block in range(len(panels)):
            k, panel = block * LANES, panels[block]
            for i in range(0, len(a), rows):
                sums = zeros(panels)
                others = offsets(a, last - i, sums)
                for p in range(start, stop):
                    sums = multiply_add(a, i, p, others, panel, sums)
                if k + LANES <= c.shape[1]:
                    for r in range(rows):
                        if i + r <= last:
                            at = i + r, k
                            store(c, at, load(c, at) + sums[r] if adds else sums[r])
                else:
                    _store_narrow(sums, i, k, adds, c)


@compiled
def _store_narrow(sums, i, k, adds, c):
    """Store the part of a block that lies within c, whose last columns do not fill a vector."""
    row = np.empty((1, LANES), c.dtype)
    for r in range(min(len(sums), len(c) - i)):
        store(row, (0, 0), sums[r])
        for lane in range(c.shape[1] - k):
            c[i + r, k + lane] = c[i + r, k + lane] + row[0, lane] if adds else row[0, lane]


@intrinsic
def any_layout(typing, array):
    """The array without a promise that it is contiguous, so that one compiled function serves all."""
    def build(context, builder, signature, values):
        return impl_ret_borrowed(context, builder, signature.return_type, values[0])

    return array.copy(layout="A")(array), build


@intrinsic
def zeros(typing, array):
    """The rows of a block, each a vector of zeros."""
    sums = types.UniTuple(Vector(array.dtype), ROWS if array.dtype == types.float32 else ROWS // 2)

    def build(context, builder, signature, values):
        return ir.Constant(context.get_value_type(sums), None)

    return sums(array), build


def _opaque(builder, value):
    """The value, of whose origin LLVM now knows nothing: it stays in a register instead of being computed anew."""
    return builder.asm(ir.FunctionType(value.type, [value.type]), "", "=r,0", [value], side_effect=False)


@intrinsic
def offsets(typing, a, last, sums):
    """The bytes from a block's first row to its others. Rows after the last repeat it: no block needs other code."""
    others = types.UniTuple(types.intp, sums.count - 1)

    def build(context, builder, signature, values):
        array, last, _ = values
        strides = context.make_array(signature.args[0])(context, builder, array).strides
        stride, numbers = cgutils.unpack_tuple(builder, strides)[0], [last.type(1 + r) for r in range(others.count)]
        clipped = [builder.select(builder.icmp_signed("<", r, last), r, last) for r in numbers]
        return context.make_tuple(builder, others, [_opaque(builder, builder.mul(r, stride)) for r in clipped])

    return others(a, types.intp, sums), build


@intrinsic
def multiply_add(typing, a, i, p, others, panel, sums):
    """sums[r] + a[i + r, p] panel[p] for every r, written out. others: the offsets; panel: contiguous."""
    def build(context, builder, signature, values):
        array, i, p, others, panel, sums = values
        kind, panel_kind, vector, results = signature.args[0], signature.args[4], signature.return_type.dtype, []
        data = context.make_array(panel_kind)(context, builder, panel).data
        data = builder.bitcast(data, context.get_value_type(vector).as_pointer())
        v = builder.load(builder.gep(data, [p]), align=panel_kind.dtype.bitwidth // 8)
        data = context.make_array(kind)(context, builder, array)
        first = _opaque(builder, cgutils.get_item_pointer(context, builder, kind, data, [i, p], wraparound=False))
        addresses = first, *(cgutils.pointer_add(builder, first, o) for o in cgutils.unpack_tuple(builder, others))
        for address, total in zip(addresses, cgutils.unpack_tuple(builder, sums)):
            number = broadcast(context, builder, vector, builder.load(address))
            product = builder.fmul(number, v, flags=["contract"])
            results.append(builder.fadd(product, total, flags=["contract"]))
        return context.make_tuple(builder, signature.return_type, results)

    return sums(a, types.intp, types.intp, others, panel, sums), build
