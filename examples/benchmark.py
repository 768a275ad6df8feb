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
import os

from benchmark_models import MODELS
from benchmark_tables import compare, growth, layers, layouts, quality, run

from tinyddpm import cli, dispatch

ON_GPU = (*(f"cupy-{p}" for p in dispatch.PRECISIONS), "torch-cuda-tf32", "torch-cuda-bf16", "torch-cuda-bf16-compiled")
SIDES, TASKS = ("numpy", "numba", "torch", *ON_GPU), ("train", "sample", "layers", "growth", "quality")


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
    args = parser.parse_args(argv)
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


if __name__ == "__main__":
    cli.program(main)
