"""Vectors of sixteen numbers, for loops that the compiler does not vectorize by itself.

It does not where arrays might overlap, or where the terms of a sum would be added in another order. A Vector
is held in registers: one of AVX-512's in float32, two or four on smaller machines, as LLVM splits it. It is for
arrays whose last axis is contiguous.

    v = load(x, (n, i, j, c))               x[n, i, j, c:c + 16]; without a check that this is within x
    store(y, (n, i, j, c), fill(b) * v + v)
"""

import math
import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

LANES = 16


class Vector(types.Type):
    def __init__(self, real):
        self.real = real
        super().__init__(f"Vector({real})")


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, ir.VectorType(manager.lookup(vector.real).get_value_type(), LANES))


def _address(context, builder, signature, values, times=0):
    """The address of array[index], as that of a vector. The third argument is added to index[0] so many times."""
    array, index = signature.args[:2]
    numbers = cgutils.unpack_tuple(builder, values[1])
    indices = [context.cast(builder, i, kind, types.intp) for i, kind in zip(numbers, index)]
    if times:
        step = context.cast(builder, values[2], signature.args[2], types.intp)
        indices[0] = builder.add(indices[0], builder.mul(step, step.type(times)))
    data = context.make_array(array)(context, builder, values[0])
    pointer = cgutils.get_item_pointer(context, builder, array, data, indices, wraparound=False)
    return builder.bitcast(pointer, context.get_value_type(Vector(array.dtype)).as_pointer())


@intrinsic
def load(typing, array, index):
    def build(context, builder, signature, values):
        return builder.load(_address(context, builder, signature, values), align=array.dtype.bitwidth // 8)

    return Vector(array.dtype)(array, index), build


@intrinsic
def load_all(typing, array, index, step, count):
    """A tuple of `count` vectors, the first at array[index], each `step` further along the first axis."""
    def build(context, builder, signature, values):
        addresses = [_address(context, builder, signature, values, times) for times in range(count.literal_value)]
        vectors = [builder.load(address, align=array.dtype.bitwidth // 8) for address in addresses]
        return context.make_tuple(builder, signature.return_type, vectors)

    if isinstance(count, types.IntegerLiteral):
        return types.UniTuple(Vector(array.dtype), count.literal_value)(array, index, step, count), build


@intrinsic
def gather(typing, array, index, axis):
    """The sixteen elements along that axis that start at array[index]."""
    def build(context, builder, signature, values):
        data = context.make_array(array)(context, builder, values[0])
        stride = cgutils.unpack_tuple(builder, data.strides, array.ndim)[axis.literal_value]
        first = builder.ptrtoint(_address(context, builder, signature, values), ir.IntType(64))
        element = context.get_value_type(array.dtype)
        vector = ir.Constant(context.get_value_type(Vector(array.dtype)), ir.Undefined)
        for lane in range(LANES):
            address = builder.add(first, builder.mul(stride, ir.IntType(64)(lane)))
            number = builder.load(builder.inttoptr(address, element.as_pointer()))
            vector = builder.insert_element(vector, number, ir.IntType(32)(lane))
        return vector

    if isinstance(axis, types.IntegerLiteral):
        return Vector(array.dtype)(array, index, axis), build


@intrinsic
def store(typing, array, index, vector):
    def build(context, builder, signature, values):
        builder.store(values[2], _address(context, builder, signature, values), align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    if vector == Vector(array.dtype):
        return types.void(array, index, vector), build


@intrinsic
def store_all(typing, array, index, step, vectors):
    """Store a tuple of vectors as load_all finds them."""
    def build(context, builder, signature, values):
        for times, vector in enumerate(cgutils.unpack_tuple(builder, values[3])):
            address = _address(context, builder, signature, values, times)
            builder.store(vector, address, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    if all(vector == Vector(array.dtype) for vector in vectors):
        return types.void(array, index, step, vectors), build


@intrinsic
def fill(typing, number):
    """The vector that holds the same number sixteen times."""
    def build(context, builder, signature, values):
        return broadcast(context, builder, Vector(number), values[0])

    return Vector(number)(number), build


def broadcast(context, builder, vector, number):
    zero = ir.Constant(ir.IntType(32), 0)
    first = builder.insert_element(ir.Constant(context.get_value_type(vector), ir.Undefined), number, zero)
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _define(function, combine):
    """Define function(a, b) for two vectors, or for a vector and a number, which is converted."""
    @type_callable(function)
    def kind(context):
        def typer(a, b):
            vectors = {kind for kind in (a, b) if isinstance(kind, Vector)}
            return vectors.pop() if len(vectors) == 1 else None
        return typer

    @lower_builtin(function, Vector, Vector)
    @lower_builtin(function, Vector, types.Number)
    @lower_builtin(function, types.Number, Vector)
    def lower(context, builder, signature, values):
        vector = signature.return_type
        return combine(builder, *(
            value if kind == vector else
            broadcast(context, builder, vector, context.cast(builder, value, kind, vector.real))
            for value, kind in zip(values, signature.args)))


_define(operator.add, lambda builder, a, b: builder.fadd(a, b, flags=["contract"]))
_define(operator.sub, lambda builder, a, b: builder.fsub(a, b, flags=["contract"]))
_define(operator.mul, lambda builder, a, b: builder.fmul(a, b, flags=["contract"]))
_define(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))
_define(max, lambda builder, a, b: builder.select(builder.fcmp_unordered(">", a, b), a, b))


@intrinsic
def exp(typing, x):
    """exp(x) with a relative error of 2e-7 in float32 and 1e-15 in float64; for x below -87, exp(-87)."""
    def build(context, builder, signature, values):
        vector, single = values[0].type, x.real == types.float32
        integers, bits, bias, terms = (ir.IntType(32), 23, 127, 8) if single else (ir.IntType(64), 52, 1023, 14)
        number = lambda value: ir.Constant(vector, [value] * LANES)
        multiply_add = lambda a, b, c: builder.fadd(builder.fmul(a, b, flags=["contract"]), c, flags=["contract"])

        # exp(x) = 2^n exp(r) with |r| <= ln(2) / 2; ln(2) in two parts, the first so short that n times it is exact
        clipped = builder.select(builder.fcmp_ordered("<", values[0], number(-87.0)), number(-87.0), values[0])
        clipped = builder.select(builder.fcmp_ordered(">", clipped, number(88.0)), number(88.0), clipped)
        shift = number(1.5 * 2**bits)                                   # adding it rounds to an integer
        n = builder.fsub(multiply_add(clipped, number(1 / math.log(2)), shift), shift)
        r = multiply_add(n, number(2.121944400546905827679e-4), multiply_add(n, number(-0.693359375), clipped))
        series = number(1 / math.factorial(terms - 1))
        for i in reversed(range(terms - 1)):
            series = multiply_add(series, r, number(1 / math.factorial(i)))
        kind = ir.VectorType(integers, LANES)
        exponent = builder.add(builder.fptosi(n, kind), ir.Constant(kind, [bias] * LANES))
        power = builder.bitcast(builder.shl(exponent, ir.Constant(kind, [bits] * LANES)), vector)
        return builder.fmul(series, power)

    return x(x), build


def _reduction(combine):
    """A function of one vector: its sixteen numbers combined two by two, always in the same order."""
    @intrinsic
    def reduced(typing, x):
        def build(context, builder, signature, values):
            vector, width = values[0], LANES
            while width > 1:
                width //= 2
                lanes = ir.VectorType(ir.IntType(32), width)
                low, high = (builder.shuffle_vector(vector, vector, ir.Constant(lanes, [*range(first, first + width)]))
                             for first in (0, width))
                vector = combine(builder, low, high)
            return builder.extract_element(vector, ir.IntType(32)(0))

        return x.real(x), build

    return reduced


total = _reduction(lambda builder, a, b: builder.fadd(a, b))
largest = _reduction(lambda builder, a, b: builder.select(builder.fcmp_unordered(">", a, b), a, b))
