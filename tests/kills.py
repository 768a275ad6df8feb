"""kill -9 at random moments of a run, which then resumes: nothing may be lost. Run by hand; a minute for 30 kills.

    python tests/kills.py --count 200 [--backend numba] [--seed 1]

After each kill the checkpoint must load; a run that has ended must have the weights, metrics and pictures, bit for bit,
of one that nobody killed.
"""

import argparse
import csv
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tinyddpm.training import load_checkpoint

PROGRAM = Path(__file__).parent.parent / "examples" / "train_mnist.py"
FLAGS = ["--steps", "40", "--save-every", "3", "--sample-every", "15", "--batch-size", "4", "--base-channels", "8",
         "--groups", "4", "--T", "4"]


def start(folder, backend):
    new = [] if (folder / "checkpoint.safetensors").exists() else FLAGS
    return subprocess.Popen([sys.executable, PROGRAM, *(new or ["--resume"]), "--out", folder, "--backend", backend],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def left_behind(folder):
    """Everything that a run leaves, without its times."""
    checkpoint = load_checkpoint(folder / "checkpoint.safetensors")
    optimizer = checkpoint.optimizer
    with open(folder / "metrics.csv", newline="") as file:
        rows = [row[:4] for row in csv.reader(file)]
    return [checkpoint.steps_done, rows, *(a.tobytes() for a in (checkpoint.model.flat_values, optimizer.ema,
                                                                 optimizer.m,
                                                                 optimizer.v)),
            {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".png", ".gif")},
            [path.name for path in folder.iterdir() if path.suffix == ".part"]]


def main():
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--count", type=int, default=30)
    flags.add_argument("--backend", default="numpy")
    flags.add_argument("--seed", type=int, default=0)
    args = flags.parse_args()
    rng, killed, runs, lost = random.Random(args.seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as where:
        whole, began = Path(where) / "whole", time.monotonic()
        process = start(whole, args.backend)
        assert process.wait() == 0, process.stderr.read()
        seconds, expected = time.monotonic() - began, left_behind(whole)
        while killed < args.count:
            folder, runs = Path(where) / f"run{runs}", runs + 1
            while True:
                process = start(folder, args.backend)
                try:
                    error = process.communicate(timeout=rng.uniform(0.1, seconds))[1]
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                    killed += 1
                    if (folder / "checkpoint.safetensors").exists():
                        load_checkpoint(folder / "checkpoint.safetensors")
                    continue
                break
            problem = error.splitlines()[-1] if process.returncode else ("" if left_behind(folder) == expected
                                                                         else "other bits")
            lost += bool(problem)
            print(f"{killed} kills, {runs} runs that ended, {lost} lost {problem}", flush=True)
    return lost > 0


if __name__ == "__main__":
    sys.exit(main())
