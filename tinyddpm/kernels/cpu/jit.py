"""How the kernels for the CPU are compiled, and how the threads share their work."""

import sys
import tempfile
import zlib
from pathlib import Path
from types import FunctionType, SimpleNamespace

import numpy as np
from llvmlite import ir
from numba import config, get_num_threads, njit, prange, types
from numba.core import cgutils, event
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.extending import intrinsic

# Only multiply and add may be fused. With more freedom, the compiler's vector loops would divide and add in another
# order than its scalar ones, and which of them runs depends on the addresses of the arrays: the last bits would differ
# from run to run, and nothing would be faster. Division by zero is as in NumPy, without a check.
OPTIONS = {"fastmath": {"contract"}, "error_model": "numpy"}

# In the names of the cached kernels, since numba notices changes only in the file of the kernel itself.
VERSION = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))

try:
    njit(cache=True)(lambda: None)
except RuntimeError:                # neither the package's folder nor the user's can be written
    folder = tempfile.TemporaryDirectory()                  # removed when the program ends
    config.CACHE_DIR = folder.name
    print("the kernels have to be compiled in every run: set NUMBA_CACHE_DIR to a folder that can be written",
          file=sys.stderr, flush=True)

GRAIN = 2**15           # numbers, some ten microseconds of work

PART = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, **OPTIONS}


class PartLibrary(JITCodeLibrary):
    """The code of a part, which is optimized and translated within the kernels that use it.

    By itself, too, as is numba's habit, compiling would take half as long again.
    """

    codegen = SimpleNamespace(set_env=lambda name, environment: None)       # nothing of it is loaded

    def _optimize_final_module(self):
        pass

    def _finalize_final_module(self):
        self._finalized = True


class PartCompiler(Compiler):
    """The usual steps, from Python to LLVM, with another place for the result."""

    def define_pipelines(self):
        self.state.library = PartLibrary(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        return super().define_pipelines()


compiled = njit(pipeline_class=PartCompiler, **PART)    # a part of kernels, which cannot be called from Python
inlined = njit(inline="always", **OPTIONS)


def threads(elements):
    """The number of threads for work on so many numbers: to wake one pays only for GRAIN or more."""
    return max(1, min(get_num_threads(), elements // GRAIN))


def parallel(kernel):
    """From kernel(i, count, *arguments), a function of (count, *arguments): the threads call it for every i < count.

    A thread has neighbouring values of i, the same in every run, so that sums are added in the same order. Raises
    MemoryError. (A loop over numba's prange in each kernel is as fast, but takes twice as long to compile.)
    """
    code = _share.__code__.replace(co_filename=kernel.__code__.co_filename, co_name=kernel.__name__,
                                   co_firstlineno=kernel.__code__.co_firstlineno)
    shared = FunctionType(code, {**globals(), "__name__": kernel.__module__, "kernel": compiled(kernel)})
    shared.__doc__, shared.__qualname__ = kernel.__doc__, f"{kernel.__name__}-{VERSION}"
    return njit(cache=True, no_cfunc_wrapper=True, **OPTIONS)(shared)


@compiled
def part(i, count, length):
    """The first and the last index, exclusive, of part i of `length` things."""
    return length * i // count, length * (i + 1) // count


def _share(count, *arguments):
    function, place = _task(kernel, arguments)              # noqa: F821    set by parallel
    if _run(function, place, count):
        raise MemoryError


@njit(parallel=True, **PART)
def _run(function, place, count):
    """The number of calls that failed."""
    if count == 1:                                          # wakes no thread
        return _call(function, np.intp(0), count, place)
    failures = 0
    for i in prange(count):
        failures += _call(function, np.intp(i), count, place)
    return failures


@intrinsic
def _task(typing, kernel, arguments):
    """The addresses of a C function (i, count, place), which calls the kernel, and of a place with the arguments."""
    signature = typing.resolve_function_type(kernel, (types.intp, types.intp, *arguments), {})

    def build(context, builder, own_signature, values):
        number, stored = context.get_value_type(types.intp), cgutils.alloca_once_value(builder, values[1])
        function = ir.Function(builder.module, ir.FunctionType(number, [number] * 3), f"{builder.function.name}.task")
        function.linkage = "internal"
        inside = ir.IRBuilder(function.append_basic_block())
        i, count, place = function.args
        tuple_of_arguments = inside.load(inside.inttoptr(place, stored.type))
        result = kernel.dispatcher.get_compile_result(signature)
        context.active_code_library.add_linking_library(result.library)
        status, _ = context.call_conv.call_function(
            inside, context.declare_function(builder.module, result.fndesc), signature.return_type, signature.args,
            [i, count, *cgutils.unpack_tuple(inside, tuple_of_arguments)])
        inside.ret(inside.zext(status.is_error, number))
        addresses = [builder.ptrtoint(pointer, number) for pointer in (function, stored)]
        return context.make_tuple(builder, own_signature.return_type, addresses)

    return types.UniTuple(types.intp, 2)(kernel, arguments), build


@intrinsic
def _call(typing, function, i, count, place):
    def build(context, builder, signature, values):
        number = values[0].type
        kind = ir.FunctionType(number, [number] * 3)
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])

    return types.intp(types.intp, types.intp, types.intp, types.intp), build


class Announcement(event.Listener):
    """Prints one line when the first kernel has to be compiled; later runs load them from numba's cache."""

    made = False

    def on_start(self, compilation):
        if not self.made and compilation.data["dispatcher"].__module__.startswith("tinyddpm"):
            self.made = True
            print("compiling the kernels: twenty seconds, the first time only", file=sys.stderr, flush=True)

    def on_end(self, compilation):
        pass


event.register("numba:compile", Announcement())
