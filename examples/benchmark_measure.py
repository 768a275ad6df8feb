"""What benchmark_turn.py measures with: a backend, a median time, the rate of a large product, peak memory."""

import math
import platform
import statistics
import sys
import time

import numpy as np

import tinyddpm
from tinyddpm import dispatch
from tinyddpm.backend import generator, on_gpu, state

WARMUP = 2
GEMM_SIZE = 8192            # of the matrices whose product sets a GPU's ceiling



def use(side):
    """Activate the backend and precision of one of our sides."""
    backend, _, precision = side.partition("-")
    tinyddpm.use(backend, precision=precision or "fp32")


def synchronize():
    """Wait for the GPU that is in use, if any."""
    if on_gpu():
        state.xp.cuda.get_current_stream().synchronize()
    elif "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        sys.modules["torch"].cuda.synchronize()


def median(step, seconds):
    """The median time of a step over so many seconds, at least three steps, after a warm-up (compilation, caches)."""
    times, end = [], None
    while end is None or time.perf_counter() < end or len(times) < WARMUP + 3:
        start = time.perf_counter()
        step()
        synchronize()
        times.append(time.perf_counter() - start)
        if len(times) == WARMUP:
            end = time.perf_counter() + seconds
    return statistics.median(times[WARMUP:])


def gemm(side, seconds):
    """The rate of a large square matrix product in that side's precision, and what computes it."""
    if "cuda" in side:
        import torch
        n, what = GEMM_SIZE, f"PyTorch {torch.__version__} on {torch.cuda.get_device_name()}"
        a = torch.randn(n, n, dtype=torch.bfloat16 if "bf16" in side else torch.float32)
        product = lambda: a @ a
    elif side.startswith("cupy"):
        use(side)
        from tinyddpm.kernels.gpu.product import multiply, narrowed
        n, what = GEMM_SIZE, dispatch.describe()
        a = narrowed(generator(0).standard_normal((n, n), dtype=np.float32))
        out = state.xp.empty((n, n), np.float32)
        product = lambda: multiply(a, a, out)
    else:
        n, what = 2048, f"{platform.processor() or platform.machine()}, NumPy's BLAS"
        a = np.random.default_rng(0).standard_normal((n, n), dtype=np.float32)
        product = lambda: a @ a
    return {"gflops": 2 * n**3 / median(product, seconds) / 1e9, "what": what}


def peak_memory(on_cuda=False):
    """The peak memory of this process, or of its GPU memory, in bytes; NaN if the system does not report it."""
    if on_cuda:
        return sys.modules["torch"].cuda.max_memory_reserved()
    if on_gpu():
        from tinyddpm.kernels.gpu.graph import networks
        recordings = [recording for kinds in networks.values() for recording in kinds.values()]
        return sum(pool.total_bytes() for pool in (state.xp.get_default_memory_pool(), *(r.pool for r in recordings)))
    if sys.platform == "linux":             # getrusage's value includes that of the parent process
        with open("/proc/self/status") as status:
            return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    try:
        import resource
    except ImportError:                     # Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
