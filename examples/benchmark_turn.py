"""One turn of one side in benchmark.py, in a process of its own: its argument and its result are JSON."""

import json
import math
import platform
import statistics
import sys
import time

import numpy as np
from benchmark_models import MODELS, calls, our_layer, products, title

import tinyddpm
from tinyddpm import cli, dispatch
from tinyddpm.backend import from_numpy, generator, on_gpu, state
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.nn import UNet
from tinyddpm.training import Trainer

WARMUP = 2
GEMM_SIZE = 8192            # of the matrices whose product sets a GPU's ceiling


def main(argv):
    print(json.dumps(turn(**json.loads(argv[0]))))
    return 0


def turn(task, side, seconds, model=None, compiled=False, changes=None):
    """The median seconds of a step (for sampling: of one evaluation) and peak memory; or the times of the layers."""
    of_torch, on_cuda = side.startswith("torch"), "cuda" in side
    channels_last = on_cuda or side.endswith("channels_last")
    if on_cuda:
        from benchmark_torch_training import prepare_cuda
        prepare_cuda()
    if task == "gemm":
        return gemm(side, seconds)
    if task == "quality":
        import benchmark_quality
        return benchmark_quality.turn(side, model, **changes)
    preset = MODELS[model].override(**changes or {})
    if task == "layers":
        found, results = calls(preset.model, preset.training.batch_size), {}
        if of_torch:
            from benchmark_torch import torch_layer
        else:
            use(side)
        for layer, count in found.items():
            step = torch_layer(*layer, channels_last) if of_torch else our_layer(*layer)
            results[title(*layer)] = {"ms": median(step, seconds / len(found)) * 1e3, "count": count,
                                      "flops": 3 * products(*layer)}
        return results
    if of_torch:
        from benchmark_torch_training import steps
        step = steps(preset, task, channels_last, compiled or side.endswith("compiled"), autocast="bf16" in side)
    else:
        use(side)
        step = our_step(preset, task)
    return {"seconds": median(step, seconds), "peak": peak_memory(on_cuda)}


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


def our_step(preset, task):
    """A function that makes one training step on random bytes, or one step of the reverse process with its noise."""
    c, rng = preset.model, np.random.default_rng(0)
    shape = (preset.training.batch_size, c.image_size, c.image_size, c.image_channels)
    if task == "train":
        trainer, images = Trainer(preset), rng.integers(0, 256, shape, dtype=np.uint8)
        images = from_numpy(images)                         # on the device, as in a run
        return lambda: trainer.step(images)
    rng = generator(0, "benchmark")
    s, x = preset.diffusion.make_schedule(), rng.standard_normal(shape, dtype=np.float32)
    p = reverse_process(UNet(c).eval(), preset.diffusion)

    def step():
        mean, sigma2, _ = p(x, np.full(len(x), s.T // 2))
        return mean + state.xp.sqrt(sigma2) * rng.standard_normal(shape, dtype=np.float32)

    return step


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
        return state.xp.get_default_memory_pool().total_bytes()
    if sys.platform == "linux":             # getrusage's value includes that of the parent process
        with open("/proc/self/status") as status:
            return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    try:
        import resource
    except ImportError:                     # Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    cli.program(main)
