"""The tables of benchmark.py, from turns that benchmark_turn.py makes."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmark_models import MODELS, flops

GROWTH = {"batch_size": (1 / 4, 1 / 2, 1, 2), "image_size": (1, 2), "base_channels": (1, 2)}        # as factors
TURN = Path(__file__).with_name("benchmark_turn.py")


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
    done = subprocess.run([sys.executable, TURN, json.dumps(what)], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=None if shown else subprocess.PIPE)
    if done.returncode:
        problem = (done.stderr or "").strip().splitlines() or ["see above" if shown else "no output"]
        raise ValueError(f"{what['side']} could not run: {problem[-1]}")
    return json.loads(done.stdout.splitlines()[-1])
