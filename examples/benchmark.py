"""Time a training step, sampling and each layer, or judge what a training leads to; beside PyTorch if it is installed.

    python examples/benchmark.py                               the mnist preset, on numba and PyTorch in turn
    python examples/benchmark.py --models mnist small cifar10 --sides numpy numba torch --rounds 5
    python examples/benchmark.py --tasks layers                where the time of a training step goes
    python examples/benchmark.py --tasks growth                time and memory by batch size, image size and width
    python examples/benchmark.py --tasks quality --minutes 5  how good samples are after that time, by a classifier
    python examples/benchmark.py --gpu --batch-sizes 128 256   the paper's model on a GPU, each precision and PyTorch

The sides run in turn, each in its own process, with the same number of threads and without OPENBLAS_* settings.
"""

import argparse
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np

import tinyddpm
from tinyddpm import cli, dispatch, ops, presets
from tinyddpm.backend import from_numpy, generator, on_gpu, state
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.nn import UNet, UNetConfig
from tinyddpm.training import Trainer

# A small U-Net with 1.1M parameters: one channel, 32x32, attention at 16x16.
SMALL = UNetConfig(image_channels=1, base_channels=32, channel_multipliers=(1, 2, 2), blocks_per_level=1,
                   attention_resolutions=(16,), dropout=0.0)
MODELS = {"mnist": presets.get("mnist").override(num_classes=None),
          "small": replace(presets.get("cifar10"), name="small", model=SMALL).override(batch_size=64),
          "cifar10-small": presets.get("cifar10-small").override(num_classes=None),
          "cifar10": presets.get("cifar10").override(batch_size=8)}
ON_GPU = (*(f"cupy-{p}" for p in dispatch.PRECISIONS), "torch-cuda-tf32", "torch-cuda-bf16", "torch-cuda-bf16-compiled")
SIDES, TASKS = ("numpy", "numba", "torch", *ON_GPU), ("train", "sample", "layers", "growth", "quality")
GROWTH = {"batch_size": (1 / 4, 1 / 2, 1, 2), "image_size": (1, 2), "base_channels": (1, 2)}        # as factors
LAYERS = ("conv2d", "conv2d_add", "group_norm", "group_norm_silu", "linear", "attention", "concatenate", "upsample")
OF_IMAGES = {"conv2d_add": (0, 3), "attention": (0, 1, 2), "concatenate": (0, 1)}        # arguments with a batch axis
WARMUP = 2
GEMM_SIZE = 8192            # of the matrices whose product sets a GPU's ceiling


def main(argv):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, metavar="MODEL",
                        help=f"{', '.join(MODELS)} (default: mnist)")
    parser.add_argument("--sides", nargs="+", choices=SIDES, metavar="SIDE",
                        help=f"any of {', '.join(SIDES)} (default: numba, torch)")
    parser.add_argument("--gpu", action="store_true",
                        help="defaults for a GPU: cifar10, batches of 128, and the sides that need one")
    parser.add_argument("--batch-sizes", nargs="+", type=cli.at_least(1), metavar="N",
                        help="instead of the model's own")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["train", "sample"], metavar="TASK",
                        help=f"any of {', '.join(TASKS)} (default: train, sample)")
    parser.add_argument("--rounds", type=cli.at_least(1), default=3, metavar="N",
                        help="turns of each side (default 3)")
    parser.add_argument("--seconds", type=cli.at_least(0.01, float), default=6.0, metavar="S",
                        help="length of each turn (default 6)")
    group = parser.add_argument_group("quality")
    group.add_argument("--steps", type=cli.at_least(1), metavar="N", help="of training (default: the preset's)")
    group.add_argument("--minutes", type=cli.at_least(0.01, float), metavar="M", help="of training, instead of --steps")
    group.add_argument("--count", type=cli.at_least(100), default=1000, metavar="N", help="samples (default 1000)")
    group.add_argument("--seed", type=cli.at_least(0), default=0, metavar="S", help="of the training and the samples")
    cli.add_data_dir(group)
    parser.add_argument("--threads", type=cli.at_least(1), default=os.cpu_count(), metavar="N",
                        help="(default: all cores)")
    parser.add_argument("--compile", action="store_true", help="torch.compile instead of eager PyTorch")
    parser.add_argument("--turn", help=argparse.SUPPRESS)              # what a child process runs
    args = parser.parse_args(argv)
    if args.turn:
        print(json.dumps(turn(**json.loads(args.turn))))
        return 0
    installed = importlib.util.find_spec("torch") is not None
    if args.sides and "torch" in args.sides and not installed:
        parser.error("PyTorch is not installed here: pip install torch, or choose other --sides")
    args.sides = args.sides or [side for side in (ON_GPU if args.gpu else ("numba", "torch")) if installed
                                or "torch" not in side]
    args.models = args.models or ["cifar10" if args.gpu else "mnist"]
    args.batch_sizes = args.batch_sizes or ([128] if args.gpu else [None])

    if args.steps and args.minutes:
        parser.error("--steps and --minutes exclude each other")
    args.ceilings = {name: run(args, task="gemm", side=name, seconds=2.0) for name in layouts(args)}
    print("; ".join(f"{name}: {found['what']}, {found['gflops']:,.0f} GFLOP/s" for name, found in args.ceilings.items())
          + ("" if installed else "; PyTorch is not installed: no comparison"))
    for model in args.models:
        for size in args.batch_sizes:
            changes = {} if size is None else {"batch_size": size}
            for task in args.tasks:
                if task == "layers":
                    layers(model, args, changes)
                elif task == "growth":
                    growth(model, args)
                elif task == "quality":
                    quality(model, args)
                else:
                    compare(model, args, task, **changes)
    return 0


def compare(model, args, task, **changes):
    """Run the turns of all sides for training steps or sampling, and print a table. changes: fields of the preset."""
    preset = MODELS[model].override(**changes)
    batch, work = preset.training.batch_size, flops(preset.model) * (3 if task == "train" else 1)
    turns = in_turn(args, layouts(args), task=task, model=model, changes=changes)
    first = next(iter(turns))
    what = "".join(f", {name} {value}" for name, value in changes.items() if name != "batch_size")
    print(f"\n{model}, {task}, batch {batch}{what}, {work / 1e9:.2f} GFLOP an image:")
    print(f"  {'':25}{'ms':>8}{'a second':>10}{'images/s':>10}{'GFLOP/s':>10}{'of gemm':>9}{'peak MiB':>10}"
          f"  {first}'s images/s relative to this, by round")
    for name, results in turns.items():
        ms = statistics.median(t["seconds"] for t in results) * 1e3
        rate = work * batch / ms / 1e6
        ratios = " ".join(f"{theirs['seconds'] / ours['seconds']:.2f}" for ours, theirs in zip(turns[first], results))
        print(f"  {name:25}{ms:8.1f}{1e3 / ms:10.2f}{batch / ms * 1e3:10.1f}{rate:10,.1f}"
              f"{rate / args.ceilings[name]['gflops']:9.0%}"
              f"{max(t['peak'] for t in results) / 2**20:10.0f}  {ratios}", flush=True)


def growth(model, args):
    """Print how a training step's time and memory grow."""
    for field, factors in GROWTH.items():
        config = MODELS[model].training if field == "batch_size" else MODELS[model].model
        for factor in factors:
            compare(model, args, "train", **{field: max(1, round(getattr(config, field) * factor))})


def quality(model, args):
    """Print how good samples are after a training on each side, beside as many training images."""
    what = {name: getattr(args, name) for name in ("steps", "minutes", "count", "seed", "data_dir")}
    print(f"\n{model}, {args.count:,} samples:\n  {'':20}{'steps':>8}{'training':>11}{'drawing':>10}{'FID':>9}"
          f"{'surely read':>13}{'as asked':>10}")
    for side in ("training images", *args.sides):
        row = run(args, shown=True, task="quality", side=side, seconds=0, model=model, changes=what)
        took = f"{row['steps']:8,}{row['training']:9.0f} s{row['drawing']:8.0f} s" if "steps" in row else " " * 29
        asked = f"{row['right']:10.1%}" if row["right"] is not None else ""
        print(f"  {side:20}{took}{row['fid']:9.3f}{row['sure']:13.1%}{asked}", flush=True)
    print(f"  {row['measure']}, against the test images")


def layers(model, args, changes):
    """Time forward and backward of every layer by itself on all sides, and print its share of the total."""
    turns = in_turn(args, layouts(args), task="layers", model=model, changes=changes)
    ms = {name: {layer: statistics.median(t[layer]["ms"] for t in results) for layer in results[0]}
          for name, results in turns.items()}
    first, batch = next(iter(turns)), MODELS[model].override(**changes).training.batch_size
    of_first = turns[first][0]
    whole = sum(ms[first][layer] * of_first[layer]["count"] for layer in of_first)
    print(f"\n{model}, layers, batch {batch}: ms of one forward and backward; all of {first}'s together {whole:.1f} ms")
    print(f"  {'':58}{'times':>6}{'share':>7}{'GFLOP/s':>9}" + "".join(f"{name:>22}" for name in turns))
    for layer in sorted(of_first, key=lambda layer: -ms[first][layer] * of_first[layer]["count"]):
        count, rate = of_first[layer]["count"], of_first[layer]["flops"] / ms[first][layer] / 1e6
        print(f"  {layer:58}{count:6}{ms[first][layer] * count / whole:7.1%}{rate:9.0f}"
              + "".join(f"{ms[name][layer]:14.2f}" + (f" ({ms[name][layer] / ms[first][layer]:4.2f}x)" if name != first
                                                      else " " * 8)
                        for name in turns), flush=True)
    for operation in sorted({layer.split()[0] for layer in of_first}):
        its = [layer for layer in of_first if layer.split()[0] == operation]
        totals = {name: sum(ms[name][layer] * of_first[layer]["count"] for layer in its) for name in turns}
        number = sum(of_first[layer]["count"] for layer in its)
        print(f"  all {operation:54}{number:6}{totals[first] / whole:7.1%}{'':9}"
              + "".join(f"{total:14.2f}{'':8}" for total in totals.values()), flush=True)


def layouts(args):
    """The sides, with PyTorch on a CPU in both memory layouts."""
    return [name for side in args.sides for name in ([side] if side != "torch" else ["torch", "torch channels_last"])]


def in_turn(args, names, **what):
    """The results of each side, one per round: name -> list."""
    turns = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            turns[name].append(run(args, side=name, seconds=args.seconds, compiled=args.compile, **what))
    return turns


def run(args, shown=False, **what):
    """The result of one turn, run in a process with a clean environment. shown: let it show its progress."""
    threads = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")} | threads
    done = subprocess.run([sys.executable, __file__, "--turn", json.dumps(what)], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=None if shown else subprocess.PIPE)
    if done.returncode:
        problem = (done.stderr or "").strip().splitlines() or ["see above" if shown else "no output"]
        raise ValueError(f"{what['side']} could not run: {problem[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def turn(task, side, seconds, model=None, compiled=False, changes=None):
    """The median seconds of a step (for sampling: of one evaluation) and peak memory; or the times of the layers."""
    of_torch, on_cuda = side.startswith("torch"), "cuda" in side
    channels_last = on_cuda or side.endswith("channels_last")
    if on_cuda:
        from benchmark_torch import prepare_cuda
        prepare_cuda()
    if task == "gemm":
        return gemm(side, seconds)
    if task == "quality":
        import benchmark_quality
        return benchmark_quality.turn(side, model, **changes)
    preset = MODELS[model].override(**changes or {})
    if task == "layers":
        found = calls(preset.model, preset.training.batch_size)
        use("numpy" if of_torch else side)
        results = {}
        for layer, count in found.items():
            step = torch_layer(*layer, channels_last) if of_torch else our_layer(*layer)
            results[title(*layer)] = {"ms": median(step, seconds / len(found)) * 1e3, "count": count,
                                      "flops": 3 * products(*layer)}
        return results
    if of_torch:
        from benchmark_torch import steps
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


# ---- layers: an operation, the shapes of its arrays, and its settings ----

def calls(config, batch):
    """The layers of one evaluation: (name, shapes, settings) -> count. Noted with one image by the readable code."""
    found, inside = Counter(), []

    def noted(name, f):
        def wrapped(*arguments):
            shapes = [a.shape for a in arguments if hasattr(a, "shape")]
            for i in OF_IMAGES.get(name, (0,)):
                shapes[i] = (batch, *shapes[i][1:])
            if not inside:                              # an operation within another belongs to that
                found[name, tuple(shapes), arguments[len(shapes):]] += 1
            inside.append(name)
            result = f(*arguments)
            inside.pop()
            return result
        return wrapped

    tinyddpm.use("numpy")
    for name in LAYERS:
        setattr(ops, name, noted(name, getattr(ops, name)))
    shape = 1, config.image_size, config.image_size, config.image_channels
    UNet(config).eval().forward(np.zeros(shape, np.float32), np.ones(1, int))
    return found


def flops(config):
    """The floating-point operations of one evaluation of one image."""
    return sum(count * products(*layer) for layer, count in calls(config, 1).items())


def title(name, shapes, settings):
    sizes = " ".join("x".join(map(str, shape)) for shape in shapes[:2])
    return f"{name} {sizes} {' '.join(map(str, settings))}".strip()


def products(name, shapes, settings):
    """The floating-point operations of a forward, two per product of the direct algorithm (not Winograd's)."""
    x, w = shapes[0], shapes[1] if len(shapes) > 1 else ()
    if name.startswith("conv2d"):
        stride = settings[0] if settings else 1
        return 2 * x[0] * (x[1] // stride) * (x[2] // stride) * math.prod(w)
    if name == "linear":
        return 2 * math.prod(x) * w[1]
    return 4 * math.prod(x) * x[1] if name == "attention" else 0


def our_layer(name, shapes, settings):
    rng = np.random.default_rng(0)
    arrays = [from_numpy(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
    for i in OF_IMAGES.get(name, (0,)):
        if len(shapes[i]) < 4 or shapes[i][1] > 1:          # not what conv2d_add adds for each image
            arrays[i], _ = ops.narrow(arrays[i], None)
    forward, backward = getattr(ops, name), getattr(ops, name + "_backward")
    dy, _ = forward(*arrays, *settings)

    def step():
        _, cache = forward(*arrays, *settings)
        backward(dy, cache)

    return step


def torch_layer(name, shapes, settings, channels_last):
    """The same layer in PyTorch, in its own layout."""
    import torch
    import torch.nn.functional as F

    def convolution(x, w, b, stride=1, padding=None):
        return F.conv2d(F.pad(x, padding * 2), w, b, stride) if padding else F.conv2d(x, w, b, stride, w.shape[2] // 2)

    def heads(z, n):
        return z.unflatten(2, (n, -1)).transpose(1, 2)

    def linear(x, w, b):
        return F.conv2d(x, w[..., None, None], b) if x.ndim == 4 else F.linear(x, w, b)

    layer = {"conv2d": convolution, "conv2d_add": lambda x, w, b, other: convolution(x, w, b) + other, "linear": linear,
             "group_norm": lambda x, gamma, beta, groups, eps: F.group_norm(x, groups, gamma, beta, eps),
             "group_norm_silu": lambda x, gamma, beta, groups, eps: F.silu(F.group_norm(x, groups, gamma, beta, eps)),
             "attention": lambda q, k, v, n: F.scaled_dot_product_attention(heads(q, n), heads(k, n), heads(v, n)),
             "concatenate": lambda a, b: torch.cat([a, b], 1),
             "upsample": lambda x: F.interpolate(x, scale_factor=2)}[name]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    arrays = []
    for i, shape in enumerate(shapes):
        array = torch.randn(shape)
        # (N, H, W, C) -> (N, C, H, W), or (kh, kw, C, K) -> (K, C, kh, kw)
        if array.ndim == 4:
            array = array.permute((3, 2, 0, 1) if name.startswith("conv2d") and i == 1 else (0, 3, 1, 2))
            array = array.contiguous(memory_format=layout)
        elif name == "linear" and i == 1:
            array = array.T.contiguous()
        arrays.append(array.requires_grad_())
    dy = torch.randn_like(layer(*arrays, *settings))

    def step():
        for array in arrays:
            array.grad = None
        layer(*arrays, *settings).backward(dy)

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
