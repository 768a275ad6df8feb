"""How fast a training step and sampling are, beside PyTorch where it is installed.

    python examples/benchmark.py                               the mnist preset, on numba and PyTorch in turn
    python examples/benchmark.py --models mnist small cifar10 --sides numpy numba torch --rounds 5

Each side runs in a process of its own, in turn, with the same number of threads and without OPENBLAS_* settings.
"""

import ctypes
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np

import tinyddpm
from tinyddpm import cli, presets
from tinyddpm.backend import ops
from tinyddpm.diffusion.objective import reverse_process
from tinyddpm.nn import UNet, UNetConfig
from tinyddpm.training import Trainer

# The model of 1.14M parameters that small U-Nets are compared with: one channel, 32x32, attention at 16x16.
SMALL = UNetConfig(image_channels=1, base_channels=32, channel_multipliers=(1, 2, 2), blocks_per_level=1,
                   attention_resolutions=(16,), dropout=0.0)
MODELS = {"mnist": presets.get("mnist"),
          "small": replace(presets.get("cifar10"), name="small", model=SMALL).override(batch_size=64),
          "cifar10": presets.get("cifar10").override(batch_size=8)}
SIDES = ("numpy", "numba", "cupy", "torch")
WARMUP = 2


def main(argv):
    parser = cli.Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["mnist"], metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, metavar="SIDE", help=f"of {', '.join(SIDES)} (default: numba, torch)")
    parser.add_argument("--tasks", nargs="+", choices=("train", "sample"), default=["train", "sample"], help="(default: both)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each side has its turn (default 3)")
    parser.add_argument("--seconds", type=float, default=6.0, metavar="S", help="of each turn (default 6)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="(default: all cores)")
    parser.add_argument("--compile", action="store_true", help="PyTorch's compiled form instead of its eager code")
    parser.add_argument("--turn", help="what a process of the benchmark runs; for its own use")
    args = parser.parse_args(argv)
    if args.turn:
        print(json.dumps(turn(**json.loads(args.turn))))
        return 0
    if args.rounds < 1 or args.seconds <= 0 or args.threads < 1:
        parser.error("expected --rounds and --threads of at least 1, and positive --seconds")
    installed = importlib.util.find_spec("torch") is not None
    if args.sides and "torch" in args.sides and not installed:
        parser.error("PyTorch is not installed here: pip install torch, or choose other --sides")
    sides = args.sides or (["numba", "torch"] if installed else ["numba"])

    ceiling = run({"task": "sgemm", "model": None, "side": "numpy", "seconds": 2.0}, args)
    print(f"{platform.processor() or platform.machine()}, {args.threads} threads, OpenBLAS core {ceiling['core']}; "
          f"sgemm {ceiling['gflops']:.0f} GFLOP/s" + ("" if installed else "; PyTorch is not installed, so nothing beside it"))
    for model in args.models:
        for task in args.tasks:
            compare(model, task, sides, args, ceiling["gflops"])
    return 0


def compare(model, task, sides, args, ceiling):
    """The turns of all sides, and their table."""
    batch, work = MODELS[model].training.batch_size, flops(MODELS[model].model) * (3 if task == "train" else 1)
    layouts = {side: [side] if side != "torch" else ["torch", "torch channels_last"] for side in sides}
    names = [name for side in sides for name in layouts[side]]
    turns = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            turns[name].append(run({"task": task, "model": model, "side": name, "seconds": args.seconds,
                                    "compiled": args.compile}, args))
    print(f"\n{model}, {task}, batch {batch}, {work / 1e9:.2f} GFLOP an image:")
    print(f"  {'':22}{'ms':>8}{'images/s':>10}{'GFLOP/s':>9}{'of sgemm':>9}{'peak MiB':>10}  {names[0]}'s images/s to this, by round")
    for name in names:
        ms = statistics.median(t["seconds"] for t in turns[name]) * 1e3
        rate = work * batch / ms / 1e6
        ratios = " ".join(f"{theirs['seconds'] / ours['seconds']:.2f}" for ours, theirs in zip(turns[names[0]], turns[name]))
        print(f"  {name:22}{ms:8.1f}{batch / ms * 1e3:10.1f}{rate:9.1f}{rate / ceiling:9.0%}"
              f"{max(t['peak'] for t in turns[name]) / 2**20:10.0f}  {ratios}")


def run(what, args):
    """The result of one turn, in a process with a clean environment."""
    threads = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")} | threads
    done = subprocess.run([sys.executable, __file__, "--turn", json.dumps(what)], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{what['side']} could not run: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no output'}")
    return json.loads(done.stdout.splitlines()[-1])


def turn(task, model, side, seconds, compiled=False):
    """One turn: the median seconds of a step (or of one evaluation, for sampling), and the peak memory in bytes."""
    if task == "sgemm":
        return sgemm(seconds)
    preset = MODELS[model]
    if side.startswith("torch"):
        from benchmark_torch import steps
        step = steps(preset, task, side.endswith("channels_last"), compiled)
    else:
        tinyddpm.use(side)
        step = our_step(preset, task)
    times, end = [], None
    while end is None or time.perf_counter() < end or len(times) < WARMUP + 3:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
        if len(times) == WARMUP:                                # the first steps compile and fill caches
            end = time.perf_counter() + seconds
    return {"seconds": statistics.median(times[WARMUP:]), "peak": peak_memory()}


def our_step(preset, task):
    """A training step on random bytes, or one evaluation of the reverse process with the noise after it."""
    c, rng = preset.model, np.random.default_rng(0)
    shape = (preset.training.batch_size, c.image_size, c.image_size, c.image_channels)
    if task == "train":
        trainer, images = Trainer(preset), rng.integers(0, 256, shape, dtype=np.uint8)
        return lambda: trainer.step(images)
    s, x = preset.diffusion.make_schedule(), rng.standard_normal(shape, dtype=np.float32)
    p = reverse_process(UNet(c).eval(), s, preset.diffusion.prediction)

    def step():
        mean, sigma2, _ = p(x, np.full(len(x), s.T // 2))
        return mean + np.sqrt(sigma2) * rng.standard_normal(shape, dtype=np.float32)

    return step


def flops(config):
    """Of one evaluation for one image, two for each product of a direct algorithm (no Winograd)."""
    count = 0

    def counted(f, products):
        def wrapped(*arguments):
            nonlocal count
            y, cache = f(*arguments)
            count += 2 * products(y, *arguments)
            return y, cache
        return wrapped

    tinyddpm.use("numpy")
    ops.conv2d = counted(ops.conv2d, lambda y, x, w, *_: y.size * w[..., 0].size)
    ops.linear = counted(ops.linear, lambda y, x, w, b: y.size * len(w))
    ops.attention = counted(ops.attention, lambda y, q, *_: 2 * q.size * q.shape[1])
    UNet(config).eval().forward(np.zeros((1, config.image_size, config.image_size, config.image_channels), np.float32), np.array([1]))
    return count


def sgemm(seconds):
    """The rate of a large matrix product in float32, and the name of the kernels that OpenBLAS chose."""
    a = np.random.default_rng(0).standard_normal((2048, 2048), dtype=np.float32)
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return {"gflops": 2 * 2048**3 / statistics.median(times) / 1e9, "core": core_name()}


def core_name():
    from tinyddpm.kernels import blas

    if not blas.library:
        return "unknown (NumPy has another BLAS)"
    function = blas.library.scipy_openblas_get_corename64_
    function.restype = ctypes.c_char_p
    return function().decode()


def peak_memory():
    """Of this process, in bytes; NaN on Windows."""
    try:
        import resource
    except ImportError:
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    cli.program(main)
